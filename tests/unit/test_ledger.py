"""The ledger's items and the record: values, numbers, and what notifications may say."""

import json
from decimal import Decimal

import pytest

from ebb import accepted, explain, ledger, record, serving, serving_model, traffic
from ebb.record import RecordRequest
from ebb.requests.builds import COMPUTE_TYPE
from ebb.sources import Source
from ebb.spec import PipelineSpec
from worked_run import NOW, RUN_ID, load, moment


def test_values_survive_the_way_through_dynamodb():
    value = {"a": 0.1, "b": [1, 2.5], "c": {"d": "x", "e": True}}
    stored = ledger.to_item(value)
    assert stored["a"] == Decimal("0.1")
    assert ledger.from_item(stored) == value


def test_nothing_that_dynamodb_refuses_is_kept():
    assert ledger.to_item({"a": float("nan"), "b": None, "c": [float("inf"), 1], "d": moment(NOW)}) == {
        "c": [1],
        "d": "2026-11-23T09:30:05.120000Z",
    }


def test_a_long_list_is_cut_and_a_short_one_kept():
    report = {"features": [{"name": n} for n in range(1000)], "rows": {"read": 5}}
    assert len(ledger.condensed(report)["features"]) == ledger.LONGEST_LIST
    assert ledger.condensed(report)["rows"] == {"read": 5}


def test_stages_sort_in_the_order_in_which_they_run():
    keys = [ledger.stage_key("r", stage)["sk"] for stage in ("images", "process", "train", "compress", "compile")]
    assert keys == sorted(keys)
    assert keys == ["STAGE#0#images", "STAGE#1#process", "STAGE#2#train", "STAGE#3#compress", "STAGE#4#compile"]


def test_what_a_repeated_stage_used_before_stays_counted_once():
    first = {"attempt": 1, "status": "failed", "footprint": used(1.0)}
    second = ledger.stage_item("r", "train", {"attempt": 2, "status": "finished", "footprint": used(2.0)}, first)
    again = ledger.stage_item("r", "train", {"attempt": 2, "status": "finished", "footprint": used(2.0)}, second)
    assert second == again
    assert record.total_footprint([ledger.from_item(again)]).energy_kwh.value == 3.0


def used(kwh: float) -> dict:
    band = {"low": kwh, "value": kwh, "high": kwh}
    return {"energy_kwh": band, "carbon_g": band, "cost_usd": band}


def test_decisions_are_numbered_by_stage_so_that_a_repeat_writes_the_same_items():
    items = ledger.decision_items("r", "train", [{"what": "a"}, {"what": "b"}])
    assert [item["sk"] for item in items] == ["DECISION#300", "DECISION#301"]


# ---- The record ----


def told(name: str):
    return RecordRequest.validate_python(load(name))


def test_a_failed_job_is_told_in_its_own_words():
    error = record.what_went_wrong(told("record_run_failed"))
    assert error["type"] == "JobFailed"
    assert error["stage"] == "train"
    assert "no finite loss" in error["message"]


def test_a_processing_jobs_exit_message_comes_before_sagemakers_summary():
    cause = {"ProcessingJobName": "j", "FailureReason": "exit code 1", "ExitMessage": "the manifest names no file"}
    ended = load("record_run_failed") | {"stage": "process", "cause": json.dumps(cause)}
    assert record.what_went_wrong(RecordRequest.validate_python(ended))["message"] == "the manifest names no file"


def test_a_rejection_keeps_place_and_remedy():
    error = record.what_went_wrong(told("record_run_rejected"))
    assert (error["type"], error["code"], error["column"]) == ("DropRejectedError", "one-class", "target")
    assert error["remedy"]


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        pytest.param("States.Timeout", None, "States.Timeout", id="no cause"),
        pytest.param("States.Runtime", "bad expression", "bad expression", id="plain text"),
        pytest.param(
            "States.TaskFailed",
            json.dumps({"executionArn": "arn", "error": "EndpointFailed", "cause": "no capacity"}),
            "EndpointFailed: no capacity",
            id="the nested deployment",
        ),
        pytest.param(
            "NoAcceptableCandidateError",
            json.dumps({"errorMessage": "no candidate is acceptable", "errorType": "NoAcceptableCandidateError"}),
            "no candidate is acceptable",
            id="a function's own error",
        ),
    ],
)
def test_whatever_step_functions_says_ends_as_a_message(error, cause, message):
    ended = load("record_run_failed") | {"stage": "deploy", "error": error, "cause": cause}
    assert record.what_went_wrong(RecordRequest.validate_python(ended))["message"] == message


