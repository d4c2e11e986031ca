"""What endpoints note of their calls: what the spec may ask, what the deployment sends, where it lies and how long."""

from datetime import timedelta
from typing import Any

import pytest

from aws_shapes import assert_valid
from ebb import addresses, capture, names, rollout, serving, serving_model, spec, traffic
from ebb.addresses import Address
from ebb.errors import InvalidSpecError
from ebb.requests import alarms
from ebb.rollout import Seen
from ebb.spec_parts import CaptureSpec, RetrainSpec
from ebb.spec_serve import ServeSpec
from unit.test_rollout import KINDS, MODEL, NOON
from worked_run import STACK

ASKED = {"capture": {"share": 0.25, "keep": 10 * 86400}, "drift": {"psi": 0.3}}


def _plan(kind: str, retrain: dict[str, Any] | None = None, seen: Seen | None = None) -> dict[str, Any]:
    serve = ServeSpec()
    choice = serving.choose(
        serve=serve,
        model=serving_model.Model.of(MODEL.candidate),
        traffic=traffic.UNKNOWN,
        region="us-east-1",
        asked=kind,
    )
    asked = RetrainSpec.model_validate(retrain or {})
    wanted = rollout.wanted("cancer", MODEL, choice, serve, retrain=asked)
    execution = names.execution(MODEL.run_id, MODEL.attempt)
    return rollout.build(STACK, wanted, seen or Seen(), {}, execution=execution, now=NOON)


# ---- The spec ----


def test_nothing_is_noted_unless_it_is_asked_for():
    assert spec.parse(b"", file="pipeline.yaml").retrain.capture is None
    plan = _plan("serverless")
    assert capture.SHARE not in plan["model"]["PrimaryContainer"]["Environment"]
    assert not [each for each in plan["alarms"] if each["AlarmName"].endswith("-drift")]


def test_what_is_asked_for_has_its_defaults():
    asked = spec.parse(b"retrain: {capture: {}}", file="pipeline.yaml")
    assert asked.retrain.capture == CaptureSpec(share=0.1, keep=timedelta(days=14))
    assert spec.PipelineSpec.model_validate(asked.resolved()) == asked


@pytest.mark.parametrize(
    ("text", "field"),
    [
        pytest.param("retrain: {capture: {share: 0}}", "retrain.capture.share", id="no share"),
        pytest.param("retrain: {capture: {share: 1.5}}", "retrain.capture.share", id="more than all"),
        pytest.param("retrain: {capture: {keep: 2h}}", "retrain.capture.keep", id="less than a day"),
        pytest.param("retrain: {capture: {keep: 14}}", "retrain.capture.keep", id="an age without its unit"),
        pytest.param("retrain: {capture: {}}\nserve: {kind: batch}", "retrain.capture", id="a batch has no endpoint"),
    ],
)
def test_what_cannot_be_noted_is_refused_by_the_fields_name(text, field):
    with pytest.raises(InvalidSpecError) as refused:
        spec.parse(text.encode(), file="pipeline.yaml")
    assert refused.value.rejection.column == field


def test_a_limit_of_drift_is_acted_on_only_where_requests_are_noted():
    with_capture = spec.parse(b"retrain: {capture: {}, drift: {psi: 0.3}}", file="pipeline.yaml")
    without = spec.parse(b"retrain: {drift: {psi: 0.3}}", file="pipeline.yaml")
    assert "retrain.drift" not in with_capture.not_acted_on()
    assert "retrain.drift" in without.not_acted_on()


# ---- The deployment ----


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "batch"])
def test_every_kind_of_container_is_told_its_share_and_its_address(kind):
    told = _plan(kind, ASKED)["model"]["PrimaryContainer"]["Environment"]
    assert (told[capture.SHARE], told[capture.ENDPOINT]) == ("0.25", "ebb-cancer")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "batch"])
def test_an_alarm_of_drift_is_born_with_the_endpoint_and_undoes_no_deployment(kind):
    plan = _plan(kind, ASKED)
    (drift,) = [each for each in plan["alarms"] if each["AlarmName"] == "ebb-cancer-drift"]
    assert_valid("cloudwatch", "PutMetricAlarm", drift)
    assert (drift["Namespace"], drift["MetricName"], drift["Threshold"]) == ("Ebb/Drift", "Psi", 0.3)
    assert drift["Dimensions"] == [{"Name": "EndpointName", "Value": "ebb-cancer"}]
    (errors,) = [each for each in plan["alarms"] if each["AlarmName"] == "ebb-cancer-errors"]
    assert (drift["TreatMissingData"], drift["AlarmActions"]) == ("notBreaching", errors["AlarmActions"])
    assert "ebb-cancer-drift" not in plan["watched"]
    assert "ebb-cancer-errors" in plan["watched"]


