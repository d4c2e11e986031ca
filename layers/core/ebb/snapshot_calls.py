"""What is missing to sleep, and what is missing to be awake: calls for a state machine. Pure.

Both ways are plans of what differs, asked for again until nothing does: whoever was cut short, or whatever AWS has done
by itself meanwhile, the next one carries on from what is there.

    asleep  no instance and no copy; a classic endpoint is deleted, its scaling deregistered, its alarms silent
    awake   what the snapshot holds: variants, weights, counts, scaling, alarms, tags, capture
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ebb.addresses import Address
from ebb.endpoint_world import BROKEN, Body, World, at_zero, copies, has_capacity
from ebb.errors import SnapshotUnreadableError
from ebb.snapshot import Snapshot, on_type

ALARMS = {"put alarm", "delete alarms"}
ASIDE = {"register target", "put policy", "put scheduled action", *ALARMS}  # not the capacity


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
