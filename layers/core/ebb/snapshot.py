"""Snapshots: everything that waking must put back, how it is kept, and what is missing to it. Pure.

What an endpoint consists of is a `World`: what Describe says, with each part in the form of the request that would make
it. A `Snapshot` is a world worth keeping. Both ways are plans of what differs, asked for again until nothing does:
whoever was cut short, or whatever AWS has done by itself meanwhile, the next one carries on from what is there.

    asleep  no instance and no copy; a classic endpoint is deleted, its scaling deregistered, its alarms silent
    awake   what the snapshot holds: variants, weights, counts, scaling, alarms, tags, capture
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ebb import keep_alive_habits
from ebb.addresses import SLEEPABLE, Address, Kind
from ebb.errors import SnapshotUnreadableError
from ebb.requests import alarms

VERSION = 1
Body = dict[str, Any]
ALARMS = {"put alarm", "delete alarms"}
ASIDE = {"register target", "put policy", "put scheduled action", *ALARMS}  # not the capacity
BROKEN = {"Failed", "OutOfService"}  # of an endpoint: it can only be deleted
# What an item may hold of it: DynamoDB allows 400 KB, and every read of the address is billed by size.
LONGEST_COPY = 60_000
CONFIG_CHARS = 63
# https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-troubleshooting.html and
# https://repost.aws/knowledge-center/sagemaker-insufficient-capacity-error; a quota is no want of capacity, but another
# type has another quota.
NO_CAPACITY = ("insufficientcapacity", "insufficient capacity", "insufficientinstancecapacity",
               "unable to provision requested ml compute capacity", "resourcelimitexceeded",
               "capacityerror")  # fmt: skip


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


class Snapshot(BaseModel):
    """What is kept of an endpoint before it sleeps."""

    model_config = ConfigDict(frozen=True)

    version: int = VERSION
    address: str
    kind: Kind
    taken_at: datetime
    endpoint_name: str
    config_name: str
    config: Body
    config_tags: dict[str, str] = Field(default_factory=dict)
    deployment: Body | None = None  # the DeploymentConfig of its last deployment
    tags: dict[str, str] = Field(default_factory=dict)
    variants: tuple[Body, ...] = ()  # {"VariantName", "DesiredWeight", "DesiredInstanceCount"}
    images: dict[str, str] = Field(default_factory=dict)  # by variant: which bytes its image was
    component: str | None = None
    component_body: Body | None = None
    copies: int = 0
    targets: tuple[Body, ...] = ()
    policies: tuple[Body, ...] = ()
    policy_arns: dict[str, str] = Field(default_factory=dict)
    scheduled: tuple[Body, ...] = ()
    alarms: tuple[Body, ...] = ()

    def text(self) -> str:
        """Return it as it is kept: the same text for the same content."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """Return the SHA-256 of what is kept."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def key(address: str, generation: int) -> str:
    """Return where a snapshot lies in the artifact bucket."""
    return f"endpoints/{address}/{generation}.json"


def kept(taken: Snapshot, uri: str) -> Body:
    """Return what the address item holds of a snapshot: where it lies, its digest, and itself in small."""
    copy = base64.b64encode(zlib.compress(taken.text().encode(), 9)).decode()
    found: Body = {"uri": uri, "sha256": taken.digest()}
    return found | ({"copy": copy} if len(copy) <= LONGEST_COPY else {})


def read(text: str | bytes, sha256: str) -> Snapshot:
    """Return a snapshot from what was kept of it.

    Raises: SnapshotUnreadableError when it is not what was written.
    """
    try:
        found = Snapshot.model_validate(json.loads(text))
    except ValueError as error:
        raise SnapshotUnreadableError("the snapshot is no snapshot") from error
    if found.digest() != sha256:
        raise SnapshotUnreadableError(f"the snapshot's digest is {found.digest()[:12]}…, not {sha256[:12]}…")
    return found


def read_copy(held: Mapping[str, Any]) -> Snapshot:
    """Return a snapshot from its copy in the address item.

    Raises: SnapshotUnreadableError when there is none, or it is not what was written.
    """
    try:
        text = zlib.decompress(base64.b64decode(held["copy"]))
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise SnapshotUnreadableError("the address holds no readable copy of the snapshot") from error
    return read(text, str(held.get("sha256", "")))


