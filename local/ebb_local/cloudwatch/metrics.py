"""PutMetricData, GetMetricData, GetMetricStatistics and ListMetrics, with the limits and pages that AWS has.

Sources: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html,
.../API_GetMetricStatistics.html, .../API_ListMetrics.html, .../API_PutMetricData.html. Periods are counted from the
start of the range, rounded down to the minute (assumed for GetMetricData).
"""

import base64
import json
import math
from typing import Any

from ebb_local import authorization, clock
from ebb_local.cloudwatch import expressions, search, statistics, store
from ebb_local.cloudwatch.expressions import ExpressionError, Labelled, Points, Result, Scope
from ebb_local.cloudwatch.wire import ServiceError

MOST_QUERIES = 500
MOST_POINTS = 100_800
MOST_STATISTICS = 1440
LISTED_AT_ONCE = 500
_LISTED_FOR_S = 14 * store.DAY_S
_RECENTLY_S = 3 * store.HOUR_S
OLDEST_S, NEWEST_S = 14 * store.DAY_S, 2 * store.HOUR_S  # of what may be put
_RESERVED = "AWS/"

Request = dict[str, Any]


def put_metric_data(request: Request) -> Request:
    """PutMetricData. AWS's own namespaces are AWS's; here the account's root may use them too, to replay traffic."""
    namespace, now_s = request.get("Namespace", ""), clock.now()
    principal = authorization.current_principal()
    if namespace.startswith(_RESERVED) and ":assumed-role/" in principal:
        raise _invalid(f"The value {_RESERVED} for parameter Namespace is invalid.")
    data = request.get("MetricData") or []
    if len(data) > 1000:
        raise _invalid("The collection MetricData must not have a size greater than 1000.")
    prepared = [_prepared(number, datum, now_s) for number, datum in enumerate(data, 1)]
    for datum, moment, samples in prepared:
        for sample in samples:
            store.put(
                namespace,
                datum["MetricName"],
                datum.get("Dimensions"),
                sample,
                at=moment,
                now_s=now_s,
                unit=datum.get("Unit", "None"),
            )
    return {}


def _prepared(number: int, datum: Request, now_s: float) -> tuple[Request, float, list[store.Sample]]:
    where = f"MetricData.member.{number}"
    moment = datum.get("Timestamp", now_s)
    if not now_s - OLDEST_S <= moment <= now_s + NEWEST_S:
        raise _invalid(f"The parameter {where}.Timestamp must specify a time within the past two weeks.")
    if len(datum.get("Dimensions") or []) > 30:
        raise _invalid(f"The collection {where}.Dimensions must not have a size greater than 30.")
    if "StatisticValues" in datum:
        return datum, moment, [store.Sample.of_set(datum["StatisticValues"])]
    values = datum.get("Values") or ([datum["Value"]] if "Value" in datum else [])
    counts = datum.get("Counts") or [1.0] * len(values)
    if not values:
        raise ServiceError(
            "MissingParameter", f"At least one of {where}.Value or {where}.StatisticValues must be specified."
        )
    if len(values) != len(counts) or len(values) > 150:
        raise _invalid(f"The parameters {where}.Values and {where}.Counts must be of the same size, at most 150.")
    if not all(math.isfinite(value) for value in values):
        raise _invalid(f"The value for parameter {where}.Value is invalid: not a finite number.")
    return datum, moment, [store.Sample.of(value, count) for value, count in zip(values, counts, strict=True)]


def list_metrics(request: Request) -> Request:
    """ListMetrics: what was published within two weeks, or three hours, in pages of 500."""
    recently = request.get("RecentlyActive")
    if recently not in (None, "PT3H"):
        raise _invalid("The only valid value for RecentlyActive is PT3H.")
    since = clock.now() - (_RECENTLY_S if recently else _LISTED_FOR_S)
    wanted = request.get("Dimensions") or []
    known = store.every(request.get("Namespace"), request.get("MetricName"))
    found = [each for each in known if each.last() >= since and _has(each, wanted)]
    start = _page(request.get("NextToken"))
    rows = [
        {"Namespace": each.namespace, "MetricName": each.name, "Dimensions": each.dimension_list}
        for each in found[start : start + LISTED_AT_ONCE]
    ]
    more = {"NextToken": _token(start + LISTED_AT_ONCE)} if start + LISTED_AT_ONCE < len(found) else {}
    return {"Metrics": rows, **more}


def _has(series: store.Series, wanted: list[Request]) -> bool:
    own = dict(series.dimensions)
    return all(each["Name"] in own and each.get("Value") in (None, own[each["Name"]]) for each in wanted)


