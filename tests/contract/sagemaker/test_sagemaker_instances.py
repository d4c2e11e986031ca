"""Endpoints on instances: counts and weights, heartbeats, and deployments that an alarm rolls back."""

import json
from collections import Counter

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, next_number
from contract.support import messages, wait_until


def refusal(call, **request) -> str:
    with pytest.raises(ClientError) as refused:
        call(**request)
    return refused.value.response["Error"]["Message"]


def points(lab: Lab, namespace: str, metric: str, stat: str, **dimensions: str) -> list[float]:
    end = lab.control("Status")["Now"] + 60
    found = lab.cloud.client("cloudwatch").get_metric_statistics(
        Namespace=namespace, MetricName=metric, Statistics=[stat], Period=60, StartTime=end - 7200, EndTime=end,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
    )["Datapoints"]  # fmt: skip
    return [point[stat] for point in sorted(found, key=lambda point: point["Timestamp"])]


def rescale(lab: Lab, name: str, **wanted) -> dict:
    lab.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=[{"VariantName": "all", **wanted}]
    )
    return lab.settled(name)


@pytest.fixture(scope="module")
def endpoint(lab: Lab):
    name = lab.serve({"ModelName": lab.model(answer="one"), "InitialInstanceCount": 2})
    yield name
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_instances_are_counted_and_beat_each_minute(lab: Lab, endpoint: str) -> None:
    [variant] = lab.settled(endpoint)["ProductionVariants"]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (2, 2)
    of = {"EndpointName": endpoint, "VariantName": "all"}
    lab.advance(180)
    beats = points(lab, "/aws/sagemaker/Endpoints", "CPUUtilization", "SampleCount", **of)
    assert len(beats) >= 3
    assert set(beats) == {2.0}, "one for each instance"
    assert points(lab, "/aws/sagemaker/Endpoints", "MemoryUtilization", "Average", **of)[-1] > 0
    assert points(lab, "AWS/SageMaker", "Invocations", "Sum", **of) == [], "silence is no datapoint"
    lab.invoke(endpoint)
    lab.advance(60)
    assert points(lab, "AWS/SageMaker", "InvocationsPerInstance", "Sum", **of) == [0.5]


def test_counts_and_weights_change_in_place(lab: Lab, endpoint: str) -> None:
    queue = next(events := lab.events_of("SageMaker Endpoint State Change"))
    [variant] = rescale(lab, endpoint, DesiredInstanceCount=3, DesiredWeight=0.5)["ProductionVariants"]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (3, 0.5)
    seen = [json.loads(message["Body"])["detail"]["EndpointStatus"] for message in messages(lab.cloud, queue)]
    assert "Updating" in seen
    next(events, None)
    assert "must be greater than or equal to 1" in refusal(rescale, lab=lab, name=endpoint, DesiredInstanceCount=0)
    assert rescale(lab, endpoint, DesiredInstanceCount=1)["ProductionVariants"][0]["CurrentInstanceCount"] == 1


def test_variants_share_the_calls_by_weight(lab: Lab) -> None:
    name = lab.serve(
        {"VariantName": "often", "ModelName": lab.model(answer="often"), "InitialVariantWeight": 3},
        {"VariantName": "never", "ModelName": lab.model(answer="never"), "InitialVariantWeight": 0},
    )
    assert Counter(lab.invoke(name)["answer"] for _ in range(10)) == {"often": 10}
    reply = lab.runtime.invoke_endpoint(EndpointName=name, TargetVariant="never", Body=b"1")
    assert reply["InvokedProductionVariant"] == "never"
    wanted = [{"VariantName": "often", "DesiredWeight": 0}, {"VariantName": "never", "DesiredWeight": 1}]
    lab.sagemaker.update_endpoint_weights_and_capacities(EndpointName=name, DesiredWeightsAndCapacities=wanted)
    lab.settled(name)
    assert Counter(lab.invoke(name)["answer"] for _ in range(10)) == {"never": 10}
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_capacity_that_is_refused_fails_the_endpoint(lab: Lab) -> None:
    lab.control("SetFaults", refusedInstanceTypes=["ml.m5.large"])
    name = lab.serve({"ModelName": lab.model(answer="x")})
    lab.control("ClearFaults")
    described = lab.settled(name)
    assert described["EndpointStatus"] == "Failed"
    assert described["FailureReason"].startswith("Unable to provision requested ML compute capacity")
    lab.sagemaker.delete_endpoint(EndpointName=name)


