"""Lambda: put each decision that the ledger's stream carries on EventBridge's default bus. Changes nothing else."""

from aws_lambda_powertools.utilities.data_classes import DynamoDBStreamEvent, event_source
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import decision_events
from ebb.aws import outbox
from ebb.errors import MalformedEventError
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_source(data_class=DynamoDBStreamEvent)
def handler(event: DynamoDBStreamEvent, context: LambdaContext) -> dict[str, int]:
    """Answer how many events were put; raise when one was not, and Lambda brings the records again.

    A record that can never be an event is left out, told by the log: it must not hold up those behind it.
    """
    entries = []
    for record in event.records:
        written = record.dynamodb
        if written is None or not written.new_image:
            continue  # removed: that `ebb forget` takes a decision away is none itself
        try:
            entries.append(decision_events.entry(written.new_image, written.approximate_creation_date_time))
        except MalformedEventError as problem:
            logger.error("no decision", extra={"reason": str(problem)})
    count = outbox.put(entries)
    logger.info("decisions published", extra={"count": count})
    return {"published": count}
