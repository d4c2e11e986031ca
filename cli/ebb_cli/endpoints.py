"""`ebb endpoints`, `ebb wake`, `ebb sleep`: where each model is reached; its endpoint woken or put to sleep by hand."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.markup import escape

from ebb import addresses, ledger, names
from ebb.addresses import Address
from ebb.aws import executions
from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

HOURS_PER_MONTH = 730.0
CALLS_WITHIN = timedelta(days=14)
CALLS_PERIOD_S = 3600
QUERIES_AT_ONCE = 500  # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
Project = Annotated[str, typer.Argument(help="Project, or the address of an endpoint that Ebb did not make.")]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until it is done.")]


def endpoints(target: Target, as_json: Json = False) -> None:
    """List the models' addresses: where each is reached, whether it is awake, and what that costs."""
    book = Ledger(target)
    found = book.addresses()
    calls = _last_calls(target, found, book.now)
    listed = [_document(each, calls.get(each.address)) for each in found]
    if as_json:
        output.emit_json(listed)
        return
    if not listed:
        output.out().print("No endpoints yet: ebb drop PATH --project NAME ends in one.")
        return
    rows = [
        (
            each["address"], each["kind"], _state(each), escape(_reached(each)), _window(each),
            output.moment(each["last_call_at"].isoformat())[:16] if each["last_call_at"] else "-",
            output.number(each["awake_usd_per_hour"]), output.number(each["always_on_usd_per_month"]),
        )
        for each in listed
    ]  # fmt: skip
    columns = (
        "address",
        "kind",
        "state",
        "reached by",
        "sleeps after",
        "last call",
        "USD/h awake",
        "USD/month if never asleep",
    )
    output.table("", columns, rows, right=columns[-2:])
    for each in listed:
        if each["state"] not in (addresses.AWAKE, addresses.WAKING) and each["reason"]:
            output.out().print(f"{each['address']}: {each['reason']}", style="dim", markup=False, soft_wrap=True)


def wake(target: Target, project: Project, wait: Wait = False) -> None:
    """Wake a model's endpoint before anybody asks it."""
    book = Ledger(target)
    at = known(book, target, project)
    if at.state == addresses.AWAKE:
        output.out().print(f"{at.address} is awake.")
        return
    if at.state not in (addresses.WAKING, addresses.FALLING_ASLEEP):
        given = {"address": at.address, "generation": at.generation, "reason": "asked by hand"}
        name = addresses.wake_execution(at.address, at.generation)
        _start(target, "WakeEndpointStateMachineArn", name, given)
    output.out().print(f"{at.address} is waking.")
    if wait:
        _until(book, target, at, {addresses.AWAKE}, {addresses.FAILED})


def sleep(target: Target, project: Project, wait: Wait = False) -> None:
    """Put a model's endpoint to sleep now, if nobody uses it; nothing that is busy is stopped."""
    book = Ledger(target)
    at = known(book, target, project)
    if at.kind not in addresses.SLEEPABLE:
        output.out().print(f"{at.address} is {at.kind}: nothing of it runs while nobody asks.")
        return
    if at.state != addresses.AWAKE:
        output.out().print(f"{at.address} is {at.state}.")
        return
    given = {"address": at.address, "generation": at.generation, "reason": "asked by hand", "now": ledger.iso(book.now)}
    name = addresses.sleep_execution(at.address, at.generation, book.now)
    _start(target, "ScaleToZeroStateMachineArn", name, given)
    output.out().print(f"{at.address}: whether it is idle is being decided, and it sleeps once it is.")
    if wait:
        arn = f"{target.outputs['ScaleToZeroStateMachineArn'].replace(':stateMachine:', ':execution:')}:{name}"
        _until(book, target, at, {addresses.ASLEEP}, set(), execution=arn)


def known(book: Ledger, target: Target, project: str) -> Address:
    """Return the address of a project, or of this name.

    Raises: CommandError, with names that are alike.
    """
    tried = [names.endpoint(target.stack, project), project]
    for each in tried:
        if found := book.address(each):
            return found
    listed = [each.project or each.address for each in book.addresses()]
    alike = difflib.get_close_matches(project, listed, n=3)
    remedy = f"Did you mean {', '.join(alike)}?" if alike else "ebb endpoints lists what is served."
    raise CommandError(f"{project} has no address.", remedy, status=USAGE)


def _start(target: Target, output_name: str, name: str, given: dict[str, Any]) -> None:
    executions.ensure(target.outputs[output_name], name, given, states=target.client("stepfunctions"))


