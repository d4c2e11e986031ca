"""Selection: the smallest model that is good enough, by measurement."""

import json

import pytest

from ebb import selection
from ebb.errors import NoAcceptableCandidateError
from ebb.selection import Measured
from ebb.spec import PipelineSpec
from ebb.spec_parts import CompressSpec
from ebb.spec_serve import ServeSpec
from worked_run import candidate, compile_report, measure

FLOOR_1_POINT = CompressSpec(max_metric_drop=0.01)


def select(*candidates: dict, **changes) -> selection.Selection:
    return selection.select(compile_report(*candidates, **changes), FLOOR_1_POINT, ServeSpec())


def of(name: str, chain=(), *, quality=0.97, p50=0.06, cpu=None, size=100_000, **more) -> dict:
    return candidate(
        name,
        chain,
        quality={"validation": quality, "test": quality},
        quality_interval={"low": quality - 0.02, "high": quality + 0.015},
        latency_ms={"p50": p50, "p99": p50 * 1.5},
        cpu_ms_per_prediction=p50 if cpu is None else cpu,
        size_bytes=size,
        **more,
    )


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param((), "student", id="the worked run: lean and within a point of the original"),
        pytest.param((of("original"), of("student", p50=0.01, quality=0.95)), "original", id="two points are too much"),
        pytest.param((of("original"), of("student", p50=0.01, quality=0.96)), "student", id="the floor itself holds"),
        pytest.param(
            (of("original"), of("student", p50=0.01, quality=0.97, drop_bound=0.06, validation_rows=27)),
            "original",
            id="equal on 27 rows is no proof",
        ),
        pytest.param(
            (of("original"), of("student", p50=0.01, quality=0.968, drop_bound=0.0061, validation_rows=1000)),
            "student",
            id="a loss bounded below the floor is",
        ),
        pytest.param(
            (of("student", p50=0.010), of("student-int8", ("quantize",), p50=0.012, cpu=0.001, size=1)),
            "student",
            id="a slower int8 loses, however small",
        ),
        pytest.param(
            (of("student", p50=0.0391, size=300), of("student-int8", ("quantize",), p50=0.0392, size=100)),
            "student-int8",
            id="one as fast but for noise wins by its size",
        ),
        pytest.param(
            (of("student", p50=0.010), of("student-int8", ("quantize",), p50=0.008, size=30_000)),
            "student-int8",
            id="a faster int8 wins",
        ),
        pytest.param(
            (of("student", p50=0.010), of("student-int8-dynamic", ("quantize",), p50=0.012, cpu=0.001, size=1)),
            "student",
            id="a slower dynamic int8 loses too",
        ),
        pytest.param(
            (
                of("student", ("distill",), p50=0.010),
                of("student-openvino", ("distill",), p50=0.020, runtime="openvino"),
                of("student-int8-openvino", ("distill", "quantize"), p50=0.014, cpu=0.005, runtime="openvino"),
            ),
            "student-int8-openvino",
            id="int8 is measured against full precision in its own runtime",
        ),
        pytest.param(
            (
                of("student", ("distill",), p50=0.030),
                of("student-openvino", ("distill",), p50=0.010, cpu=0.020, runtime="openvino"),
                of("student-int8-openvino", ("distill", "quantize"), p50=0.012, cpu=0.001, runtime="openvino"),
            ),
            "student-openvino",
            id="faster than another runtime is not fast enough",
        ),
        pytest.param(
            (of("original"), of("lean", ("prune",), p50=0.01, bundle=None)),
            "original",
            id="without a bundle there is nothing to deploy",
        ),
        pytest.param(
            (of("a", cpu=0.100, size=50_000, p50=0.01), of("b", cpu=0.102, size=20_000, p50=0.02)),
            "b",
            id="within the noise of energy the smaller one",
        ),
        pytest.param(
            (of("a", cpu=0.100, size=50_000, p50=0.01), of("b", cpu=0.200, size=20_000, p50=0.02)),
            "a",
            id="beyond the noise the leaner one",
        ),
        pytest.param(
            (of("original"), {"name": "student", "chain": [], "status": "failed", "reason": "export failed"}),
            "original",
            id="one that could not be measured does not compete",
        ),
    ],
)
def test_select(candidates, chosen):
    assert select(*candidates).name == chosen


