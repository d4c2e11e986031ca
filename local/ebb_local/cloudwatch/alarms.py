"""Alarms on one metric or on an expression: their records, and which state their datapoints mean.

Sources: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html,
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html, .../alarms-and-missing-data.html.
Windows slide. How many periods beyond the evaluated ones are looked at for datapoints (2): assumed, from the examples.
"""

import operator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ministack.core.responses import get_account_id, get_region

from ebb_local import clock
from ebb_local.cloudwatch import expressions, metrics, statistics, store
from ebb_local.cloudwatch.wire import ServiceError

OK, ALARM, INSUFFICIENT = "OK", "ALARM", "INSUFFICIENT_DATA"
EXTRA_PERIODS = 2
_LONGEST_S, _LONGEST_SHORT_S = 604_800, 86_400
_COMPARE = {
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}
_MISSING = ("missing", "ignore", "breaching", "notBreaching")
_REFUSED = ("ThresholdMetricId", "EvaluationCriteria", "EvaluationInterval", "EvaluationWindow", "WarmUpConfiguration")
_KEPT = (
    "AlarmName", "AlarmDescription", "MetricName", "Namespace", "Statistic", "ExtendedStatistic", "Period", "Unit",
    "EvaluationPeriods", "DatapointsToAlarm", "Threshold", "ComparisonOperator", "Metrics",
    "EvaluateLowSampleCountPercentile",
)  # fmt: skip

Record = dict[str, Any]


class Point(NamedTuple):
    """One evaluated period: when it began, and its value if anything was published."""

    start: float
    value: float | None


class Judgement(NamedTuple):
    """The state that datapoints mean, in words, and as the data of an event."""

    state: str
    reason: str
    used: list[Point]


def record(request: Record, known: Record | None) -> Record:
    """Return the record of PutMetricAlarm; a known alarm keeps its state. Raises ServiceError."""
    _validate(request)
    name, moment = request["AlarmName"], round(clock.now(), 3)
    state = {
        "StateValue": INSUFFICIENT,
        "StateReason": "Unchecked: Initial alarm creation",
        "StateUpdatedTimestamp": moment,
    }
    if known:
        kept = ("StateValue", "StateReason", "StateReasonData", "StateUpdatedTimestamp", "StateTransitionedTimestamp")
        state = {member: known[member] for member in kept if member in known}
    return {
        **{member: request[member] for member in _KEPT if request.get(member) is not None},
        **({} if request.get("Metrics") else {"Dimensions": request.get("Dimensions") or []}),
        "AlarmArn": f"arn:aws:cloudwatch:{get_region()}:{get_account_id()}:alarm:{name}",
        "ActionsEnabled": request.get("ActionsEnabled", True),
        "OKActions": request.get("OKActions") or [],
        "AlarmActions": request.get("AlarmActions") or [],
        "InsufficientDataActions": request.get("InsufficientDataActions") or [],
        "TreatMissingData": request.get("TreatMissingData") or "missing",
        "AlarmConfigurationUpdatedTimestamp": moment,
        **state,
    }


def _validate(request: Record) -> None:
    if refused := [name for name in _REFUSED if request.get(name) is not None]:
        raise _invalid(f"The embedded cloud does not know {', '.join(refused)} of an alarm.")
    if request.get("ComparisonOperator") not in _COMPARE:
        raise _invalid(f"The embedded cloud does not know the operator {request.get('ComparisonOperator')}.")
    if request.get("TreatMissingData", "missing") not in _MISSING:
        raise _invalid(f"Invalid value for TreatMissingData: {request['TreatMissingData']}")
    if request.get("Threshold") is None or not request.get("EvaluationPeriods"):
        raise ServiceError("MissingParameter", "Threshold and EvaluationPeriods must be specified")
    if bool(request.get("MetricName")) == bool(request.get("Metrics")):
        raise _invalid("Exactly one of MetricName and Metrics must be specified")
    if request.get("MetricName") and bool(request.get("Statistic")) == bool(request.get("ExtendedStatistic")):
        raise ServiceError(
            "InvalidParameterCombination", "Exactly one of Statistic and ExtendedStatistic must be specified"
        )
    if request.get("DatapointsToAlarm", 1) > request["EvaluationPeriods"]:
        raise _invalid("DatapointsToAlarm must not be greater than EvaluationPeriods")
    if any(len(request.get(each) or []) > 5 for each in ("OKActions", "AlarmActions", "InsufficientDataActions")):
        raise _invalid("Number of actions must not be greater than 5")
    _validate_queries(request)


