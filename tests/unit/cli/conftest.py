"""The `ebb` command on a stack whose services are moto's; nothing here waits."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from ebb import ledger, names
from ebb_cli import target as targets
from ebb_cli.main import app
from ebb_cli.target import Target

OUTPUTS = {
    "LandingBucketName": "landing",
    "ArtifactBucketName": "artifacts",
    "LedgerTableName": "ledger",
    "UploadsDeadLetterQueueUrl": "http://queue/dead",
    "DataKeyArn": "arn:aws:kms:us-east-1:123456789012:key/data",
}
RUN_ID = "churn-20261123040506-abc123"
DEFINITION = json.dumps({"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded cloud's home of the test's own, where none runs."""
    monkeypatch.setenv("EBB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def session() -> boto3.Session:
    """One for all tests: it keeps the service models that it has read."""
    return boto3.Session(region_name="us-east-1")


@pytest.fixture
def target(session: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A deployed stack: two buckets, a ledger, a state machine."""
    with mock_aws():
        made = Target(session, None, False, "123456789012", "us-east-1", "ebb")
        made.__dict__["outputs"] = OUTPUTS | {"RunPipelineStateMachineArn": _machine(session)}
        monkeypatch.setattr(Target, "poll_s", 0.0)
        for bucket in ("landing", "artifacts"):
            made.client("s3").create_bucket(Bucket=bucket)
        _ledger(session)
        monkeypatch.setattr(targets, "find", lambda **_: made)
        yield made


def _machine(session: boto3.Session) -> str:
    role = "arn:aws:iam::123456789012:role/machine"
    states = session.client("stepfunctions")
    return states.create_state_machine(name="run", definition=DEFINITION, roleArn=role)["stateMachineArn"]


def _ledger(session: boto3.Session) -> None:
    names = ("pk", "sk", "gsi_pk", "gsi_sk")
    session.client("dynamodb").create_table(
        TableName="ledger",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "runs",
                "KeySchema": [
                    {"AttributeName": "gsi_pk", "KeyType": "HASH"},
                    {"AttributeName": "gsi_sk", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )


@pytest.fixture
def put(target: Target) -> Callable[..., str]:
    """Write a run into the ledger, spelt as the functions spell it; return its id."""
    table = target.session.resource("dynamodb").Table("ledger")

    def write(status: str = "succeeded", run_id: str = RUN_ID, **fields: Any) -> str:
        created = ledger.iso(names.created_at(run_id))
        item = {
            **ledger.run_key(run_id), "run_id": run_id, "project": names.project_of(run_id), "status": status,
            "attempt": 1, "created_at": created, "started_at": "2026-11-23T04:05:10Z",
            "ended_at": None if status == "running" else "2026-11-23T04:06:16.500000Z",
            "gsi_pk": "RUNS", "gsi_sk": f"{created}#{run_id}", **fields,
        }  # fmt: skip
        table.put_item(Item=ledger.to_item(item))
        return run_id

    return write


@pytest.fixture
def put_stage(target: Target) -> Callable[..., None]:
    """Write a stage of a run into the ledger."""
    table = target.session.resource("dynamodb").Table("ledger")

    def write(stage: str, run_id: str = RUN_ID, **fields: Any) -> None:
        table.put_item(Item=ledger.stage_item(run_id, stage, {"attempt": 1, "status": "finished", **fields}, None))

    return write


@pytest.fixture
def ebb() -> Callable[..., Any]:
    """Call the command as a shell would."""

    def call(*arguments: object, stdin: str | None = None) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return call
