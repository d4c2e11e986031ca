"""End a run in the ledger and write its record beside its artifacts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ebb import booking, ledger, names, record
from ebb.aws import clients, publishing, storage
from ebb.aws.budgets import Budgets
from ebb.aws.ledger import Ledger
from ebb.telemetry import logger


def close(
    book: Ledger,
    artifact_bucket: str,
    *,
    run_id: str,
    attempt: int,
    project: str,
    status: str,
    now: datetime,
    fields: Mapping[str, Any],
    repeatable: bool = True,
) -> dict[str, Any] | None:
    """Record the end of a run, with its footprint, and write run.json and the report beside it.

    Return the run, None when it had ended already. The ledger comes first: it alone decides whether this end counts.
    What its jobs took is booked before, whether or not this end counts: they have run, and nothing is booked twice.
    Then what the run has set aside of a budget is settled, once more where whoever ended it could not.
    The report comes last, for it can be made again from run.json.
    """
    story = book.story(run_id)
    stages = story.stages if story else []
    if story:
        _book(book, story.run | dict(fields) | {"attempt": attempt}, stages)
    key = names.record_key(run_id)
    added = {
        **fields,
        "footprint": record.total_footprint(stages).as_dict(),
        "record_uri": f"s3://{artifact_bucket}/{key}",
    }
    if not book.apply(ledger.end_run(run_id, attempt, project, status, now=now, fields=added, repeatable=repeatable)):
        if story and story.run.get("attempt") == attempt and story.run.get("status") != "running":
            Budgets(book.name).settle(run_id, attempt, project, now=now)
        return None
    Budgets(book.name).settle(run_id, attempt, project, now=now)
    ended = book.story(run_id)
    if ended is None:
        return None
    if status == "rejected":
        book.forget_rejected(ended.run)
    booked = book.booked(project, run_id, now)
    document = record.document(ended.run, ended.stages, ended.decisions, booked)
    storage.write_json(artifact_bucket, key, document)
    told = _report(artifact_bucket, run_id, document)
    book.apply(ledger.note_report(run_id, attempt, told))
    return ended.run | told


def _book(book: Ledger, run: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> None:
    """Enter into the footprint ledger what a run's jobs took, and what it did not have to do."""
    region, project = clients.region(), str(run["project"])
    last = (book.project(project).get("measured") or {}) if any(each.get("stopped") for each in stages) else {}
    last_s = (last.get("train") or {}).get("duration_s")
    entries = booking.of_run(run, stages, region=region, last_train_s=last_s)
    earlier = book.story(str(run["reuses"])) if run.get("reuses") else None
    if earlier:
        entries.append(booking.same_drop(run, earlier.run, earlier.stages, region=region))
    borrowed = str((run.get("features") or {}).get("run_id") or "")
    processed = book.stage(borrowed, "process") if borrowed and stages else None
    if processed:
        entries.append(booking.same_features(run, processed, region=region))
    publishing.book(book.name, entries)


def _report(artifact_bucket: str, run_id: str, document: Mapping[str, Any]) -> dict[str, str]:
    """Write the report, and return what the ledger is told of it: where it lies, or why there is none.

    Whatever goes wrong here is no reason to fail a run that has ended: `ebb report` makes the page from run.json.
    """
    from ebb.report import page  # a template engine that only the end of a run needs

    key = names.report_key(run_id)
    try:
        storage.write(artifact_bucket, key, page.render(document), content_type="text/html; charset=utf-8")
    except Exception as error:
        logger.exception("the report was not written", extra={"run_id": run_id})
        return {"report_error": f"{type(error).__name__}, told by the log of the function that ended the run"}
    return {"report_uri": f"s3://{artifact_bucket}/{key}"}
