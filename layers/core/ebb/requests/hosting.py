"""Request bodies of serving: CreateModel, CreateEndpointConfig, CreateEndpoint, UpdateEndpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

VARIANT = "AllTraffic"


def create_model(
    *,
    name: str,
    role_arn: str,
    image_uri: str,
    bundle_uri: str,
    environment: Mapping[str, str],
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateModel for one bundle.

    Network isolation stays off: serverless endpoints refuse it (dg/serverless-endpoints, "Feature exclusions").
    """
    return {
        "ModelName": name,
        "ExecutionRoleArn": role_arn,
        "PrimaryContainer": {
            "Image": image_uri,
            "ModelDataUrl": bundle_uri,
            "Mode": "SingleModel",
            "Environment": dict(environment),
        },
        "Tags": list(tags),
    }


def create_endpoint_config(
    *,
    name: str,
    model_name: str,
    memory_mb: int,
    max_concurrency: int,
    kms_key: str,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateEndpointConfig for a serverless endpoint: it costs nothing while nobody calls it."""
    return {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model_name,
                "ServerlessConfig": {"MemorySizeInMB": memory_mb, "MaxConcurrency": max_concurrency},
            }
        ],
        "KmsKeyId": kms_key,
        "Tags": list(tags),
    }


def create_endpoint(*, name: str, config_name: str, tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the body of CreateEndpoint."""
    return {"EndpointName": name, "EndpointConfigName": config_name, "Tags": list(tags)}


def update_endpoint(*, name: str, config_name: str) -> dict[str, Any]:
    """Return the body of UpdateEndpoint: SageMaker keeps the old variant serving until the new one is healthy."""
    return {"EndpointName": name, "EndpointConfigName": config_name}
