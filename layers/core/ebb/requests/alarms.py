"""Request bodies of alarms that are born with an endpoint: PutMetricAlarm.

At most two stand at any time, 0.10 USD a month each: `errors` and `latency` of a serverless endpoint; `errors` of any
other and, while it is awake, `idle`, while it is asleep `wake`. Where the spec asks for it, `drift` is a third. Each is
named <address>-<what>.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ebb.addresses import Address

MICROSECONDS_PER_SECOND = 1_000_000
ERRORS, LATENCY, IDLE, WAKE, DRIFT = "errors", "latency", "idle", "wake", "drift"
DRIFT_NAMESPACE, DRIFT_METRIC = "Ebb/Drift", "Psi"  # as the serving container prints them: ebb_jobs/capture.py
# Period times datapoints of an alarm is at most a day below periods of an hour, and seven days from there on:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
LONGEST_WINDOW_S = 86_400
WATCHED_EVERY_S = 60

Tags = Sequence[dict[str, str]]


def alarm_name(address: str, what: str) -> str:
    """Return the name of one of an address's alarms."""
    return f"{address}-{what}"


def put_metric_alarm(
    *,
    name: str,
    dimensions: dict[str, str],
    metric: str,
    statistic: str,
    threshold: float,
    description: str,
    actions: Sequence[str],
    tags: Tags,
    period_s: int = 300,
    evaluation_periods: int = 1,
    comparison: str = "GreaterThanOrEqualToThreshold",
    missing: str = "notBreaching",
) -> dict[str, Any]:
    """Return the body of PutMetricAlarm on one of SageMaker's own metrics.

    Without data it is not breaching, unless told otherwise: an endpoint that nobody calls publishes no calls.
    """
    how = {"ExtendedStatistic": statistic} if statistic.startswith("p") else {"Statistic": statistic}
    return {
        "AlarmName": name,
        "AlarmDescription": description,
        "Namespace": "AWS/SageMaker",
        "MetricName": metric,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
        **how,
        "Period": period_s,
        "EvaluationPeriods": evaluation_periods,
        "DatapointsToAlarm": evaluation_periods,
        "Threshold": threshold,
        "ComparisonOperator": comparison,
        "TreatMissingData": missing,
        "ActionsEnabled": True,
        "AlarmActions": list(actions),
        "Tags": list(tags),
    }


def errors(at: Address, *, actions: Sequence[str], tags: Tags) -> dict[str, Any]:
    """Return the alarm of an endpoint, or of its component, that answers with an error of its own.

    Asynchronous endpoints publish the metric too: dg/async-inference-monitor, "Common Endpoint Metrics".
    """
    return put_metric_alarm(
        name=alarm_name(at.address, ERRORS),
        dimensions=invocations(at),
        metric="Invocation5XXErrors",
        statistic="Sum",
        threshold=1,
        period_s=WATCHED_EVERY_S,
        description=f"What answers at {at.address} answered with an error of its own",
        actions=actions,
        tags=tags,
    )


def latency(at: Address, *, limit_s: float, actions: Sequence[str], tags: Tags) -> dict[str, Any]:
    """Return the alarm of a model that takes longer than it should for 1 request in 20."""
    return put_metric_alarm(
        name=alarm_name(at.address, LATENCY),
        dimensions=invocations(at),
        metric="ModelLatency",
        statistic="p95",
        threshold=round(limit_s * MICROSECONDS_PER_SECOND),  # as ModelLatency counts
        evaluation_periods=3,
        description=f"The model behind {at.address} took longer than {limit_s * 1000:.0f} ms for 1 request in 20",
        actions=actions,
        tags=tags,
    )


def idle(at: Address, *, window: timedelta, tags: Tags) -> dict[str, Any]:
    """Return the alarm of an endpoint that nobody has called in the window; a rule carries it on, so it has no action.

    An asynchronous endpoint publishes its backlog while it is awake, 0 as well, so that no data is no answer. The calls
    of a component are not published when there are none, so that no data is no call; what is decided upon the alarm
    looks at the heartbeat too.
    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html,
    https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html
    """
    period_s, periods = _parts(window)
    backlog = at.kind == "async"
    return put_metric_alarm(
        name=alarm_name(at.address, IDLE),
        dimensions={"EndpointName": str(at.endpoint_name)} if backlog else invocations(at),
        metric="ApproximateBacklogSize" if backlog else "InvocationsPerCopy",
        statistic="Maximum" if backlog else "Sum",
        threshold=1,
        comparison="LessThanThreshold",
        missing="missing" if backlog else "breaching",
        period_s=period_s,
        evaluation_periods=periods,
        description=f"Nobody has called {at.address} for {window}",
        actions=(),
        tags=tags,
    )


def wake(at: Address, *, policy_arn: str | None, tags: Tags) -> dict[str, Any]:
    """Return the alarm of an endpoint that is called while it sleeps: its action is the policy that adds a copy.

    `policy_arn` is what PutScalingPolicy answers; without it a state machine puts it into `AlarmActions`. The sample in
    AWS's guide waits for more than one refused request; here the first one is enough.
    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html,
    https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html
    """
    backlog = at.kind == "async"
    return put_metric_alarm(
        name=alarm_name(at.address, WAKE),
        dimensions={"EndpointName": str(at.endpoint_name)} if backlog else invocations(at),
        metric="HasBacklogWithoutCapacity" if backlog else "NoCapacityInvocationFailures",
        statistic="Maximum" if backlog else "Sum",
        threshold=1,
        missing="missing" if backlog else "notBreaching",
        period_s=WATCHED_EVERY_S,
        description=f"{at.address} is asleep and was called",
        actions=[policy_arn] if policy_arn else (),
        tags=tags,
    )


def drift(at: Address, *, psi: float, actions: Sequence[str], tags: Tags) -> dict[str, Any]:
    """Return the alarm of requests that are unlike the training data: it tells people, and trains nothing.

    The metric comes out of the containers' log, at most once a minute from each, under the address's own name, which
    every kind of endpoint and every model keeps. Several containers tell different parts of the traffic: their average.
    """
    return put_metric_alarm(
        name=alarm_name(at.address, DRIFT),
        dimensions={"EndpointName": at.address},
        metric=DRIFT_METRIC,
        statistic="Average",
        threshold=psi,
        comparison="GreaterThanThreshold",
        description=f"What {at.address} is asked is unlike what its model was trained on",
        actions=actions,
        tags=tags,
    ) | {"Namespace": DRIFT_NAMESPACE}


def invocations(at: Address) -> dict[str, str]:
    """Return the dimensions under which the calls of an address are counted: of its component, else of its variant.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
    """
    if at.component:
        return {"InferenceComponentName": at.component}
    return {"EndpointName": str(at.endpoint_name), "VariantName": at.variant}


def _parts(window: timedelta) -> tuple[int, int]:
    """Return period and number of datapoints that make up a window: of a minute each, or of as many as it takes.

    Rounded up to whole periods: never a window shorter than the one that was asked for, but for the longest.
    """
    seconds = min(max(int(window.total_seconds()), WATCHED_EVERY_S), LONGEST_WINDOW_S)
    period_s = next(each for each in (60, 300, 900, 3600) if seconds / each <= 60 or each == 3600)
    return period_s, -(-seconds // period_s)
