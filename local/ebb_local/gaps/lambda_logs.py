"""A function writes its log as its own role, into a group that exists or that the role may create.

MiniStack writes always. Without the permission AWS runs the function and its log stays empty.
Source: https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html (logs:CreateLogGroup,
logs:CreateLogStream, logs:PutLogEvents).
"""

import logging
import uuid
from datetime import UTC, datetime
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudwatch_logs, lambda_svc

from ebb_local import authorization

_logger = logging.getLogger("ebb.lambda")


def install() -> None:
    """Check the role before an invocation's log is written."""
    emit = lambda_svc._emit_lambda_logs

    def emit_as_role(func: dict, *arguments: Any, **keywords: Any) -> None:
        config = func.get("config") or func
        name = config.get("FunctionName", "function")
        group = (config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{name}"
        principal = authorization.role_session(config.get("Role", ""), name)
        try:
            for action, arn in _calls(group, config.get("Version", "$LATEST")):
                authorization.authorize(action, arn, principal=principal)
        except authorization.AccessDenied as denied:
            _logger.error("the log of function %s is not written: %s", name, denied)
            return
        emit(func, *arguments, **keywords)

    lambda_svc._emit_lambda_logs = emit_as_role


def _calls(group: str, version: str) -> list[tuple[str, str]]:
    arn = f"arn:aws:logs:{get_region()}:{get_account_id()}:log-group:{group}"
    # The form that AWS gives to a stream's name; MiniStack draws its own when it writes.
    stream = f"{arn}:log-stream:{datetime.now(UTC):%Y/%m/%d}/[{version}]{uuid.uuid4().hex}"
    writing = [("logs:CreateLogStream", stream), ("logs:PutLogEvents", stream)]
    if group in cloudwatch_logs._log_groups:
        return writing
    return [("logs:CreateLogGroup", f"{arn}:log-stream:"), *writing]
