"""What would have changed a decision: the figure that is named is the one at which the decision really turns."""

from typing import Any

import pytest

from ebb import counterfactuals, engine, serving, training_rules
from ebb.sizing import Data
from ebb.spec import PipelineSpec
from unit import reported
from worked_run import built_plan


def decided(what: str) -> dict[str, Any]:
    """A decision of the recorded run."""
    return next(each for each in reported.digits()["decisions"] if each["what"] == what)


def told(decision: dict[str, Any]) -> str:
    return "; ".join(counterfactuals.of(decision))


def test_who_decides_may_say_it_better():
    assert counterfactuals.of({"what": "window", "would_change": ["a deadline after 18:00"]}) == (
        "a deadline after 18:00",
    )
    assert counterfactuals.of({"what": "window", "would_change": "one"}) == ("one",)


def test_of_what_nobody_knows_nothing_is_said():
    assert counterfactuals.of({"what": "something new", "chosen": "x", "reason": "y"}) == ()


def test_every_decision_of_a_plan_says_it():
    silent = [each["what"] for each in built_plan()["decisions"] if not counterfactuals.of(each)]
    assert silent == []


def test_an_instance_turns_at_the_noise_of_estimates():
    """ml.c5.xlarge takes 0.0446 Wh of ml.m5.large's 0.0483: within 10 %, so the cheaper one is taken."""
    words = told(decided("instance for process"))
    assert "ml.c5.xlarge, if ml.m5.large took above 1.1 times its energy: 0.0446 Wh against 0.0483 Wh now" in words
    assert "train.instance" not in words, "which names a machine for training only"
    assert "train.instance" in told(decided("instance for train"))


def test_a_leanest_instance_turns_where_another_is_leaner_beyond_noise():
    """0.2264 / 1.1 = 0.2058 Wh."""
    assert "ml.c5.xlarge, if it took less than 0.206 Wh" in told(decided("instance for compile"))


def test_the_engine_turns_at_the_size_that_is_named():
    spec, table = PipelineSpec(), Data(size_bytes=40 * 2**30, form="csv", compressed=False, task=None)
    small = engine.choose(spec, table)
    decision = {"what": "engine for process", "chosen": small.name, "numbers": small.numbers}
    limit = float(counterfactuals.of(decision)[0].split(" from ")[1].split(" GiB")[0].replace(",", ""))
    beyond = Data(size_bytes=int(1.3 * limit * 2**30), form="csv", compressed=False, task=None)
    assert small.name == engine.DUCKDB
    assert engine.choose(spec, beyond).name == engine.SPARK


def test_the_candidate_turns_with_the_floor_and_with_what_is_leaner():
    words = told(decided("candidate to ship"))
    assert "a floor beyond 0.9810 would refuse it: the floor is 0.9723" in words
    assert "a smaller compress.max_metric_drop by 0.0086" in words
    assert "less than 0.151 CPU-ms a prediction" in words
    assert "a looser compress.max_metric_drop lets pruned compete: accuracy 0.9701 is below the floor 0.9723" in words


def test_serverless_turns_at_the_requests_at_which_an_instance_takes_as_much():
    """2.387 kWh a month of an instance against 0.489 at 1,000 requests a day: about 4,900 a day."""
    assert "async from about 4,877 requests a day on" in told(decided("kind of serving"))


def test_a_rung_turns_where_its_gain_is_beyond_chance():
    assert "its lower bound is -0.0027 and must be above 0" in told(decided("rung net"))
    assert "a dearer recipe whose gain over it has a lower bound above 0" in told(decided("rung small-net"))


def test_reuse_turns_with_the_bytes_and_a_run_with_reuse():
    assert "then no job is started" in told({"what": "work", "chosen": "run"})
    assert "--force" in told({"what": "work", "chosen": "reuse"})


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (training_rules.PLATEAU, "train.stop.plateau"),
        (training_rules.TARGET, "train.stop.target"),
        (training_rules.BUDGET, "train.stop.budget"),
        (training_rules.DIVERGED, "train.stop.divergence"),
        (training_rules.LOSER, "train.stop.loser"),
    ],
)
def test_a_stopped_training_names_the_field_of_its_rule(rule, field):
    decision = training_rules.decision({"rule": rule, "reason": "", "numbers": {}})
    assert field in told(decision)


def test_the_margin_is_that_of_the_noise_that_the_choice_is_made_with():
    rows = [
        {"kind": "realtime", "month": {"energy_kwh": {"value": 2.0}}, "excluded": []},
        {"kind": "serverless", "month": {"energy_kwh": {"value": 9.0}}, "excluded": [{"field": "serve.p95_latency"}]},
        {"kind": "shared", "month": {"energy_kwh": {"value": 2.5}}, "excluded": []},
    ]
    decision = {"what": serving.DECISION, "chosen": "realtime", "numbers": {}, "table": rows}
    words = told(decision)
    assert f"shared, if it took less than {2.0 / (1 + serving.NOISE_SHARE):.2f} kWh a month: 2.50 now" in words
    assert "other values of serve.p95_latency, which exclude kinds" in words