@pytest.mark.parametrize(
    ("quality", "chosen"),
    [
        pytest.param(52.4, "student", id="an error may grow by the share"),
        pytest.param(52.6, "original", id="and no further"),
    ],
)
def test_errors_are_judged_relatively(quality, chosen):
    # rmse 50, max_metric_drop 0.05: the floor is 50 * 1.05 = 52.5
    report = compile_report(
        of("original", quality=50.0),
        of("student", quality=quality, p50=0.01),
        metric="rmse",
        original=measure(quality={"validation": 50.0, "test": 50.0}),
    )
    picked = selection.select(report, CompressSpec(max_metric_drop=0.05), ServeSpec())
    assert picked.floor == pytest.approx(52.5)
    assert picked.name == chosen


def test_a_latency_that_was_asked_for_is_a_condition():
    serve = PipelineSpec.model_validate({"serve": {"p95_latency": 0.00005}}).serve  # 0.05 ms
    picked = selection.select(
        compile_report(of("lean", p50=0.04, cpu=0.01), of("quick", p50=0.02)), FLOOR_1_POINT, serve
    )
    assert picked.name == "quick"
    assert "above the 0.05 ms asked for" in picked.verdicts["lean"]


def test_the_latency_asked_for_is_that_of_the_whole_answer():
    serve = PipelineSpec.model_validate({"serve": {"p95_latency": 0.001}}).serve  # 1 ms
    slow = of("lean", p50=0.01, end_to_end_latency_ms={"p50": 0.9, "p95": 1.1, "p99": 1.2})
    near = of("quick", p50=0.02, end_to_end_latency_ms={"p50": 0.8, "p95": 0.9, "p99": 1.3})
    picked = selection.select(compile_report(slow, near), FLOOR_1_POINT, serve)
    assert picked.name == "quick"
    assert "1.1 ms from row to answer is above the 1 ms asked for" in picked.verdicts["lean"]


@pytest.mark.parametrize(
    ("serve", "needed_mib", "chosen"),
    [
        pytest.param({"memory_mb": 1024}, 900, "quick", id="beyond what the spec gives"),
        pytest.param({}, 900, "lean", id="without a size asked for the endpoint grows"),
        pytest.param({}, 6000, "quick", id="beyond the largest serverless endpoint, and another fits"),
        pytest.param({"kind": "realtime"}, 6000, "lean", id="an instance holds more"),
        pytest.param({"kind": "async", "instance": "ml.c5.large"}, 6000, "quick", id="a small instance does not"),
        pytest.param({"availability": "high"}, 6000, "lean", id="it is served on instances anyway"),
    ],
)
def test_a_candidate_must_fit_its_endpoint(serve, needed_mib, chosen):
    serve = PipelineSpec.model_validate({"serve": serve}).serve
    report = compile_report(of("lean", p50=0.01, memory_mib=needed_mib), of("quick", p50=0.02))
    assert selection.select(report, FLOOR_1_POINT, serve).name == chosen


def test_when_no_candidate_fits_a_serverless_endpoint_an_instance_may_serve():
    serve = PipelineSpec().serve
    report = compile_report(of("lean", p50=0.01, memory_mib=9000))
    assert selection.select(report, FLOOR_1_POINT, serve).name == "lean"


def test_every_candidate_gets_a_reason_in_words():
    picked = select()
    assert set(picked.verdicts) == {"original", "original-int8", "student", "student-int8"}
    assert "slower than original, its full-precision form" in picked.verdicts["original-int8"]
    assert "below the floor 0.96" in picked.verdicts["student-int8"]
    assert picked.reasons[0].startswith("student takes the least energy")


