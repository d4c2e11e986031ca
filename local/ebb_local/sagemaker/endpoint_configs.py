"""Endpoint configurations, and what AWS refuses in them beyond the service model.

Serverless exclusions: https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html (wording assumed).
Components: https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html.
"""

from typing import Any

from ebb_local.sagemaker import events, keys, listing, models, roles, state, tags
from ebb_local.sagemaker.errors import not_implemented, validation_exception

_MEMORY_SIZES_MB = (1024, 2048, 3072, 4096, 5120, 6144)
_NOT_HERE = ("ShadowProductionVariants", "ExplainerConfig", "VpcConfig", "MetricsConfig", "EnableNetworkIsolation")
_NOT_HERE_PER_VARIANT = ("InstancePools", "CoreDumpConfig", "CapacityReservationConfig", "AcceleratorType")
_ROUTING_HERE = ("RANDOM", "LEAST_OUTSTANDING_REQUESTS")
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
        _require_valid(variant)
    _require_one_kind(request)
    if request.get("ExecutionRoleArn"):
        roles.require_role(request["ExecutionRoleArn"])
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


def hosts_components(config: state.Record) -> bool:
    """Return whether the configuration's endpoint offers its instances to inference components."""
    return not config["ProductionVariants"][0].get("ModelName")


def _require_one_kind(request: dict[str, Any]) -> None:
    variants = request["ProductionVariants"]
    names = [variant["VariantName"] for variant in variants]
    if len(set(names)) != len(names):
        raise validation_exception("Production variant names must be unique in an endpoint configuration.")
    if len(variants) > 1 and any(variant.get("ServerlessConfig") for variant in variants):
        raise validation_exception("A serverless endpoint can have one production variant only.")
    with_model = {bool(variant.get("ModelName")) for variant in variants}
    if len(with_model) > 1:
        raise validation_exception("Either every production variant has a ModelName, or none has one.")
    serverless, components = is_serverless(request), hosts_components(request)
    if request.get("AsyncInferenceConfig") and (serverless or components):
        what = "serverless endpoints" if serverless else "endpoints with inference components"
        raise validation_exception(f"AsyncInferenceConfig is not supported for {what}.")
    asynchronous = request.get("AsyncInferenceConfig")
    if asynchronous and not asynchronous["OutputConfig"].get("S3OutputPath"):
        raise not_implemented("AsyncInferenceConfig without S3OutputPath (a bucket that SageMaker makes)")
    if request.get("DataCaptureConfig") and serverless:
        raise validation_exception("DataCaptureConfig is not supported for serverless endpoints.")
    if components and not request.get("ExecutionRoleArn"):
        raise validation_exception("ExecutionRoleArn is required when a production variant has no ModelName.")


def _require_valid(variant: dict[str, Any]) -> None:
    for member in _NOT_HERE_PER_VARIANT:
        if variant.get(member):
            raise not_implemented(f"A production variant with {member}")
    routing = (variant.get("RoutingConfig") or {}).get("RoutingStrategy", "RANDOM")
    if routing not in _ROUTING_HERE:
        raise not_implemented(f"RoutingStrategy {routing}")
    if variant.get("ServerlessConfig") is None:
        _require_instances(variant)
    else:
        _require_serverless(variant)


def _require_instances(variant: dict[str, Any]) -> None:
    name, scaling = variant["VariantName"], variant.get("ManagedInstanceScaling") or {}
    if variant.get("ModelName"):
        models.find(variant["ModelName"])
        if scaling:
            raise validation_exception(
                f"Variant {name}: ManagedInstanceScaling is for endpoints with inference components only."
            )
    if not variant.get("InstanceType") or not variant.get("InitialInstanceCount"):
        raise validation_exception(
            f"Production variant {name} needs either ServerlessConfig or InstanceType and InitialInstanceCount."
        )
    low, high = scaling.get("MinInstanceCount", 0), scaling.get("MaxInstanceCount")
    if high is not None and not low <= variant["InitialInstanceCount"] <= high:
        raise validation_exception(
            f"Variant {name}: InitialInstanceCount must be between MinInstanceCount and MaxInstanceCount."
        )


def _require_serverless(variant: dict[str, Any]) -> None:
    serverless, name = variant["ServerlessConfig"], variant["VariantName"]
    if variant.get("InstanceType") or variant.get("InitialInstanceCount") or variant.get("ManagedInstanceScaling"):
        raise validation_exception(
            f"Variant {name}: ServerlessConfig cannot be specified together with InstanceType or InitialInstanceCount."
        )
    if not variant.get("ModelName"):
        raise validation_exception(f"Serverless variant {name} needs a ModelName.")
    require_serverless_config(name, serverless)
    model = models.find(variant["ModelName"])
    if model.get("VpcConfig") or model.get("EnableNetworkIsolation"):
        raise validation_exception(
            f"Serverless endpoints do not support VpcConfig or network isolation: model {variant['ModelName']}."
        )


def require_serverless_config(name: str, serverless: dict[str, Any]) -> None:
    """Raise unless memory and concurrency of a serverless variant are ones that AWS offers."""
    if serverless["MemorySizeInMB"] not in _MEMORY_SIZES_MB:
        sizes = ", ".join(map(str, _MEMORY_SIZES_MB))
        raise validation_exception(
            f"MemorySizeInMB {serverless['MemorySizeInMB']} of variant {name} is invalid: it must be one of [{sizes}]."
        )
    if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
        raise validation_exception("ProvisionedConcurrency must be less than or equal to MaxConcurrency.")
