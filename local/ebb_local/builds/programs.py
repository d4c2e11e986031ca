"""`aws` and `docker` as a build in the embedded cloud finds them on its PATH: what Ebb's buildspec calls, nothing else.

Requests go to the embedded cloud as the build's service role, so its permissions decide as they do on AWS.

    python -m ebb_local.builds.programs aws|docker ARGUMENT ...
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebb.images import base_hash
from ebb_local.settings import CHECKOUT, environments

LOGGED_IN, BUILT = Path("~/.logged-in").expanduser(), Path("~/.built").expanduser()
_VARIANT = re.compile(r"-(?:gpu|neuron)-(?P<base>[0-9a-f]{8})$")
# Runs inside the environment: which of the pinned packages are missing or of another version. A build that a machine
# needs (+cpu) is not another version.
_LACKING = """
import sys
from importlib.metadata import PackageNotFoundError, version
def installed(name):
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None
pins = [line.strip().split("==") for line in open(sys.argv[1]) if "==" in line]
print(*[name for name, pin in pins if installed(name) != pin])
"""


class ProgramError(Exception):
    """The program fails; the text goes to the build's log."""


def main(arguments: list[str]) -> int:
    """Run one program."""
    program, *rest = arguments
    try:
        {"aws": aws, "docker": docker}[program](rest)
    except ProgramError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def aws(arguments: list[str]) -> None:
    """Answer the commands of the AWS CLI that Ebb's buildspec calls."""
    commands: dict[tuple[str, ...], Callable[[list[str]], None]] = {
        ("ecr", "describe-images"): _describe_images,
        ("ecr", "get-login-password"): _get_login_password,
        ("s3", "cp"): _copy,
    }
    _known(commands, tuple(arguments[:2]), "aws")(arguments[2:])


def docker(arguments: list[str]) -> None:
    """Answer the commands of docker that Ebb's buildspec calls."""
    commands: dict[tuple[str, ...], Callable[[list[str]], None]] = {
        ("login",): _login,
        ("build",): _build,
        ("push",): _push,
    }
    _known(commands, tuple(arguments[:1]), "docker")(arguments[1:])


def _known(
    commands: dict[tuple[str, ...], Callable[[list[str]], None]], asked: tuple[str, ...], program: str
) -> Callable[[list[str]], None]:
    if asked not in commands:
        known = ", ".join(" ".join(each) for each in commands)
        raise ProgramError(f"{program} {' '.join(asked)}: the embedded cloud's {program} knows {known} only")
    return commands[asked]


def _describe_images(arguments: list[str]) -> None:
    asked = _parser("repository-name", "image-ids").parse_args(arguments)
    tag = asked.image_ids.removeprefix("imageTag=")
    found = _client("ecr").describe_images(repositoryName=asked.repository_name, imageIds=[{"imageTag": tag}])
    if not found["imageDetails"]:  # MiniStack answers an empty list where AWS answers an error
        raise ProgramError(f"An error occurred (ImageNotFoundException): no image with the tag {tag}")
    print(json.dumps(found, default=str))


def _get_login_password(arguments: list[str]) -> None:
    _parser().parse_args(arguments)
    (data,) = _client("ecr").get_authorization_token()["authorizationData"]
    print(data["authorizationToken"])


