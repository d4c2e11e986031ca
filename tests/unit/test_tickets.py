"""Tickets: where one stands, when it is looked at again, and when a request that waits starts a wake."""

from datetime import UTC, datetime, timedelta

import pytest

from ebb import tickets
from ebb.addresses import Address, IdlePolicy
from ebb.errors import MalformedEventError
from ebb.tickets import Ended, Waiting

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ASKED = Waiting(
    address="ebb-pets",
    id="r1",
    content_type="text/csv",
    size_bytes=3,
    asked_at=NOW,
    deadline=NOW + timedelta(hours=1),
)


def _address(state="asleep", changed: timedelta = timedelta(0)) -> Address:
    return Address(
        address="ebb-pets",
        kind="realtime",
        state=state,
        endpoint_name="ebb-pets--realtime",
        changed_at=NOW - changed,
        policy=IdlePolicy(queue_for_s=7200),
    )


ANSWERED = Ended(state="answered", at=NOW)


@pytest.mark.parametrize(
    ("ended", "address", "after", "state"),
    [
        pytest.param(None, _address("asleep"), timedelta(0), "waking", id="its endpoint sleeps"),
        pytest.param(None, _address("waking"), timedelta(0), "waking", id="its endpoint wakes"),
        pytest.param(None, _address("awake"), timedelta(0), "queued", id="its endpoint is awake: it is its turn soon"),
        pytest.param(ANSWERED, _address("asleep"), timedelta(days=1), "answered", id="an answer stays one"),
        pytest.param(None, _address(), timedelta(minutes=64), "waking", id="just over time: its record is on its way"),
        pytest.param(None, _address(), timedelta(minutes=66), "expired", id="over time, though nobody recorded it"),
        pytest.param(None, None, timedelta(minutes=66), "expired", id="over time, its address removed"),
    ],
)
def test_where_a_ticket_stands(ended, address, after, state):
    assert tickets.state(ended, ASKED, address, NOW + after) == state


@pytest.mark.parametrize(
    ("address", "after", "turn"),
    [
        pytest.param(_address("awake"), timedelta(seconds=14), None, id="it is on its way"),
        pytest.param(_address("awake"), timedelta(seconds=15), 0, id="it should have been there"),
        pytest.param(_address("awake"), timedelta(seconds=74), 0, id="not again within the minute"),
        pytest.param(_address("awake"), timedelta(seconds=75), 1, id="again in the next one"),
        pytest.param(_address("awake"), timedelta(minutes=4), None, id="often enough: it is busy"),
        pytest.param(_address("awake", -timedelta(minutes=5)), timedelta(minutes=5), None, id="just woken up"),
        pytest.param(_address("waking", timedelta(hours=1)), timedelta(minutes=9), None, id="nobody could answer it"),
        pytest.param(_address("awake"), timedelta(hours=1), None, id="over its time: the delivery ends it"),
    ],
)
def test_when_a_request_is_overdue(address, after, turn):
    assert tickets.overdue_turn(ASKED, address, NOW + after) == turn


def test_an_answer_that_is_written_elsewhere_does_not_expire_here():
    assert tickets.state(None, ASKED, None, NOW + timedelta(days=1), elsewhere=True) == "queued"


@pytest.mark.parametrize(
    ("waited_s", "again_s"),
    [(0, 2), (15, 2), (60, 6), (300, 30), (600, 60), (20_000, 60)],
)
def test_a_message_comes_back_after_a_tenth_of_its_wait_within_bounds(waited_s, again_s):
    assert tickets.next_look_s(timedelta(seconds=waited_s)) == again_s


def test_the_longest_wait_stays_within_what_the_queue_delivers():
    """maxReceiveCount is 1,000, SQS's most: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html"""
    looks, waited = 0, 0
    while waited < 43_200:  # twelve hours, SQS's longest visibility
        waited += tickets.next_look_s(timedelta(seconds=waited))
        looks += 1
    assert looks < 900


@pytest.mark.parametrize(
    ("address", "starts"),
    [
        pytest.param(_address("asleep"), True, id="asleep"),
        pytest.param(_address("waking"), False, id="somebody wakes it"),
        pytest.param(_address("falling-asleep"), False, id="that it is wanted calls the sleep off"),
        pytest.param(_address("awake"), False, id="awake"),
        pytest.param(_address("failed", timedelta(minutes=1)), False, id="all types refused a minute ago"),
        pytest.param(_address("failed", timedelta(minutes=5)), True, id="refused a while ago: it is tried again"),
    ],
)
def test_when_a_waiting_request_starts_a_wake(address, starts):
    assert tickets.wakes_now(address, NOW) is starts


@pytest.mark.parametrize(
    ("address", "asks"),
    [
        pytest.param(_address("waking", timedelta(minutes=1)), False, id="wakes since a minute"),
        pytest.param(_address("waking", timedelta(minutes=2)), True, id="wakes since a while"),
        pytest.param(_address("falling-asleep", timedelta(minutes=2)), True, id="falls asleep since a while"),
        pytest.param(_address("asleep", timedelta(days=2)), False, id="asleep: nobody works on it"),
        pytest.param(_address("awake", timedelta(days=2)), False, id="awake"),
    ],
)
def test_when_a_waiting_request_asks_whether_somebody_still_works_on_its_endpoint(address, asks):
    assert tickets.may_be_abandoned(address, NOW) is asks


def test_a_request_waits_as_long_as_its_policy_says():
    assert tickets.deadline(_address(), NOW) == NOW + timedelta(hours=2)


@pytest.mark.parametrize(
    ("hours", "ttl_s"),
    [pytest.param(0, 60, id="SageMaker's least"), (1, 3600), (24, 21_600)],
)
def test_sagemaker_keeps_a_request_as_long_as_its_sender_waits(hours, ttl_s):
    assert tickets.async_ttl_s(NOW + timedelta(hours=hours), NOW) == ttl_s


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "{}",
        '{"address": "a", "id": "x"}',
        '{"address": "a", "id": "../x", "deadline": "2026-11-23T12:00:00Z"}',
        '{"address": "a", "id": "x", "deadline": "soon"}',
    ],
)
def test_a_message_that_names_no_ticket_is_malformed(body):
    with pytest.raises(MalformedEventError):
        tickets.message(body)


def test_the_objects_of_a_ticket_stay_apart_whatever_its_id():
    keys = [
        key("ebb-pets", ticket)
        for ticket in ("r1", "r1_json", "r1-async")
        for key in (tickets.payload_key, tickets.waiting_key, tickets.handed_over_key)
    ]
    assert len(set(keys)) == len(keys)
    assert not tickets.ID.fullmatch("r1.json")
    assert not tickets.ID.fullmatch("a/b")


def test_who_is_told_that_it_expired_learns_why():
    told = tickets.expired(ASKED, NOW, "no capacity for ml.m5.large").error
    assert told["code"] == "expired"
    assert "13:00:00" in told["message"]
    assert "no capacity for ml.m5.large" in told["message"]
    assert told["remedy"]