def take(at: Address, world: World, now: datetime) -> Snapshot:
    """Return what is to be kept of an endpoint.

    Raises: SnapshotUnreadableError when a part is not there without which it could not be put back.
    """
    if world.endpoint is None or (world.config is None and at.kind == "classic"):
        missing = "endpoint" if world.endpoint is None else "configuration"
        raise SnapshotUnreadableError(f"its {missing} is not there: it could not be put back")
    if at.component and world.component is None:
        raise SnapshotUnreadableError(f"there is no inference component {at.component}")
    variants = tuple(_wanted(each, at, world) for each in world.variants)
    return Snapshot(
        address=at.address,
        kind=at.kind,
        taken_at=now,
        endpoint_name=world.endpoint["EndpointName"],
        config_name=world.endpoint["EndpointConfigName"],
        config=world.config or {},
        config_tags=world.config_tags,
        deployment=world.endpoint.get("LastDeploymentConfig"),
        tags=world.tags,
        variants=variants,
        images=_images(world),
        component=at.component,
        component_body=world.component_body,
        copies=max(_awake_count(at, world, copies(world)), 1) if at.component else 0,
        targets=world.targets,
        policies=world.policies,
        policy_arns=world.policy_arns,
        scheduled=world.scheduled,
        alarms=_awake_alarms(at, world),
    )


def _awake_alarms(at: Address, world: World) -> tuple[Body, ...]:
    """Return the alarms that it has while it is awake; of Ebb's own never the one that wakes, always the idle one."""
    if at.origin != "ebb" or at.kind not in SLEEPABLE:
        return world.alarms
    wake_alarm, idle_alarm = (alarms.alarm_name(at.address, what) for what in (alarms.WAKE, alarms.IDLE))
    found = tuple(each for each in world.alarms if each["AlarmName"] != wake_alarm)
    if not at.policy.sleeps or any(each["AlarmName"] == idle_alarm for each in found):
        return found
    after_s = at.policy.idle_after_s
    window = keep_alive_habits.SHORTEST if after_s is None else timedelta(seconds=after_s)
    body = alarms.idle(at, window=window, tags=())
    return (*found, {name: value for name, value in body.items() if value != []})


def _wanted(variant: Mapping[str, Any], at: Address, world: World) -> Body:
    """Return what a variant is to have again."""
    found = {"VariantName": variant["VariantName"], "DesiredWeight": variant.get("DesiredWeight", 1.0)}
    if "DesiredInstanceCount" not in variant or at.component:  # of a component's host, SageMaker counts the instances
        return found
    return found | {"DesiredInstanceCount": _awake_count(at, world, int(variant["DesiredInstanceCount"]))}


def _awake_count(at: Address, world: World, wanted: int) -> int:
    """Return how many copies or instances are to be there again of so many that are wanted now.

    At zero already as many as the address says; of Ebb's own always, unless its users have given it a policy or a
    schedule that scales it: nothing scales in what else was added, by hand or by an alarm.
    """
    wake_policy = alarms.alarm_name(at.address, alarms.WAKE)
    scaled = bool(world.scheduled) or any(each["PolicyName"] != wake_policy for each in world.policies)
    if at_zero(at, world):
        return wanted or at.copies
    return at.copies if wanted and at.origin == "ebb" and not scaled else wanted


def _images(world: World) -> dict[str, str]:
    pairs = ((each["VariantName"], each.get("DeployedImages") or [{}]) for each in world.variants)
    return {name: shown[0]["ResolvedImage"] for name, shown in pairs if shown[0].get("ResolvedImage")}


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


_NO_COPY = "NoCapacityInvocationFailures"


def wants_capacity(text: str) -> bool:
    """Return whether a reason says that there is no machine of the type."""
    low = text.lower()
    return any(each in low for each in NO_CAPACITY)


# ---- What is missing to sleep, and what is missing to be awake: calls for a state machine ----


def call(do: str, given: Body) -> Body:
    """Return one call as the state machines send it: `do` names the state that does."""
    return {"do": do, "with": given}


def to_sleep(at: Address, taken: Snapshot, world: World, *, idle: str, wake_alarm: Body | None) -> list[Body]:
    """Return what is left to do until the endpoint sleeps, in the order in which it is done.

    Of Ebb's own, the alarm that wakes stands before the capacity goes, and the one that told of idleness goes after it.
    """
    if at.kind == "classic":
        return _delete(taken, world)
    there = {each["AlarmName"] for each in world.alarms}
    found = []
    if wake_alarm and wake_alarm["AlarmName"] not in there:
        found.append(call("put alarm", _spelled(wake_alarm)))
    if not at_zero(at, world):
        found += [call("register target", each | {"MinCapacity": 0}) for each in world.targets if each["MinCapacity"]]
        found.append(_scale(at, world, 0, taken))
    elif idle in there:
        found.append(call("delete alarms", {"AlarmNames": [idle]}))
    return found


