"""Application Auto Scaling: targets, policies and what they do to SageMaker when their alarms change."""

import itertools
import json

import pytest
from botocore.exceptions import ClientError
from ministack.core import iam_actions, router
from ministack.services import iam, stepfunctions

from contract.sagemaker.lab import Lab
from contract.support import Cloud, Role, allow, free_port, wait_until
from ebb_local import lifecycle
from ebb_local.scaling import policies

_numbers = itertools.count()
VARIANT = "sagemaker:variant:DesiredInstanceCount"
ONE_MORE = {
    "AdjustmentType": "ChangeInCapacity",
    "Cooldown": 300,
    "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
}


def test_what_is_replaced_is_there():
    assert callable(iam_actions.extract_resource_arn)
    assert callable(iam_actions.request_tag_context)
    assert isinstance(router.SERVICE_PATTERNS, dict)
    assert isinstance(stepfunctions._AWS_SDK_SERVICE_MAP, dict)
    assert callable(iam._now)


@pytest.mark.parametrize(
    ("configuration", "breach", "has", "wanted"),
    [
        pytest.param(ONE_MORE, 0, 0, 1, id="one more"),
        pytest.param(ONE_MORE, -1, 3, None, id="no step below the threshold"),
        pytest.param(
            {"AdjustmentType": "ExactCapacity", "StepAdjustments": [{"ScalingAdjustment": 4}]}, 9, 1, 4, id="exactly"
        ),
        pytest.param(
            {"AdjustmentType": "PercentChangeInCapacity", "StepAdjustments": [{"ScalingAdjustment": 10}]},
            9, 3, 4, id="a tenth of three is one",
        ),
        pytest.param(
            {"AdjustmentType": "PercentChangeInCapacity", "StepAdjustments": [{"ScalingAdjustment": -25}]},
            -9, 10, 8, id="a quarter less, rounded down",
        ),
        pytest.param(
            {"AdjustmentType": "PercentChangeInCapacity", "MinAdjustmentMagnitude": 2,
             "StepAdjustments": [{"ScalingAdjustment": 25}]},
            9, 4, 6, id="at least two more",
        ),
    ],
)  # fmt: skip
def test_step(configuration, breach, has, wanted):
    assert policies.step(configuration, breach, has) == wanted


# ---- the service, on asynchronous endpoints


@pytest.fixture(scope="module")
def endpoint(lab: Lab):
    output = {"S3OutputPath": f"s3://{lab.bucket}/answers", "S3FailurePath": f"s3://{lab.bucket}/failures"}
    name = lab.serve({"ModelName": lab.model(answer="one")}, AsyncInferenceConfig={"OutputConfig": output})
    yield name
    lab.sagemaker.delete_endpoint(EndpointName=name)


@pytest.fixture
def target(lab: Lab, endpoint: str):
    """A registered target from 0 to 3; gone after the test, with one instance left."""
    client = lab.cloud.client("application-autoscaling")
    named = {"ServiceNamespace": "sagemaker", "ResourceId": f"endpoint/{endpoint}/variant/all",
             "ScalableDimension": VARIANT}  # fmt: skip
    client.register_scalable_target(**named, MinCapacity=0, MaxCapacity=3)
    yield named
    client.deregister_scalable_target(**named)
    scale(lab, endpoint, 1)


def scale(lab: Lab, endpoint: str, count: int) -> None:
    wanted = [{"VariantName": "all", "DesiredInstanceCount": count}]
    lab.sagemaker.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=wanted)
    lab.settled(endpoint)


def instances(lab: Lab, endpoint: str) -> int:
    return lab.settled(endpoint)["ProductionVariants"][0]["DesiredInstanceCount"]


def watch(lab: Lab, arn: str, namespace: str) -> None:
    lab.cloud.client("cloudwatch").put_metric_alarm(
        AlarmName=namespace, Namespace=namespace, MetricName="Backlog", Statistic="Maximum", Period=60,
        EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanOrEqualToThreshold", AlarmActions=[arn],
    )  # fmt: skip


