"""Lambda: an alarm of an endpoint or of a training job went off. Starts executions, decides nothing.

Alarms are named <address>-idle and <address>-wake. By the second one AWS has scaled out already; the machine that wakes
puts back the rest and brings the ledger in line. It goes off up to a minute after the call that nobody answered: what
is awake by then, or being woken, needs no second execution.
"""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import addresses, ledger
from ebb.addresses import AWAKE, WAKING, Address
from ebb.aws import executions
from ebb.aws.ledger import Ledger
from ebb.events import AlarmFired
from ebb.requests import training_alarms
from ebb.requests.alarms import IDLE, WAKE
from ebb.settings import AlarmSettings
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(fired: AlarmFired, context: LambdaContext) -> dict[str, Any]:
    """Answer with the execution that was started, and why none was."""
    settings = AlarmSettings.from_env()
    if training := training_alarms.watched_job(settings.stack, fired.alarm_name):
        return _training(*training, fired, settings)
    name, _, what = fired.alarm_name.rpartition("-")
    found = Ledger(settings.ledger_table).address(name) if what in (IDLE, WAKE) else None
    if found is None:  # of another stack whose name begins alike, or of an endpoint that is gone
        logger.info("ignored", extra={"alarm": fired.alarm_name})
        return {"started": None, "reason": "no address of this stack"}
    if what == WAKE and (why_not := _woken(found)):
        logger.info("nothing to do", extra={"address": name, "reason": why_not})
        return {"started": None, "reason": why_not}
    given: dict[str, Any] = {"address": name, "generation": found.generation}
    if what == WAKE:
        arn, execution = settings.wake_endpoint_arn, addresses.wake_execution(name, found.generation)[:80]
    else:
        arn, execution = settings.scale_to_zero_arn, addresses.sleep_execution(name, found.generation, fired.time)
        given |= {"reason": fired.why[:500], "now": ledger.iso(fired.time)}
    started = executions.ensure(arn, execution, given)
    logger.info("started" if started else "runs already", extra={"address": name, "execution": execution})
    return {"started": execution if started else None, "reason": fired.why}


def _training(job: str, kind: str, fired: AlarmFired, settings: AlarmSettings) -> dict[str, Any]:
    """Let it be decided whether a job is stopped: one execution for each of its alarms."""
    name = f"{job}-{kind}"
    started = executions.ensure(settings.stop_training_arn, name, {"job": job, "alarm": kind})
    logger.info("started" if started else "runs already", extra={"job": job, "execution": name})
    return {"started": name if started else None, "reason": fired.why}


def _woken(at: Address) -> str | None:
    """Return why an endpoint needs no other execution that wakes it; None when it does."""
    if at.state == AWAKE:
        return "it is awake by now"
    if at.state == WAKING and at.worked_by is not None and executions.is_running(at.worked_by):
        return "it is being woken"
    return None