@pytest.mark.parametrize(
    "build",
    [
        pytest.param({"Phases": None, "Logs": None}, id="neither phases nor log"),
        pytest.param({"Phases": [{"PhaseType": "QUEUED", "Contexts": None}]}, id="a phase that says nothing"),
    ],
)
def test_a_build_that_fails_without_a_word_is_still_told(build):
    cause = json.dumps({"Build": {"Id": "ebb-images:1", "BuildStatus": "FAULT"} | build})
    ended = load("record_run_failed") | {"stage": "images", "error": "States.TaskFailed", "cause": cause}
    error = record.what_went_wrong(RecordRequest.validate_python(ended))
    assert error["type"] == "ImageBuildFailed"
    assert "no reason" in error["message"]


def test_builds_at_the_same_time_are_one_stage_that_costs_their_sum():
    def build(start_s: int, end_s: int) -> dict:
        at = 1795426200
        return {"StartTime": (at + start_s) * 1000, "EndTime": (at + end_s) * 1000, "ComputeType": COMPUTE_TYPE}

    def fields(*builds: dict) -> dict:
        return record.images_fields(builds, status="finished", attempt=1, region="us-east-1")

    both = fields(build(0, 90), build(5, 125))
    assert (both["duration_s"], both["billable_s"]) == (125.0, 240.0)
    assert both["footprint"]["cost_usd"]["value"] == pytest.approx(0.04)
    alone = [fields(build(0, 90)), fields(build(5, 125))]
    assert both["footprint"]["energy_kwh"]["value"] == pytest.approx(
        sum(each["footprint"]["energy_kwh"]["value"] for each in alone)
    )
    assert fields({})["footprint"] is None, "of a machine that nobody knows nothing is known"


@pytest.mark.parametrize("wrapped", [True, False], ids=["as .sync results are", "the build alone"])
def test_an_image_that_could_not_be_built_tells_the_command_and_the_log(wrapped):
    build = {
        "Id": "ebb-images:1",
        "BuildStatus": "FAILED",
        "Phases": [{"PhaseType": "SUBMITTED"}, {"PhaseType": "BUILD", "Contexts": [{"Message": "exit status 1"}]}],
        "Logs": {"GroupName": "/aws/codebuild/ebb-images", "StreamName": "1"},
    }
    cause = json.dumps({"Build": build} if wrapped else build)
    ended = load("record_run_failed") | {"stage": "images", "error": "States.TaskFailed", "cause": cause}
    error = record.what_went_wrong(RecordRequest.validate_python(ended))
    assert (error["type"], error["stage"]) == ("ImageBuildFailed", "images")
    assert error["message"] == "ebb-images:1 FAILED: exit status 1 (log /aws/codebuild/ebb-images 1)"


def test_a_notification_of_a_failure_does_not_quote_the_job():
    run = {"error": {"type": "JobFailed", "stage": "train", "message": "could not read 'Anna Smith, 42'"}}
    message = record.notification(RUN_ID, "cancer", "failed", run)
    assert "Anna" not in json.dumps(message)
    assert RUN_ID in message["message"]
    assert len(message["subject"]) <= 100


def test_a_notification_of_a_rejection_says_where_and_what_to_do():
    run = {"error": record.what_went_wrong(told("record_run_rejected"))}
    message = record.notification(RUN_ID, "cancer", "rejected", run)["message"]
    for part in ("rejected", "breast_cancer.csv", "column: target", "What to do: Drop rows"):
        assert part in message


