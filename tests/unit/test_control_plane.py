"""Ebb's own bill: nothing is billed that has no price, nothing stands in the template that is not counted."""

import importlib

import pytest

from ebb import control_plane, pace
from ebb.control_plane import Line
from infrastructure import project


def test_every_resource_of_the_template_is_counted_or_known_to_be_free():
    lines = control_plane.standing(project.template()["Resources"])
    assert {line.service for line in lines} >= {"KMS", "CloudWatch", "SQS", "DynamoDB", "S3", "ECR"}


def test_a_new_kind_of_resource_must_be_counted():
    with pytest.raises(KeyError, match="AWS::EC2::NatGateway"):
        control_plane.standing({"Gate": {"Type": "AWS::EC2::NatGateway"}})


def test_a_price_that_is_not_in_the_table_is_an_error():
    with pytest.raises(KeyError):
        _ = Line("S3", "x", "s3_magic", 1).usd


@pytest.mark.parametrize("price", control_plane.prices(), ids=lambda each: each.name)
def test_every_price_has_a_unit_and_a_source_at_aws(price):
    assert price.source.startswith("https://aws.amazon.com/")
    assert price.unit
    assert price.usd >= 0


def test_worked_example_a_million_invocations_of_a_second_at_half_a_gigabyte():
    """1,000,000 requests at 0.20 USD per million; 500,000 GB-s at 0.0000133334: 0.20 + 6.6667 USD."""
    lines = control_plane.invocation("Lambda", "f", count=1e6, seconds=1, memory_mb=512, how="counted")
    assert control_plane.total_usd(lines) == pytest.approx(0.20 + 6.6667)


def test_free_tiers_are_told_apart_and_never_exceed_the_bill():
    lines = [Line("SQS", "a", "sqs_request", 700_000), Line("SQS", "b", "sqs_request", 700_000)]
    assert control_plane.total_usd(lines) == pytest.approx(0.56)
    assert control_plane.free_usd(lines) == pytest.approx(0.40), "one million a month, whoever uses it"
    assert control_plane.free_usd(lines, months=3) == pytest.approx(0.56)


def test_what_has_no_free_tier_saves_nothing():
    assert control_plane.free_usd([Line("CloudWatch", "reads", "cloudwatch_metric_read", 1e6)]) == 0


def test_a_queue_that_a_function_reads_is_polled_all_month():
    source = {"Type": "SQS", "Properties": {}}
    lines = control_plane.standing(
        {"F": {"Type": "AWS::Serverless::Function", "Properties": {"Events": {"Q": source}}}}
    )
    assert [line.units for line in lines] == [15 * 60 * 730]


def test_a_data_key_that_is_reused_for_longer_is_asked_for_less_often():
    def requests(seconds: int) -> float:
        queue = {"KmsMasterKeyId": "k", "KmsDataKeyReusePeriodSeconds": seconds}
        return sum(
            line.units for line in control_plane.standing({"Q": {"Type": "AWS::SQS::Queue", "Properties": queue}})
        )

    assert requests(300) == 12 * requests(3600)


def test_the_states_of_a_sleep_a_wake_and_a_look_are_those_of_the_machines(monkeypatch):
    monkeypatch.syspath_prepend(str(project.ROOT / "benchmarks"))
    counted = importlib.import_module("sweep").counted_states()
    assert counted == {name: getattr(control_plane, name) for name in counted}


def test_worked_example_a_sleep_and_a_wake_of_five_minutes():
    """Looks at 0, 2, 6, 14, 30, 62, 122, 182, 242 and 302 s; those of a sleep at 0, 2, 6, 10 s, and so on to 62 s.

    22 + 16 states with one look each, and 9 + 16 looks more: 63 states at 0.000025 USD.
    """
    assert [pace.looks_until(seconds) for seconds in (0, 1, 60, 300)] == [1, 2, 6, 10]
    assert [pace.looks_until(seconds, pace.SLEEPING_S) for seconds in (0, 1, 6, 60)] == [1, 2, 3, 17]
    states = next(line for line in control_plane.cycle() if line.price == "states_transition")
    assert states.units == 63
    assert 63 * 2.5e-5 < control_plane.total_usd(control_plane.cycle()) < 1.1 * 63 * 2.5e-5


@pytest.mark.parametrize(
    ("machine", "longest_s", "retries"),
    [
        ("scale_to_zero", pace.SLEEPING_S, pace.SLEEPING_RETRIES),
        ("wake_endpoint", pace.LONGEST_S, pace.MOST_RETRIES),
    ],
)
def test_a_machine_looks_as_often_as_is_counted_and_for_a_quarter_of_an_hour(machine, longest_s, retries):
    definition = project.machine(project.ROOT / "statemachines" / f"{machine}.asl.yaml")
    for name in ("Watch endpoint", "Watch component"):
        (rule,) = definition["States"][name]["Retry"]
        paced = {"IntervalSeconds": pace.FIRST_S, "BackoffRate": pace.FACTOR, "MaxDelaySeconds": longest_s}
        assert rule == {
            "ErrorEquals": ["States.QueryEvaluationError"],
            "MaxAttempts": retries,
            "JitterStrategy": "NONE",  # every one of them would be billed
            **paced,
        }
    watched_s = sum(pace.retry_s(number, longest_s) for number in range(1, retries + 1))
    assert 900 <= watched_s < 1000


def test_a_request_that_waits_for_the_end_of_a_sleep_waits_seconds_for_the_look_that_sees_it():
    """Five are Ebb's own, with the calls from that look until capacity is asked for: a second, two functions."""
    assert pace.SLEEPING_S + 2 * control_plane.STEP_S <= 5


def test_an_instance_type_is_priced_by_either_table():
    assert control_plane.instance_usd_per_hour("ml.t3.medium") == 0.05
    assert control_plane.instance_usd_per_hour("ml.m5.xlarge") == 0.23
    assert control_plane.instance_usd_per_hour("ml.m99.huge") is None
