"""Scaling policies: step scaling and target tracking, with the alarms that target tracking manages itself.

Sources: https://docs.aws.amazon.com/autoscaling/application/userguide/step-scaling-policy-overview.html,
.../target-tracking-scaling-policy-overview.html, .../application-auto-scaling-target-tracking.html (the alarms:
three minutes above the target, fifteen below 90 % of it). An activity is successful once SageMaker has accepted it
(AWS: once it is done).
"""

import itertools
import math
import uuid
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudwatch

from ebb_local import clock
from ebb_local.cloudwatch import alarms
from ebb_local.sagemaker.errors import ServiceError as SageMakerError
from ebb_local.scaling import capacity, state
from ebb_local.scaling.state import Record, ServiceError

COOLDOWN_S = 300
STEP, TRACKING = "StepScaling", "TargetTrackingScaling"
_KEY = ("ServiceNamespace", "ResourceId", "ScalableDimension")
_CONFIGURATION = {STEP: "StepScalingPolicyConfiguration", TRACKING: "TargetTrackingScalingPolicyConfiguration"}
# (metric, statistic, period) of each predefined metric. Statistic of the high-resolution ones: assumed.
_PREDEFINED = {
    "SageMakerVariantInvocationsPerInstance": ("InvocationsPerInstance", "Sum", 60),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": ("ConcurrentRequestsPerModel", "Maximum", 10),
    "SageMakerInferenceComponentInvocationsPerCopy": ("InvocationsPerCopy", "Sum", 60),
    "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution": ("ConcurrentRequestsPerCopy", "Maximum", 10),
}


def put(request: Record) -> Record:
    """PutScalingPolicy: a repeat overwrites the policy and keeps its ARN."""
    target = _require_target(request)
    known = state.policies.get(state.key(request, "PolicyName")) or {}
    kind = request.get("PolicyType") or known.get("PolicyType") or STEP
    member = _CONFIGURATION.get(kind)
    if member is None:
        raise _invalid(f"The embedded cloud does not know policies of the type {kind}")
    if known and known["PolicyType"] != kind:
        raise _invalid(f"The type of the policy {request['PolicyName']} cannot be changed")
    configuration = request.get(member)
    if not configuration:
        raise _invalid(f"{member} is required for a policy of the type {kind}")
    (_validate_steps if kind == STEP else _validate_tracking)(configuration, request)
    if kind == TRACKING:
        _refuse_second_metric(request, configuration)
    _delete_alarms(known)
    arn = known.get("PolicyARN") or (
        f"arn:aws:autoscaling:{get_region()}:{get_account_id()}:scalingPolicy:{uuid.uuid4()}:resource/"
        f"{request['ServiceNamespace']}/{request['ResourceId']}:policyName/{request['PolicyName']}"
    )
    record = {
        **{name: request[name] for name in _KEY},
        "PolicyARN": arn,
        "PolicyName": request["PolicyName"],
        "PolicyType": kind,
        member: configuration,
        "CreationTime": known.get("CreationTime", state.now()),
    }
    record["Alarms"] = _managed_alarms(record, target) if kind == TRACKING else []
    state.policies[state.key(request, "PolicyName")] = record
    return {"PolicyARN": arn, "Alarms": record["Alarms"]}


def describe(request: Record) -> Record:
    """DescribeScalingPolicies; a step policy's alarms are those that have it as an action."""
    names = request.get("PolicyNames")
    found = [
        {**policy, "Alarms": policy["Alarms"] or _alarms_with(policy["PolicyARN"])}
        for policy in state.policies.values()
        if matches(policy, request) and (not names or policy["PolicyName"] in names or policy["PolicyARN"] in names)
    ]
    return state.page(found, request, "ScalingPolicies")


def delete(request: Record) -> Record:
    """DeleteScalingPolicy, with the alarms that it manages."""
    policy = state.policies.pop(state.key(request, "PolicyName"), None)
    if policy is None:
        raise ServiceError("ObjectNotFoundException", f"No scaling policy found for {state.named(request)}")
    _delete_alarms(policy)
    return {}


def forget(request: Record) -> None:
    """Delete every policy of a target."""
    for policy in [each for each in state.policies.values() if matches(each, request)]:
        delete({**request, "PolicyName": policy["PolicyName"]})


