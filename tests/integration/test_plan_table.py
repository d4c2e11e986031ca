"""plan_table on a ledger and a bucket of moto."""

import json

import pytest
from boto3.dynamodb.conditions import Key

import plan_table
from ebb import ledger
from ebb.errors import ReportMissingError
from worked_run import ARTIFACTS, RUN_ID, load

ASKED = load("plan_table")
CURATED = ASKED["curated_uri"].removeprefix(f"s3://{ARTIFACTS}/")
TABLE = {
    "kind": "tabular",
    "task": "tabular-regression",
    "columns": ["a"],
    "features": [{"name": "a", "kind": "numeric"}],
    "target": {"name": "b"},
    "rows": {"train": 4, "validation": 2, "test": 2},
}


@pytest.fixture(autouse=True)
def database(monkeypatch):
    monkeypatch.setenv("CATALOG_DATABASE", "ebb")
    monkeypatch.setenv("LEDGER_TABLE", "ebb-ledger")


def planned(account, context, schema: dict) -> tuple[dict, dict]:
    account.s3.put_object(Bucket=ARTIFACTS, Key=CURATED + "schema.json", Body=json.dumps(schema).encode())
    answer = plan_table.handler(ASKED, context)
    (item,) = account.table.query(KeyConditionExpression=Key("pk").eq(f"RUN#{RUN_ID}"))["Items"]
    return answer, ledger.from_item(item)


def test_a_table_gets_its_requests_and_the_ledger_says_where_it_will_be(account, context):
    answer, decision = planned(account, context, TABLE)
    assert answer["table"]["write"]["TableInput"]["Name"] == "cancer"
    assert answer["table"]["write"]["TableInput"]["Parameters"]["ebb.generation"] == "3"
    assert (decision["chosen"], decision["numbers"]["train"]) == ("ebb.cancer", 4)


def test_pictures_get_none_and_the_ledger_says_why(account, context):
    answer, decision = planned(account, context, TABLE | {"kind": "images"})
    assert answer == {"table": None}
    assert (decision["chosen"], "images" in decision["reason"]) == ("none", True)


def test_data_without_a_schema_are_an_error_that_a_moment_may_heal(account, context):
    with pytest.raises(ReportMissingError, match=r"schema\.json"):
        plan_table.handler(ASKED, context)