def deploy(lab: Lab, endpoint: str, alarm: str, routing: dict, **model) -> str:
    config = lab.configure(f"green-{next_number()}", {"ModelName": lab.model(**model)})
    lab.sagemaker.update_endpoint(
        EndpointName=endpoint, EndpointConfigName=config,
        DeploymentConfig={"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing},
                          "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]}},
    )  # fmt: skip
    return config


@pytest.fixture
def alarm(lab: Lab) -> str:
    name = f"errors-{next_number()}"
    lab.cloud.client("cloudwatch").put_metric_alarm(
        AlarmName=name, Namespace="Test", MetricName=name, Statistic="Sum", Period=60, EvaluationPeriods=1,
        Threshold=1, ComparisonOperator="GreaterThanOrEqualToThreshold", TreatMissingData="notBreaching",
    )  # fmt: skip
    return name


def test_an_alarm_while_baking_rolls_back(lab: Lab, endpoint: str, alarm: str) -> None:
    before = lab.settled(endpoint)["EndpointConfigName"]
    queue = next(events := lab.events_of("SageMaker Endpoint State Change"))
    config = deploy(lab, endpoint, alarm, {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 3600}, answer="green")
    wait_until(lambda: lab.invoke(endpoint)["answer"] == "green")
    pending = lab.sagemaker.describe_endpoint(EndpointName=endpoint)["PendingDeploymentSummary"]
    assert pending["EndpointConfigName"] == config
    assert pending["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Baking"
    assert lab.sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"] == before
    lab.cloud.client("cloudwatch").put_metric_data(Namespace="Test", MetricData=[{"MetricName": alarm, "Value": 5}])
    lab.advance(180)
    described = lab.settled(endpoint)
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", before)
    assert alarm in described["FailureReason"]
    assert lab.invoke(endpoint)["answer"] == "one"
    statuses: list[str] = []

    def rolled_back() -> bool:
        statuses.extend(
            json.loads(message["Body"])["detail"]["EndpointStatus"] for message in messages(lab.cloud, queue, 1)
        )
        return "RollingBack" in statuses

    wait_until(rolled_back)
    next(events, None)


def test_without_an_alarm_the_new_fleet_takes_over_step_by_step(lab: Lab, endpoint: str, alarm: str) -> None:
    routing = {"Type": "CANARY", "WaitIntervalInSeconds": 120,
               "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 30}}  # fmt: skip
    config = deploy(lab, endpoint, alarm, routing, answer="canary")
    wait_until(lambda: lab.invoke(endpoint)["answer"] == "canary")
    assert wait_until(lambda: lab.invoke(endpoint)["answer"] == "one"), "most of the calls"
    lab.advance(130)
    assert {lab.invoke(endpoint)["answer"] for _ in range(12)} == {"canary"}
    assert lab.sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointStatus"] == "Updating"
    lab.advance(130)
    described = lab.settled(endpoint)
    assert described["EndpointConfigName"] == config
    assert described["LastDeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"] == [{"AlarmName": alarm}]


def test_deployments_that_aws_refuses(lab: Lab, endpoint: str, alarm: str) -> None:
    serverless = lab.endpoint(answer="x")
    config = lab.config(lab.model(answer="y"))
    guarded = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]}}
    update = lab.sagemaker.update_endpoint
    text = refusal(update, EndpointName=serverless, EndpointConfigName=config, DeploymentConfig=guarded)
    assert text == "DeploymentConfig is not supported for serverless endpoints."
    unknown = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "nobody"}]}}
    current = lab.settled(endpoint)["EndpointConfigName"]
    assert "nobody" in refusal(update, EndpointName=endpoint, EndpointConfigName=current, DeploymentConfig=unknown)
    lab.sagemaker.delete_endpoint(EndpointName=serverless)


def test_a_configuration_keeps_its_capture(lab: Lab) -> None:
    capture = {"EnableCapture": True, "InitialSamplingPercentage": 10, "DestinationS3Uri": f"s3://{lab.bucket}/captured",
               "CaptureOptions": [{"CaptureMode": "InputAndOutput"}]}  # fmt: skip
    name = lab.serve({"ModelName": lab.model(answer="x")}, DataCaptureConfig=capture)
    shown = lab.settled(name)["DataCaptureConfig"]
    assert (shown["CaptureStatus"], shown["CurrentSamplingPercentage"]) == ("Started", 10)
    config = lab.sagemaker.describe_endpoint_config(EndpointConfigName=name)
    assert config["DataCaptureConfig"] == capture
    lab.sagemaker.delete_endpoint(EndpointName=name)
