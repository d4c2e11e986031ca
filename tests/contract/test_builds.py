"""CodeBuild: the template's own buildspec builds an image, as its role and for a state machine's role; nothing else."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from ministack.services import codebuild

import content_hash
from contract.sagemaker.lab import environments
from contract.support import Cloud, Machine, allow, free_port, task, wait_until
from ebb.images import Image, base_hash
from ebb.requests import start_build
from ebb_local import lifecycle
from infrastructure import project

BUILD = "arn:aws:states:::codebuild:startBuild.sync"
REGISTRY = "000000000000.dkr.ecr.us-east-1.amazonaws.com"
ARN = "arn:aws:{}:us-east-1:000000000000:{}"
RULE = ARN.format("events", "rule/StepFunctionsGetEventForCodeBuildStartBuildRule")
PROPERTIES = project.template()["Resources"]["ImagesProject"]["Properties"]
PUSH = ("BatchCheckLayerAvailability", "BatchGetImage", "CompleteLayerUpload", "DescribeImages", "InitiateLayerUpload")
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments(tmp_path_factory.mktemp("venvs"), sys.executable)


@pytest.fixture(scope="module")
def cloud(venvs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud of its own, whose environments a build may make."""
    home = tmp_path_factory.mktemp("builds")
    with pytest.MonkeyPatch.context() as patch:  # for the start alone: other tests start clouds while this one lives
        patch.setenv("EBB_VENVS", str(venvs))
        started = lifecycle.start(home, port=free_port())
    yield Cloud(started)
    assert lifecycle.stop(home) == [], "a build outlived the server"


class Workshop:
    """A bucket with a context, a repository, a project with the template's buildspec, and who may use it."""

    def __init__(self, cloud: Cloud, context: Path, *, forbidden: str = "", **changes: Any) -> None:
        number = next(_numbers)
        self.cloud, self.name, self.bucket = cloud, f"images-{number}", f"contexts-{number}"
        self.repository, self.tag = f"stack-{number}/tiny{number}", content_hash.content_hash(context)
        s3, ecr = cloud.client("s3"), cloud.client("ecr")
        s3.create_bucket(Bucket=self.bucket)
        for path, body in content_hash.files(context).items():
            s3.put_object(Bucket=self.bucket, Key=f"images/{self.tag}/{path}", Body=body)
        ecr.create_repository(repositoryName=self.repository, imageTagMutability="IMMUTABLE")
        environment = {
            "type": "LINUX_CONTAINER",
            "image": PROPERTIES["Environment"]["Image"],
            "computeType": PROPERTIES["Environment"]["ComputeType"],
            "privilegedMode": PROPERTIES["Environment"]["PrivilegedMode"],
            "environmentVariables": [{"name": "TORCH_INDEX_URL", "value": "https://index.example/cpu"}],
        }
        settings = {
            "source": {"type": "NO_SOURCE", "buildspec": PROPERTIES["Source"]["BuildSpec"]},
            "artifacts": {"type": "NO_ARTIFACTS"},
            "environment": environment,
        } | changes
        cloud.client("codebuild").create_project(name=self.name, serviceRole=self._role(forbidden), **settings)

    @property
    def image(self) -> str:
        return f"{REGISTRY}/{self.repository}:{self.tag}"

    def request(self, **changes: Any) -> dict[str, Any]:
        return start_build(self.name, Image(self.image, f"s3://{self.bucket}/images/{self.tag}")) | changes

    def is_there(self) -> bool:
        ids = [{"imageTag": self.tag}]
        return bool(
            self.cloud.client("ecr").describe_images(repositoryName=self.repository, imageIds=ids)["imageDetails"]
        )

    def log(self) -> str:
        logs = self.cloud.client("logs")
        group = f"/aws/codebuild/{self.name}"
        return "\n".join(
            event["message"]
            for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]
            for event in logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
        )

    def needed(self) -> list[dict]:
        """What a state machine's role needs."""
        mine = ARN.format("codebuild", f"project/{self.name}")
        managed = allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], RULE)
        return [allow("codebuild:StartBuild", mine), allow("codebuild:BatchGetBuilds", mine), managed]

    def _role(self, forbidden: str) -> str:
        logs = ARN.format("logs", f"log-group:/aws/codebuild/{self.name}:*")
        repository = ARN.format("ecr", f"repository/{self.repository}")
        push = [f"ecr:{name}" for name in (*PUSH, "PutImage", "UploadLayerPart")]
        statements = [
            allow(["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"], logs),
            allow("s3:GetObject", f"arn:aws:s3:::{self.bucket}/images/*"),
            allow("s3:ListBucket", f"arn:aws:s3:::{self.bucket}"),
            allow("ecr:GetAuthorizationToken"),
            allow(push, repository),
        ]
        if forbidden:
            statements.append({"Effect": "Deny", "Action": forbidden, "Resource": "*"})
        trusted = {"Effect": "Allow", "Principal": {"Service": "codebuild.amazonaws.com"}, "Action": "sts:AssumeRole"}
        iam = self.cloud.client("iam")
        document = {"Version": "2012-10-17", "Statement": [trusted]}
        arn = iam.create_role(RoleName=self.name, AssumeRolePolicyDocument=json.dumps(document))["Role"]["Arn"]
        policy = {"Version": "2012-10-17", "Statement": statements}
        iam.put_role_policy(RoleName=self.name, PolicyName="given", PolicyDocument=json.dumps(policy))
        return arn


