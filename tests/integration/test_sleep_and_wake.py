"""Endpoints fall asleep and wake by the real functions and state machines, whatever breaks on the way.

In each test: nothing that is busy is stopped, and whatever was put to sleep comes back as it was.
"""

import importlib
from datetime import UTC, datetime, timedelta

import jsonata
import pytest
from ministack.services import stepfunctions

from ebb import addresses, control_plane, ledger, pace, scaling_looks, scaling_wake
from ebb.errors import EndpointUnreadableError, MetricsUnavailableError
from ebb.requests import scaling as requests
from infrastructure import project
from infrastructure.interpreter import TaskError
from integration.sleeping import MINUTE, WAKE, Cloud, Stopped, asynchronous, classic, component, everything

KINDS = {"async": asynchronous, "component": component, "classic": classic}
SLEEPING_CALLS = {
    "async": ["putMetricAlarm", "updateEndpointWeightsAndCapacities", "deleteAlarms"],
    "component": ["putMetricAlarm", "updateInferenceComponentRuntimeConfig", "deleteAlarms"],
    "classic": ["disableAlarmActions", "deregisterScalableTarget", "deleteEndpoint"],
}
METRICS = {
    "async": "SageMakerVariantInvocationsPerInstance",
    "component": "SageMakerInferenceComponentInvocationsPerCopy",
}
CHANGING = {each for calls in SLEEPING_CALLS.values() for each in calls}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def cloud(kind, account, monkeypatch) -> Cloud:
    return KINDS[kind](account, monkeypatch)


def _want(cloud: Cloud) -> bool:
    """Note a request that met it not awake, as the front door does."""
    return cloud.book.apply(addresses.want(cloud.at.address, cloud.now))


def _untouched(cloud: Cloud) -> bool:
    return not CHANGING & set(cloud.sent)


# ---- The whole way ----


def test_an_idle_endpoint_sleeps_and_wakes_exactly_as_it_was(cloud: Cloud, kind):
    before = everything(cloud)
    slept = cloud.sleep()
    assert (slept.status, slept.output["outcome"]) == ("SUCCEEDED", "asleep")
    asleep = cloud.state()
    assert (asleep.state, asleep.worked_by) == ("asleep", None)
    assert [each for each in cloud.sent if each in CHANGING] == SLEEPING_CALLS[kind]
    assert everything(cloud) != before
    cloud.now += 60 * MINUTE
    assert _want(cloud)
    woken = cloud.wake()
    assert (woken.status, woken.output["outcome"]) == ("SUCCEEDED", "awake")
    assert everything(cloud) == before
    awake = cloud.state()
    assert (awake.state, awake.wanted_at, awake.worked_by, awake.tried) == ("awake", None, None, ())


def test_the_owner_is_told_what_was_stopped_why_how_it_wakes_and_what_it_saves(account, monkeypatch):
    cloud = asynchronous(account, monkeypatch)
    cloud.sleep()
    (told,) = cloud.told
    for words in ("ebb-pets (async, ml.m5.large)", "no call within 15 min", "ebb invoke pets", "83.70 USD a month"):
        assert words in told["Message"]  # 0.115 USD * 730 h - 0.25 USD for watching


def test_the_ledger_tells_of_each_sleep_and_wake_with_seconds_and_savings(account, monkeypatch):
    cloud = asynchronous(account, monkeypatch)
    cloud.sleep()
    cloud.now += 60 * MINUTE
    _want(cloud)
    cloud.wake()
    slept, woke = cloud.events()
    assert (slept["what"], slept["kind"], slept["project"]) == ("slept", "async", "pets")
    assert slept["took_s"] >= 150  # the grace
    assert slept["saves_usd_per_month"] == 83.7
    assert woke["what"] == "woke"
    assert 3600 <= woke["asleep_s"] <= 3660
    assert woke["saved_usd"] == pytest.approx(0.115, rel=0.02)
    assert woke["saved_kwh"] == pytest.approx(0.02, rel=0.02)
    assert woke["took_s"] < 30


def test_the_ledger_tells_how_long_after_the_first_request_aws_was_asked_for_capacity(account, monkeypatch):
    """Of several requests the first one counts; what the machine itself notes is the clock's, not the test's."""
    monkeypatch.setattr(stepfunctions, "now_iso", lambda: "2026-11-23T15:00:02.250Z")
    cloud = asynchronous(account, monkeypatch)
    cloud.sleep()
    for second in (0, 1):
        assert cloud.book.apply(addresses.want(cloud.at.address, datetime(2026, 11, 23, 15, 0, second, tzinfo=UTC)))
    cloud.wake()
    assert cloud.events()[-1]["called_after_s"] == cloud.state().called_after_s == 2.25
    assert cloud.state().first_wanted_at is None


