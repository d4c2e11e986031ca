"""The sweep on an account behind the real SDK: pages, throttling, parts that fail, and what it starts."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

import decide_reaping
import on_schedule
import sweep_account
from ebb import ledger
from ebb.addresses import Address
from ebb.aws import account as account_reader
from ebb.aws import clients, executions
from integration.fake_account import ACCOUNT, FakeAccount

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EVENTS = Path(__file__).parents[2] / "events"
ALLOWED = {"ebb:sleep": "allowed"}
MACHINES = {
    name: f"arn:aws:states:us-east-1:000000000000:stateMachine:ebb-{name.lower().replace('_', '-')}"
    for name in ("DEPLOY_MODEL", "REAP_RESOURCES", "SCALE_TO_ZERO", "WAKE_ENDPOINT", "SWEEP_ACCOUNT")
}
# retries as in ebb.aws.clients, but none waits
CONFIG = Config(retries={"mode": "standard", "max_attempts": 4})


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """Clients, made once: loading a service's model takes longer than a test."""
    session = boto3.Session("test", "test", region_name="us-east-1")
    services = ("sagemaker", "cloudwatch", "dynamodb", "stepfunctions", "s3")
    return {name: session.client(name, config=CONFIG) for name in services} | {
        "table": session.resource("dynamodb", config=CONFIG).Table("ledger")
    }


