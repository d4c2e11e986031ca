"""Jobs that Step Functions waits for, and the ends of them that MiniStack does not know.

- `.sync` resources registered in `ebb_local.sync_tasks` run there; nested executions are registered here.
- StopExecution, the machine's and the state's TimeoutSeconds stop the job ("best effort" on AWS).
- SageMaker's optimized integration without `.sync` (createModel, createEndpoint ...) is sent to the service.
- A nested execution is an execution like any other: it shows in lists and emits events. When it fails, the Task
  fails with States.TaskFailed and a JSON document as Cause.
Source: https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html, .../connect-stepfunctions.html;
the shape of Cause is assumed (the DescribeExecution response).
"""

import contextlib
import contextvars
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import stepfunctions

from ebb_local import authorization, clock, sync_tasks, tasks
from ebb_local.gaps import clock as virtual_time
from ebb_local.gaps import sdk_errors, state_machine_roles

_POLL_S = 0.25
_NESTED_POLL_S = 0.02
_NESTED = "arn:aws:states:::states:startExecution.sync"
_SAGEMAKER = "arn:aws:states:::sagemaker:"
_logger = logging.getLogger("ebb.states")


def install() -> None:
    """Register nested executions and wrap how a Task's resource is invoked."""
    invoke = stepfunctions._invoke_resource
    for resource in (_NESTED, f"{_NESTED}:2"):
        sync_tasks.register(
            resource,
            start=_start_nested,
            wait=_nested_result_as_text if resource == _NESTED else _nested_result,
            stop=lambda arn: stepfunctions._stop_execution({"executionArn": arn}),
            permissions=_nested_permissions,
        )

    def invoke_or_run(resource, input_data):
        task = sync_tasks.find(resource)
        if task:
            return run(task, resource, input_data)
        if resource.startswith(_SAGEMAKER):
            state_machine_roles.authorize(resource, input_data)
            return _call_sagemaker(resource, input_data)
        return invoke(resource, input_data)

    stepfunctions.logger.addFilter(_is_worth_logging)
    stepfunctions._invoke_resource = invoke_or_run
    stepfunctions._invoke_resource_with_timeout = _invoke_with_timeout


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Leave out the trace of a Task that ended because its execution did: nothing went wrong."""
    return not (record.exc_info and isinstance(record.exc_info[1], tasks.ExecutionEnded))


def run(task: sync_tasks.SyncTask, resource: str, arguments: dict) -> dict:
    """Start the job, wait for its end, and stop it when the execution or the state's time is over first."""
    if tasks.ended():
        raise tasks.ExecutionEnded(resource)
    try:
        permissions = task.permissions(arguments)
        for action, arn in permissions.start:
            authorization.authorize(action, arn)
        handle = task.start(arguments)
        tasks.note("TaskSubmitted", {"taskSubmittedEventDetails": {"resource": resource, "output": json.dumps(handle)}})
        with _counted_apart(resource):
            while (result := task.wait(handle, _POLL_S)) is None:
                if tasks.stopping():
                    _stop(task, handle, permissions)
                    raise tasks.ExecutionEnded(resource)
        return result
    except authorization.AccessDenied as denied:
        raise state_machine_roles.refused(resource, denied) from denied
    except sync_tasks.TaskError as failed:
        raise stepfunctions._ExecutionError(failed.error, failed.cause) from failed


def _counted_apart(resource: str) -> contextlib.AbstractContextManager[None]:
    """Say that the job tells the clock itself whether it works: one that only waits may be advanced over."""
    return virtual_time.standing_by() if resource.startswith((_NESTED, _SAGEMAKER)) else contextlib.nullcontext()


def _stop(task: sync_tasks.SyncTask, handle: str, permissions: sync_tasks.Permissions) -> None:
    try:
        for action, arn in permissions.stop:
            authorization.authorize(action, arn)
        task.stop(handle)
    except Exception:
        _logger.exception("%s runs on although its execution ended", handle)