def _until(
    book: Ledger, target: Target, at: Address, wanted: set[str], failed: set[str], execution: str | None = None
) -> None:
    """Wait for a state; an execution that ends without it has decided otherwise, and says why."""
    with output.err().status(f"waiting for {at.address}"):
        while True:
            ended = execution is not None and not executions.is_running(execution, target.client("stepfunctions"))
            found = book.address(at.address) or at
            if found.state in wanted:
                break
            if found.state in failed or ended:
                why = f": {found.reason}" if found.reason else ""
                raise CommandError(f"{at.address} is {found.state}{why}.", "ebb endpoints shows where it stands.")
            time.sleep(target.poll_s)
    output.out().print(f"{at.address} is {found.state}.")


def _document(at: Address, last_call: datetime | None) -> dict[str, Any]:
    sleeps = at.kind in addresses.SLEEPABLE and at.policy.sleeps
    called = [each for each in (at.last_request_at, last_call) if each]
    hourly = at.awake_usd_per_hour
    return {
        "address": at.address,
        "project": at.project,
        "origin": at.origin,
        "kind": at.kind,
        "state": at.state,
        "since": at.changed_at,
        "reason": at.reason,
        "endpoint_name": at.endpoint_name,
        "component": at.component,
        "model": at.model_name,
        "run_id": at.run_id,
        "instance_type": at.instance_type,
        "copies": at.copies,
        "sleeps": sleeps,
        "idle_after_s": at.policy.idle_after_s if sleeps else None,
        "last_call_at": max(called) if called else None,
        "awake_usd_per_hour": hourly,
        "always_on_usd_per_month": None if hourly is None else hourly * HOURS_PER_MONTH,
    }


def _state(document: dict[str, Any]) -> str:
    state = document["state"]
    if state in (addresses.ASLEEP, addresses.FAILED) and document["since"]:
        return f"{state} since {output.moment(document['since'].isoformat())[:16]}"
    return str(state)


def _reached(document: dict[str, Any]) -> str:
    if document["kind"] == "batch":
        return "files below score/"
    what = f" / {document['component']}" if document["component"] else ""
    machines = f" on {document['copies']} x {document['instance_type']}" if document["instance_type"] else ""
    return f"{document['endpoint_name']}{what}{machines}"


def _window(document: dict[str, Any]) -> str:
    if document["kind"] not in addresses.SLEEPABLE:
        return "-"  # nothing of it runs while nobody asks
    if not document["sleeps"]:
        return "never"
    return output.duration(document["idle_after_s"]) if document["idle_after_s"] else "as it is used"


def _last_calls(target: Target, found: Iterable[Address], now: datetime) -> dict[str, datetime]:
    """Return the hour of each address's last call within two weeks, as far as its kind publishes calls.

    One metric for each address, of those that AWS bills. Who may not read them sees what the front door noted.
    """
    queries = {f"m{number}": (each, query) for number, each in enumerate(found) if (query := _query(each))}
    listed, calls = list(queries.items()), dict[str, datetime]()
    for first in range(0, len(listed), QUERIES_AT_ONCE):
        asked = [
            {"Id": name, "MetricStat": {"Metric": query, "Period": CALLS_PERIOD_S, "Stat": "Sum"}}
            for name, (_, query) in listed[first : first + QUERIES_AT_ONCE]
        ]
        try:
            for page in (
                target.client("cloudwatch")
                .get_paginator("get_metric_data")
                .paginate(MetricDataQueries=asked, StartTime=now - CALLS_WITHIN, EndTime=now)
            ):
                for result in page["MetricDataResults"]:
                    seen = [at for at, value in zip(result["Timestamps"], result["Values"], strict=True) if value]
                    name = queries[result["Id"]][0].address
                    calls |= {name: max([*seen, *([calls[name]] if name in calls else [])])} if seen else {}
        except (BotoCoreError, ClientError):
            return calls
    return {name: moment.astimezone(UTC) for name, moment in calls.items()}


def _query(at: Address) -> dict[str, Any] | None:
    if at.component:
        metric, dimensions = "InvocationsPerCopy", {"InferenceComponentName": at.component}
    elif at.kind in ("serverless", "classic") and at.endpoint_name:
        metric, dimensions = "Invocations", {"EndpointName": at.endpoint_name, "VariantName": at.variant}
    else:  # asynchronous endpoints publish no calls: they come through the front door
        return None
    named = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    return {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": named}
