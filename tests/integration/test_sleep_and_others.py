"""Endpoints sleep and wake while others have their hands on them, and when an execution is stopped in the middle.

Others scale, make alarms, delete, and end executions; each time what runs is not stopped, what is wanted wakes, and the
owner is told of what could not be done.
"""

import json
from datetime import timedelta
from typing import Any

import pytest

from ebb import addresses, endpoint_world, idle, keep_alive, snapshot, snapshot_calls
from ebb.aws import hosting, metrics
from ebb.endpoint_world import World
from ebb.minutes import moment
from ebb.requests import alarms
from infrastructure.interpreter import TaskError
from integration.conftest import made
from integration.sleeping import (
    MINUTE,
    START,
    WAKE,
    Cloud,
    asynchronous,
    classic,
    component,
    everything,
)
from worked_run import ACCOUNT, REGION

OWN = {"async": asynchronous, "component": component}


@pytest.fixture(params=OWN)
def own(request, account, monkeypatch) -> Cloud:
    return OWN[request.param](account, monkeypatch)


@pytest.fixture
def shop(account, monkeypatch) -> Cloud:
    return classic(account, monkeypatch)


def _scale(cloud: Cloud, count: int) -> None:
    """Somebody else sets the capacity."""
    if cloud.component:
        cloud.component["RuntimeConfig"] = {"DesiredCopyCount": count, "CurrentCopyCount": count}
    else:
        assert cloud.endpoint
        cloud.endpoint["ProductionVariants"][0] |= {"DesiredInstanceCount": count, "CurrentInstanceCount": count}


def _counts(cloud: Cloud) -> list[int]:
    if cloud.component:
        return [cloud.component["RuntimeConfig"]["CurrentCopyCount"]]
    assert cloud.endpoint
    return [each["CurrentInstanceCount"] for each in cloud.endpoint["ProductionVariants"]]


# ---- What it would be made of again is gone ----


GONE = "its model data s3://theirs/model.tar.gz is gone: it could not be made again"


def test_an_endpoint_that_could_not_be_made_again_is_not_deleted_and_the_ledger_says_why(shop: Cloud):
    before = everything(shop)
    shop.lost = GONE
    assert shop.sleep().output == {"outcome": "keep", "reason": GONE}
    assert everything(shop) == before
    assert [(each["what"], each["reason"]) for each in shop.events()] == [("kept though idle", GONE)]


def test_what_is_gone_by_the_time_it_would_be_deleted_calls_it_off(shop: Cloud):
    before = everything(shop)
    looks = []

    def lose() -> None:
        looks.append("first")
        shop.before["decide"] = lambda: setattr(shop, "lost", GONE)

    shop.before["decide"] = lose
    assert shop.sleep().output == {"outcome": "awake", "reason": GONE}
    assert looks
    assert everything(shop) == before
    assert (shop.state().state, shop.state().reason) == ("awake", GONE)


def test_what_is_not_deleted_needs_nothing_to_be_made_again(own: Cloud):
    own.lost = GONE
    assert own.sleep().output["outcome"] == "asleep"


# ---- Others scale ----


def test_a_request_that_meets_it_awake_at_zero_wakes_it(own: Cloud):
    """Nobody put it to sleep, so no snapshot was kept: what it is without its copies is what it is to be."""
    before = everything(own)
    _scale(own, 0)
    assert own.wake().output["outcome"] == "awake"
    assert everything(own) == before
    assert own.state().state == "awake"


def test_an_older_snapshot_is_not_put_back_over_what_others_have_scaled_to_nothing(own: Cloud):
    own.sleep()
    own.wake()
    own.putMetricAlarm(own.alarms["ebb-pets-errors"] | {"Threshold": 7.0})  # since then
    before = everything(own)
    _scale(own, 0)
    assert own.wake().output["outcome"] == "awake"
    assert everything(own) == before


def test_what_is_scaled_out_while_it_falls_asleep_stays_so(shop: Cloud):
    def burst() -> None:
        shop.calls = [shop.now]
        _scale(shop, 4)

    shop.after["updateItem"] = burst
    assert shop.sleep().output["outcome"] == "awake"
    for _, given in shop.started:
        shop.wake(**given)
    assert _counts(shop) == [4, 1]
    assert "updateEndpointWeightsAndCapacities" not in shop.sent
    assert shop.state().state == "awake"


