"""Retraining: each outcome, on what it is judged and what would have changed it."""

from dataclasses import replace

import pytest

from ebb import retraining
from ebb.carbon import Band
from ebb.footprint import Footprint
from ebb.retraining import Evidence, Price


def price(carbon_g):
    return Price(
        Footprint(Band.within(carbon_g / 400, 0.5), Band.within(carbon_g, 0.5), Band.exact(0.1)),
        "ml.m5.large: measured in the last run",
    )


def gain(value, chance=0.01):
    return {"low": value - chance, "value": value, "high": value + chance}


def labels(**changed):
    return {
        "rows": 1000,
        "unreadable": 0,
        "unknown": 0,
        "unknown_classes": [],
        "metric": "accuracy",
        "quality": {"value": 0.82, "low": 0.80, "high": 0.84},
        "quality_then": {"validation": 0.91, "test": 0.89},
        "loss": gain(0.08, 0.03),
        "gains": {"recalibrated": gain(0.0), "learned": gain(0.06)},
    } | changed


def drift(**features):
    found = {
        name: {"psi": psi, "why": f"PSI {psi:.2f}", "moved": psi > 0.2, "new": new}
        for name, (psi, new) in features.items()
    }
    return {
        "samples": 500,
        "of": "requests",
        "threshold": 0.2,
        "features": found,
        "moved": [name for name, each in found.items() if each["moved"]],
        "answers_moved": False,
    }


STILL = drift(age=(0.01, 0.0))
MOVED = drift(age=(0.61, 0.0), city=(0.02, 0.0))


def evidence(found=None, **changed):
    found = {"drift": MOVED, "implied": None, "labels": labels(), "warm": None, "why": {}} | (found or {})
    return Evidence(
        found,
        **{
            "new_rows": True,
            "prices": {"incremental": price(10), "full": price(40)},
            "calls_per_day": 1000,
            "calls_basis": "measured",
            "held_days": 30,
            "worth_g": 1.0,
            "classes": 2,
            **changed,
        },
    )


@pytest.mark.parametrize(
    ("seen", "outcome", "said"),
    [
        pytest.param(evidence({"labels": None}, new_rows=False), "skip", "no row was labelled", id="drift, no labels"),
        pytest.param(evidence(), "incremental", "from the weights", id="a loss that can be learned"),
        pytest.param(evidence({"warm": "the columns differ"}), "full", "the columns differ", id="no start"),
        pytest.param(
            evidence({"labels": labels(loss=gain(0.3))}), "full", "better than guessing", id="most of it is lost"
        ),
        pytest.param(
            evidence({"drift": drift(city=(0.9, 0.4))}), "full", "does not tell apart", id="categories it cannot see"
        ),
        pytest.param(
            evidence({"labels": labels(unknown=40, unknown_classes=["blue"])}), "full", "blue", id="a new class"
        ),
        pytest.param(
            evidence({"labels": labels(unknown=9, unknown_classes=["blue"])}),
            "incremental",
            "learning",
            id="nine rows of a new class are slips",
        ),
        pytest.param(
            evidence({"labels": labels(gains={"recalibrated": gain(0.0), "learned": gain(0.005)})}),
            "skip",
            "harder, not different",
            id="a loss that nothing explains",
        ),
        pytest.param(
            evidence(
                {"labels": labels(loss=gain(0.01, 0.03), gains={"recalibrated": gain(0.0), "learned": gain(0.005)})}
            ),
            "skip",
            "within chance",
            id="drift that costs nothing",
        ),
        pytest.param(
            evidence({"labels": labels(gains={"recalibrated": gain(0.055), "learned": gain(0.06)})}),
            "recalibrate",
            "without any training",
            id="a shift of the answers alone",
        ),
        pytest.param(evidence(calls_per_day=0.1), "skip", "retrain.worth", id="too dear for who asks"),
        pytest.param(evidence(calls_per_day=0), "skip", "nobody asks", id="nobody asks"),
        pytest.param(
            evidence({"labels": labels(gains={"recalibrated": gain(0.02), "learned": gain(0.06)})}, calls_per_day=0.1),
            "recalibrate",
            "without any training",
            id="too dear to learn, not to calibrate",
        ),
        pytest.param(
            evidence({"labels": labels(rows=40, gains={"recalibrated": None, "learned": None})}),
            "skip",
            "too few",
            id="forty rows",
        ),
    ],
)
def test_the_outcome_and_its_reason(seen, outcome, said):
    decided = retraining.decide(seen)
    assert decided.outcome == outcome, decided.reason
    assert said in decided.reason
    assert decided.changes


def test_a_training_is_weighed_by_the_answers_it_mends():
    """40 g for 0.06 more right answers of a thousand a day over thirty days: 1,800 answers, 0.022 g each."""
    decided = retraining.decide(evidence({"warm": "no"}))
    assert decided.numbers["answers_mended"] == 1800
    assert decided.numbers["carbon_g_per_answer"] == pytest.approx(40 / 1800)


def test_worth_is_the_dividing_line():
    dear = evidence({"warm": "no"}, worth_g=40 / 1800 * 0.99)
    assert retraining.decide(dear).outcome == "skip"
    assert retraining.decide(replace(dear, worth_g=40 / 1800 * 1.01)).outcome == "full"


def test_what_moved_is_named_in_the_reason():
    assert "age (PSI 0.61)" in retraining.decide(evidence()).reason
    assert "no feature moved" in retraining.decide(evidence({"drift": STILL})).reason


@pytest.mark.parametrize(("held", "days"), [(None, 30), (1, 7), (45, 45), (400, 90)])
def test_the_next_model_is_expected_to_hold_as_long_as_the_one_before(held, days):
    assert retraining.holds_days(held) == days