def test_without_a_limit_there_is_a_metric_and_no_alarm():
    names_of = {each["AlarmName"] for each in _plan("serverless", {"capture": {}})["alarms"]}
    assert names_of == {"ebb-cancer-errors", "ebb-cancer-latency"}


def test_a_batch_model_that_once_had_an_endpoint_notes_nothing():
    plan = _plan("batch", ASKED)
    assert (plan["logs"], plan["alarms"]) == ([], [])


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("serverless", {"/aws/sagemaker/Endpoints/ebb-cancer": 7}),
        ("async", {"/aws/sagemaker/Endpoints/ebb-cancer--async": 7}),
        (
            "realtime",
            {
                "/aws/sagemaker/Endpoints/ebb-cancer--realtime": None,
                "/aws/sagemaker/InferenceComponents/ebb-cancer--g3": 7,
            },
        ),
    ],
)
def test_the_group_that_the_container_writes_to_keeps_it_no_longer_than_asked(kind, kept):
    assert {each["name"]: each.get("days") for each in _plan(kind, ASKED)["logs"]} == kept


def test_a_shared_endpoints_own_log_is_not_this_projects_to_shorten():
    shared, own = _plan("shared", ASKED)["logs"]
    assert shared["name"].startswith("/aws/sagemaker/Endpoints/ebb--shared-")
    assert "days" not in shared
    assert own == {"name": "/aws/sagemaker/InferenceComponents/ebb-cancer--g3", "days": 7}


def _seen(days: int | None) -> Seen:
    at = Address(
        address="ebb-cancer", project="cancer", kind="serverless", endpoint_name="ebb-cancer", capture_days=days
    )
    return Seen(address=at)


def test_what_was_noted_earlier_lives_no_longer_when_nothing_is_noted_any_more():
    plan = _plan("serverless", {}, _seen(7))
    assert plan["logs"] == [{"name": "/aws/sagemaker/Endpoints/ebb-cancer", "most": 7}]
    assert plan["switch"]["ExpressionAttributeValues"][":capture_days"] == {"N": "7"}


def test_a_new_limit_takes_the_place_of_the_earlier_one():
    plan = _plan("serverless", ASKED, _seen(30))
    assert plan["logs"] == [{"name": "/aws/sagemaker/Endpoints/ebb-cancer", "days": 7}]
    assert plan["switch"]["ExpressionAttributeValues"][":capture_days"] == {"N": "7"}


def test_an_alarm_of_drift_goes_when_nobody_asks_for_it_any_more():
    before = _seen(7)
    at = before.address
    assert at
    seen = Seen(address=at, alarms=[alarms.drift(at, psi=0.2, actions=[], tags=[])])
    gone = [each for each in _plan("serverless", {}, seen)["superseded"] if each["what"] == "alarms"]
    assert gone == [{"what": "alarms", "names": ["ebb-cancer-drift"]}]


# ---- Where it lies, and how long ----


@pytest.mark.parametrize(
    ("asked", "days"),
    [
        pytest.param(timedelta(days=1), 1, id="a day"),
        pytest.param(timedelta(days=2), 1, id="rounded down"),
        pytest.param(timedelta(days=29), 14, id="never older than asked"),
        pytest.param(timedelta(days=30), 30, id="exactly"),
        pytest.param(timedelta(days=3653), 3653, id="ten years"),
    ],
)
def test_an_age_limit_is_rounded_down_to_what_cloudwatch_knows(asked, days):
    assert capture.keep_days(asked) == days


def test_the_days_are_those_that_the_service_takes():
    for days in capture.RETENTION_DAYS:
        assert_valid("logs", "PutRetentionPolicy", {"logGroupName": "/x", "retentionInDays": days})


def test_samples_are_looked_for_where_earlier_components_and_kinds_left_them():
    at = Address(
        address="ebb-cancer",
        kind="realtime",
        endpoint_name="ebb-cancer--realtime",
        component="ebb-cancer--g4",
        earlier_components=("ebb-cancer--g3",),
    )
    assert capture.log_groups(at) == [
        "/aws/sagemaker/InferenceComponents/ebb-cancer--g4",
        "/aws/sagemaker/InferenceComponents/ebb-cancer--g3",
        "/aws/sagemaker/Endpoints/ebb-cancer",
        "/aws/sagemaker/Endpoints/ebb-cancer--async",
        "/aws/sagemaker/Endpoints/ebb-cancer--realtime",
    ]


def test_an_address_remembers_its_limit_in_the_ledger():
    at = Address(address="ebb-cancer", kind="serverless", capture_days=7)
    item = addresses.put(at, now=NOON)["ExpressionAttributeValues"]
    assert item[":capture_days"] == 7
