"""The sweep's machines: one state that is cheap to run, and a reaper that stops nothing without deciding once more."""

from datetime import timedelta
from typing import Any

import pytest

from ebb import sweep
from infrastructure import project
from infrastructure.interpreter import TaskError, run

REAP = project.ROOT / "statemachines" / "reap_resources.asl.yaml"
SWEEP = project.ROOT / "statemachines" / "sweep_account.asl.yaml"
GIVEN = {"kind": "notebook", "name": "lab", "keys": {"NotebookInstanceName": "lab"}, "reason": "in service for 3 days"}
STOPPING = {
    "notebook": "stopNotebookInstance",
    "app": "deleteApp",
    "space": "deleteSpace",
    "warm-pool": "updateTrainingJob",
    "training-job": "stopTrainingJob",
}


class Account:
    """Answers the machine's tasks; `fails` names an action that is refused."""

    def __init__(self, action: str = "stop notebook", fails: str | None = None):
        self.action, self.fails = action, fails

    def __call__(self, resource: str, arguments: Any) -> Any:
        action = resource.rsplit(":", 1)[-1]
        if action == self.fails:
            raise TaskError(
                "SageMaker.SageMakerException" if action in STOPPING.values() else "States.TaskFailed", "no"
            )
        if action == "invoke":
            decision: dict[str, Any] = {"action": self.action, "reason": "in service for 3 days"}
            if self.action != "keep":
                decision |= {
                    "request": {"It": "lab"},
                    "event": {"TableName": "ledger", "Item": {"pk": {"S": "RESOURCE#notebook/lab"}}},
                    "notice": {"subject": "stopped", "message": "why"},
                }
            return {"Payload": decision}
        return {}


@pytest.mark.parametrize(("kind", "action"), STOPPING.items())
def test_each_kind_is_stopped_by_its_own_call_noted_and_told(kind, action):
    done = run(REAP, GIVEN, Account(f"stop {kind}"))
    assert done.status == "SUCCEEDED"
    assert done.arguments(action) == [{"It": "lab"}]
    assert [other for other in STOPPING.values() if other != action and done.arguments(other)] == []
    assert done.arguments("putItem")[0]["TableName"] == "ledger"
    assert done.arguments("publish")[0]["Subject"] == "stopped"
    assert done.output["action"] == "stopped"


def test_nothing_is_stopped_that_is_in_use_again_by_now():
    done = run(REAP, GIVEN, Account("keep"))
    assert (done.status, done.output["action"]) == ("SUCCEEDED", "kept")
    assert [resource for resource, _ in done.asked] == ["arn:aws:states:::lambda:invoke"]


def test_the_decision_is_asked_for_the_moment_at_which_it_is_made():
    done = run(REAP, GIVEN, Account("keep"))
    (asked,) = done.arguments("invoke")
    assert asked["Payload"].keys() == {*GIVEN, "now"}


def test_a_decision_that_fails_stops_nothing():
    done = run(REAP, GIVEN, Account(fails="invoke"))
    assert done.status == "FAILED"
    assert len({resource for resource, _ in done.asked}) == 1


def test_what_aws_refuses_to_stop_is_not_told_as_stopped():
    done = run(REAP, GIVEN, Account(fails="stopNotebookInstance"))
    assert done.status == "FAILED"
    assert not done.arguments("putItem")
    assert not done.arguments("publish")


def test_an_event_that_cannot_be_noted_keeps_nobody_from_being_told():
    done = run(REAP, GIVEN, Account(fails="putItem"))
    assert done.status == "SUCCEEDED"
    assert done.arguments("publish")


def test_what_is_stopped_stays_so_and_is_no_failure_when_its_owner_cannot_be_told():
    done = run(REAP, GIVEN, Account(fails="publish"))
    assert (done.status, done.output["action"]) == ("SUCCEEDED", "stopped")
    state = project.machine(REAP)["States"]["Notify owner"]
    assert "SNS.ThrottledException" in state["Retry"][0]["ErrorEquals"]


def test_every_way_to_an_act_leads_through_the_decision():
    definition = project.machine(REAP)
    acting = {name for name, state in definition["States"].items() if "aws-sdk:sagemaker" in state.get("Resource", "")}
    assert len(acting) == len(STOPPING)
    assert definition["StartAt"] == "Decide reaping"
    assert not project.reachable(definition, "Decide reaping", without=frozenset({"What to do?"})) & acting


def test_a_sweep_is_one_state_because_it_runs_every_quarter_of_an_hour():
    """Each state is billed 2,920 times a month."""
    assert len(project.machine(SWEEP)["States"]) == 1
    done = run(SWEEP, {"now": "2026-11-23T12:00:00Z"}, lambda *_: {"Payload": {"started": 0}})
    assert (done.status, done.output) == ("SUCCEEDED", {"started": 0})


def test_the_schedule_is_the_quarter_of_an_hour_that_the_bill_counts():
    events = project.resources("AWS::Serverless::Function")["OnScheduleFunction"]["Properties"]["Events"]
    schedule = events["Sweep"]["Properties"]
    assert schedule["ScheduleExpression"] == "rate(15 minutes)"
    assert schedule["FlexibleTimeWindow"]["Mode"] == "FLEXIBLE"
    latest = timedelta(minutes=15 + schedule["FlexibleTimeWindow"]["MaximumWindowInMinutes"])
    assert latest < sweep.SEEN_TO_AHEAD, "what is to be woken before the next sweep is seen to by this one"
    assert schedule["DeadLetterConfig"]["Arn"] == {"Fn::GetAtt": ["EventsDeadLetterQueue", "Arn"]}


def test_foreign_resources_can_only_be_stopped_once_the_platform_engineer_has_opted_in():
    mine = [each for each in project.statements() if each.where == "ReapResourcesStateMachineRole"]
    role = project.template()["Resources"]["ReapResourcesStateMachineRole"]["Properties"]["Policies"][0]
    optional = [each["Fn::If"] for each in role["PolicyDocument"]["Statement"] if "Fn::If" in each]
    assert [each[0] for each in optional] == ["HasForeignOptIn"]
    guarded = set(optional[0][1]["Action"])
    for statement in mine:
        for action in statement.actions:
            if action.startswith("sagemaker:") and set(statement.actions) != guarded:
                assert action == "sagemaker:StopTrainingJob"
                assert statement.resources[0]["Fn::Sub"].endswith("training-job/*-a*"), "a run of this stack"
