"""Scalable targets and their tags.

Source: https://docs.aws.amazon.com/autoscaling/application/APIReference/API_RegisterScalableTarget.html
"""

from ebb_local.scaling import capacity, policies, scheduled, state
from ebb_local.scaling.state import Record, ServiceError

_KEY = ("ServiceNamespace", "ResourceId", "ScalableDimension")
_FREE = {"DynamicScalingInSuspended": False, "DynamicScalingOutSuspended": False, "ScheduledScalingSuspended": False}


def register(request: Record) -> Record:
    """RegisterScalableTarget: a repeat changes only what it names."""
    capacity.require(request)
    capacity.require_role()
    known = state.targets.get(state.key(request)) or {}
    low, high = (request.get(name, known.get(name)) for name in ("MinCapacity", "MaxCapacity"))
    if low is None or high is None:
        raise ServiceError("ValidationException", "MinCapacity and MaxCapacity are required to register a target")
    if low < 0 or high < 0 or low > high:
        raise ServiceError("ValidationException", "MaxCapacity must be greater than or equal to MinCapacity")
    arn = state.target_arn(request["ResourceId"], request["ScalableDimension"])
    suspended = {**_FREE, **known.get("SuspendedState", {}), **(request.get("SuspendedState") or {})}
    state.targets[state.key(request)] = {
        **{name: request[name] for name in _KEY},
        "MinCapacity": low,
        "MaxCapacity": high,
        "RoleARN": capacity.role_arn(),
        "CreationTime": known.get("CreationTime", state.now()),
        "SuspendedState": suspended,
        "ScalableTargetARN": arn,
    }
    if not known and request.get("Tags"):
        state.tags[arn] = dict(request["Tags"])
    return {"ScalableTargetARN": arn}


def deregister(request: Record) -> Record:
    """DeregisterScalableTarget, with its policies, their alarms and its scheduled actions."""
    found = state.target(request)
    policies.forget(request)
    scheduled.forget(request)
    state.targets.pop(state.key(request), None)
    state.tags.pop(found["ScalableTargetARN"], None)
    return {}


def describe(request: Record) -> Record:
    """DescribeScalableTargets."""
    wanted = request.get("ResourceIds")
    found = [
        target
        for target in state.targets.values()
        if target["ServiceNamespace"] == request["ServiceNamespace"]
        and (not wanted or target["ResourceId"] in wanted)
        and request.get("ScalableDimension") in (None, target["ScalableDimension"])
    ]
    return state.page(found, request, "ScalableTargets")


def tag(request: Record) -> Record:
    """TagResource."""
    tags = state.tags.setdefault(_known(request), {})
    if len({**tags, **request["Tags"]}) > 50:
        raise ServiceError("TooManyTagsException", "A target can have 50 tags at most")
    tags.update(request["Tags"])
    return {}


def untag(request: Record) -> Record:
    """UntagResource."""
    tags = state.tags.get(_known(request), {})
    for name in request["TagKeys"]:
        tags.pop(name, None)
    return {}


def list_tags(request: Record) -> Record:
    """ListTagsForResource."""
    return {"Tags": dict(state.tags.get(_known(request), {}))}


def _known(request: Record) -> str:
    arn = str(request["ResourceARN"])
    if arn not in {target["ScalableTargetARN"] for target in state.targets.values()}:
        raise ServiceError("ResourceNotFoundException", f"The resource {arn} does not exist")
    return arn
