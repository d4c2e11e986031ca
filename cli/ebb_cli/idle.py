"""`ebb idle`: what nobody uses, what becomes of it and why, and what that saves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from ebb import sweep
from ebb.aws.account import Reader
from ebb.reaping import Policy
from ebb.scaling_sleep import WATCHING_USD_PER_MONTH
from ebb.sweep import Finding, Report, Unread
from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import CommandError
from ebb_cli.target import Json, Target

REPORT_KEY = "sweep/report.json"
EVERYTHING = 100_000  # a person who asks gets a closer look at every candidate, however many there are
PATIENCE_S = 600.0
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen; nothing is started.")]

# What becomes of it, by what the sweep decides; the second form is that of --dry-run.
WORDS = {
    "sleep": ("put to sleep, if still idle", "would be put to sleep"),
    "stop": ("stopped, if still unused", "would be stopped"),
    "wake": ("woken", "would be woken"),
    "repair": ("put right", "would be put right"),
    "keep": ("kept", "kept"),
    "protected": ("protected", "protected"),
    "unread": ("could not be read", "could not be read"),
}
COLOURS = {"sleep": "green", "stop": "green", "wake": "cyan", "repair": "cyan", "protected": "yellow", "unread": "red"}
ORDER = ("wake", "repair", "sleep", "stop", "protected", "keep", "unread")


def idle(target: Target, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Show what is idle in the account: endpoints, notebooks, Studio apps, spaces, warm pools, training jobs.

    Starts the sweep now, which otherwise comes every quarter of an hour: what is idle is decided once more, precisely,
    and then put to sleep or stopped. Resources that Ebb did not make are protected until the stack's parameter
    ManageForeignEndpoints is yes and their own tag is ebb:sleep=allowed; the tag ebb:keep=yes keeps anything.
    The exit status is 1 when a part of the account could not be read: what is not known is not idle, nor in use.
    """
    report = looked_at(target) if dry_run else swept(target)
    document = as_document(report, dry_run=dry_run)
    output.emit_json(document) if as_json else show(document)
    if not document["complete"]:
        raise CommandError(_incomplete(document), "The next sweep tries again; what is denied has to be allowed.")


def looked_at(target: Target) -> Report:
    """Return what a sweep would find now; reads the account with the caller's own credentials, changes nothing."""
    ledger = Ledger(target)
    ledger.addresses()  # tells the cloud's own time: an embedded cloud's clock may be ahead
    now, managed = ledger.now, manages_foreign(target)
    output.err().print("reading the account", style="dim")
    reader, outputs = Reader(target.client), target.outputs
    machines = [outputs["ScaleToZeroStateMachineArn"], outputs["WakeEndpointStateMachineArn"]]
    seen = reader.seen(table=outputs["LedgerTableName"], stack=target.stack, machines=machines)
    # a closer look tells the price, also of what is protected
    looks = sweep.looks(seen, {}, Policy(stack=target.stack, foreign=True), now=now, most=EVERYTHING)
    if looks.endpoints or looks.resources:
        output.err().print(f"looking closer at {len(looks.endpoints) + len(looks.resources)} candidates", style="dim")
    policy = Policy(stack=target.stack, foreign=managed)
    done = sweep.judge(reader.looked(seen, looks), {}, policy, now=now)
    return Report(swept_at=now, findings=done.findings, unread=done.unread, counts=done.counts, deferred=done.deferred)


def swept(target: Target) -> Report:
    """Start a sweep, wait for its end, and return what it found and started."""
    ledger = Ledger(target)
    ledger.addresses()
    states = target.client("stepfunctions")
    asked = {"now": ledger.now.isoformat(), "asked_by": "ebb idle"}
    started = states.start_execution(
        stateMachineArn=target.outputs["SweepAccountStateMachineArn"],
        name=f"asked-{sweep.execution(ledger.now)}-{time.time_ns() % 10**6:06}",
        input=json.dumps(asked),
    )
    output.err().print("sweeping the account", style="dim")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = states.describe_execution(executionArn=started["executionArn"])
        if found["status"] == "SUCCEEDED":
            break
        if found["status"] != "RUNNING" or time.monotonic() > deadline:
            why = found.get("cause") or found.get("error") or f"it is still {found['status']}"
            raise CommandError(f"The sweep did not succeed: {why}"[:500], "The log of the function sweep_account.")
        time.sleep(target.poll_s)
    body = target.client("s3").get_object(Bucket=target.outputs["ArtifactBucketName"], Key=REPORT_KEY)["Body"].read()
    return Report.model_validate_json(body)


def manages_foreign(target: Target) -> bool:
    """Return whether the stack may touch what Ebb did not make."""
    given = {item["ParameterKey"]: item["ParameterValue"] for item in target.describe_stack().get("Parameters", [])}
    return given.get("ManageForeignEndpoints") == "yes"