def test_nothing_waits_between_the_first_request_and_the_wake_call(cloud: Cloud):
    """At most five seconds are Ebb's own: no Wait, no queue and no schedule lies between; each step is a call."""
    cloud.sleep()
    woken = cloud.wake()
    way = woken.entered[: woken.entered.index("Send calls")]
    assert way == ["Plan wake", "What is next?", "Change state"]
    states = project.machine(project.ROOT / "statemachines" / "wake_endpoint.asl.yaml")["States"]
    assert {states[each]["Type"] for each in way} == {"Task", "Choice"}
    assert not any("sqs" in states[each].get("Resource", "") for each in way)
    first = next(each for each in woken.asked if each[0].rpartition(":")[2] in CHANGING | {"createEndpoint"})
    assert woken.asked.index(first) == 2, "after the plan and the note"


def test_the_first_calls_go_out_with_the_first_step_of_a_wake(cloud: Cloud):
    cloud.sleep()
    cloud.sent.clear()
    woken = cloud.wake()
    assert woken.entered.index("Send calls") < [i for i, n in enumerate(woken.entered) if n == "Plan wake"][1]


def test_as_many_states_are_entered_as_are_counted_for_the_bill(account, monkeypatch):
    """Of an endpoint that AWS is done with at once: each further look is one state more."""
    cloud = asynchronous(account, monkeypatch)
    slept, woken = cloud.sleep(), cloud.wake()
    inside = 2 * control_plane.SLEEPING_CALLS  # a Map's: which call, and the call
    assert 1 + len(slept.entered) + inside == control_plane.SLEEP_STATES
    assert 1 + len(woken.entered) + 2 + 1 == control_plane.WAKE_STATES, "its capacity; the alarm that comes back"


def test_the_steps_that_are_counted_for_the_bill_are_those_that_are_returned(account, monkeypatch):
    """What the benchmark counts along is written down there; these are of a run, by the machines as they are."""
    monkeypatch.syspath_prepend(str(project.ROOT / "benchmarks"))
    sweep = importlib.import_module("sweep")
    cloud = asynchronous(account, monkeypatch)
    ways = {"SLEEP_STATES": ("scale_to_zero", "Decide scaling"), "WAKE_STATES": ("wake_endpoint", "Plan wake")}
    counted, asked = {}, 0
    for (name, (machine, first)), run in zip(ways.items(), (cloud.sleep, cloud.wake), strict=True):
        cloud.steps.clear()
        assert run().status == "SUCCEEDED"
        asked += len(cloud.steps)
        counted[name] = 1 + sweep._states(machine, first, cloud.steps)
    cloud = asynchronous(account, monkeypatch)
    half_an_hour = cloud.at.policy.model_copy(update={"idle_after_s": 1800})
    later = cloud.at.model_copy(update={"policy": half_an_hour})
    cloud.book.apply(addresses.put(later, now=cloud.now - timedelta(days=2)))
    cloud.calls = [cloud.now - 15 * MINUTE]
    cloud.before["decide"] = lambda: cloud.before.update(decide=lambda: cloud.calls.append(cloud.now))
    assert cloud.sleep().output["outcome"] == "keep"
    counted["LOOK_STATES"] = 1 + sweep._states("scale_to_zero", "Decide scaling", cloud.steps)
    assert counted == {name: getattr(control_plane, name) for name in counted} == sweep.counted_states()
    functions = next(line.units for line in control_plane.cycle() if line.price == "lambda_request")
    assert functions == asked + 1, "the alarm's reactor, and each step"


def test_a_look_that_finds_it_changing_is_made_again_and_asks_nobody_else(account, monkeypatch):
    cloud = asynchronous(account, monkeypatch)
    cloud.sleep()
    seen = []

    def on_its_way() -> None:
        cloud.endpoint["EndpointStatus"] = "Updating"
        cloud.before["describeEndpoint"] = lambda: seen.append(cloud.before.update(describeEndpoint=arrived))

    def arrived() -> None:
        cloud.endpoint["EndpointStatus"] = "InService"

    cloud.after["updateEndpointWeightsAndCapacities"] = on_its_way
    woken = cloud.wake()
    assert woken.output["outcome"] == "awake"
    assert (woken.entered.count("Plan wake"), woken.entered.count("Watch endpoint")) == (2, 1)
    assert cloud.sent.count("describeEndpoint") >= 2


def test_copies_that_are_on_their_way_are_watched_for(account, monkeypatch):
    cloud = component(account, monkeypatch)
    cloud.sleep()

    def on_its_way() -> None:
        cloud.component["RuntimeConfig"]["CurrentCopyCount"] = 0
        cloud.before["describeInferenceComponent"] = lambda: cloud.before.update(describeInferenceComponent=arrived)

    def arrived() -> None:
        cloud.component["RuntimeConfig"]["CurrentCopyCount"] = 2

    cloud.after["updateInferenceComponentRuntimeConfig"] = on_its_way
    woken = cloud.wake()
    assert woken.output["outcome"] == "awake"
    assert woken.entered.count("Plan wake") == 2


