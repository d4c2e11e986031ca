"""Instances: how large each type is, and how long or in vain one waits for them.

Here an instance is a number that counts in metrics, quotas of requests and placement; one process does the work of
all instances of a variant. Instances come at once unless a test wants it otherwise (`faults`).

Sizes follow from the names (https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-type-names.html): a size has
a number of vCPUs, a family an amount of memory for each. Accelerators of the g families by size; of others none are
known.
Text of refusals: https://repost.aws/knowledge-center/sagemaker-insufficient-capacity-error.
"""

import re
from dataclasses import dataclass

from ebb_local.sagemaker import faults, threads
from ebb_local.sagemaker.errors import HostingFailure, JobFailure

_NAME = re.compile(r"ml\.(?P<family>[a-z0-9-]+)\.(?P<size>\w+)")
_VCPUS = {"medium": 2, "large": 2, "xlarge": 4}
_GIB_PER_VCPU = {"c": 2.0, "m": 4.0, "r": 8.0, "g": 4.0, "inf": 4.0, "x": 16.0}
_BURSTABLE_GIB = {"medium": 4.0, "large": 8.0, "xlarge": 16.0, "2xlarge": 32.0}
_ACCELERATORS = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}
REFUSED = (
    "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error. Please retry using a "
    "different ML instance type or after some time."
)
_REFUSED_FOR_JOBS = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)
# Assumed: what the operating system and the agent keep for themselves; components share the rest.
_FOR_COMPONENTS = 0.9


@dataclass(frozen=True)
class Size:
    """What one instance offers to inference components."""

    cpus: float
    memory_mb: float
    accelerators: float


def size(instance_type: str) -> Size:
    """Return what an instance type offers; a family that is not known here counts as `m`, which holds 4 GiB a vCPU."""
    found = _NAME.fullmatch(instance_type)
    family, name = (found["family"], found["size"]) if found else ("m", "large")
    number = re.fullmatch(r"(\d+)xlarge", name)
    cpus = float(number[1]) * 4 if number else float(_VCPUS.get(name, 2))
    kind = re.match(r"[a-z]+", family)
    letters = kind[0] if kind else "m"
    memory_gib = (
        _BURSTABLE_GIB.get(name, 4.0) if letters == "t" else cpus * _GIB_PER_VCPU.get(letters, 4.0)
    )  # fmt: skip
    accelerators = float(_ACCELERATORS.get(name, 1)) if letters == "g" else 0.0
    return Size(cpus, memory_gib * 1024 * _FOR_COMPONENTS, accelerators)


def provision(instance_type: str) -> None:
    """Wait for an instance of a type. Raises HostingFailure where there is none."""
    if faults.current().delay_s:
        threads.sleep(faults.current().delay_s)
    while faults.current().held:
        threads.sleep(1.0)
    if instance_type in faults.current().refused_types:
        raise HostingFailure(REFUSED)


def provision_for_job(instance_type: str) -> None:
    """Wait for the instance of a job. Raises JobFailure with AWS's text where there is none."""
    try:
        provision(instance_type)
    except HostingFailure as refused:
        raise JobFailure(_REFUSED_FOR_JOBS) from refused
