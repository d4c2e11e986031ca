"""`make images`: what docker is asked for, against moto's ECR, with a docker that takes notes."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from infrastructure import project

_spec = importlib.util.spec_from_file_location("push_images", project.ROOT / "tools" / "push_images.py")
push_images = importlib.util.module_from_spec(_spec)
sys.modules["push_images"] = push_images  # dataclasses look their module up
_spec.loader.exec_module(push_images)
content_hash = push_images.content_hash

TAGS = {name: content_hash.content_hash(project.ROOT / "containers" / name) for name in content_hash.PARAMETERS}


class Session:
    """ECR is moto's. The stack is described here: moto's CloudFormation needs packages that nothing else does."""

    def __init__(self) -> None:
        self.real = boto3.Session(region_name="eu-central-1")
        self.stacks: dict[str, dict[str, Any]] = {}

    def client(self, service: str) -> Any:
        """Return moto's client, or the stack's description."""
        return self if service == "cloudformation" else self.real.client(service)

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        """Answer like CloudFormation, its error included."""
        if StackName not in self.stacks:
            answer = {"Error": {"Code": "ValidationError", "Message": f"Stack with id {StackName} does not exist"}}
            raise ClientError(answer, "DescribeStacks")
        return {"Stacks": [self.stacks[StackName]]}


@pytest.fixture
def session(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("TORCH_INDEX_URL", "https://index.example/cpu")
    with mock_aws():
        yield Session()


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A docker on PATH that notes its arguments and what it is given."""
    notes = tmp_path / "notes"
    script = tmp_path / "docker"
    script.write_text(
        '#!/bin/sh\nif [ "$1" = login ]; then read password; fi\n'
        f'echo "$BUILDX_NO_DEFAULT_ATTESTATIONS $password $@" >> {notes}\n[ "$1" != "$FAILING" ]\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return notes


def _deploy(session: Session, tags: dict[str, str]) -> None:
    create = session.client("ecr").create_repository
    uris = {name: create(repositoryName=f"ebb/{name}")["repository"]["repositoryUri"] for name in tags}
    session.stacks["ebb"] = {
        "Parameters": [
            {"ParameterKey": content_hash.PARAMETERS[name], "ParameterValue": tag} for name, tag in tags.items()
        ],
        "Outputs": [{"OutputKey": push_images.OUTPUTS[name], "OutputValue": uri} for name, uri in uris.items()],
    }


def _asked(docker: Path) -> list[str]:
    return docker.read_text().splitlines() if docker.exists() else []


def test_both_images_are_built_for_x86_64_and_pushed_under_the_tags_of_the_template(session, docker):
    _deploy(session, TAGS)
    pushed = push_images.push(session, "ebb")
    registry = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    jobs, serve = (f"{registry}/ebb/{name}:{TAGS[name]}" for name in ("jobs", "serve"))
    assert [image.uri for image in pushed] == [jobs, serve]
    login, *others = _asked(docker)
    assert login.split()[2:] == ["login", "--username", "AWS", "--password-stdin", registry]
    assert others == [
        "1  build --platform linux/amd64 --build-arg TORCH_INDEX_URL=https://index.example/cpu"
        f" --tag {jobs} containers/jobs",
        f"1  push {jobs}",
        f"1  build --platform linux/amd64 --tag {serve} containers/serve",
        f"1  push {serve}",
    ]


def test_what_is_there_is_not_built_again(session, docker):
    _deploy(session, TAGS)
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": []}
    for name, tag in TAGS.items():
        session.client("ecr").put_image(
            repositoryName=f"ebb/{name}", imageTag=tag, imageManifest=json.dumps(manifest | {"config": {"name": name}})
        )
    assert push_images.push(session, "ebb") == []
    assert _asked(docker) == []


def test_a_stack_from_other_files_gets_no_image_under_a_wrong_tag(session, docker):
    _deploy(session, TAGS | {"serve": "0123456789ab"})
    with pytest.raises(push_images.PushError, match=r"serve image 0123456789ab.*deploy first"):
        push_images.push(session, "ebb")
    assert _asked(docker) == []


def test_without_a_stack_it_says_what_comes_first(session, docker):
    with pytest.raises(push_images.PushError, match="make deploy"):
        push_images.push(session, "ebb")


def test_without_docker_it_says_so(session, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(push_images.PushError, match="docker is not on PATH"):
        push_images.push(session, "ebb")


def test_without_an_index_of_cpu_builds_it_says_so_before_gigabytes_come(session, docker, monkeypatch):
    monkeypatch.delenv("TORCH_INDEX_URL")
    _deploy(session, TAGS)
    with pytest.raises(push_images.PushError, match="TORCH_INDEX_URL is not set"):
        push_images.push(session, "ebb")
    assert _asked(docker) == []


def test_a_build_that_fails_is_not_pushed(session, docker, monkeypatch):
    monkeypatch.setenv("FAILING", "build")
    _deploy(session, TAGS)
    with pytest.raises(push_images.PushError, match="docker build"):
        push_images.push(session, "ebb")
    assert not [line for line in _asked(docker) if " push " in line]