def describe_activities(request: Record) -> Record:
    """DescribeScalingActivities, newest first."""
    rows = [row for rows in state.activities.values() for row in rows if matches(row, request)]
    if not request.get("IncludeNotScaledActivities"):
        rows = [row for row in rows if "NotScaledReasons" not in row]
    rows.sort(key=lambda row: row["StartTime"], reverse=True)
    return state.page(rows, request, "ScalingActivities")


def act(arn: str, alarm: dict[str, Any], value: float | None) -> None:
    """Carry out the policy that an alarm names, now that it is in the state whose action the policy is."""
    policy = next((each for each in state.policies.values() if each["PolicyARN"] == arn), None)
    target = state.targets.get(state.key(policy)) if policy else None
    if policy is None or target is None:
        clock.note("scaling", f"{alarm['AlarmName']} names a policy that does not exist: {arn}")
        return
    cause = f"monitor alarm {alarm['AlarmName']} in state {alarm['StateValue']} triggered policy {policy['PolicyName']}"
    try:
        now_has = capacity.current(target)
    except (SageMakerError, ServiceError) as error:
        _note(target, "", cause, status="Failed", message=error.message)
        return
    decide = _stepped if policy["PolicyType"] == STEP else _tracked
    wanted = decide(policy, alarm, value, now_has)
    if wanted is not None:
        scale(target, now_has, wanted, cause, policy)


def scale(target: Record, now_has: int, wanted: int, cause: str, policy: Record | None = None) -> None:
    """Bring a target to a capacity, within its bounds and unless that is suspended."""
    bounded = min(max(wanted, target["MinCapacity"]), target["MaxCapacity"])
    if bounded == now_has:
        reason = "AlreadyAtMaxCapacity" if wanted > now_has else "AlreadyAtMinCapacity"
        _note(target, "", cause, reasons=[{"Code": reason, "CurrentCapacity": now_has}] if wanted != now_has else None)
        return
    suspended = target["SuspendedState"]
    if policy and suspended["DynamicScalingOutSuspended" if bounded > now_has else "DynamicScalingInSuspended"]:
        return
    done = f"Setting {capacity.noun(target)} to {bounded}."
    try:
        capacity.change(target, bounded)
    except SageMakerError as error:
        _note(target, done, cause, status="Failed", message=f"Failed to set {capacity.noun(target)}: {error.message}")
        return
    if policy is not None:
        _begin_cooldown(policy, now_has, bounded)
    message = f"Successfully set {capacity.noun(target)} to {bounded}. Change successfully fulfilled by sagemaker."
    _note(target, done, cause, status="Successful", message=message)
    clock.note("scaling", f"{target['ResourceId']} {now_has} -> {bounded}")
    state.changed()


# ---- step scaling


def step(configuration: Record, breach: float, now_has: int) -> int | None:
    """Return the capacity that a breach (metric minus threshold) asks for; None where no step fits.

    Source: .../step-scaling-policy-overview.html (bounds; rounding of percentages).
    """
    for adjustment in configuration["StepAdjustments"]:
        low = adjustment.get("MetricIntervalLowerBound", -math.inf)
        high = adjustment.get("MetricIntervalUpperBound", math.inf)
        # Above the threshold the lower bound belongs to the step, below it the upper one.
        if (low <= breach < high) if breach >= 0 else (low < breach <= high):
            return _adjusted(configuration, adjustment["ScalingAdjustment"], now_has)
    return None


def _adjusted(configuration: Record, adjustment: int, now_has: int) -> int:
    kind = configuration["AdjustmentType"]
    if kind == "ExactCapacity":
        return adjustment
    if kind == "ChangeInCapacity":
        return now_has + adjustment
    exact = now_has * adjustment / 100
    # Values above 1 are rounded down, those between 0 and 1 up to 1; the same below zero.
    change = math.trunc(exact) if abs(exact) >= 1 else int(math.copysign(math.ceil(abs(exact)), exact))
    least = configuration.get("MinAdjustmentMagnitude", 0)
    return now_has + int(math.copysign(max(abs(change), least), adjustment))


