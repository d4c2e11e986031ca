"""When an endpoint is idle, and when nothing of it may be touched: sentences, and what follows from them."""

from datetime import UTC, datetime, timedelta

import pytest

from ebb import idle
from ebb.addresses import IdlePolicy
from ebb.idle import Action, EndpointSnapshot, Window

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WINDOW = Window(idle_after=15 * MINUTE, reason="its spec says so")
SLEEPS = IdlePolicy(idle_after_s=900)
EVERY_MINUTE = tuple(NOW - number * MINUTE for number in range(40))


def seen(**more) -> EndpointSnapshot:
    """An asynchronous endpoint of Ebb's own that runs for a day, that nobody calls, and whose metrics arrive."""
    usual = {
        "name": "ebb-pets",
        "kind": "async",
        "status": "InService",
        "in_service_since": NOW - timedelta(days=1),
        "seen_from": NOW - timedelta(hours=1),
        "heartbeats": EVERY_MINUTE,
    }
    return EndpointSnapshot(**usual | more)


def classic(**more) -> EndpointSnapshot:
    """An endpoint that Ebb did not make and whose owner lets it sleep."""
    tags = {"ebb:sleep": "allowed"} | more.pop("tags", {})
    return seen(**{"kind": "classic", "origin": "foreign", "tags": tags, "instance_types": ("ml.m5.large",)} | more)


@pytest.mark.parametrize(
    ("endpoint", "action", "why"),
    [
        pytest.param(seen(), Action.SLEEP, "no call within 15 min", id="a heartbeat and no call is no traffic"),
        pytest.param(seen(calls=(NOW - 5 * MINUTE,)), Action.WAIT, "called 4 min ago", id="one call keeps it awake"),
        pytest.param(seen(calls=(NOW - 19 * MINUTE,)), Action.SLEEP, "no call", id="a call before the window does not"),
        pytest.param(seen(calls=(NOW - MINUTE / 2,)), Action.WAIT, "called", id="a call that is just published counts"),
        pytest.param(seen(heartbeats=()), Action.KEEP, "silence alone", id="silence alone proves nothing"),
        pytest.param(
            seen(heartbeats=EVERY_MINUTE[8:]),
            Action.WAIT,
            "metrics are late",
            id="metrics that are late are waited for",
        ),
        pytest.param(
            seen(heartbeats=EVERY_MINUTE[::2]),
            Action.KEEP,
            "metrics have gaps",
            id="half of the heartbeats are too few",
        ),
        pytest.param(
            seen(heartbeats=EVERY_MINUTE[:5] + EVERY_MINUTE[6:]),
            Action.SLEEP,
            "no call",
            id="one lost datapoint is not",
        ),
        pytest.param(
            seen(in_service_since=NOW - 14 * MINUTE), Action.WAIT, "in service for 14 min", id="too young to judge"
        ),
        pytest.param(
            seen(in_service_since=NOW - 16 * MINUTE),
            Action.WAIT,
            "in service",
            id="its first minutes are not known yet",
        ),
        pytest.param(seen(in_service_since=None), Action.KEEP, "not known", id="of unknown age is not judged"),
        pytest.param(
            seen(last_request_at=NOW - 3 * MINUTE), Action.WAIT, "called 3 min", id="the front door's request is a call"
        ),
        pytest.param(seen(seen_from=NOW - 10 * MINUTE), Action.KEEP, "seen for less", id="half a look is no look"),
        pytest.param(seen(status="Updating"), Action.WAIT, "Updating", id="what is changing is waited for"),
        pytest.param(seen(status="RollingBack"), Action.WAIT, "RollingBack", id="what is rolled back too"),
        pytest.param(seen(status="Failed"), Action.KEEP, "Failed: not judged", id="what has failed is not judged"),
        pytest.param(seen(kind="serverless"), Action.KEEP, "nothing to put to sleep", id="serverless never runs idle"),
        pytest.param(seen(tags={"ebb:keep": "yes"}), Action.KEEP, "ebb:keep", id="a tag keeps it"),
        pytest.param(seen(tags={"ebb:keep": "no"}), Action.SLEEP, "no call", id="a tag that says no does not"),
        pytest.param(classic(), Action.SLEEP, "no call", id="a foreign endpoint sleeps where its owner allows it"),
        pytest.param(
            classic(tags={"ebb:sleep": "no"}), Action.KEEP, "no tag ebb:sleep=allowed", id="and only where he does"
        ),
        pytest.param(
            classic(tags={"aws:cloudformation:stack-name": "shop"}), Action.KEEP, "CloudFormation", id="a stack's own"
        ),
        pytest.param(classic(stack="shop"), Action.KEEP, "stack shop", id="a stack's own that has no tag of it"),
        pytest.param(classic(tags={"ManagedBy": "Terraform"}), Action.KEEP, "Terraform", id="another tool's own"),
        pytest.param(classic(tags={"managed-by": "team-shop"}), Action.SLEEP, "no call", id="a team is no tool"),
        pytest.param(classic(tags={"aws:rum:monitor": "1"}), Action.KEEP, "AWS only", id="a tag that only AWS can set"),
        pytest.param(classic(shadows=True), Action.KEEP, "shadow", id="a test under way"),
        pytest.param(classic(models_gone=("shop-1",)), Action.KEEP, "shop-1 is deleted", id="a model that is gone"),
        pytest.param(classic(capture_changed=True), Action.KEEP, "data capture", id="capture that was stopped by hand"),
        pytest.param(classic(key="alias/shop"), Action.KEEP, "encrypted", id="a key that Ebb may not use"),
        pytest.param(classic(instance_types=("ml.p4d.24xlarge",)), Action.KEEP, "scarce", id="a scarce machine"),
        pytest.param(
            classic(instance_types=("ml.p4d.24xlarge",), tags={"ebb:restore": "accepted"}),
            Action.SLEEP,
            "no call",
            id="a scarce machine whose owner takes the risk",
        ),
        pytest.param(
            seen(origin="foreign", tags={"ebb:sleep": "allowed"}, wakes_by_itself=False),
            Action.KEEP,
            "would wait for ever",
            id="a queue that nobody would empty",
        ),
        pytest.param(
            seen(instance_types=("ml.p4d.24xlarge",)),
            Action.SLEEP,
            "no call",
            id="Ebb's own is never deleted, so may be",
        ),
    ],
)
def test_decide(endpoint, action, why):
    decision = idle.decide(endpoint, SLEEPS, WINDOW, now=NOW, foreign_allowed=True)
    assert (decision.action, why in decision.reason) == (action, True), decision.reason


