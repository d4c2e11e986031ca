"""How executions start and end, where MiniStack differs.

- Starting a running execution again with the same name and input answers 200 and starts nothing.
- What was stopped stays ABORTED: the failure of its interrupted Task does not make it FAILED.
- The machine's own TimeoutSeconds ends it as TIMED_OUT.
- Input must be JSON of at most 262,144 bytes.
- States.DataLimitExceeded and States.Runtime are not caught by States.ALL.
Source: https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html,
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

import contextvars
import json

from ministack.core.responses import error_response_json, json_response, now_iso
from ministack.services import stepfunctions

from ebb_local import clock

Reply = tuple[int, dict, bytes]
_NOT_CAUGHT_BY_ALL = {"States.DataLimitExceeded", "States.Runtime"}
INPUT_LIMIT_BYTES = 262_144


def install() -> None:
    """Wrap start, run, failure and error matching."""
    start, run, fail, matches = (
        stepfunctions._start_execution,
        stepfunctions._run_execution,
        stepfunctions._fail_execution,
        stepfunctions._error_matches,
    )

    def start_once(data: dict) -> Reply:
        text = data.get("input", "{}")
        if problem := _input_problem(text):
            return problem
        machine = stepfunctions._resolve_state_machine_arn(data.get("stateMachineArn", "").split("#")[0])
        if machine and data.get("name"):
            arn = machine.replace(":stateMachine:", ":execution:") + f":{data['name']}"
            existing = stepfunctions._executions.get(arn)
            if existing and existing["status"] == "RUNNING" and existing["input"] == text:
                return json_response({"executionArn": arn, "startDate": existing["startDate"]})
            if existing:
                return error_response_json("ExecutionAlreadyExists", f"Execution Already Exists: '{arn}'", 400)
        return start(data)

    def run_with_timeout(execution_arn: str) -> None:
        execution = stepfunctions._executions.get(execution_arn) or {}
        machine = stepfunctions._state_machines.get(execution.get("stateMachineArn", "")) or {}
        limit_s = json.loads(machine.get("definition", "{}")).get("TimeoutSeconds")
        if limit_s is None:
            return run(execution_arn)
        scope = contextvars.copy_context()
        cancel = clock.after(limit_s, lambda: scope.run(_time_out, execution), "time-out of an execution")
        try:
            return run(execution_arn)
        finally:
            cancel()

    def fail_if_running(execution: dict, error: str, cause: str) -> None:
        if execution["status"] == "RUNNING":
            fail(execution, error, cause)

    def error_matches(error_equals: list[str], error: str) -> bool:
        if error in _NOT_CAUGHT_BY_ALL:
            return error in error_equals
        return matches(error_equals, error)

    stepfunctions._start_execution = start_once
    stepfunctions._run_execution = run_with_timeout
    stepfunctions._fail_execution = fail_if_running
    stepfunctions._error_matches = error_matches


def _input_problem(text: str) -> Reply | None:
    if len(text.encode()) > INPUT_LIMIT_BYTES:
        return error_response_json(
            "ValidationException",
            "1 validation error detected: Value at 'input' failed to satisfy constraint: "
            f"Member must have length less than or equal to {INPUT_LIMIT_BYTES}",
            400,
        )
    try:
        json.loads(text)
    except ValueError as problem:
        return error_response_json("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{problem}'", 400)
    return None


def _time_out(execution: dict) -> None:
    if execution["status"] != "RUNNING":
        return
    execution.update(status="TIMED_OUT", stopDate=now_iso(), error="States.Timeout", cause=None)
    stepfunctions._add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {}})
    stepfunctions._emit_execution_status_event(execution)