def _invoke_with_timeout(resource: str, input_data: dict, timeout_s: float) -> Any:
    """Run the Task in a thread of its own; when its time is over, stop its job and raise States.Timeout."""
    with tasks.with_timeout() as timed_out:
        pool = ThreadPoolExecutor(max_workers=1)
        future = pool.submit(contextvars.copy_context().run, stepfunctions._invoke_resource, resource, input_data)
        pool.shutdown(wait=False)
        future.add_done_callback(lambda _: clock.notify())
        if clock.wait(timeout_s, until=future.done):
            return future.result()
        timed_out.set()
        raise stepfunctions._ExecutionError("States.Timeout", "")


def _call_sagemaker(resource: str, arguments: dict) -> Any:
    """Send an optimized integration as the SDK integration that it equals, under its own exception names."""
    _, action = state_machine_roles.service_and_action(resource)
    try:
        return stepfunctions._invoke_aws_sdk_integration(f"arn:aws:states:::aws-sdk:sagemaker:{action}", arguments)
    except stepfunctions._ExecutionError as failed:
        raise stepfunctions._ExecutionError(optimized_sagemaker_error(failed.error), failed.cause) from failed


def optimized_sagemaker_error(error: str) -> str:
    """Return the name that SageMaker's optimized integration gives an error: only modelled ones have their own."""
    name = error.removeprefix("SageMaker.")
    modelled = set(sdk_errors.exceptions_of("sagemaker").values())
    return f"SageMaker.{name if name in modelled else 'AmazonSageMakerException'}"


def _start_nested(arguments: dict) -> str:
    request = stepfunctions._nested_start_execution_request(arguments)
    status, _, body = stepfunctions._start_execution(request)
    reply = json.loads(body)
    if status >= 400:
        code = reply.get("__type", "ExecutionDoesNotExist").removesuffix("Exception")
        raise sync_tasks.TaskError(f"StepFunctions.{code}Exception", reply.get("message", ""))
    return reply["executionArn"]


def _nested_result(arn: str, timeout_s: float) -> dict | None:
    execution = stepfunctions._executions[arn]
    deadline = time.monotonic() + timeout_s
    while execution["status"] == "RUNNING":
        if time.monotonic() > deadline:
            return None
        time.sleep(_NESTED_POLL_S)
    names = ("executionArn", "input", "inputDetails", "name", "startDate", "stateMachineArn", "status", "stopDate")
    described = {name[0].upper() + name[1:]: execution.get(name) for name in names}
    if execution["status"] != "SUCCEEDED":
        failure = {"Error": execution.get("error"), "Cause": execution.get("cause")}
        raise sync_tasks.TaskError("States.TaskFailed", json.dumps(described | failure))
    output = json.loads(execution["output"])
    return described | {"Output": output, "OutputDetails": execution.get("outputDetails")}


def _nested_result_as_text(arn: str, timeout_s: float) -> dict | None:
    result = _nested_result(arn, timeout_s)
    return result and result | {"Output": json.dumps(result["Output"])}


def _nested_permissions(arguments: dict) -> sync_tasks.Permissions:
    machine = str(arguments.get("StateMachineArn", "*"))
    execution = machine.replace(":stateMachine:", ":execution:") + f":{arguments.get('Name', '*')}"
    start = [("states:StartExecution", machine), ("states:DescribeExecution", execution)]
    return sync_tasks.Permissions(
        start=start + managed_rule_permissions("StepFunctionsGetEventsForStepFunctionsExecutionRule"),
        stop=[("states:StopExecution", execution)],
    )


def managed_rule_permissions(rule: str) -> list[tuple[str, str]]:
    """Return what a role needs on the EventBridge rule by which Step Functions learns that a job has ended."""
    arn = f"arn:aws:events:{get_region()}:{get_account_id()}:rule/{rule}"
    return [(f"events:{action}", arn) for action in ("PutTargets", "PutRule", "DescribeRule")]