def test_waking_takes_nothing_from_what_was_scaled_out_meanwhile(own: Cloud):
    own.sleep()
    _scale(own, 5)  # AWS, by its wake alarm and what waits
    own.sent.clear()
    assert own.wake().output["outcome"] == "awake"
    assert _counts(own) == [5]


def test_of_two_variants_the_one_that_lacks_is_filled_and_the_other_keeps_what_it_has(shop: Cloud):
    goal = snapshot.take(shop.at, shop.observe(shop.at), START)
    assert shop.endpoint
    shop.endpoint["ProductionVariants"][0] |= {"DesiredInstanceCount": 4, "CurrentInstanceCount": 4}
    shop.endpoint["ProductionVariants"][1] |= {"DesiredInstanceCount": 0, "CurrentInstanceCount": 0}
    (call,) = snapshot_calls.to_wake(shop.at, goal, shop.observe(shop.at), wake_alarm="")
    assert [each["DesiredInstanceCount"] for each in call["with"]["DesiredWeightsAndCapacities"]] == [4, 1]


def test_what_failed_to_wake_and_has_capacity_is_woken_to_the_end(own: Cloud):
    """It answers and is billed: in the ledger as failed it would never sleep again."""
    state = own.state()
    failed = addresses.change(
        own.at.address, expected="awake", generation=state.generation, to="failed", now=START - 60 * MINUTE
    )
    assert own.book.apply(failed)
    assert "with capacity" in own.sleep().output["reason"]
    ((_, given),) = own.started
    assert own.wake(**given).output["outcome"] == "awake"  # with no snapshot: what is there is what it is to be
    own.now += 60 * MINUTE
    assert own.sleep().output["outcome"] == "asleep"


# ---- Others make and keep alarms ----


def test_a_wake_alarm_left_over_while_awake_does_not_keep_it_from_waking(own: Cloud):
    before = everything(own)
    arn = own.policies[0]["PolicyARN"]
    own.putMetricAlarm(alarms.wake(own.at, policy_arn=arn, tags=[]))
    assert own.sleep().output["outcome"] == "asleep"
    own.sent.clear()
    assert own.wake().output["outcome"] == "awake"
    assert len(own.sent) < 12
    assert everything(own) == before


def test_an_endpoint_without_its_idle_alarm_has_one_when_it_wakes(own: Cloud):
    before = own.alarms["ebb-pets-idle"]
    own.deleteAlarms({"AlarmNames": ["ebb-pets-idle"]})
    own.sleep()
    assert own.wake().output["outcome"] == "awake"
    lasting = {name: value for name, value in own.alarms["ebb-pets-idle"].items() if value != []}
    assert lasting == {name: value for name, value in before.items() if value != []}


def test_an_alarm_that_is_made_anew_has_the_stacks_tags(own: Cloud):
    tags: list[Any] = []
    own.sleep()
    put = own.putMetricAlarm
    own.putMetricAlarm = lambda arguments: (tags.append(arguments.get("Tags")), put(arguments))  # type: ignore[method-assign, func-returns-value]
    own.wake()
    assert tags == [[{"Key": "ebb:stack", "Value": "ebb"}, {"Key": "ebb:project", "Value": "pets"}]]


def _fleet(*endpoints: str) -> dict[str, Any]:
    def of(name: str) -> dict[str, Any]:
        dimensions = [{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "blue"}]
        metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocation5XXErrors", "Dimensions": dimensions}
        return {"Id": f"m_{name}", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}}

    return {"AlarmName": "fleet", "Metrics": [of(name) for name in endpoints]}


def test_an_alarm_over_several_endpoints_is_none_of_one_of_them():
    assert endpoint_world.alarms_of([_fleet("shop", "payments")], ["shop"], []) == []
    assert endpoint_world.alarms_of([_fleet("shop")], ["shop"], []) == [_fleet("shop")]