@pytest.fixture
def account(made, monkeypatch) -> FakeAccount:
    fake = FakeAccount(now=NOW)
    handlers = [client if name != "table" else client.meta.client for name, client in made.items()]
    for each in handlers:
        fake.attach(each)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    monkeypatch.setattr(clients, "client", made.__getitem__)
    monkeypatch.setattr(executions, "client", made.__getitem__)
    monkeypatch.setattr(sweep_account, "client", made.__getitem__)
    monkeypatch.setattr(decide_reaping, "client", made.__getitem__)
    monkeypatch.setattr("ebb.aws.storage.client", made.__getitem__)
    monkeypatch.setattr("ebb.aws.ledger.table", lambda _: made["table"])
    for name, arn in MACHINES.items():
        monkeypatch.setenv(f"{name}_ARN", arn)
    for name, value in {"ARTIFACT_BUCKET": "artifacts", "LEDGER_TABLE": "ledger", "STACK_NAME": "ebb"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MANAGE_FOREIGN_ENDPOINTS", "yes")
    yield fake
    for each in handlers:
        each.meta.events.unregister("before-send", fake._answer, unique_id=f"fake-{id(fake)}")


def swept(context, now: datetime = NOW, asked_by: str = "ebb idle") -> dict[str, Any]:
    """A sweep that a person asks for lists everything, as every fourth one of the schedule's does."""
    return sweep_account.handler({"now": now.isoformat(), "asked_by": asked_by}, context)


def report(account: FakeAccount) -> dict[str, Any]:
    return json.loads(account.objects["report.json"])


def address(account: FakeAccount, name: str, **more: Any) -> None:
    """Put an address into the ledger, as its items lie there."""
    fields = {"address": name, "kind": "async", "endpoint_name": name, "generation": 3, "state": "awake"} | more
    item = Address.model_validate(fields).model_dump(mode="json", exclude_none=True)
    account.items.append(ledger.put_action("ledger", item)["Item"])


def names(account: FakeAccount, machine: str) -> list[str]:
    found = [each for each in account.started if each["stateMachineArn"] == MACHINES[machine]]
    return sorted(each["input"].get("address") or each["input"].get("name") for each in found)


def test_an_account_of_many_pages_is_read_to_its_end(account, context):
    for number in range(250):
        account.endpoint(f"busy-{number}", called=True)
    for number in range(3):
        account.endpoint(f"quiet-{number}", tags=ALLOWED)
    told = swept(context)
    assert told["counts"]["endpoints"] == 253
    assert names(account, "SCALE_TO_ZERO") == ["quiet-0", "quiet-1", "quiet-2"]
    assert told["unread"] == []


@pytest.mark.parametrize("together", [1, 7, 150, 1000], ids=lambda count: f"{count} made at once")
def test_a_list_that_is_read_from_both_ends_at_once_is_whole(account, context, together):
    """Pages of 100, of endpoints that were made one by one, or many at the same moment."""
    for number in range(950):
        age = timedelta(days=9, minutes=number // together)
        account.endpoint(f"busy-{number}", called=True, age=age)
    assert swept(context)["counts"]["endpoints"] == 950
    assert account.calls["ListEndpoints"] <= (14 if together <= 150 else 20), (
        "each end stops where the other one has been"
    )


def test_no_endpoint_is_read_alone_unless_it_is_a_candidate(account, context):
    for number in range(120):
        account.endpoint(f"busy-{number}", called=True)
    account.endpoint("quiet", tags=ALLOWED)
    swept(context)
    assert account.calls["DescribeEndpoint"] == account.calls["ListTags"] == 1
    assert account.calls["GetMetricData"] == 0


def test_a_foreign_endpoint_is_noted_in_the_ledger_before_it_can_sleep(account, context):
    account.endpoint("theirs", tags=ALLOWED, instance_type="ml.m5.xlarge")
    swept(context)
    (started,) = account.started
    assert started["input"] == {
        "address": "theirs",
        "generation": 1,
        "reason": "no call in the last 3 hours",
        "now": "2026-11-23T12:00:00Z",
    }
    (item,) = account.items
    assert (item["origin"], item["kind"], item["gsi_pk"]) == ({"S": "foreign"}, {"S": "classic"}, {"S": "ADDRESSES"})
    assert item["changed_at"]["S"] == "2026-11-14T12:00:00Z", "awake since it was made, not since it was noted"


def test_the_report_is_the_memory_of_the_next_sweep(account, context):
    account.endpoint("theirs", tags=ALLOWED)
    swept(context)
    account.items.clear()  # as if it had been decided to keep it, and the address were gone again
    swept(context, NOW + timedelta(minutes=15))
    assert len(account.started) == 1, "asked about a quarter of an hour ago"
    assert report(account)["findings"][0]["tries"] == 1
    swept(context, NOW + timedelta(minutes=61))
    assert len(account.started) == 2


@pytest.mark.parametrize("operation", ["ListEndpoints", "ListMetrics", "Query", "DescribeAlarms", "ListApps"])
def test_what_is_throttled_is_tried_again(account, context, operation):
    address(account, "ebb-wine")
    account.endpoint("ebb-wine")
    account.fails[operation] = ["ThrottlingException", "ThrottlingException"]
    assert swept(context)["unread"] == []
    assert names(account, "SCALE_TO_ZERO") == ["ebb-wine"]


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        ("ListEndpoints", "endpoints"),
        ("ListMetrics", "metric"),
        ("Query", "addresses"),
    ],
)
def test_what_cannot_be_read_is_an_error_and_never_idle(account, context, operation, what):
    address(account, "ebb-wine")
    account.endpoint("ebb-wine")
    account.endpoint("theirs", tags=ALLOWED)
    account.fails[operation] = ["AccessDeniedException"]
    told = swept(context)
    assert any(each["what"].startswith(what) for each in told["unread"])
    assert names(account, "SCALE_TO_ZERO") == []
    account.fails.clear()
    swept(context, NOW + timedelta(minutes=15))
    assert names(account, "SCALE_TO_ZERO") == ["ebb-wine", "theirs"], "tried again at the next sweep"


def test_a_list_that_breaks_off_half_way_is_not_half_believed(account, context):
    """The calls of the second page would be missing: its endpoints would look idle."""
    for number in range(600):
        account.endpoint(f"busy-{number:03}", called=True, tags=ALLOWED)
    answered = account.ListMetrics

    def breaks_off(given: dict[str, Any]) -> dict[str, Any]:
        if given["MetricName"] == "Invocations" and given.get("NextToken"):
            raise LookupError
        return answered(given)

    account.ListMetrics = breaks_off
    told = swept(context)
    assert [each["what"] for each in told["unread"]] == ["metric Invocations"]
    assert account.started == []


