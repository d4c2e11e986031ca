"""The machine that stops a watched training job: it decides, notes, stops and clears, in that order."""

from typing import Any

from infrastructure import project
from infrastructure.interpreter import TaskError, run

STOP = project.ROOT / "statemachines" / "stop_training.asl.yaml"
GIVEN = {"job": "pets-a1-train", "alarm": "history"}
STOPS = {"action": "stop", "reason": "flat", "note": {"TableName": "ledger"}, "alarms": ["ebb-pets-a1-train-nan"]}
CLEARS = {"action": "clear", "reason": "it has ended", "alarms": ["ebb-pets-a1-train-nan"]}


class World:
    """Answers with one decision after the other, and refuses what it is told to."""

    def __init__(self, *decisions: dict[str, Any], refused: dict[str, str] | None = None):
        self.decisions, self.refused = list(decisions), refused or {}

    def __call__(self, resource: str, arguments: Any) -> Any:
        action = resource.rpartition(":")[2]
        if action in self.refused:
            raise TaskError(self.refused[action])
        return {"Payload": self.decisions.pop(0)} if action == "invoke" else {}


def acts(done: Any) -> list[str]:
    return [resource.rpartition(":")[2] for resource, _ in done.asked if not resource.endswith("invoke")]


def test_a_job_is_noted_stopped_and_its_alarms_cleared():
    done = run(STOP, GIVEN, World(STOPS))
    assert done.status == "SUCCEEDED"
    assert acts(done) == ["updateItem", "stopTrainingJob", "deleteAlarms"]
    assert done.arguments("stopTrainingJob") == [{"TrainingJobName": "pets-a1-train"}]
    assert done.arguments("deleteAlarms") == [{"AlarmNames": STOPS["alarms"]}]


def test_a_job_that_still_gains_is_decided_on_again_later():
    done = run(STOP, GIVEN, World({"action": "wait", "reason": "it gains", "wait_s": 60}, STOPS))
    assert [name for name in done.entered if name in ("Decide training", "Wait")] == [
        "Decide training", "Wait", "Decide training",
    ]  # fmt: skip
    assert acts(done)[0] == "updateItem"


def test_where_another_rule_was_faster_nothing_is_stopped_twice():
    done = run(STOP, GIVEN, World(STOPS, refused={"updateItem": "DynamoDB.ConditionalCheckFailedException"}))
    assert (done.status, acts(done)) == ("SUCCEEDED", ["updateItem"])


def test_a_job_that_ended_before_it_could_be_stopped_is_cleared_at_the_next_look():
    done = run(STOP, GIVEN, World(STOPS, CLEARS, refused={"stopTrainingJob": "SageMaker.SageMakerException"}))
    assert done.status == "SUCCEEDED"
    assert acts(done)[-1] == "deleteAlarms"


def test_the_end_of_a_watched_job_clears_its_alarms_and_stops_nothing():
    event = {"detail-type": "SageMaker Training Job State Change", "detail": {"TrainingJobName": "pets-a1-train"}}
    done = run(STOP, event, World(CLEARS))
    assert acts(done) == ["deleteAlarms"]
    (asked,) = done.arguments("invoke")
    assert (asked["Payload"]["job"], asked["Payload"]["alarm"]) == ("pets-a1-train", "ended")


def test_a_job_that_is_left_alone_keeps_its_alarms():
    assert acts(run(STOP, GIVEN, World({"action": "leave", "reason": "no rule"}))) == []
