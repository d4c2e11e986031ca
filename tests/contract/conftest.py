"""A real server of the embedded cloud for the contract tests, and short ways to make what they need."""

import io
import itertools
import json
import os
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from contract.support import Cloud, Machine, Role, free_port
from ebb_local import lifecycle

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home = tmp_path_factory.mktemp("cloud")
    started = lifecycle.start(home, port=free_port())
    try:
        yield Cloud(started)
    finally:
        assert lifecycle.stop(home) == [], "children had to be killed"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that nothing else has."""
    return f"t{next(_numbers)}-{os.getpid()}"


@pytest.fixture(scope="session")
def role(cloud: Cloud) -> Callable[..., Role]:
    """`role(*statements, trust="states.amazonaws.com", path="/")` makes a role with exactly these permissions."""
    iam, sts = cloud.client("iam"), cloud.client("sts")

    def make(*statements: dict, trust: str = "states.amazonaws.com", path: str = "/", boundary: str = "") -> Role:
        role_name = f"role-{next(_numbers)}"
        root = f"arn:aws:iam::{cloud.server.account_id}:root"
        document = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": trust}, "Action": "sts:AssumeRole"},
                {"Effect": "Allow", "Principal": {"AWS": root}, "Action": "sts:AssumeRole"},
            ],
        }
        limit = {"PermissionsBoundary": boundary} if boundary else {}
        arn = iam.create_role(RoleName=role_name, Path=path, AssumeRolePolicyDocument=json.dumps(document), **limit)[
            "Role"
        ]["Arn"]
        if statements:
            policy = {"Version": "2012-10-17", "Statement": list(statements)}
            iam.put_role_policy(RoleName=role_name, PolicyName="given", PolicyDocument=json.dumps(policy))
        keys = sts.assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        session = boto3.Session(
            keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name=cloud.server.region
        )
        return Role(role_name, arn, session)

    return make


@pytest.fixture(scope="session")
def function(cloud: Cloud, role: Callable[..., Role]) -> Callable[..., str]:
    """`function(source, **settings)` makes a function of `def handler(event, context)` source; returns its ARN."""

    def make(source: str, *statements: dict, files: Mapping[str, str] = {}, **settings: Any) -> str:
        function_name = settings.pop("FunctionName", f"function-{next(_numbers)}")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("code.py", textwrap.dedent(source))
            for path, content in files.items():
                archive.writestr(path, content)
        lambda_client = cloud.client("lambda")
        arn = lambda_client.create_function(
            FunctionName=function_name,
            Runtime="python3.13",
            Handler="code.handler",
            Role=role(*statements, trust="lambda.amazonaws.com").arn,
            Code={"ZipFile": packed.getvalue()},
            **settings,
        )["FunctionArn"]
        lambda_client.get_waiter("function_active_v2").wait(FunctionName=function_name, WaiterConfig={"Delay": 1})
        return arn

    return make


@pytest.fixture(scope="session")
def machine(cloud: Cloud, role: Callable[..., Role]) -> Callable[..., Machine]:
    """`machine(states, *statements)` makes a JSONata machine whose role holds exactly these permissions."""

    def make(states: dict, *statements: dict, **settings: Any) -> Machine:
        definition = {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states, **settings}
        arn = cloud.client("stepfunctions").create_state_machine(
            name=f"machine-{next(_numbers)}", definition=json.dumps(definition), roleArn=role(*statements).arn
        )["stateMachineArn"]
        return Machine(cloud, arn)

    return make


@pytest.fixture
def queue(cloud: Cloud, name: str) -> str:
    """A queue without a policy; returns its URL."""
    return cloud.client("sqs").create_queue(QueueName=name)["QueueUrl"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of its own for tests that restart servers; whatever runs there ends with the test."""
    yield tmp_path
    lifecycle.stop(tmp_path)
