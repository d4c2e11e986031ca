"""Read what CloudWatch knows of an endpoint: who called, and whether it runs. Half an answer is an error, not silence.

What is asked is what each kind of endpoint publishes (`ebb.idle`). Billed by the metric read, not by the call: a
decision reads three to five, one more series for two weeks of history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ebb import idle
from ebb.addresses import Address
from ebb.aws.clients import client
from ebb.errors import MetricsUnavailableError

PERIOD_S = 60
MOST_POINTS = 100_800  # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
SERVING, INSTANCES, COMPONENTS = "AWS/SageMaker", "/aws/sagemaker/Endpoints", "/aws/sagemaker/InferenceComponents"
Points = dict[str, list[tuple[datetime, float]]]


@dataclass(frozen=True)
class Query:
    """One metric: under which name its points are found, and what is read."""

    name: str
    namespace: str
    metric: str
    dimensions: Mapping[str, str]
    statistic: str


@dataclass(frozen=True)
class Traffic:
    """What was seen of an endpoint's use since a moment."""

    since: datetime
    calls: tuple[datetime, ...]
    heartbeats: tuple[datetime, ...]


def observe(at: Address, variants: Sequence[str], *, since: datetime, now: datetime) -> Traffic:
    """Return the minutes with calls and those with a heartbeat.

    Raises: MetricsUnavailableError.
    """
    called, beating = _calls(at, variants), _heartbeats(at, variants)
    points = read([*called, *beating], since=since, now=now)
    minutes = {moment for query in called for moment, value in points[query.name] if value > 0}
    series = [[moment for moment, _ in points[query.name]] for query in beating]
    return Traffic(since, tuple(sorted(minutes)), idle.every_variant(series))


def history(at: Address, variants: Sequence[str], *, since: datetime, now: datetime) -> dict[datetime, float]:
    """Return the minutes in which somebody called and how often, in their order, for so long as they are asked for.

    Raises: MetricsUnavailableError.
    """
    called = [
        Query(f"calls{number}", SERVING, metric, dimensions, "Sum")
        for number, (metric, dimensions) in enumerate(counters(at, variants))
    ]
    points = read(called, since=since, now=now)
    counted: dict[datetime, float] = {}
    for query in called:
        for moment, value in points[query.name]:
            if value > 0:
                counted[moment] = counted.get(moment, 0.0) + value
    return dict(sorted(counted.items()))


def counters(at: Address, variants: Sequence[str] = ()) -> list[tuple[str, dict[str, str]]]:
    """Return the metrics, with their dimensions, whose sums together are the calls of an address.

    An asynchronous endpoint publishes no Invocations, but what it has processed, under one of two names: AWS's guide
    spells it with three s, which may be what is published or a slip of the pen.
    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html
    """
    if at.component:
        names = (at.component, *at.earlier_components)
        return [("InvocationsPerCopy", {"InferenceComponentName": name}) for name in names]
    if at.kind == "async":
        return [(metric, _variant(at, at.variant)) for metric in ("InvocationsProcesssed", "InvocationsProcessed")]
    return [("Invocations", _variant(at, name)) for name in variants or (at.variant,)]


def _calls(at: Address, variants: Sequence[str]) -> list[Query]:
    if at.kind == "async":
        backlog = Query(
            "backlog", SERVING, "ApproximateBacklogSize", {"EndpointName": str(at.endpoint_name)}, "Maximum"
        )
        return [backlog] + [
            Query(f"done{number}", SERVING, metric, dimensions, "Sum")
            for number, (metric, dimensions) in enumerate(counters(at))
        ]
    if at.component:
        where = {"InferenceComponentName": at.component}
        return [
            Query("calls", SERVING, "InvocationsPerCopy", where, "Sum"),
            Query("working", SERVING, "ConcurrentRequestsPerCopy", where, "Maximum"),
        ]
    return [
        Query(f"{what}{number}", SERVING, metric, _variant(at, name), statistic)
        for number, name in enumerate(variants)
        for what, metric, statistic in (
            ("calls", "Invocations", "Sum"),
            ("working", "ConcurrentRequestsPerModel", "Maximum"),
        )
    ]


def _heartbeats(at: Address, variants: Sequence[str]) -> list[Query]:
    """Return what is published each minute while something runs, of everything that must be heard."""
    found = [
        Query(f"beat{number}", INSTANCES, "CPUUtilization", _variant(at, name), "SampleCount")
        for number, name in enumerate([at.variant] if at.component else variants)
    ]
    if at.kind == "async":  # published as 0 too: where it is not, its silence says nothing
        where = {"EndpointName": str(at.endpoint_name)}
        found.append(Query("backlogs", SERVING, "ApproximateBacklogSize", where, "SampleCount"))
    return found


def _variant(at: Address, name: str) -> dict[str, str]:
    return {"EndpointName": str(at.endpoint_name), "VariantName": name}


def read(queries: Sequence[Query], *, since: datetime, now: datetime) -> Points:
    """Return the datapoints of each query, oldest first; none is an answer only when CloudWatch says it is complete.

    Raises: MetricsUnavailableError when CloudWatch refuses, or has not read everything that it was asked.
    """
    points: Points = {query.name: [] for query in queries}
    complete: dict[str, bool] = dict.fromkeys(points, False)
    request: dict[str, Any] = {
        "MetricDataQueries": [_asked(query) for query in queries],
        "StartTime": since.astimezone(UTC).replace(second=0, microsecond=0),
        "EndTime": now,
        "ScanBy": "TimestampAscending",
        "MaxDatapoints": MOST_POINTS,
    }
    while True:
        try:
            page = client("cloudwatch").get_metric_data(**request)
        except (ClientError, BotoCoreError) as error:
            raise MetricsUnavailableError(f"GetMetricData: {_why(error)}") from error
        for result in page["MetricDataResults"]:
            points[result["Id"]] += zip(result["Timestamps"], result["Values"], strict=True)
            complete[result["Id"]] = result["StatusCode"] == "Complete"
            if result["StatusCode"] not in {"Complete", "PartialData"}:
                raise MetricsUnavailableError(f"{result['Id']}: {result['StatusCode']}")
        if not page.get("NextToken"):
            break
        request["NextToken"] = page["NextToken"]
    if missing := sorted(name for name, known in complete.items() if not known):
        raise MetricsUnavailableError(f"only a part was read of {', '.join(missing)}")
    return {name: sorted(found) for name, found in points.items()}


def _asked(query: Query) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in query.dimensions.items()]
    metric = {"Namespace": query.namespace, "MetricName": query.metric, "Dimensions": dimensions}
    return {
        "Id": query.name,
        "MetricStat": {"Metric": metric, "Period": PERIOD_S, "Stat": query.statistic},
        "ReturnData": True,
    }


def _why(error: Exception) -> str:
    return error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
