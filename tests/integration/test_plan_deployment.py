"""Planning a deployment against an account: what is served, what serves it, and who called."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

import plan_deployment
from ebb import addresses, ledger, names, serving
from ebb.addresses import Address, IdlePolicy
from ebb.aws import hosting
from ebb.aws.clients import client as made
from ebb.aws.ledger import Ledger
from ebb.requests import alarms
from ebb.spec import PipelineSpec
from worked_run import EXECUTION_ARN, LEDGER, RUN_ID, STACK, built_selection, load, moment

MODEL = f"{RUN_ID}-a1"


@pytest.fixture
def book(account) -> Ledger:
    """A project that serves the worked run's model."""
    book = Ledger(LEDGER)
    book._call(
        "put_item",
        Item=ledger.to_item(
            {
                **ledger.run_key(RUN_ID),
                "run_id": RUN_ID,
                "attempt": 1,
                "spec": PipelineSpec().resolved(),
                "candidates": built_selection()["candidates"],
                "execution_arn": EXECUTION_ARN,
            }
        ),
    )
    served = {"run_id": RUN_ID, "candidate": "student", "bundle_uri": "s3://b/student/model.tar.gz"}
    book.apply(ledger.remember_served("cancer", 3, served))
    return book


@pytest.fixture
def served(book) -> Address:
    """It is served serverless, with its alarms."""
    at = Address(
        address="ebb-cancer",
        project="cancer",
        kind="serverless",
        endpoint_name="ebb-cancer",
        model_name=MODEL,
        run_id=RUN_ID,
        policy=IdlePolicy(),
        in_service_since=datetime.now(UTC) - timedelta(days=2),
    )
    book.apply(addresses.put(at, now=datetime.now(UTC)))
    sagemaker = made("sagemaker")
    role = "arn:aws:iam::123456789012:role/ebb"
    sagemaker.create_model(ModelName=MODEL, ExecutionRoleArn=role, PrimaryContainer={"Image": STACK.serve_image_uri})
    variant = {"VariantName": "AllTraffic", "ModelName": MODEL}
    serverless = variant | {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 5}}
    sagemaker.create_endpoint_config(EndpointConfigName=MODEL, ProductionVariants=[serverless])
    sagemaker.create_endpoint(EndpointName="ebb-cancer", EndpointConfigName=MODEL)
    for body in (
        alarms.errors(at, actions=[], tags=[]),
        alarms.latency(at, limit_s=0.1, actions=[], tags=[]),
    ):
        made("cloudwatch").put_metric_alarm(**body)
    return at


def _plan(context: Any, name: str = "plan_deployment_move", **changes: Any) -> dict[str, Any]:
    return plan_deployment.handler(load(name) | changes, context)


def test_a_move_plans_the_served_model_as_the_kind_asked_for(served, context):
    plan = _plan(context)
    assert (plan["action"], plan["kind"], plan["address"]) == ("deploy", "async", "ebb-cancer")
    assert "model" not in plan
    assert plan["endpoint"]["create_config"]["ProductionVariants"][0]["ModelName"] == MODEL
    assert plan["superseded"] == [
        {"what": "endpoint", "name": "ebb-cancer", "config": MODEL, "queue": []},
        {"what": "alarms", "names": ["ebb-cancer-latency"]},
    ]


def test_the_alarms_that_are_there_can_be_put_back_as_they_were(served, context):
    put_back = {each["AlarmName"]: each for each in _plan(context)["undo"]["alarms"]}
    assert set(put_back) == {"ebb-cancer-errors", "ebb-cancer-latency"}
    assert put_back["ebb-cancer-latency"]["Threshold"] == 100_000
    assert put_back["ebb-cancer-latency"]["ExtendedStatistic"] == "p95"


def test_a_project_that_serves_nothing_has_nothing_to_move(account, context):
    assert _plan(context)["action"] == "none"


def test_what_is_served_so_already_is_not_deployed_again(served, context):
    plan = _plan(context, kind="serverless")
    assert plan["action"] == "none"
    assert "already" in plan["reason"]


def test_auto_keeps_what_serves_while_nothing_speaks_for_a_move(served, context):
    assert _plan(context, kind="auto")["action"] == "none"


def test_a_runs_own_model_is_planned_before_the_run_has_ended(book, context):
    plan = _plan(context, "plan_deployment")
    assert (plan["action"], plan["model"]["ModelName"], plan["endpoint"]["config"]) == ("deploy", MODEL, MODEL)
    assert "address" not in plan["undo"]


def test_a_deployment_waits_for_an_endpoint_that_falls_asleep(book, served, context):
    now = moment(load("plan_deployment_move")["now"])
    at = book.address("ebb-cancer")
    assert book.apply(
        addresses.change("ebb-cancer", expected="awake", generation=at.generation, to=addresses.FALLING_ASLEEP, now=now)
    )
    assert _plan(context) == {"action": "wait", "reason": "the endpoint is falling-asleep"}


