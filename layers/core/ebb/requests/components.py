"""Request bodies of inference components: models that share an endpoint's instances and may have no copy at all."""

from collections.abc import Mapping, Sequence
from typing import Any

from ebb.requests.hosting import VARIANT


def create_inference_component(
    *,
    name: str,
    endpoint: str,
    model_name: str,
    memory_mib: int,
    cores: float,
    copies: int,
    spread: bool,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateInferenceComponent: so many copies, each with room of its own.

    `spread` keeps the copies in different availability zones, as far as there are instances in them.
    """
    scheduling = {"PlacementStrategy": "SPREAD", "AvailabilityZoneBalance": {"EnforcementMode": "PERMISSIVE"}}
    return {
        "InferenceComponentName": name,
        "EndpointName": endpoint,
        "VariantName": VARIANT,
        "Specification": {
            "ModelName": model_name,
            "ComputeResourceRequirements": {
                "NumberOfCpuCoresRequired": cores,
                "MinMemoryRequiredInMb": memory_mib,
            },
            **({"SchedulingConfig": scheduling} if spread else {}),
        },
        "RuntimeConfig": {"CopyCount": copies},
        "Tags": list(tags),
    }