def test_the_tags_of_one_candidate_that_cannot_be_read_hold_back_that_one_only(account, context):
    account.endpoint("a", tags=ALLOWED)
    account.endpoint("b", tags=ALLOWED)
    account.fails["ListTags"] = ["AccessDeniedException"]
    told = swept(context)
    assert len(names(account, "SCALE_TO_ZERO")) == 1
    assert told["unread_count"] == 1


def test_an_execution_that_cannot_be_started_is_told_and_started_by_the_next_sweep(account, context):
    address(account, "ebb-wine")
    account.endpoint("ebb-wine")
    account.fails["StartExecution"] = ["AccessDeniedException"]
    assert swept(context)["unread"][0]["what"].startswith("start of sleep-ebb-wine")
    swept(context, NOW + timedelta(minutes=15))
    assert names(account, "SCALE_TO_ZERO") == ["ebb-wine"]


def test_an_account_without_endpoints_reads_no_metric(account, context):
    """Each list costs: an idle stack pays for none."""
    swept(context)
    assert not account.calls["ListMetrics"]
    assert not account.calls["DescribeAlarms"]


def test_the_schedule_pays_for_lists_once_an_hour_and_keeps_what_they_told(account, context):
    address(account, "ebb-wine")
    account.endpoint("ebb-wine")
    account.endpoint("theirs", called=True)
    for minutes, lists in ((0, 1), (15, 1), (30, 1), (45, 1), (60, 2)):
        swept(context, NOW + timedelta(minutes=minutes), "schedule")
        assert account.calls["DescribeAlarms"] == lists, f"after {minutes} minutes"
        assert [each["action"] for each in report(account)["findings"]] == ["sleep"]
    assert len(account.started) == 2, "refused at first, asked about again after an hour"


def test_where_all_endpoints_are_ebbs_own_the_lists_come_every_other_hour(account, context):
    """Each has its alarm. One of another hand is seen by the next sweep, and the lists are hourly from then on."""
    address(account, "ebb-wine")
    account.endpoint("ebb-wine", called=True)
    swept(context, NOW, "schedule")
    account.calls.clear()
    swept(context, NOW + timedelta(minutes=60), "schedule")
    assert account.calls["ListMetrics"] == 0
    swept(context, NOW + timedelta(minutes=120), "schedule")
    assert account.calls["ListMetrics"] == 2
    account.endpoint("theirs", called=True)
    swept(context, NOW + timedelta(minutes=135), "schedule")
    account.calls.clear()
    swept(context, NOW + timedelta(minutes=180), "schedule")
    assert account.calls["ListMetrics"] > 0


@pytest.mark.parametrize("operation", ["DescribeAlarms", "ListMetrics"])
def test_lists_of_the_schedule_that_could_not_be_read_are_asked_for_again_by_the_next_sweep(
    account, context, operation
):
    """Not an hour later: until then nobody would know whether an alarm stands, or who is called."""
    address(account, "ebb-wine", last_request_at=(NOW - timedelta(hours=1)).isoformat())
    account.endpoint("ebb-wine")
    account.fails[operation] = ["AccessDeniedException"]
    assert swept(context, NOW, "schedule")["counts"]["unread"] == 1
    assert [each["action"] for each in report(account)["findings"]] == ["unread"]
    assert swept(context, NOW + timedelta(minutes=15), "schedule")["counts"].get("unread") is None
    assert account.calls["DescribeAlarms"] == 2


def test_only_lists_that_can_tell_something_are_asked_for(account, context):
    """All endpoints are Ebb's own and asynchronous: nothing but their own two metrics is listed."""
    address(account, "ebb-wine")
    account.endpoint("ebb-wine")
    swept(context)
    assert account.calls["ListMetrics"] == 2


def test_who_waits_for_a_sleeping_endpoint_wakes_it_even_when_every_event_was_lost(account, context):
    waited = (NOW - timedelta(minutes=9)).isoformat()
    address(account, "ebb-wine", state="asleep", wanted_at=waited, changed_at=waited)
    swept(context)
    assert names(account, "WAKE_ENDPOINT") == ["ebb-wine"]


