"""Scheduled actions: at a moment, or again and again, the bounds of a target become others, and its capacity with them.

Source: https://docs.aws.amazon.com/autoscaling/application/userguide/scheduled-scaling-using-cron-expressions.html
"""

import re
import uuid

from ministack.core.responses import get_account_id, get_region, request_scope

from ebb_local import clock
from ebb_local.gaps import schedules
from ebb_local.sagemaker.errors import ServiceError as SageMakerError
from ebb_local.scaling import capacity, policies, state
from ebb_local.scaling.state import Record, ServiceError

_KEY = ("ServiceNamespace", "ResourceId", "ScalableDimension")
_SCHEDULE = re.compile(r"(at|rate|cron)\(.+\)")
_NEVER = float("inf")


def install() -> None:
    """Let the clock call what is due."""
    clock.when("scheduled scaling", _next_due, _fire_due)


def put(request: Record) -> Record:
    """PutScheduledAction: a repeat changes only what it names."""
    state.target(request)
    known = state.scheduled_actions.get(state.key(request, "ScheduledActionName")) or {}
    members = ("Schedule", "Timezone", "StartTime", "EndTime", "ScalableTargetAction")
    given = {name: request.get(name, known.get(name)) for name in members}
    if not given["Schedule"] or not _SCHEDULE.fullmatch(given["Schedule"]):
        raise ServiceError("ValidationException", "Schedule must be at(...), rate(...) or cron(...)")
    if not given["ScalableTargetAction"]:
        raise ServiceError("ValidationException", "ScalableTargetAction is required")
    arn = known.get("ScheduledActionARN") or (
        f"arn:aws:autoscaling:{get_region()}:{get_account_id()}:scheduledAction:{uuid.uuid4()}:resource/"
        f"{request['ServiceNamespace']}/{request['ResourceId']}:scheduledActionName/{request['ScheduledActionName']}"
    )
    moment = state.now()
    state.scheduled_actions[state.key(request, "ScheduledActionName")] = {
        **{name: request[name] for name in _KEY},
        "ScheduledActionName": request["ScheduledActionName"],
        "ScheduledActionARN": arn,
        **given,
        "CreationTime": known.get("CreationTime", moment),
        "_changed": moment,
    }
    return {}


def describe(request: Record) -> Record:
    """DescribeScheduledActions."""
    names = request.get("ScheduledActionNames")
    found = [
        action
        for action in state.scheduled_actions.values()
        if policies.matches(action, request)
        and (not names or {action["ScheduledActionName"], action["ScheduledActionARN"]} & set(names))
    ]
    return state.page(found, request, "ScheduledActions")


def delete(request: Record) -> Record:
    """DeleteScheduledAction."""
    if state.scheduled_actions.pop(state.key(request, "ScheduledActionName"), None) is None:
        raise ServiceError("ObjectNotFoundException", f"No scheduled action found for {state.named(request)}")
    return {}


def forget(request: Record) -> None:
    """Delete every scheduled action of a target."""
    for action in [each for each in state.scheduled_actions.values() if policies.matches(each, request)]:
        delete({**request, "ScheduledActionName": action["ScheduledActionName"]})


def _next_due() -> float:
    return min((_due(action) for action in list(state.scheduled_actions._data.values())), default=_NEVER)


def _due(action: Record) -> float:
    occurrence = schedules.occurrence_after(_as_schedule(action), action.get("_fired", 0.0))
    end = action.get("EndTime")
    return _NEVER if end is not None and occurrence > float(end) else occurrence


def _as_schedule(action: Record) -> Record:
    return {
        "ScheduleExpression": action["Schedule"],
        "ScheduleExpressionTimezone": action.get("Timezone"),
        "StartDate": action.get("StartTime"),
        "LastModificationDate": action["_changed"],
    }


def _fire_due() -> None:
    moment = clock.now()
    for (account, region, _), action in list(state.scheduled_actions._data.items()):
        if (due := _due(action)) > moment:
            continue
        action["_fired"] = due
        with request_scope(account, region):
            _fire(action)


def _fire(action: Record) -> None:
    target = state.targets.get(state.key(action))
    if target is None or target["SuspendedState"]["ScheduledScalingSuspended"]:
        return
    bounds = action["ScalableTargetAction"]
    target.update({name: bounds[name] for name in ("MinCapacity", "MaxCapacity") if bounds.get(name) is not None})
    state.changed()
    try:
        now_has = capacity.current(target)
    except (SageMakerError, ServiceError):
        return
    wanted = min(max(now_has, target["MinCapacity"]), target["MaxCapacity"])
    if wanted != now_has:
        cause = f"scheduled action name {action['ScheduledActionName']} was triggered"
        policies.scale(target, now_has, wanted, cause)
