"""Endpoint configurations, and what AWS refuses in them beyond the service model.

Serverless exclusions: https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html (wording assumed).
"""

from typing import Any

from ebb_local.sagemaker import events, keys, listing, models, state, tags
from ebb_local.sagemaker.errors import not_implemented, validation_exception

_MEMORY_SIZES_MB = (1024, 2048, 3072, 4096, 5120, 6144)
_NOT_HERE = ("AsyncInferenceConfig", "ShadowProductionVariants", "ExplainerConfig", "DataCaptureConfig", "VpcConfig",
             "MetricsConfig", "ExecutionRoleArn")  # fmt: skip
_NOT_HERE_PER_VARIANT = ("InstancePools", "ManagedInstanceScaling", "CoreDumpConfig", "CapacityReservationConfig")
_SUMMARY = ["EndpointConfigName", "EndpointConfigArn", "CreationTime"]


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateEndpointConfig."""
    name = request["EndpointConfigName"]
    arn = state.arn("endpoint-config", name)
    tags.require_tagging(arn, request)
    for member in _NOT_HERE:
        if request.get(member):
            raise not_implemented(f"An endpoint configuration with {member}")
    keys.require_grant(request.get("KmsKeyId"))
    for variant in request["ProductionVariants"]:
        _require_valid(variant, alone=len(request["ProductionVariants"]) == 1)
    if name in state.endpoint_configs:
        raise validation_exception(f'Cannot create already existing endpoint configuration "{arn}".')
    state.endpoint_configs[name] = record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "EndpointConfigArn": arn,
        "CreationTime": state.now(),
    }
    tags.put(arn, request.get("Tags"))
    events.state_changed("Endpoint Config", arn, record)
    return {"EndpointConfigArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeEndpointConfig."""
    return state.public(find(request["EndpointConfigName"]))


def list_configs(request: dict[str, Any]) -> dict[str, Any]:
    """ListEndpointConfigs."""
    rows, more = listing.page(state.endpoint_configs.values(), request, name="EndpointConfigName", members=_SUMMARY)
    return {"EndpointConfigs": rows, **more}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteEndpointConfig. Endpoints made with it go on."""
    record = find(request["EndpointConfigName"])
    del state.endpoint_configs[request["EndpointConfigName"]]
    events.state_changed("Endpoint Config", record["EndpointConfigArn"], record)
    tags.forget(record["EndpointConfigArn"])
    return {}


def find(name: str) -> state.Record:
    """Return a configuration's record, or raise as AWS does."""
    record = state.endpoint_configs.get(name)
    if record is None:
        raise validation_exception(f'Could not find endpoint configuration "{state.arn("endpoint-config", name)}".')
    return record


def is_serverless(config: state.Record) -> bool:
    """Return whether the configuration's endpoint has no instances."""
    return bool(config["ProductionVariants"][0].get("ServerlessConfig"))


def _require_valid(variant: dict[str, Any], *, alone: bool) -> None:
    for member in _NOT_HERE_PER_VARIANT:
        if variant.get(member):
            raise not_implemented(f"A production variant with {member}")
    if not variant.get("ModelName"):
        raise not_implemented("A production variant without ModelName (inference components)")
    model = models.find(variant["ModelName"])
    serverless, name = variant.get("ServerlessConfig"), variant["VariantName"]
    if serverless is None:
        if not variant.get("InstanceType") or not variant.get("InitialInstanceCount"):
            raise validation_exception(
                f"Production variant {name} needs either ServerlessConfig or InstanceType and InitialInstanceCount."
            )
        return
    if variant.get("InstanceType") or variant.get("InitialInstanceCount"):
        raise validation_exception(
            f"Variant {name}: ServerlessConfig cannot be specified together with InstanceType or InitialInstanceCount."
        )
    if serverless["MemorySizeInMB"] not in _MEMORY_SIZES_MB:
        sizes = ", ".join(map(str, _MEMORY_SIZES_MB))
        raise validation_exception(
            f"MemorySizeInMB {serverless['MemorySizeInMB']} of variant {name} is invalid: it must be one of [{sizes}]."
        )
    if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
        raise validation_exception("ProvisionedConcurrency must be less than or equal to MaxConcurrency.")
    if not alone:
        raise validation_exception("A serverless endpoint can have one production variant only.")
    if model.get("VpcConfig") or model.get("EnableNetworkIsolation"):
        raise validation_exception(
            f"Serverless endpoints do not support VpcConfig or network isolation: model {variant['ModelName']}."
        )
