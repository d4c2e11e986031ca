"""Snapshots: everything that waking must put back, and how it is kept. Pure.

What an endpoint consists of is a `World`: what Describe says, with each part in the form of the request that would make
it. A `Snapshot` is a world worth keeping. What is missing to it is said by `ebb.snapshot_calls`.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ebb import keep_alive_habits
from ebb.addresses import SLEEPABLE, Address, Kind
from ebb.config_names import config_on
from ebb.endpoint_world import Body, World, at_zero, copies
from ebb.errors import SnapshotUnreadableError
from ebb.requests import alarms

VERSION = 1
# What an item may hold of it: DynamoDB allows 400 KB, and every read of the address is billed by size.
LONGEST_COPY = 60_000


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
