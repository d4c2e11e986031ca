"""Start executions of a state machine."""

from botocore.exceptions import ClientError

from ebb import names
from ebb.aws.clients import client
from ebb.events import RunRequested


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