def test_a_foreign_component_that_nothing_wakes_does_not_sleep(account, monkeypatch):
    cloud = component(account, monkeypatch)
    at = cloud.at.model_copy(update={"origin": "foreign"})
    assert not endpoint_world.wakes_by_itself(at, cloud.observe(at))
    wakes = alarms.wake(at, policy_arn=cloud.policies[0]["PolicyARN"], tags=[])
    assert endpoint_world.wakes_by_itself(at, cloud.observe(at).model_copy(update={"alarms": (wakes,)}))
    facts = idle.Facts(
        name="x", kind="realtime", status="InService", origin="foreign", tags={"ebb:sleep": "allowed"},
        wakes_by_itself=False,
    )  # fmt: skip
    refused = idle.protected(facts, at.policy, foreign_allowed=True)
    assert refused
    assert "NoCapacityInvocationFailures" in refused.reason


# ---- Others delete ----


@pytest.mark.parametrize("gone", ["endpoint", "being deleted", "component"])
def test_an_address_without_an_endpoint_says_so_and_is_not_tried_again_at_once(account, monkeypatch, gone):
    cloud = component(account, monkeypatch)
    if gone == "component":
        cloud.component = None
    elif gone == "endpoint":
        cloud.endpoint = None
    else:
        assert cloud.endpoint
        monkeypatch.setattr(cloud, "observe", lambda *_, **__: World(endpoint=cloud.endpoint))
        monkeypatch.setattr("ebb.aws.endpoints.observe", cloud.observe)
        cloud.endpoint["EndpointStatus"] = "Deleting"
    ended = cloud.wake()
    assert (ended.status, cloud.state().state) == ("FAILED", "failed")
    (told,) = cloud.told
    assert "deploy the model again" in told["Message"]


def test_a_snapshot_gone_half_way_does_not_lose_what_was_changed_already(shop: Cloud):
    """The copy in the ledger tells what is to be put back."""
    before = everything(shop)

    def lose() -> None:
        held = shop.state().snapshot
        assert held
        bucket, _, key = held["uri"].removeprefix("s3://").partition("/")
        made("s3").delete_object(Bucket=bucket, Key=key)

    shop.fails["deleteEndpoint"] = [TaskError("SageMaker.SageMakerException", "Rate exceeded")] * 4
    shop.after["deregisterScalableTarget"] = lose
    assert shop.sleep().output["outcome"] == "awake"
    ((_, given),) = shop.started
    shop.wake(**given)
    assert everything(shop) == before
    assert shop.state().state == "awake"


# ---- What is told of its history ----


def test_a_wake_does_not_cut_the_history_on_which_its_kind_is_decided(account, monkeypatch):
    cloud = asynchronous(
        account, monkeypatch, in_service_since=START - timedelta(days=20), kind_since=START - timedelta(days=20)
    )
    cloud.sleep()
    cloud.now += 60 * MINUTE
    cloud.wake()
    at = cloud.state()
    assert at.in_service_since > START
    now = hosting.current(at)
    assert now
    assert now.since == START - timedelta(days=20)
    asked: list[Any] = []
    monkeypatch.setattr(hosting, "calls", lambda at, *, since, until, period: asked.append(since) or [])
    assert hosting.measured_traffic(at, cloud.now)
    assert cloud.now - asked[0] > timedelta(days=7)


@pytest.mark.parametrize("kind", OWN)
def test_who_forbids_cold_starts_and_is_never_called_sleeps_after_two_weeks(account, monkeypatch, kind):
    policy = addresses.IdlePolicy(cold_start="avoid")
    cloud = OWN[kind](account, monkeypatch)
    cloud.book.apply(addresses.put(cloud.at.model_copy(update={"policy": policy}), now=START - timedelta(days=30)))
    made_at = (START - timedelta(days=20)).isoformat()
    for part in (cloud.endpoint, cloud.component):
        if part:
            part |= {"CreationTime": made_at}
    assert cloud.sleep(generation=2).output["outcome"] == "asleep"


def test_what_was_called_before_it_was_made_again_still_counts(account, monkeypatch):
    """A classic endpoint is made anew by each wake; its metrics are older."""
    cloud = classic(account, monkeypatch)
    assert cloud.endpoint
    cloud.endpoint["CreationTime"] = (START - timedelta(hours=1)).isoformat()
    policy = addresses.IdlePolicy()
    cloud.book.apply(addresses.put(cloud.at.model_copy(update={"policy": policy}), now=START - timedelta(days=30)))
    asked: dict[str, Any] = {}
    calls = (START - timedelta(days=10), START - timedelta(minutes=1))
    monkeypatch.setattr(metrics, "history", lambda *_, **__: calls)
    window = keep_alive.window
    monkeypatch.setattr(keep_alive, "window", lambda *given, **named: asked.update(named) or window(*given, **named))
    cloud.sleep()
    assert asked["observed_since"] == calls[0]


