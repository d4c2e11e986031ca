"""Lambda: decide the next step of waking an endpoint from its snapshot. Reads, changes nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import scaling_wake, snapshot
from ebb.addresses import ASLEEP, AWAKE, FAILED, FALLING_ASLEEP, WAKING, Address
from ebb.aws import endpoints, executions
from ebb.aws.ledger import Ledger
from ebb.endpoint_world import at_zero
from ebb.errors import SnapshotUnreadableError
from ebb.scaling import Asked, Place, Step
from ebb.settings import ScalingSettings
from ebb.snapshot import Snapshot
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: Asked, context: LambdaContext) -> dict[str, Any]:
    """Answer with the step: what to write, to send and to tell, and whether to ask again."""
    settings = ScalingSettings.from_env()
    asked = asked.model_copy(update={"reason": asked.reason or "a request came"})
    at = Ledger(settings.ledger_table).address(asked.address)
    step = _step(at, asked, settings) if at else Step(outcome="awake", reason="the ledger knows no such address")
    told = {"address": asked.address, "outcome": step.outcome, "reason": step.reason, "numbers": step.numbers}
    logger.info("planned", extra=told)
    return step.model_dump(mode="json", exclude_none=True)


def _step(at: Address, asked: Asked, settings: ScalingSettings) -> Step:
    place = Place(
        stack=settings.stack,
        table=settings.ledger_table,
        topic_arn=settings.notifications_topic_arn,
        execution=asked.execution,
    )
    if early := scaling_wake.ahead(at, asked, place):
        return early
    other_runs = (
        at.state in (FALLING_ASLEEP, WAKING)
        and at.worked_by not in (None, asked.execution)
        and executions.is_running(str(at.worked_by))
    )
    goal, unreadable = _goal(at)
    kind = scaling_wake.another_type(at)
    wanted = snapshot.on_type(goal, kind).config_name if goal and kind else (goal.config_name if goal else None)
    first = at.state in (ASLEEP, FAILED)  # the first calls are for capacity; a request waits for them
    world = endpoints.observe(at, config_name=wanted, whole=not first)
    try:
        if at.state == AWAKE and world.endpoint and at_zero(at, world):
            # by another's hand: what it has beside is what it is to be
            goal = snapshot.take(at, world, asked.now)
        return scaling_wake.wake(at, goal, world, asked, place, other_runs=other_runs, unreadable=unreadable)
    except SnapshotUnreadableError as error:
        return scaling_wake.wake(at, None, world, asked, place, other_runs=other_runs, unreadable=str(error))


def _goal(at: Address) -> tuple[Snapshot | None, str | None]:
    """Return what it is to be again, or why that is not readable."""
    if at.state == AWAKE:
        return None, None
    try:
        return endpoints.kept_of(at), None
    except SnapshotUnreadableError as error:
        return None, str(error)