def test_what_cannot_be_watched_is_decided_anew(cloud: Cloud):
    cloud.sleep()
    throttled = TaskError("SageMaker.SageMakerException", "Rate exceeded")
    cloud.fails = {"describeEndpoint": [throttled], "describeInferenceComponent": [throttled]}
    assert cloud.wake().output["outcome"] == "awake"


@pytest.mark.parametrize("machine", ["sleep", "wake"])
def test_a_look_that_is_throttled_is_made_again_at_growing_distances(account, monkeypatch, machine):
    """Each brings a function and several Describes with it: two seconds apart they would feed what throttles them."""
    cloud = asynchronous(account, monkeypatch)
    if machine == "wake":
        cloud.sleep()
    cloud.steps.clear()
    cloud.before["updateEndpointWeightsAndCapacities"] = lambda: cloud.fails.update(
        describeEndpoint=[TaskError("SageMaker.SageMakerException", "Rate exceeded (Service: SageMaker)")] * 6
    )
    cloud.after["updateEndpointWeightsAndCapacities"] = lambda: cloud.endpoint.update(EndpointStatus="Updating")

    def in_time() -> None:
        if not cloud.fails.get("describeEndpoint"):
            cloud.endpoint["EndpointStatus"] = "InService"
        cloud.before["decide"] = in_time

    cloud.before["decide"] = in_time
    ended = getattr(cloud, machine)()
    assert ended.output["outcome"] in ("asleep", "awake")
    waited = [each["wait_s"] for each in cloud.steps if each.get("watch")]
    assert waited[-1] == pace.AFTERWARDS_S
    assert waited == sorted(waited)
    assert ended.entered.count("Look later") == 6
    assert "Look again" not in ended.entered


def test_an_endpoint_that_is_gone_was_not_throttled(account, monkeypatch):
    """A request may wait for that to be seen."""
    cloud = classic(account, monkeypatch)
    ended = cloud.sleep()
    assert ended.output["outcome"] == "asleep"
    machine = project.machine(project.ROOT / "statemachines" / "scale_to_zero.asl.yaml")
    expression = machine["States"]["Watch endpoint"]["Catch"][-1]["Assign"]["pause_s"].strip("{%} ")
    for cause, pause_s in (('Could not find endpoint "shop". (Service: SageMaker)', 2), ("Rate exceeded", 30)):
        found = jsonata.Jsonata.jsonata(expression)
        found.assign("step", {"wait_s": 30})
        found.assign("states", {"errorOutput": {"Error": "SageMaker.SageMakerException", "Cause": cause}})
        assert found.evaluate(None) == pause_s


def test_a_call_that_is_sent_again_waits_for_a_while_and_does_not_watch_what_is_at_rest(account, monkeypatch):
    """AWS takes it and shows nothing of it: at once it would be sent as fast as a function answers."""
    cloud = component(account, monkeypatch)
    monkeypatch.setattr(cloud, "updateInferenceComponentRuntimeConfig", lambda _: None)
    calls = []

    def seen() -> None:
        calls.append(cloud.now)
        if len(calls) == 7:
            cloud.calls.append(cloud.now)
        cloud.before["decide"] = seen

    cloud.before["decide"] = seen
    cloud.sleep()
    again = [each for each in cloud.steps if each.get("write")][2:]  # the first one puts an alarm as well
    assert len(again) >= 2
    assert [each.get("watch") for each in again] == [None] * len(again)
    assert again[-1]["wait_s"] == pace.AFTERWARDS_S


def test_an_endpoint_that_stays_updating_on_its_way_to_sleep_is_woken_and_its_owner_told(account, monkeypatch):
    cloud = asynchronous(account, monkeypatch)
    cloud.after["updateEndpointWeightsAndCapacities"] = lambda: cloud.endpoint.update(EndpointStatus="Updating")
    throttled = TaskError("SageMaker.SageMakerException", "Rate exceeded")
    cloud.fails["describeEndpoint"] = [throttled] * 1000  # each look is decided anew
    began = cloud.now
    ended = cloud.sleep()
    assert ended.output["outcome"] == "awake"
    assert "it is Updating after" in ended.output["reason"]
    assert scaling_looks.LONGEST_CHANGE < cloud.now - began < scaling_looks.LONGEST_CHANGE + 10 * MINUTE
    ((_, given),) = cloud.started
    cloud.told.clear()
    assert cloud.wake(**given).status == "FAILED"
    assert "could not be woken" in cloud.told[0]["Subject"]


