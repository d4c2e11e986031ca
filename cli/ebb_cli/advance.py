"""`ebb advance`: put the embedded cloud's clock forward, and tell what happened meanwhile."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import botocore.auth
import botocore.awsrequest
import botocore.httpsession
import typer
from rich.markup import escape

from ebb_cli import output
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

SLICE_S = 2.0  # real: how long the server advances before it says how far it has come
PATIENCE_S = 900.0  # real: how long to wait for what works and lets no time pass
LONGEST = timedelta(days=366)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LISTED = 40

How = Annotated[str, typer.Argument(metavar="DURATION", help="How far: 30s, 15m, 2h, 7d.")]


def advance(target: Target, duration: How, as_json: Json = False) -> None:
    """Put the embedded cloud's clock forward: schedules fire, alarms see each minute, executions go on.

    It goes from deadline to deadline, and waits while a function, a job or an execution works. The clock of AWS, and
    that of this machine, stay as they are.
    """
    wanted = parse(duration)
    if not target.embedded:
        raise CommandError(
            f"Only the embedded cloud's clock can be advanced, not that of {target.name}.",
            "ebb up starts the embedded cloud.",
            status=USAGE,
        )
    began = time.monotonic()
    first, last, notes = _go(wanted, lambda request: _send(target, request))
    document = {
        "from": _moment(first),
        "to": _moment(last),
        "advanced_s": round(last - first),
        "took_s": round(time.monotonic() - began, 1),
        "happened": [{"at": _moment(note["at"]), "kind": note["kind"], "text": note["text"]} for note in notes],
    }
    output.emit_json(document) if as_json else _print(document)


def parse(text: str) -> timedelta:
    """Return the duration that a text like 30s, 15m, 2h or 7d names."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    wanted = timedelta(**{_UNITS[found.group(2)]: float(found.group(1))}) if found else timedelta()
    if not timedelta(0) < wanted <= LONGEST:
        raise CommandError(
            f"{text!r} is not a duration from 1s to {LONGEST.days}d.", "Write 30s, 15m, 2h or 7d.", status=USAGE
        )
    return wanted


def quietly(target: Target, wanted: timedelta) -> list[dict[str, Any]]:
    """Put the clock forward without a word and return what happened: `at` (seconds since the epoch), `kind`, `text`."""
    return _go(wanted, lambda request: _send(target, request), say=False)[2]


def _go(
    wanted: timedelta, send: Callable[[dict[str, Any]], dict[str, Any]], *, say: bool = True
) -> tuple[float, float, list[dict]]:
    """Advance slice by slice; return when it began and ended in virtual time, and what happened."""
    reply = send({"Seconds": wanted.total_seconds(), "BudgetSeconds": SLICE_S})
    first, notes = reply["Began"], list(reply["Notes"])
    until, moved = first + wanted.total_seconds(), time.monotonic()
    told = reply["Now"]
    while reply["Now"] < until:
        if not reply["WaitsFor"]:
            moved = time.monotonic()
        elif time.monotonic() - moved > PATIENCE_S:
            raise CommandError(
                f"It came to {_moment(reply['Now']):%Y-%m-%d %H:%M:%S} and no further: {reply['WaitsFor']}."
            )
        if say and (reply["Now"] - told > 0 or reply["WaitsFor"]):
            _say(first, reply, until)
            told = reply["Now"]
        request = {"Seconds": until - reply["Now"], "BudgetSeconds": SLICE_S, "After": reply["Position"]}
        reply = send(request)
        notes += reply["Notes"]
    return first, reply["Now"], notes


def _say(first: float, reply: dict[str, Any], until: float) -> None:
    share = min(1.0, (reply["Now"] - first) / (until - first))
    waiting = f" ({escape(reply['WaitsFor'])})" if reply["WaitsFor"] else ""
    output.err().print(f"… {_moment(reply['Now']):%Y-%m-%d %H:%M} {share:4.0%}{waiting}", style="dim", soft_wrap=True)


def _send(target: Target, document: dict[str, Any]) -> dict[str, Any]:
    """Ask the control endpoint of the embedded cloud, as the account's root."""
    headers = {"X-Amz-Target": "Ebb.Advance", "Content-Type": "application/x-amz-json-1.1"}
    request = botocore.awsrequest.AWSRequest("POST", f"{target.endpoint_url}/", headers, json.dumps(document).encode())
    credentials = target.session.get_credentials()
    assert credentials is not None  # the embedded cloud's own
    botocore.auth.SigV4Auth(credentials, "ebb", target.region).add_auth(request)
    reply = botocore.httpsession.URLLib3Session(timeout=int(PATIENCE_S)).send(request.prepare())
    answer = json.loads(reply.text)
    if reply.status_code != 200:
        raise CommandError(f"The clock was not advanced: {answer.get('message', reply.text)}")
    return answer


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)


def _print(document: dict[str, Any]) -> None:
    rows = document["happened"]
    if rows:
        shown = [(f"{row['at']:%Y-%m-%d %H:%M:%S}", row["kind"], escape(row["text"])) for row in rows[:_LISTED]]
        output.table("", ("when (UTC)", "what", ""), shown)
        if len(rows) > _LISTED:
            output.out().print(f"… and {len(rows) - _LISTED} more (--json lists all)", style="dim")
    output.out().print(
        f"It is {document['to']:%Y-%m-%d %H:%M:%S} UTC in the embedded cloud, "
        f"{timedelta(seconds=document['advanced_s'])} later; that took {output.duration(document['took_s'])}."
    )
