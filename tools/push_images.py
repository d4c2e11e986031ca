"""Build both images for linux/amd64 and push them to the deployed stack's repositories, under the stack's own tags.

    python tools/push_images.py [--stack NAME] [--profile NAME] [--region NAME]

An image that is there already is not built again: tags are immutable, and a tag is the hash of what it was built from.
TORCH_INDEX_URL in the environment names an index with CPU builds of PyTorch; see containers/jobs/Dockerfile.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "containers"))

import content_hash  # noqa: E402 - lies beside the images, and is no package

# The machines that plans choose are x86_64, and so are serverless endpoints.
# https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html
PLATFORM = "linux/amd64"
OUTPUTS = {"jobs": "JobsRepositoryUri", "serve": "ServeRepositoryUri"}


class PushError(Exception):
    """Nothing can be built or pushed; the message says what to do."""


@dataclass(frozen=True)
class Image:
    """One image: the folder it is built from and where it goes."""

    name: str
    repository_uri: str
    tag: str

    @property
    def uri(self) -> str:
        """The name that SageMaker pulls it by."""
        return f"{self.repository_uri}:{self.tag}"


def wanted(stack: Mapping[str, Any]) -> list[Image]:
    """Return the images that the deployed stack expects in its own repositories.

    Raises: PushError when the stack was deployed from other files than these.
    """
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])}
    images = []
    for name, output in OUTPUTS.items():
        tag, here = parameters[content_hash.PARAMETERS[name]], content_hash.content_hash(ROOT / "containers" / name)
        if tag != here:
            raise PushError(f"The stack expects the {name} image {tag}, containers/{name} is {here}: deploy first.")
        images.append(Image(name, outputs[output], tag))
    return images


def build_command(image: Image, torch_index_url: str) -> list[str]:
    """Return the command that builds one image."""
    arguments = ["--build-arg", f"TORCH_INDEX_URL={torch_index_url}"] if image.name == "jobs" else []
    return ["docker", "build", "--platform", PLATFORM, *arguments, "--tag", image.uri, f"containers/{image.name}"]


def push(session: boto3.Session, stack_name: str) -> list[Image]:
    """Build and push what is missing, and return it.

    Raises: PushError when docker or the stack is missing, or docker fails.
    """
    if shutil.which("docker") is None:
        raise PushError("docker is not on PATH: install it, or name ready images by JobsImageUri and ServeImageUri.")
    try:
        (stack,) = session.client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"]
    except ClientError as error:
        raise PushError(f"There is no stack {stack_name!r} to push to ({error}): make deploy comes first.") from error
    ecr = session.client("ecr")
    missing = [image for image in wanted(stack) if not _is_there(ecr, image)]
    torch_index_url = os.environ.get("TORCH_INDEX_URL", "")
    if not torch_index_url and "jobs" in [image.name for image in missing]:
        raise PushError(
            "TORCH_INDEX_URL is not set: name a package index with CPU builds of PyTorch, such as the one on PyTorch's "
            "own installation page. pip's default has only the CUDA build for x86_64, which the jobs image refuses."
        )
    if missing:
        _log_in(ecr, missing[0].repository_uri.split("/")[0])
    for image in missing:
        _docker(build_command(image, torch_index_url))
        _docker(["docker", "push", image.uri])
    return missing


def _is_there(ecr: Any, image: Image) -> bool:
    repository = image.repository_uri.split("/", 1)[1]
    try:
        ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": image.tag}])
    except ecr.exceptions.ImageNotFoundException:
        return False
    return True


def _log_in(ecr: Any, registry: str) -> None:
    (data,) = ecr.get_authorization_token()["authorizationData"]
    user, password = base64.b64decode(data["authorizationToken"]).decode().split(":", 1)
    # over standard input: arguments can be read by every process of the machine
    _docker(["docker", "login", "--username", user, "--password-stdin", registry], given=password)


def _docker(command: list[str], given: str | None = None) -> None:
    # Attestations turn an image into an index of manifests, which SageMaker cannot pull.
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, input=given, text=True, check=False)
    if done.returncode:
        raise PushError(f"`{' '.join(command[:2])}` failed with status {done.returncode}.")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default="ebb")
    parser.add_argument("--profile")
    parser.add_argument("--region")
    asked = parser.parse_args()
    try:
        pushed = push(boto3.Session(profile_name=asked.profile, region_name=asked.region), asked.stack)
    except (PushError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 1
    for image in pushed:
        print(f"pushed {image.uri}")
    if not pushed:
        print("both images are there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
