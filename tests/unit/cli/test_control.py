"""Cancel, retry and logs: only what makes sense, and exactly the same input again."""

import json
import time

import pytest

from .conftest import RUN_ID

INPUT = {"run_id": RUN_ID, "attempt": 1, "project": "churn", "drop": {"kind": "object", "key": "churn/data/a.csv"}}


@pytest.fixture
def execution(target) -> str:
    machine = target.outputs["RunPipelineStateMachineArn"]
    request = {"stateMachineArn": machine, "name": f"{RUN_ID}-a1", "input": json.dumps(INPUT)}
    return target.client("stepfunctions").start_execution(**request)["executionArn"]


def test_cancel_stops_the_execution(ebb, target, put, execution):
    put("running", execution_arn=execution)
    assert ebb("cancel", "latest").exit_code == 0
    assert target.client("stepfunctions").describe_execution(executionArn=execution)["status"] == "ABORTED"


@pytest.mark.parametrize("status", ["succeeded", "failed", "rejected", "cancelled", "reused"])
def test_what_does_not_run_is_not_cancelled(ebb, put, execution, status):
    put(status, execution_arn=execution)
    done = ebb("cancel", RUN_ID)
    assert done.exit_code == 1
    assert status in done.stderr


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_retry_starts_the_same_input_as_the_next_attempt(ebb, target, put, execution, status):
    put(status, execution_arn=execution)
    assert json.loads(ebb("retry", RUN_ID, "--json").stdout)["attempt"] == 2
    again = execution.replace(f"{RUN_ID}-a1", f"{RUN_ID}-a2")
    described = target.client("stepfunctions").describe_execution(executionArn=again)
    assert json.loads(described["input"]) == INPUT | {"attempt": 2}


@pytest.mark.parametrize("status", ["succeeded", "rejected", "reused", "superseded", "running"])
def test_only_what_failed_or_was_cancelled_is_retried(ebb, target, put, execution, status):
    put(status, execution_arn=execution)
    assert ebb("retry", RUN_ID).exit_code == 1
    machine = target.outputs["RunPipelineStateMachineArn"]
    assert len(target.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]) == 1


def test_an_attempt_that_somebody_else_has_started_is_not_started_again(ebb, target, put, execution):
    put("failed", execution_arn=execution)
    assert ebb("retry", RUN_ID).exit_code == 0
    second = execution.replace(f"{RUN_ID}-a1", f"{RUN_ID}-a2")
    target.client("stepfunctions").stop_execution(executionArn=second)
    again = ebb("retry", RUN_ID)
    assert again.exit_code == 1
    assert "already been started" in again.stderr


@pytest.fixture
def written(target):
    logs = target.client("logs")
    for group, stage, lines in (
        ("/aws/sagemaker/ProcessingJobs", "process", ["read 10 rows"]),
        ("/aws/sagemaker/TrainingJobs", "compress-2", ["on another machine"]),
        ("/aws/sagemaker/TrainingJobs", "train", ["epoch 1", "ValueError: the flux capacitor is empty"]),
        ("/aws/sagemaker/TrainingJobs", "train-other", ["of another job"]),
    ):
        if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
            logs.create_log_group(logGroupName=group)
        stream = f"{RUN_ID}-a1-{stage}/algo-1"
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        events = [{"timestamp": int(time.time() * 1000) + number, "message": line} for number, line in enumerate(lines)]
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_logs_of_one_stage_are_the_lines_of_its_job(ebb, put, written):
    put("failed")
    assert ebb("logs", RUN_ID, "train").stdout.splitlines() == ["epoch 1", "ValueError: the flux capacitor is empty"]


def test_logs_of_a_job_that_was_moved_are_those_of_its_stage(ebb, put, written):
    put("failed")
    assert ebb("logs", RUN_ID, "compress").stdout.splitlines() == ["on another machine"]


def test_logs_of_all_stages_say_which_stage_wrote_each_line(ebb, put, written):
    put("failed")
    found = json.loads(ebb("logs", RUN_ID, "--json").stdout)
    assert [(line["stage"], line["message"]) for line in found] == [
        ("process", "read 10 rows"), ("train", "epoch 1"), ("train", "ValueError: the flux capacitor is empty"),
        ("compress", "on another machine"),
    ]  # fmt: skip


def test_a_run_without_lines_says_so(ebb, put):
    put("running")
    done = ebb("logs", RUN_ID)
    assert done.exit_code == 1
    assert "has written a line" in done.stderr


def test_an_unknown_stage_is_wrong_usage(ebb, put):
    put()
    assert ebb("logs", RUN_ID, "deploy").exit_code == 2
