"""The paths of a scoring: what is asked of whom, and that its model is gone however it ends."""

from typing import Any

import pytest

from ebb.record import RecordRequest
from infrastructure import project
from infrastructure.interpreter import TaskError, run

PATH = project.ROOT / "statemachines" / "score_data.asl.yaml"
GIVEN = {
    "run_id": "wine-20261123010203-0a1b2c",
    "attempt": 1,
    "project": "wine",
    "drop": {"kind": "object", "bucket": "landing", "key": "wine/score/wine.csv", "size_bytes": 10},
}
PLAN = {"model": {"ModelName": "m"}, "transform": {"T": 1}, "delete_model": {"ModelName": "m"}, "told": {"source": "s"}}


class World:
    """Answers the Tasks; `fails` maps a function or the end of a resource to an error."""

    def __init__(self, **fails: TaskError):
        self.fails = fails

    def __call__(self, resource: str, arguments: Any) -> Any:
        if resource.endswith("lambda:invoke"):
            function = arguments["FunctionName"].removeprefix("${").removesuffix("FunctionArn}")
            payload = arguments["Payload"]
            action = payload.get("action", "")
            for key in (function, f"{function}_{action}"):
                if key in self.fails:
                    raise self.fails[key]
            if function == "PlanScoring":
                return {"Payload": PLAN}
            RecordRequest.validate_python(payload)
            return {"Payload": {"subject": action, "message": "words"}}
        action = resource.rsplit(":", 1)[-1].removesuffix(".sync")
        if action in self.fails:
            raise self.fails[action]
        return {"TransformJobName": "t"} if action == "createTransformJob" else {}


def _recorded(ended: Any) -> list[str]:
    return [each["Payload"].get("action", "planned") for each in ended.arguments("lambda:invoke")]


def test_a_drop_is_planned_transformed_and_recorded_and_its_model_deleted():
    ended = run(PATH, GIVEN, World())
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert _recorded(ended) == ["planned", "scored"]
    assert ended.arguments("createModel") == [PLAN["model"]]
    assert ended.arguments("createTransformJob.sync") == [PLAN["transform"]]
    assert ended.arguments("deleteModel") == [PLAN["delete_model"]]
    (message,) = ended.arguments("sns:publish")
    assert message["Subject"] == "scored"


def test_a_transform_that_fails_leaves_no_model_and_a_recorded_failure():
    ended = run(PATH, GIVEN, World(createTransformJob=TaskError("States.TaskFailed", "the container said no")))
    assert (ended.status, ended.error, ended.cause) == ("FAILED", "States.TaskFailed", "the container said no")
    assert ended.arguments("deleteModel") == [PLAN["delete_model"]]
    assert _recorded(ended) == ["planned", "failed"]


def test_a_drop_that_cannot_be_scored_is_recorded_as_rejected_and_starts_nothing():
    ended = run(PATH, GIVEN, World(PlanScoring=TaskError("DropRejectedError", "{}")))
    assert (ended.status, ended.error) == ("FAILED", "DropRejected")
    assert _recorded(ended) == ["planned", "rejected"]
    assert ended.arguments("createModel") == []


@pytest.mark.parametrize("broken", ["createModel", "PlanScoring", "RecordRun_scored"])
def test_whatever_breaks_is_recorded_as_failed(broken):
    ended = run(PATH, GIVEN, World(**{broken: TaskError("Some.Error", "why")}))
    assert (ended.status, ended.error) == ("FAILED", "Some.Error")
    assert _recorded(ended)[-1] == "failed"


def test_a_model_that_cannot_be_deleted_does_not_spoil_what_was_scored():
    ended = run(PATH, GIVEN, World(deleteModel=TaskError("Some.Error", "why")))
    assert ended.status == "SUCCEEDED"


def test_an_end_that_cannot_be_recorded_here_is_left_to_the_event():
    world = World(
        createTransformJob=TaskError("States.TaskFailed", "no"), RecordRun_failed=TaskError("Lambda.Unknown", "x")
    )
    ended = run(PATH, GIVEN, world)
    assert (ended.status, ended.error) == ("FAILED", "States.TaskFailed")
