"""Request bodies of serving: CreateModel, CreateEndpointConfig for each kind, CreateEndpoint, UpdateEndpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

VARIANT = "AllTraffic"
UPDATE_WITHIN_S = 3600  # of an update, without the time in which it is watched


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


def create_async_endpoint_config(
    *,
    name: str,
    model_name: str,
    instance_type: str,
    instances: int,
    output_uri: str,
    failure_uri: str,
    concurrency: int,
    kms_key: str,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateEndpointConfig for an asynchronous endpoint: it queues requests, so it may have none up.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-create-endpoint-configuration.html
    """
    return {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model_name,
                "InstanceType": instance_type,
                "InitialInstanceCount": instances,
            }
        ],
        "AsyncInferenceConfig": {
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": concurrency},
            "OutputConfig": {"S3OutputPath": output_uri, "S3FailurePath": failure_uri, "KmsKeyId": kms_key},
        },
        "KmsKeyId": kms_key,
        "Tags": list(tags),
    }


def create_component_endpoint_config(
    *,
    name: str,
    role_arn: str,
    instance_type: str,
    instances: int,
    least: int,
    most: int,
    kms_key: str,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateEndpointConfig for an endpoint of inference components: its instances follow them.

    No model stands in the variant, and the role stands on top; at least one instance is up when it is created.
    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html
    """
    return {
        "EndpointConfigName": name,
        "ExecutionRoleArn": role_arn,
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "InstanceType": instance_type,
                "InitialInstanceCount": instances,
                "ManagedInstanceScaling": {"Status": "ENABLED", "MinInstanceCount": least, "MaxInstanceCount": most},
                "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
            }
        ],
        "KmsKeyId": kms_key,
        "Tags": list(tags),
    }


def create_endpoint(*, name: str, config_name: str, tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the body of CreateEndpoint."""
    return {"EndpointName": name, "EndpointConfigName": config_name, "Tags": list(tags)}


def update_endpoint(
    *, name: str, config_name: str, watch_s: int | None = None, rollback_on: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the body of UpdateEndpoint: SageMaker keeps the old variant serving until the new one is healthy.

    With `watch_s` it keeps the old instances for so long after that and goes back to them on one of the alarms, by
    itself; serverless endpoints take no such deployment.
    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-blue-green-all-at-once.html
    """
    body: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": config_name}
    if watch_s is None:
        return body
    policy = {
        "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0},
        "TerminationWaitInSeconds": watch_s,
        "MaximumExecutionTimeoutInSeconds": UPDATE_WITHIN_S + watch_s,
    }
    alarms = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": each} for each in rollback_on]}}
    return body | {"DeploymentConfig": {"BlueGreenUpdatePolicy": policy} | (alarms if rollback_on else {})}
