"""What is there of an endpoint now, and what that tells: is it at zero, has it its capacity, does it wake by itself."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ebb.addresses import Address, Kind

Body = dict[str, Any]
BROKEN = {"Failed", "OutOfService"}  # of an endpoint: it can only be deleted
# https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-troubleshooting.html and
# https://repost.aws/knowledge-center/sagemaker-insufficient-capacity-error; a quota is no want of capacity, but another
# type has another quota.
NO_CAPACITY = ("insufficientcapacity", "insufficient capacity", "insufficientinstancecapacity",
               "unable to provision requested ml compute capacity", "resourcelimitexceeded",
               "capacityerror")  # fmt: skip
_NO_COPY = "NoCapacityInvocationFailures"
_NAMED = {"EndpointName", "InferenceComponentName"}


class World(BaseModel):
    """What is there of an endpoint now; None where SageMaker says that there is no such thing."""

    model_config = ConfigDict(frozen=True)

    endpoint: Body | None = None  # DescribeEndpoint
    config: Body | None = None  # as CreateEndpointConfig takes it, without tags
    config_made_at: datetime | None = None
    config_tags: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    component: Body | None = None  # DescribeInferenceComponent
    component_body: Body | None = None  # as CreateInferenceComponent takes it
    targets: tuple[Body, ...] = ()  # as RegisterScalableTarget takes them
    policies: tuple[Body, ...] = ()  # as PutScalingPolicy takes them
    policy_arns: dict[str, str] = Field(default_factory=dict)  # by `policy_key`
    scheduled: tuple[Body, ...] = ()  # as PutScheduledAction takes them
    alarms: tuple[Body, ...] = ()  # as PutMetricAlarm takes them

    @property
    def status(self) -> str:
        """Where the endpoint is; that of its component while the component is not at rest."""
        if self.endpoint is None:
            return "Missing"
        found = str(self.endpoint["EndpointStatus"])
        if found == "InService" and self.component is not None:
            return str(self.component["InferenceComponentStatus"])
        return found

    @property
    def failure(self) -> str:
        """Why SageMaker says that something failed, empty when it says nothing."""
        told = [part.get("FailureReason") or "" for part in (self.component, self.endpoint) if part]
        return "; ".join(each for each in told if each)

    @property
    def variants(self) -> list[Body]:
        """The variants as DescribeEndpoint shows them."""
        return list((self.endpoint or {}).get("ProductionVariants") or [])


def copies(world: World) -> int:
    """Return how many copies of its component are wanted."""
    return int(((world.component or {}).get("RuntimeConfig") or {}).get("DesiredCopyCount", 0))


def at_zero(at: Address, world: World) -> bool:
    """Return whether nothing is wanted of it any more: asleep, or on the way there."""
    if world.endpoint is None or world.endpoint["EndpointStatus"] == "Deleting":
        return True
    if at.kind == "classic":
        return False
    if at.component:
        return world.component is not None and copies(world) == 0
    counts = [each.get("DesiredInstanceCount") for each in world.variants]
    return bool(counts) and all(count == 0 for count in counts)


def has_capacity(at: Address, world: World) -> bool:
    """Return whether everything that is wanted is there."""
    if at.component:
        runtime = (world.component or {}).get("RuntimeConfig") or {}
        return 0 < int(runtime.get("DesiredCopyCount", 0)) <= int(runtime.get("CurrentCopyCount", 0))
    pairs = [(each.get("DesiredInstanceCount"), each.get("CurrentInstanceCount", 0)) for each in world.variants]
    return all(wanted is None or current >= wanted for wanted, current in pairs)


def instance_types(world: World) -> tuple[str, ...]:
    """Return the instance types that an endpoint runs on."""
    found = [each.get("InstanceType") for each in (world.config or {}).get("ProductionVariants", [])]
    return tuple(dict.fromkeys(each for each in found if each))


def capture_changed(world: World) -> bool:
    """Return whether data capture runs otherwise than the configuration would start it."""
    summary = (world.endpoint or {}).get("DataCaptureConfig")
    configured = (world.config or {}).get("DataCaptureConfig") or {}
    if summary is None:
        return False
    runs = bool(summary.get("EnableCapture")) and summary.get("CaptureStatus", "Started") == "Started"
    return runs != bool(configured.get("EnableCapture"))


def wakes_by_itself(at: Address, world: World) -> bool:
    """Return whether AWS itself brings back an endpoint without an instance, or a component without a copy.

    A classic endpoint is deleted and always made anew by Ebb.
    """
    metric = wake_metric(at.kind)
    if metric is None:
        return True
    arns = set(world.policy_arns.values())
    return any(each.get("MetricName") == metric and arns & set(each.get("AlarmActions", [])) for each in world.alarms)


def wake_metric(kind: Kind) -> str | None:
    """Return the metric that tells of calls while there is no capacity; None: Ebb alone wakes it.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html,
    https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html
    """
    return {"async": "HasBacklogWithoutCapacity", "realtime": _NO_COPY, "shared": _NO_COPY}.get(kind)


def wants_capacity(text: str) -> bool:
    """Return whether a reason says that there is no machine of the type."""
    low = text.lower()
    return any(each in low for each in NO_CAPACITY)


def policy_key(body: Mapping[str, Any]) -> str:
    """Return what names a scaling policy among those of an endpoint."""
    return f"{body['ResourceId']}#{body['ScalableDimension']}#{body['PolicyName']}"


def alarms_of(bodies: Iterable[Body], names: Sequence[str], policy_arns: Iterable[str]) -> list[Body]:
    """Return the alarms that look at these endpoints or components only, or that act on one of these policies.

    One that looks at others as well is theirs too: it must not fall silent because one of them sleeps.
    Those that a target tracking policy has made come and go with it.
    """
    values, arns = set(names), set(policy_arns)
    found = []
    for body in bodies:
        looked = [*body.get("Dimensions", [])]
        for query in body.get("Metrics", []):
            looked += query.get("MetricStat", {}).get("Metric", {}).get("Dimensions", [])
        acts = {*body.get("AlarmActions", []), *body.get("OKActions", []), *body.get("InsufficientDataActions", [])}
        named = {each["Value"] for each in looked if each["Name"] in _NAMED}
        if ((named and named <= values) or acts & arns) and not body["AlarmName"].startswith("TargetTracking-"):
            found.append(body)
    return found