def test_an_address_that_has_changed_since_the_plan_is_not_switched(book, served, context):
    now = moment(load("plan_deployment_move")["now"])
    switch = _plan(context)["switch"]
    at = book.address("ebb-cancer")
    assert book.apply(
        addresses.change("ebb-cancer", expected="awake", generation=at.generation, to=addresses.FALLING_ASLEEP, now=now)
    )
    with pytest.raises(ClientError, match="ConditionalCheckFailed"):
        made("dynamodb").update_item(**switch)
    assert book.apply(
        addresses.change(
            "ebb-cancer", expected="falling-asleep", generation=at.generation + 1, to=addresses.ASLEEP, now=now
        )
    )
    again = _plan(context)
    made("dynamodb").update_item(**again["switch"])
    made("dynamodb").update_item(**again["switch"])  # its answer was lost: sent again, it is the same
    assert (book.address("ebb-cancer").kind, book.address("ebb-cancer").state) == ("async", "awake")
    made("dynamodb").update_item(**again["undo"]["address"])
    assert (book.address("ebb-cancer").kind, book.address("ebb-cancer").state) == ("serverless", "asleep")


def test_a_first_address_is_made_once(book, context):
    switch = _plan(context, "plan_deployment")["switch"]
    made("dynamodb").update_item(**switch)
    assert book.address("ebb-cancer").state == "awake"


def test_an_older_model_is_not_deployed_over_a_newer_one(book, served, context):
    newer = ledger.update(ledger.project_key("cancer"), {"deployed_generation": 4})
    book.apply(newer)
    assert _plan(context, "plan_deployment")["action"] == "none"


def test_with_calls_in_the_last_hour_it_is_watched_while_the_old_one_still_answers(served, context):
    now = datetime.now(UTC)
    made("cloudwatch").put_metric_data(
        Namespace="AWS/SageMaker",
        MetricData=[
            {
                "MetricName": "Invocations",
                "Dimensions": [{"Name": k, "Value": v} for k, v in alarms.invocations(served).items()],
                "Timestamp": now - timedelta(minutes=10),
                "Value": 3,
            }
        ],
    )
    assert hosting.calls_last_hour(served, now) == 3
    plan = _plan(context, now=now.isoformat())
    assert (plan["watch_s"], plan["drain_s"]) == (300, 0)


def test_the_traffic_of_an_endpoint_of_minutes_is_not_known(served):
    now = datetime.now(UTC)
    young = served.model_copy(update={"in_service_since": now - timedelta(minutes=30)})
    assert hosting.measured_traffic(young, now) is None
    assert hosting.measured_traffic(served, now).source == "measured"


def test_waking_and_deploying_the_same_kind_again_cut_nothing_off_the_history(book, served):
    now = datetime.now(UTC)
    kept = served.model_copy(update={"kind_since": now - timedelta(days=9), "in_service_since": now})
    assert hosting.measured_traffic(kept, now).days == 9
    assert hosting.current(kept).since == kept.kind_since


def test_the_calls_of_the_components_before_it_count_too(served):
    now = datetime.now(UTC).replace(minute=5)
    at = served.model_copy(
        update={"kind": "realtime", "component": "ebb-cancer--g2", "earlier_components": ("ebb-cancer--g1",)}
    )
    for component in ("ebb-cancer--g1", "ebb-cancer--g2", "another--g1"):
        _publish("InvocationsPerCopy", {"InferenceComponentName": component}, now)
    assert hosting.calls_last_hour(at, now) == 2


@pytest.mark.parametrize("spelt", ["InvocationsProcesssed", "InvocationsProcessed"])
def test_the_calls_of_an_asynchronous_endpoint_count_however_their_metric_is_spelt(served, spelt):
    now = datetime.now(UTC).replace(minute=5)
    at = served.model_copy(update={"kind": "async"})
    _publish(spelt, {"EndpointName": "ebb-cancer", "VariantName": "AllTraffic"}, now)
    assert hosting.calls_last_hour(at, now) == 1


def _publish(metric: str, dimensions: dict[str, str], now: datetime) -> None:
    point = {
        "MetricName": metric,
        "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
        "Timestamp": now - timedelta(minutes=2),
        "Value": 1.0,
    }
    made("cloudwatch").put_metric_data(Namespace="AWS/SageMaker", MetricData=[point])


def test_what_others_hold_on_the_shared_endpoint_and_the_learned_window_are_part_of_the_choice(
    book, served, context, monkeypatch
):
    chosen: list[tuple[dict[str, Any], serving.Choice]] = []
    choose = serving.choose

    def watched(**asked: Any) -> serving.Choice:
        chosen.append((asked, choose(**asked)))
        return chosen[-1][1]

    monkeypatch.setattr(serving, "choose", watched)
    _plan(context)
    machine = next(row.instance_type for row in chosen[0][1].rows if row.kind == "shared")
    there = names.shared_endpoint("ebb", machine)
    for name, kind, memory in (("ebb-a", "shared", 128), ("ebb-b", "shared", 128), ("ebb-c", "realtime", 999)):
        at = Address(address=name, kind=kind, endpoint_name=there, memory_mb=memory)
        book.apply(addresses.put(at, now=datetime.now(UTC)))
    book.apply(addresses.put(served.model_copy(update={"idle_window_s": 420.0}), now=datetime.now(UTC)))
    _plan(context)
    asked, _ = chosen[-1]
    assert (asked["others_memory_mb"], asked["idle_after_s"]) == (256, 420.0)


