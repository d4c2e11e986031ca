"""A run that fits no budget now: it waits, is planned again, and runs once there is room."""

from typing import Any

from infrastructure import project
from infrastructure.interpreter import TaskError, run
from infrastructure.test_run_pipeline import GIVEN, STAGES, World

PATH = project.ROOT / "statemachines" / "run_pipeline.asl.yaml"


class Budgeted(World):
    """Answers the first plans with a wait."""

    def __init__(self, *waits: str):
        super().__init__()
        self.waits, self.planned = list(waits), 0

    def PlanPipeline(self, payload: Any) -> Any:
        """A wait, or the plan."""
        self.planned += 1
        if self.waits:
            return {"generation": 3, "admission": {"outcome": "wait", "until": self.waits.pop(0), "said": "no room"}}
        return super().PlanPipeline(payload) | {"admission": {"outcome": "admit", "changes": {}}}


def jobs(ended: Any) -> list[str]:
    return [arguments["stage"] for resource, arguments in ended.asked if resource.endswith("Job.sync")]


def test_it_waits_as_long_as_it_is_told_and_then_runs_every_stage_once():
    world = Budgeted("2026-11-23T10:00:00Z", "2026-12-01T00:00:00Z")
    ended = run(PATH, GIVEN, world)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    looked = [name for name in ended.entered if name in ("Plan pipeline", "Wait for budget", "Ensure roles")]
    assert looked == [
        "Plan pipeline",
        "Wait for budget",
        "Plan pipeline",
        "Wait for budget",
        "Plan pipeline",
        "Ensure roles",
    ]
    assert world.planned == 3
    assert jobs(ended) == list(STAGES)


def test_a_run_that_is_admitted_does_not_wait():
    ended = run(PATH, GIVEN, Budgeted())
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert "Wait for budget" not in ended.entered


def test_a_run_that_is_refused_is_rejected_and_starts_no_job():
    refused = TaskError("DropRejectedError", '{"errorMessage": "{}", "errorType": "DropRejectedError"}')
    ended = run(PATH, GIVEN, World(PlanPipeline=refused))
    assert (ended.status, ended.error) == ("FAILED", "DropRejected")
    assert jobs(ended) == []