def get_metric_statistics(request: Request) -> Request:
    """GetMetricStatistics."""
    asked = request.get("Statistics") or []
    extended = request.get("ExtendedStatistics") or []
    if bool(asked) == bool(extended):
        raise ServiceError(
            "InvalidParameterCombination", "Must specify either Statistics or ExtendedStatistics, and not both."
        )
    period_s = _period(request["Period"])
    start, end = _rounded(request["StartTime"], period_s), request["EndTime"]
    if start >= end:
        raise _invalid("The parameter StartTime must be less than the parameter EndTime.")
    many = math.ceil((end - start) / period_s)
    if many > MOST_STATISTICS:
        raise ServiceError(
            "InvalidParameterCombination",
            f"You have requested up to {many} datapoints, which exceeds the limit of {MOST_STATISTICS}. You may reduce "
            "the datapoints requested by increasing Period, or decreasing the time range.",
        )
    for name in [*asked, *extended]:
        _require_statistic(name)
    series = _in_unit(store.find(request["Namespace"], request["MetricName"], request.get("Dimensions")), request)
    with store.lock:
        found = {
            name: statistics.series_values(series, name, start=start, end=end, period_s=period_s)
            for name in [*asked, *extended]
        }
    unit = series.unit if series else "None"
    points = []
    for moment in sorted({each for values in found.values() for each in values}):
        values = {name: values[moment] for name, values in found.items() if moment in values}
        shown = {"ExtendedStatistics": values} if extended else values
        points.append({"Timestamp": float(moment), **shown, "Unit": unit})
    return {"Label": request["MetricName"], "Datapoints": points}


def get_metric_data(request: Request) -> Request:
    """GetMetricData."""
    queries = request.get("MetricDataQueries") or []
    if len(queries) > MOST_QUERIES:
        raise _validation(f"The collection MetricDataQueries must not have a size greater than {MOST_QUERIES}.")
    limit = request.get("MaxDatapoints", MOST_POINTS)
    if limit > MOST_POINTS:
        raise _validation(f"The parameter MaxDatapoints must not be greater than {MOST_POINTS}.")
    if request["StartTime"] >= request["EndTime"]:
        raise _validation("The parameter StartTime must be less than the parameter EndTime.")
    with store.lock:
        results = evaluate(queries, start=request["StartTime"], end=request["EndTime"])
    ascending = request.get("ScanBy", "TimestampDescending") == "TimestampAscending"
    rows = [row for query in queries if query.get("ReturnData", True) for row in _rows(query, results, ascending)]
    return _limited(rows, _page(request.get("NextToken")), limit)


def evaluate(queries: list[Request], *, start: float, end: float, exact: bool = False) -> dict[str, Result]:
    """Return what each query yields, by its id; an expression sees all others. Raises ServiceError.

    Periods begin at the start rounded down to the minute, or with `exact` (an alarm's sliding window) at its second.
    """
    ids = [query["Id"] for query in queries]
    if len(set(ids)) != len(ids):
        raise _validation(f"The values for parameter id in MetricDataQueries are not unique: {', '.join(ids)}.")
    period_s = _common_period(queries)
    first = int(start) if exact else _rounded(start, period_s)
    scope = _Running(queries, first, end, period_s)
    return {query["Id"]: scope.result(query["Id"]) for query in queries}


class _Running:
    """The queries of one request, each evaluated when it is first asked for."""

    def __init__(self, queries: list[Request], start: int, end: float, period_s: int) -> None:
        self._queries = {query["Id"]: query for query in queries}
        self._start, self._end, self._period_s = start, end, period_s
        self._done: dict[str, Result] = {}
        self._open: set[str] = set()

    def result(self, name: str) -> Result:
        if name not in self._done:
            if name in self._open:
                raise _validation(f"The expression of {name} refers to itself.")
            self._open.add(name)
            query = self._queries[name]
            self._done[name] = self._expression(query) if query.get("Expression") else self._metric(query)
        return self._done[name]

    def _metric(self, query: Request) -> Points:
        stat, metric = query["MetricStat"], query["MetricStat"]["Metric"]
        series = _in_unit(store.find(metric["Namespace"], metric["MetricName"], metric.get("Dimensions")), stat)
        return self._values(series, stat["Stat"], _period(stat["Period"]))

    def _values(self, series: store.Series | None, statistic: str, period_s: int) -> Points:
        _require_statistic(statistic)
        return statistics.series_values(series, statistic, start=self._start, end=self._end, period_s=period_s)

    def _expression(self, query: Request) -> Result:
        text = query["Expression"]
        if text.strip().upper().startswith("SELECT"):
            raise _validation("The embedded cloud does not answer Metrics Insights queries.")
        others = expressions.identifiers(text) & self._queries.keys()
        metrics = [name for name, other in self._queries.items() if "MetricStat" in other]
        if "METRICS" in text:
            others |= set(metrics)
        scope = Scope(
            results={name: self.result(name) for name in others},
            metrics=metrics,
            moments=range(self._start, math.ceil(self._end), self._period_s),
            period_s=int(query.get("Period", self._period_s)),
            search=self._search,
        )
        try:
            return expressions.evaluate(text, scope)
        except ExpressionError as error:
            raise _validation(f"Error in expression '{query['Id']}': {error}") from error

    def _search(self, text: str, statistic: str, period_s: int) -> list[Labelled]:
        test, since = search.matcher(text), clock.now() - _LISTED_FOR_S
        found = [each for each in store.every() if each.last() >= since and test(each)][: search.MOST_FOUND]
        values = ((_label(each, found), self._values(each, statistic, period_s)) for each in found)
        return [Labelled(label, points) for label, points in values]


