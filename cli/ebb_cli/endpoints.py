"""`ebb endpoints`, `ebb wake`, `ebb sleep`: where each model is reached; its endpoint woken or put to sleep by hand."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterable, Sequence
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
CHANGING = {addresses.FALLING_ASLEEP, addresses.WAKING}
WIDTH = 100  # of the table, unless it is asked for whole
NUMBERS = ("USD/h", "USD/month awake")
DROPPED = ("USD/h", "last call", "sleeps after")  # in this order, on a terminal that is too narrow for them
READABLE_NAME, SHORTEST_NAME = 32, 12  # what is left at least of a name beside other columns, and at all
STEPS_READ = 100  # events of an execution: a decision, what is done about it, and looks at what comes of it
Project = Annotated[str, typer.Argument(help="Project, or the address of an endpoint that Ebb did not make.")]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until it is done.")]


def endpoints(
    target: Target,
    name: Annotated[str | None, typer.Argument(help="Only this one, with all that is known of it.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, whatever the terminal's width.")] = False,
    as_json: Json = False,
) -> None:
    """List the models' addresses: where each is reached, whether it is awake, and what that costs."""
    book = Ledger(target)
    found = [known(book, target, name)] if name else book.addresses()
    calls = _last_calls(target, found, book.now)
    listed = [_document(each, calls.get(each.address)) for each in found]
    if as_json:
        output.emit_json(listed[0] if name else listed)
    elif name:
        _show_one(listed[0])
    elif not listed:
        output.out().print("No endpoints yet: ebb drop PATH --project NAME ends in one.")
    else:
        _show(listed, wide=wide)


def wake(target: Target, project: Project, wait: Wait = False, as_json: Json = False) -> None:
    """Wake a model's endpoint before anybody asks it."""
    book = Ledger(target)
    at = known(book, target, project)
    execution = None
    if at.state not in (addresses.AWAKE, addresses.WAKING):
        given = {"address": at.address, "generation": at.generation, "reason": "asked by hand"}
        name = addresses.wake_execution(at.address, at.generation)
        execution = _start(target, "WakeEndpointStateMachineArn", name, given)
    if at.state == addresses.AWAKE:
        _tell(at, f"{at.address} is awake.", None, as_json=as_json)
        return
    if not (wait and as_json):
        _tell(at, f"{at.address} is waking.", execution, as_json=as_json)
    if wait:
        _until(book, target, at, {addresses.AWAKE}, {addresses.FAILED}, execution, as_json=as_json)


def sleep(target: Target, project: Project, wait: Wait = False, as_json: Json = False) -> None:
    """Put a model's endpoint to sleep now, if nobody uses it; nothing that is busy is stopped."""
    book = Ledger(target)
    at = known(book, target, project)
    if at.kind not in addresses.SLEEPABLE:
        _tell(at, f"{at.address} is {at.kind}: nothing of it runs while nobody asks.", None, as_json=as_json)
        return
    if at.state != addresses.AWAKE:
        _tell(at, f"{at.address} is {at.state}.", None, as_json=as_json)
        return
    given = {"address": at.address, "generation": at.generation, "reason": "asked by hand", "now": ledger.iso(book.now)}
    name = addresses.sleep_execution(at.address, at.generation, book.now)
    execution = _start(target, "ScaleToZeroStateMachineArn", name, given)
    if not (wait and as_json):
        told = f"{at.address}: whether it is idle is being decided, and it sleeps once it is."
        _tell(at, told, execution, as_json=as_json)
    if wait:
        _until(book, target, at, {addresses.ASLEEP}, set(), execution, as_json=as_json)


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


def _start(target: Target, output_name: str, name: str, given: dict[str, Any]) -> str:
    return executions.run(target.outputs[output_name], name, given, target.client("stepfunctions"))[0]


def _tell(at: Address, told: str, execution: str | None, *, as_json: bool) -> None:
    if as_json:
        output.emit_json(_answer(at, execution, at.reason))
    else:
        output.out().print(told, soft_wrap=True)


def _answer(at: Address, execution: str | None, reason: str | None) -> dict[str, Any]:
    """What `ebb wake --json` and `ebb sleep --json` print: where the address stands, and who works on it."""
    return {
        "address": at.address,
        "kind": at.kind,
        "state": at.state,
        "reason": reason,
        "execution_arn": execution or at.worked_by,
    }


def _until(
    book: Ledger,
    target: Target,
    at: Address,
    wanted: set[str],
    failed: set[str],
    execution: str | None,
    *,
    as_json: bool,
) -> None:
    """Wait for a state, and tell meanwhile for what; an execution that ends without it has decided otherwise."""
    with _Waiting(at.address) as tell:
        while True:
            ended = execution is not None and not executions.is_running(execution, target.client("stepfunctions"))
            found = book.address(at.address) or at
            # one that was killed on its way is taken up by another
            if found.state in wanted or found.state in failed or (ended and found.state not in CHANGING):
                break
            tell(_going_on(target, execution or found.worked_by))
            time.sleep(target.poll_s)
    why = found.reason
    if found.state not in wanted | failed and execution is not None:
        why = _concluded(target, execution) or why
    if as_json:
        output.emit_json(_answer(found, execution, why))
    if found.state not in wanted:
        raise CommandError(
            f"{at.address} is {found.state}{f': {why}' if why else ''}.", "ebb endpoints shows where it stands."
        )
    if not as_json:
        output.out().print(f"{at.address} is {found.state}.")