def test_stage_fields_read_either_kind_of_job():
    asked = load("record_run_stage_finished")
    fields = record.stage_fields(
        asked["job"],
        {"cpu_seconds": 20.0, "duration_s": 40.0, "vcpu": 2, "decisions": [1], "rows": {"read": 9}},
        status="finished",
        attempt=1,
        region="us-east-1",
        identity="i",
    )
    assert fields["duration_s"] == fields["billable_s"] == 40.0
    assert fields["utilisation"] == 0.25
    assert fields["footprint"]["energy_kwh"]["value"] > 0
    assert "decisions" not in fields["report"]
    failed = record.job_in(load("record_run_failed")["cause"])
    fields = record.stage_fields(failed, {}, status="failed", attempt=1, region="us-east-1", identity=None)
    assert (fields["duration_s"], fields["billable_s"]) == (60.0, 20.0)
    assert fields["utilisation"] is None


SPARK = {
    "Id": "jr_1",
    "JobName": "ebb-cancer-process",
    "JobRunState": "SUCCEEDED",
    "StartedOn": 1795426260000,
    "CompletedOn": 1795427160000,
    "ExecutionTime": 600,
    "WorkerType": "G.2X",
    "NumberOfWorkers": 3,
    "GlueVersion": "5.1",
    "ExecutionClass": "FLEX",
}


@pytest.mark.parametrize(
    ("job", "hours", "usd"),
    [
        pytest.param(SPARK, 1.0, 0.29, id="six DPUs for ten minutes"),
        pytest.param(SPARK | {"DPUSeconds": 1800.0}, 0.5, 0.145, id="as Glue has counted them"),
        pytest.param(SPARK | {"ExecutionTime": 5}, 6 * 5 / 3600, 0.029, id="a minute at least is billed"),
    ],
)
def test_spark_is_counted_in_dpu_hours(job, hours, usd):
    fields = record.stage_fields(
        job, {"rows": {"read": 9}}, status="finished", attempt=1, region="us-east-1", identity="i"
    )
    assert fields["dpu_hours"] == pytest.approx(hours)
    assert fields["footprint"]["cost_usd"]["value"] == pytest.approx(usd)
    assert fields["footprint"]["energy_kwh"]["low"] < fields["footprint"]["energy_kwh"]["high"], "no load is reported"
    assert (fields["instance_type"], fields["job_run"]) == ("3 x G.2X of Glue 5.1, FLEX", "jr_1")
    assert fields["duration_s"] == job["ExecutionTime"]
    assert "cpu_seconds" not in fields


def test_spark_that_failed_is_told_in_its_own_words_and_counted():
    failed = json.dumps(SPARK | {"JobRunState": "FAILED", "ErrorMessage": "ValueError: no"})
    asked = told("record_run_failed").model_copy(update={"stage": "process", "cause": failed})
    assert record.what_went_wrong(asked)["message"] == "ValueError: no"
    fields = record.stage_fields(
        record.job_in(failed), {}, status="failed", attempt=1, region="us-east-1", identity=None
    )
    assert fields["footprint"]["cost_usd"]["value"] > 0


def test_the_chain_runs_from_the_drop_to_the_grams():
    run = {
        "status": "succeeded",
        "chosen": "student",
        "deployed": True,
        "endpoint_name": "ebb-cancer",
        "drop": load("identify_dataset")["drop"],
        "footprint": used(0.001),
        "stages": [{"stage": "train", "status": "finished", "instance_type": "ml.m5.large", "duration_s": 5.0}],
    }
    decisions = [
        {
            "stage": "select",
            "what": "candidate to ship",
            "chosen": "student",
            "reason": "it is lean",
            "alternatives": ["x"],
        },
        {"stage": "plan", "what": "instance for train", "chosen": "ml.m5.large", "reason": "least energy"},
    ]
    lines = explain.lines(run, decisions)
    order = [next(n for n, line in enumerate(lines) if part in line) for part in (
        "breast_cancer.csv", "instance for train", "train: finished", "candidate to ship", "ebb-cancer", "gCO2e", "pue",
    )]  # fmt: skip
    assert order == sorted(order)
    assert "not taken: x" in "\n".join(lines)


