"""Step Functions' `.sync` integration of Glue: startJobRun.

Source: https://docs.aws.amazon.com/step-functions/latest/dg/connect-glue.html. Assumed: the result is the JobRun, its
members with capitals and its times in milliseconds, and the Cause of a run that ended badly is the same as JSON.
"""

import json
import time
from typing import Any

from ebb_local import sync_tasks
from ebb_local.gaps import sdk_errors
from ebb_local.glue import service
from ebb_local.sagemaker.errors import ServiceError

RESOURCE = "arn:aws:states:::glue:startJobRun.sync"
_POLL_S = 0.1
_MOMENTS = ("StartedOn", "LastModifiedOn", "CompletedOn")


def install() -> None:
    """Register the integration."""
    sync_tasks.register(RESOURCE, start=_start, wait=_wait, stop=_stop, permissions=_permissions)


def _start(arguments: dict[str, Any]) -> str:
    try:
        return json.dumps([arguments["JobName"], service.call("StartJobRun", arguments)["JobRunId"]])
    except ServiceError as error:
        known = sdk_errors.exceptions_of("glue")
        raise sync_tasks.TaskError(f"Glue.{known.get(error.code, 'AWSGlueException')}", error.message) from error


def _wait(handle: str, timeout_s: float) -> dict[str, Any] | None:
    run = service.find(*json.loads(handle))
    deadline = time.monotonic() + timeout_s
    while run["JobRunState"] not in service.ENDED:
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    told = {key: int(value * 1000) if key in _MOMENTS else value for key, value in run.items()}
    if run["JobRunState"] != "SUCCEEDED":
        raise sync_tasks.TaskError("States.TaskFailed", json.dumps(told))
    return told


def _stop(handle: str) -> None:
    name, identifier = json.loads(handle)
    service.call("BatchStopJobRun", {"JobName": name, "JobRunIds": [identifier]})


def _permissions(arguments: dict[str, Any]) -> sync_tasks.Permissions:
    arn = service.arn_of(str(arguments.get("JobName", "*")))
    start = [("glue:StartJobRun", arn), ("glue:GetJobRun", arn)]
    return sync_tasks.Permissions(start=start, stop=[("glue:BatchStopJobRun", arn)])