def _stepped(policy: Record, alarm: dict[str, Any], value: float | None, now_has: int) -> int | None:
    configuration = policy["StepScalingPolicyConfiguration"]
    if value is None:
        return None  # missing data that counts as a breach has no size
    last = policy.get("_cooldown")
    if last and state.now() < last["until"]:
        # What the last activity added counts: only a larger step goes on, and scaling in waits.
        wanted = step(configuration, value - alarm["Threshold"], last["from"])
        return wanted if wanted is not None and wanted > now_has and last["to"] > last["from"] else None
    return step(configuration, value - alarm["Threshold"], now_has)


def _begin_cooldown(policy: Record, before: int, after: int) -> None:
    if policy["PolicyType"] == STEP:
        cooldown_s = policy["StepScalingPolicyConfiguration"].get("Cooldown", COOLDOWN_S)
    else:
        name = "ScaleOutCooldown" if after > before else "ScaleInCooldown"
        cooldown_s = policy["TargetTrackingScalingPolicyConfiguration"].get(name, COOLDOWN_S)
    policy["_cooldown"] = {"until": state.now() + cooldown_s, "from": before, "to": after}


def _validate_steps(configuration: Record, request: Record) -> None:
    if configuration.get("AdjustmentType") is None or not configuration.get("StepAdjustments"):
        raise _invalid("AdjustmentType and StepAdjustments are required for a step scaling policy")
    steps = sorted(
        (
            each.get("MetricIntervalLowerBound", -math.inf),
            each.get("MetricIntervalUpperBound", math.inf),
        )
        for each in configuration["StepAdjustments"]
    )
    if any(low >= high for low, high in steps):
        raise _invalid("The upper bound of a step adjustment must be greater than its lower bound")
    if any(first[1] != second[0] for first, second in itertools.pairwise(steps)):
        raise _invalid("Step adjustment intervals can't overlap or have a gap between them")


# ---- target tracking


def _tracked(policy: Record, alarm: dict[str, Any], value: float | None, now_has: int) -> int | None:
    configuration = policy["TargetTrackingScalingPolicyConfiguration"]
    if value is None:
        return None  # without data there is no scaling in
    last = policy.get("_cooldown")
    cooling = last is not None and state.now() < last["until"]
    share = value / configuration["TargetValue"]
    if "-AlarmHigh-" in alarm["AlarmName"]:
        base = last["from"] if last and cooling and last["to"] > last["from"] else now_has
        # A metric per instance of nothing is no measure: one is the way out of zero.
        wanted = max(math.ceil(base * share), now_has + (0 if cooling and base != now_has else 1)) if now_has else 1
        return wanted if wanted > now_has else None
    if configuration.get("DisableScaleIn") or cooling:
        return None
    wanted = math.ceil(now_has * share)
    return wanted if wanted < now_has else None


def _validate_tracking(configuration: Record, request: Record) -> None:
    predefined = configuration.get("PredefinedMetricSpecification")
    customized = configuration.get("CustomizedMetricSpecification")
    if bool(predefined) == bool(customized):
        raise _invalid("Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification is required")
    if predefined:
        kind = predefined["PredefinedMetricType"]
        if kind not in _PREDEFINED:
            raise _invalid(f"The embedded cloud does not know the predefined metric {kind}")
        if ("Component" in kind) != (request["ScalableDimension"] == state.COMPONENT):
            raise _invalid(f"{kind} is no metric of {request['ScalableDimension']}")


def _refuse_second_metric(request: Record, configuration: Record) -> None:
    """Two policies must not track the same predefined metric of one target."""
    wanted = configuration.get("PredefinedMetricSpecification")
    for other in state.policies.values():
        if not matches(other, request) or other["PolicyName"] == request["PolicyName"]:
            continue
        tracked = other.get("TargetTrackingScalingPolicyConfiguration", {}).get("PredefinedMetricSpecification")
        if wanted and tracked and tracked["PredefinedMetricType"] == wanted["PredefinedMetricType"]:
            raise _invalid("Only one TargetTrackingScaling policy for a given metric specification is allowed.")


