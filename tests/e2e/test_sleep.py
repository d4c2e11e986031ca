"""An endpoint that nobody calls falls asleep by its own alarm, and the first request brings it back as it was."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from ebb import addresses
from ebb.addresses import Address, IdlePolicy

from .conftest import STACK, Cloud, Served, connect, let_time_pass, model_of_another_hand, wait_until

pytestmark = pytest.mark.embedded_only  # half an hour has to pass
TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/shop/variant/blue",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
# what nobody can choose, and what changes by itself
PASSING = {
    "AlarmArn", "AlarmConfigurationUpdatedTimestamp", "Alarms", "CreationTime", "FailureReason", "LastModifiedTime",
    "ResponseMetadata", "RoleARN", "ScalableTargetARN", "ScheduledActionARN", "StateReason", "StateReasonData",
    "StateTransitionedTimestamp", "StateUpdatedTimestamp", "StateValue", "PolicyARN",
}  # fmt: skip


def lasting(value: Any, arns: dict[str, str]) -> Any:
    """Return what Describe shows without what passes, and with policies by name: a new one has a new ARN."""
    if isinstance(value, dict):
        return {name: lasting(each, arns) for name, each in value.items() if name not in PASSING}
    if isinstance(value, list):
        return [lasting(each, arns) for each in value]
    return arns.get(value, value) if isinstance(value, str) else value


def everything(cloud: Cloud, name: str, *, component: str | None = None, alarms: str) -> dict[str, Any]:
    """Return all that belongs to an endpoint, as the services show it."""
    sagemaker, scaling = cloud.client("sagemaker"), cloud.client("application-autoscaling")
    endpoint = sagemaker.describe_endpoint(EndpointName=name)
    named = [f"endpoint/{name}/variant/{each['VariantName']}" for each in endpoint["ProductionVariants"]]
    named = [f"inference-component/{component}"] if component else named
    sm = {"ServiceNamespace": "sagemaker"}
    policies = [
        p for each in named for p in scaling.describe_scaling_policies(**sm, ResourceId=each)["ScalingPolicies"]
    ]
    found = {
        "endpoint": endpoint,
        "tags": {e["Key"]: e["Value"] for e in sagemaker.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]},
        "config": sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"]),
        "targets": scaling.describe_scalable_targets(**sm, ResourceIds=named)["ScalableTargets"],
        "policies": sorted(policies, key=lambda each: each["PolicyName"]),
        "alarms": cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix=alarms)["MetricAlarms"],
    }
    if component:
        del found["endpoint"]["ProductionVariants"]  # SageMaker counts the instances of its host
        found["component"] = sagemaker.describe_inference_component(InferenceComponentName=component)
    return lasting(found, {each["PolicyARN"]: each["PolicyName"] for each in policies})


def address(cloud: Cloud, name: str) -> list[dict[str, Any]]:
    """Return the address and what happened to it, oldest first."""
    found = cloud.client("dynamodb").query(
        TableName=cloud.outputs["LedgerTableName"],
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": f"ADDRESS#{name}"}},
    )
    return [{key: next(iter(value.values())) for key, value in item.items()} for item in found["Items"]]


def state(cloud: Cloud, name: str) -> str:
    return str(address(cloud, name)[0]["state"])


def run(cloud: Cloud, machine: str, **given: Any) -> str:
    """Start one of the machines and return the execution."""
    arn = cloud.outputs[f"{machine}StateMachineArn"]
    started = cloud.client("stepfunctions").start_execution(stateMachineArn=arn, input=json.dumps(given))
    return str(started["executionArn"])


def ended(cloud: Cloud, execution: str) -> dict[str, Any]:
    states = cloud.client("stepfunctions")

    def look() -> dict[str, Any] | None:
        found = states.describe_execution(executionArn=execution)
        return None if found["status"] == "RUNNING" else found

    return wait_until(look, f"{execution} ends")


def fall_asleep(served: Served) -> None:
    """Let time pass until nobody has called for long enough."""
    assert served.ebb("advance", "30m").returncode == 0
    assert served.at["state"] == "asleep"


def delay_of_last_wake(cloud: Cloud, name: str) -> float:
    """Return the seconds from the start of the newest wake until it first asked SageMaker for something."""
    states, machine = cloud.client("stepfunctions"), cloud.outputs["WakeEndpointStateMachineArn"]
    runs = states.list_executions(stateMachineArn=machine, maxResults=100)["executions"]
    newest = max((each for each in runs if f"-{name}-" in each["name"]), key=lambda each: each["startDate"])
    history = states.get_execution_history(executionArn=newest["executionArn"], maxResults=100)["events"]
    entered = [e for e in history if e.get("stateEnteredEventDetails", {}).get("name") == "Send calls"]
    return float((entered[0]["timestamp"] - newest["startDate"]).total_seconds())


@pytest.mark.parametrize("kind", ["realtime", "async"])
def test_it_sleeps_by_its_alarm_and_the_first_request_wakes_it_as_it_was(served_project: Served, cloud: Cloud, kind):
    at = served_project.move(kind)
    names = {"name": at["endpoint_name"], "component": at.get("component"), "alarms": f"{at['address']}-"}
    before = everything(cloud, **names)
    fall_asleep(served_project)
    asleep = everything(cloud, **names)
    if kind == "async":
        assert [each["DesiredInstanceCount"] for each in asleep["endpoint"]["ProductionVariants"]] == [0]
    else:
        assert asleep["component"]["RuntimeConfig"] == {"DesiredCopyCount": 0, "CurrentCopyCount": 0}
    assert {each["AlarmName"].rpartition("-")[2] for each in asleep["alarms"]} == {"errors", "wake"}
    began = time.monotonic()
    assert [each["label"] for each in served_project.ask()] == list(Served.LABELS)
    answered_s = time.monotonic() - began
    let_time_pass(cloud, served_project, "awake")
    assert everything(cloud, **names) == before
    slept, woke = address(cloud, at["address"])[-2:]
    assert (slept["what"], woke["what"]) == ("slept", "woke")
    assert float(slept["saves_usd_per_month"]) > 0
    delay_s = delay_of_last_wake(cloud, at["address"])
    print(f"\n{kind}: {delay_s:.2f} s until the wake call, {answered_s:.1f} s until the answer")


def test_without_capacity_it_wakes_on_the_next_instance_type(served_project: Served, cloud: Cloud):
    """And SageMaker throttles meanwhile: the request waits, and is answered."""
    at = served_project.move("async")
    fall_asleep(served_project)
    first, second = at["instance_types"][:2]
    cloud.control("SetFaults", {"refusedInstanceTypes": [first], "throttled": {"DescribeEndpoint": 6}})
    try:
        assert [each["label"] for each in served_project.ask()] == list(Served.LABELS)
        wait_until(lambda: served_project.at["state"] == "awake", "it is awake again")
    finally:
        cloud.control("ClearFaults")
    assert served_project.at["instance_type"] == second
    (refused,) = [each for each in address(cloud, at["address"]) if each.get("what") == "capacity refused"]
    assert (refused["instance_type"], refused["next_type"]) == (first, second)


def test_a_sleep_and_a_wake_that_are_killed_are_taken_up_and_the_request_is_answered(
    served_project: Served, cloud: Cloud
):
    """Its instance takes four minutes to come, so that the wake looks several times; it is killed on the way."""
    at = served_project.move("async")
    let_time_pass(cloud, served_project, "falling-asleep")
    kill_who_works(served_project, cloud)
    let_time_pass(cloud, served_project, "asleep")
    cloud.control("SetFaults", {"provisioningDelayS": 240})
    try:
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(served_project.ask, "--wait-s", "120")
            wait_until(lambda: served_project.at["state"] == "waking", "the request wakes it")
            kill_who_works(served_project, cloud)
            let_time_pass(cloud, served_project, "awake")
            assert [each["label"] for each in asking.result()] == list(Served.LABELS)
    finally:
        cloud.control("ClearFaults")
    slept, woke = address(cloud, at["address"])[-2:]
    assert (slept["what"], woke["what"]) == ("slept", "woke")
    assert float(woke["took_s"]) >= 240


def kill_who_works(served: Served, cloud: Cloud) -> None:
    """Stop the execution that works on the address while it waits, and see that another one takes its place."""
    killed = served.at["worked_by"]
    cloud.client("stepfunctions").stop_execution(executionArn=killed)
    wait_until(lambda: served.at.get("worked_by") not in (None, killed), "another execution takes its place")


# ---- An endpoint that Ebb did not make ----


@pytest.fixture
def shop(served_project: Served, cloud: Cloud) -> Iterator[Address]:
    """Two variants with weights of their own, scaling, a schedule, alarms and tags, all by another hand."""
    sagemaker, scaling = cloud.client("sagemaker"), cloud.client("application-autoscaling")
    model = model_of_another_hand(cloud, "shop-2", served_project.at["model_name"])
    each = {"ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1, "InitialVariantWeight": 1.0}
    variants = [each | {"VariantName": name} for name in ("blue", "green")]
    tags = [{"Key": "team", "Value": "shop"}]
    sagemaker.create_endpoint_config(EndpointConfigName="shop-1", ProductionVariants=variants, Tags=tags)
    sagemaker.create_endpoint(EndpointName="shop", EndpointConfigName="shop-1", Tags=tags)
    in_service(cloud)
    weights = [{"VariantName": "blue", "DesiredWeight": 9.0, "DesiredInstanceCount": 2}]
    sagemaker.update_endpoint_weights_and_capacities(EndpointName="shop", DesiredWeightsAndCapacities=weights)
    in_service(cloud)
    scaling.register_scalable_target(**TARGET, MinCapacity=1, MaxCapacity=4)
    tracking = {
        "TargetValue": 70.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        "DisableScaleIn": True,
    }
    step = {
        "AdjustmentType": "ChangeInCapacity",
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    }
    scaling.put_scaling_policy(
        **TARGET,
        PolicyName="track",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=tracking,
    )
    out = scaling.put_scaling_policy(
        **TARGET, PolicyName="out", PolicyType="StepScaling", StepScalingPolicyConfiguration=step
    )
    once = {"Schedule": "at(2040-01-01T00:00:00)", "ScalableTargetAction": {"MinCapacity": 1, "MaxCapacity": 1}}
    scaling.put_scheduled_action(**TARGET, ScheduledActionName="once", **once)
    dimensions = [{"Name": "EndpointName", "Value": "shop"}, {"Name": "VariantName", "Value": "blue"}]
    busy = {"Namespace": "AWS/SageMaker", "MetricName": "Invocations", "Dimensions": dimensions, "Statistic": "Sum"}
    cloud.client("cloudwatch").put_metric_alarm(
        AlarmName="shop-busy",
        **busy,
        Period=60,
        EvaluationPeriods=1,
        Threshold=100,
        ComparisonOperator="GreaterThanThreshold",
        AlarmActions=[out["PolicyARN"]],
        OKActions=[cloud.outputs["NotificationsTopicArn"]],
        Tags=tags,
    )
    at = Address(
        address="shop",
        origin="foreign",
        kind="classic",
        endpoint_name="shop",
        variant="blue",
        instance_type="ml.m5.large",
        copies=3,
        policy=IdlePolicy(idle_after_s=900),
    )
    known = addresses.put(at, now=datetime.now(UTC))  # as the sweep makes what it finds known
    cloud.session.resource("dynamodb", endpoint_url=cloud.endpoint_url).Table(
        cloud.outputs["LedgerTableName"]
    ).update_item(**known)
    yield at
    manage_foreign(cloud, "no")
    cloud.client("cloudwatch").delete_alarms(AlarmNames=["shop-busy"])
    scaling.deregister_scalable_target(**TARGET)
    sagemaker.delete_endpoint(EndpointName="shop")
    sagemaker.delete_endpoint_config(EndpointConfigName="shop-1")


def in_service(cloud: Cloud) -> None:
    sagemaker = cloud.client("sagemaker")
    wait_until(
        lambda: sagemaker.describe_endpoint(EndpointName="shop")["EndpointStatus"] == "InService", "shop is in service"
    )


def manage_foreign(cloud: Cloud, answer: str) -> None:
    """Let the platform engineer say whether endpoints that Ebb did not make may sleep."""
    formation = cloud.client("cloudformation")
    before = formation.describe_stacks(StackName=STACK)["Stacks"][0]["Parameters"]
    kept = [{"ParameterKey": each["ParameterKey"], "UsePreviousValue": True} for each in before]
    changed = [each for each in kept if each["ParameterKey"] != "ManageForeignEndpoints"]
    formation.update_stack(
        StackName=STACK,
        UsePreviousTemplate=True,
        Parameters=[*changed, {"ParameterKey": "ManageForeignEndpoints", "ParameterValue": answer}],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    wait_until(
        lambda: formation.describe_stacks(StackName=STACK)["Stacks"][0]["StackStatus"] == "UPDATE_COMPLETE",
        "the stack is updated",
    )


def test_a_foreign_endpoint_sleeps_only_where_all_allow_it_and_comes_back_exactly(
    served_project: Served, cloud: Cloud, shop: Address
):
    ask = {"address": "shop", "generation": 1, "reason": "the sweep has seen no call"}
    refused = ended(cloud, run(cloud, "ScaleToZero", **ask))
    assert "ManageForeignEndpoints is not yes" in refused["output"]
    manage_foreign(cloud, "yes")
    refused = ended(cloud, run(cloud, "ScaleToZero", **ask))
    assert "no tag ebb:sleep=allowed" in refused["output"]
    sagemaker = cloud.client("sagemaker")
    arn = sagemaker.describe_endpoint(EndpointName="shop")["EndpointArn"]
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "ebb:sleep", "Value": "allowed"}])
    before = everything(cloud, "shop", alarms="shop-")
    execution = run(cloud, "ScaleToZero", **ask)
    assert served_project.ebb("advance", "25m").returncode == 0
    assert json.loads(ended(cloud, execution)["output"])["outcome"] == "asleep"
    assert sagemaker.list_endpoints(NameContains="shop")["Endpoints"] == []
    (muted,) = cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix="shop-")["MetricAlarms"]
    assert muted["ActionsEnabled"] is False
    assert state(cloud, "shop") == "asleep"
    execution = run(cloud, "WakeEndpoint", address="shop")
    assert json.loads(ended(cloud, execution)["output"])["outcome"] == "awake"
    assert everything(cloud, "shop", alarms="shop-") == before
    assert (
        connect(served_project.ebb)
        .client("sagemaker-runtime")
        .invoke_endpoint(EndpointName="shop", Body=json.dumps(Served.ROWS).encode(), ContentType="application/json")
    )
