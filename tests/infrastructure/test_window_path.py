"""A run whose costliest stage may wait: when it is asked, how long it waits, and that it goes on whatever happens."""

from typing import Any

import pytest

from infrastructure import project
from infrastructure.interpreter import TaskError, run
from infrastructure.test_run_pipeline import GIVEN, STAGES, World

PATH = project.ROOT / "statemachines" / "run_pipeline.asl.yaml"
WAITS = {"action": "wait", "until": "2026-11-23T12:00:00Z", "first": {"at": "2026-11-23T10:00:00Z", "grams": 7.5}}
RUNS = {"action": "run"}


class Windowed(World):
    """Plans a window before a stage, and answers its looks one after the other."""

    def __init__(self, stage: str, *looks: Any, **more: Any):
        super().__init__(**more)
        self.stage, self.looks, self.asked = stage, list(looks), []

    def PlanPipeline(self, payload: Any) -> Any:
        """The plan, with what may wait."""
        window = {"stage": self.stage, "deadline": "2026-11-24T00:00:00Z", "signal": "average", "loads": []}
        return super().PlanPipeline(payload) | {"window": window}

    def ChooseWindow(self, payload: Any) -> Any:
        """One look after the other."""
        self.asked.append(payload)
        look = self.looks.pop(0)
        if isinstance(look, TaskError):
            raise look
        return look | {"looks": payload["looks"] + 1}


def jobs(ended: Any) -> list[str]:
    return [arguments["stage"] for resource, arguments in ended.asked if resource.endswith("Job.sync")]


def test_the_stage_waits_is_looked_at_again_and_begins():
    world = Windowed("train", WAITS, WAITS, RUNS)
    ended = run(PATH, GIVEN, world)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    looked = [name for name in ended.entered if name in ("Choose window", "Wait for window", "Train model")]
    assert looked == [
        "Choose window",
        "Wait for window",
        "Choose window",
        "Wait for window",
        "Choose window",
        "Train model",
    ]
    assert [each["looks"] for each in world.asked] == [0, 1, 2]
    assert [each["first"] for each in world.asked] == [None, WAITS["first"], WAITS["first"]]
    assert world.asked[0]["window"]["stage"] == "train"
    assert jobs(ended) == list(STAGES), "each once"


@pytest.mark.parametrize("stage", STAGES)
def test_what_waits_is_the_stage_that_the_plan_names(stage: str):
    ended = run(PATH, GIVEN, Windowed(stage, WAITS, RUNS))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    jobs_and_waits = [name for name in ended.entered if name in (*NAMES.values(), "Wait for window")]
    place = list(STAGES).index(stage)
    expected = [NAMES[each] for each in STAGES]
    assert jobs_and_waits == [*expected[:place], "Wait for window", *expected[place:]]


NAMES = {"process": "Process data", "train": "Train model", "compress": "Compress model", "compile": "Compile model"}


def test_a_stage_that_is_done_already_is_not_waited_for():
    ended = run(PATH, GIVEN, Windowed("train", needed=("compress", "compile")))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert "Choose window" not in ended.entered


def test_a_run_without_a_deadline_is_not_asked():
    ended = run(PATH, GIVEN, World())
    assert "Choose window" not in ended.entered


def test_a_run_goes_on_when_nobody_can_say_when():
    ended = run(PATH, GIVEN, Windowed("train", TaskError("SignalUnavailableError", "nobody knows")))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert jobs(ended) == list(STAGES)


def test_what_is_waited_for_is_the_moment_that_was_decided():
    (wait,) = [state for name, state in project.machine(PATH)["States"].items() if name == "Wait for window"]
    assert wait["Timestamp"] == "{% $states.input.until %}"
