"""End a run in the ledger and write its record beside its artifacts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ebb import ledger, names, record
from ebb.aws import storage
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
    Then what the run has set aside of a budget is settled, once more where whoever ended it could not.
    The report comes last, for it can be made again from run.json.
    """
    story = book.story(run_id)
    stages = story.stages if story else []
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
