"""Container images: what a reference to one in ECR names, and from what the account builds its own."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from ebb import catalog
from ebb.catalog import Instance
from ebb.errors import NoFeasibleInstanceError
from ebb.settings import StackSettings

_ECR = re.compile(
    r"^(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)


@dataclass(frozen=True)
class EcrImage:
    """One image in a private registry."""

    account: str
    region: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def of(cls, uri: str) -> Self | None:
        """Return what a reference names, None when it is no image in ECR: a public one needs no permission."""
        found = _ECR.match(uri)
        return cls(**found.groupdict()) if found else None


@dataclass(frozen=True)
class Image:
    """An image that jobs or endpoints start from: a ready one, or one that the account builds when it is missing."""

    uri: str
    context_uri: str = ""  # the folder that it is built from; none when the image is given ready
    base_image: str = ""  # none: the one that the Dockerfile names


def for_endpoints(stack: StackSettings) -> Image:
    """Return the image of endpoints."""
    return Image(stack.serve_image_uri, stack.serve_context_uri)


def for_jobs(stack: StackSettings, instance: Instance, *, toolchain: str | None = None) -> Image:
    """Return the image of jobs on an instance: for accelerators it is built on AWS's deep learning container.

    Such a variant is named by its base too, because the tag of its context says nothing about that. A ready image is
    taken for every instance: whoever names it knows what it runs on. `toolchain` is the kind of accelerator that a job
    compiles for on a machine without it.
    Raises: NoFeasibleInstanceError when no such container is known in the Region.
    """
    kind = toolchain or (instance.accelerator.kind if instance.accelerator else None)
    if kind is None or not stack.jobs_context_uri:
        return Image(stack.jobs_image_uri, stack.jobs_context_uri)
    base = catalog.deep_learning_container(kind, stack.region)
    if base is None:
        raise NoFeasibleInstanceError(
            f"{instance.name} cannot be used in {stack.region}: the catalog knows no deep learning container of AWS "
            "for it there",
            "name a CPU instance in train.instance",
        )
    return Image(f"{stack.jobs_image_uri}-{kind}-{base_hash(base)}", stack.jobs_context_uri, base)


def base_hash(base_image: str) -> str:
    """Return what stands for a base image in the tag of its variant."""
    return hashlib.sha256(base_image.encode()).hexdigest()[:8]


def accelerators(stack: StackSettings) -> tuple[str, ...]:
    """Return the kinds of accelerator that may be chosen unasked: those whose image the account can build."""
    kinds = catalog.ACCELERATOR_KINDS if stack.jobs_context_uri else ()
    return tuple(kind for kind in kinds if catalog.deep_learning_container(kind, stack.region))
