"""`ebb publish`: decisions of the ledger as EventBridge events once more, for readers that missed them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from boto3.dynamodb.types import TypeDeserializer

from ebb import decision_events
from ebb import ledger as keys
from ebb.aws import outbox
from ebb.errors import EventsUnavailableError
from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import CommandError
from ebb_cli.target import Json, Target

Run = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run id, the start of one, or latest; else all.")]


def publish(target: Target, run: Run = None, as_json: Json = False) -> None:
    """Send decisions as events once more: those of a run, or all that the ledger holds (endpoints' too).

    Every decision is sent when it is made. This is for who was not listening then, or for an outage of EventBridge
    that outlasted the stream's day. A decision has the same id however often it is sent.
    """
    if run is not None:
        run_id = Ledger(target).resolve(run)
        found = _items(target, "query", KeyConditionExpression="pk = :pk", **_value(keys.run_key(run_id)["pk"]))
    else:
        found = _items(target, "scan")
    decisions = [each for each in found if decision_events.is_decision(each)]
    try:
        count = outbox.put(map(decision_events.entry, decisions), target.client("events"))
    except EventsUnavailableError as problem:
        raise CommandError(str(problem), "Call it again: what has been sent keeps its id.") from problem
    if as_json:
        output.emit_json({"published": count, "run_id": run_id if run is not None else None})
        return
    output.out().print(f"{count} decisions sent as events ({decision_events.SOURCE}, {decision_events.DETAIL_TYPE}).")


def _value(pk: str) -> dict[str, Any]:
    return {"ExpressionAttributeValues": {":pk": {"S": pk}}}


def _items(target: Target, action: str, **request: Any) -> Iterator[dict[str, Any]]:
    plain = TypeDeserializer().deserialize
    pages = target.client("dynamodb").get_paginator(action)
    for page in pages.paginate(TableName=target.outputs["LedgerTableName"], **request):
        for item in page["Items"]:
            yield keys.from_item({name: plain(value) for name, value in item.items()})