def _label(series: store.Series, found: list[store.Series]) -> str:
    """Return what tells a found metric from the others: its dimensions, and its name where those differ."""
    named = [value for _, value in series.dimensions]
    if len({each.name for each in found}) > 1:
        named.append(series.name)
    return " ".join(named) or series.name


def _rows(query: Request, results: dict[str, Result], ascending: bool) -> list[Request]:
    result = results[query["Id"]]
    if isinstance(result, float | int):
        raise _validation(f"Error in expression '{query['Id']}': its result is a number, not a series.")
    many = result if isinstance(result, list) else [Labelled(_own_label(query), result)]
    rows = []
    for label, points in many:
        ordered = sorted(points.items(), reverse=not ascending)
        shown = {"Timestamps": [float(moment) for moment, _ in ordered], "Values": [value for _, value in ordered]}
        rows.append({"Id": query["Id"], "Label": query.get("Label") or label, **shown, "StatusCode": "Complete"})
    return rows


def _own_label(query: Request) -> str:
    return str(query["MetricStat"]["Metric"]["MetricName"] if "MetricStat" in query else query["Id"])


def _limited(rows: list[Request], skipped: int, limit: int) -> Request:
    """Return the points after the first `skipped`, at most `limit`, and how to get the rest."""
    shown: list[Request] = []
    passed = 0
    for row in rows:
        many = len(row["Values"])
        first = min(many, max(0, skipped - passed))
        last = min(many, max(0, skipped + limit - passed))
        passed += many
        if first == many and many:
            continue  # on an earlier page
        if last < many and first == last:
            shown.append({**row, "Timestamps": [], "Values": [], "StatusCode": "PartialData"})
            continue
        part = {"Timestamps": row["Timestamps"][first:last], "Values": row["Values"][first:last]}
        shown.append({**row, **part, "StatusCode": "Complete" if last == many else "PartialData"})
    more = {"NextToken": _token(skipped + limit)} if passed > skipped + limit else {}
    return {"MetricDataResults": shown, "Messages": [], **more}


def _in_unit(series: store.Series | None, request: Request) -> store.Series | None:
    return series if series and request.get("Unit") in (None, series.unit) else None


def _require_statistic(name: str) -> None:
    if not statistics.is_known(name):
        raise _validation(f"The embedded cloud does not compute the statistic {name}.")


def _common_period(queries: list[Request]) -> int:
    periods = [int(query["MetricStat"]["Period"]) for query in queries if "MetricStat" in query]
    periods += [int(query["Period"]) for query in queries if "Period" in query]
    return max(periods, default=60)


def _period(value: Any) -> int:
    period_s = int(value)
    if period_s < 1 or (period_s % 60 and period_s not in (1, 5, 10, 20, 30)):
        raise _validation("The parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60.")
    return period_s


def _rounded(start: float, period_s: int) -> int:
    step = min(period_s, 60)
    return int(start // step * step)


def _token(place: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"from": place}).encode()).decode()


def _page(token: str | None) -> int:
    if not token:
        return 0
    try:
        return int(json.loads(base64.urlsafe_b64decode(token))["from"])
    except (ValueError, KeyError, TypeError):
        raise ServiceError("InvalidNextToken", "The next token specified is invalid.") from None


def _invalid(message: str) -> ServiceError:
    return ServiceError("InvalidParameterValue", message)


def _validation(message: str) -> ServiceError:
    return ServiceError("ValidationError", message)