def test_a_request_as_it_settles_asleep_is_seen(cloud: Cloud):
    """It is noted after the last decision: the ledger refuses that it sleeps unwanted."""
    order = []

    def settle() -> None:
        order.append("asked")
        assert _want(cloud)

    cloud.before["deleteAlarms"] = cloud.after["deleteEndpoint"] = settle
    assert cloud.sleep().output["outcome"] == "asleep"
    assert order
    ((name, _),) = cloud.started
    assert name == addresses.wake_execution(cloud.at.address, cloud.state().generation)


def test_waking_twice_is_harmless(cloud: Cloud):
    cloud.sleep()
    cloud.wake()
    cloud.sent.clear()
    assert cloud.wake().output == {"outcome": "awake", "reason": "it is awake"}
    assert cloud.sent == []


def test_of_two_that_wake_at_once_one_does_it(cloud: Cloud):
    cloud.sleep()
    others = []
    cloud.before["decide"] = lambda: None
    cloud.after["updateItem"] = lambda: others.append(cloud.wake())  # the first has changed the state, and goes on
    before = len(cloud.sent)
    assert cloud.wake().output["outcome"] == "awake"
    assert others[0].output["reason"] == "another execution wakes it"
    sent = cloud.sent[before:]
    for once in ("createEndpoint", "updateInferenceComponentRuntimeConfig"):
        assert sent.count(once) <= 1
    assert cloud.state().state == "awake"


def test_it_is_woken_ahead_of_the_calls_that_its_habit_promises(account, monkeypatch):
    cloud = asynchronous(account, monkeypatch)
    cloud.after["updateItem"] = lambda: account.table.update_item(
        Key=addresses.key("ebb-pets"),
        UpdateExpression="SET prewake_at = :at",
        ExpressionAttributeValues={":at": "2026-11-24T06:00:00Z"},
    )
    cloud.sleep()
    assert not cloud.started, "no execution waits for days: the sweep starts one in time"
    given = {"generation": cloud.state().generation, "reason": scaling_wake.PREWAKE}
    cloud.wake()  # by a request, in the night
    assert cloud.state().prewake_at is None
    cloud.sleep()
    state = cloud.state()
    ended = cloud.wake(**given)
    assert "since it was to be woken ahead" in ended.output["reason"]
    assert cloud.state() == state


def test_an_execution_that_is_to_wake_it_ahead_waits_for_the_moment(account, monkeypatch):
    cloud = asynchronous(account, monkeypatch)
    cloud.sleep()
    due = (cloud.now + 20 * MINUTE).replace(microsecond=0)
    cloud.account.table.update_item(
        Key=addresses.key("ebb-pets"),
        UpdateExpression="SET prewake_at = :at",
        ExpressionAttributeValues={":at": ledger.iso(due)},
    )
    cloud.wake(generation=cloud.state().generation, reason=scaling_wake.PREWAKE)
    assert cloud.state().state == "awake"
    assert timedelta(0) <= cloud.now - due < MINUTE


# ---- Nothing busy is stopped ----


def test_a_call_within_the_window_keeps_it_awake(cloud: Cloud):
    cloud.calls = [cloud.now + number * MINUTE for number in range(-5, 200, 5)]
    ended = cloud.sleep()
    assert ended.output["outcome"] == "keep"
    assert cloud.state().state == "awake"
    assert _untouched(cloud)


def test_a_call_between_the_decision_and_the_act_calls_it_off(cloud: Cloud):
    before = everything(cloud)
    cloud.after["updateItem"] = lambda: cloud.calls.append(cloud.now)
    ended = cloud.sleep()
    assert ended.output["outcome"] == "awake"
    assert cloud.state().state == "awake"
    assert _untouched(cloud)
    assert everything(cloud) == before


def test_a_request_through_the_front_door_calls_it_off(cloud: Cloud):
    cloud.after["updateItem"] = lambda: _want(cloud)
    ended = cloud.sleep()
    assert ended.output == {"outcome": "awake", "reason": "a request came while it was falling asleep"}
    assert (cloud.state().state, cloud.state().wanted_at) == ("awake", None)
    assert _untouched(cloud)


def test_a_request_just_before_the_act_is_seen_by_the_write_that_allows_it(cloud: Cloud):
    """It came after the second decision: the ledger refuses, the third decision knows."""
    seen = []

    def want_once() -> None:
        cloud.before["updateItem"] = lambda: seen.append(_want(cloud))

    cloud.after["updateItem"] = want_once
    ended = cloud.sleep()
    assert seen == [True]
    assert ended.output["outcome"] == "awake"
    assert _untouched(cloud)