def _delete(taken: Snapshot, world: World) -> list[Body]:
    """The endpoint goes last: what is cut short before leaves it serving, and what is missing is put back."""
    ringing = [each["AlarmName"] for each in world.alarms if each.get("ActionsEnabled", True)]
    found = [call("silence alarms", {"AlarmNames": ringing})] if ringing else []
    found += [call("deregister target", _target(each)) for each in world.targets]
    if world.endpoint is not None and world.endpoint["EndpointStatus"] != "Deleting":
        found.append(call("delete endpoint", {"EndpointName": taken.endpoint_name}))
    return found


def to_wake(
    at: Address,
    goal: Snapshot,
    world: World,
    *,
    wake_alarm: str,
    tags: Sequence[Body] = (),
    instance_type: str | None = None,
    anew: bool = False,
) -> list[Body]:
    """Return what is left to do until the endpoint is as it was, in the order in which it is done.

    Only what is at rest can be changed: the caller waits while SageMaker is changing something itself. What needs
    another part first comes up again once that is there. `instance_type` is another one than the snapshot's, after
    that one was refused; `anew` asks for capacity once more, although it is noted as wanted; `tags` are those of an
    alarm or a configuration of Ebb's own that is made anew: by its tags it is found again when all is destroyed.
    Raises: SnapshotUnreadableError when a part is gone that only a deployment can make again.
    """
    wanted = on_type(goal, instance_type) if instance_type else goal
    if world.endpoint is None:
        if at.kind != "classic":
            raise SnapshotUnreadableError(f"there is no endpoint {goal.endpoint_name} any more: deploy the model again")
        return _create(wanted, world)
    if at.component and world.component is None:
        raise SnapshotUnreadableError(
            f"there is no inference component {at.component} any more: deploy the model again"
        )
    if at.kind == "classic" and world.status in BROKEN:
        return [call("delete endpoint", {"EndpointName": goal.endpoint_name})]
    if instance_type and world.endpoint["EndpointConfigName"] != wanted.config_name:
        return _update(wanted, world, tags)
    if anew or lacks_capacity(at, goal, world):
        return [_scale(at, world, max(goal.copies, copies(world)) if at.component else None, goal)]
    if not has_capacity(at, world):
        return []
    return aside(at, wanted, world, wake_alarm=wake_alarm, tags=tags)


def aside(at: Address, goal: Snapshot, world: World, *, wake_alarm: str, tags: Sequence[Body] = ()) -> list[Body]:
    """Return what is left to do beside the capacity: scaling, then alarms, which act on its policies."""
    return _scaling(goal, world) or _alarms(at, goal, world, wake_alarm, tags)


def lacks_capacity(at: Address, goal: Snapshot, world: World) -> bool:
    """Return whether less or otherwise distributed capacity is asked for than the snapshot holds.

    More is no lack: whoever has scaled it out meanwhile had a reason to.
    """
    if at.component:
        return copies(world) < goal.copies
    return any(each != seen for each, seen in zip(_at_least(goal, world), _seen(goal, world), strict=True))


def _seen(goal: Snapshot, world: World) -> list[Body]:
    """Return what the snapshot says of each variant as it is now."""
    now = {each["VariantName"]: each for each in world.variants}
    return [{name: now.get(each["VariantName"], {}).get(name) for name in each} for each in goal.variants]


def _at_least(goal: Snapshot, world: World) -> list[Body]:
    """Return what the snapshot says of each variant, with more instances where there are more."""
    name = "DesiredInstanceCount"
    pairs = zip(goal.variants, _seen(goal, world), strict=True)
    return [each | ({name: max(each[name], seen[name] or 0)} if name in each else {}) for each, seen in pairs]


def _create(goal: Snapshot, world: World) -> list[Body]:
    found = [_create_config(goal)] if world.config is None else []
    body: Body = {"EndpointName": goal.endpoint_name, "EndpointConfigName": goal.config_name, "Tags": _tags(goal.tags)}
    if goal.deployment:
        body["DeploymentConfig"] = goal.deployment
    return [*found, call("create endpoint", {name: value for name, value in body.items() if value})]


def _create_config(goal: Snapshot, tags: Sequence[Body] = ()) -> Body:
    tagged = {"Tags": found} if (found := _tags(goal.config_tags) or list(tags)) else {}
    return call("create config", goal.config | {"EndpointConfigName": goal.config_name} | tagged)


def _update(goal: Snapshot, world: World, tags: Sequence[Body]) -> list[Body]:
    found = [_create_config(goal, tags)] if world.config is None else []
    return [
        *found,
        call("update endpoint", {"EndpointName": goal.endpoint_name, "EndpointConfigName": goal.config_name}),
    ]