def as_document(report: Report, *, dry_run: bool) -> dict[str, Any]:
    """Return what is printed, as plain values; savings are net of what Ebb itself costs per resource."""
    found = sorted(report.findings, key=lambda each: (ORDER.index(each.action), -(each.usd_per_hour or 0), each.name))
    rows = [_row(each, report.swept_at) for each in found]
    acted = [row for row in rows if row["action"] in ("sleep", "stop")]
    guarded = [row for row in rows if row["action"] == "protected"]
    return {
        "dry_run": dry_run,
        "at": report.swept_at,
        "findings": rows,
        "counts": report.counts,
        "started": [each.name for each in report.started],
        "deferred": report.deferred,
        "unread": [each.model_dump() for each in report.unread],
        "not_judged": report.counts.get("not judged", 0) + report.counts.get("unread", 0),
        "complete": not (report.unread or report.counts.get("not judged") or report.counts.get("unread")),
        "saves_usd_per_month": _sum(row["net_usd_per_month"] for row in acted),
        "protected_usd_per_month": _sum(row["net_usd_per_month"] for row in guarded),
        "price_unknown": sum(row["usd_per_month"] is None for row in [*acted, *guarded]),
    }


def _row(found: Finding, now: datetime | None) -> dict[str, Any]:
    gross = found.usd_per_month
    own = WATCHING_USD_PER_MONTH[found.owner]
    return {
        "kind": found.kind,
        "name": found.name,
        "made_by": found.owner,
        "action": found.action,
        "reason": found.reason,
        "idle_since": found.idle_since,
        "idle_for_s": (now - found.idle_since).total_seconds() if now and found.idle_since else None,
        "usd_per_month": gross,
        "ebb_usd_per_month": own,
        "net_usd_per_month": None if gross is None else max(gross - own, 0.0),
        "asked_before": found.tries > 1,
        "next_look": found.next_look,
    }


def _sum(values: Iterable[float | None]) -> float:
    return round(sum(each for each in values if each is not None), 2)


def show(document: dict[str, Any]) -> None:
    """Print the findings for a platform engineer."""
    say, rows = output.out().print, document["findings"]
    if rows:
        columns = ("what", "name", "made by", "unused since", "USD/month", "net of Ebb", "what happens", "why")
        table = [_cells(row, dry_run=document["dry_run"]) for row in rows]
        output.table("", columns, table, right=("USD/month", "net of Ebb"))
        say("")
    elif document["complete"]:
        say("Nothing is idle.")
    acted = [row for row in rows if row["action"] in ("sleep", "stop")]
    guarded = [row for row in rows if row["action"] == "protected"]
    if acted:
        would = "would save" if document["dry_run"] else "saves"
        saved = f"{document['saves_usd_per_month']:,.2f} USD a month"
        say(f"{_counted(len(acted), 'resource')} idle: {would} up to [bold]{saved}[/], net of what Ebb costs.")
    if guarded:
        worth = f"{document['protected_usd_per_month']:,.2f} USD a month"
        say(
            f"{_counted(len(guarded), 'resource')} protected, worth {worth}: "
            f"{'deploy with ManageForeignEndpoints=yes and ' if _needs_parameter(guarded) else ''}"
            "tag each ebb:sleep=allowed to opt in.",
            soft_wrap=True,
        )
    if document["price_unknown"]:
        say(f"The price of {document['price_unknown']} of them is not in the catalog and counts as nothing.")
    if document["started"]:
        say(f"{_counted(len(document['started']), 'execution')} started; each decides once more before it acts.")
    if document["deferred"]:
        say(f"{_counted(document['deferred'], 'candidate')} left to the next sweep.")
    for each in document["unread"]:
        found = Unread.model_validate(each)
        what = f"{escape(found.what)} ({escape(found.error)})"
        say(f"[red]could not be read:[/] {what}; not judged, tried again by the next sweep", soft_wrap=True)


def _incomplete(document: dict[str, Any]) -> str:
    parts = [_counted(len(document["unread"]), "part")] if document["unread"] else []
    told = f"Of the account {parts[0]} could not be read" if parts else "Not all of the account could be read"
    blind = document["not_judged"]
    return f"{told}: {_counted(blind, 'resource')} not judged." if blind else f"{told}."


def _cells(row: dict[str, Any], *, dry_run: bool) -> tuple[Any, ...]:
    words = WORDS[row["action"]][dry_run]
    colour = COLOURS.get(row["action"])
    since = row["idle_since"]
    return (
        row["kind"],
        escape(row["name"]),
        "Ebb" if row["made_by"] == "ebb" else "others",
        since.astimezone().strftime("%Y-%m-%d %H:%M") if since else "-",
        "-" if row["usd_per_month"] is None else f"{row['usd_per_month']:,.2f}",
        "-" if row["net_usd_per_month"] is None else f"{row['net_usd_per_month']:,.2f}",
        f"[{colour}]{words}[/]" if colour else words,
        escape(row["reason"]),
    )


def _needs_parameter(rows: list[dict[str, Any]]) -> bool:
    return any("ManageForeignEndpoints" in row["reason"] for row in rows)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")