class _Waiting:
    """Says on stderr what is waited for: in one changing line on a terminal, else a line whenever it changes."""

    def __init__(self, address: str) -> None:
        self._address, self._console, self._said = address, output.err(), ""
        self._status = self._console.status(f"waiting for {escape(address)}") if self._console.is_terminal else None

    def __enter__(self) -> _Waiting:
        if self._status:
            self._status.start()
        return self

    def __call__(self, why: str) -> None:
        """Tell why, unless that has been told."""
        told = f"waiting for {self._address}{f': {why}' if why else ''}"
        if told == self._said:
            return
        self._said = told
        if self._status:
            self._status.update(escape(told))
        else:
            self._console.print(told, style="dim", markup=False, soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()


def _going_on(target: Target, execution: str | None) -> str:
    """Return the reason of the last decision of an execution, and until when that holds; empty when it is not known."""
    if execution is None:
        return ""
    try:
        found = target.client("stepfunctions").get_execution_history(
            executionArn=execution, reverseOrder=True, maxResults=STEPS_READ
        )
    except ClientError:  # may not be read, or is too young to be there
        return ""
    for event in found["events"]:
        step = _step_of(event)
        if step:
            waits_s = 0 if step.get("watch") else step.get("wait_s") or 0  # what is watched ends when AWS is done
            until = event["timestamp"] + timedelta(seconds=waits_s)
            again = f", until {output.moment(until.isoformat())[11:]}" if waits_s > 1 else ""
            return f"{step['reason']}{again}"
    return ""


def _step_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the step that `decide_scaling` or `plan_wake` answered with, None for any other event."""
    try:
        step = json.loads(event["taskSucceededEventDetails"]["output"])["Payload"]
    except (KeyError, TypeError, ValueError):
        return None
    return step if isinstance(step, dict) and "reason" in step else None


def _concluded(target: Target, execution: str) -> str | None:
    """Return why an execution that has ended has left it at that."""
    try:
        found = target.client("stepfunctions").describe_execution(executionArn=execution)
        return str(json.loads(found["output"])["reason"]) if "output" in found else found.get("cause")
    except (ClientError, KeyError, TypeError, ValueError):
        return None


# ---- The table, as wide as the terminal, and one address in full ----


def _show(listed: list[dict[str, Any]], *, wide: bool) -> None:
    rows = [_cells(each) for each in listed]
    if wide:
        output.table("", tuple(rows[0]), [tuple(row.values()) for row in rows], right=NUMBERS, whole=True)
    else:
        columns, cells, cut = fitting(rows, min(output.out().width, WIDTH))
        output.table("", columns, cells, right=NUMBERS, whole=True)
        if cut:
            output.remark("ebb endpoints --wide shows all of it, ebb endpoints NAME one of them.")
    for each in listed:
        if each["state"] not in (addresses.AWAKE, addresses.WAKING) and each["reason"]:
            output.remark(f"{each['address']}: {_state(each)}: {each['reason']}")


def _show_one(document: dict[str, Any]) -> None:
    told = dict(document)
    told["sleeps_after"] = _window(document)
    for name in ("sleeps", "idle_after_s"):
        told.pop(name)
    for name in ("since", "last_call_at"):
        told[name] = output.moment(told[name].isoformat()) if told[name] else None
    for name in ("awake_usd_per_hour", "always_on_usd_per_month"):
        told[name] = output.number(told[name])
    width = max(map(len, told))
    for name, value in told.items():
        text = "-" if value is None or value == "" else str(value)
        output.out().print(f"{name.replace('_', ' '):{width}}  {text}", markup=False, soft_wrap=True)


def _cells(document: dict[str, Any]) -> dict[str, str]:
    """Return a row of the whole table, by column."""
    last = document["last_call_at"]
    return {
        "address": document["address"],
        "kind": document["kind"],
        "state": _state(document),
        "sleeps after": _window(document),
        "last call": output.moment(last.isoformat())[:16] if last else "-",
        "USD/h": output.number(document["awake_usd_per_hour"]),
        "USD/month awake": output.number(document["always_on_usd_per_month"]),
        "reached by": _reached(document),
    }


def fitting(rows: list[dict[str, str]], width: int) -> tuple[tuple[str, ...], list[tuple[str, ...]], bool]:
    """Return the columns and the rows that fit into a width, and whether something was left out.

    Long names are cut in their middle, since many begin alike; then the least telling columns go.
    """
    columns, given = [name for name in rows[0] if name != "reached by"], [dict(row) for row in rows]
    every = len(columns)
    for row in given:  # since when it is asleep stands with the reason
        row["state"], row["last call"] = row["state"].partition(" since ")[0], row["last call"][5:] or "-"  # no year
    for name in DROPPED:
        if _width(columns, _named(given, READABLE_NAME)) <= width:
            break
        columns.remove(name)
    longest = max(len(row["address"]) for row in given)
    room = max(longest - max(_width(columns, given) - width, 0), SHORTEST_NAME)
    left_out = len(columns) < every or room < longest
    return tuple(columns), [tuple(row[name] for name in columns) for row in _named(given, room)], left_out


def _named(rows: Iterable[dict[str, str]], longest: int) -> list[dict[str, str]]:
    """Return the rows with names of at most so many characters."""
    return [row | {"address": _cut(row["address"], longest)} for row in rows]


def _width(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> int:
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in columns]
    return sum(widths) + 2 * (len(widths) - 1)


def _cut(name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end]}…{name[len(name) - end :]}"


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
        "called_after_s": at.called_after_s,  # Ebb's own delay at its last wake, from the first request on
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