def _scale(at: Address, world: World, count: int | None, goal: Snapshot) -> Body:
    """Return the call that sets the capacity: `count`, or what the snapshot holds."""
    if at.component:
        runtime = {"CopyCount": count}
        return call("set copies", {"InferenceComponentName": at.component, "DesiredRuntimeConfig": runtime})
    wanted = _at_least(goal, world) if count is None else [_zero(each) for each in world.variants]
    given = {"EndpointName": goal.endpoint_name, "DesiredWeightsAndCapacities": wanted}
    return call("set capacity", given)


def _zero(variant: Mapping[str, Any]) -> Body:
    return {"VariantName": variant["VariantName"], "DesiredInstanceCount": 0}


def _scaling(goal: Snapshot, world: World) -> list[Body]:
    found = [call("register target", each) for each in goal.targets if each not in world.targets]
    found += [call("put policy", each) for each in goal.policies if each not in world.policies]
    return found + [call("put scheduled action", each) for each in goal.scheduled if each not in world.scheduled]


def _alarms(at: Address, goal: Snapshot, world: World, wake_alarm: str, tags: Sequence[Body]) -> list[Body]:
    """Return the alarms that differ; a policy that was made anew has another ARN, which they name.

    Tags are taken only with one that is made anew:
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
    """
    moved = {old: world.policy_arns[name] for name, old in goal.policy_arns.items() if name in world.policy_arns}
    wanted = [_renamed(each, moved) for each in goal.alarms]
    there = {each["AlarmName"] for each in world.alarms}
    more: Body = {"Tags": list(tags)} if tags else {}
    found = [
        call("put alarm", _spelled(each | ({} if each["AlarmName"] in there else more)))
        for each in wanted
        if each not in world.alarms
    ]
    if at.origin == "ebb" and any(each["AlarmName"] == wake_alarm for each in world.alarms):
        found.append(call("delete alarms", {"AlarmNames": [wake_alarm]}))
    return found


def on_type(goal: Snapshot, instance_type: str) -> Snapshot:
    """Return a snapshot on machines of another type, with a configuration of its own."""
    variants = goal.config.get("ProductionVariants", [])
    if all(each.get("InstanceType") in (None, instance_type) for each in variants):
        return goal
    config = goal.config | {
        "ProductionVariants": [
            each | ({"InstanceType": instance_type} if "InstanceType" in each else {}) for each in variants
        ]
    }
    name = config_on(goal.config_name, instance_type, {str(each.get("InstanceType")) for each in variants})
    return goal.model_copy(update={"config": config, "config_name": name})


def config_on(name: str, instance_type: str, types: Iterable[str]) -> str:
    """Return what a configuration is called on another type; `types` are those that its name may end in already.

    A name has at most 63 characters: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html
    Cut, two that begin alike stay two.
    """
    first, ending = _first_config(name, types), _on(instance_type)
    if len(first + ending) > CONFIG_CHARS:
        digest = "-" + hashlib.sha256(first.encode()).hexdigest()[:6]
        first = first[: CONFIG_CHARS - len(digest + ending)] + digest
    return first + ending


def configs_of(name: str, types: Sequence[str]) -> list[str]:
    """Return every name that an endpoint's configuration may have had: its first one, and that on each other type."""
    first = _first_config(name, types)
    return list(dict.fromkeys([name, first, *(config_on(first, each, types) for each in types)]))


def _first_config(name: str, types: Iterable[str]) -> str:
    ending = next((_on(each) for each in types if name.endswith(_on(each))), "")
    return name.removesuffix(ending)


def _on(instance_type: str) -> str:
    """Return how the name of a configuration ends; "-a" as Ebb's own configurations are named."""
    return "-a-" + instance_type.removeprefix("ml.").replace(".", "-")


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


_NAMED = {"EndpointName", "InferenceComponentName"}


def _target(body: Mapping[str, Any]) -> Body:
    return {name: body[name] for name in ("ServiceNamespace", "ResourceId", "ScalableDimension")}


def _renamed(alarm: Body, moved: Mapping[str, str]) -> Body:
    kinds = ("AlarmActions", "OKActions", "InsufficientDataActions")
    return alarm | {kind: [moved.get(each, each) for each in alarm[kind]] for kind in kinds if kind in alarm}


def _spelled(alarm: Body) -> Body:
    """Return an alarm as Step Functions spells it: after the SDK for Java, which writes Ok and not OK.

    Source: https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html
    """
    return {("OkActions" if name == "OKActions" else name): value for name, value in alarm.items()}


def _tags(pairs: Mapping[str, str]) -> list[Body]:
    return [{"Key": name, "Value": value} for name, value in sorted(pairs.items())]
