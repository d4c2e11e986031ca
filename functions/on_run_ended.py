"""Lambda: record a run that ended from outside (aborted, timed out) or could not record its own end."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import ledger, names
from ebb.aws import closing
from ebb.aws.ledger import Ledger
from ebb.events import RunEnded
from ebb.settings import RecordSettings
from ebb.telemetry import logger

_STATUS = {"ABORTED": "cancelled", "TIMED_OUT": "failed", "FAILED": "failed"}


@logger.inject_lambda_context
@event_parser
def handler(ended: RunEnded, context: LambdaContext) -> dict[str, Any]:
    """Answer whether there was anything left to record."""
    settings = RecordSettings.from_env()
    run_id, attempt = names.parse_execution(ended.name)
    what = {"ABORTED": "the run was cancelled", "TIMED_OUT": "the run took longer than it may"}.get(ended.status)
    message = ended.cause or what or ended.error or "the run ended without saying why"
    error = ledger.error_of(None, kind=ended.error or ended.status, message=message, stage=None)
    recorded = closing.close(
        Ledger(settings.ledger_table),
        settings.artifact_bucket,
        run_id=run_id,
        attempt=attempt,
        project=names.project_of(run_id),
        status=_STATUS[ended.status],
        now=ended.stop_date,
        fields={"error": error} if ended.status != "ABORTED" else {"reason": message},
    )
    return {"run_id": run_id, "recorded": recorded is not None}
