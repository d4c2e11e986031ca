"""Look at an endpoint with everything that belongs to it: describe, configuration, component, scaling, alarms, tags.

What is not there is None; what could not be read is an error, never "not there".
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ebb import endpoint_world, ledger, snapshot
from ebb.addresses import Address
from ebb.aws import storage
from ebb.aws.clients import client
from ebb.endpoint_world import World
from ebb.errors import (
    EndpointUnreadableError,
    ObjectDeniedError,
    ObjectMissingError,
    SnapshotUnreadableError,
)
from ebb.snapshot import Snapshot

# SageMaker answers every mistake with ValidationException; only the text tells that there is no such thing. Texts:
# assumed from what it answers, no page lists them.
_GONE = ("could not find", "does not exist", "not found")


def observe(at: Address, *, config_name: str | None = None, whole: bool = True) -> World:
    """Return what is there of an endpoint. `config_name` is looked at in place of the endpoint's own configuration.

    Not `whole` it is only what tells its capacity: while a request waits, each further service costs a connection.
    Raises: EndpointUnreadableError.
    """
    name = str(at.endpoint_name)
    described = _described("describe_endpoint", EndpointName=name)
    config_name = config_name or (described or {}).get("EndpointConfigName")
    config = _described("describe_endpoint_config", EndpointConfigName=config_name) if config_name else None
    component = (
        _described("describe_inference_component", InferenceComponentName=at.component) if at.component else None
    )
    if not whole:
        return World(endpoint=_plain(described), config=_as_config(config), component=_plain(component))
    targets, policies, scheduled = _scaling_of(at, described)
    arns = {endpoint_world.policy_key(each): each["PolicyARN"] for each in policies}
    return World(
        endpoint=_plain(described),
        config=_as_config(config),
        config_made_at=(config or {}).get("CreationTime"),
        config_tags=_tags(config, "EndpointConfigArn") if at.kind == "classic" else {},
        tags=_tags(described, "EndpointArn"),
        component=_plain(component),
        component_body=_component_body(component),
        targets=tuple(_all_as("application-autoscaling", "RegisterScalableTarget", targets, without={"RoleARN"})),
        policies=tuple(_all_as("application-autoscaling", "PutScalingPolicy", policies)),
        policy_arns=arns,
        scheduled=tuple(_all_as("application-autoscaling", "PutScheduledAction", scheduled)),
        alarms=tuple(_alarms_of(at, arns.values())),
    )


def stack_of(world: World) -> str | None:
    """Return the CloudFormation stack that holds an endpoint, None when none does.

    Raises: EndpointUnreadableError.
    """
    try:
        found = client("cloudformation").describe_stack_resources(
            PhysicalResourceId=(world.endpoint or {})["EndpointArn"]
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":  # "Stack for … does not exist"
            return None
        raise EndpointUnreadableError(f"DescribeStackResources: {error.response['Error']['Code']}") from error
    except BotoCoreError as error:
        raise EndpointUnreadableError(f"DescribeStackResources: {type(error).__name__}") from error
    held = found["StackResources"]
    return str(held[0]["StackName"]) if held else None


def models_gone(world: World) -> tuple[str, ...]:
    """Return the models of an endpoint's variants that are deleted: it runs on, and could not be created again.

    Raises: EndpointUnreadableError.
    """
    wanted = {
        str(each["ModelName"]) for each in (world.config or {}).get("ProductionVariants", ()) if "ModelName" in each
    }
    return tuple(name for name in sorted(wanted) if _described("describe_model", ModelName=name) is None)


def keep(bucket: str, key: str, taken: Snapshot) -> str:
    """Write a snapshot, read it back, and return its URI: only what was read again counts as kept.

    Raises: SnapshotUnreadableError, StorageUnavailableError.
    """
    storage.write(bucket, key, taken.text().encode(), content_type="application/json")
    uri = f"s3://{bucket}/{key}"
    recall(uri, taken.digest())
    return uri


def recall(uri: str, sha256: str) -> Snapshot:
    """Return a snapshot from S3.

    Raises: SnapshotUnreadableError when it is gone, denied or not what was written; StorageUnavailableError.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not key:
        raise SnapshotUnreadableError("no snapshot of it was kept")
    try:
        return snapshot.read(storage.read(bucket, key), sha256)
    except (ObjectMissingError, ObjectDeniedError) as error:
        raise SnapshotUnreadableError(f"{uri}: {type(error).__name__}") from error


def kept_of(at: Address) -> Snapshot:
    """Return the snapshot of an address: from its copy in the ledger, which costs no further read, else from S3.

    Raises: SnapshotUnreadableError when neither is readable; StorageUnavailableError.
    """
    held = at.snapshot or {}
    try:
        return snapshot.read_copy(held)
    except SnapshotUnreadableError:
        return recall(str(held.get("uri", "")), str(held.get("sha256", "")))


