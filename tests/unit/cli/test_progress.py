"""From an execution's history to the steps that a person waits for."""

from datetime import UTC, datetime, timedelta

import pytest

from ebb_cli import progress
from ebb_cli.progress import Step

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def entered(name: str, second: float, kind: str = "Task") -> dict:
    return {"type": f"{kind}StateEntered", "timestamp": at(second), "stateEnteredEventDetails": {"name": name}}


def exited(name: str, second: float, kind: str = "Task") -> dict:
    return {"type": f"{kind}StateExited", "timestamp": at(second), "stateExitedEventDetails": {"name": name}}


def ended(kind: str, second: float) -> dict:
    return {"type": kind, "timestamp": at(second)}


@pytest.mark.parametrize(
    ("events", "steps"),
    [
        pytest.param([], [], id="nothing yet"),
        pytest.param(
            [entered("Identify dataset", 0)], [Step("Identify dataset", at(0))], id="a state that was entered goes on"
        ),
        pytest.param(
            [entered("Process data", 1), exited("Process data", 9)],
            [Step("Process data", at(1), at(9))],
            id="a state that was left has ended",
        ),
        pytest.param(
            [entered("Process needed?", 1, "Choice"), exited("Process needed?", 1, "Choice")],
            [],
            id="bookkeeping is not shown",
        ),
        pytest.param(
            [entered("Ensure roles", 1, "Map"), exited("Ensure roles", 3, "Map")],
            [Step("Ensure roles", at(1), at(3))],
            id="a Map is a step like any other",
        ),
        pytest.param(
            [entered("Train model", 1), exited("Train model", 2), entered("Train model", 3)],
            [Step("Train model", at(1))],
            id="entered again it goes on from its first beginning",
        ),
        pytest.param(
            [entered("Train model", 1), ended("ExecutionAborted", 5)],
            [Step("Train model", at(1), at(5), failed=True)],
            id="what was open when the execution was stopped has failed",
        ),
        pytest.param(
            [entered("Train model", 1), exited("Train model", 5), ended("ExecutionFailed", 6)],
            [Step("Train model", at(1), at(5))],
            id="what had ended before has not",
        ),
    ],
)
def test_steps(events, steps):
    assert progress.steps(events) == steps


def test_the_stage_that_the_ledger_names_has_failed_though_its_state_was_left():
    history = [
        entered("Process data", 0),
        exited("Process data", 3),
        entered("Train model", 4),
        exited("Train model", 5),
    ]
    found = progress.steps(history, failed_stage="train")
    assert [(step.name, step.failed) for step in found] == [("Process data", False), ("Train model", True)]


def test_building_the_images_is_a_step_of_its_own_that_may_fail():
    history = [entered("Build images", 0, "Map"), exited("Build images", 90, "Map")]
    assert progress.steps(history) == [Step("Build images", at(0), at(90))]
    assert progress.steps(history, failed_stage="images")[0].failed


def test_the_seconds_of_a_step_that_goes_on_are_counted_until_now():
    assert Step("Train model", at(0)).seconds(at(7.5)) == 7.5
    assert Step("Train model", at(0), at(2)).seconds(at(7.5)) == 2


@pytest.mark.parametrize(
    ("report", "told"),
    [
        pytest.param(None, "", id="a stage without a report"),
        pytest.param(
            {
                "rows": {"read": 20100, "kept": 20000, "duplicates": 100},
                "task": "tabular-classification",
                "target": "letter",
            },
            "20,000 rows, 100 duplicates removed; tabular-classification, target letter",
            id="process",
        ),
        pytest.param(
            {"rows": {"kept": 4900}, "task": "image-classification", "target": "label"},
            "4,900 pictures; image-classification, target label",
            id="process, of pictures",
        ),
        pytest.param({"task": "custom", "files": 1}, "custom, 1 data file", id="process, of a script's data"),
        pytest.param(
            {"metric": "accuracy", "epochs": 12, "quality": {"validation": 0.97321}},
            "accuracy 0.9732 after 12 epochs",
            id="train",
        ),
        pytest.param(
            {"metric": "accuracy", "quality": {"validation": 0.97321}, "as_is": False},
            "accuracy 0.9732, as exported",
            id="train, by a script",
        ),
        pytest.param(
            {"builds": [{"id": "b:1", "image": "1.dkr.ecr.eu-west-1.amazonaws.com/ebb/serve:0f3a9c"}, {"id": "b:2"}]},
            "serve:0f3a9c",
            id="images",
        ),
        pytest.param({"as_is": True}, "served as it is", id="train, by a script that exports nothing"),
        pytest.param(
            {"candidates": [{"status": "made"}, {"status": "made"}, {"status": "failed"}]},
            "2 candidates, 1 failed",
            id="compress",
        ),
    ],
)
def test_summary(report, told):
    assert progress.summary({"report": report}) == told