def test_a_change_of_state_is_only_repaired_when_no_execution_works_on_it(account, context):
    long_ago = (NOW - timedelta(hours=1)).isoformat()
    name = "wake-ebb-a-g2"
    for each in ("ebb-a", "ebb-b"):  # the one that worked on b was stopped
        address(account, each, state="waking", changed_at=long_ago, worked_by=f"arn:wake-{each}-g2")
    account.executions.append(
        {
            "stateMachineArn": MACHINES["WAKE_ENDPOINT"],
            "name": name,
            "executionArn": f"arn:{name}",
            "status": "RUNNING",
            "startDate": 0,
        }
    )
    swept(context)
    assert names(account, "WAKE_ENDPOINT") == ["ebb-b"]


# ---- notebooks, apps, spaces, warm pools, jobs ----


def long_ago(**span: float) -> float:
    return (NOW - timedelta(**span)).timestamp()


def unused(account: FakeAccount, tags: dict[str, str]) -> None:
    """One of each kind, left alone for long."""
    notebook = {
        "NotebookInstanceName": "lab",
        "NotebookInstanceArn": f"{ACCOUNT}:notebook-instance/lab",
        "NotebookInstanceStatus": "InService",
        "InstanceType": "ml.t3.medium",
        "CreationTime": long_ago(days=9),
        "LastModifiedTime": long_ago(days=2),
    }
    app = {
        "DomainId": "d-1",
        "SpaceName": "mine",
        "AppType": "JupyterLab",
        "AppName": "default",
        "AppArn": f"{ACCOUNT}:app/d-1/mine/jupyterlab/default",
        "Status": "InService",
        "CreationTime": long_ago(days=1),
        "LastUserActivityTimestamp": long_ago(hours=20),
        "ResourceSpec": {"InstanceType": "ml.t3.large"},
    }
    spaces = [
        {
            "DomainId": "d-1",
            "SpaceName": name,
            "SpaceArn": f"{ACCOUNT}:space/d-1/{name}",
            "Status": "InService",
            "CreationTime": long_ago(days=200),
            "LastModifiedTime": long_ago(days=100),
            "SpaceSettingsSummary": {"SpaceStorageSettings": {"EbsStorageSettings": {"EbsVolumeSizeInGb": 20}}},
            "SpaceSettings": {"SpaceStorageSettings": {"EbsStorageSettings": {"EbsVolumeSizeInGb": 20}}},
        }
        for name in ("mine", "empty")
    ]
    jobs = [
        {
            "TrainingJobName": name,
            "TrainingJobArn": f"{ACCOUNT}:training-job/{name}",
            "TrainingJobStatus": status,
            "CreationTime": long_ago(hours=9),
            "TrainingStartTime": long_ago(hours=9),
            "TrainingEndTime": long_ago(hours=1),
            "LastModifiedTime": long_ago(hours=1),
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 2},
            "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
            **more,
        }
        for name, status, more in (
            ("pool", "Completed", {"WarmPoolStatus": {"Status": "Available"}}),
            ("long", "InProgress", {}),
        )
    ]
    account.notebooks.append(notebook)
    account.apps.append(app)
    account.spaces += spaces
    account.jobs += jobs
    for each in (notebook["NotebookInstanceArn"], app["AppArn"], *(job["TrainingJobArn"] for job in jobs)):
        account.tags[each] = {"ebb:budget-hours": "4", **tags}
    for each in spaces:
        account.tags[each["SpaceArn"]] = tags


def test_what_ebb_did_not_make_is_reported_with_its_price_and_left_alone(account, context):
    unused(account, {})
    swept(context)
    found = {each["kind"]: each for each in report(account)["findings"]}
    assert {kind: each["action"] for kind, each in found.items()} == dict.fromkeys(
        ("notebook", "app", "space", "warm-pool", "training-job"), "protected"
    )
    assert found["warm-pool"]["usd_per_hour"] == pytest.approx(0.23)
    assert "2 instances" in found["training-job"]["reason"]
    assert found["space"]["name"] == "d-1/empty", "the other space has an app"
    assert account.started == []


def test_with_parameter_and_tags_each_is_stopped_by_an_execution_of_its_own(account, context):
    unused(account, ALLOWED | {"ebb:delete": "allowed"})
    swept(context)
    assert names(account, "REAP_RESOURCES") == ["d-1/empty", "d-1/mine/JupyterLab/default", "lab", "long", "pool"]
    for started in account.started:
        assert set(started["input"]) == {"kind", "name", "keys", "reason"}


