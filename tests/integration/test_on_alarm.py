"""An alarm goes off: which machine starts, under which name, and what does not."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

import on_alarm
from ebb import addresses
from ebb.addresses import Address
from ebb.aws import executions
from ebb.aws.ledger import Ledger
from infrastructure import project
from integration.conftest import made
from integration.sleeping import START
from worked_run import ACCOUNT, LEDGER

PETS = Address(address="ebb-pets", project="pets", kind="async", endpoint_name="ebb-pets--async")


def _event(name: str, **detail: Any) -> dict[str, Any]:
    event = json.loads((project.ROOT / "events" / f"{name}.json").read_text(encoding="utf-8"))
    event["detail"] |= detail
    return event


@pytest.fixture
def machines(account, monkeypatch) -> dict[str, str]:
    definition = json.dumps({"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 1, "End": True}}})
    arns = {}
    for name, variable in (
        ("scale-to-zero", "SCALE_TO_ZERO_ARN"),
        ("stop-training", "STOP_TRAINING_ARN"),
        ("wake-endpoint", "WAKE_ENDPOINT_ARN"),
    ):
        made_one = made("stepfunctions").create_state_machine(
            name=f"ebb-{name}", definition=definition, roleArn=f"arn:aws:iam::{ACCOUNT}:role/ebb"
        )
        arns[name] = made_one["stateMachineArn"]
        monkeypatch.setenv(variable, made_one["stateMachineArn"])
    Ledger(LEDGER).apply(addresses.put(PETS, now=START))
    return arns


def _runs(arn: str) -> list[dict[str, Any]]:
    found = made("stepfunctions").list_executions(stateMachineArn=arn)["executions"]
    return [made("stepfunctions").describe_execution(executionArn=each["executionArn"]) for each in found]


def test_an_idle_alarm_starts_what_decides_whether_to_sleep(machines, context):
    started = on_alarm.handler(_event("alarm_idle"), context)["started"]
    (run,) = _runs(machines["scale-to-zero"])
    assert run["name"] == started == "sleep-ebb-pets-g1-2611231215"
    given = json.loads(run["input"])
    assert (given["address"], given["generation"], given["now"]) == ("ebb-pets", 1, "2026-11-23T12:15:31Z")
    assert given["reason"].startswith("Threshold Crossed: 15 out of the last 15 datapoints")


def _change(state: addresses.State, **fields: Any) -> None:
    book = Ledger(LEDGER)
    at = book.address("ebb-pets")
    assert book.apply(
        addresses.change(
            "ebb-pets", expected=at.state, generation=at.generation, to=state, now=START, fields=fields or None
        )
    )


@pytest.mark.parametrize("state", ["asleep", "falling-asleep", "failed"])
def test_a_wake_alarm_starts_what_wakes(machines, context, state):
    _change(state)
    on_alarm.handler(_event("alarm_wake"), context)
    (run,) = _runs(machines["wake-endpoint"])
    assert run["name"] == "wake-ebb-pets-g2"
    assert json.loads(run["input"]) == {"address": "ebb-pets", "generation": 2}


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
def test_a_wake_alarm_does_not_wake_again_what_is_being_woken(machines, context, alive):
    """Ten callers have woken it once; the alarm of an eleventh, who asked AWS itself, comes up to a minute later."""
    arn = machines["wake-endpoint"]
    _change("asleep")
    worker = made("stepfunctions").start_execution(stateMachineArn=arn, name="wake-ebb-pets-g2")["executionArn"]
    _change("waking", worked_by=worker)
    if not alive:
        made("stepfunctions").stop_execution(executionArn=worker)
    told = on_alarm.handler(_event("alarm_wake"), context)
    more = [] if alive else ["wake-ebb-pets-g3"]
    assert [each["name"] for each in _runs(arn) if each["name"] != "wake-ebb-pets-g2"] == more
    assert told["started"] == (None if alive else "wake-ebb-pets-g3")


def test_a_wake_alarm_that_comes_late_finds_it_awake(machines, context):
    told = on_alarm.handler(_event("alarm_wake"), context)
    assert told == {"started": None, "reason": "it is awake by now"}
    assert _runs(machines["wake-endpoint"]) == []


def test_an_alarm_that_is_delivered_twice_starts_one(machines, context):
    for _ in range(2):
        on_alarm.handler(_event("alarm_idle"), context)
    assert len(_runs(machines["scale-to-zero"])) == 1


@pytest.mark.parametrize("name", ["ebb-dogs-idle", "ebb-pets-errors", "ebb2-pets-idle", "idle"])
def test_other_alarms_start_nothing(machines, context, name):
    assert on_alarm.handler(_event("alarm_idle", alarmName=name), context)["started"] is None
    assert _runs(machines["scale-to-zero"]) == []


def test_what_ended_without_doing_its_work_does_not_keep_it_from_being_done(machines):
    """A name is taken for 90 days; ten callers still start one."""
    arn = machines["wake-endpoint"]
    assert executions.ensure(arn, "wake-ebb-pets-g1", {"address": "ebb-pets"})
    (run,) = _runs(arn)
    made("stepfunctions").stop_execution(executionArn=run["executionArn"])
    assert executions.ensure(arn, "wake-ebb-pets-g1", {"address": "ebb-pets"})
    for _ in range(10):
        executions.ensure(arn, "wake-ebb-pets-g1", {"address": "ebb-pets"})
    assert {each["name"] for each in _runs(arn)} == {"wake-ebb-pets-g1", "wake-ebb-pets-g1-r1"}


def test_what_nobody_knows_has_ended(machines):
    assert not executions.is_running(f"{machines['wake-endpoint'].replace('stateMachine', 'execution')}:nobody")


def test_what_is_no_arn_is_an_error_and_not_an_end(machines):
    """Whoever is taken for ended is taken over from, though it may still work."""
    with pytest.raises(ClientError, match="InvalidArn"):
        executions.is_running("sleep-ebb-pets-g1")