def _validate_queries(request: Record) -> None:
    queries = request.get("Metrics") or []
    if queries and sum(query.get("ReturnData", True) for query in queries) != 1:
        raise _invalid("Exactly one element of the metrics list should return data.")
    if len(queries) > 20:
        raise _invalid("The metrics list must not have more than 20 elements")
    period_s = period(request)
    if period_s < 10 or (period_s % 60 and period_s not in (10, 20, 30)):
        raise _invalid("Period must be 10, 20, 30 or a multiple of 60")
    whole_s = period_s * request["EvaluationPeriods"]
    if whole_s > (_LONGEST_SHORT_S if period_s < 3600 else _LONGEST_S):
        raise _invalid(
            "Metrics cannot be checked across more than a day (EvaluationPeriods * Period must be <= 86400)."
        )
    named = [query["MetricStat"]["Stat"] for query in queries if "MetricStat" in query]
    for statistic in [*named, *filter(None, [request.get("Statistic"), request.get("ExtendedStatistic")])]:
        if not statistics.is_known(statistic):
            raise _invalid(f"The embedded cloud does not compute the statistic {statistic}.")
    for query in queries:
        if "SEARCH(" in (query.get("Expression") or "").replace(" ", "").upper():
            raise _invalid("SEARCH is not supported on Metric Alarms.")
        unknown = expressions.identifiers(query.get("Expression") or "") - {each["Id"] for each in queries}
        if unknown:
            raise _invalid(f"Invalid metrics list: {query['Id']} refers to {', '.join(sorted(unknown))}")


def queries_of(alarm: Record) -> list[Record]:
    """Return what an alarm watches as metric queries, exactly one of which returns data."""
    if alarm.get("Metrics"):
        return list(alarm["Metrics"])
    metric = {
        "Namespace": alarm["Namespace"],
        "MetricName": alarm["MetricName"],
        "Dimensions": _listed(alarm.get("Dimensions")),
    }
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average"
    unit = {"Unit": alarm["Unit"]} if alarm.get("Unit") else {}
    return [{"Id": "m1", "MetricStat": {"Metric": metric, "Period": alarm["Period"], "Stat": statistic, **unit}}]


def period(alarm: Record) -> int:
    """Return the length of one datapoint in seconds."""
    if not alarm.get("Metrics"):
        return int(alarm.get("Period") or 60)
    stats = [query["MetricStat"]["Period"] for query in alarm["Metrics"] if "MetricStat" in query]
    return max([*stats, *(query["Period"] for query in alarm["Metrics"] if query.get("Period"))], default=60)


def datapoints(alarm: Record, now_s: float) -> list[Point]:
    """Return the periods that an alarm looks at, newest first, the newest ending now."""
    period_s, many = period(alarm), alarm["EvaluationPeriods"] + EXTRA_PERIODS
    end = int(now_s) + 1
    start = end - many * period_s
    queries = queries_of(alarm)
    with store.lock:
        results = metrics.evaluate(queries, start=start, end=end, exact=True)
    returned = next(query["Id"] for query in queries if query.get("ReturnData", True))
    result = results[returned]
    points = {} if isinstance(result, list | float | int) else result
    return [Point(start + index * period_s, points.get(start + index * period_s)) for index in reversed(range(many))]


def watched(alarm: Record) -> list[store.Key]:
    """Return the metrics that an alarm watches; those that a search finds are not among them."""
    named = [query["MetricStat"]["Metric"] for query in queries_of(alarm) if "MetricStat" in query]
    return [(each["Namespace"], each["MetricName"], store.dimensions_of(each.get("Dimensions"))) for each in named]


def judge(alarm: Record, points: list[Point]) -> Judgement:
    """Return the state that datapoints mean; they are given newest first.

    As many as are evaluated are taken from those that exist; only where too few exist the missing ones count as
    TreatMissingData says. A breach that is the only datapoint raises an alarm once it is old enough.
    """
    periods = alarm["EvaluationPeriods"]
    needed = alarm.get("DatapointsToAlarm") or periods
    breaches, _ = _COMPARE[alarm["ComparisonOperator"]]
    known = [(age, point) for age, point in enumerate(points, 1) if point.value is not None][:periods]
    breaching = [age for age, point in known if point.value is not None and breaches(point.value, alarm["Threshold"])]
    missing, treatment = periods - len(known), alarm.get("TreatMissingData") or "missing"
    used = [point for _, point in known]
    if not known:
        return _unknown(alarm, treatment, missing)
    if len(breaching) + (missing if treatment == "breaching" else 0) >= needed:
        return Judgement(ALARM, _crossed(alarm, used, len(breaching), needed), used)
    alone = missing and len(breaching) == len(known)
    if alone and treatment == "missing" and max(breaching) >= needed:
        return Judgement(ALARM, _crossed(alarm, used, len(breaching), needed), used)
    if alone and treatment in ("missing", "ignore"):
        return Judgement(alarm["StateValue"], alarm.get("StateReason", ""), used)
    return Judgement(OK, _crossed(alarm, used, len(breaching), needed), used)