def _described(action: str, **request: Any) -> dict[str, Any] | None:
    try:
        found = dict(getattr(client("sagemaker"), action)(**request))
    except ClientError as error:
        text = error.response["Error"]["Message"].lower()
        code = error.response["Error"]["Code"]
        if code in {"ValidationException", "ResourceNotFound"} and any(each in text for each in _GONE):
            return None
        raise EndpointUnreadableError(f"{action}: {code}: {error.response['Error']['Message']}") from error
    except BotoCoreError as error:
        raise EndpointUnreadableError(f"{action}: {type(error).__name__}") from error
    return {name: value for name, value in found.items() if name != "ResponseMetadata"}


def _pages(service: str, action: str, member: str, **request: Any) -> Iterator[dict[str, Any]]:
    try:
        for page in client(service).get_paginator(action).paginate(**request):
            yield from page[member]
    except ClientError as error:
        raise EndpointUnreadableError(f"{action}: {error.response['Error']['Code']}") from error
    except BotoCoreError as error:
        raise EndpointUnreadableError(f"{action}: {type(error).__name__}") from error


def _tags(described: Mapping[str, Any] | None, arn: str) -> dict[str, str]:
    if described is None:
        return {}
    return {each["Key"]: each["Value"] for each in _pages("sagemaker", "list_tags", "Tags", ResourceArn=described[arn])}


def _scaling_of(at: Address, described: Mapping[str, Any] | None) -> tuple[list[dict], list[dict], list[dict]]:
    if at.component:
        resources = [f"inference-component/{at.component}"]
    else:  # while it is deleted, nothing tells its variants; those of its scaling go with it
        names = [each["VariantName"] for each in (described or {}).get("ProductionVariants", [])] or [at.variant]
        resources = [f"endpoint/{at.endpoint_name}/variant/{each}" for each in names]
    asked = {"ServiceNamespace": "sagemaker"}
    service = "application-autoscaling"
    targets = list(_pages(service, "describe_scalable_targets", "ScalableTargets", **asked, ResourceIds=resources))
    policies, scheduled = [], []
    for each in resources if targets else []:
        policies += list(_pages(service, "describe_scaling_policies", "ScalingPolicies", **asked, ResourceId=each))
        if at.kind == "classic":
            actions = _pages(service, "describe_scheduled_actions", "ScheduledActions", **asked, ResourceId=each)
            scheduled += list(actions)
    return targets, policies, scheduled


def _alarms_of(at: Address, policy_arns: Iterable[str]) -> list[dict[str, Any]]:
    """Return the alarms of an endpoint. Those of Ebb's own are found by name; others may have any."""
    if at.origin == "ebb":
        found = _pages("cloudwatch", "describe_alarms", "MetricAlarms", AlarmNamePrefix=f"{at.address}-")
        mine = [each for each in found if each["AlarmName"].rpartition("-")[0] == at.address]
        return list(_all_as("cloudwatch", "PutMetricAlarm", mine))
    found = _pages("cloudwatch", "describe_alarms", "MetricAlarms", AlarmTypes=["MetricAlarm"])
    names = [name for name in (at.endpoint_name if not at.component else None, at.component) if name]
    return endpoint_world.alarms_of(_all_as("cloudwatch", "PutMetricAlarm", found), names, policy_arns)


def _as_config(described: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return _as("sagemaker", "CreateEndpointConfig", described)


def _component_body(described: Mapping[str, Any] | None) -> dict[str, Any] | None:
    body = _as("sagemaker", "CreateInferenceComponent", described)
    if body is None or described is None:
        return None
    body.pop("RuntimeConfig", None)  # how many copies run is told apart
    image = body.get("Specification", {}).get("Container", {}).pop("DeployedImage", None)
    if image:
        body["Specification"]["Container"]["Image"] = image["SpecifiedImage"]
    return body


def _all_as(
    service: str, action: str, found: Iterable[Mapping[str, Any]], without: Container[str] = ()
) -> Iterator[dict[str, Any]]:
    for each in found:
        body = _as(service, action, each)
        if body is not None:
            yield {name: value for name, value in body.items() if name not in without}


def _as(service: str, action: str, described: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what was described as the request that would make it: the members that both have.

    Members that this version of botocore does not know are lost in both; a configuration that still stands is therefore
    used as it is, and its body only where it is gone.
    """
    if described is None:
        return None
    members = client(service).meta.service_model.operation_model(action).input_shape.members
    found = {name: value for name, value in described.items() if name in members and value not in (None, [], {}, "")}
    return _plain(found)


def _plain(value: Any) -> Any:
    """Return what boto3 gives as JSON holds it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return ledger.iso(value) if isinstance(value, datetime) else value