# ---- Load tests ----

PACKAGE = "arn:aws:sagemaker:us-east-1:123456789012:model-package/ebb-cancer/3"


@pytest.fixture
def tested(book) -> Ledger:
    """The run's spec asks for Inference Recommender."""
    spec = PipelineSpec.model_validate({"serve": {"recommender": True, "kind": "serverless"}})
    book.apply(ledger.update(ledger.run_key(RUN_ID), {"spec": spec.resolved()}))
    return book


def _deployment(context: Any, **changes: Any) -> dict[str, Any]:
    given = load("plan_deployment")
    sample = {"uri": "s3://artifacts/sample-payload.tar.gz", "content_type": "text/csv"}
    return plan_deployment.handler(
        given | {"model": given["model"] | {"sample_payload": sample}, "package_arn": PACKAGE} | changes, context
    )


def _ended(asked: dict[str, Any], **changes: Any) -> dict[str, Any]:
    setup = {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5}}
    found = [{"EndpointConfiguration": setup, "Metrics": {"MaxInvocations": 900, "ModelLatency": 5000}}]
    return asked["recommendation"]["told"] | {"status": "COMPLETED", "found": found} | changes


def _memory(plan: dict[str, Any]) -> int:
    (variant,) = plan["endpoint"]["create_config"]["ProductionVariants"]
    return variant["ServerlessConfig"]["MemorySizeInMB"]


def test_a_model_that_was_never_load_tested_is_tested_first(tested, context):
    asked = _deployment(context)
    assert asked["action"] == "recommend"
    assert asked["recommendation"]["request"]["InputConfig"]["ModelPackageVersionArn"] == PACKAGE
    assert asked["recommendation"]["request"]["RoleArn"].endswith(":role/ebb/ebb-cancer-recommend")


def test_what_the_load_test_found_decides_is_noted_and_counts_from_then_on(tested, context):
    asked = _deployment(context)
    plan = _deployment(context, recommendation=_ended(asked))
    assert (plan["action"], _memory(plan)) == ("deploy", 2048)
    made("dynamodb").put_item(**plan["note"])
    again = _deployment(context)
    assert (again["action"], _memory(again), "note" in again) == ("deploy", 2048, False)


def test_a_load_test_that_failed_is_noted_and_not_repeated(tested, context):
    asked = _deployment(context)
    plan = _deployment(context, recommendation=_ended(asked, status="FAILED", reason="no quota", found=[]))
    assert (plan["action"], _memory(plan)) == ("deploy", 1024)
    assert "no quota" in plan["note"]["Item"]["reason"]["S"]
    made("dynamodb").put_item(**plan["note"])
    assert _deployment(context)["action"] == "deploy"


def test_a_model_whose_rows_nobody_knows_is_not_tested_and_that_is_noted(tested, context):
    plan = plan_deployment.handler(load("plan_deployment") | {"package_arn": PACKAGE}, context)
    assert plan["action"] == "deploy"
    assert plan["note"]["Item"]["status"]["S"] == "NOT_ASKED"


def test_a_move_starts_no_load_test(tested, served, context):
    assert _plan(context)["action"] == "deploy"


def test_without_being_asked_for_nothing_is_tested(book, context):
    plan = _deployment(context)
    assert (plan["action"], "note" in plan) == ("deploy", False)


def test_a_load_test_that_a_newer_run_overtook_is_noted_all_the_same(tested, context):
    asked = _deployment(context)
    tested.apply({
        "Key": ledger.project_key("cancer"),
        "UpdateExpression": "SET deployed_generation = :newer",
        "ExpressionAttributeValues": {":newer": 99},
    })  # fmt: skip
    plan = _deployment(context, recommendation=_ended(asked))
    assert plan["action"] == "none"
    assert plan["note"]["Item"]["chosen"]["S"] == "nothing is deployed"


def test_while_another_deployment_is_waited_for_nothing_is_noted_yet(tested, context):
    asked = _deployment(context)
    tested.apply({
        "Key": ledger.project_key("cancer"),
        "UpdateExpression": "SET deploying = :other, deploying_since = :now",
        "ExpressionAttributeValues": {":other": "other-a1", ":now": load("plan_deployment")["now"]},
    })  # fmt: skip
    plan = _deployment(context, recommendation=_ended(asked))
    assert (plan["action"], "note" in plan) == ("wait", False)