def publish(lab: Lab, namespace: str, value: float, metric: str = "Backlog", **dimensions: str) -> None:
    listed = [{"Name": name, "Value": text} for name, text in dimensions.items()]
    lab.cloud.client("cloudwatch").put_metric_data(
        Namespace=namespace, MetricData=[{"MetricName": metric, "Value": value, "Dimensions": listed}]
    )


def test_step_policy_wakes_an_endpoint_once_and_waits_for_its_cooldown(lab: Lab, endpoint: str, target):
    client, namespace = lab.cloud.client("application-autoscaling"), f"ns-{next(_numbers)}"
    put = client.put_scaling_policy(
        PolicyName="wake", **target, PolicyType="StepScaling", StepScalingPolicyConfiguration=ONE_MORE
    )
    again = client.put_scaling_policy(
        PolicyName="wake", **target, PolicyType="StepScaling", StepScalingPolicyConfiguration=ONE_MORE
    )
    assert put["PolicyARN"] == again["PolicyARN"]
    watch(lab, put["PolicyARN"], namespace)
    described = client.describe_scaling_policies(ServiceNamespace="sagemaker", PolicyNames=["wake"])
    assert [each["AlarmName"] for each in described["ScalingPolicies"][0]["Alarms"]] == [namespace]
    scale(lab, endpoint, 0)
    publish(lab, namespace, 5)
    wait_until(lambda: instances(lab, endpoint) == 1)
    publish(lab, namespace, 5)
    lab.advance(60)
    publish(lab, namespace, 5)
    lab.advance(60)
    assert instances(lab, endpoint) == 1, "in the cooldown the instance that comes is counted"
    for _ in range(4):
        publish(lab, namespace, 5)
        lab.advance(60)
    assert instances(lab, endpoint) == 2, "after the cooldown the alarm, still there, asks again"
    rows = client.describe_scaling_activities(ServiceNamespace="sagemaker", ResourceId=target["ResourceId"])
    first = rows["ScalingActivities"][-1]
    assert first["Description"] == "Setting desired instance count to 1."
    assert namespace in first["Cause"]
    lab.cloud.client("cloudwatch").delete_alarms(AlarmNames=[namespace])


def test_target_tracking_scales_out_and_in_by_alarms_of_its_own(lab: Lab, endpoint: str, target):
    client = lab.cloud.client("application-autoscaling")
    configuration = {
        "TargetValue": 5.0,
        "CustomizedMetricSpecification": {
            "MetricName": "PerInstance", "Namespace": f"ns-{next(_numbers)}", "Statistic": "Average",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
        },
        "ScaleInCooldown": 60, "ScaleOutCooldown": 60,
    }  # fmt: skip
    put = client.put_scaling_policy(
        PolicyName="track", **target, PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=configuration,
    )  # fmt: skip
    names = [alarm["AlarmName"] for alarm in put["Alarms"]]
    assert [("AlarmHigh" in name, "AlarmLow" in name) for name in names] == [(True, False), (False, True)]
    namespace = configuration["CustomizedMetricSpecification"]["Namespace"]
    for _ in range(4):
        publish(lab, namespace, 14, "PerInstance", EndpointName=endpoint)
        lab.advance(60)
    assert instances(lab, endpoint) == 3, "three times the target on one instance"
    for _ in range(20):
        publish(lab, namespace, 1, "PerInstance", EndpointName=endpoint)
        lab.advance(60)
    assert instances(lab, endpoint) == 1
    client.delete_scaling_policy(PolicyName="track", **target)
    assert lab.cloud.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"] == []


def test_scheduled_action_changes_the_bounds_and_the_capacity(lab: Lab, endpoint: str, target):
    client = lab.cloud.client("application-autoscaling")
    client.put_scheduled_action(
        ScheduledActionName="more", **target, Schedule="rate(1 hour)", ScalableTargetAction={"MinCapacity": 2}
    )
    lab.advance(3700)
    assert instances(lab, endpoint) == 2
    (found,) = client.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[target["ResourceId"]])[
        "ScalableTargets"
    ]
    assert (found["MinCapacity"], found["MaxCapacity"]) == (2, 3)
    client.delete_scheduled_action(ScheduledActionName="more", **target)


