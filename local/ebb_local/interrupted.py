"""Runs that a restart interrupted start again, as the next attempt.

MiniStack brings executions that were RUNNING back as FAILED with `States.ServiceRestart`; on AWS an execution
survives, so its user would never have had to act. Behaviour decided: assumed (there is nothing like it on AWS).
"""

import json
import logging
import re

from ministack.core.responses import request_scope
from ministack.services import stepfunctions

from ebb_local import authorization
from ebb_local.settings import ACCOUNT_ID, REGION

_INTERRUPTED = "States.ServiceRestart"
_ATTEMPT_SUFFIX = re.compile(r"-a\d+$")
_logger = logging.getLogger("ebb.interrupted")


def start_again() -> list[str]:
    """Start the next attempt of each interrupted run; return the names of the new executions.

    Only executions whose input names a run and an attempt are started: a nested execution has none and comes back
    with its parent.
    """
    with request_scope(ACCOUNT_ID, REGION):
        stopped = [e for e in stepfunctions._executions.values() if e.get("error") == _INTERRUPTED]
        return [name for execution in stopped if (name := _next_attempt(execution))]


def _next_attempt(execution: dict) -> str | None:
    try:
        run = json.loads(execution["input"])
    except ValueError:
        return None
    if not isinstance(run, dict) or not isinstance(run.get("attempt"), int) or "run_id" not in run:
        return None
    attempt = run["attempt"] + 1
    name = f"{_ATTEMPT_SUFFIX.sub('', execution['name'])}-a{attempt}"
    with authorization.acting_as(f"arn:aws:iam::{ACCOUNT_ID}:root"):
        status, _, body = stepfunctions._start_execution(
            {
                "stateMachineArn": execution["stateMachineArn"],
                "name": name,
                "input": json.dumps(run | {"attempt": attempt}),
            }
        )
    if status >= 400 and b"ExecutionAlreadyExists" in body:
        return None  # an earlier restart or its user started it already
    if status >= 400:
        _logger.error("%s was interrupted and does not start again: %s", execution["name"], body)
        return None
    _logger.info("%s was interrupted; %s goes on", execution["name"], name)
    return name
