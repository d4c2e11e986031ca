"""What is read of an endpoint: half an answer is an error, "not there" is an answer, and bodies can be sent again."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

import aws_shapes
from ebb import snapshot
from ebb.addresses import Address
from ebb.aws import endpoints, metrics
from ebb.endpoint_world import World
from ebb.errors import EndpointUnreadableError, MetricsUnavailableError, SnapshotUnreadableError

NOW = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PETS = Address(address="ebb-pets", kind="async", endpoint_name="ebb-pets--async")
COMPONENT = Address(address="ebb-pets", kind="realtime", endpoint_name="ebb-pets--realtime", component="ebb-pets--g1")
SHOP = Address(address="shop", origin="foreign", kind="classic", endpoint_name="shop", variant="blue")


class CloudWatch:
    """GetMetricData with what a test wants it to answer."""

    def __init__(self, pages: list[Any]):
        self.pages, self.asked = pages, []

    def get_metric_data(self, **request: Any) -> Any:
        """Answer with the next page."""
        self.asked.append(request)
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page(request) if callable(page) else page


def _page(status: str = "Complete", points: dict[str, list[float]] | None = None, token: str | None = None):
    def answer(request: Any) -> dict[str, Any]:
        results = []
        for query in request["MetricDataQueries"]:
            values = (points or {}).get(query["Id"], [])
            times = [NOW.replace(second=0) - number * MINUTE for number in range(len(values))]
            results.append({"Id": query["Id"], "StatusCode": status, "Timestamps": times, "Values": values})
        return {"MetricDataResults": results} | ({"NextToken": token} if token else {})

    return answer


@pytest.fixture
def cloudwatch(monkeypatch):
    def use(*pages: Any) -> CloudWatch:
        fake = CloudWatch(list(pages))
        monkeypatch.setattr(metrics, "client", lambda _: fake)
        return fake

    return use


def _observe(at: Address, variants: tuple[str, ...] = ("AllTraffic",)) -> metrics.Traffic:
    return metrics.observe(at, variants, since=NOW - 20 * MINUTE, now=NOW)


@pytest.mark.parametrize(
    ("at", "variants", "calls", "beats"),
    [
        pytest.param(
            PETS,
            ("AllTraffic",),
            {"ApproximateBacklogSize", "InvocationsProcesssed", "InvocationsProcessed"},
            {"CPUUtilization", "ApproximateBacklogSize"},
            id="async publishes no Invocations",
        ),
        pytest.param(
            COMPONENT,
            ("AllTraffic",),
            {"InvocationsPerCopy", "ConcurrentRequestsPerCopy"},
            {"CPUUtilization"},
            id="component",
        ),
        pytest.param(
            SHOP, ("blue", "green"), {"Invocations", "ConcurrentRequestsPerModel"}, {"CPUUtilization"}, id="classic"
        ),
    ],
)
def test_each_kind_is_asked_for_what_it_publishes(cloudwatch, at, variants, calls, beats):
    fake = cloudwatch(_page())
    _observe(at, variants)
    (request,) = fake.asked
    aws_shapes.assert_valid("cloudwatch", "GetMetricData", request)
    asked = [each["MetricStat"] for each in request["MetricDataQueries"]]
    assert {each["Metric"]["MetricName"] for each in asked if each["Stat"] != "SampleCount"} == calls
    assert {each["Metric"]["MetricName"] for each in asked if each["Stat"] == "SampleCount"} == beats
    assert len(asked) == len(variants) * 3 if at is SHOP else True


def test_a_minute_with_a_value_is_a_call_and_a_zero_is_none(cloudwatch):
    cloudwatch(_page(points={"backlog": [0.0, 2.0, 0.0], "beat0": [1.0] * 3, "backlogs": [1.0] * 3}))
    seen = _observe(PETS)
    assert seen.calls == (NOW.replace(second=0) - MINUTE,)
    assert len(seen.heartbeats) == 3


def test_a_heartbeat_of_one_variant_is_none_of_the_endpoint(cloudwatch):
    cloudwatch(_page(points={"beat0": [1.0] * 3}))
    assert _observe(SHOP, ("blue", "green")).heartbeats == ()


def test_pages_are_read_to_the_end(cloudwatch):
    cloudwatch(_page("PartialData", {"backlog": [1.0]}, token="more"), _page(points={"backlog": [0.0, 0.0, 3.0]}))
    assert len(_observe(PETS).calls) == 2


def _throttled() -> ClientError:
    return ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, "GetMetricData")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_page("PartialData"), id="a part"),
        pytest.param(_page("InternalError"), id="an internal error"),
        pytest.param(_page("Forbidden"), id="forbidden"),
        pytest.param({"MetricDataResults": []}, id="no result for a query"),
        pytest.param(_throttled(), id="throttled"),
        pytest.param(ReadTimeoutError(endpoint_url="https://monitoring"), id="no answer"),
    ],
)
def test_half_an_answer_is_an_error_and_not_silence(cloudwatch, answer):
    cloudwatch(answer)
    with pytest.raises(MetricsUnavailableError):
        _observe(PETS)


# ---- SageMaker ----


@pytest.fixture
def sagemaker(account):
    client = boto3.client("sagemaker", "us-east-1")
    variant = {"VariantName": "blue", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client.create_model(ModelName="m", ExecutionRoleArn="arn:aws:iam::123456789012:role/model")
    client.create_endpoint_config(EndpointConfigName="shop-1", ProductionVariants=[variant])
    client.create_endpoint(EndpointName="shop", EndpointConfigName="shop-1", Tags=[{"Key": "team", "Value": "shop"}])
    return client


def test_what_is_read_of_an_endpoint_can_be_sent_to_make_it_again(sagemaker):
    cloudwatch = boto3.client("cloudwatch", "us-east-1")
    for name, endpoint in (("shop-busy", "shop"), ("market-busy", "market")):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SageMaker",
            MetricName="Invocations",
            Dimensions=[{"Name": "EndpointName", "Value": endpoint}],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanThreshold",
        )
    world = endpoints.observe(SHOP)
    assert world.status == "InService"
    assert world.tags == {"team": "shop"}
    assert [each["AlarmName"] for each in world.alarms] == ["shop-busy"]
    assert world.config_made_at == sagemaker.describe_endpoint_config(EndpointConfigName="shop-1")["CreationTime"]
    aws_shapes.assert_valid("sagemaker", "CreateEndpointConfig", world.config)
    aws_shapes.assert_valid("cloudwatch", "PutMetricAlarm", world.alarms[0])
    taken = snapshot.take(SHOP, world, NOW)
    assert snapshot.read(taken.text(), taken.digest()) == taken


def test_an_endpoint_that_is_not_there_is_an_answer(sagemaker):
    sagemaker.delete_endpoint(EndpointName="shop")
    world = endpoints.observe(SHOP)
    assert (world.endpoint, world.status) == (None, "Missing")


def test_an_endpoint_that_cannot_be_read_is_an_error_and_not_gone(sagemaker, monkeypatch):
    def throttled(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, "DescribeEndpoint")

    monkeypatch.setattr(endpoints.client("sagemaker"), "describe_endpoint", throttled)
    with pytest.raises(EndpointUnreadableError, match="ThrottlingException"):
        endpoints.observe(SHOP)


def test_only_what_was_read_again_counts_as_kept(sagemaker, account):
    taken = snapshot.take(SHOP, endpoints.observe(SHOP), NOW)
    uri = endpoints.keep("ebb-artifacts-123456789012", snapshot.key("shop", 7), taken)
    assert uri.endswith("/endpoints/shop/7.json")
    assert endpoints.recall(uri, taken.digest()) == taken
    with pytest.raises(SnapshotUnreadableError):
        endpoints.recall(uri, "0" * 64)
    with pytest.raises(SnapshotUnreadableError):
        endpoints.recall(uri + "x", taken.digest())


def test_a_snapshot_that_is_too_long_for_the_ledger_lies_in_s3_only(sagemaker):
    taken = snapshot.take(SHOP, endpoints.observe(SHOP), NOW)
    assert "copy" in snapshot.kept(taken, "s3://b/k")
    many = [{"AlarmName": hashlib.sha256(str(number).encode()).hexdigest()} for number in range(2000)]
    assert "copy" not in snapshot.kept(taken.model_copy(update={"alarms": tuple(many)}), "s3://b/k")


def test_the_habit_is_that_of_all_components_that_served_at_the_address(cloudwatch):
    fake = cloudwatch(_page())
    at = COMPONENT.model_copy(update={"earlier_components": ("ebb-pets--g0", "ebb-pets--g9")})
    metrics.history(at, ("AllTraffic",), since=NOW - 20 * MINUTE, now=NOW)
    asked = [each["MetricStat"]["Metric"]["Dimensions"] for each in fake.asked[0]["MetricDataQueries"]]
    assert [each[0]["Value"] for each in asked] == [COMPONENT.component, "ebb-pets--g0", "ebb-pets--g9"]


def test_a_model_that_is_deleted_under_a_running_endpoint_is_noticed(account):
    sagemaker = endpoints.client("sagemaker")
    role = "arn:aws:iam::123456789012:role/x"
    sagemaker.create_model(ModelName="there", ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
    variants = [{"VariantName": name, "ModelName": name} for name in ("there", "gone")]
    assert endpoints.models_gone(World(config={"ProductionVariants": variants})) == ("gone",)