def test_what_is_below_the_floor_is_measured_and_not_packed_and_says_so():
    low = of("low", p50=0.01, quality=0.9, status="below floor", bundle=None, reason="measured, not packed")
    del low["memory_mib"]
    unpacked = of("unpacked", p50=0.01, bundle=None, reason="BundleError")
    picked = select(of("original"), low, unpacked)
    assert picked.verdicts["low"] == "accuracy 0.9 is below the floor 0.96"
    assert picked.verdicts["unpacked"] == "has no bundle to deploy: BundleError"


def as_is(**changes) -> dict:
    only = {"name": "as-is", "chain": [], "status": "measured", "reason": "nothing was exported", "bundle": "b"}
    return {"as_is": True, "metric": None, "original": None, "candidates": [only | changes]}


def test_what_a_script_left_is_chosen_without_a_comparison():
    serve = PipelineSpec.model_validate({"serve": {"p95_latency": 0.05}}).serve
    picked = selection.select(as_is(memory_mib=None), FLOOR_1_POINT, serve)
    assert (picked.name, picked.measured, picked.floor) == ("as-is", None, None)
    assert "served without a comparison: nothing was exported" in picked.reasons[0]
    assert "serve.p95_latency is not known" in picked.reasons[0]


@pytest.mark.parametrize(
    ("report", "why"),
    [
        pytest.param(as_is(bundle=None, reason="inference.py does not load"), "does not load", id="without a bundle"),
        pytest.param(as_is(memory_mib=7e5), "700200 MiB", id="larger than any endpoint"),
    ],
)
def test_what_a_script_left_may_be_unfit_to_be_served(report, why):
    with pytest.raises(NoAcceptableCandidateError, match=why):
        selection.select(report, FLOOR_1_POINT, ServeSpec())


@pytest.mark.parametrize(
    ("served", "force", "deploys", "reason"),
    [
        pytest.param(None, False, True, "no model is served yet", id="the first"),
        pytest.param({"run_id": "r"}, False, True, "no evaluation either", id="one unmeasured model after another"),
        pytest.param(
            {"run_id": "r", "metric": "f1", "quality": {"validation": 0.9}},
            False,
            False,
            "f1 0.9",
            id="a measured one stays",
        ),
        pytest.param(
            {"run_id": "r", "metric": "f1", "quality": {"validation": 0.9}},
            True,
            True,
            "forced",
            id="unless it was forced",
        ),
    ],
)
def test_an_unmeasured_model_and_the_one_that_is_served(served, force, deploys, reason):
    verdict = selection.against_champion(None, None, measured=None, served=served, force=force)
    assert verdict.deploy is deploys
    assert reason in verdict.reason


def test_a_measured_model_takes_the_place_of_an_unmeasured_one():
    verdict = selection.against_champion(NEW, "accuracy", measured=None, served={"run_id": "r"})
    assert verdict.deploy
    assert "has no evaluation" in verdict.reason


WORDY = [
    {"name": f"student-{n}", "chain": ["distill"], "status": "failed", "reason": "é" * 2_000, "fallback": "é" * 2_000}
    for n in range(24)
]


def test_many_wordy_failures_travel_in_one_state_of_step_functions():
    """It carries 256 KiB, and the plan and the requests want room too."""
    report = compile_report(of("original"), *WORDY)
    picked = selection.select(report, FLOOR_1_POINT, ServeSpec())
    told = selection.told(report, picked)
    answer = json.dumps([picked.reasons, told, selection.decisions(picked, "accuracy", selection.Verdict(True, ""))])
    assert len(answer) < 120_000
    assert [each["name"] for each in told] == [each["name"] for each in report["candidates"]]
    assert all(each["verdict"].startswith("not measured: é") for each in told[1:])
    assert told[0]["quality"]


def test_candidates_with_more_numbers_than_fit_are_told_by_what_counts():
    huge = {f"layer-{n}": n for n in range(1_000)}
    report = compile_report(of("original"), *(each | {"layers": huge} for each in WORDY))
    told = selection.told(report, selection.select(report, FLOOR_1_POINT, ServeSpec()))
    assert len(json.dumps(told)) < 60_000
    assert "layers" not in told[1]
    assert told[1]["reason"].startswith("é")


