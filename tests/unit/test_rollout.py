"""What deploy_model is given to send: valid for AWS in every kind, creation and undoing alike, and true to the spec."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aws_shapes import assert_valid
from ebb import addresses, keep_alive_habits, names, rollout, serving, serving_model, traffic
from ebb.addresses import Address
from ebb.config_names import config_on, configs_of
from ebb.rollout import Endpoint, Model, Seen
from ebb.spec_serve import ServeSpec
from worked_run import ARTIFACTS, NOW, RUN_ID, STACK, candidate, moment

KINDS = ["serverless", "async", "realtime", "shared", "batch"]
INSTANCES = ["async", "realtime", "shared"]
NOON = moment(NOW)
MODEL = Model(
    run_id=RUN_ID,
    attempt=1,
    generation=3,
    bundle_uri=f"s3://{ARTIFACTS}/model.tar.gz",
    candidate=candidate("student", ("distill", "compile"), memory_mib=300.0),
)
LONGEST = Model(
    run_id=f"{'a' * 20}-20261123093000-3f9a1c07be",
    attempt=99,
    generation=10_000,
    bundle_uri=MODEL.bundle_uri,
    candidate=MODEL.candidate,
)


def _wanted(kind: str, model: Model = MODEL, **serve: Any) -> rollout.Wanted:
    spec = ServeSpec.model_validate(serve)
    known = serving_model.Model.of(model.candidate)
    choice = serving.choose(serve=spec, model=known, traffic=traffic.UNKNOWN, region="us-east-1", asked=kind)
    return rollout.wanted(names.project_of(model.run_id), model, choice, spec)


def _plan(kind: str, seen: Seen | None = None, *, model: Model = MODEL, execution: str = "", **serve: Any) -> Any:
    own = execution or names.execution(model.run_id, model.attempt)
    return rollout.build(STACK, _wanted(kind, model, **serve), seen or Seen(), {}, execution=own, now=NOON)


def _earlier(kind: str) -> Seen:
    """What an earlier run serves as this kind."""
    model = Model(**{**MODEL.model_dump(), "run_id": "cancer-20261122080000-aa01bb4c2d", "generation": 2})
    plan = _plan(kind, model=model)
    at = Address.model_validate(
        {key.removeprefix(":"): _plain(value) for key, value in plan["switch"]["ExpressionAttributeValues"].items()}
    )
    found = Endpoint(at.endpoint_name, "InService", plan["endpoint"]["config"]) if at.endpoint_name else None
    return Seen(address=at, superseded=found, alarms=plan["alarms"])


def _plain(value: Any) -> Any:
    ((kind, held),) = value.items()
    if kind in "ML":
        return {key: _plain(each) for key, each in held.items()} if kind == "M" else [_plain(each) for each in held]
    return float(held) if kind == "N" else held


@pytest.mark.parametrize("model", [MODEL, LONGEST], ids=["the worked run", "the longest names"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_request_is_valid(kind, model):
    for seen in [Seen(), *map(_earlier, KINDS)]:
        plan = _plan(kind, seen, model=model)
        for name in ("claim", "confirm", "commit", "release", "finish", "switch"):
            assert_valid("dynamodb", "UpdateItem", plan[name])
        if "model" in plan:
            assert_valid("sagemaker", "CreateModel", plan["model"])
        if endpoint := plan.get("endpoint"):
            assert_valid("sagemaker", "CreateEndpointConfig", endpoint["create_config"])
            assert_valid("sagemaker", "CreateEndpoint", endpoint["create"])
            if "update" in endpoint:
                assert_valid("sagemaker", "UpdateEndpoint", endpoint["update"])
        if "component" in plan:
            assert_valid("sagemaker", "CreateInferenceComponent", plan["component"])
        for each in plan["scaling"]:
            assert_valid("application-autoscaling", "RegisterScalableTarget", each["target"])
            assert_valid("application-autoscaling", "PutScalingPolicy", each["policy"])
        for each in [*plan["alarms"], *plan["undo"]["alarms"]]:
            assert_valid("cloudwatch", "PutMetricAlarm", each)
        if "address" in plan["undo"]:
            assert_valid("dynamodb", "UpdateItem", plan["undo"]["address"])
        _assert_deletions_are_valid([*plan["superseded"], *plan["undo"]["delete"]])


def _assert_deletions_are_valid(gone: list[dict[str, Any]]) -> None:
    for each in gone:
        what, body = each["what"], {key: value for key, value in each.items() if key != "what"}
        if what == "target":
            assert_valid("application-autoscaling", "DeregisterScalableTarget", body)
        elif what == "component":
            assert_valid("sagemaker", "DeleteInferenceComponent", {"InferenceComponentName": body["name"]})
        elif what == "endpoint":
            assert_valid("sagemaker", "DeleteEndpoint", {"EndpointName": body["name"]})
            assert_valid("sagemaker", "DeleteEndpointConfig", {"EndpointConfigName": body["config"]})
        elif what == "alarms":
            assert_valid("cloudwatch", "DeleteAlarms", {"AlarmNames": body["names"]})
        elif what == "address":
            assert_valid("dynamodb", "DeleteItem", body["request"])
        else:
            assert what in ("config", "model")


@pytest.mark.parametrize("kind", KINDS)
def test_no_address_has_more_than_two_alarms(kind):
    assert len(_plan(kind)["alarms"]) <= 2


def test_an_async_endpoint_writes_answers_and_failures_under_its_address_with_the_stacks_key():
    made = _plan("async")["endpoint"]["create_config"]["AsyncInferenceConfig"]["OutputConfig"]
    assert made == {
        "S3OutputPath": f"s3://{ARTIFACTS}/answers/ebb-cancer",
        "S3FailurePath": f"s3://{ARTIFACTS}/answers/ebb-cancer/failures",
        "KmsKeyId": STACK.data_key_arn,
    }


@pytest.mark.parametrize("kind", ["realtime", "shared"])
def test_the_instances_of_components_may_go_to_none(kind):
    made = _plan(kind)["endpoint"]["create_config"]
    (variant,) = made["ProductionVariants"]
    assert "ModelName" not in variant
    assert made["ExecutionRoleArn"].endswith("role/ebb/ebb-cancer-model")
    assert variant["ManagedInstanceScaling"]["MinInstanceCount"] == 0
    assert variant["ManagedInstanceScaling"]["MaxInstanceCount"] >= 2  # room for the next one beside this one


def test_a_shared_endpoint_belongs_to_no_project():
    tags = {each["Key"]: each["Value"] for each in _plan("shared")["endpoint"]["create"]["Tags"]}
    assert tags == {"ebb:stack": "ebb", "ebb:project": "shared"}


def _address(**serve: Any) -> Address:
    plan = _plan("realtime", **serve)
    values = plan["switch"]["ExpressionAttributeValues"]
    return Address.model_validate({key.removeprefix(":"): _plain(value) for key, value in values.items()})


def test_the_address_carries_the_policy_of_the_spec_and_what_it_takes_awake():
    at = _address(idle_after="20m", queue_for="2h", max_copies=3)
    assert (at.policy.sleeps, at.policy.idle_after_s, at.policy.queue_for_s) == (True, 1200, 7200)
    assert (at.address, at.endpoint_name, at.component) == ("ebb-cancer", "ebb-cancer--realtime", "ebb-cancer--g3")
    assert at.instance_type == at.instance_types[0]
    assert len(at.instance_types) > 1
    assert at.awake_usd_per_hour
    assert at.awake_watts
    assert at.in_service_since == NOON


def test_two_copies_that_never_sleep_take_twice_as_much():
    one, two = _address(), _address(availability="high")
    assert (two.copies, two.policy.sleeps) == (2, False)
    assert two.awake_usd_per_hour == pytest.approx(2 * one.awake_usd_per_hour)


@pytest.mark.parametrize(
    ("before", "gone"),
    [
        ("serverless", ["endpoint", "model", "alarms"]),
        ("async", ["target", "endpoint", "config", "model"]),
        ("shared", ["target", "component", "endpoint", "model"]),
        ("batch", ["model"]),
    ],
)
def test_what_is_superseded_goes_in_an_order_in_which_it_can(before, gone):
    deleted = _plan("realtime", _earlier(before))["superseded"]
    assert [*dict.fromkeys(each["what"] for each in deleted)] == gone


@pytest.mark.parametrize("kind", ["serverless", "async"])
def test_with_an_endpoint_go_the_configurations_that_it_had_on_other_instance_types(kind):
    """It was woken without capacity of its first type: two configurations stand, and either may be the one in use."""
    seen = _earlier("async")
    first, types = seen.superseded.config, seen.address.instance_types
    assert len(types) > 1
    on_second = config_on(first, types[1], types)
    for there in (first, on_second):
        plan = _plan(kind, replace(seen, superseded=Endpoint(seen.superseded.name, "InService", there)))
        parts = [each for each in plan["superseded"] if each["what"] in ("config", "endpoint")]
        gone = {each.get("config", each.get("name")) for each in parts}
        assert {first, on_second} <= gone
        assert plan["endpoint"]["config"] not in gone


def test_a_configuration_on_another_type_has_a_name_of_its_own_however_long_the_first_is():
    types = ("ml.m5.large", "ml.g5.12xlarge")
    long = "a" * 20 + "-20261122080000-aa01bb4c2d-a1-0a1b2c"
    names_ = [config_on(each, "ml.g5.12xlarge", types) for each in (long, long[:-1] + "d")]
    assert len(set(names_)) == 2
    assert all(len(each) <= 63 and each.endswith("-a-g5-12xlarge") for each in names_)
    short = config_on("birds-a1", "ml.m5.large", types)
    assert config_on(short, "ml.g5.12xlarge", types) == "birds-a1-a-g5-12xlarge", "not one behind the other"
    assert configs_of(short, types) == [short, "birds-a1", "birds-a1-a-g5-12xlarge"]


def test_a_model_that_moves_keeps_its_model_and_gets_names_of_its_own():
    seen = _earlier("serverless")
    same = Model(**{**MODEL.model_dump(), "run_id": "cancer-20261122080000-aa01bb4c2d", "generation": 2})
    plan = _plan("async", seen, model=same, execution="move-cancer-1")
    assert "model" not in plan
    assert "model" not in [each["what"] for each in plan["superseded"] + plan["undo"]["delete"]]
    assert plan["endpoint"]["config"].startswith("cancer-20261122080000-aa01bb4c2d-a1-")


@pytest.mark.parametrize(
    ("project", "address", "action"),
    [
        pytest.param({"deployed_generation": 9}, None, "none", id="a newer run is there"),
        pytest.param({"deployed_generation": 3}, None, None, id="the same generation moves"),
        pytest.param({"deploying": "x", "deploying_since": NOW}, None, "wait", id="another one deploys"),
        pytest.param({"deploying": "me", "deploying_since": NOW}, None, None, id="its own claim, tried again"),
        pytest.param({"deploying": "x", "deploying_since": "2026-11-20T00:00:00Z"}, None, None, id="a dead claim"),
        pytest.param({}, addresses.WAKING, "wait", id="it wakes"),
        pytest.param({}, addresses.FALLING_ASLEEP, "wait", id="it falls asleep"),
        pytest.param({}, addresses.ASLEEP, None, id="asleep, it is brought up"),
        pytest.param({}, addresses.FAILED, None, id="failed, it is replaced"),
    ],
)
def test_when_a_deployment_may_begin(project, address, action):
    at = Address(address="ebb-cancer", kind="async", state=address, changed_at=NOON) if address else None
    held = rollout.hold(project, at, generation=3, execution="me", now=NOON)
    assert (held or {}).get("action") == action


def test_what_sleeps_or_wakes_for_too_long_is_not_waited_for():
    since = NOON - timedelta(minutes=61)
    at = Address(address="ebb-cancer", kind="async", state=addresses.WAKING, changed_at=since)
    assert rollout.hold({}, at, generation=3, execution="me", now=NOON) is None


def test_another_model_of_the_same_kind_keeps_what_is_known_of_the_calls():
    before = _earlier("realtime")
    known = {"kind_since": NOON - timedelta(days=20), "idle_window_s": 300.0, "earlier_components": ("a", "b")}
    at = _switched("realtime", replace(before, address=before.address.model_copy(update=known)))
    assert (at.kind_since, at.idle_window_s) == (NOON - timedelta(days=20), 300.0)
    assert at.earlier_components == ("ebb-cancer--g2", "a", "b")
    assert at.memory_mb
    moved = _switched("async", replace(before, address=before.address.model_copy(update=known)))
    assert (moved.kind_since, moved.earlier_components, moved.memory_mb) == (NOON, (), None)


def test_no_more_earlier_components_are_read_than_are_worth_a_metric_each():
    before = _earlier("realtime")
    many = before.address.model_copy(update={"earlier_components": tuple("abcdefgh")})
    assert len(_switched("realtime", replace(before, address=many)).earlier_components) == addresses.MOST_EARLIER


def test_without_a_window_of_its_own_the_alarm_asks_as_early_as_anything_sleeps():
    (idle,) = [each for each in _plan("realtime")["alarms"] if each["AlarmName"].endswith("-idle")]
    assert idle["Period"] * idle["EvaluationPeriods"] == keep_alive_habits.SHORTEST.total_seconds()


def _switched(kind: str, seen: Seen) -> Address:
    values = _plan(kind, seen)["switch"]["ExpressionAttributeValues"]
    return Address.model_validate({key.removeprefix(":"): _plain(value) for key, value in values.items()})
