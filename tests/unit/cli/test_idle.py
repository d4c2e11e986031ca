"""`ebb idle`: what a platform engineer reads, and what is started only when it is asked for."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from ebb import ledger
from ebb.addresses import Address
from ebb_cli import target as targets
from ebb_cli.target import Target

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from fake_account import ACCOUNT, FakeAccount

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OUTPUTS = {
    "ArtifactBucketName": "artifacts",
    "LedgerTableName": "ledger",
    "ScaleToZeroStateMachineArn": "arn:scale-to-zero",
    "SweepAccountStateMachineArn": "arn:sweep-account",
    "WakeEndpointStateMachineArn": "arn:wake-endpoint",
}


@pytest.fixture(scope="module")
def clients() -> dict[str, Any]:
    session = boto3.Session("test", "test", region_name="us-east-1")
    return {name: session.client(name) for name in ("sagemaker", "cloudwatch", "dynamodb", "stepfunctions", "s3")}


@pytest.fixture
def account(clients, monkeypatch) -> FakeAccount:
    fake = FakeAccount(now=NOW)
    for client in clients.values():
        fake.attach(client)
    monkeypatch.setattr(Target, "client", lambda self, service: clients[service])
    yield fake
    for client in clients.values():
        client.meta.events.unregister("before-send", fake._answer, unique_id=f"fake-{id(fake)}")


@pytest.fixture
def stack(account, monkeypatch) -> Callable[[str], None]:
    """A stack with the parameter ManageForeignEndpoints as given."""

    def deployed(managed: str) -> None:
        made = Target(boto3.Session(region_name="us-east-1"), None, False, "0" * 12, "us-east-1", "ebb")
        made.__dict__["outputs"] = OUTPUTS
        parameters = [{"ParameterKey": "ManageForeignEndpoints", "ParameterValue": managed}]
        monkeypatch.setattr(Target, "describe_stack", lambda self: {"Parameters": parameters, "CreationTime": NOW})
        monkeypatch.setattr(Target, "poll_s", 0.0)
        monkeypatch.setattr(targets, "find", lambda **_: made)
        monkeypatch.setattr("ebb_cli.ledger.datetime", Clock)

    return deployed


class Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def own(account: FakeAccount, name: str, **more: Any) -> None:
    fields = {"address": name, "kind": "async", "endpoint_name": name, "generation": 3, "awake_usd_per_hour": 0.115}
    item = Address.model_validate(fields | more).model_dump(mode="json", exclude_none=True)
    account.items.append(ledger.put_action("ledger", item)["Item"])
    account.endpoint(name)


def test_a_dry_run_starts_nothing_and_says_what_would_happen_and_why(account, stack, ebb):
    stack("no")
    own(account, "ebb-wine")
    account.endpoint("theirs", instance_type="ml.m5.xlarge")
    done = ebb("idle", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    found = {each["name"]: each for each in document["findings"]}
    assert found["ebb-wine"]["action"] == "sleep"
    assert found["theirs"]["action"] == "protected"
    assert "ManageForeignEndpoints" in found["theirs"]["reason"]
    assert account.started == []
    assert account.calls["PutObject"] == account.calls["UpdateItem"] == 0


def test_every_saving_is_net_of_what_ebb_costs_for_it(account, stack, ebb):
    stack("no")
    own(account, "ebb-wine")
    account.endpoint("theirs", instance_type="ml.m5.xlarge")
    document = json.loads(ebb("idle", "--dry-run", "--json").stdout)
    found = {each["name"]: each for each in document["findings"]}
    assert found["ebb-wine"]["usd_per_month"] == pytest.approx(0.115 * 730)
    assert found["ebb-wine"]["net_usd_per_month"] == pytest.approx(0.115 * 730 - 0.25)
    assert found["theirs"]["net_usd_per_month"] == pytest.approx(0.23 * 730 - 0.05), "priced although it is protected"
    assert document["saves_usd_per_month"] == pytest.approx(83.7)
    assert document["protected_usd_per_month"] == pytest.approx(167.85)


def test_the_table_is_read_without_a_manual(account, stack, ebb):
    stack("no")
    own(account, "ebb-wine")
    account.endpoint("theirs")
    told = ebb("idle", "--dry-run").stdout
    for part in (
        "would be put to sleep",
        "protected",
        "no call in the last 3 hours",
        "USD a month",
        "ebb:sleep=allowed",
    ):
        assert part in told


def test_an_account_in_use_says_so(account, stack, ebb):
    stack("yes")
    account.endpoint("busy", called=True)
    assert "Nothing is idle." in ebb("idle", "--dry-run").stdout


def test_what_could_not_be_read_is_told_and_nothing_is_said_about_it(account, stack, ebb):
    stack("yes")
    account.endpoint("theirs", tags={"ebb:sleep": "allowed"})
    account.fails["ListMetrics"] = ["AccessDeniedException"] * 9
    done = ebb("idle", "--dry-run")
    assert "could not be read: metric Invocations (AccessDeniedException)" in done.stdout
    assert "would be put to sleep" not in done.stdout


@pytest.mark.parametrize(
    ("operation", "what", "not_judged"),
    [
        ("ListMetrics", "metric", 2),
        ("ListEndpoints", "endpoints", 1),
        ("DescribeAlarms", "alarms", 0),
        ("ListNotebookInstances", "notebook instances", 0),
    ],
)
def test_an_account_of_which_a_part_cannot_be_read_is_not_called_idle_or_in_use(
    account, stack, ebb, operation, what, not_judged
):
    """A failure in part has an exit status of its own, for scripts as for people."""
    stack("yes")
    own(account, "ebb-wine")
    account.endpoint("theirs", called=True)
    account.fails[operation] = ["AccessDeniedException"] * 9
    done = ebb("idle", "--dry-run", "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (document["complete"], document["not_judged"]) == (False, not_judged)
    assert any(each["what"].startswith(what) for each in document["unread"])
    account.fails[operation] = ["AccessDeniedException"] * 9
    told = ebb("idle", "--dry-run")
    assert told.exit_code == 1
    assert "Nothing is idle" not in told.stdout
    assert "could not be read" in told.stderr


def test_an_account_that_could_be_read_is_complete(account, stack, ebb):
    stack("yes")
    done = ebb("idle", "--dry-run", "--json")
    assert (done.exit_code, json.loads(done.stdout)["complete"]) == (0, True)


def test_an_unused_notebook_is_shown_with_its_price(account, stack, ebb):
    stack("yes")
    since = (NOW - timedelta(days=2)).timestamp()
    arn = f"{ACCOUNT}:notebook-instance/lab"
    account.notebooks.append(
        {
            "NotebookInstanceName": "lab",
            "NotebookInstanceArn": arn,
            "NotebookInstanceStatus": "InService",
            "InstanceType": "ml.t3.medium",
            "CreationTime": since,
            "LastModifiedTime": since,
        }
    )
    account.tags[arn] = {"ebb:sleep": "allowed", "ebb:budget-hours": "8"}
    (found,) = json.loads(ebb("idle", "--dry-run", "--json").stdout)["findings"]
    assert (found["kind"], found["action"]) == ("notebook", "stop")
    assert found["usd_per_month"] == pytest.approx(36.5)


def test_without_dry_run_a_sweep_is_started_and_its_report_is_printed(account, stack, ebb, monkeypatch):
    stack("yes")
    report = {"swept_at": NOW.isoformat(), "counts": {"endpoints": 7}, "started": [], "findings": []}
    account.objects["report.json"] = json.dumps(report).encode()
    statuses = iter(["RUNNING", "SUCCEEDED"])
    account.DescribeExecution = lambda given: {"status": next(statuses), "startDate": 0}
    document = json.loads(ebb("idle", "--json").stdout)
    (started,) = account.started
    assert started["stateMachineArn"] == "arn:sweep-account"
    assert started["input"]["asked_by"] == "ebb idle"
    assert document["counts"] == {"endpoints": 7}
    assert document["dry_run"] is False


def test_a_sweep_that_fails_is_told_with_its_cause(account, stack, ebb):
    stack("yes")
    account.DescribeExecution = lambda given: {"status": "FAILED", "cause": "throttled", "startDate": 0}
    done = ebb("idle")
    assert done.exit_code == 1
    assert "throttled" in done.output + done.stderr
