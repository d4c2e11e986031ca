"""Look at what serves an address now: its endpoint, its alarms, its calls. Reads only."""

from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from ebb import serving, traffic
from ebb.addresses import Address
from ebb.aws import metrics
from ebb.aws.clients import client
from ebb.requests import alarms
from ebb.rollout import Endpoint
from ebb.traffic import Traffic

# What PutMetricAlarm takes of what DescribeAlarms answers.
_ALARM_FIELDS = (
    "AlarmName", "AlarmDescription", "ActionsEnabled", "OKActions", "AlarmActions", "InsufficientDataActions",
    "MetricName", "Namespace", "Statistic", "ExtendedStatistic", "Dimensions", "Period", "Unit", "EvaluationPeriods",
    "DatapointsToAlarm", "Threshold", "ComparisonOperator", "TreatMissingData",
)  # fmt: skip
_WHATS = (alarms.ERRORS, alarms.LATENCY, alarms.IDLE, alarms.WAKE, alarms.DRIFT)


def endpoint(name: str | None) -> Endpoint | None:
    """Return an endpoint as SageMaker describes it, None when there is none."""
    sagemaker = client("sagemaker")
    try:
        found = sagemaker.describe_endpoint(EndpointName=name) if name else None
        if found is None or found["EndpointStatus"] == "Deleting":
            return None
        config = sagemaker.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
    except ClientError as error:
        if "could not find" in error.response["Error"]["Message"].lower():
            return None
        raise
    variant = config["ProductionVariants"][0]
    return Endpoint(str(name), found["EndpointStatus"], found["EndpointConfigName"], variant.get("ModelName"))


def address_alarms(address: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return an address's alarms as PutMetricAlarm takes them, without their tags, and which are in ALARM."""
    names = [alarms.alarm_name(address, what) for what in _WHATS]
    found = client("cloudwatch").describe_alarms(AlarmNames=names, AlarmTypes=["MetricAlarm"])["MetricAlarms"]
    bodies = [{name: each[name] for name in _ALARM_FIELDS if each.get(name) not in (None, [])} for each in found]
    return bodies, [each["AlarmName"] for each in found if each["StateValue"] == "ALARM"]


def calls(at: Address, *, since: datetime, until: datetime, period: timedelta) -> list[tuple[datetime, float]]:
    """Return the sums of an address's calls per period; none for a period without a call."""
    if at.kind == "batch" or at.endpoint_name is None:
        return []
    sums: dict[datetime, float] = {}
    for metric, dimensions in metrics.counters(at):
        found = client("cloudwatch").get_metric_statistics(
            Namespace=metrics.SERVING,
            MetricName=metric,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            StartTime=since,
            EndTime=until,
            Period=int(period.total_seconds()),
            Statistics=["Sum"],
        )
        for each in found["Datapoints"]:
            sums[each["Timestamp"]] = sums.get(each["Timestamp"], 0.0) + float(each["Sum"])
    return sorted(sums.items())


def calls_last_hour(at: Address | None, now: datetime) -> float:
    """Return how many calls an address had in the last hour."""
    hour = timedelta(hours=1)
    return sum(count for _, count in calls(at, since=now - hour, until=now, period=hour)) if at else 0.0


def measured_traffic(at: Address | None, now: datetime) -> Traffic | None:
    """Return what an address's own calls say, None before it has served."""
    began = _kind_since(at)
    if at is None or began is None:
        return None
    since = max(began, now - traffic.MOST_HISTORY)
    if now - since < timedelta(hours=1):
        return None
    return traffic.measured(calls(at, since=since, until=now, period=timedelta(hours=1)), since=began, until=now)


def current(at: Address | None) -> serving.Current | None:
    """Return what serves an address now, as the choice of a kind takes it."""
    began = _kind_since(at)
    if at is None or began is None or at.kind == "classic":
        return None
    return serving.Current(at.kind, began)


def _kind_since(at: Address | None) -> datetime | None:
    """Return since when an address is of its kind; it may have slept and been woken since."""
    return (at.kind_since or at.in_service_since) if at else None