def test_foreign_endpoints_are_left_alone_until_the_stack_says_otherwise():
    decision = idle.decide(classic(), SLEEPS, WINDOW, now=NOW)
    assert decision.action is Action.KEEP
    assert "ManageForeignEndpoints" in decision.reason


def test_high_availability_never_sleeps():
    assert idle.decide(seen(), IdlePolicy(sleeps=False), WINDOW, now=NOW).action is Action.KEEP


def test_a_wait_ends_when_it_may_be_idle_and_no_execution_waits_for_hours():
    soon = idle.decide(seen(calls=(NOW - 5 * MINUTE,)), SLEEPS, WINDOW, now=NOW)
    assert soon.until == NOW - 4 * MINUTE + WINDOW.idle_after + idle.PUBLISHING_LAG
    long = Window(idle_after=timedelta(hours=2), reason="learned")
    later = idle.decide(seen(calls=(NOW - 5 * MINUTE,), seen_from=NOW - timedelta(hours=3)), SLEEPS, long, now=NOW)
    assert later.action is Action.KEEP


def test_nobody_calls_unseen_between_the_decision_and_the_act():
    assert idle.GRACE > idle.PUBLISHING_LAG


def test_a_heartbeat_is_one_of_every_variant():
    one, other = EVERY_MINUTE[:3], EVERY_MINUTE[1:4]
    assert idle.every_variant([one, other]) == tuple(sorted(EVERY_MINUTE[1:3]))
    assert idle.every_variant([one, ()]) == ()
    assert idle.every_variant([]) == ()


def test_the_decision_keeps_its_numbers():
    numbers = idle.decide(seen(), SLEEPS, WINDOW, now=NOW).numbers
    assert numbers["idle_after_s"] == 900
    assert numbers["heartbeats"] >= 15
