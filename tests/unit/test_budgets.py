"""Whether what a run may take fits a budget, how it is made smaller, and for what it may wait."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ebb import budget_items, budgets
from ebb.budgets import Account
from ebb.sizing import MIB, Data
from ebb.spec import PipelineSpec
from ebb.spec_budget import BudgetSpec

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
TABLE = Data(10 * MIB, "csv", task="tabular-classification")


def amounts(**given: float) -> dict[str, float]:
    return budgets.amounts(given)


def account(committed: float = 0, aside: float = 0, serving: float = 0, runs: int = 0) -> Account:
    sums = (amounts(carbon_g=each) for each in (committed, aside, serving))
    return Account("2026-11", *sums, under_way=tuple(f"run-{number}" for number in range(runs)))


def test_a_run_fits_while_taken_set_aside_and_served_leave_room_for_it():
    budget = BudgetSpec(carbon=500)
    found = account(committed=360, aside=40, serving=12, runs=1)
    (line,) = budgets.judge(budget, amounts(carbon_g=128), found)
    assert line.fits
    (line,) = budgets.judge(budget, amounts(carbon_g=128.5), found)
    assert not line.fits
    assert line.told() == (
        "500 g a month - 320 taken by runs - 40.0 set aside by 1 run under way - 12.0 taken by serving = 128 g left; "
        "this run may take 128 g, 0.500 g too much"
    )


def test_each_limited_quantity_must_fit_and_only_what_does_not_is_told_of():
    budget = BudgetSpec(carbon=500, cost=1)
    lines = budgets.judge(budget, amounts(carbon_g=1, energy_kwh=999, cost_usd=2), account())
    assert [line.fits for line in lines] == [True, False]
    assert not budgets.fits(lines)
    assert budgets.told(lines, only_short=True) == "1.00 USD a month; this run may take 2.00 USD, 1.00 USD too much"


def test_a_runs_own_budget_looks_at_no_other_run():
    (line,) = budgets.judge(BudgetSpec(carbon=5, per="run"), amounts(carbon_g=4), account(committed=10_000))
    assert line.fits
    assert line.told() == "5.00 g a run; this run may take 4.00 g"


def test_without_a_budget_nothing_is_judged():
    assert budgets.judge(None, amounts(carbon_g=1e9), account()) == []


@pytest.mark.parametrize(
    ("found", "until", "why"),
    [
        pytest.param(account(490, 480, runs=2), NOW + timedelta(minutes=30), "2 runs under way", id="for others"),
        pytest.param(account(490), datetime(2026, 12, 1, tzinfo=UTC), "the month turns", id="for the month"),
        pytest.param(account(490, 1, runs=1), datetime(2026, 12, 1, tzinfo=UTC), "turns", id="others hold too little"),
    ],
)
def test_a_run_waits_for_what_can_give_it_room(found, until, why):
    latest = datetime(2026, 12, 2, tzinfo=UTC)
    told = budgets.wait_until(BudgetSpec(carbon=500), amounts(carbon_g=100), found, now=NOW, latest=latest)
    assert told is not None
    assert told[0] == until
    assert why in told[1]


@pytest.mark.parametrize(
    ("budget", "wanted", "latest"),
    [
        pytest.param(BudgetSpec(carbon=500), 100, None, id="nobody said that it may"),
        pytest.param(BudgetSpec(carbon=500), 100, NOW + timedelta(days=2), id="the month turns too late"),
        pytest.param(BudgetSpec(carbon=500), 501, NOW + timedelta(days=14), id="no month holds it"),
        pytest.param(BudgetSpec(carbon=500, per="run"), 501, NOW + timedelta(days=14), id="its own budget never grows"),
    ],
)
def test_a_run_does_not_wait_for_what_does_not_come(budget, wanted, latest):
    assert budgets.wait_until(budget, amounts(carbon_g=wanted), account(490), now=NOW, latest=latest) is None


def test_smaller_recipes_leave_out_the_search_then_compression_then_the_dearest_rungs():
    spec = PipelineSpec.model_validate({"train": {"tune": True}})
    found = list(budgets.smaller(spec, TABLE))
    assert [said.rpartition(", ")[2] for said, _ in found] == [
        "no search over the recipe",
        "compress by quantize only",
        "recipes no dearer than small-net",
        "recipes no dearer than trees",
        "recipes no dearer than linear",
    ]
    smallest = budgets.changed(spec, found[-1][1])
    assert smallest is not None
    assert (smallest.train.tune, smallest.train.rungs) == (None, ("linear",))
    assert smallest.compress.methods == ("quantize",)
    assert smallest.compress.budget == timedelta(minutes=1)
    assert smallest.serve == spec.serve


def test_what_was_asked_for_already_is_not_asked_for_smaller():
    spec = PipelineSpec.model_validate({"train": {"rungs": ["linear"]}, "compress": {"methods": ["quantize"]}})
    assert list(budgets.smaller(spec, TABLE)) == []


def test_recipes_are_those_of_the_datas_kind():
    texts = replace(TABLE, task="text-classification")
    assert [changes["train"].get("rungs") for _, changes in budgets.smaller(PipelineSpec(), texts)] == [
        None,
        ["linear"],
    ]
    unknown = replace(TABLE, task=None)
    assert all("rungs" not in changes["train"] for _, changes in budgets.smaller(PipelineSpec(), unknown))


def test_an_encoder_goes_with_its_weights():
    spec = PipelineSpec.model_validate({"task": "text-classification", "train": {"pretrained": "s3://lake/encoder/"}})
    (_, first), *_ = [each for each in budgets.smaller(spec, TABLE) if "rungs" in each[1]["train"]]
    smaller = budgets.changed(spec, first)
    assert smaller is not None
    assert (smaller.train.pretrained, smaller.train.rungs) == (None, ("linear", "net"))


def test_several_machines_keep_a_network_to_train():
    spec = PipelineSpec.model_validate({"train": {"instances": 2}})
    assert [changes["train"].get("rungs") for _, changes in budgets.smaller(spec, TABLE)][-1] == [
        "linear", "trees", "small-net",
    ]  # fmt: skip


def test_nothing_of_a_script_is_left_out():
    spec = PipelineSpec.model_validate({"task": "custom"})
    assert list(budgets.smaller(spec, Data(MIB, "script"))) == []


def test_a_shrunk_run_is_measured_by_the_spec_that_it_ran_by():
    asked = PipelineSpec()
    plan = {"admission": {"changes": {"train": {"rungs": ["linear"]}, "compress": {}}}}
    assert budgets.as_run(asked.resolved(), plan).train.rungs == ("linear",)
    assert budgets.as_run(asked.resolved(), {}) == asked


@pytest.mark.parametrize(
    ("month", "turns"), [("2026-11", datetime(2026, 12, 1, tzinfo=UTC)), ("2026-12", datetime(2027, 1, 1, tzinfo=UTC))]
)
def test_a_month_turns_at_its_first_midnight_in_utc(month, turns):
    assert budgets.next_month(month) == turns
    assert budgets.month_of(turns - timedelta(seconds=1)) == month


def test_what_a_run_took_beyond_what_it_set_aside_is_committed_too():
    """The limit may be passed by what a prediction was short of; the next run finds less room by so much."""
    known = {"state": "open", "attempt": 1, "aside": amounts(carbon_g=10), "kept": {}, "before": {}}
    total, _ = budget_items.settle("p", "2026-11", "r", 1, known=known, took=amounts(carbon_g=14), now=NOW)
    assert total["Update"]["ExpressionAttributeValues"][":carbon_g"] == 4


def test_a_settled_run_and_a_newer_attempts_are_left_alone():
    for known in ({"state": "settled", "attempt": 1}, {"state": "open", "attempt": 2}):
        assert budget_items.settle("p", "2026-11", "r", 1, known=known, took=amounts(carbon_g=1), now=NOW) == []
