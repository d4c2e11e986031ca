"""Uploads: which start an execution, which do not, and which go to the dead-letter queue."""

import json

import pytest

import on_upload
from worked_run import LANDING, load

SPEC_KEY = "cancer/pipeline.yaml"


def names(account) -> list[str]:
    return sorted(execution["name"] for execution in account.executions())


def test_an_upload_starts_the_run_that_is_named_after_it(account, context):
    assert on_upload.handler(load("uploads"), context) == {"batchItemFailures": []}
    (execution,) = account.executions()
    told = json.loads(account.states.describe_execution(executionArn=execution["executionArn"])["input"])
    assert execution["name"] == f"{told['run_id']}-a1"
    assert told["attempt"] == 1
    assert told["project"] == "cancer"
    assert told["drop"]["key"] == "cancer/data/breast_cancer.csv"
    assert told["drop"]["sequencer"] == "0067419F6B2C5A1E33"


def test_the_same_event_twice_starts_one_run(account, context):
    assert on_upload.handler(load("uploads_duplicate"), context) == {"batchItemFailures": []}
    assert on_upload.handler(load("uploads_duplicate"), context) == {"batchItemFailures": []}
    assert len(account.executions()) == 1


def test_a_folder_starts_when_its_marker_is_there(account, context):
    assert on_upload.handler(load("uploads_folder"), context) == {"batchItemFailures": []}
    (execution,) = account.executions()
    told = json.loads(account.states.describe_execution(executionArn=execution["executionArn"])["input"])
    assert told["drop"]["kind"] == "prefix"


def test_a_malformed_message_fails_alone(account, context):
    event = load("uploads_malformed")
    bad = [event["Records"][index]["messageId"] for index in (0, 1, 3)]
    answer = on_upload.handler(event, context)
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == bad
    assert len(account.executions()) == 1


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        pytest.param(b"data: {uri: 's3://lake/wine.csv'}", 1, id="a spec that names data"),
        pytest.param(b"data: {features: wine}", 1, id="a spec that names features of another project"),
        pytest.param(b"data: {target: label}", 0, id="a spec that waits for data"),
        pytest.param(b"servee: {}", 1, id="a spec that cannot be read: its run is rejected and says why"),
        pytest.param(None, 0, id="a spec that is gone"),
    ],
)
def test_a_spec_starts_a_run_when_it_names_data_or_cannot_be_read(account, context, text, starts):
    if text is not None:
        account.s3.put_object(Bucket=LANDING, Key=SPEC_KEY, Body=text)
    assert on_upload.handler(load("uploads_spec"), context) == {"batchItemFailures": []}
    assert len(account.executions()) == starts


def test_a_run_that_cannot_be_started_is_delivered_again(account, context, monkeypatch):
    monkeypatch.setenv("RUN_PIPELINE_ARN", account.machine_arn + "-gone")
    event = load("uploads")
    answer = on_upload.handler(event, context)
    assert answer == {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}