def _unknown(alarm: Record, treatment: str, missing: int) -> Judgement:
    periods = f"{alarm['EvaluationPeriods']} period{'s' if alarm['EvaluationPeriods'] > 1 else ''}"
    many = f"{missing} missing datapoint{'s were' if missing > 1 else ' was'}"
    if treatment == "ignore":
        return Judgement(alarm["StateValue"], alarm.get("StateReason", ""), [])
    if treatment == "missing":
        plural = "datapoints were" if missing > 1 else "datapoint was"
        return Judgement(INSUFFICIENT, f"Insufficient Data: {missing} {plural} unknown.", [])
    named = "Breaching" if treatment == "breaching" else "NonBreaching"
    reason = f"Threshold Crossed: no datapoints were received for {periods} and {many} treated as [{named}]."
    return Judgement(ALARM if treatment == "breaching" else OK, reason, [])


def _crossed(alarm: Record, used: list[Point], breaching: int, needed: int) -> str:
    _, words = _COMPARE[alarm["ComparisonOperator"]]
    shown = ", ".join(f"{point.value} ({_short(point.start)})" for point in used)
    many = f"{breaching} out of the last {len(used)} datapoint{'s' if len(used) > 1 else ''}"
    verb = "was" if breaching == 1 else "were"
    negated = "" if breaching >= needed else "not "
    last = f"(minimum {needed} datapoint{'s' if needed > 1 else ''} for OK -> ALARM transition)"
    if negated:
        many = f"{len(used) - breaching} out of the last {len(used)} datapoint{'s' if len(used) > 1 else ''}"
        verb, last = "was" if len(used) - breaching == 1 else "were", "(minimum 1 datapoint for ALARM -> OK transition)"
    return f"Threshold Crossed: {many} [{shown}] {verb} {negated}{words} the threshold ({alarm['Threshold']}) {last}."


def reason_data(alarm: Record, judgement: Judgement, now_s: float) -> Record:
    """Return StateReasonData as AWS writes it, before it is made text."""
    values = [point.value for point in reversed(judgement.used)]
    start = {"startDate": moment_text(judgement.used[-1].start)} if judgement.used else {}
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic")
    return {
        "version": "1.0",
        "queryDate": moment_text(now_s),
        **start,
        **({"statistic": statistic} if statistic and not alarm.get("Metrics") else {}),
        "period": period(alarm),
        "recentDatapoints": values,
        "threshold": alarm["Threshold"],
        "evaluatedDatapoints": [
            {"timestamp": moment_text(point.start), "value": point.value} for point in judgement.used
        ],
    }


def configuration(alarm: Record) -> Record:
    """Return an alarm's configuration as its events hold it."""
    described = []
    for query in queries_of(alarm):
        entry: Record = {"id": query["Id"], "returnData": query.get("ReturnData", True)}
        if stat := query.get("MetricStat"):
            metric = stat["Metric"]
            names = {each["Name"]: each["Value"] for each in metric.get("Dimensions") or []}
            entry["metricStat"] = {
                "metric": {"namespace": metric["Namespace"], "name": metric["MetricName"], "dimensions": names},
                "period": stat["Period"],
                "stat": stat["Stat"],
            }
        else:
            entry |= {"expression": query["Expression"], "label": query.get("Label") or query["Id"]}
        described.append(entry)
    return {"description": alarm.get("AlarmDescription") or "", "metrics": described}


def moment_text(moment: float) -> str:
    """Return a moment as alarms' events write it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def _short(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%d/%m/%y %H:%M:%S")


def _listed(dimensions: Any) -> list[Record]:
    return [{"Name": name, "Value": value} for name, value in store.dimensions_of(dimensions)]


def _invalid(message: str) -> ServiceError:
    return ServiceError("ValidationError", message)
