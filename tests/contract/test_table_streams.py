"""A table's stream feeds a function: as its role, through its filter, again after a failure, beyond a restart."""

import json

import pytest
from ministack.services import dynamodb, lambda_svc

from contract.support import allow, wait_until
from ebb_local import authorization
from ebb_local.gaps import table_streams

PRINTING = """
    import boto3, json, os
    def handler(event, context):
        items = [each["dynamodb"]["NewImage"]["sk"]["S"] for each in event["Records"]]
        table = os.environ["SEEN"]
        client = boto3.client("dynamodb")
        client.update_item(TableName=table, Key={"pk": {"S": "seen"}, "sk": {"S": "SEEN"}},
            UpdateExpression="SET arrived = list_append(if_not_exists(arrived, :none), :new) ADD turns :one",
            ExpressionAttributeValues={":none": {"L": []}, ":new": {"L": [{"S": each} for each in items]},
                                       ":one": {"N": "1"}})
        turns = client.get_item(TableName=table, Key={"pk": {"S": "seen"}, "sk": {"S": "SEEN"}})["Item"]["turns"]["N"]
        if turns == "1":
            raise RuntimeError("the first time")
"""
FILTER = json.dumps({"eventName": ["INSERT"], "dynamodb": {"Keys": {"sk": {"S": [{"prefix": "DECISION#"}]}}}})


@pytest.fixture
def table(cloud, name):
    made = cloud.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("pk", "sk")],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    return made["TableDescription"]


def _mapping(cloud, table: dict, function: str) -> str:
    return cloud.client("lambda").create_event_source_mapping(
        EventSourceArn=table["LatestStreamArn"],
        FunctionName=function,
        StartingPosition="TRIM_HORIZON",
        FilterCriteria={"Filters": [{"Pattern": FILTER}]},
    )["UUID"]


def _write(cloud, table: dict, *keys: str) -> None:
    for each in keys:
        cloud.client("dynamodb").put_item(TableName=table["TableName"], Item={"pk": {"S": "RUN#1"}, "sk": {"S": each}})


def _seen(cloud, table: dict) -> list[str]:
    key = {"pk": {"S": "seen"}, "sk": {"S": "SEEN"}}
    found = cloud.client("dynamodb").get_item(TableName=table["TableName"], Key=key).get("Item", {})
    return [each["S"] for each in found.get("arrived", {}).get("L", [])]


def test_what_the_filter_lets_through_comes_again_until_the_function_has_taken_it(cloud, function, table):
    reading = allow(["dynamodb:DescribeStream", "dynamodb:GetShardIterator", "dynamodb:GetRecords"])
    writing = allow(["dynamodb:UpdateItem", "dynamodb:GetItem"], table["TableArn"])
    arn = function(PRINTING, reading, writing, Environment={"Variables": {"SEEN": table["TableName"]}})
    _write(cloud, table, "RUN", "DECISION#001", "STAGE#0#process")
    mapping = _mapping(cloud, table, arn)
    wait_until(lambda: _seen(cloud, table) == ["DECISION#001"] * 2, 30)
    _write(cloud, table, "DECISION#002")
    wait_until(lambda: _seen(cloud, table)[2:] == ["DECISION#002"], 30)
    cloud.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_a_role_that_may_not_read_the_stream_gets_nothing(cloud, function, table):
    arn = function("def handler(event, context): return 1", allow("dynamodb:DescribeStream"))
    mapping = _mapping(cloud, table, arn)
    _write(cloud, table, "DECISION#001")
    role = cloud.client("lambda").get_function(FunctionName=arn)["Configuration"]["Role"]
    session = authorization.role_session(role, "x").rsplit("/", 1)[0]

    def refused() -> list[dict]:
        return [each for each in cloud.calls(principal=session, action="dynamodb:G") if each["decision"] != "Allow"]

    wait_until(refused)
    assert not cloud.calls(principal=session, action="dynamodb:GetRecords", decision="Allow")
    cloud.client("lambda").delete_event_source_mapping(UUID=mapping)


def test_what_a_stream_holds_is_saved_with_its_table(monkeypatch):
    """Else the reader, whose place is saved, would pass over what is written after a restart."""
    for module, name in ((lambda_svc, "_apply_filter_criteria"), (dynamodb, "get_state")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(dynamodb, "load_persisted_state", dynamodb.load_persisted_state)
    table_streams.install()
    monkeypatch.setattr(dynamodb, "_stream_records", type(dynamodb._stream_records)())
    dynamodb._stream_records["t"] = [{"eventID": "1"}]
    saved = dynamodb.get_state()
    dynamodb._stream_records.clear()
    dynamodb.load_persisted_state(saved)
    assert dynamodb._stream_records["t"] == [{"eventID": "1"}]
