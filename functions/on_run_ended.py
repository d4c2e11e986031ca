"""Lambda: record a run that ended from outside (aborted, timed out) or could not record its own end."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import ledger, names, record
from ebb.aws import closing
from ebb.aws.ledger import Ledger
from ebb.events import RunEnded
from ebb.record import Ended
from ebb.settings import RecordSettings
from ebb.telemetry import logger

REJECTED = "DropRejected"  # how `run_pipeline` fails when the drop is at fault


@logger.inject_lambda_context
@event_parser
def handler(ended: RunEnded, context: LambdaContext) -> dict[str, Any]:
    """Answer whether there was anything left to record."""
    settings = RecordSettings.from_env()
    run_id, attempt = names.parse_execution(ended.name)
    status, fields = _told(ended, run_id, attempt)
    recorded = closing.close(
        Ledger(settings.ledger_table),
        settings.artifact_bucket,
        run_id=run_id,
        attempt=attempt,
        project=names.project_of(run_id),
        status=status,
        now=ended.stop_date,
        fields=fields,
        repeatable=False,  # what the run recorded of its own end says more than this event
    )
    return {"run_id": run_id, "recorded": recorded is not None}


def _told(ended: RunEnded, run_id: str, attempt: int) -> tuple[str, dict[str, Any]]:
    """Return the status of a run that ended so, and the fields that say why."""
    if ended.status == "ABORTED":
        return "cancelled", {"reason": ended.cause or "the run was cancelled"}
    if ended.status == "TIMED_OUT":
        message = ended.cause or "the run took longer than it may"
        return "failed", {"error": ledger.error_of(None, kind=ended.error or "TIMED_OUT", message=message, stage=None)}
    end = Ended(
        action="rejected" if ended.error == REJECTED else "failed",
        run_id=run_id,
        attempt=attempt,
        project=names.project_of(run_id),
        now=ended.stop_date,
        error=ended.error,
        cause=ended.cause,
    )
    return end.action, {"error": record.what_went_wrong(end)}
