"""Start executions of a state machine, each under the name of what it does, and look whether one still runs."""

import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from ebb import names
from ebb.aws.clients import client
from ebb.events import RunRequested

NAME_CHARS = 80
RESTARTS = 50


def start(state_machine_arn: str, request: RunRequested) -> bool:
    """Start a run; return False when this event has started it already.

    The execution is named after the run, so a second delivery of an event finds the name taken: while it runs, with the
    same input, Step Functions answers as if it had started it; afterwards with ExecutionAlreadyExists.
    Source: https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
    """
    try:
        client("stepfunctions").start_execution(
            stateMachineArn=state_machine_arn,
            name=names.execution(request.run_id, request.attempt),
            input=request.model_dump_json(),
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionAlreadyExists":
            return False
        raise
    return True


def ensure(state_machine_arn: str, name: str, given: Mapping[str, Any], states: Any = None) -> bool:
    """Let an execution of this name run; return False when one with another input runs already."""
    return run(state_machine_arn, name, given, states)[1]


def run(state_machine_arn: str, name: str, given: Mapping[str, Any], states: Any = None) -> tuple[str, bool]:
    """Return the execution that runs under a name, and whether this has started it, or one with the same input runs.

    A name is free once in 90 days. What ended under it without doing its work must not keep the work from being done,
    so that the next free one of `name`, `name-r1`, `name-r2`, … is taken.
    Source: https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
    """
    text, states = json.dumps(given, sort_keys=True), states or client("stepfunctions")
    arn = ""
    for again in range(RESTARTS):
        taken = name if again == 0 else f"{name[: NAME_CHARS - 4]}-r{again}"
        arn = f"{state_machine_arn.replace(':stateMachine:', ':execution:')}:{taken}"
        try:
            states.start_execution(stateMachineArn=state_machine_arn, name=taken, input=text)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
                raise
            if is_running(arn, states):
                return arn, False
        else:
            return arn, True
    return arn, False


def is_running(execution_arn: str, states: Any = None) -> bool:
    """Return whether an execution has not ended; one that is not known has. What is no ARN is an error, not an end."""
    try:
        found = (states or client("stepfunctions")).describe_execution(executionArn=execution_arn)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
            return False
        raise
    return bool(found["status"] == "RUNNING")