def test_a_request_while_it_goes_is_followed_by_a_wake(cloud: Cloud, kind):
    """It is noted and not asked: the ledger knows since when its capacity may go, and forgets it when it is asleep."""
    before = everything(cloud)

    def meet() -> None:
        assert not cloud.book.apply(addresses.want(cloud.at.address, cloud.now, before_act=True))
        assert _want(cloud)

    cloud.after[SLEEPING_CALLS[kind][-1]] = meet
    assert cloud.sleep().output["outcome"] == "asleep"
    ((name, given),) = cloud.started
    assert cloud.state().acted_at is None
    assert name == addresses.wake_execution(cloud.at.address, cloud.state().generation)
    assert cloud.told == []  # nobody needs to know that it slept for a second
    cloud.wake(**given)
    assert everything(cloud) == before


@pytest.mark.parametrize("status", ["Updating", "RollingBack", "Failed"])
def test_an_endpoint_that_is_changing_or_has_failed_is_left_alone(cloud: Cloud, status):
    assert cloud.endpoint
    cloud.endpoint["EndpointStatus"] = status
    assert cloud.sleep().output["outcome"] == "keep"
    assert _untouched(cloud)
    assert cloud.state().state == "awake"


# ---- Metrics missing, late, throttled, of something else ----


def test_silence_without_a_heartbeat_is_not_idleness(cloud: Cloud):
    """Metrics that are lost, or were read under wrong dimensions, look alike."""
    cloud.hears = False
    ended = cloud.sleep()
    assert "silence alone proves nothing" in ended.output["reason"]
    assert _untouched(cloud)


def test_a_heartbeat_that_stops_between_the_decision_and_the_act_calls_it_off(cloud: Cloud):
    def deaf() -> None:
        cloud.hears = False

    cloud.after["updateItem"] = deaf
    assert cloud.sleep().output["outcome"] == "awake"
    assert _untouched(cloud)


def test_a_throttled_read_is_tried_again(cloud: Cloud):
    cloud.unreadable = [MetricsUnavailableError("GetMetricData: Throttling")] * 2
    assert cloud.sleep().output["outcome"] == "asleep"


@pytest.mark.parametrize("error", [MetricsUnavailableError, EndpointUnreadableError])
def test_a_read_that_keeps_failing_is_an_error_and_never_idle(cloud: Cloud, error):
    cloud.unreadable = [error("throttled")] * 20
    ended = cloud.sleep()
    assert (ended.status, ended.error) == ("FAILED", error.__name__)
    assert cloud.state().state == "awake"
    assert _untouched(cloud)


def test_what_can_no_longer_be_read_after_it_was_noted_is_woken_again(cloud: Cloud):
    before = everything(cloud)

    def deaf() -> None:
        cloud.unreadable = [MetricsUnavailableError("throttled")] * 5

    cloud.after["updateItem"] = deaf
    assert cloud.sleep().status == "FAILED"
    assert cloud.state().state == "falling-asleep"
    ((_, given),) = cloud.started
    assert cloud.wake(**given).output["outcome"] == "awake"
    assert everything(cloud) == before
    assert _untouched(cloud) or cloud.state().state == "awake"


# ---- Snapshots ----


def test_what_cannot_be_kept_does_not_sleep(account, monkeypatch):
    cloud = classic(account, monkeypatch)
    cloud.configs.clear()
    ended = cloud.sleep()
    assert ended.output["outcome"] == "keep"
    assert "could not be put back" in ended.output["reason"]
    assert _untouched(cloud)


def test_a_snapshot_that_is_gone_before_the_act_calls_it_off(cloud: Cloud, account):
    def lose() -> None:
        bucket, _, key = cloud.state().snapshot["uri"].removeprefix("s3://").partition("/")
        account.s3.delete_object(Bucket=bucket, Key=key)

    cloud.after["updateItem"] = lose
    ended = cloud.sleep()
    assert ended.output["outcome"] == "awake"
    assert "not readable" in ended.output["reason"]
    assert _untouched(cloud)


def _spoil(cloud: Cloud, account, *, uri: bool, copy: bool) -> None:
    held = cloud.state().snapshot
    assert held
    if uri:
        bucket, _, key = held["uri"].removeprefix("s3://").partition("/")
        account.s3.put_object(Bucket=bucket, Key=key, Body=b'{"not": "a snapshot"}')
    if copy:
        account.table.update_item(
            Key=addresses.key(cloud.at.address),
            UpdateExpression="SET #snapshot.#copy = :spoilt",
            ExpressionAttributeNames={"#copy": "copy", "#snapshot": "snapshot"},
            ExpressionAttributeValues={":spoilt": "AAAA"},
        )


@pytest.mark.parametrize("spoilt", [{"uri": True, "copy": False}, {"uri": False, "copy": True}], ids=["S3", "ledger"])
def test_one_readable_copy_is_enough_to_wake(cloud: Cloud, account, spoilt):
    before = everything(cloud)
    cloud.sleep()
    _spoil(cloud, account, **spoilt)
    assert cloud.wake().output["outcome"] == "awake"
    assert everything(cloud) == before


