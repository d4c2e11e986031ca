"""Run a state machine in the embedded cloud's interpreter, with every Task answered by the test."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from ministack.services import stepfunctions

from infrastructure import project

Answer = Callable[[str, Any], Any]


class TaskError(Exception):
    """The answer of a Task that fails: the name that Retry and Catch match, and its cause."""

    def __init__(self, error: str, cause: str = ""):
        super().__init__(error)
        self.error, self.cause = error, cause


@dataclass(frozen=True)
class Execution:
    """How an execution ended, the states that it entered, and what its Tasks were asked."""

    status: str
    output: Any
    error: str | None
    cause: str | None
    entered: list[str]
    asked: list[tuple[str, Any]]

    def arguments(self, action: str) -> list[Any]:
        """Return the arguments of each call whose resource ends in `action`."""
        return [arguments for resource, arguments in self.asked if resource.endswith(action)]


def run(path: Path, given: Any, answer: Answer) -> Execution:
    """Run the machine to its end. `answer(resource, arguments)` returns a Task's result or raises TaskError."""
    asked: list[tuple[str, Any]] = []

    def invoke(resource: str, arguments: Any) -> Any:
        asked.append((resource, json.loads(json.dumps(arguments))))
        try:
            return answer(resource, arguments)
        except TaskError as error:
            raise stepfunctions._ExecutionError(error.error, error.cause) from error

    with (
        _machine(path) as machine_arn,
        mock.patch.multiple(
            stepfunctions,
            _invoke_resource=invoke,
            _scaled_sleep=lambda _: None,
            _emit_execution_status_event=lambda _: None,
        ),
        mock.patch.object(stepfunctions.time, "sleep"),
    ):
        name = uuid.uuid4().hex
        arn = f"{machine_arn.replace(':stateMachine:', ':execution:')}:{name}"
        stepfunctions._executions[arn] = {
            "executionArn": arn,
            "stateMachineArn": machine_arn,
            "name": name,
            "status": "RUNNING",
            "startDate": "2026-11-23T00:00:00.000Z",
            "input": json.dumps(given),
            "events": [],
        }
        try:
            stepfunctions._run_execution(arn)
            ended = stepfunctions._executions[arn]
        finally:
            del stepfunctions._executions[arn]
    entered = [
        event["stateEnteredEventDetails"]["name"] for event in ended["events"] if "stateEnteredEventDetails" in event
    ]
    succeeded = ended["status"] == "SUCCEEDED"
    return Execution(
        ended["status"],
        json.loads(ended["output"]) if succeeded else None,
        ended.get("error"),
        ended.get("cause"),
        entered,
        asked,
    )


@contextmanager
def _machine(path: Path) -> Iterator[str]:
    name = path.name.removesuffix(".asl.yaml")
    # of a name of its own: a test may run a machine while another execution of it is in a call
    arn = f"arn:aws:states:us-east-1:000000000000:stateMachine:{name}-{uuid.uuid4().hex[:8]}"
    definition = json.dumps(project.machine(path)).replace("${LogRetentionDays}", "30")
    stepfunctions._state_machines[arn] = {"definition": definition, "name": name, "roleArn": "", "stateMachineArn": arn}
    try:
        yield arn
    finally:
        del stepfunctions._state_machines[arn]