# ---- Executions that are stopped, time out or fail ----


def _ended(cloud: Cloud, status: str, execution: str | None = None) -> dict[str, Any]:
    """The event of an execution's end; by default of the one that works on the address."""
    detail = {"executionArn": execution or cloud.state().worked_by, "status": status}
    return {"detail": {**detail, "input": json.dumps({"address": cloud.at.address, "generation": 1})}}


@pytest.mark.parametrize("status", ["ABORTED", "TIMED_OUT"])
def test_a_sleep_that_was_killed_is_taken_up_again_and_the_owner_told(own: Cloud, status):
    call = "updateInferenceComponentRuntimeConfig" if own.component else "updateEndpointWeightsAndCapacities"
    own.killed_in(call, effective=True)
    ended = own.sleep(**_ended(own, status))
    assert ended.output["outcome"] == "asleep"
    first = own.told[0]
    assert (status in first["Message"], "taken up again" in first["Message"]) == (True, True)
    assert own.state().state == "asleep"


@pytest.mark.parametrize("status", ["ABORTED", "TIMED_OUT"])
def test_a_wake_that_was_killed_is_taken_up_again_and_the_owner_told(own: Cloud, status):
    before = everything(own)
    own.sleep()
    own.told.clear()
    own.killed_in("updateItem", WAKE, effective=True)
    own.sleep(**_ended(own, status))
    (told,) = own.told
    assert "taken up again" in told["Message"]
    ((_, given),) = own.started
    assert own.wake(**given).output["outcome"] == "awake"
    assert everything(own) == before


def test_what_failed_half_way_is_told_and_left_to_the_sweep(own: Cloud):
    """What fails at once would fail again at once: the sweep tries at longer and longer distances."""
    own.sleep()
    own.told.clear()
    own.killed_in("updateItem", WAKE, effective=True)
    own.sleep(**_ended(own, "FAILED"))
    (told,) = own.told
    assert "next sweep" in told["Message"]
    assert own.started == []


@pytest.mark.parametrize("status", ["ABORTED", "TIMED_OUT", "FAILED"])
def test_an_execution_that_left_nothing_half_done_is_nobodys_business(own: Cloud, status):
    gone = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:ebb-scale-to-zero:sleep-ebb-pets-g1"
    ended = own.sleep(**_ended(own, status, gone))
    assert "left nothing half done" in ended.output["reason"]
    assert (own.told, own.started, own.state().state) == ([], [], "awake")


def test_a_wake_that_meets_one_falling_asleep_for_ever_ends(own: Cloud):
    own.killed_in("updateItem", effective=True)
    own.running = {str(own.state().worked_by)}  # and never ends
    ended = own.wake()
    assert ended.status == "FAILED"
    assert "falling asleep" in ended.cause
    assert len(ended.entered) < 4_000  # of 25,000 events: each state is two to five


@pytest.mark.parametrize(("cold_start", "remembered"), [("avoid", 1), ("allowed", 0)])
def test_a_cold_wake_that_the_sla_forbids_is_remembered_and_counted(account, monkeypatch, cold_start, remembered):
    policy = addresses.IdlePolicy(cold_start=cold_start, idle_after_s=300)
    cloud = asynchronous(account, monkeypatch)
    cloud.book.apply(addresses.put(cloud.at.model_copy(update={"policy": policy}), now=START - timedelta(days=30)))
    cloud.sleep(generation=2)
    cloud.now += 60 * MINUTE
    cloud.wake()
    woken = cloud.state().cold_wakes
    assert len(woken) == remembered
    cloud.book.apply(
        addresses.put(
            cloud.state().model_copy(update={"policy": addresses.IdlePolicy(cold_start=cold_start)}), now=cloud.now
        )
    )
    asked: dict[str, Any] = {}
    window = keep_alive.window
    monkeypatch.setattr(keep_alive, "window", lambda *given, **named: asked.update(named) or window(*given, **named))
    cloud.now += 60 * MINUTE
    cloud.sleep()
    assert asked["cold_wakes"] == [moment(each) for each in woken]