def _managed_alarms(policy: Record, target: Record) -> list[Record]:
    configuration = policy["TargetTrackingScalingPolicyConfiguration"]
    watched, period_s = _watched(configuration, target)
    value = configuration["TargetValue"]
    wanted = [("AlarmHigh", "GreaterThanThreshold", value, 3)]
    if not configuration.get("DisableScaleIn"):
        wanted.append(("AlarmLow", "LessThanThreshold", value * 0.9, max(1, 900 // period_s)))
    made = []
    for kind, comparison, threshold, periods in wanted:
        name = f"TargetTracking-{policy['ResourceId']}-{kind}-{uuid.uuid4()}"
        request = {
            "AlarmName": name,
            "AlarmDescription": f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {policy['PolicyARN']}.",
            "ActionsEnabled": True,
            "AlarmActions": [policy["PolicyARN"]],
            "EvaluationPeriods": periods,
            "Threshold": threshold,
            "ComparisonOperator": comparison,
            **watched,
        }
        record = alarms.record(request, None)
        cloudwatch.cloudformation_put_metric_alarm(record)
        made.append({"AlarmName": name, "AlarmARN": record["AlarmArn"]})
    return made


def _watched(configuration: Record, target: Record) -> tuple[Record, int]:
    """Return what a policy's alarms watch, as members of an alarm, and the period."""
    if predefined := configuration.get("PredefinedMetricSpecification"):
        metric, statistic, period_s = _PREDEFINED[predefined["PredefinedMetricType"]]
        names = capacity.parts(target)
        dimensions = (
            {"InferenceComponentName": names["component"]}
            if "component" in names
            else {"EndpointName": names["endpoint"], "VariantName": names["variant"]}
        )
        listed = [{"Name": name, "Value": value} for name, value in dimensions.items()]
        watched = {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": listed, "Statistic": statistic}
        return {**watched, "Period": period_s}, period_s
    customized = configuration["CustomizedMetricSpecification"]
    if queries := customized.get("Metrics"):
        stated = [
            {**query, "MetricStat": {"Period": 60, **query["MetricStat"]}} if query.get("MetricStat") else query
            for query in queries
        ]
        return {"Metrics": stated}, 60
    members = ("MetricName", "Namespace", "Dimensions", "Statistic", "Unit")
    return {**{name: customized[name] for name in members if customized.get(name)}, "Period": 60}, 60


# ---- shared


def _require_target(request: Record) -> Record:
    try:
        return state.target(request)
    except ServiceError as missing:
        raise ServiceError(missing.code, f"No scalable target registered for {state.named(request)}") from missing


def matches(record: Record, request: Record) -> bool:
    """Return whether a record belongs to what a request names of namespace, resource and dimension."""
    return all(request.get(name) in (None, record[name]) for name in _KEY)


def _alarms_with(arn: str) -> list[Record]:
    return [
        {"AlarmName": alarm["AlarmName"], "AlarmARN": alarm["AlarmArn"]}
        for alarm in cloudwatch._alarms.values()
        if arn in (alarm.get("AlarmActions") or [])
    ]


def _delete_alarms(policy: Record) -> None:
    for alarm in policy.get("Alarms") or []:
        cloudwatch._alarms.pop(alarm["AlarmName"], None)


def _note(
    target: Record,
    description: str,
    cause: str,
    *,
    status: str = "Successful",
    message: str = "",
    reasons: list[Record] | None = None,
) -> None:
    """Keep one activity; one in which nothing had to be done only when it says why."""
    if not description and status == "Successful" and not reasons:
        return
    rows = state.activities.setdefault(state.key(target), [])
    if reasons and rows and rows[0].get("NotScaledReasons") == reasons:
        return  # the same as a minute ago
    moment = state.now()
    row = {
        "ActivityId": str(uuid.uuid4()),
        **{name: target[name] for name in _KEY},
        "Description": description or "Attempting to scale due to alarm triggered",
        "Cause": cause,
        "StartTime": moment,
        "EndTime": moment,
        "StatusCode": status,
        "StatusMessage": message,
    }
    rows.insert(0, {**row, **({"NotScaledReasons": reasons} if reasons else {})})
    del rows[state.ACTIVITIES_KEPT :]


def _invalid(message: str) -> ServiceError:
    return ServiceError("ValidationException", message)
