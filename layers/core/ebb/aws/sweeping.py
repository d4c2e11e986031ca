"""Carry out what a sweep concludes: start executions, note foreign endpoints, keep the report for the next sweep."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from ebb import addresses
from ebb.addresses import Address
from ebb.aws import executions, storage
from ebb.aws.ledger import Ledger
from ebb.errors import LedgerUnavailableError, ObjectMissingError
from ebb.settings import SweepSettings
from ebb.sweep import Daily, Finding, Report, Start, Sweep, Unread

REPORT_KEY = "sweep/report.json"
# Executions are started 150 a second and more: https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
THREADS = 16
TOLD = 25  # of what could not be read; the report has them all


def last_report(bucket: str) -> Report:
    """Return what the last sweep found; an empty report before the first one, or after one that cannot be read.

    Without it nothing is lost: what was asked about a short while ago is asked about once more.
    Raises: ObjectDeniedError, StorageUnavailableError.
    """
    try:
        return Report.model_validate_json(storage.read(bucket, REPORT_KEY))
    except (ObjectMissingError, ValidationError):
        return Report()


def models_of_kind_auto(book: Ledger, known: Iterable[Address]) -> list[Address]:
    """Return the addresses whose spec leaves the kind to Ebb.

    Raises: LedgerUnavailableError.
    """
    found = []
    for at in known:
        run = book.run(at.run_id) if at.origin == "ebb" and at.run_id else None
        if run and ((run.get("spec") or {}).get("serve") or {}).get("kind", "auto") == "auto":
            found.append(at)
    return found


def act(
    done: Sweep,
    moves: list[Start],
    settings: SweepSettings,
    book: Ledger,
    *,
    daily: Daily | None,
    listed_at: datetime | None,
) -> Report:
    """Start what is due and return the report. What could not be started is reported, and due at the next sweep."""
    foreign = {at.address: at for at in done.put}
    due = [*done.starts, *moves]

    def begin(start: Start) -> Start | Unread:
        try:
            given = _noted(start, foreign, book, done)
            executions.ensure(settings.machine_arn(given.machine), given.name, given.input)
        except (ClientError, BotoCoreError, LedgerUnavailableError) as error:
            return Unread(what=f"start of {start.name}", error=_code(error))
        return given

    with ThreadPoolExecutor(THREADS) as pool:
        begun = list(pool.map(begin, due))
    pairs = list(zip(due, begun, strict=True))
    started = [each for each in begun if isinstance(each, Start)]
    unread = [*done.unread, *(each for each in begun if isinstance(each, Unread))]
    failed = {
        str(start.input.get("address") or start.input.get("name")) for start, it in pairs if isinstance(it, Unread)
    }
    return Report(
        swept_at=done.swept_at,
        listed_at=listed_at,
        findings=tuple(_again(each) if each.name in failed else each for each in done.findings),
        started=tuple(started),
        unread=tuple(unread),
        counts=done.counts,
        deferred=done.deferred,
        foreign=done.foreign,
        daily=daily,
    )


def keep(bucket: str, report: Report, calls: dict[str, int]) -> dict[str, Any]:
    """Write the report; return what the execution answers: counts, and the first of what could not be read."""
    storage.write(bucket, REPORT_KEY, report.model_dump_json().encode(), content_type="application/json")
    return {
        "report": f"s3://{bucket}/{REPORT_KEY}",
        "counts": report.counts,
        "started": len(report.started),
        "deferred": report.deferred,
        "unread": [each.model_dump() for each in report.unread[:TOLD]],
        "unread_count": len(report.unread),
        "calls": calls,
    }


def _noted(start: Start, foreign: dict[str, Address], book: Ledger, done: Sweep) -> Start:
    """Return the start of a foreign endpoint with the generation that its address has in the ledger, noted if new."""
    at = foreign.get(str(start.input.get("address")))
    if at is None:
        return start
    known = book.address(at.address)
    if known is None:
        # awake since then, not since it was noted
        book.apply(addresses.put(at, now=at.in_service_since or done.swept_at))
        known = book.address(at.address)
    if known is None:
        raise LedgerUnavailableError(f"{at.address} was noted and is not there")
    name = addresses.sleep_execution(at.address, known.generation, done.swept_at)
    return start.model_copy(update={"name": name, "input": {**start.input, "generation": known.generation}})


def _again(found: Finding) -> Finding:
    return found.model_copy(update={"next_look": None})


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