@pytest.fixture(scope="module")
def machine(cloud: Cloud) -> Callable[..., Machine]:
    def make(states: dict, statements: list[dict]) -> Machine:
        number = next(_numbers)
        trusted = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
        iam = cloud.client("iam")
        document = json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
        role = iam.create_role(RoleName=f"machine-{number}", AssumeRolePolicyDocument=document)["Role"]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_role_policy(RoleName=role["RoleName"], PolicyName="given", PolicyDocument=policy)
        definition = {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states}
        made = cloud.client("stepfunctions").create_state_machine(
            name=f"machine-{number}", definition=json.dumps(definition), roleArn=role["Arn"]
        )
        return Machine(cloud, made["stateMachineArn"])

    return make


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """What an image is built from, in small: its install script notes that it ran, and for which Python."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "requirements.txt").write_text("# exact\nnowhere==1.0\n")
    (tmp_path / "install.sh").write_text(
        'set -eu\n"$1" --version\necho "index $TORCH_INDEX_URL"\ntouch "$1.installed"\n'
    )
    return tmp_path


@pytest.mark.parametrize("name", ["_start_build", "_stop_build", "_make_build_record", "_build_id", "_project_arn"])
def test_wrapped_function_exists(name):
    assert callable(getattr(codebuild, name))


def test_a_build_fills_the_environment_and_puts_the_image_under_its_tag(cloud, machine, context, venvs):
    shop = Workshop(cloud, context)
    ended = machine({"Build": task(BUILD, shop.request())}, shop.needed()).run()
    assert ended["status"] == "SUCCEEDED", ended
    assert ended["output"]["Build"]["BuildStatus"] == "SUCCEEDED"
    assert shop.is_there()
    environment = venvs / shop.repository.rpartition("/")[2]
    assert (environment / "bin" / "python.installed").exists(), "the context's own steps ran"
    assert "index https://index.example/cpu" in shop.log()
    assert cloud.calls(action="ecr:PutImage", decision="Allow", principal=f"assumed-role/{shop.name}/AWSCodeBuild-")


def test_the_machines_role_needs_each_of_its_permissions(cloud, machine, context):
    shop = Workshop(cloud, context)
    for left_out in shop.needed():
        statements = [each for each in shop.needed() if each is not left_out and each != left_out]
        ended = machine({"Build": task(BUILD, shop.request())}, statements).run()
        assert ended["status"] == "FAILED", f"not needed: {left_out}"
        assert "is not authorized to perform" in ended["cause"]
    assert not shop.is_there()


@pytest.mark.parametrize("action", ["s3:GetObject", "ecr:GetAuthorizationToken", "ecr:PutImage"])
def test_a_build_that_its_role_does_not_let_fails_and_says_what_it_lacked(cloud, machine, context, action):
    shop = Workshop(cloud, context, forbidden=action)
    ended = machine({"Build": task(BUILD, shop.request())}, shop.needed()).run()
    assert (ended["status"], ended["error"]) == ("FAILED", "States.TaskFailed")
    assert json.loads(ended["cause"])["Build"]["BuildStatus"] == "FAILED"
    assert not shop.is_there()
    assert cloud.calls(action=action, decision="Deny", principal=f"assumed-role/{shop.name}/")


def test_a_context_that_is_not_what_the_tag_names_makes_no_image(cloud, machine, context):
    shop = Workshop(cloud, context)
    cloud.client("s3").put_object(Bucket=shop.bucket, Key=f"images/{shop.tag}/Dockerfile", Body=b"FROM elsewhere\n")
    ended = machine({"Build": task(BUILD, shop.request())}, shop.needed()).run()
    assert ended["status"] == "FAILED"
    assert f"not {shop.tag}" in shop.log()
    assert not shop.is_there()


BASE = f"763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.8.0-gpu-{'x' * 8}"


@pytest.mark.parametrize(
    ("named_after", "status"),
    [pytest.param(BASE, "SUCCEEDED", id="its base"), pytest.param(f"{BASE}-old", "FAILED", id="another base")],
)
def test_a_variant_is_named_by_its_base_too(cloud, machine, context, named_after, status):
    shop = Workshop(cloud, context)
    image = f"{shop.image}-gpu-{base_hash(named_after)}"
    asked = start_build(shop.name, Image(image, f"s3://{shop.bucket}/images/{shop.tag}", BASE))
    assert machine({"Build": task(BUILD, asked)}, shop.needed()).run()["status"] == status
    held = cloud.client("ecr").list_images(repositoryName=shop.repository)["imageIds"]
    assert [each["imageTag"] for each in held] == ([image.rpartition(":")[2]] if status == "SUCCEEDED" else [])


def test_a_registry_that_cannot_be_asked_ends_the_build(cloud, machine, context):
    shop = Workshop(cloud, context, forbidden="ecr:DescribeImages")
    assert machine({"Build": task(BUILD, shop.request())}, shop.needed()).run()["status"] == "FAILED"
    assert "AccessDenied" in shop.log()
    assert not cloud.calls(action="ecr:PutImage", decision="Allow", principal=f"assumed-role/{shop.name}/")


def test_a_role_that_trusts_another_project_is_not_assumed(cloud, machine, context):
    shop = Workshop(cloud, context)
    elsewhere = {"StringEquals": {"aws:SourceArn": ARN.format("codebuild", "project/another")}}
    trusted = {
        "Effect": "Allow",
        "Principal": {"Service": "codebuild.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": elsewhere,
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
    cloud.client("iam").update_assume_role_policy(RoleName=shop.name, PolicyDocument=document)
    ended = machine({"Build": task(BUILD, shop.request())}, shop.needed()).run()
    assert json.loads(ended["cause"])["Build"]["BuildStatus"] == "FAULT"


def test_a_second_build_of_the_same_tag_ends_at_once(cloud, machine, context):
    shop = Workshop(cloud, context)
    built = machine({"Build": task(BUILD, shop.request())}, shop.needed())
    assert [built.run()["status"] for _ in range(2)] == ["SUCCEEDED", "SUCCEEDED"]
    assert f"{shop.image} is there already" in shop.log()


def test_two_builds_of_the_same_tag_at_once_both_succeed(cloud, machine, context):
    shop = Workshop(cloud, context)
    built = machine({"Build": task(BUILD, shop.request())}, shop.needed())
    executions = [built.start() for _ in range(2)]
    assert [built.finished(each)["status"] for each in executions] == ["SUCCEEDED", "SUCCEEDED"]


def test_a_build_is_stopped_with_its_execution(cloud, machine, context):
    (context / "install.sh").write_text("sleep 60\n")
    shop = Workshop(cloud, context)
    stopping = allow("codebuild:StopBuild", ARN.format("codebuild", f"project/{shop.name}"))
    built = machine({"Build": task(BUILD, shop.request())}, [*shop.needed(), stopping])
    execution = built.start()
    builds = cloud.client("codebuild")
    (identifier,) = wait_until(lambda: builds.list_builds_for_project(projectName=shop.name)["ids"])
    cloud.client("stepfunctions").stop_execution(executionArn=execution)

    def status() -> str:
        return builds.batch_get_builds(ids=[identifier])["builds"][0]["buildStatus"]

    wait_until(lambda: status() == "STOPPED")


def _refused(cloud: Cloud, **request: Any) -> str:
    with pytest.raises(botocore.exceptions.ClientError) as problem:
        cloud.client("codebuild").start_build(**request)
    return str(problem.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"source": {"type": "GITHUB", "location": "x"}}, "without a source", id="a source"),
        pytest.param(
            {"source": {"type": "NO_SOURCE", "buildspec": "version: 0.2\nreports: {}\nphases: {}"}},
            "reports",
            id="reports",
        ),
        pytest.param(
            {"environment": {"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL"}},
            "PrivilegedMode",
            id="no docker",
        ),
    ],
)
def test_another_kind_of_project_is_refused_by_name(cloud, context, changes, named):
    shop = Workshop(cloud, context, **changes)
    assert named in _refused(cloud, projectName=shop.name)


def test_another_kind_of_request_is_refused_by_name(cloud, context):
    shop = Workshop(cloud, context)
    assert "imageOverride" in _refused(cloud, projectName=shop.name, imageOverride="x")
    assert "ResourceNotFoundException" in _refused(cloud, projectName="nobody")


@pytest.mark.parametrize("command", ["docker run x", "aws s3 rm s3://b/k", "aws sts get-caller-identity"])
def test_another_command_is_refused_by_name(cloud, machine, context, command):
    spec = json.dumps({"version": 0.2, "phases": {"build": {"commands": [command]}}})
    shop = Workshop(cloud, context, source={"type": "NO_SOURCE", "buildspec": spec})
    ended = machine({"Build": task(BUILD, shop.request())}, shop.needed()).run()
    assert ended["status"] == "FAILED"
    assert f"the embedded cloud's {command.split()[0]} knows" in shop.log()
