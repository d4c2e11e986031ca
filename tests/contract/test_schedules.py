"""Schedules: how often they fire when the clock is put forward, in which time zone, and where failures go."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from ministack.services import eventbridge, scheduler

from contract.support import allow, messages, queue_arn
from ebb_local.gaps import schedules

OFF = {"Mode": "OFF"}
NOON = datetime(2026, 3, 28, 12, tzinfo=UTC).timestamp()  # the day before Berlin's clocks go forward


@pytest.fixture
def schedule(cloud, queue, role, name) -> Callable[..., str]:
    """Make a schedule that sends to the test's queue as a role that may; returns the queue's URL."""

    def make(expression: str, **members) -> str:
        target = queue_arn(cloud, queue)
        sender = role(allow("sqs:SendMessage", target), trust="scheduler.amazonaws.com")
        given = {"FlexibleTimeWindow": OFF, "Target": {"Arn": target, "RoleArn": sender.arn, "Input": "{}"}}
        cloud.client("scheduler").create_schedule(Name=name, ScheduleExpression=expression, **given, **members)
        return queue

    yield make
    cloud.client("scheduler").delete_schedule(Name=name)


def arrived(cloud, url: str) -> int:
    attributes = cloud.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    return int(attributes["Attributes"]["ApproximateNumberOfMessages"])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (scheduler, "start_scheduler"),
        (scheduler, "_to_epoch"),
        (eventbridge, "start_scheduler"),
        (eventbridge, "_parse_rate_seconds"),
        (eventbridge, "_parse_cron_fields"),
        (eventbridge, "_cron_next_fire"),
        (eventbridge, "_invoke_target"),
    ],
)
def test_used_function_exists(module, name):
    assert callable(getattr(module, name))


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        pytest.param("rate(15 minutes)", None, None, NOON + 900, id="a rate begins with its creation"),
        pytest.param("rate(15 minutes)", None, NOON + 60, NOON + 60, id="or with its start"),
        pytest.param("cron(30 12 * * ? *)", None, None, NOON + 1800, id="cron is UTC"),
        pytest.param("cron(30 13 * * ? *)", "Europe/Berlin", None, NOON + 1800, id="or in a time zone"),
        pytest.param("at(2026-03-28T14:00:00)", "Europe/Berlin", None, NOON + 3600, id="once, in a time zone"),
        pytest.param("cron(0 9 29 3 ? *)", "Europe/Berlin", None, NOON + 19 * 3600, id="after the clocks changed"),
        pytest.param("at(2020-01-01T00:00:00)", None, None, NOON, id="what is over fires at once"),
    ],
)
def test_first_occurrence(expression, zone, start, expected):
    record = {"ScheduleExpression": expression, "ScheduleExpressionTimezone": zone, "StartDate": start,
              "CreationDate": NOON}  # fmt: skip
    assert schedules.occurrence_after(record, NOON - 1e-3) == expected


def test_one_time_schedule_has_no_second_occurrence():
    record = {"ScheduleExpression": "at(2026-03-28T14:00:00)", "CreationDate": NOON}
    assert schedules.occurrence_after(record, NOON + 7200) == float("inf")


def test_flexible_window_keeps_the_rate():
    record = {"ScheduleExpression": "rate(1 hour)", "CreationDate": NOON, "Arn": "arn:a", "State": "ENABLED",
              "FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 10}}  # fmt: skip
    assert 0 <= schedules._shift(record, NOON) < 600
    assert schedules._shift(record, NOON) == schedules._shift(record, NOON + 3600)


def test_rate_fires_as_often_as_it_should(cloud, schedule):
    url = schedule("rate(15 minutes)")
    happened = cloud.advance(2 * 3600 + 30)
    assert arrived(cloud, url) == 8
    assert sum(note["kind"] == "schedule" for note in happened) >= 8


def test_input_holds_the_moment_that_was_scheduled():
    target = {"Input": '{"time": "<aws.scheduler.scheduled-time>", "schedule": "<aws.scheduler.schedule-arn>"}'}
    filled = schedules._filled_in(target, {"EventId": "e"}, {"Arn": "arn:a"}, NOON)
    assert json.loads(filled["Input"]) == {"time": "2026-03-28T12:00:00Z", "schedule": "arn:a"}


def test_rule_fires_as_often_as_it_should(cloud, queue, name):
    events = cloud.client("events")
    rule = events.put_rule(Name=name, ScheduleExpression="rate(1 hour)")["RuleArn"]
    statement = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
                 "Resource": queue_arn(cloud, queue), "Condition": {"ArnEquals": {"aws:SourceArn": rule}}}  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    cloud.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    events.put_targets(Rule=name, Targets=[{"Id": "q", "Arn": queue_arn(cloud, queue)}])
    cloud.advance(86_400 + 30)
    events.disable_rule(Name=name)
    assert arrived(cloud, queue) == 24


def test_disabled_schedule_does_not_fire(cloud, schedule):
    url = schedule("rate(1 minute)", State="DISABLED")
    cloud.advance(600)
    assert arrived(cloud, url) == 0


def test_schedule_ends_with_its_end_date(cloud, schedule):
    now_s = cloud.control("Status")["Now"]
    url = schedule("rate(1 hour)", EndDate=datetime.fromtimestamp(now_s + 2.5 * 3600, UTC))
    cloud.advance(6 * 3600)
    assert arrived(cloud, url) == 2


def test_schedule_without_permission_ends_in_its_dead_letter_queue(cloud, queue, role, name):
    target = queue_arn(cloud, queue)
    letters = cloud.client("sqs").create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    powerless = role(allow("sqs:SendMessage", queue_arn(cloud, letters)), trust="scheduler.amazonaws.com")
    cloud.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression="rate(1 hour)",
        FlexibleTimeWindow=OFF,
        Target={"Arn": target, "RoleArn": powerless.arn, "DeadLetterConfig": {"Arn": queue_arn(cloud, letters)}},
    )
    cloud.advance(3700)
    cloud.client("scheduler").delete_schedule(Name=name)
    letter = messages(cloud, letters)[0]
    assert letter["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "NO_PERMISSIONS"
