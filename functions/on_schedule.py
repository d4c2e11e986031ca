"""Lambda: a schedule has fired; start the sweep of the account. Starts one execution, decides nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import sweep
from ebb.aws import executions
from ebb.events import ScheduleFired, SweepRequested
from ebb.settings import ScheduleSettings
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(fired: ScheduleFired, context: LambdaContext) -> dict[str, Any]:
    """Answer with the execution's name: the same for each delivery of one event, so that one sweeps."""
    asked, name = SweepRequested(now=fired.time), sweep.execution(fired.time)
    started = executions.ensure(ScheduleSettings.from_env().sweep_account_arn, name, asked.model_dump(mode="json"))
    logger.info("started" if started else "runs already", extra={"execution": name})
    return {"execution": name, "started": started}
