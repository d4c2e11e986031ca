"""End a run in the ledger and write its record beside its artifacts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ebb import ledger, names, record
from ebb.aws import storage
from ebb.aws.ledger import Ledger


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
    """Record the end of a run, with its footprint, and write run.json; return the run, None when it had ended already.

    The ledger comes first: it alone decides whether this end counts.
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
        return None
    ended = book.story(run_id)
    if ended is None:
        return None
    if status == "rejected":
        book.forget_rejected(ended.run)
    storage.write_json(artifact_bucket, key, record.document(ended.run, ended.stages, ended.decisions))
    return ended.run
