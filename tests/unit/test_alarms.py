"""Alarms and scaling of an endpoint, against botocore's models and the rules of CloudWatch."""

from datetime import timedelta

import pytest

from aws_shapes import assert_valid
from ebb.addresses import Address
from ebb.requests import alarms, scaling

TAGS = [{"Key": "ebb:stack", "Value": "ebb"}]
SERVERLESS = Address(address="ebb-cancer", kind="serverless", endpoint_name="ebb-cancer")
ASYNC = Address(address="ebb-cancer", kind="async", endpoint_name="ebb-cancer--async")
REALTIME = Address(
    address="ebb-cancer", kind="realtime", endpoint_name="ebb-cancer--realtime", component="ebb-cancer--g3"
)


@pytest.mark.parametrize("at", [SERVERLESS, ASYNC, REALTIME], ids=lambda at: at.kind)
def test_alarms_are_valid_for_cloudwatch_and_named_after_the_address(at):
    made = [
        alarms.errors(at, actions=["arn:aws:sns:us-east-1:123456789012:ebb"], tags=TAGS),
        alarms.latency(at, limit_s=0.05, actions=[], tags=TAGS),
        alarms.idle(at, window=timedelta(minutes=15), tags=TAGS),
        alarms.wake(at, policy_arn="arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:x", tags=TAGS),
        alarms.drift(at, psi=0.2, actions=[], tags=TAGS),
    ]
    for body in made:
        assert_valid("cloudwatch", "PutMetricAlarm", body)
    names = ["ebb-cancer-errors", "ebb-cancer-latency", "ebb-cancer-idle", "ebb-cancer-wake", "ebb-cancer-drift"]
    assert [body["AlarmName"] for body in made] == names


def test_silence_of_a_component_is_idleness_and_that_of_an_async_endpoint_is_not():
    quiet = {at.kind: alarms.idle(at, window=timedelta(minutes=15), tags=TAGS) for at in (ASYNC, REALTIME)}
    assert (quiet["async"]["MetricName"], quiet["async"]["TreatMissingData"]) == ("ApproximateBacklogSize", "missing")
    assert quiet["async"]["Dimensions"] == [{"Name": "EndpointName", "Value": "ebb-cancer--async"}]
    told = quiet["realtime"]
    assert (told["MetricName"], told["TreatMissingData"]) == ("InvocationsPerCopy", "breaching")
    assert told["Dimensions"] == [{"Name": "InferenceComponentName", "Value": "ebb-cancer--g3"}]
    assert all(not body["AlarmActions"] for body in quiet.values())


def test_the_first_call_wakes():
    for at, metric in ((ASYNC, "HasBacklogWithoutCapacity"), (REALTIME, "NoCapacityInvocationFailures")):
        body = alarms.wake(at, policy_arn="arn", tags=TAGS)
        assert (body["MetricName"], body["Threshold"], body["EvaluationPeriods"]) == (metric, 1, 1)
        assert (body["ComparisonOperator"], body["AlarmActions"]) == ("GreaterThanOrEqualToThreshold", ["arn"])


@pytest.mark.parametrize(
    ("window", "parts"),
    [
        pytest.param(timedelta(seconds=10), (60, 1), id="a minute at least"),
        pytest.param(timedelta(minutes=15), (60, 15), id="fifteen minutes"),
        pytest.param(timedelta(seconds=901), (60, 16), id="never shorter than asked for"),
        pytest.param(timedelta(hours=4), (300, 48), id="four hours"),
        pytest.param(timedelta(hours=12), (900, 48), id="half a day"),
        pytest.param(timedelta(hours=20), (3600, 20), id="most of a day"),
        pytest.param(timedelta(days=30), (3600, 24), id="a day is as far as this alarm looks back"),
    ],
)
def test_the_window_is_made_of_whole_periods(window, parts):
    body = alarms.idle(ASYNC, window=window, tags=TAGS)
    assert (body["Period"], body["DatapointsToAlarm"]) == parts
    assert body["Period"] * body["EvaluationPeriods"] <= 86_400


@pytest.mark.parametrize("at", [ASYNC, REALTIME], ids=lambda at: at.kind)
def test_scaling_is_valid_for_application_auto_scaling(at):
    service = "application-autoscaling"
    assert_valid(service, "RegisterScalableTarget", scaling.register_scalable_target(at, most=2))
    assert_valid(service, "PutScalingPolicy", scaling.put_scaling_policy(at))
    assert_valid(service, "DeregisterScalableTarget", scaling.deregister_scalable_target(at))
    assert scaling.register_scalable_target(at, most=2)["MinCapacity"] == 0
    assert scaling.put_scaling_policy(at)["PolicyName"] == "ebb-cancer-wake"


@pytest.mark.parametrize("at", [ASYNC, REALTIME], ids=lambda at: at.kind)
def test_its_wake_alarm_asks_for_its_own_copies_however_often_it_acts(at):
    """It acts again while it wakes: each caller that finds no copy yet, Ebb's delivery too, is counted by it."""
    body = scaling.put_scaling_policy(at.model_copy(update={"copies": 2}))["StepScalingPolicyConfiguration"]
    steps = [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 2}]
    assert (body["AdjustmentType"], body["StepAdjustments"]) == ("ExactCapacity", steps)


def test_a_component_is_scaled_by_its_copies_and_an_async_variant_by_its_instances():
    assert scaling.scalable(REALTIME)["ResourceId"] == "inference-component/ebb-cancer--g3"
    assert scaling.scalable(ASYNC)["ResourceId"] == "endpoint/ebb-cancer--async/variant/AllTraffic"