def test_without_a_readable_copy_it_fails_loudly_and_the_request_stays_wanted(cloud: Cloud, account):
    cloud.sleep()
    _spoil(cloud, account, uri=True, copy=True)
    _want(cloud)
    cloud.told.clear()
    ended = cloud.wake()
    assert (ended.status, ended.error) == ("FAILED", "EndpointNotAwake")
    assert cloud.state().state == "failed"
    assert cloud.state().wanted_at is not None
    (told,) = cloud.told
    assert "could not be woken" in told["Subject"]
    assert "wait for up to 60 minutes" in told["Message"]


def test_what_still_serves_is_awake_whatever_became_of_its_snapshot(cloud: Cloud, account):
    before = everything(cloud)
    cloud.killed_in("updateItem", effective=True)
    _spoil(cloud, account, uri=True, copy=True)
    _want(cloud)
    assert cloud.wake().output["outcome"] == "awake"
    assert (cloud.state().state, cloud.state().wanted_at) == ("awake", None)
    assert everything(cloud) == before


# ---- Killed, twice, at once ----


@pytest.mark.parametrize("effective", [False, True], ids=["before it took effect", "after it took effect"])
def test_killed_anywhere_on_its_way_to_sleep_the_next_request_brings_it_back(kind, effective, account, monkeypatch):
    for action in ["updateItem", *SLEEPING_CALLS[kind]]:
        cloud = KINDS[kind](account, monkeypatch)
        before = everything(cloud)
        cloud.killed_in(action, effective=effective)
        _want(cloud)
        assert cloud.wake().output["outcome"] == "awake", action
        assert cloud.state().state == "awake", action
        assert everything(cloud) == before, action


@pytest.mark.parametrize("effective", [False, True], ids=["before it took effect", "after it took effect"])
def test_killed_anywhere_on_its_way_to_sleep_the_sweep_carries_on(kind, effective, account, monkeypatch):
    for action in ["updateItem", *SLEEPING_CALLS[kind]]:
        cloud = KINDS[kind](account, monkeypatch)
        before = everything(cloud)
        cloud.killed_in(action, effective=effective)
        assert cloud.sleep().output["outcome"] == "asleep", action
        assert cloud.state().state == "asleep", action
        cloud.wake()
        assert everything(cloud) == before, action


def test_killed_between_snapshot_and_delete_a_busy_endpoint_stays(account, monkeypatch):
    cloud = classic(account, monkeypatch)
    before = everything(cloud)
    cloud.killed_in("deleteEndpoint", effective=False)
    cloud.calls = [cloud.now]
    ended = cloud.sleep()  # the sweep: it is not idle any more
    assert ended.output["outcome"] == "awake"
    assert cloud.endpoint["EndpointStatus"] == "InService"
    ((_, given),) = cloud.started  # its scaling was gone already
    cloud.wake(**given)
    assert everything(cloud) == before


WAKING_CALLS = {
    "async": ["updateItem", "updateEndpointWeightsAndCapacities", "putMetricAlarm", "deleteAlarms"],
    "component": ["updateItem", "updateInferenceComponentRuntimeConfig", "putMetricAlarm", "deleteAlarms"],
    "classic": ["updateItem", "createEndpoint", "putScalingPolicy", "putMetricAlarm"],
}


@pytest.mark.parametrize("effective", [False, True], ids=["before it took effect", "after it took effect"])
def test_killed_anywhere_while_it_wakes_the_next_request_carries_on(kind, effective, account, monkeypatch):
    for action in WAKING_CALLS[kind]:
        cloud = KINDS[kind](account, monkeypatch)
        before = everything(cloud)
        cloud.sleep()
        cloud.killed_in(action, WAKE, effective=effective)
        assert cloud.wake().output["outcome"] == "awake", action
        assert everything(cloud) == before, action
        assert cloud.state().state == "awake", action


def test_an_alarm_that_fires_twice_puts_it_to_sleep_once(cloud: Cloud, kind):
    second = []
    cloud.after["updateItem"] = lambda: second.append(cloud.sleep())
    assert cloud.sleep().output["outcome"] == "asleep"
    assert "another execution works on it" in second[0].output["reason"]
    assert [each for each in cloud.sent if each in CHANGING] == SLEEPING_CALLS[kind]
    assert cloud.sleep().output == {"outcome": "keep", "reason": "it is asleep"}


