"""Lambda: start a run for each uploaded object that asks for one. Starts executions, decides nothing else."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import events, spec, spec_text
from ebb.aws import executions, storage
from ebb.errors import EbbError, InvalidSpecError, ObjectMissingError
from ebb.events import Ignored, RunRequested, ScoreRequested
from ebb.settings import UploadSettings
from ebb.telemetry import logger


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, list[dict[str, str]]]:
    """Answer with the messages that failed; SQS delivers those again and in the end to the dead-letter queue."""
    settings, failed = UploadSettings.from_env(), []
    for record in event["Records"]:
        try:
            _start(record["body"], settings)
        except Exception as error:  # one bad message must not hold back the others
            known = isinstance(error, EbbError)  # says itself what happened: no stack is needed
            about = {"message_id": record["messageId"], "reason": str(error)}
            logger.error("message not handled", extra=about, exc_info=not known)
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}


def _start(body: str, settings: UploadSettings) -> None:
    asked = events.interpret(events.object_created(body))
    if isinstance(asked, RunRequested) and asked.drop.kind == "spec":
        asked = _spec_that_starts(asked)
    if isinstance(asked, Ignored):
        logger.info("ignored", extra={"key": asked.key, "reason": asked.reason})
        return
    machine = settings.score_data_arn if isinstance(asked, ScoreRequested) else settings.run_pipeline_arn
    started = executions.start(machine, asked)
    logger.info("started" if started else "duplicate event", extra={"run_id": asked.run_id, "key": asked.drop.key})


def _spec_that_starts(asked: RunRequested) -> RunRequested | Ignored:
    """A spec starts a run when it names data, or when it cannot be read: then the run is rejected and tells why."""
    try:
        text = storage.read(asked.drop.bucket, asked.drop.key, first_bytes=spec_text.MAX_BYTES + 1)
    except ObjectMissingError:
        return Ignored(key=asked.drop.key, reason="the spec was deleted before it could be read")
    try:
        named = spec.parse(text, file=asked.drop.key).data.elsewhere
    except InvalidSpecError:
        return asked
    return asked if named else Ignored(key=asked.drop.key, reason="a spec that names no data waits for some")