def _copy(arguments: list[str]) -> None:
    parser = _parser()
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--recursive", action="store_true", required=True)
    parser.add_argument("--only-show-errors", action="store_true")
    asked = parser.parse_args(arguments)
    bucket, _, prefix = asked.source.removeprefix("s3://").partition("/")
    s3 = _client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", []):
            path = asked.target / each["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, each["Key"], str(path))


def _login(arguments: list[str]) -> None:
    parser = _parser("username")
    parser.add_argument("--password-stdin", action="store_true", required=True)
    parser.add_argument("registry")
    asked = parser.parse_args(arguments)
    if not sys.stdin.read().strip():
        raise ProgramError("Error: Password Empty")
    with LOGGED_IN.open("a") as file:
        print(asked.registry, file=file)
    print("Login Succeeded")


def _build(arguments: list[str]) -> None:
    parser = _parser("platform", "tag")
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("context", type=Path)
    asked = parser.parse_args(arguments)
    given = dict(each.split("=", 1) for each in asked.build_arg)
    repository, tag = _named(asked.tag)
    base, variant = given.get("BASE_IMAGE", ""), _VARIANT.search(tag)
    if (variant["base"] if variant else "") != (base_hash(base) if base else ""):
        raise ProgramError(f"{tag} is not the tag of an image on {base or 'the base that the Dockerfile names'}")
    _verify(asked.context, _VARIANT.sub("", tag))
    if base:
        _require_login(base)
        print(f"FROM {base}: the embedded cloud has no accelerators, its CPU environment stands for it")
    environment = environments() / repository.rpartition("/")[2]
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"making {environment}")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    requirements = asked.context / "requirements.txt"
    lacking = subprocess.run(
        [str(python), "-c", _LACKING, str(requirements)], capture_output=True, text=True, check=True
    ).stdout.split()
    if lacking:
        print(f"installing what {environment} lacks: {', '.join(lacking)}")
        pip = {"PIP": f"{sys.executable} -m pip --no-input --disable-pip-version-check"}
        done = subprocess.run(
            ["sh", str(asked.context / "install.sh"), str(python)], env={**os.environ, **given, **pip}
        )
        if done.returncode:
            raise ProgramError(f"install.sh ended with status {done.returncode}")
    else:
        print(f"{environment} holds every package of {requirements.name}, in its version")
    with BUILT.open("a") as file:
        print(asked.tag, file=file)


def _push(arguments: list[str]) -> None:
    parser = _parser()
    parser.add_argument("image")
    image = parser.parse_args(arguments).image
    _require_login(image)
    if image not in _lines(BUILT):
        raise ProgramError(f"An image does not exist locally with the tag: {image}")
    repository, tag = _named(image)
    content = f"{repository} {tag}".encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    ecr = _client("ecr")
    where = {"repositoryName": repository}
    ecr.batch_get_image(**where, imageIds=[{"imageTag": tag}])
    ecr.batch_check_layer_availability(**where, layerDigests=[digest])
    upload = {**where, "uploadId": ecr.initiate_layer_upload(**where)["uploadId"]}
    ecr.upload_layer_part(**upload, partFirstByte=0, partLastByte=len(content) - 1, layerPartBlob=content)
    ecr.complete_layer_upload(**upload, layerDigests=[digest])
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": len(content),
        "digest": digest,
    }
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": []}
    try:
        ecr.put_image(**where, imageTag=tag, imageManifest=json.dumps(manifest), imageManifestMediaType=media_type)
    except (ecr.exceptions.ImageAlreadyExistsException, ecr.exceptions.ImageTagAlreadyExistsException) as error:
        raise ProgramError(f"tag invalid: {error}") from error
    print(f"{tag}: digest: {digest}")


def _verify(context: Path, tag: str) -> None:
    """Raise unless the context is what the tag is the hash of: an image under another name would never be rebuilt."""
    sys.path.insert(0, str(CHECKOUT / "containers"))
    import content_hash

    found = content_hash.content_hash(context)
    if found != tag:
        raise ProgramError(f"the context is {found}, not {tag}")


def _named(image: str) -> tuple[str, str]:
    repository, _, tag = image.partition("/")[2].rpartition(":")
    return repository, tag


def _require_login(image: str) -> None:
    registry = image.partition("/")[0]
    if registry not in _lines(LOGGED_IN):
        raise ProgramError(f"no basic auth credentials for {registry}: docker login comes first")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _parser(*options: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in options:
        parser.add_argument(f"--{option}", required=True)
    return parser


def _client(service: str) -> Any:
    import boto3  # half a second, which `docker login` and `docker build` need not wait

    make: Any = boto3.client  # typed per service name; ours is a variable
    return make(service)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
