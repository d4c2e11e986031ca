"""Lambda: look once more at a resource that a sweep found unused; decide whether it is stopped. Changes nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import reaping
from ebb.aws import account
from ebb.aws.clients import client
from ebb.events import ReapingAsked
from ebb.reaping import Policy
from ebb.settings import ReapSettings
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: ReapingAsked, context: LambdaContext) -> dict[str, Any]:
    """Answer with the decision and, when it is to stop, with every request that the state machine then sends."""
    settings = ReapSettings.from_env()
    policy = Policy(stack=settings.stack, foreign=settings.manages_foreign)
    seen = account.Reader(client).resource(asked.kind, asked.keys)
    if seen is None:
        return {"action": "keep", "reason": "it is gone, or in use again"}
    verdict = reaping.decide(seen, policy, now=asked.now)
    logger.info("decided", extra={"resource": seen.name, "action": verdict.action, "reason": verdict.reason})
    if verdict.action != "stop":
        return {"action": "keep", "reason": verdict.reason}
    return {
        "action": f"stop {seen.kind}",
        "reason": verdict.reason,
        "request": reaping.request(seen),
        "event": reaping.event(seen, verdict, table=settings.ledger_table, now=asked.now),
        "notice": reaping.notice(seen, verdict),
    }