def test_suspended_target_is_left_alone(lab: Lab, endpoint: str, target):
    client, namespace = lab.cloud.client("application-autoscaling"), f"ns-{next(_numbers)}"
    client.register_scalable_target(**target, SuspendedState={"DynamicScalingOutSuspended": True})
    arn = client.put_scaling_policy(
        PolicyName="wake", **target, PolicyType="StepScaling", StepScalingPolicyConfiguration=ONE_MORE
    )["PolicyARN"]
    watch(lab, arn, namespace)
    publish(lab, namespace, 5)
    lab.advance(120)
    assert instances(lab, endpoint) == 1
    lab.cloud.client("cloudwatch").delete_alarms(AlarmNames=[namespace])


def test_deregistering_forgets_policies_and_alarms(lab: Lab, endpoint: str):
    client = lab.cloud.client("application-autoscaling")
    named = {"ServiceNamespace": "sagemaker", "ResourceId": f"endpoint/{endpoint}/variant/all",
             "ScalableDimension": VARIANT}  # fmt: skip
    arn = client.register_scalable_target(**named, MinCapacity=1, MaxCapacity=2, Tags={"a": "b"})["ScalableTargetARN"]
    assert client.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"a": "b"}
    tracking = {"TargetValue": 1.0, "PredefinedMetricSpecification": {
        "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}}  # fmt: skip
    client.put_scaling_policy(PolicyName="p", **named, PolicyType="TargetTrackingScaling",
                              TargetTrackingScalingPolicyConfiguration=tracking)  # fmt: skip
    client.deregister_scalable_target(**named)
    assert client.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"] == []
    left = lab.cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix="TargetTracking-")["MetricAlarms"]
    assert left == []
    with pytest.raises(ClientError) as refused:
        client.deregister_scalable_target(**named)
    assert refused.value.response["Error"]["Code"] == "ObjectNotFoundException"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ResourceId": "endpoint/missing/variant/all"}, "Could not find endpoint"),
        ({"ResourceId": "nothing"}, "does not fit"),
        ({"ServiceNamespace": "ecs"}, "scales sagemaker only"),
        ({"MinCapacity": 4}, "MaxCapacity must be greater"),
        ({"ScalableDimension": "sagemaker:variant:DesiredProvisionedConcurrency"}, "does not scale"),
    ],
)
def test_registration_is_refused(lab: Lab, endpoint: str, changes, text):
    request = {"ServiceNamespace": "sagemaker", "ResourceId": f"endpoint/{endpoint}/variant/all",
               "ScalableDimension": VARIANT, "MinCapacity": 0, "MaxCapacity": 3}  # fmt: skip
    with pytest.raises(ClientError, match=text) as refused:
        lab.cloud.client("application-autoscaling").register_scalable_target(**request | changes)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize("dimension", [VARIANT, "other"])
def test_role_is_held_to_namespace_and_dimension(lab: Lab, endpoint: str, dimension: str):
    arn = "arn:aws:application-autoscaling:us-east-1:000000000000:scalable-target/*"
    keys = {"application-autoscaling:service-namespace": "sagemaker",
            "application-autoscaling:scalable-dimension": dimension}  # fmt: skip
    powers = [
        allow("application-autoscaling:RegisterScalableTarget", arn, StringEquals=keys),
        allow("iam:CreateServiceLinkedRole"),
    ]
    role = role_of(lab, *powers)
    client = lab.cloud.client("application-autoscaling", role.session)
    request = {"ServiceNamespace": "sagemaker", "ResourceId": f"endpoint/{endpoint}/variant/all",
               "ScalableDimension": VARIANT, "MinCapacity": 0, "MaxCapacity": 3}  # fmt: skip
    if dimension == VARIANT:
        client.register_scalable_target(**request)
    else:
        with pytest.raises(ClientError, match="RegisterScalableTarget"):
            client.register_scalable_target(**request)