def test_what_was_skipped_is_told_once_by_the_last_stage_that_knows():
    skipped = [{"what": "compress", "reason": "train.py exported no model.onnx"}]
    stages = [{"stage": name, "status": "finished", "report": {"skipped": skipped}} for name in ("train", "compile")]
    lines = explain.lines({"status": "succeeded", "stages": stages}, [])
    assert [line for line in lines if "skipped" in line] == ["skipped: compress: train.py exported no model.onnx"]


def test_a_report_is_shortened_until_an_item_holds_it():
    report = {
        "rows": {"read": 9},
        "words": "x" * 3_000,
        "list": list(range(100)),
        "huge": [{str(n): "y" * 1_900 for n in range(64)} for _ in range(64)],
    }
    short = ledger.condensed(report)
    assert len(json.dumps(short)) < 200_000
    assert short["rows"] == {"read": 9}
    assert (len(short["words"]), len(short["list"])) == (ledger.LONGEST_TEXT, ledger.LONGEST_LIST)
    assert short["omitted"] == ["huge"]


def test_many_sources_are_noted_in_few_items_and_read_back_in_their_order():
    def source(n: int, digest: str = "0" * 64) -> Source:
        return Source(bucket="b", key=f"cancer/data/x/{n:04}.png", size_bytes=9, etag="e", sha256=digest)

    def items(requests: list[dict]) -> list[dict]:
        return [
            ledger.from_item(
                request["Key"] | {name[1:]: value for name, value in request["ExpressionAttributeValues"].items()}
            )
            for request in requests
        ]

    many = [source(n) for n in range(450)]
    first = accepted.notes("cancer", "run-1", 1, "append", many)
    assert [request["Key"]["sk"] for request in first] == [f"SOURCE#run-1#{n:04}" for n in range(3)]
    assert max(len(json.dumps(item, default=str)) for item in items(first)) < 300_000
    second = accepted.notes("cancer", "run-2", 2, "append", [source(7, "1" * 64)])
    held = accepted.base(items([*first, *second]), 2)
    assert len(held) == 450
    assert held[-1] == source(7, "1" * 64), "noted again, it counts where it came last"
    assert accepted.base(items([*first, *second]), 2)[:3] == many[:3]


@pytest.mark.parametrize("per_day", [None, 0, 3, 500, 10**7, 10**9])
@pytest.mark.parametrize("serve", [{}, {"availability": "high"}, {"p95_latency": 0.05, "max_payload_mb": 5}])
def test_why_shows_what_each_kind_of_serving_takes_within_a_hundred_columns(per_day, serve):
    choice = serving.choose(
        serve=PipelineSpec.model_validate({"serve": serve}).serve,
        model=serving_model.Model(memory_mib=4300, cpu_s=0.25, answer_s=0.3, slow_answer_s=0.4),
        traffic=traffic.expected(per_day),
        region="us-east-1",
    )
    decision = {"stage": "select", **choice.decision()}
    lines = explain.kinds(decision)
    assert max(map(len, lines)) + 4 <= 100, max(lines, key=len)
    told = "\n".join(explain.lines({"status": "running"}, [decision]))
    assert f"* {choice.kind}" in told
    for row in choice.rows:
        assert row.kind in told
        for each in row.excluded:
            assert f"no, {each.field}: " in told


def test_a_rejected_run_is_explained_with_its_place():
    run = {"status": "rejected", "error": record.what_went_wrong(told("record_run_rejected"))}
    assert "column target" in explain.lines(run, [])[-1]


@pytest.mark.parametrize(
    ("region", "domain"),
    [
        ("eu-north-1", "eu-north-1.console.aws.amazon.com"),
        ("cn-north-1", "cn-north-1.console.amazonaws.cn"),
        ("us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
    ],
)
def test_a_notification_leads_to_the_report_in_the_console_of_its_partition(region, domain):
    run = {"report_uri": "s3://artifacts/projects/cancer/runs/r 1/report.html"}
    message = record.notification(RUN_ID, "cancer", "succeeded", run, region=region)["message"]
    assert f"Report: ebb report {RUN_ID}\nhttps://{domain}/s3/object/artifacts?region={region}&prefix=" in message
    assert " " not in message.splitlines()[-1], "a mail program ends a link at a space"
