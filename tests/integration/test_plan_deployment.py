"""Planning a deployment against an account: what is served, what serves it, and who called."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import plan_deployment
from ebb import addresses, ledger
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
