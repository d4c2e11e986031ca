"""What each recipe of the ladder took, as the ledger, `ebb show` and `ebb why` tell it."""

import pytest

from ebb import explain, rungs
from ebb.carbon import Band

REPORT = {
    "metric": "accuracy",
    "rung": "trees",
    "cpu_seconds": 20.0,
    "rungs": [
        {"name": "linear", "cpu_seconds": 2.0, "stopped_because": "a penalty weaker than C = 10 is no better"},
        {"name": "trees", "cpu_seconds": 8.0, "stopped_because": "no smaller loss for 50 rounds"},
    ],
}


def test_a_rung_takes_its_share_of_the_energy_by_its_cpu_time():
    told = rungs.with_energy(REPORT, Band(1e-5, 2e-5, 4e-5))["rungs"]
    assert [rung["energy_kwh"]["value"] for rung in told] == pytest.approx([2e-6, 8e-6])
    assert told[1]["energy_kwh"]["high"] == pytest.approx(1.6e-5)


@pytest.mark.parametrize("report", [{**REPORT, "rungs": []}, {**REPORT, "cpu_seconds": None}])
def test_without_rungs_or_cpu_time_nothing_is_said_of_energy(report):
    assert rungs.with_energy(report, Band.exact(1e-5)) == report


def test_an_instance_that_the_catalog_does_not_know_has_no_energy_to_share_out():
    assert rungs.with_energy(REPORT, None) == REPORT


def test_why_tells_what_each_recipe_took_and_which_was_taken():
    stage = {"stage": "train", "status": "finished", "report": rungs.with_energy(REPORT, Band.exact(2e-5))}
    tried = {step.title: step for step in explain._ladder({"stages": [stage]})}
    assert tried["fitting linear"].text == "ended because a penalty weaker than C = 10 is no better"
    assert tried["fitting trees (taken)"].numbers == {"CPU s": 8.0, "kWh": pytest.approx(8e-6)}


LEVER = {"name": "growing pictures", "gave": "36% fewer multiplications", "from": "counted in this run"}


def test_the_levers_are_those_of_the_recipe_that_was_taken():
    linear, trees = REPORT["rungs"]
    report = {**REPORT, "rungs": [{**linear, "levers": [{**LEVER, "name": "bf16"}]}, {**trees, "levers": [LEVER]}]}
    assert list(rungs.levers({"stages": [{"stage": "train", "report": report}]})) == [LEVER]


def test_a_run_of_an_earlier_version_tells_no_levers():
    assert not rungs.levers({"stages": [{"stage": "train", "report": REPORT}]})
    assert not rungs.levers({"stages": []})
