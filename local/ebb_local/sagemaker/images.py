"""Images: whether a URI can be pulled under a role, and which Python environment of this machine stands for it."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ministack.core.responses import get_account_id, get_region
from ministack.services import ecr

from ebb_local import authorization
from ebb_local.sagemaker import settings
from ebb_local.sagemaker.errors import validation_exception
from ebb_local.sagemaker.roles import principal_of

_ECR_URI = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com/"
    r"(?P<repository>[a-z0-9._/-]+?)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
# What a pull asks on the repository; the token is asked for on `*`, AWS offers nothing narrower.
# Source: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html
_PULL_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")


@dataclass(frozen=True)
class Environment:
    """What runs on this machine in place of an image."""

    python: Path
    serve_entrypoint: tuple[str, ...] = ("python", "/opt/ml/model/code/serve.py")
    """The ENTRYPOINT of the serve image; jobs name theirs in the request."""
    train_entrypoint: tuple[str, ...] = ("python", "/opt/ml/input/data/code/run.py", "train")
    """What the jobs image's ENTRYPOINT does with the word `train`: a tuning job's trials name none."""


def require_image(image: str, role_arn: str) -> None:
    """Raise ValidationException unless the image is in this account's registry and the role may pull it.

    Sources of the texts: CreateModel and CreateEndpoint answers reported in public issues; for jobs, which AWS
    lets fail after a while instead, assumed to be the same.
    """
    found = _ECR_URI.fullmatch(image)
    if found is None or found["account"] != get_account_id():
        raise validation_exception(
            f"Requested image {image} is not in the registry of this account: the embedded cloud runs no other image."
        )
    repository = f"arn:aws:ecr:{get_region()}:{get_account_id()}:repository/{found['repository']}"
    principal = principal_of(role_arn)
    for action, resource in [("ecr:GetAuthorizationToken", "*"), *((action, repository) for action in _PULL_ACTIONS)]:
        if not authorization.is_allowed(action, resource, principal=principal):
            raise validation_exception(
                f'The role "{role_arn}" does not have {action.split(":")[1]} permission for the image: "{image}".'
            )
    identifier = {"imageDigest": found["digest"]} if found["digest"] else {"imageTag": found["tag"] or "latest"}
    if not ecr._find_image(found["repository"], identifier):
        raise validation_exception(f"Requested image {image} not found.")
    environment(image)


def digest(image: str) -> str:
    """Return the image as Describe names what was resolved: repository and digest."""
    found = _ECR_URI.fullmatch(image)
    assert found is not None, "checked when the model was created"
    entry = ecr._find_image(found["repository"], {"imageTag": found["tag"] or "latest"})
    return f"{image.split('@')[0].rsplit(':', 1)[0]}@{entry['imageDigest']}" if entry else image


def environment(image: str) -> Environment:
    """Return the environment for an image: the repository's name says which, `jobs` or `serve`."""
    found = _ECR_URI.fullmatch(image)
    repository = found["repository"] if found else image
    for name in ("jobs", "serve"):
        if name in repository:
            python = settings.current().environments / name / "bin" / "python"
            if shutil.which(python) is None:
                raise validation_exception(
                    f"Requested image {image} cannot run here: there is no Python at {python} (run `make setup`)."
                )
            return Environment(python)
    raise validation_exception(
        f"Requested image {image} cannot run here: the embedded cloud knows images whose repository name "
        "holds `jobs` or `serve`."
    )