def decided(context, started: dict[str, Any]) -> dict[str, Any]:
    return decide_reaping.handler({**started["input"], "now": NOW.isoformat()}, context)


def test_before_it_is_stopped_each_is_looked_at_once_more(account, context):
    unused(account, ALLOWED | {"ebb:delete": "allowed"})
    swept(context)
    by_kind = {each["input"]["kind"]: each for each in account.started}
    assert {kind: decided(context, each)["action"] for kind, each in by_kind.items()} == {
        kind: f"stop {kind}" for kind in by_kind
    }
    account.notebooks[0]["LastModifiedTime"] = long_ago(minutes=1)
    account.apps[0]["LastUserActivityTimestamp"] = long_ago(minutes=1)
    account.apps.append(account.apps[0] | {"SpaceName": "empty"})
    account.jobs[0]["WarmPoolStatus"] = {"Status": "InUse"}
    account.jobs[1]["TrainingJobStatus"] = "Completed"
    assert {decided(context, each)["action"] for each in account.started} == {"keep"}


def test_one_that_is_gone_by_then_is_no_error(account, context):
    unused(account, ALLOWED)
    swept(context)
    account.notebooks.clear()
    (started,) = [each for each in account.started if each["input"]["kind"] == "notebook"]
    assert decided(context, started)["action"] == "keep"


def test_one_that_cannot_be_read_by_then_is_not_stopped(account, context):
    unused(account, ALLOWED)
    swept(context)
    account.fails["DescribeNotebookInstance"] = ["AccessDeniedException"]
    (started,) = [each for each in account.started if each["input"]["kind"] == "notebook"]
    with pytest.raises(Exception, match="AccessDenied"):
        decided(context, started)


def test_an_app_whose_activity_cannot_be_read_is_kept_and_told(account, context):
    unused(account, ALLOWED)
    account.fails["DescribeApp"] = ["AccessDeniedException"]
    told = swept(context)
    assert "d-1/mine/JupyterLab/default" not in names(account, "REAP_RESOURCES")
    assert [each["what"] for each in told["unread"]] == ["app d-1/mine/JupyterLab/default"]


# ---- the schedule ----


def fired(name: str) -> dict[str, Any]:
    return json.loads((EVENTS / name).read_text())


def test_a_schedule_that_fires_starts_one_sweep_by_its_own_time(account, context):
    event = fired("schedule_sweep.json")
    for _ in range(2):
        on_schedule.handler(event, context)
    assert {each["name"] for each in account.started} == {"sweep-202611231200"}
    assert account.started[0]["input"] == {"now": "2026-11-23T12:00:00Z", "asked_by": "schedule"}


def test_another_event_is_refused(account, context):
    with pytest.raises(Exception, match="source"):
        on_schedule.handler(fired("schedule_sweep.json") | {"source": "aws.events"}, context)


def test_a_series_that_was_not_read_to_its_end_is_not_no_calls(account):
    at = Address(address="ebb-a", kind="async", endpoint_name="ebb-a--async")
    other = at.model_copy(update={"address": "ebb-b", "endpoint_name": "ebb-b--async"})

    class Answers:
        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self, **request: Any) -> Any:
            wanted = [each["Id"] for each in request["MetricDataQueries"]]
            names = {each["Id"]: each["MetricStat"]["Metric"]["MetricName"] for each in request["MetricDataQueries"]}
            assert set(names.values()) == {"InvocationsProcesssed", "InvocationsProcessed"}
            results = [
                {"Id": each, "Values": [7.0] if each.endswith("_0") else [], "StatusCode": "Complete"}
                for each in wanted
            ]
            results[-1] |= {"StatusCode": "InternalError"}
            yield {"MetricDataResults": results}

    reader = account_reader.Reader(lambda _: Answers())
    assert reader.calls_per_day([at, other], until=NOW) == {"ebb-a": 1.0}
    assert [each.what for each in reader.unread] == ["calls of ebb-b"]