def role_of(lab: Lab, *statements: dict) -> Role:
    name = f"scaling-role-{next(_numbers)}"
    trusted = ({"Service": "states.amazonaws.com"}, {"AWS": "arn:aws:iam::000000000000:root"})
    trust = [{"Effect": "Allow", "Principal": each, "Action": "sts:AssumeRole"} for each in trusted]
    client = lab.cloud.client("iam")
    document = json.dumps({"Version": "2012-10-17", "Statement": trust})
    arn = client.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    client.put_role_policy(RoleName=name, PolicyName="given", PolicyDocument=policy)
    return Role(name, arn, lab.session(arn))


def test_state_machine_registers_a_target_and_catches_errors_by_name(lab: Lab, endpoint: str):
    named = {"ServiceNamespace": "sagemaker", "ResourceId": f"endpoint/{endpoint}/variant/all",
             "ScalableDimension": VARIANT}  # fmt: skip
    sdk = "arn:aws:states:::aws-sdk:applicationautoscaling:"
    states = {
        "Register": {"Type": "Task", "Resource": f"{sdk}registerScalableTarget", "Next": "Put",
                     "Arguments": {**named, "MinCapacity": 0, "MaxCapacity": 1}},
        "Put": {"Type": "Task", "Resource": f"{sdk}putScalingPolicy", "Next": "Deregister",
                "Arguments": {**named, "PolicyName": "p", "PolicyType": "StepScaling",
                              "StepScalingPolicyConfiguration": ONE_MORE}},
        "Deregister": {"Type": "Task", "Resource": f"{sdk}deregisterScalableTarget", "Arguments": named,
                       "Next": "Again"},
        "Again": {"Type": "Task", "Resource": f"{sdk}deregisterScalableTarget", "Arguments": named, "End": True,
                  "Catch": [{"ErrorEquals": ["ApplicationAutoScaling.ObjectNotFoundException"], "Next": "Done"}]},
        "Done": {"Type": "Pass", "Output": "none left", "End": True},
    }  # fmt: skip
    role = role_of(lab, allow("application-autoscaling:*"), allow("iam:CreateServiceLinkedRole"))
    client = lab.cloud.client("stepfunctions")
    definition = json.dumps({"QueryLanguage": "JSONata", "StartAt": "Register", "States": states})
    arn = client.create_state_machine(name=role.name, definition=definition, roleArn=role.arn)["stateMachineArn"]
    execution = client.start_execution(stateMachineArn=arn)["executionArn"]
    wait_until(lambda: client.describe_execution(executionArn=execution)["status"] != "RUNNING")
    done = client.describe_execution(executionArn=execution)
    assert done["status"] == "SUCCEEDED", done.get("cause")
    assert json.loads(done["output"]) == "none left"


def test_targets_and_metrics_survive_a_restart(home):
    first = Cloud(lifecycle.start(home, port=free_port()))
    first.client("cloudwatch").put_metric_data(Namespace="n", MetricData=[{"MetricName": "m", "Value": 7}])
    trust = [{"Effect": "Allow", "Principal": {"Service": "scheduler.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    document = json.dumps({"Version": "2012-10-17", "Statement": trust})
    sender = first.client("iam").create_role(RoleName="sender", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    first.client("scheduler").create_schedule(
        Name="hourly", ScheduleExpression="rate(1 hour)", FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": "arn:aws:sqs:us-east-1:000000000000:none", "RoleArn": sender},
    )  # fmt: skip
    assert sum(note["kind"] == "schedule" for note in first.advance(3660)) == 1
    lifecycle.stop(home)
    again = Cloud(lifecycle.start(home, port=free_port()))
    assert again.client("cloudwatch").list_metrics(Namespace="n")["Metrics"]
    assert sum(note["kind"] == "schedule" for note in again.advance(1800)) == 0, "it has fired already"
    assert sum(note["kind"] == "schedule" for note in again.advance(1800)) == 1
