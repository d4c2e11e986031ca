"""Plan, record, select and end: one run through the ledger, as the state machine would take it."""

import json

import pytest

import on_run_ended
import plan_deployment
import plan_pipeline
import record_run
import select_candidate
from ebb import catalog, ledger, names, record
from ebb.aws.ledger import Ledger
from ebb.errors import (
    AttemptOutdatedError,
    DropRejectedError,
    ImageMissingError,
    NoAcceptableCandidateError,
    ReportMissingError,
)
from ebb.events import RunRequested
from ebb.report import page
from ebb.spec import PipelineSpec
from worked_run import (
    ACCOUNT,
    DROP,
    EXECUTION_ARN,
    IDENTITY,
    LEDGER,
    NOW,
    RUN_ID,
    SOURCE,
    candidate,
    compile_report,
    load,
    moment,
)


@pytest.fixture
def book(account) -> Ledger:
    """A ledger in which the worked run has been identified."""
    book = Ledger(LEDGER)
    asked = RunRequested.model_validate({"run_id": RUN_ID, "attempt": 1, "project": "cancer", "drop": DROP})
    assert book.apply(ledger.open_run(asked, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    found = {
        "identity": IDENTITY,
        "spec": PipelineSpec().resolved(),
        "sources": [SOURCE.model_dump(mode="json")],
        "format": "csv",
    }
    assert book.apply(ledger.change_run(RUN_ID, 1, found))
    return book


def finish(account, context, stage: str, report: dict, *, attempt: int = 1) -> None:
    """Record a stage as the state machine does after its job."""
    asked = load("record_run_stage_finished") | {"stage": stage, "attempt": attempt}
    asked["report_uri"] = load("plan_pipeline")["identified"]["manifest_uri"].replace("manifest", f"a{attempt}-{stage}")
    account.put_report(asked["report_uri"], report)
    record_run.handler(asked, context)


REPORT = {
    "cpu_seconds": 20.0,
    "duration_s": 40.0,
    "vcpu": 2,
    "decisions": [{"what": "target", "chosen": "target", "reason": "the column is called so"}],
}


def test_planning_takes_a_generation_once_and_keeps_the_reasons(account, book, context):
    asked = load("plan_pipeline")
    first, again = plan_pipeline.handler(asked, context), plan_pipeline.handler(asked, context)
    assert first == again
    assert first["generation"] == 1
    assert account.item("PROJECT#cancer", "PROJECT")["generation"] == 1
    whats = [decision["what"] for decision in book.story(RUN_ID).decisions]
    assert whats[0] == "instance for process"
    assert book.run(RUN_ID)["versions"]["jobs"] == "5c1d9e7f30ab42d6"


@pytest.mark.parametrize("kind", ["jobs", "serve"])
def test_an_image_that_is_missing_is_built_before_any_machine_starts(account, book, context, monkeypatch, kind):
    uri = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/ebb/{kind}:never"
    monkeypatch.setenv(f"{kind.upper()}_IMAGE_URI", uri)
    plan = plan_pipeline.handler(load("plan_pipeline"), context)
    assert [request["ProjectName"] for request in plan["images"]] == ["ebb-images"]
    assert uri.rpartition("/")[2] in json.dumps(book.story(RUN_ID).decisions, default=str)


@pytest.mark.parametrize("kind", ["jobs", "serve"])
def test_a_ready_image_that_nobody_pushed_fails_before_any_machine_starts(account, book, context, monkeypatch, kind):
    uri = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/ebb/{kind}:never"
    monkeypatch.setenv(f"{kind.upper()}_IMAGE_URI", uri)
    monkeypatch.delenv(f"{kind.upper()}_CONTEXT_URI")
    with pytest.raises(ImageMissingError, match=uri):
        plan_pipeline.handler(load("plan_pipeline"), context)


@pytest.mark.parametrize("uri", ["public.ecr.aws/x/jobs:1", "999999999999.dkr.ecr.us-east-1.amazonaws.com/a/jobs:1"])
def test_an_image_of_somebody_else_is_not_looked_into(account, book, context, monkeypatch, uri):
    monkeypatch.setenv("JOBS_IMAGE_URI", uri)
    plan = plan_pipeline.handler(load("plan_pipeline"), context)
    assert plan["process"]["request"]["AppSpecification"]["ImageUri"] == uri


def test_planning_skips_what_finished_with_the_same_identity(account, book, context):
    finish(account, context, "process", REPORT | {"status": "accepted"})
    book.apply(ledger.end_run(RUN_ID, 1, "cancer", "failed", now=moment(NOW), fields={}))
    asked = RunRequested.model_validate({"run_id": RUN_ID, "attempt": 2, "project": "cancer", "drop": DROP})
    book.apply(ledger.open_run(asked, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    plan = plan_pipeline.handler(load("plan_pipeline") | {"attempt": 2}, context)
    assert [plan[stage]["needed"] for stage in names.STAGES] == [False, True, True, True]
    asked = load("plan_pipeline") | {"attempt": 2}
    asked["identified"]["identity"] = "0" * 64  # other bytes, spec or job code
    assert plan_pipeline.handler(asked, context)["process"]["needed"] is True


def test_a_finished_stage_leaves_its_seconds_grams_and_decisions(account, book, context):
    report = REPORT | {
        "status": "accepted",
        "task": "tabular-classification",
        "target": "target",
        "rows": {"read": 569},
    }
    finish(account, context, "process", report)
    stage = book.stage(RUN_ID, "process")
    assert stage["status"] == "finished"
    assert stage["duration_s"] == 40
    assert stage["footprint"]["carbon_g"]["value"] > 0
    assert book.run(RUN_ID)["task"] == "tabular-classification"
    assert book.story(RUN_ID).decisions[0]["what"] == "target"


def test_what_building_images_took_is_a_stage_of_the_run_that_needed_them(account, book, context):
    assert record_run.handler(load("record_run_images_built"), context) == {}
    finish(account, context, "process", REPORT | {"status": "accepted"})
    stages = book.story(RUN_ID).stages
    assert [stage["stage"] for stage in stages] == ["images", "process"]
    assert (stages[0]["duration_s"], stages[0]["instance_type"]) == (145, "BUILD_GENERAL1_MEDIUM")
    record_run.handler(load("record_run_failed"), context)
    spent = [stage["footprint"]["cost_usd"]["value"] for stage in book.story(RUN_ID).stages]
    assert len(spent) == 3
    assert book.run(RUN_ID)["footprint"]["cost_usd"]["value"] == pytest.approx(sum(spent))
    assert stages[0]["footprint"]["cost_usd"]["value"] == pytest.approx(0.03)


def test_a_build_that_failed_is_paid_for_all_the_same(account, book, context):
    build = {
        "Id": "ebb-images:1",
        "BuildStatus": "FAILED",
        "StartTime": 1795426210000,
        "EndTime": 1795426220000,
        "Environment": {"ComputeType": "BUILD_GENERAL1_MEDIUM"},
    }
    cause = json.dumps({"Build": build})
    record_run.handler(load("record_run_failed") | {"stage": "images", "cause": cause}, context)
    (stage,) = book.story(RUN_ID).stages
    assert (stage["stage"], stage["status"]) == ("images", "failed")
    assert book.run(RUN_ID)["footprint"]["cost_usd"]["value"] == pytest.approx(0.01)


def test_a_full_scan_that_refuses_the_data_raises_a_rejection(account, book, context):
    rejection = {"code": "one-class", "message": "one class only", "remedy": "Drop two.", "column": "target"}
    with pytest.raises(DropRejectedError) as caught:
        finish(account, context, "process", REPORT | {"status": "rejected", "rejection": rejection})
    assert caught.value.rejection.code == "one-class"
    assert book.stage(RUN_ID, "process")["status"] == "rejected"


def test_a_job_without_a_report_is_an_error(account, book, context):
    with pytest.raises(ReportMissingError):
        record_run.handler(load("record_run_stage_finished"), context)


def selected(account, context, report: dict) -> dict:
    task = "custom" if report.get("as_is") else "tabular-classification"
    Ledger(LEDGER).apply(ledger.change_run(RUN_ID, 1, {"task": task}))  # as `process` found it
    asked = load("select_candidate")
    account.put_report(asked["plan"]["artifacts"]["compile_report"], report)
    return select_candidate.handler(asked, context)


def test_selecting_answers_with_the_requests_and_keeps_the_reasons(account, book, context):
    answer = selected(account, context, compile_report())
    assert answer["chosen"] == "student"
    assert answer["deploy"]["model"]["bundle_uri"].endswith("student/model.tar.gz")
    assert answer["deploy"]["kind"] == "serverless"
    (kind,) = [each for each in book.story(RUN_ID).decisions if each["what"] == "kind of serving"]
    assert {row["kind"] for row in kind["table"]} == {"serverless", "async", "realtime", "shared", "batch"}
    assert answer["comparison"]["shipped"]["size_bytes"] == 20_000
    assert len(json.dumps(answer)) < 60_000
    assert "candidate to ship" in [each["what"] for each in book.story(RUN_ID).decisions]


def test_a_worse_model_is_registered_and_not_deployed(account, book, context):
    served = {"run_id": "older", "metric": "accuracy", "quality": {"validation": 0.999, "test": 0.999}}
    book.apply(ledger.remember_served("cancer", 1, served))
    report = compile_report(champion={"run_id": "older", "quality": {"validation": 0.999, "test": 0.999}})
    answer = selected(account, context, report)
    assert answer["deploy"] is None
    assert "is better" in answer["deploy_reason"]
    assert answer["package"]["ModelPackageGroupName"] == "ebb-cancer"


def test_nothing_acceptable_is_an_error_by_name(account, book, context):
    bad = candidate("original", (), quality={"validation": 0.5, "test": 0.5})
    with pytest.raises(NoAcceptableCandidateError):
        selected(account, context, compile_report(bad))


AS_IS = {
    "name": "as-is",
    "chain": [],
    "status": "measured",
    "reason": "train.py exported no model.onnx",
    "image": "jobs",
    "quality": None,
    "memory_mib": 900.0,
    "size_bytes": 52_000,
    "bundle": "as-is/model.tar.gz",
    "bundle_bytes": 30_000,
    "sha256": "0" * 64,
}
LEFT_AS_IS = {
    "stage": "compile",
    "as_is": True,
    "metric": None,
    "original": None,
    "candidates": [AS_IS],
    "skipped": [{"what": "compress", "reason": "train.py exported no model.onnx"}],
}


def test_what_a_script_left_is_deployed_as_it_is_on_the_image_it_was_trained_on(account, book, context):
    answer = selected(account, context, LEFT_AS_IS)
    assert (answer["chosen"], answer["metric"], answer["comparison"]) == ("as-is", None, None)
    planned = plan_deployment.handler(answer["deploy"] | {"execution": f"{RUN_ID}-a1", "now": NOW}, context)
    for container in (
        planned["model"]["PrimaryContainer"],
        answer["package"]["InferenceSpecification"]["Containers"][0],
    ):
        assert "/ebb/jobs:" in container["Image"]
    config = planned["endpoint"]["create_config"]["ProductionVariants"][0]["ServerlessConfig"]
    assert config["MemorySizeInMB"] == 2048, "twice of what loading took, and room for requests"
    decisions = {each["what"]: each for each in book.story(RUN_ID).decisions}
    assert "loading took 900 MiB" in decisions["memory of the endpoint"]["reason"]
    assert decisions["limit of the latency alarm"]["chosen"] == "10 s"
    told = load("record_run_succeeded") | {"selection": answer}
    record_run.handler(told, context)
    run = book.run(RUN_ID)
    assert (run["status"], run["chosen"], run.get("comparison")) == ("succeeded", "as-is", None)
    served = book.project("cancer")["served"]
    assert (served["candidate"], served.get("quality")) == ("as-is", None)


def test_nothing_is_measured_against_a_model_that_is_served_as_it_is(account, book, context):
    book.apply(ledger.remember_served("cancer", 1, {"run_id": "older", "candidate": "as-is", "bundle_uri": "s3://b/x"}))
    inputs = plan_pipeline.handler(load("plan_pipeline"), context)["compile"]["request"]["ProcessingInputs"]
    assert "champion" not in [each["InputName"] for each in inputs]


def test_an_unmeasured_model_takes_the_place_of_a_measured_one_only_by_force(account, book, context):
    book.apply(ledger.remember_served("cancer", 1, {"run_id": "older", "metric": "f1", "quality": {"validation": 0.9}}))
    answer = selected(account, context, LEFT_AS_IS)
    assert answer["deploy"] is None
    assert "ebb drop --force" in answer["deploy_reason"]
    book.apply(ledger.change_run(RUN_ID, 1, {"force": True}))
    assert selected(account, context, LEFT_AS_IS)["deploy"] is not None


def test_an_answer_stays_small_enough_for_step_functions(account, book, context):
    failed = {"name": "x-openvino", "chain": ["prune"], "status": "failed", "reason": "Traceback " * 9_000}
    many = [candidate(f"pruned-{n}", ("prune", "compile"), fallback="y" * 900) for n in range(20)]
    answer = selected(account, context, compile_report(candidate("original", ("compile",)), *many, failed))
    assert len(json.dumps(answer)) < 100_000
    assert answer["candidates"][-1]["reason"].endswith("...")


def test_a_success_is_recorded_once_and_found_by_its_identity(account, book, context):
    finish(account, context, "process", REPORT | {"status": "accepted"})
    first = record_run.handler(load("record_run_succeeded"), context)
    assert record_run.handler(load("record_run_succeeded"), context) == first, "a retry says the same"
    run = book.run(RUN_ID)
    assert run["status"] == "succeeded"
    assert (run["chosen"], run["endpoint_name"], run["deployed"]) == ("student", "ebb-cancer", True)
    assert book.successful_run(IDENTITY) == RUN_ID
    project = book.project("cancer")
    assert project["served"]["candidate"] == "student"
    assert "succeeded" in first["message"]
    told = account.json(run["record_uri"])
    assert told["status"] == "succeeded"
    assert told["stages"][0]["duration_s"] == 40
    assert told["footprint"] == run["footprint"]
    assert told["comparison"]["times_less"]["size"] == 6
    assert {"decisions", "coefficients", "versions", "candidates", "sources"} <= set(told)


def test_a_run_that_its_budget_made_smaller_is_not_found_as_the_same_work(account, book, context):
    finish(account, context, "process", REPORT | {"status": "accepted"})
    asked = load("record_run_succeeded")
    changes = {"train": {"rungs": ["linear"]}, "compress": {"methods": ["quantize"], "budget": 60}}
    asked["plan"]["admission"] = {"outcome": "shrink", "changes": changes}
    record_run.handler(asked, context)
    assert book.successful_run(IDENTITY) is None


OVERSIZED = REPORT | {"status": "accepted", "cpu_seconds": 30.0, "duration_s": 45.0, "vcpu": 8, "peak_rss_mib": 900.0}


def test_from_the_second_run_on_the_last_ones_use_chooses_and_the_next_costs_less(account, book, context):
    asked = load("record_run_stage_finished")
    large = asked["job"]["ProcessingResources"]["ClusterConfig"] | {"InstanceType": "ml.m5.2xlarge"}
    job = asked["job"] | {"ProcessingResources": {"ClusterConfig": large}}
    account.put_report(asked["report_uri"], OVERSIZED)
    record_run.handler(asked | {"job": job}, context)
    record_run.handler(load("record_run_succeeded"), context)
    assert book.project("cancer")["measured"]["process"]["instance_type"] == "ml.m5.2xlarge"

    second = RUN_ID.replace("093000", "103000")
    again = RunRequested.model_validate({"run_id": second, "attempt": 1, "project": "cancer", "drop": DROP})
    book.apply(ledger.open_run(again, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    plan = plan_pipeline.handler(load("plan_pipeline") | {"run_id": second}, context)
    told = {each["what"]: each for each in book.story(second).decisions}
    assert told["last process was oversized"]["reason"] == "peak memory 0.9 of 32 GiB, CPU 8% of 8 vCPU"
    assert told["last process was oversized"]["numbers"]["saves_usd"] > 0
    assert RUN_ID in told["instance for process"]["reason"]
    taken = plan["process"]["request"]["ProcessingResources"]["ClusterConfig"]["InstanceType"]
    assert catalog.instance(taken).price_usd_per_hour.value < catalog.instance("ml.m5.2xlarge").price_usd_per_hour.value


def test_an_older_run_is_not_remembered_as_the_last(account, book, context):
    book.apply(ledger.remember_measured("cancer", 9, {"train": {"run_id": "newer"}}))
    assert not book.apply(ledger.remember_measured("cancer", 8, {"train": {"run_id": "older"}}))
    assert book.project("cancer")["measured"]["train"]["run_id"] == "newer"


def test_an_older_run_does_not_take_the_place_of_a_newer_one(account, book, context):
    book.apply(ledger.remember_served("cancer", 9, {"run_id": "newer"}))
    record_run.handler(load("record_run_succeeded"), context)  # generation 3
    assert book.project("cancer")["served"] == {"run_id": "newer"}


def test_a_model_that_was_outdated_is_not_called_deployed(account, book, context):
    told = load("record_run_succeeded") | {"deployment": {"deployed": False, "reason": "a newer run has the endpoint"}}
    record_run.handler(told, context)
    run = book.run(RUN_ID)
    assert run["deployed"] is False
    assert run["deploy_reason"] == "a newer run has the endpoint"
    assert "served" not in book.project("cancer")


NO_CAPACITY = json.dumps({"TrainingJobName": f"{RUN_ID}-a1-train", "FailureReason": "CapacityError: none left."})


def job_failed(plan: dict, cause: str) -> dict:
    told = {"action": "job_failed", "run_id": RUN_ID, "attempt": 1, "project": "cancer", "now": NOW}
    return told | {"stage": "train", "error": "States.TaskFailed", "cause": cause, "plan": plan}


def test_refused_capacity_is_recorded_and_answered_with_the_next_machine(account, book, context):
    plan = plan_pipeline.handler(load("plan_pipeline"), context)
    first, second = plan["train"]["offers"][:2]
    answer = record_run.handler(job_failed(plan, NO_CAPACITY), context)
    assert answer["next"] == "again"
    assert answer["plan"]["train"]["request"]["EnableManagedSpotTraining"] is second["spot"] is False
    again = record_run.handler(job_failed(answer["plan"], NO_CAPACITY), context)
    (told,) = [each for each in book.story(RUN_ID).decisions if each["what"] == "capacity refused for train"]
    assert told["numbers"] == {"refused": 2, "round": 1}
    assert f"{first['instance_type']} on spot capacity at {NOW[:19]}" in told["reason"]
    assert len(json.dumps(again)) < 100_000


def test_what_a_spot_job_trained_before_it_waited_in_vain_is_counted(account, book, context):
    plan = plan_pipeline.handler(load("plan_pipeline"), context)
    name = plan["train"]["request"]["TrainingJobName"]
    interrupted = {
        "TrainingJobName": name,
        "TrainingJobStatus": "Stopped",
        "SecondaryStatus": "MaxWaitTimeExceeded",
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
        "TrainingTimeInSeconds": 3600,
        "BillableTimeInSeconds": 1200,
    }
    told = job_failed(plan, json.dumps(interrupted))
    record_run.handler(told, context)
    assert record_run.handler(told, context)["next"] == "again"  # told twice, counted once
    spot = book.stage(RUN_ID, "train")
    assert (spot["status"], spot["billable_s"], spot["earlier_attempts"]) == ("failed", 1200, [])

    asked = load("record_run_stage_finished") | {"stage": "train"}
    moved = {
        "TrainingJobName": f"{name}-1",
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge"},
        "TrainingTimeInSeconds": 60,
    }
    account.put_report(asked["report_uri"], REPORT)
    record_run.handler(asked | {"job": moved}, context)
    record_run.handler(asked | {"job": moved}, context)
    stage = book.stage(RUN_ID, "train")
    assert (stage["status"], stage["job_name"]) == ("finished", f"{name}-1")
    (before,) = stage["earlier_attempts"]
    assert (before["job_name"], before["billable_s"], before["footprint"]) == (name, 1200, spot["footprint"])
    assert record.total_footprint([stage]).cost_usd.value > record.total_footprint([spot]).cost_usd.value


def test_a_job_that_never_had_a_machine_leaves_no_stage(account, book, context):
    record_run.handler(job_failed(plan_pipeline.handler(load("plan_pipeline"), context), NO_CAPACITY), context)
    assert book.stage(RUN_ID, "train") is None


def test_a_job_that_fails_by_itself_is_no_matter_of_capacity(account, book, context):
    plan = plan_pipeline.handler(load("plan_pipeline"), context)
    cause = json.dumps({"TrainingJobName": "x", "FailureReason": "AlgorithmError: exit code: 1"})
    assert record_run.handler(job_failed(plan, cause), context) == {"next": "fail", "plan": plan, "wait_s": 0}
    assert "capacity refused for train" not in [each["what"] for each in book.story(RUN_ID).decisions]


def test_the_next_attempt_finds_what_a_moved_job_has_written(account, book, context):
    asked = load("record_run_stage_finished") | {"stage": "train"}
    moved = {"TrainingJobName": f"{RUN_ID}-a1-train-2", "ResourceConfig": {"InstanceType": "ml.m5.large"}}
    account.put_report(asked["report_uri"], REPORT)
    record_run.handler(asked | {"job": moved}, context)
    book.apply(ledger.end_run(RUN_ID, 1, "cancer", "failed", now=moment(NOW), fields={}))
    again = RunRequested.model_validate({"run_id": RUN_ID, "attempt": 2, "project": "cancer", "drop": DROP})
    book.apply(ledger.open_run(again, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    plan = plan_pipeline.handler(load("plan_pipeline") | {"attempt": 2}, context)
    assert plan["artifacts"]["original"].endswith(f"/{RUN_ID}-a1-train-2/output/model/")


def test_a_failed_job_leaves_its_words_and_what_it_used(account, book, context):
    message = record_run.handler(load("record_run_failed"), context)
    run = book.run(RUN_ID)
    assert run["status"] == "failed"
    assert "no finite loss" in run["error"]["message"]
    assert run["footprint"]["cost_usd"]["value"] == pytest.approx(0.115 * 20 / 3600)
    assert book.stage(RUN_ID, "train")["status"] == "failed"
    assert "no finite loss" not in message["message"]


def test_a_rejection_is_recorded_as_rejected_and_not_as_failed(account, book, context):
    message = record_run.handler(load("record_run_rejected"), context)
    run = book.run(RUN_ID)
    assert run["status"] == "rejected"
    assert run["error"]["column"] == "target"
    assert "What to do" in message["message"]
    assert book.successful_run(IDENTITY) is None


def test_a_reused_run_names_the_one_it_reuses(account, book, context):
    record_run.handler(load("record_run_reused"), context)
    run = book.run(RUN_ID)
    assert run["status"] == "reused"
    assert run["reuses"] == "cancer-20261122080000-aa01bb4c2d"


def test_a_failure_before_the_run_was_opened_is_recorded_too(account, context):
    record_run.handler(load("record_run_failed") | {"stage": "identify", "cause": "no permission"}, context)
    run = account.run(RUN_ID)
    assert run["status"] == "failed"
    assert run["created_at"] == "2026-11-23T09:30:00Z"
    assert run["gsi_pk"] == "RUNS"


def test_an_end_is_not_overwritten_by_another(account, book, context):
    record_run.handler(load("record_run_failed"), context)
    with pytest.raises(AttemptOutdatedError):
        record_run.handler(load("record_run_rejected"), context)
    assert book.run(RUN_ID)["status"] == "failed"


def test_a_stage_that_ends_after_its_attempt_is_not_taken_over_without_what_the_run_learns_by_it(
    account, book, context
):
    record_run.handler(load("record_run_failed"), context)
    with pytest.raises(AttemptOutdatedError):
        finish(account, context, "process", REPORT | {"status": "accepted", "task": "tabular-classification"})
    assert "task" not in book.run(RUN_ID)
    stage = book.stage(RUN_ID, "process")
    assert stage["status"] != "finished"
    assert stage["footprint"], "what it used is counted all the same"


@pytest.mark.parametrize(
    ("event", "status"),
    [
        pytest.param("execution_aborted", "cancelled", id="aborted is cancelled"),
        pytest.param("execution_timed_out", "failed", id="timed out is failed"),
        pytest.param("execution_failed", "failed", id="failed without a record is failed"),
    ],
)
def test_a_run_that_ended_from_outside_is_recorded(account, book, context, event, status):
    finish(account, context, "process", REPORT | {"status": "accepted"})
    assert on_run_ended.handler(load(event), context) == {"run_id": RUN_ID, "recorded": True}
    run = book.run(RUN_ID)
    assert run["status"] == status
    assert run["ended_at"] == "2026-11-23T09:35:00Z"
    assert account.json(run["record_uri"])["status"] == status
    assert run["footprint"]["energy_kwh"]["value"] > 0


def test_a_run_that_recorded_its_own_end_keeps_it(account, book, context):
    record_run.handler(load("record_run_rejected"), context)
    assert on_run_ended.handler(load("execution_failed"), context)["recorded"] is False
    assert book.run(RUN_ID)["status"] == "rejected"


def test_a_failure_that_was_recorded_keeps_its_words_and_stage(account, book, context):
    record_run.handler(load("record_run_failed"), context)
    before = book.run(RUN_ID)
    assert on_run_ended.handler(load("execution_failed"), context)["recorded"] is False
    assert book.run(RUN_ID) == before
    assert before["error"]["stage"] == "train"


def test_a_rejection_that_was_not_recorded_is_recorded_as_one(account, book, context):
    ended = load("execution_failed")
    ended["detail"] |= {"error": "DropRejected", "cause": load("record_run_rejected")["cause"]}
    on_run_ended.handler(ended, context)
    run = book.run(RUN_ID)
    assert run["status"] == "rejected"
    assert (run["error"]["code"], run["error"]["column"]) == ("one-class", "target")
    assert run["error"]["remedy"]


def test_the_end_of_an_old_attempt_leaves_the_new_one_alone(account, book, context):
    asked = RunRequested.model_validate({"run_id": RUN_ID, "attempt": 2, "project": "cancer", "drop": DROP})
    book.apply(ledger.open_run(asked, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    assert on_run_ended.handler(load("execution_aborted"), context)["recorded"] is False
    assert book.run(RUN_ID)["status"] == "running"


MATRIX = {"kind": "confusion", "rows": 3, "labels": ["no", "yes"], "others": False, "matrix": [[2, 0], [1, 0]]}


def test_what_both_models_get_wrong_goes_with_the_comparison_and_no_other_candidates(account, book, context):
    told = {"original": MATRIX, "of": {"student": MATRIX | {"rows": 4}, "original": MATRIX}}
    answer = selected(account, context, compile_report(mistakes=told))
    assert answer["chosen"] == "student"
    assert answer["comparison"]["original"]["mistakes"] == MATRIX
    assert answer["comparison"]["shipped"]["mistakes"]["rows"] == 4
    assert "mistakes" not in str(answer["candidates"])


def report_of(account, run: dict) -> str:
    bucket, _, key = run["report_uri"].removeprefix("s3://").partition("/")
    found = account.s3.get_object(Bucket=bucket, Key=key)
    assert found["ContentType"] == "text/html; charset=utf-8"
    return found["Body"].read().decode()


def test_a_run_leaves_its_report_beside_its_record_and_the_notification_leads_there(account, book, context):
    finish(account, context, "process", REPORT | {"status": "accepted"})
    message = record_run.handler(load("record_run_succeeded"), context)["message"]
    run = book.run(RUN_ID)
    assert run["report_uri"] == run["record_uri"].replace("run.json", "report.html")
    assert "succeeded" in report_of(account, run)
    assert f"Report: ebb report {RUN_ID}" in message
    assert ".console.aws.amazon.com/s3/object/" in message
    assert message.endswith(f"{RUN_ID}/report.html")


@pytest.mark.parametrize("event", ["record_run_failed", "record_run_rejected", "record_run_reused"])
def test_however_a_run_ends_it_leaves_a_report(account, book, context, event):
    record_run.handler(load(event), context)
    assert f"<title>{RUN_ID}" in report_of(account, book.run(RUN_ID))


def test_a_run_that_is_cancelled_from_outside_leaves_a_report(account, book, context):
    on_run_ended.handler(load("execution_aborted"), context)
    assert "cancelled" in report_of(account, book.run(RUN_ID))


def test_a_report_that_fails_fails_no_run(account, book, context, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(page, "render", lambda record: {}["nothing"])
        message = record_run.handler(load("record_run_succeeded"), context)["message"]
    run = book.run(RUN_ID)
    assert (run["status"], account.json(run["record_uri"])["status"]) == ("succeeded", "succeeded")
    assert run["report_error"].startswith("KeyError")
    assert "report_uri" not in run
    assert "Report" not in message
    record_run.handler(load("record_run_succeeded"), context)
    assert "report_error" not in book.run(RUN_ID), "a repeat that writes it takes the complaint back"