def test_a_wake_that_meets_it_falling_asleep_calls_it_off(cloud: Cloud):
    """The one that puts it to sleep still works: it is told, gives way, and nothing has to be woken."""
    before, woken = everything(cloud), []

    def meet() -> None:  # the wake is killed while it waits for the other one
        cloud.before["decide"] = lambda: cloud.before.update({"decide": _stop})
        with pytest.raises(Stopped):
            woken.append(cloud.wake())

    cloud.after["updateItem"] = meet
    assert cloud.sleep().output == {"outcome": "awake", "reason": "a request came while it was falling asleep"}
    assert _untouched(cloud)
    assert everything(cloud) == before


def _stop() -> None:
    raise Stopped


def test_a_deployment_in_between_wins(cloud: Cloud):
    """It writes the address anew: what was decided before is refused, and decided again on what is there now."""
    later = cloud.at.model_copy(update={"policy": cloud.at.policy.model_copy(update={"sleeps": False})})
    cloud.after["updateItem"] = lambda: cloud.book.apply(addresses.put(later, now=cloud.now))
    ended = cloud.sleep()
    assert ended.output["outcome"] == "keep"
    assert _untouched(cloud)
    assert cloud.state().state == "awake"


# ---- Calls that fail, capacity that is refused ----


def test_a_call_that_keeps_failing_is_given_up_and_taken_back(cloud: Cloud, kind):
    before = everything(cloud)
    call = {"classic": "deleteEndpoint"}.get(kind, SLEEPING_CALLS[kind][1])
    cloud.fails[call] = [TaskError("SageMaker.SageMakerException", "Rate exceeded")] * 40
    ended = cloud.sleep()
    assert ended.output["outcome"] == "awake"
    assert "failed 5 times" in ended.output["reason"]
    cloud.fails.clear()
    for _, given in cloud.started:
        cloud.wake(**given)
    assert cloud.state().state == "awake"
    assert everything(cloud) == before


def test_a_call_that_fails_once_does_not_matter(cloud: Cloud, kind):
    before = everything(cloud)
    for call in CHANGING | set(WAKING_CALLS[kind][1:]):
        cloud.fails[call] = [TaskError("SageMaker.ResourceInUseException", "once")]
    assert cloud.sleep().output["outcome"] == "asleep"
    assert cloud.wake().output["outcome"] == "awake"
    assert everything(cloud) == before


def test_capacity_refused_the_next_instance_type_is_taken(kind, account, monkeypatch):
    cloud = KINDS[kind](account, monkeypatch, instance_types=("ml.m5.large", "ml.c5.xlarge", "ml.m5.xlarge"))
    cloud.sleep()
    cloud.refused = {"ml.m5.large", "ml.c5.xlarge"}
    assert cloud.wake().output["outcome"] == "awake"
    state = cloud.state()
    assert (state.state, state.instance_type, state.tried) == ("awake", "ml.m5.xlarge", ())
    refusals = [each for each in cloud.events() if each["what"] == "capacity refused"]
    assert [each["instance_type"] for each in refusals] == ["ml.m5.large", "ml.c5.xlarge"]
    assert cloud.endpoint["EndpointStatus"] == "InService"
    variants = cloud.configs[cloud.endpoint["EndpointConfigName"]]["ProductionVariants"]
    assert {each["InstanceType"] for each in variants} == {"ml.m5.xlarge"}
    if cloud.at.origin == "ebb":  # by these `ebb destroy` finds them
        ours = {"ebb:stack": "ebb", "ebb:project": "pets"}
        assert cloud.config_tags == {"pets-a1-a-c5-xlarge": ours, "pets-a1-a-m5-xlarge": ours}
    cloud.now += 60 * MINUTE
    before = everything(cloud)
    assert cloud.sleep().output["outcome"] == "asleep"
    assert cloud.wake().output["outcome"] == "awake"  # on the type that it has now
    assert everything(cloud) == before


def test_capacity_refused_by_all_types_the_owner_is_told_and_the_next_request_tries_again(kind, account, monkeypatch):
    cloud = KINDS[kind](account, monkeypatch, instance_types=("ml.m5.large", "ml.c5.xlarge"))
    before = everything(cloud)
    cloud.sleep()
    cloud.told.clear()
    _want(cloud)
    cloud.refused = {"ml.m5.large", "ml.c5.xlarge"}
    ended = cloud.wake()
    assert (ended.status, cloud.state().state) == ("FAILED", "failed")
    (told,) = cloud.told
    assert "no capacity of ml.m5.large, ml.c5.xlarge" in told["Message"]
    assert cloud.state().wanted_at is not None
    cloud.refused = set()
    assert cloud.wake().output["outcome"] == "awake"
    assert (cloud.state().state, cloud.state().wanted_at) == ("awake", None)
    assert everything(cloud) == before


# ---- The ledger and AWS tell different stories ----


