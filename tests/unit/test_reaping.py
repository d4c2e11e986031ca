"""What is reaped: only what nobody uses, only what may be, and never on something that is not known."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aws_shapes import assert_valid
from ebb import reaping
from ebb.reaping import Policy, Resource

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OURS = Policy(stack="ebb")
OPEN = Policy(stack="ebb", foreign=True)
OWN = {"ebb:stack": "ebb"}
ALLOWED = {"ebb:sleep": "allowed"}
HOURS = {"ebb:budget-hours": "8"}


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def resource(kind: str, **more: Any) -> Resource:
    usual: dict[str, dict[str, Any]] = {
        "notebook": {"status": "InService", "since": ago(days=3), "instance_type": "ml.t3.medium"},
        "app": {
            "status": "InService",
            "last_active": ago(hours=9),
            "since": ago(days=3),
            "instance_type": "ml.t3.medium",
            "keys": {"DomainId": "d-1", "SpaceName": "s", "AppType": "JupyterLab", "AppName": "default"},
        },
        "space": {
            "status": "InService",
            "since": ago(days=90),
            "volume_gib": 50,
            "keys": {"DomainId": "d-1", "SpaceName": "s"},
        },
        "warm-pool": {"status": "Available", "since": ago(minutes=40), "instance_type": "ml.m5.large"},
        "training-job": {"status": "InProgress", "since": ago(hours=9), "instance_type": "ml.m5.large"},
    }
    key = "NotebookInstanceName" if kind == "notebook" else "TrainingJobName"
    given = {"kind": kind, "name": "it", "arn": "arn", "tags": OWN, "keys": {key: "it"}} | usual[kind] | more
    return Resource.model_validate(given)


@pytest.mark.parametrize(
    ("seen", "policy", "action"),
    [
        pytest.param(
            resource("notebook", tags=OWN | HOURS), OURS, "stop", id="three days in service, eight hours allowed"
        ),
        pytest.param(resource("notebook", since=ago(hours=11)), OURS, "keep", id="a notebook of this morning"),
        pytest.param(resource("notebook", status="Updating"), OURS, "keep", id="a notebook that is changing"),
        pytest.param(resource("notebook", since=None), OURS, "keep", id="since when it runs is not known"),
        pytest.param(resource("notebook", tags=None), OURS, "keep", id="its tags could not be read"),
        pytest.param(resource("notebook", tags=OWN | {"ebb:keep": "yes"}), OURS, "keep", id="its tag keeps it"),
        pytest.param(
            resource("notebook", tags=OWN | HOURS | {"ebb:keep": "no"}), OURS, "stop", id="a tag that says no"
        ),
        pytest.param(
            resource("notebook", tags=ALLOWED), OURS, "protected", id="others' tags count for nothing by default"
        ),
        pytest.param(
            resource("notebook", tags=ALLOWED | HOURS), OPEN, "stop", id="parameter and tags together allow it"
        ),
        pytest.param(
            resource("notebook", tags=ALLOWED), OPEN, "protected", id="time in service does not tell whether it is used"
        ),
        pytest.param(resource("notebook", tags=OWN), OURS, "protected", id="nor does it for one of ours"),
        pytest.param(
            resource("notebook", tags=OWN | {"ebb:budget-hours": "100"}), OURS, "keep", id="within the hours of its tag"
        ),
        pytest.param(resource("notebook", tags={}), OPEN, "protected", id="the parameter alone does not"),
        pytest.param(resource("notebook", tags={"ebb:stack": "other"}), OPEN, "protected", id="another stack's"),
        pytest.param(
            resource("notebook", tags=ALLOWED | {"ebb:keep": "1"}), OPEN, "keep", id="keeping wins over allowing"
        ),
        pytest.param(resource("app"), OURS, "stop", id="an app that its user left nine hours ago"),
        pytest.param(resource("app", last_active=ago(minutes=90)), OURS, "keep", id="a long lunch"),
        pytest.param(resource("app", last_active=None), OURS, "keep", id="no activity told is no idleness"),
        pytest.param(resource("app", instance_type="system"), OURS, "keep", id="Studio's own instance costs nothing"),
        pytest.param(resource("app", instance_type=None), OURS, "keep", id="an app on no instance"),
        pytest.param(resource("space"), OURS, "protected", id="a space holds data: never by age alone"),
        pytest.param(
            resource("space", tags=OWN | {"ebb:delete": "allowed"}), OURS, "stop", id="unless its tag gives it up"
        ),
        pytest.param(resource("space", since=ago(days=29)), OURS, "keep", id="a space that was used last month"),
        pytest.param(resource("warm-pool"), OURS, "stop", id="a warm pool that nothing came for"),
        pytest.param(resource("warm-pool", since=ago(minutes=10)), OURS, "keep", id="a pool between two jobs"),
        pytest.param(resource("warm-pool", status="InUse"), OURS, "keep", id="a pool in use"),
        pytest.param(resource("training-job"), OURS, "keep", id="a job without a budget runs as long as it runs"),
        pytest.param(
            resource("training-job", tags=OWN | {"ebb:budget-hours": "8"}), OURS, "stop", id="a job past its budget"
        ),
        pytest.param(
            resource("training-job", tags=OWN | {"ebb:budget-hours": "10"}), OURS, "keep", id="a job within its budget"
        ),
        pytest.param(
            resource("training-job", tags=OWN | {"ebb:budget-hours": "10"}, instances=2),
            OURS,
            "stop",
            id="two instances use up a budget twice as fast",
        ),
        pytest.param(
            resource("training-job", tags=OWN | {"ebb:budget-hours": "lots"}),
            OURS,
            "keep",
            id="a budget that is no number",
        ),
        pytest.param(
            resource("training-job", tags=OWN | {"ebb:budget-hours": "nan"}), OURS, "keep", id="nor is nan one"
        ),
        pytest.param(
            resource("training-job", tags={"ebb:budget-hours": "1"}),
            OURS,
            "protected",
            id="others' budgets need the opt-in",
        ),
        pytest.param(resource("training-job", max_runtime_s=3600), OURS, "stop", id="our run past its max_runtime"),
        pytest.param(
            resource("training-job", max_runtime_s=3600, since=ago(minutes=80)),
            OURS,
            "keep",
            id="SageMaker is given the time to stop it itself",
        ),
        pytest.param(
            resource("training-job", max_runtime_s=3600, tags={}), OURS, "keep", id="the runtime of others is theirs"
        ),
        pytest.param(
            resource("training-job", since=None, tags=OWN | {"ebb:budget-hours": "1"}),
            OURS,
            "keep",
            id="a job that waits for capacity uses up nothing",
        ),
    ],
)
def test_decide(seen, policy, action):
    verdict = reaping.decide(seen, policy, now=NOW)
    assert verdict.action == action, verdict.reason
    assert verdict.reason


@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        ("notebook", "StopNotebookInstance"),
        ("app", "DeleteApp"),
        ("space", "DeleteSpace"),
        ("warm-pool", "UpdateTrainingJob"),
        ("training-job", "StopTrainingJob"),
    ],
)
def test_what_stops_it_is_a_valid_request(kind, operation):
    assert_valid("sagemaker", operation, reaping.request(resource(kind)))


def test_a_warm_pool_ends_by_keeping_it_alive_for_no_time():
    assert reaping.request(resource("warm-pool"))["ResourceConfig"] == {"KeepAlivePeriodInSeconds": 0}


@pytest.mark.parametrize("kind", reaping.KINDS)
def test_the_owner_is_told_what_why_how_again_and_what_it_saves(kind):
    seen = resource(kind, tags=OWN | {"Owner": "ada", "ebb:delete": "allowed", "ebb:budget-hours": "1"})
    verdict = reaping.decide(seen, OURS, now=NOW)
    told = reaping.notice(seen, verdict)
    assert verdict.action == "stop"
    for part in (verdict.reason, reaping.again(seen), "USD per hour", "ebb:keep", "Owner: ada"):
        assert part in told["message"]
    assert len(told["subject"]) <= 100  # https://docs.aws.amazon.com/sns/latest/api/API_Publish.html


def test_the_event_is_a_valid_write_and_is_found_by_time():
    seen = resource("notebook")
    event = reaping.event(seen, reaping.decide(seen, OURS, now=NOW), table="ledger", now=NOW)
    assert_valid("dynamodb", "PutItem", event)
    assert event["Item"]["gsi_pk"] == {"S": "EVENTS"}
    assert event["Item"]["gsi_sk"]["S"].startswith("2026-11-23T12:00:00Z#")


def test_prices_are_those_of_the_tables():
    assert reaping.usd_per_hour(resource("notebook")) == pytest.approx(0.05)
    assert reaping.usd_per_hour(resource("warm-pool", instances=2)) == pytest.approx(0.23)
    assert reaping.usd_per_hour(resource("space")) == pytest.approx(0.14 * 50 / 730)
    assert reaping.usd_per_hour(resource("notebook", instance_type="ml.unheard.of")) is None


def test_tags_are_read_only_where_they_decide():
    busy = resource("notebook", since=ago(hours=1), tags=None)
    idle = resource("notebook", tags=None)
    running = resource("training-job", since=ago(minutes=1), tags=None)
    assert [reaping.needs_tags(each, OURS, now=NOW) for each in (busy, idle, running)] == [False, True, True]


def test_one_execution_stops_a_resource_however_often_it_is_found_in_a_minute():
    names = {
        reaping.execution("app", "d-1/s/JupyterLab/" + "x" * 200, NOW + timedelta(seconds=each)) for each in (0, 59)
    }
    assert len(names) == 1
    assert len(names.pop()) <= 80


@pytest.mark.parametrize(
    ("span", "told"),
    [({"minutes": 41}, "41 min"), ({"minutes": 190}, "3 h 10 min"), ({"hours": 50}, "50 h"), ({"days": 41}, "41 days")],
)
def test_spans_are_told_as_people_say_them(span, told):
    assert reaping.told(timedelta(**span)) == told
