"""Deciding on a training job that is watched: what the function answers, and what the run makes of the job's end."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.stub import Stubber

import decide_training
import plan_pipeline
import record_run
from ebb import ledger, training_watch
from ebb.aws import clients, metrics, training
from ebb.aws.ledger import Ledger
from ebb.errors import JobUnreadableError
from integration.conftest import made
from integration.test_run import NOW, RUN_ID, book, job_failed, load
from worked_run import REGION

JOB = f"{RUN_ID}-a1-train"
BEGUN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
LOOKED = BEGUN + timedelta(minutes=40)
STOP = {"metric_regex": "acc=(.+)", "goal": "maximize", "plateau": 600.0, "target": 0.99}

__all__ = ["book"]


@pytest.fixture
def watched(account, book, context, monkeypatch) -> dict[str, Any]:
    """A job of an open run, forty minutes old; the test sets its curve, of one value a minute."""
    plan_pipeline.handler(load("plan_pipeline"), context)
    spec = book.run(RUN_ID)["spec"]
    book.apply(ledger.change_run(RUN_ID, 1, {"spec": spec | {"train": spec["train"] | {"stop": STOP}}}))
    job = {
        "TrainingJobName": JOB,
        "TrainingJobStatus": "InProgress",
        "TrainingStartTime": BEGUN,
        "SecondaryStatusTransitions": [{"Status": "Training", "StartTime": BEGUN}],
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 7200},
    }
    world = {"describe": training.describe, "job": job, "curve": [0.1 + 0.02 * n for n in range(40)]}

    def read(queries: list[metrics.Query], *, since: datetime, now: datetime) -> metrics.Points:
        assert {query.dimensions["TrainingJobName"] for query in queries} == {JOB}
        values = [(BEGUN + timedelta(minutes=n), value) for n, value in enumerate(world["curve"])]
        ones = [(moment, 1.0) for moment, _ in values]
        found = {"best": values, "mean": values, "count": ones, "broken": []}
        return {name: [point for point in points if point[0] >= since] for name, points in found.items()}

    monkeypatch.setattr(training, "describe", lambda name: world["job"])
    monkeypatch.setattr(metrics, "read", read)
    for name in ("target", "history", "other-target"):
        made("cloudwatch").put_metric_alarm(
            AlarmName=f"ebb-{JOB}-{name}", MetricName="watched", Namespace="x", Statistic="Sum", Period=60,
            EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanOrEqualToThreshold",
        )  # fmt: skip
    return world


def ask(context, alarm: str = "history", execution: str = "arn:one") -> dict[str, Any]:
    asked = {"job": JOB, "alarm": alarm, "execution": execution, "now": ledger.iso(LOOKED)}
    return decide_training.handler(asked, context)


def test_a_job_that_still_gains_is_looked_at_again_and_an_alarm_that_judges_all_itself_asks_once(watched, context):
    assert ask(context)["action"] == "wait"
    assert ask(context, alarm="target")["action"] == "leave"


@pytest.mark.parametrize("alarm", ["history", "lost", "nan"])
def test_a_job_watched_for_divergence_alone_is_looked_at_until_it_ends(watched, book, context, alarm):
    """Its alarm may stay in ALARM, and then asks no second time."""
    spec = book.run(RUN_ID)["spec"]
    only = {"metric_regex": "acc=(.+)", "plateau": False, "loser": False}
    book.apply(ledger.change_run(RUN_ID, 1, {"spec": spec | {"train": spec["train"] | {"stop": only}}}))
    assert (ask(context, alarm)["action"], ask(context, alarm)["wait_s"]) == ("wait", 600)
    watched["curve"] = [*watched["curve"][:30], *[0.1] * 10]
    assert ask(context, alarm)["action"] == "stop"


@pytest.mark.parametrize("alarm", ["history", "lost"])
def test_the_older_a_job_the_more_seldom_it_is_looked_at(watched, context, alarm):
    watched["job"]["CreationTime"] = BEGUN - timedelta(days=2)
    assert ask(context, alarm)["wait_s"] == 1752


def test_an_interrupted_job_is_judged_by_what_it_printed_since(watched, context):
    """A script without checkpoints begins anew: that is nothing lost, and no plateau."""
    watched["curve"] = [min(0.9, 0.1 + 0.1 * n) for n in range(35)] + [0.1 + 0.01 * n for n in range(5)]
    assert ask(context)["action"] == "stop"
    again = {"Status": "Training", "StartTime": BEGUN + timedelta(minutes=35)}
    watched["job"]["SecondaryStatusTransitions"].append(again)
    assert ask(context)["action"] == "wait"


def test_a_flat_job_is_stopped_with_a_note_and_its_own_alarms_are_named(watched, book, context):
    watched["curve"] = [min(0.9, 0.1 + 0.1 * n) for n in range(40)]
    answer = ask(context)
    assert answer["action"] == "stop"
    assert "no gain above" in answer["reason"]
    assert answer["alarms"] == [f"ebb-{JOB}-history", f"ebb-{JOB}-target"], "not those of a job whose name begins alike"
    made("dynamodb").update_item(**answer["note"])
    with pytest.raises(made("dynamodb").exceptions.ConditionalCheckFailedException):
        made("dynamodb").update_item(**ask(context, alarm="target", execution="arn:two")["note"])
    made("dynamodb").update_item(**ask(context)["note"])  # its own repeat is harmless
    assert book.stopped(RUN_ID, {"TrainingJobName": JOB, "TrainingJobStatus": "Stopped"})["rule"] == "plateau"
    assert book.stopped(RUN_ID, {"TrainingJobName": JOB, "TrainingJobStatus": "Completed"}) is None


def test_the_alarms_of_a_job_that_has_ended_are_cleared(watched, context):
    watched["job"] = watched["job"] | {"TrainingJobStatus": "Completed"}
    answer = ask(context, alarm="ended")
    assert (answer["action"], len(answer["alarms"])) == ("clear", 2)


def test_the_alarms_of_a_job_that_never_came_to_be_are_cleared(watched, context, monkeypatch):
    monkeypatch.setattr(training, "describe", watched["describe"])  # moto holds no job
    answer = ask(context, alarm="ended")
    assert (answer["action"], len(answer["alarms"])) == ("clear", 2)


def test_a_job_that_cannot_be_read_is_none_that_never_was(watched, context, monkeypatch):
    monkeypatch.setattr(training, "describe", watched["describe"])
    with Stubber(clients.client("sagemaker")) as sagemaker:
        sagemaker.add_client_error("describe_training_job", "ThrottlingException", "Rate exceeded")
        with pytest.raises(JobUnreadableError):
            ask(context, alarm="ended")


def stopped_job(secondary: str = "Stopped") -> dict[str, Any]:
    return {
        "TrainingJobName": JOB,
        "TrainingJobStatus": "Stopped",
        "SecondaryStatus": secondary,
        "TrainingTimeInSeconds": 2400,
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
    }


def note(book: Ledger, watched: dict[str, Any], rule: str = "plateau") -> None:
    verdict = training_watch.Verdict("stop", "no gain", rule, {"best": 0.9})
    _, write = training_watch.note(
        verdict, watched["job"], run_id=RUN_ID, execution="arn:one", region=REGION, now=LOOKED
    )
    assert book.apply(write)


def test_a_job_that_we_stopped_is_a_result_and_one_that_somebody_else_stopped_is_not(watched, book, context):
    plan = plan_pipeline.handler(load("plan_pipeline"), context)
    told = job_failed(plan, json.dumps(stopped_job()))
    assert record_run.handler(told, context)["next"] == "fail"
    note(book, watched)
    assert record_run.handler(told, context) == {"next": "stopped", "plan": plan, "wait_s": 0}


def test_the_record_tells_why_it_was_stopped_and_what_that_saved(account, watched, book, context):
    note(book, watched)
    asked = load("record_run_stage_finished") | {"stage": "train", "job": stopped_job()}
    account.put_report(asked["report_uri"], {"metric": "accuracy", "decisions": []})
    record_run.handler(asked, context)
    stage = book.stage(RUN_ID, "train")
    assert stage["status"] == "finished"
    assert (stage["stopped"]["rule"], stage["stopped"]["saved"]["at_most_s"]) == ("plateau", 4800)
    (told,) = [each for each in book.story(RUN_ID).decisions if each["what"] == "training stopped from outside"]
    assert told["numbers"]["best"] == 0.9


def test_a_stopped_script_that_saved_nothing_fails_with_words_that_help(watched, book, context):
    note(book, watched)
    asked = load("record_run_stage_finished") | {"stage": "train", "job": stopped_job(), "now": NOW}
    asked |= {"report_uri": asked["report_uri"].replace("metrics.json", "nowhere.json")}
    with pytest.raises(record_run.ReportMissingError, match="SM_MODEL_DIR"):
        record_run.handler(asked, context)
