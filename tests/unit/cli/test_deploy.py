"""`ebb deploy`: a served model moves to another kind, and whoever waits is told how it ended."""

import json
from datetime import UTC, datetime

import pytest

from ebb import addresses, ledger
from ebb.addresses import Address
from ebb.spec_values import SERVE_KINDS
from ebb_cli import deploy


@pytest.fixture
def machine(target) -> str:
    """deploy_model, which here only waits."""
    definition = json.dumps({"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 600, "End": True}}})
    role = "arn:aws:iam::123456789012:role/m"
    made = target.client("stepfunctions").create_state_machine(name="deploy", definition=definition, roleArn=role)
    target.outputs["DeployModelStateMachineArn"] = made["stateMachineArn"]
    return made["stateMachineArn"]


@pytest.fixture
def served(target, machine) -> None:
    """A project with a model at its address."""
    at = Address(address="ebb-pets", project="pets", kind="async", endpoint_name="ebb-pets--async")
    dynamodb = target.client("dynamodb")
    dynamodb.update_item(**ledger.as_action("ledger", addresses.put(at, now=datetime.now(UTC))))
    request = ledger.remember_served("pets", 3, {"run_id": "pets-20261123040506-abc123", "candidate": "student"})
    dynamodb.update_item(**ledger.as_action("ledger", request))


def _started(target, machine) -> list[dict]:
    states = target.client("stepfunctions")
    found = states.list_executions(stateMachineArn=machine)["executions"]
    return [json.loads(states.describe_execution(executionArn=each["executionArn"])["input"]) for each in found]


def test_a_kind_asked_for_is_handed_to_the_machine_that_plans_it(ebb, target, served, machine):
    done = ebb("deploy", "pets", "--kind", "realtime", "--json")
    assert done.exit_code == 0, done.stderr
    assert _started(target, machine) == [{"project": "pets", "kind": "realtime", "reason": "asked for by hand"}]


def test_without_a_kind_the_traffic_chooses(ebb, target, served, machine):
    assert "ebb endpoints" in ebb("deploy", "pets").stdout
    assert _started(target, machine) == [{"project": "pets", "kind": "auto"}]


def test_a_kind_that_does_not_exist_is_refused_before_anything_starts(ebb, target, served, machine):
    done = ebb("deploy", "pets", "--kind", "classic")
    assert (done.exit_code, _started(target, machine)) == (2, [])
    assert "serverless, async" in done.stderr


def test_a_project_without_a_model_is_told_how_to_get_one(ebb, machine):
    done = ebb("deploy", "pets")
    assert done.exit_code == 1
    assert "ebb drop" in done.stderr


@pytest.mark.parametrize(
    ("ended", "code", "told"),
    [
        pytest.param({"deployed": True, "reason": "asked for"}, 0, "served at ebb-pets as async", id="deployed"),
        pytest.param({"deployed": False, "reason": "it is so"}, 0, "nothing was changed: it is so", id="nothing to do"),
        pytest.param(None, 1, "RolledBack", id="taken back"),
    ],
)
def test_whoever_waits_is_told_how_it_ended(ebb, target, served, monkeypatch, ended, code, told):
    class Ended:
        def describe_execution(self, **_):
            if ended is None:
                return {"status": "FAILED", "error": "RolledBack", "cause": "the new model set off ebb-pets-errors"}
            return {"status": "SUCCEEDED", "output": json.dumps(ended)}

        def start_execution(self, **_):
            return {"executionArn": "arn"}

    real = target.client
    monkeypatch.setattr(type(target), "client", lambda self, name: Ended() if name == "stepfunctions" else real(name))
    done = ebb("deploy", "pets", "--kind", "async", "--wait")
    assert done.exit_code == code
    assert told in " ".join((done.stdout + done.stderr).split())


def test_every_kind_that_a_spec_may_ask_for_may_be_asked_for_by_hand():
    assert set(deploy.KINDS) == set(SERVE_KINDS)
