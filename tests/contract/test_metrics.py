"""Metrics: what was published is found again exactly, in pages and within limits, and math says what it means."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError
from ministack.services import cloudwatch
from ministack.services.cloudformation import provisioners

from contract.support import allow, task
from ebb_local.cloudwatch import expressions, search, statistics, store
from ebb_local.cloudwatch.expressions import ExpressionError, Labelled, Scope

DAY_S = 86_400


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (cloudwatch, "handle_request"),
        (cloudwatch, "record_metric"),
        (cloudwatch, "get_state"),
        (cloudwatch, "load_persisted_state"),
        (cloudwatch, "cloudformation_put_metric_alarm"),
        (provisioners, "_cw_metric_alarm_record"),
    ],
)
def test_used_function_exists(module, name):
    assert callable(getattr(module, name))


# ---- what is kept


def series(*points: tuple[float, float], now_s: float) -> store.Series:
    made = store.Series("n", "m", ())
    for moment, value in points:
        made.add(moment, store.Sample.of(value), now_s)
    return made


def test_old_points_become_coarser_and_are_dropped_in_the_end():
    made = series(*((float(second), 1.0) for second in range(0, 7200, 10)), now_s=7200)
    assert len(made.between(0, 7200, 1)) == 720
    made.age(4 * 3600)
    assert len(made.between(0, 3600, 60)) == 60, "minutes"
    assert made.between(0, 3600, 1) == [], "no seconds any more"
    made.age(16 * DAY_S)
    assert len(made.between(0, 7200, 300)) == 24
    made.age(64 * DAY_S)
    assert [sample.total for _, sample in made.between(0, 7200, 3600)] == [360, 360]
    made.age(456 * DAY_S)
    assert made.last() == 0


def test_nothing_is_lost_or_counted_twice_while_it_gets_coarser():
    made = store.Series("n", "m", ())
    for minute in range(4 * 1440):
        made.add(minute * 60 + 7, store.Sample.of(1.0), minute * 60 + 8)
    now_s = 4 * 1440 * 60
    values = statistics.series_values(made, "Sum", start=0, end=now_s, period_s=3600)
    assert sum(values.values()) == 4 * 1440
    assert set(values.values()) == {60.0}


def test_a_day_in_one_minute_steps_stays_small():
    made = store.Series("n", "m", ())
    for second in range(DAY_S):
        made.add(second, store.Sample.of(second % 7), second)
    assert sum(len(tier.times) for tier in made.tiers) < 3 * 3600 + 1440 + 2


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [("SampleCount", 4), ("Sum", 10), ("Average", 2.5), ("Minimum", 1), ("Maximum", 4), ("p50", 2.5), ("p100", 4)],
)
def test_statistics(statistic, expected):
    whole = store.merged(store.Sample.of(float(value)) for value in (4, 1, 3, 2))
    assert statistics.value(whole, statistic) == expected


def test_percentile_of_a_statistic_set_is_not_known():
    members = {"SampleCount": 2, "Sum": 3, "Minimum": 1, "Maximum": 2}
    assert statistics.value(store.Sample.of_set(members), "p50") is None


def test_what_is_saved_comes_back():
    store.clear()
    store.put("n", "m", {"A": "b"}, store.Sample.of(2.0, 3), at=100, now_s=100, unit="Count")
    saved = json.loads(json.dumps(store.save()))
    store.clear()
    store.load(saved)
    found = store.find("n", "m", [{"Name": "A", "Value": "b"}])
    assert found.unit == "Count"
    assert [(moment, sample.total) for moment, sample in found.between(0, 200, 1)] == [(100, 6.0)]
    store.clear()


# ---- math

SCOPE = Scope(
    results={"a": {0: 1.0, 60: 2.0, 180: 4.0}, "b": {0: 10.0, 60: 0.0}, "none": {}},
    metrics=["a", "b", "none"],
    moments=range(0, 240, 60),
    period_s=60,
    search=lambda text, statistic, period_s: [Labelled("x", {0: 5.0}), Labelled("y", {0: 7.0, 60: 1.0})],
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param("a + b", {0: 11, 60: 2}, id="series are joined where both are"),
        pytest.param("a * 2 + 1", {0: 3, 60: 5, 180: 9}, id="product before sum"),
        pytest.param("2 ^ 3 - -1", 9, id="numbers"),
        pytest.param("a / b", {0: 0.1}, id="nothing is divided by zero"),
        pytest.param("a > 1", {0: 0, 60: 1, 180: 1}, id="a comparison is 1 or 0"),
        pytest.param("a > 1 AND b == 0", {0: 0, 60: 1}, id="both"),
        pytest.param("FILL(a, 0)", {0: 1, 60: 2, 120: 0, 180: 4}, id="filled with a number"),
        pytest.param("FILL(none, 0)", {0: 0, 60: 0, 120: 0, 180: 0}, id="even when nothing was published"),
        pytest.param("FILL(a, REPEAT)", {0: 1, 60: 2, 120: 2, 180: 4}, id="with the last one"),
        pytest.param("FILL(a, LINEAR)", {0: 1, 60: 2, 120: 3, 180: 4}, id="on a line"),
        pytest.param("IF(a > 1, b, 9)", {0: 9, 60: 0}, id="one or the other"),
        pytest.param("SUM(a)", 7, id="of one series a number"),
        pytest.param("SUM([a, b])", {0: 11, 60: 2, 180: 4}, id="of several a series"),
        pytest.param("MAX(METRICS())", {0: 10, 60: 2, 180: 4}, id="all metrics"),
        pytest.param("AVG(SEARCH('{n} m', 'Sum', 60))", {0: 6, 60: 1}, id="what is found"),
        pytest.param("a - SUM(a)", {0: -6, 60: -5, 180: -3}, id="a series and a number"),
        pytest.param("RATE(a)", {60: 1 / 60, 180: 2 / 120}, id="per second"),
        pytest.param("RUNNING_SUM(a)", {0: 1, 60: 3, 180: 7}, id="so far"),
    ],
)
def test_expression(expression, expected):
    assert expressions.evaluate(expression, SCOPE) == expected


@pytest.mark.parametrize(
    "expression", ["a +", "ANOMALY_DETECTION_BAND(a)", "c + 1", "a b", "[a", "SUM(a, b)", "FILL(1, 0)"]
)
def test_expression_is_refused(expression):
    with pytest.raises(ExpressionError):
        expressions.evaluate(expression, SCOPE)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{AWS/SageMaker,EndpointName,VariantName} MetricName="Invocations"', ["one", "two"]),
        ('{AWS/SageMaker,EndpointName} MetricName="Invocations"', []),
        ('{AWS/SageMaker,VariantName,EndpointName} EndpointName="one"', ["one"]),
        ('Namespace="AWS/SageMaker" Invocations NOT EndpointName="one"', ["two"]),
        ('EndpointName="one" OR EndpointName="two"', ["one", "two"]),
        ('MetricName="Invocations" (EndpointName="one" OR EndpointName="none")', ["one"]),
    ],
)
def test_search(text, found):
    test = search.matcher(text)
    known = [
        store.Series("AWS/SageMaker", "Invocations", (("EndpointName", name), ("VariantName", "all")))
        for name in ("one", "two")
    ]
    assert [dict(each.dimensions)["EndpointName"] for each in known if test(each)] == found


# ---- the service


@pytest.fixture
def put(cloud, name):
    client = cloud.client("cloudwatch")

    def send(metric: str, *values: float, at: datetime | None = None, **dimensions: str) -> None:
        row = {"MetricName": metric, "Dimensions": [{"Name": key, "Value": text} for key, text in dimensions.items()]}
        moment = {"Timestamp": at} if at else {}
        client.put_metric_data(Namespace=name, MetricData=[{**row, **moment, "Value": value} for value in values])

    return send


def now(cloud) -> datetime:
    return datetime.fromtimestamp(cloud.control("Status")["Now"], UTC)


def query(name: str, metric: str, stat: str = "Sum", period: int = 60, key: str = "m", **dimensions: str) -> dict:
    listed = [{"Name": each, "Value": text} for each, text in dimensions.items()]
    named = {"Namespace": name, "MetricName": metric, "Dimensions": listed}
    return {"Id": key, "MetricStat": {"Metric": named, "Period": period, "Stat": stat}}


def data(cloud, *queries: dict, **members) -> dict:
    end = now(cloud)
    window = {"StartTime": end - timedelta(hours=1), "EndTime": end + timedelta(minutes=1)}
    return cloud.client("cloudwatch").get_metric_data(MetricDataQueries=list(queries), **{**window, **members})


def test_only_the_metric_of_exactly_these_dimensions_counts(cloud, put, name):
    put("Calls", 1)
    put("Calls", 10, Endpoint="one")
    put("Calls", 100, Endpoint="one", Variant="a")
    found = data(cloud, query(name, "Calls"), query(name, "Calls", key="one", Endpoint="one"))
    assert [sum(row["Values"]) for row in found["MetricDataResults"]] == [1, 10]


def test_values_with_counts_and_statistic_sets(cloud, name):
    rows = [
        {"MetricName": "Latency", "Values": [1.0, 5.0], "Counts": [3.0, 1.0]},
        {"MetricName": "Set", "StatisticValues": {"SampleCount": 4, "Sum": 20, "Minimum": 2, "Maximum": 9}},
    ]
    cloud.client("cloudwatch").put_metric_data(Namespace=name, MetricData=rows)
    found = data(
        cloud,
        query(name, "Latency", "SampleCount", key="count"),
        query(name, "Latency", "p90", key="slow"),
        query(name, "Set", "Average", key="mean"),
    )
    count, slow, mean = (row["Values"] for row in found["MetricDataResults"])
    assert (count, mean) == ([4.0], [5.0])
    assert slow[0] == pytest.approx(3.8)  # rank 2.7 of 1, 1, 1, 5


def test_math_over_a_window_in_which_nobody_called(cloud, put, name):
    put("Calls", 3, Endpoint="busy")
    end = now(cloud)
    found = cloud.client("cloudwatch").get_metric_data(
        MetricDataQueries=[
            {**query(name, "Calls", key="a", Endpoint="busy"), "ReturnData": False},
            {**query(name, "Calls", key="b", Endpoint="idle"), "ReturnData": False},
            {"Id": "both", "Expression": "FILL(a, 0) + FILL(b, 0)", "Label": "all calls"},
        ],
        StartTime=end - timedelta(minutes=5),
        EndTime=end + timedelta(minutes=1),
        ScanBy="TimestampAscending",
    )["MetricDataResults"]
    assert [row["Label"] for row in found] == ["all calls"]
    assert sum(found[0]["Values"]) == 3
    assert len(found[0]["Values"]) >= 5
    assert found[0]["Timestamps"] == sorted(found[0]["Timestamps"])


def test_search_finds_each_endpoint(cloud, put, name):
    for endpoint in ("one", "two"):
        put("Calls", 1, EndpointName=endpoint)
    expression = f"SEARCH('{{{name},EndpointName}} MetricName=\"Calls\"', 'Sum', 60)"
    found = data(cloud, {"Id": "all", "Expression": expression})["MetricDataResults"]
    assert sorted(row["Label"] for row in found) == ["one", "two"]


def test_pages_hold_all_points_once(cloud, put, name):
    end = now(cloud)
    for minute in range(10):
        put("Calls", 1, at=end - timedelta(minutes=minute))
    asked = [query(name, "Calls", key="a"), query(name, "Calls", "Maximum", key="b")]
    values, token, pages = {"a": [], "b": []}, {}, 0
    while pages == 0 or token:
        page = data(cloud, *asked, MaxDatapoints=7, EndTime=end + timedelta(minutes=1), **token)
        for row in page["MetricDataResults"]:
            values[row["Id"]] += row["Values"]
        token = {"NextToken": page["NextToken"]} if "NextToken" in page else {}
        pages += 1
    assert (len(values["a"]), len(values["b"]), pages) == (10, 10, 3)


@pytest.mark.parametrize(
    ("queries", "members", "text"),
    [
        ([query("n", "m", key=f"m{number}") for number in range(501)], {}, "must not have a size greater than 500"),
        ([query("n", "m")], {"MaxDatapoints": 100_801}, "MaxDatapoints"),
        ([query("n", "m"), query("n", "m")], {}, "not unique"),
        ([{"Id": "e", "Expression": "ANOMALY_DETECTION_BAND(m)"}, query("n", "m")], {}, "ANOMALY_DETECTION_BAND"),
        ([query("n", "m", "tm90")], {}, "tm90"),
        ([{"Id": "e", "Expression": "1 + 1"}], {}, "not a series"),
        ([{"Id": "q", "Expression": "SELECT AVG(x) FROM y"}], {}, "Metrics Insights"),
    ],
)
def test_query_is_refused(cloud, queries, members, text):
    with pytest.raises(ClientError, match=text) as refused:
        data(cloud, *queries, **members)
    assert refused.value.response["Error"]["Code"] == "ValidationError"


def test_statistics_of_too_many_points_are_refused(cloud, put, name):
    put("Calls", 2)
    ask = cloud.client("cloudwatch").get_metric_statistics
    end = now(cloud) + timedelta(minutes=1)
    request = {"Namespace": name, "MetricName": "Calls", "EndTime": end, "Period": 60, "Statistics": ["Sum"]}
    assert [row["Sum"] for row in ask(StartTime=end - timedelta(hours=1), **request)["Datapoints"]] == [2.0]
    with pytest.raises(ClientError, match=r"exceeds the limit of 1440"):
        ask(StartTime=end - timedelta(days=2), **request)


def test_metrics_are_listed_in_pages_by_name_and_dimensions(cloud, name):
    client = cloud.client("cloudwatch")
    rows = [
        {"MetricName": "Calls", "Dimensions": [{"Name": "Endpoint", "Value": f"e{number}"}], "Value": 1}
        for number in range(501)
    ]
    client.put_metric_data(Namespace=name, MetricData=rows)
    first = client.list_metrics(Namespace=name)
    assert len(first["Metrics"]) == 500
    assert len(client.list_metrics(Namespace=name, NextToken=first["NextToken"])["Metrics"]) == 1
    only = client.list_metrics(Namespace=name, Dimensions=[{"Name": "Endpoint", "Value": "e7"}])["Metrics"]
    assert [row["Dimensions"] for row in only] == [[{"Name": "Endpoint", "Value": "e7"}]]
    assert client.list_metrics(Namespace=name, Dimensions=[{"Name": "Variant"}])["Metrics"] == []


def test_recently_active_metrics_are_those_of_three_hours(cloud, put, name):
    client = cloud.client("cloudwatch")
    put("Calls", 1, Endpoint="early")
    cloud.advance(3 * 3600 + 60)
    put("Calls", 1, Endpoint="late")
    recent = client.list_metrics(Namespace=name, RecentlyActive="PT3H")["Metrics"]
    assert [row["Dimensions"][0]["Value"] for row in recent] == ["late"]
    assert len(client.list_metrics(Namespace=name)["Metrics"]) == 2


def test_namespace_of_aws_is_for_aws_and_the_root(cloud, role):
    request = {"Namespace": "AWS/SageMaker", "MetricData": [{"MetricName": "Fake", "Value": 1}]}
    with pytest.raises(ClientError, match="Namespace is invalid"):
        cloud.client("cloudwatch", role(allow("cloudwatch:PutMetricData")).session).put_metric_data(**request)
    cloud.client("cloudwatch").put_metric_data(**request)


def test_state_machine_reads_and_writes_metrics_and_alarms(cloud, machine, name):
    alarm = {
        "AlarmName": name, "Namespace": name, "MetricName": "m", "Statistic": "Sum", "Period": 60,
        "EvaluationPeriods": 1, "Threshold": 1, "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": "ignore", "Dimensions": [{"Name": "A", "Value": "b"}],
    }  # fmt: skip
    sdk = "arn:aws:states:::aws-sdk:cloudwatch:"
    states = {
        "Put": task(f"{sdk}putMetricAlarm", alarm, Next="Disable"),
        "Disable": task(f"{sdk}disableAlarmActions", {"AlarmNames": [name]}, Next="Describe"),
        "Describe": task(f"{sdk}describeAlarms", {"AlarmNames": [name]}, Next="Delete",
                         Assign={"seen": "{% $states.result.MetricAlarms[0] %}"}),
        "Delete": task(f"{sdk}deleteAlarms", {"AlarmNames": [name]}, Output="{% $seen %}"),
    }  # fmt: skip
    done = machine(states, allow("cloudwatch:*")).run()
    assert done["status"] == "SUCCEEDED", done.get("cause")
    assert (done["output"]["AlarmName"], done["output"]["ActionsEnabled"]) == (name, False)
    assert done["output"]["Threshold"] == 1.0
    assert cloud.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"] == []
