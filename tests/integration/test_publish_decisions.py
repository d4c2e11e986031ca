"""The outbox: what the ledger's stream carries is put on the bus, and comes again until it is."""

import itertools
import json
from typing import Any

import pytest
from botocore.stub import Stubber
from jsonschema import Draft4Validator

import publish_decisions
from ebb import decision_events
from ebb.aws import clients, outbox
from ebb.errors import EventsUnavailableError
from integration.conftest import made
from worked_run import EVENTS, RUN_ID, load

SCHEMA = Draft4Validator(json.loads((EVENTS / "schemas" / "decision.v1.json").read_text()))


@pytest.fixture
def bus(account):
    """Every call of PutEvents that the bus has taken."""
    calls: list[list[dict[str, Any]]] = []
    hook = "provide-client-params.eventbridge.PutEvents"
    events = clients.client("events").meta.events
    events.register(hook, lambda params, **_: calls.append(params["Entries"]), unique_id="seen")
    yield calls
    events.unregister(hook, unique_id="seen")


def test_each_decision_of_the_stream_arrives_in_the_published_form(bus, context):
    stream = load("publish_decisions")
    stream["Records"] += stream["Records"][:3]
    assert publish_decisions.handler(stream, context) == {"published": len(stream["Records"])}
    assert [len(call) for call in bus] == [decision_events.MOST_ENTRIES, len(stream["Records"]) - 10]
    for event, record in zip(itertools.chain(*bus), stream["Records"], strict=True):
        detail = json.loads(event["Detail"])
        SCHEMA.validate(detail)
        assert (event["Source"], event["DetailType"]) == ("ebb", "Ebb Decision")
        assert detail["decision"]["what"] == record["dynamodb"]["NewImage"]["what"]["S"]
        assert detail["subject"] == {"kind": "run", "name": RUN_ID, "project": "cancer"}
        assert event["Time"].date().isoformat() == "2026-11-23", "when it was decided, not when it was sent"


def test_a_second_delivery_has_the_same_ids(bus, context):
    for _ in range(2):
        publish_decisions.handler(load("publish_decisions"), context)
    ids = [json.loads(each["Detail"])["id"] for each in itertools.chain(*bus)]
    assert len(ids) == 2 * len(set(ids))


def test_what_was_removed_is_no_decision(bus, context):
    stream = load("publish_decisions")
    for record in stream["Records"]:
        record["eventName"] = "REMOVE"
        del record["dynamodb"]["NewImage"]
    assert publish_decisions.handler(stream, context) == {"published": 0}


def test_a_record_that_can_be_no_event_holds_up_nothing(bus, context):
    stream = load("publish_decisions")
    stream["Records"][3]["dynamodb"]["NewImage"].pop("what")
    assert publish_decisions.handler(stream, context) == {"published": len(stream["Records"]) - 1}


def test_a_refused_event_fails_the_batch_so_that_the_stream_brings_it_again(account, context, monkeypatch):
    """PutEvents answers 200 to a call of which it has taken a part only."""
    stream = load("publish_decisions")
    stream["Records"] = stream["Records"][:2]
    client = made("events")
    with Stubber(client) as stubber:
        stubber.add_response(
            "put_events",
            {"FailedEntryCount": 1, "Entries": [{"EventId": "1"}, {"ErrorCode": "ThrottlingException"}]},
        )
        monkeypatch.setattr(clients, "client", lambda service: client)
        with pytest.raises(EventsUnavailableError, match="refused 1 of 2 events: ThrottlingException"):
            publish_decisions.handler(stream, context)


def test_a_bus_that_cannot_be_asked_is_an_error_too():
    client = made("events")
    with Stubber(client) as stubber:
        stubber.add_client_error("put_events", "InternalException", http_status_code=500)
        with pytest.raises(EventsUnavailableError, match="PutEvents: InternalException"):
            outbox.put([{"Source": "ebb", "DetailType": "x", "Detail": "{}"}], client)
