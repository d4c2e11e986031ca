"""The paths of Neo's compilation: how often it is asked, and that whatever comes of it is recorded and ends well."""

from typing import Any

import pytest

from ebb.record import RecordRequest
from infrastructure import project
from infrastructure import test_run_pipeline as pipeline
from infrastructure.interpreter import TaskError, run

PATH = project.ROOT / "statemachines" / "compile_model.asl.yaml"
JOB = {"CompilationJobName": "wine-20261123010203-0a1b2c3d4e-a1-neo"}
GIVEN = {
    "run_id": "wine-20261123010203-0a1b2c3d4e",
    "attempt": 1,
    "project": "wine",
    "compilation": {"request": JOB | {"RoleArn": "r"}, "job": JOB},
}
BESIDE = {"AdditionalInferenceSpecifications": [{"Name": "ml-c5"}]}
THROTTLED = TaskError("SageMaker.SageMakerException", "Rate exceeded")


class World:
    """Answers the Tasks: the job has the given statuses, one after the other; `fails` maps an action to errors."""

    def __init__(self, *statuses: str, **fails: list[TaskError]):
        self.statuses, self.fails = list(statuses), fails
        self.recorded: list[Any] = []

    def __call__(self, resource: str, arguments: Any) -> Any:
        action = resource.rsplit(":", 1)[-1]
        if self.fails.get(action):
            raise self.fails[action].pop(0)
        if action == "invoke":
            told = RecordRequest.validate_python(arguments["Payload"])
            self.recorded.append(told)
            return {"Payload": BESIDE if told.job.get("CompilationJobStatus") == "COMPLETED" else {}}
        if action == "describeCompilationJob":
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            return JOB | {"CompilationJobStatus": status, "FailureReason": "said no" if status == "FAILED" else ""}
        return {}


def test_a_job_is_asked_until_it_has_ended_and_its_model_goes_to_the_registry():
    world = World("STARTING", "INPROGRESS", "INPROGRESS", "COMPLETED")
    ended = run(PATH, GIVEN, world)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert ended.arguments("createCompilationJob") == [GIVEN["compilation"]["request"]]
    assert ended.arguments("describeCompilationJob") == [JOB] * 4
    assert ended.arguments("stopCompilationJob") == []
    assert ended.output == BESIDE


def test_a_job_that_fails_is_recorded_with_its_own_words_and_ends_well():
    world = World("INPROGRESS", "FAILED")
    ended = run(PATH, GIVEN, world)
    assert (ended.status, ended.output) == ("SUCCEEDED", {})
    (told,) = world.recorded
    assert (told.job["FailureReason"], told.error) == ("said no", None)


def test_a_request_that_is_refused_is_recorded_and_nothing_is_asked():
    world = World("INPROGRESS", createCompilationJob=[TaskError("SageMaker.ValidationException", "no such device")])
    ended = run(PATH, GIVEN, world)
    assert (ended.status, ended.output) == ("SUCCEEDED", {})
    assert ended.arguments("describeCompilationJob") == []
    assert (world.recorded[0].job, world.recorded[0].cause) == ({}, "no such device")


def test_a_job_that_never_ends_is_stopped_after_sixteen_questions():
    world = World("INPROGRESS")
    ended = run(PATH, GIVEN, world)
    assert ended.status == "SUCCEEDED"
    assert len(ended.arguments("describeCompilationJob")) == 16
    assert ended.arguments("stopCompilationJob") == [JOB]
    assert world.recorded[0].job["CompilationJobStatus"] == "INPROGRESS"


@pytest.mark.parametrize("action", ["createCompilationJob", "describeCompilationJob"])
def test_throttling_is_waited_out(action):
    ended = run(PATH, GIVEN, World("COMPLETED", **{action: [THROTTLED, THROTTLED]}))
    assert (ended.status, ended.output) == ("SUCCEEDED", BESIDE)


def test_a_job_that_nobody_can_ask_about_is_stopped_and_the_reason_recorded():
    world = World("INPROGRESS", describeCompilationJob=[THROTTLED] * 6)
    ended = run(PATH, GIVEN, world)
    assert ended.status == "SUCCEEDED"
    assert ended.arguments("stopCompilationJob") == [JOB]
    assert world.recorded[0].cause == "Rate exceeded"


def test_a_job_that_ended_before_it_was_stopped_is_recorded_all_the_same():
    gone = TaskError("SageMaker.SageMakerException", "it has ended")
    world = World("INPROGRESS", stopCompilationJob=[gone] * 4)
    assert run(PATH, GIVEN, world).status == "SUCCEEDED"
    assert len(world.recorded) == 1


def test_what_cannot_be_recorded_fails_the_execution_so_that_it_tells_the_truth():
    ended = run(PATH, GIVEN, World("COMPLETED", invoke=[TaskError("KeyError", "broken")]))
    assert (ended.status, ended.error) == ("FAILED", "KeyError")


class AsksForNeo(pipeline.World):
    """A run whose selection asks for a compilation; `neo` is what its machine answers, or how it fails."""

    def __init__(self, neo: Any):
        super().__init__()
        self.neo = neo

    def __call__(self, resource: str, arguments: Any) -> Any:
        if "compilation" in (arguments.get("Input") or {}):
            if isinstance(self.neo, TaskError):
                raise self.neo
            return {"Output": self.neo, "Status": "SUCCEEDED"}
        return super().__call__(resource, arguments)

    def SelectCandidate(self, given: Any) -> Any:
        """Choose as ever, and have the original compiled."""
        return super().SelectCandidate(given) | {
            "package": {"ModelPackageGroupName": "ebb-wine"},
            "compilation": GIVEN["compilation"],
        }


@pytest.mark.parametrize(
    ("neo", "registered"),
    [
        pytest.param(BESIDE, {"ModelPackageGroupName": "ebb-wine"} | BESIDE, id="its model beside the one served"),
        pytest.param({}, {"ModelPackageGroupName": "ebb-wine"}, id="none, as the record says"),
        pytest.param(TaskError("States.Timeout", ""), {"ModelPackageGroupName": "ebb-wine"}, id="a broken machine"),
    ],
)
def test_a_run_that_asks_for_neo_is_registered_and_served_whatever_neo_does(neo, registered):
    ended = run(pipeline.PATH, pipeline.GIVEN, AsksForNeo(neo))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert ended.arguments("createModelPackage") == [registered]
    asked = [each["Input"] for each in ended.arguments("startExecution.sync:2")]
    assert [("compilation" in each, "requests" in each) for each in asked] == [(True, False), (False, True)]
    assert {key: asked[0][key] for key in GIVEN} == GIVEN | {"run_id": pipeline.GIVEN["run_id"]}
