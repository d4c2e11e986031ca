"""What a failed end-to-end test tells: bounded, in its place what cannot be read, and never a failure of its own."""

import json
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from e2e import diagnosis
from e2e.diagnosis import Seen

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MACHINE = "arn:aws:states:us-east-1:1:stateMachine:ebb-wake"
RUN = MACHINE.replace("stateMachine", "execution") + ":wake-ebb-pets-g3"
ASKED = {"asked_at": "2026-11-23T11:58:00Z", "deadline": "2026-11-23T12:58:00Z"}
KEYS = ("ebb-pets/a.json", "ebb-pets/a", "ebb-pets/a.late-0", "ebb-pets/b.json", "ebb-pets/c.async.json")


class Service:
    """One service of a cloud in which a wake has failed and a request waits: each call answers what is given."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __getattr__(self, call: str) -> Any:
        return lambda **_: self.answers[call]


def body(document: Any) -> dict[str, Any]:
    return {"Body": SimpleNamespace(read=lambda: json.dumps(document).encode())}


class S3(Service):
    def get_paginator(self, _: str) -> Any:
        listed = {"requests/": [*KEYS], "answers/": ["ebb-pets/b.json"]}
        return SimpleNamespace(
            paginate=lambda Bucket, Prefix: [{"Contents": [{"Key": Prefix + name} for name in listed[Prefix]]}]
        )


def services() -> dict[str, Service]:
    failed = {"name": "Plan wake", "error": "Lambda.ServiceException", "cause": "no worker"}
    return {
        "stepfunctions": Service(
            list_executions={"executions": [{"executionArn": RUN, "status": "FAILED", "startDate": NOW}]},
            describe_execution={"error": "EndpointNotAwake", "cause": "x" * 1000},
            get_execution_history={
                "events": [{"timestamp": NOW, "type": "TaskFailed", "taskFailedEventDetails": failed}]
            },
        ),
        "sqs": Service(
            list_queues={"QueueUrls": ["https://sqs/1/ebb-RequestsQueue"]},
            get_queue_attributes={"Attributes": {"ApproximateNumberOfMessagesNotVisible": "1"}},
        ),
        "s3": S3(get_object=body(ASKED)),
        "dynamodb": Service(query={"Items": [{"address": {"S": "ebb-pets"}, "state": {"S": "awake"}}]}),
        "logs": Service(
            describe_log_groups={"logGroups": [{"logGroupName": "/aws/lambda/ebb-deliver-request"}]},
            filter_log_events={
                "events": [
                    {"timestamp": 0, "message": json.dumps({"level": "ERROR", "message": "not delivered"})},
                    {"timestamp": 0, "message": "END"},
                ]
            },
        ),
    }


def look(tmp_path, given: dict[str, Service], log: str = "") -> Seen:
    path = tmp_path / "server.log"
    path.write_text(log)
    held = {"ebb-RequestsQueue": [{"VisibleInS": 417.0, "Received": 1, "Body": "a"}]}
    return Seen(
        lambda service: given[service],
        {"WakeEndpointStateMachineArn": MACHINE, "ArtifactBucketName": "kept", "LedgerTableName": "ledger"},
        {"Now": NOW.timestamp(), "AtWork": [], "Queues": held},
        path,
    )


def test_it_tells_what_failed_what_waits_and_what_was_logged(tmp_path):
    told = diagnosis.report(
        lambda: look(tmp_path, services(), "INFO fine\nERROR [ebb.lambda] no worker could be forked")
    )
    for expected in (
        "load average",
        "wake-ebb-pets-g3 FAILED EndpointNotAwake xxx",
        "TaskFailed name=Plan wake error=Lambda.ServiceException cause=no worker",
        "ebb-pets: state awake",
        "Messages 0, MessagesNotVisible 1",
        '"VisibleInS": 417.0',
        "ebb-pets/a asked 2026-11-23T11:58:00Z, until 2026-11-23T12:58:00Z, queued again 1 times",
        'ebb-deliver-request {"level": "ERROR", "message": "not delivered"}',
        "ERROR [ebb.lambda] no worker could be forked",
    ):
        assert expected in told
    for passed in ("ebb-pets/b asked", "END", "INFO fine"):
        assert passed not in told


def test_a_request_that_was_queued_again_is_told_though_it_was_answered(tmp_path):
    told = diagnosis.healed(lambda: look(tmp_path, services()))
    assert [line.split(": ")[1] for line in told] == ["ebb-pets/a.late-0"]
    (unreadable,) = diagnosis.healed(lambda: look(tmp_path, {}))
    assert "cannot be read: KeyError" in unreadable


def test_it_is_bounded_in_lines_and_in_their_length(tmp_path):
    told = diagnosis.report(lambda: look(tmp_path, services(), "ERROR again\n" * 10_000 + "ERROR " + "y" * 10_000))
    lines = told.splitlines()
    assert len(lines) <= diagnosis.MOST_LINES
    assert max(len(line) for line in lines) <= diagnosis.MOST_CHARS
    assert sum(most for *_, most in diagnosis.SECTIONS) + len(diagnosis.SECTIONS) + 3 <= diagnosis.MOST_LINES


def test_what_cannot_be_read_is_told_in_its_place_and_the_rest_is_read(tmp_path):
    told = diagnosis.report(lambda: look(tmp_path, {"logs": services()["logs"]}, "ERROR at the end"))
    assert told.count("(not readable: KeyError") == 4
    assert "not delivered" in told
    assert "ERROR at the end" in told


@pytest.mark.parametrize("problem", [AssertionError("not running"), SystemExit(1)])
def test_a_cloud_that_has_ended_is_no_failure_of_the_report(problem: BaseException):
    def gone() -> Seen:
        raise problem

    assert f"cannot be looked at: {type(problem).__name__}" in diagnosis.report(gone)


def test_a_cloud_that_does_not_answer_is_not_waited_for():
    assert "not within 0.05 s" in diagnosis.report(lambda: time.sleep(5), most_s=0.05)
