"""What the contract tests share beside fixtures: the server, principals, machines, and waiting."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.client
import botocore.httpsession
import pytest

from ebb_local import lifecycle


@dataclass
class Cloud:
    """The server, and clients that act as the account's root."""

    server: lifecycle.Server
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str, session: boto3.Session | None = None) -> Any:
        if session is None:
            self._clients[service] = self._clients.get(service) or self._client(self.session(), service)
            return self._clients[service]
        return self._client(session, service)

    def session(self) -> boto3.Session:
        return boto3.Session("test", "test", region_name=self.server.region)

    def _client(self, session: boto3.Session, service: str) -> Any:
        config = botocore.client.Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})
        return session.client(service, endpoint_url=self.server.endpoint_url, config=config)

    def advance(self, seconds: float) -> list[dict]:
        """Put the clock forward; return what happened meanwhile."""
        reply = self.control("Advance", Seconds=seconds, BudgetSeconds=120)
        assert not reply["WaitsFor"], reply
        assert reply["Now"] - reply["Began"] >= seconds
        return reply["Notes"]

    def control(self, operation: str, **document: Any) -> dict:
        """Call `Ebb.<operation>` of the control endpoint, signed as root."""
        request = botocore.awsrequest.AWSRequest(
            "POST", f"{self.server.endpoint_url}/", {"X-Amz-Target": f"Ebb.{operation}"}, json.dumps(document).encode()
        )
        credentials = self.session().get_credentials()
        botocore.auth.SigV4Auth(credentials, "ebb", self.server.region).add_auth(request)
        reply = botocore.httpsession.URLLib3Session().send(request.prepare())
        assert reply.status_code == 200, reply.text
        return json.loads(reply.text)

    def calls(self, **wanted: str) -> list[dict]:
        """Return the call record, only entries whose fields hold the given texts."""
        record = self.control("GetCalls")["Calls"]
        return [call for call in record if all(text in call[name] for name, text in wanted.items())]

    def log(self) -> str:
        return (self.server.home / "logs" / "server.log").read_text(errors="replace")


@dataclass(frozen=True)
class Role:
    """An IAM role, and a session that acts as it."""

    name: str
    arn: str
    session: boto3.Session


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def allow(action: str | list[str], resource: str | list[str] = "*", **condition: Any) -> dict:
    """One Allow statement."""
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})


@dataclass(frozen=True)
class Machine:
    """A state machine under test."""

    cloud: Cloud
    arn: str

    def start(self, data: Any = None, **options: Any) -> str:
        states = self.cloud.client("stepfunctions")
        return states.start_execution(stateMachineArn=self.arn, input=json.dumps(data or {}), **options)["executionArn"]

    def run(self, data: Any = None, **options: Any) -> dict:
        """Run to the end and return DescribeExecution, with `output` parsed."""
        return self.finished(self.start(data, **options))

    def finished(self, execution: str) -> dict:
        states = self.cloud.client("stepfunctions")
        wait_until(lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING")
        described = states.describe_execution(executionArn=execution)
        if "output" in described:
            described["output"] = json.loads(described["output"])
        return described


def task(resource: str, arguments: Any, **fields: Any) -> dict:
    """A Task state that ends the machine unless told otherwise."""
    ending = {} if "Next" in fields else {"End": True}
    return {"Type": "Task", "Resource": resource, "Arguments": arguments, **ending, **fields}


def wait_until(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Return the first true result of `condition`; fail when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.1)
    pytest.fail(f"not within {timeout_s} s: {condition}")


def queue_arn(cloud: Cloud, url: str) -> str:
    attributes = cloud.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return attributes["Attributes"]["QueueArn"]


def messages(cloud: Cloud, url: str, timeout_s: float = 15) -> list[dict]:
    """Return the messages that arrive first, within the timeout."""
    receive = cloud.client("sqs").receive_message
    with contextlib.suppress(pytest.fail.Exception):
        return wait_until(
            lambda: receive(QueueUrl=url, MessageAttributeNames=["All"], MaxNumberOfMessages=10).get("Messages"),
            timeout_s,
        )
    return []


def key_with(cloud: Cloud, *statements: dict) -> str:
    """Make a KMS key whose policy leaves the account to IAM, plus the given statements; returns its ARN."""
    root = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{cloud.server.account_id}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    policy = {"Version": "2012-10-17", "Statement": [root, *statements]}
    return cloud.client("kms").create_key(Policy=json.dumps(policy))["KeyMetadata"]["Arn"]