def test_an_error_with_many_reasons_stays_short():
    with pytest.raises(NoAcceptableCandidateError) as caught:
        select(*WORDY)
    assert len(str(caught.value)) < 30_000
    assert "student-23: not measured" in str(caught.value)


def test_when_nothing_is_acceptable_every_reason_is_told():
    with pytest.raises(NoAcceptableCandidateError, match=r"a: accuracy 0\.5 is below .*b: not measured: export failed"):
        select(of("a", quality=0.5), {"name": "b", "chain": [], "status": "failed", "reason": "export failed"})


NEW = Measured.of(of("student", quality=0.95))  # interval 0.93 to 0.965


@pytest.mark.parametrize(
    ("measured", "served", "deploys", "reason"),
    [
        pytest.param(None, None, True, "no model is served yet", id="the first model"),
        pytest.param(
            {"run_id": "r", "quality": {"validation": 0.90}},
            {"run_id": "r"},
            True,
            "not worse",
            id="a better one replaces",
        ),
        pytest.param(
            {"run_id": "r", "quality": {"validation": 0.96}},
            {"run_id": "r"},
            True,
            "not worse",
            id="equal but for chance replaces",
        ),
        pytest.param(
            {"run_id": "r", "quality": {"validation": 0.97}},
            {"run_id": "r"},
            False,
            "is better",
            id="a worse one never does",
        ),
        pytest.param(
            None,
            {"run_id": "r", "metric": "accuracy", "quality": {"validation": 0.99}},
            False,
            "could not be measured here",
            id="unmeasured, its own record speaks for it",
        ),
        pytest.param(
            {"run_id": "r", "quality": None, "comparable": False, "reason": "the served model knows other classes"},
            {"run_id": "r", "metric": "accuracy", "quality": {"validation": 0.99}},
            True,
            "knows other classes",
            id="one that fits this data no longer is replaced",
        ),
        pytest.param(
            {"run_id": "r", "quality": {"validation": 0.90}},
            {"run_id": "newer", "metric": "accuracy", "quality": {"validation": 0.99}},
            False,
            "(run newer) is better",
            id="one that was deployed meanwhile is not the one that was measured",
        ),
        pytest.param(
            None,
            {"run_id": "r", "metric": "f1_macro", "quality": {"validation": 0.99}},
            True,
            "other questions",
            id="another metric is another question",
        ),
    ],
)
def test_a_worse_model_never_replaces_a_better_one(measured, served, deploys, reason):
    verdict = selection.against_champion(NEW, "accuracy", measured=measured, served=served)
    assert verdict.deploy is deploys
    assert reason in verdict.reason


def test_a_champion_with_a_smaller_error_stays():
    new = Measured.of(of("student", quality=50.0))  # interval 49.98 to 50.015
    verdict = selection.against_champion(
        new, "rmse", measured={"run_id": "r", "quality": {"validation": 45.0}}, served={"run_id": "r"}
    )
    assert not verdict.deploy


@pytest.mark.parametrize(
    ("rounds", "chosen"),
    [
        pytest.param([0.80, 0.82, 0.79, 0.81, 0.80, 0.80], "large", id="a fifth less in every round is an advantage"),
        pytest.param([0.70, 1.30, 0.60, 1.20, 0.80, 0.90], "small", id="a tenth less between rounds that differ more"),
        pytest.param(
            [0.97, 0.97, 0.96, 0.97, 0.97, 0.97], "small", id="3 % less in every round are noise all the same"
        ),
    ],
)
def test_an_advantage_must_exceed_the_spread_of_the_rounds(rounds, chosen):
    """The larger network's CPU time as a share of the smaller one's, round by round; ties go to the smaller."""
    small = of("small", cpu=1.0, size=100, rounds={"cpu_ms": [1.0] * 6})
    large = of("large", quality=0.975, cpu=sorted(rounds)[3], size=200, rounds={"cpu_ms": rounds})
    assert select(of("original", cpu=9.0), small, large).name == chosen
