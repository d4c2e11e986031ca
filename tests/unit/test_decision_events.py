"""Decisions as events: their published form, one id for one decision, nothing of the ledger left out."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator, ValidationError

from ebb import decision_events, ledger, reaping
from ebb.errors import MalformedEventError
from infrastructure import project
from unit import reported
from worked_run import EVENTS, NOW, RUN_ID, load, moment

SCHEMA = json.loads((EVENTS / "schemas" / "decision.v1.json").read_text())
VALIDATOR = Draft4Validator(SCHEMA)
ITEM = {
    "pk": f"RUN#{RUN_ID}",
    "sk": "DECISION#101",
    "stage": "plan",
    "what": "instance for train",
    "chosen": "ml.m5.large",
    "reason": "least expected energy",
    "numbers": {"expected_energy_wh": 0.2, "types": 9},
    "alternatives": ["ml.c5.xlarge: 0.21 Wh expected"],
    "source": "ebb/catalog/instances.yaml",
}


def digits() -> list[dict[str, Any]]:
    """The decisions of a run that was recorded, as the ledger holds them."""
    run = reported.digits()
    return [
        {"pk": f"RUN#{run['run_id']}", "sk": f"DECISION#{number:03d}", **each}
        for number, each in enumerate(run["decisions"])
    ]


def test_the_schema_is_one_that_eventbridge_takes():
    """JSON Schema of draft 4: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-schema.html"""
    Draft4Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-04/schema#"


def test_a_published_version_is_not_changed_but_followed_by_another():
    """Descriptions may get better; what is promised to readers stays: write decision.v2.json for anything else."""

    def promised(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: promised(each) for k, each in value.items() if k != "description" or not isinstance(each, str)}
        return [promised(each) for each in value] if isinstance(value, list) else value

    text = json.dumps(promised(SCHEMA), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "530fe1d964c0f99a"


@pytest.mark.parametrize("item", digits(), ids=lambda each: f"{each['sk'][9:]}-{each['what']}")
def test_every_decision_of_a_recorded_run_is_an_event_of_the_published_form(item):
    told = decision_events.detail(item)
    VALIDATOR.validate(json.loads(json.dumps(told)))
    assert told["decision"]["what"] == item["what"]
    assert told["subject"] == {"kind": "run", "name": item["pk"][4:], "project": "demo-digits"}


def test_every_decision_of_a_recorded_run_says_what_would_have_changed_it():
    silent = [each["what"] for each in digits() if not decision_events.detail(each)["decision"]["would_change"]]
    assert silent == []


def test_nothing_that_the_ledger_tells_of_a_decision_is_left_out():
    item = next(each for each in digits() if each["what"] == "kind of serving")
    told = decision_events.detail(item)["decision"]
    assert told["more"]["table"] == item["table"]
    assert told["numbers"] == item["numbers"]


@pytest.mark.parametrize("field", ["id", "subject", "decision"])
def test_the_schema_refuses_an_event_that_lacks_something(field):
    told = decision_events.detail(ITEM)
    del told[field]
    with pytest.raises(ValidationError, match=field):
        VALIDATOR.validate(told)


def test_one_decision_has_one_id_and_another_has_another():
    assert decision_events.detail(ITEM) == decision_events.detail(copy.deepcopy(ITEM))
    stored = ledger.to_item(ITEM)
    assert decision_events.detail(stored)["id"] == decision_events.detail(ITEM)["id"], "numbers come back as decimals"
    others = [ITEM | {"chosen": "ml.c5.large"}, ITEM | {"sk": "DECISION#102"}, ITEM | {"numbers": {"types": 8}}]
    assert len({decision_events.detail(each)["id"] for each in [ITEM, *others]}) == 4


def test_what_happened_to_an_endpoint_or_a_resource_is_a_decision_too():
    slept = {
        "pk": "ADDRESS#ebb-cancer", "sk": f"EVENT#{NOW}", "what": "slept", "at": NOW, "address": "ebb-cancer",
        "project": "cancer", "kind": "realtime", "reason": "no call for 15 minutes",
        "saves_usd_per_month": 71.5,
    }  # fmt: skip
    told = decision_events.detail(slept)
    VALIDATOR.validate(told)
    assert told["subject"] == {"kind": "endpoint", "name": "ebb-cancer", "project": "cancer"}
    assert told["decision"]["chosen"] == "slept"
    assert told["decision"]["numbers"] == {"saves_usd_per_month": 71.5}
    assert told["at"] == NOW
    seen = reaping.Resource(
        kind="notebook", name="lab", keys={"NotebookInstanceName": "lab"}, arn="arn:lab", status="InService", tags={}
    )
    verdict = reaping.Verdict(kind="notebook", name="lab", action="stop", reason="unused for 3 days", usd_per_hour=0.05)
    reaped = reaping.event(seen, verdict, table="t", now=moment(NOW))["Item"]
    plain = {name: next(iter(each.values())) for name, each in reaped.items()}
    told = decision_events.detail(plain)
    VALIDATOR.validate(told)
    assert told["subject"] == {"kind": "resource", "name": "notebook/lab"}
    assert told["decision"]["chosen"] == "reaped"


@pytest.mark.parametrize("sk", ["RUN", "STAGE#1#process", "ADDRESS", "TOTAL"])
def test_what_is_no_decision_is_refused(sk):
    with pytest.raises(MalformedEventError, match=sk):
        decision_events.detail(ITEM | {"sk": sk})


def test_an_event_is_never_larger_than_eventbridge_takes():
    long = ITEM | {"alternatives": [f"{n}: {'x' * 1900}" for n in range(64)]}
    made = decision_events.entry(long)
    assert len(made["Detail"].encode()) < decision_events.MOST_BYTES
    VALIDATOR.validate(json.loads(made["Detail"]))
    batches = list(decision_events.batches([made] * 25))
    assert sum(map(len, batches)) == 25
    for each in batches:
        assert len(each) <= decision_events.MOST_ENTRIES
        assert len(each) == 1 or sum(len(one["Detail"].encode()) for one in each) <= decision_events.MOST_BYTES


def test_the_stream_carries_exactly_what_is_a_decision():
    """The filter of the template and `is_decision` are one rule written twice."""
    event = project.resources("AWS::Serverless::Function")["PublishDecisionsFunction"]["Properties"]["Events"]
    (found,) = event["Decisions"]["Properties"]["FilterCriteria"]["Filters"]
    pattern = json.loads(found["Pattern"])
    wanted = {each["prefix"] if isinstance(each, dict) else each for each in pattern["dynamodb"]["Keys"]["sk"]["S"]}
    assert wanted == set(decision_events.DECIDED)
    assert pattern["eventName"] == ["INSERT", "MODIFY"]
    view = project.template()["Resources"]["LedgerTable"]["Properties"]["StreamSpecification"]["StreamViewType"]
    assert view == "NEW_IMAGE"


def test_what_eventbridge_does_not_take_is_told_of_before_the_stream_forgets_it():
    properties = project.resources("AWS::Serverless::Function")["PublishDecisionsFunction"]["Properties"]
    source = properties["Events"]["Decisions"]["Properties"]
    assert source["MaximumRecordAgeInSeconds"] < 24 * 3600
    assert "MaximumRetryAttempts" not in source, "tried until then, not a few times"
    assert source["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": ["EventsDeadLetterQueue", "Arn"]}
    assert source["StartingPosition"] == "TRIM_HORIZON"


def test_the_worked_stream_is_what_dynamodb_sends():
    """Field by field: https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html"""
    record = load("publish_decisions")["Records"][0]
    assert set(record) == {
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "eventSourceARN",
    }  # fmt: skip
    assert Path(EVENTS / "publish_decisions.json").stat().st_size < 100_000
