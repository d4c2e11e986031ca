"""A small account on moto: two buckets, the ledger and a state machine, as the template makes them."""

import json
import threading
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.core.botocore_stubber import BotocoreStubber

from ebb.aws import clients
from worked_run import ACCOUNT, ARTIFACTS, JOBS_HASH, LANDING, LEDGER, REGION, STACK

MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {"size": 1, "digest": "sha256:" + "0" * 64},
    "layers": [],
}


def _one_at_a_time(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Moto's tables are plain dictionaries: two writes to one item at once, which AWS orders, break it."""
    lock = threading.RLock()

    def answered(*arguments: Any) -> Any:
        with lock:
            return answer(*arguments)

    return answered


@cache
def made(service: str) -> Any:
    """Return a client that all tests share: making one takes longer than a whole test, and moto answers any of them."""
    return boto3.client(service, REGION)


@pytest.fixture(scope="session", autouse=True)
def _own_clients() -> Iterator[None]:
    """Leave none of moto's clients to the tests that come after these."""
    yield
    for kept in (made, clients.client, clients.table):
        kept.cache_clear()


class Account:
    """What the tests look at and put in."""

    def __init__(self, machine_arn: str):
        self.s3 = made("s3")
        self.table = clients.table(LEDGER)
        self.states = made("stepfunctions")
        self.machine_arn = machine_arn

    def drop(self, key: str, body: bytes, **metadata: str) -> dict[str, Any]:
        """Put an object and return the drop that its event would carry."""
        put = self.s3.put_object(Bucket=LANDING, Key=key, Body=body, Metadata=metadata)
        return {
            "kind": "object",
            "bucket": LANDING,
            "key": key,
            "size_bytes": len(body),
            "etag": put["ETag"].strip('"'),
            "sequencer": "0067419F6B2C5A1E33",
            "uploaded_at": "2026-11-23T09:30:00Z",
        }

    def put_report(self, uri: str, report: dict[str, Any]) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(report).encode())

    def json(self, uri: str) -> Any:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def item(self, pk: str, sk: str) -> dict[str, Any]:
        return self.table.get_item(Key={"pk": pk, "sk": sk}).get("Item", {})

    def run(self, run_id: str) -> dict[str, Any]:
        return self.item(f"RUN#{run_id}", "RUN")

    def executions(self) -> list[dict[str, Any]]:
        return self.states.list_executions(stateMachineArn=self.machine_arn)["executions"]


@pytest.fixture
def context() -> SimpleNamespace:
    return SimpleNamespace(
        function_name="ebb",
        memory_limit_in_mb=256,
        invoked_function_arn=f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:ebb",
        aws_request_id="52fdfc07-2182-454f-963f-5f0f9a621d72",
    )


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "MOTO_ACCOUNT_ID": ACCOUNT,
        "LANDING_BUCKET": LANDING,
        "ARTIFACT_BUCKET": ARTIFACTS,
        "LEDGER_TABLE": LEDGER,
        "DATA_KEY_ARN": STACK.data_key_arn,
        "JOBS_URI": f"s3://{ARTIFACTS}/jobs/{JOBS_HASH}",
        "JOBS_IMAGE_URI": STACK.jobs_image_uri,
        "SERVE_IMAGE_URI": STACK.serve_image_uri,
        "IMAGES_PROJECT": STACK.images_project,
        "JOBS_CONTEXT_URI": STACK.jobs_context_uri,
        "SERVE_CONTEXT_URI": STACK.serve_context_uri,
        "JOB_BOUNDARY_ARN": STACK.job_boundary_arn,
        "FEATURE_RETENTION_DAYS": "90",
        "GLUE_SECURITY_CONFIGURATION": "ebb",
        "STACK_NAME": "ebb",
        "EXTERNAL_DATA_BUCKETS": "lake",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(BotocoreStubber, "process_request", _one_at_a_time(BotocoreStubber.process_request))
    with mock_aws():
        s3 = made("s3")
        for bucket in (LANDING, ARTIFACTS, "lake"):
            s3.create_bucket(Bucket=bucket)
        for image in (STACK.jobs_image_uri, STACK.serve_image_uri):
            repository, _, tag = image.partition("/")[2].partition(":")
            made("ecr").create_repository(repositoryName=repository)
            made("ecr").put_image(repositoryName=repository, imageTag=tag, imageManifest=json.dumps(MANIFEST))
        made("dynamodb").create_table(
            TableName=LEDGER,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk", "gsi_pk", "gsi_sk")
            ],
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
        machine = made("stepfunctions").create_state_machine(
            name="ebb-run-pipeline",
            definition=json.dumps({"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 1, "End": True}}}),
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/ebb",
        )
        monkeypatch.setenv("RUN_PIPELINE_ARN", machine["stateMachineArn"])
        monkeypatch.setenv("SCORE_DATA_ARN", machine["stateMachineArn"])
        yield Account(machine["stateMachineArn"])
