"""Request bodies of alarms that are born with an endpoint: PutMetricAlarm."""

from collections.abc import Sequence
from typing import Any

from ebb.requests.hosting import VARIANT

MICROSECONDS_PER_SECOND = 1_000_000


def put_metric_alarm(
    *,
    name: str,
    endpoint: str,
    metric: str,
    statistic: str,
    threshold: float,
    description: str,
    actions: Sequence[str],
    tags: Sequence[dict[str, str]],
    evaluation_periods: int = 1,
) -> dict[str, Any]:
    """Return the body of PutMetricAlarm on one of an endpoint's own metrics.

    Missing data is not breaching: a serverless endpoint that nobody calls publishes nothing.
    """
    how = {"ExtendedStatistic": statistic} if statistic.startswith("p") else {"Statistic": statistic}
    return {
        "AlarmName": name,
        "AlarmDescription": description,
        "Namespace": "AWS/SageMaker",
        "MetricName": metric,
        "Dimensions": [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": VARIANT}],
        **how,
        "Period": 300,
        "EvaluationPeriods": evaluation_periods,
        "DatapointsToAlarm": evaluation_periods,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
        "ActionsEnabled": True,
        "AlarmActions": list(actions),
        "Tags": list(tags),
    }