@pytest.mark.parametrize("kind", ["async", "component"])
def test_what_aws_has_woken_itself_is_brought_in_line(account, monkeypatch, kind):
    """Its wake alarm has added a copy: everything else is put back, and the ledger knows."""
    cloud = KINDS[kind](account, monkeypatch)
    before = everything(cloud)
    cloud.sleep()
    if kind == "async":
        cloud.endpoint["ProductionVariants"][0] |= {"DesiredInstanceCount": 1, "CurrentInstanceCount": 1}
    else:
        cloud.component["RuntimeConfig"] = {"DesiredCopyCount": 1, "CurrentCopyCount": 1}
    told = cloud.sleep()  # the sweep sees it
    assert "with capacity" in told.output["reason"]
    ((_, given),) = cloud.started
    cloud.wake(**given)
    assert everything(cloud) == before
    assert cloud.state().state == "awake"


def _scale(cloud: Cloud, count: int) -> None:
    if cloud.component:
        cloud.component["RuntimeConfig"] = {"DesiredCopyCount": count, "CurrentCopyCount": count}
    else:
        cloud.endpoint["ProductionVariants"][0] |= {"DesiredInstanceCount": count, "CurrentInstanceCount": count}


@pytest.mark.parametrize("kind", ["async", "component"])
def test_a_copy_too_many_does_not_outlive_the_next_sleep(account, monkeypatch, kind):
    """Nothing scales in what a wake alarm has added, so it would be billed for ever, and one more each time."""
    cloud = KINDS[kind](account, monkeypatch)
    before = everything(cloud)
    _scale(cloud, cloud.at.copies + 1)
    assert cloud.sleep().output["outcome"] == "asleep"
    assert cloud.wake().output["outcome"] == "awake"
    assert everything(cloud) == before


@pytest.mark.parametrize("kind", ["async", "component"])
def test_what_a_policy_of_its_users_has_scaled_out_comes_back_so(account, monkeypatch, kind):
    cloud = KINDS[kind](account, monkeypatch)
    tracking = {"TargetValue": 5.0, "PredefinedMetricSpecification": {"PredefinedMetricType": METRICS[kind]}}
    body = {"PolicyName": "busy", "PolicyType": "TargetTrackingScaling", **requests.scalable(cloud.at)}
    cloud.putScalingPolicy(body | {"TargetTrackingScalingPolicyConfiguration": tracking})
    _scale(cloud, cloud.at.copies + 1)
    before = everything(cloud)
    assert cloud.sleep().output["outcome"] == "asleep"
    assert cloud.wake().output["outcome"] == "awake"
    assert everything(cloud) == before


@pytest.mark.parametrize("kind", ["async", "component"])
def test_what_somebody_else_has_scaled_to_nothing_is_noted_as_asleep_and_wakes(account, monkeypatch, kind):
    cloud = KINDS[kind](account, monkeypatch)
    before = everything(cloud)
    if kind == "async":
        cloud.endpoint["ProductionVariants"][0] |= {"DesiredInstanceCount": 0, "CurrentInstanceCount": 0}
    else:
        cloud.component["RuntimeConfig"] = {"DesiredCopyCount": 0, "CurrentCopyCount": 0}
    assert cloud.sleep().output["outcome"] == "asleep"
    assert cloud.wake().output["outcome"] == "awake"
    assert everything(cloud) == before


def test_a_request_that_nobody_serves_is_found_by_the_sweep(cloud: Cloud):
    cloud.sleep()
    _want(cloud)
    told = cloud.sleep()
    assert told.output["reason"] == "a request waits for it"
    assert len(cloud.started) == 1


def test_an_endpoint_that_is_gone_is_left_alone(cloud: Cloud):
    cloud.endpoint = None
    ended = cloud.sleep()
    assert (ended.output["outcome"], cloud.state().state) == ("keep", "awake")


def test_an_address_that_nobody_knows_starts_nothing(cloud: Cloud):
    assert cloud.sleep(address="ebb-nobody").output["reason"] == "the ledger knows no such address"
    assert cloud.wake(address="ebb-nobody").output["reason"] == "the ledger knows no such address"


# ---- What Ebb did not make ----


def test_without_the_stacks_consent_a_foreign_endpoint_is_not_even_looked_at(account, monkeypatch):
    cloud = classic(account, monkeypatch)
    monkeypatch.setenv("MANAGE_FOREIGN_ENDPOINTS", "no")
    cloud.unreadable = [EndpointUnreadableError("may not be read")]
    ended = cloud.sleep()
    assert "ManageForeignEndpoints" in ended.output["reason"]
    assert len(cloud.unreadable) == 1


def test_without_its_owners_consent_it_is_left_alone(account, monkeypatch):
    cloud = classic(account, monkeypatch)
    del cloud.tags["ebb:sleep"]
    assert "no tag ebb:sleep=allowed" in cloud.sleep().output["reason"]
    assert _untouched(cloud)
