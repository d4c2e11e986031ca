"""Inference components: copies come and go, instances follow them, and without copies AWS's own error answers."""

import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab
from contract.support import Cloud, allow, free_port, wait_until
from ebb_local import lifecycle

SCALING = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 2}
NO_CAPACITY = (
    "Inference Component has no capacity to process this request. ApplicationAutoScaling may be in-progress (if "
    "configured) or try to increase the capacity by invoking UpdateInferenceComponentRuntimeConfig API."
)


def component(lab: Lab, endpoint: str, name: str, *, copies: int = 1, memory_mb: int = 1024, **settings) -> dict:
    lab.sagemaker.create_inference_component(
        InferenceComponentName=name, EndpointName=endpoint, VariantName="all", RuntimeConfig={"CopyCount": copies},
        Specification={"ModelName": lab.model(**settings),
                       "ComputeResourceRequirements": {"MinMemoryRequiredInMb": memory_mb}},
    )  # fmt: skip
    return settled(lab, name)


def settled(lab: Lab, name: str) -> dict:
    describe = lab.sagemaker.describe_inference_component
    wait_until(
        lambda: describe(InferenceComponentName=name)["InferenceComponentStatus"] not in ("Creating", "Updating")
    )
    return describe(InferenceComponentName=name)


def copies(lab: Lab, name: str, count: int) -> dict:
    lab.sagemaker.update_inference_component_runtime_config(
        InferenceComponentName=name, DesiredRuntimeConfig={"CopyCount": count}
    )
    return settled(lab, name)


def remove(lab: Lab, *names: str) -> None:
    for name in names:
        lab.sagemaker.delete_inference_component(InferenceComponentName=name)
    wait_until(lambda: not {*names} & {row["InferenceComponentName"] for row in listed(lab)})


def listed(lab: Lab, **filters) -> list[dict]:
    return lab.sagemaker.list_inference_components(**filters)["InferenceComponents"]


def ask(lab: Lab, endpoint: str, name: str) -> dict:
    reply = lab.runtime.invoke_endpoint(EndpointName=endpoint, InferenceComponentName=name, Body=b"1")
    return json.loads(reply["Body"].read())


def refusal(call, **request) -> dict:
    with pytest.raises(ClientError) as refused:
        call(**request)
    return refused.value.response["Error"]


def instances(lab: Lab, endpoint: str) -> int:
    return lab.sagemaker.describe_endpoint(EndpointName=endpoint)["ProductionVariants"][0]["CurrentInstanceCount"]


@pytest.fixture(scope="module")
def endpoint(lab: Lab):
    name = lab.serve({"ManagedInstanceScaling": SCALING}, ExecutionRoleArn=lab.role_arn)
    yield name
    remove(lab, *[row["InferenceComponentName"] for row in listed(lab, EndpointNameEquals=name)])
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_components_answer_side_by_side(lab: Lab, endpoint: str) -> None:
    described = component(lab, endpoint, "left", answer="left")
    assert described["InferenceComponentStatus"] == "InService", described.get("FailureReason")
    assert described["RuntimeConfig"] == {"DesiredCopyCount": 1, "CurrentCopyCount": 1}
    component(lab, endpoint, "right", answer="right")
    assert [ask(lab, endpoint, name)["answer"] for name in ("left", "right")] == ["left", "right"]
    assert {row["InferenceComponentName"] for row in listed(lab, EndpointNameEquals=endpoint)} == {"left", "right"}
    remove(lab, "left", "right")


def test_without_copies_a_call_gets_the_error_of_aws(lab: Lab, endpoint: str) -> None:
    component(lab, endpoint, "sleeper", answer="here")
    assert copies(lab, "sleeper", 0)["RuntimeConfig"] == {"DesiredCopyCount": 0, "CurrentCopyCount": 0}
    error = refusal(lab.runtime.invoke_endpoint, EndpointName=endpoint, InferenceComponentName="sleeper", Body=b"1")
    assert error == {"Code": "ValidationError", "Message": NO_CAPACITY}
    copies(lab, "sleeper", 1)
    assert ask(lab, endpoint, "sleeper")["answer"] == "here"
    remove(lab, "sleeper")


def test_a_call_has_to_name_a_component_of_the_endpoint(lab: Lab, endpoint: str) -> None:
    error = refusal(lab.runtime.invoke_endpoint, EndpointName=endpoint, Body=b"1")
    assert error["Message"].startswith("Inference Component Name header is required for endpoints to which you plan")
    error = refusal(lab.runtime.invoke_endpoint, EndpointName=endpoint, InferenceComponentName="nobody", Body=b"1")
    assert error["Code"] == "ValidationError"


def test_a_component_is_not_created_without_copies(lab: Lab, endpoint: str) -> None:
    with pytest.raises(ClientError, match="CopyCount must be greater than or equal to 1 when"):
        component(lab, endpoint, "none", copies=0, answer="x")


def test_instances_follow_the_copies_up_to_their_limit(lab: Lab, endpoint: str) -> None:
    component(lab, endpoint, "large", memory_mb=5000, answer="x")
    assert copies(lab, "large", 2)["RuntimeConfig"]["CurrentCopyCount"] == 2
    assert instances(lab, endpoint) == 2
    described = copies(lab, "large", 3)
    assert "not enough hardware resources" in described["FailureReason"]
    assert described["InferenceComponentStatus"] == "InService"
    assert described["RuntimeConfig"] == {"DesiredCopyCount": 2, "CurrentCopyCount": 2}
    remove(lab, "large")


def test_a_copy_larger_than_an_instance_fails(lab: Lab, endpoint: str) -> None:
    large = component(lab, endpoint, "too-large", memory_mb=9000, answer="x")
    assert (large["InferenceComponentStatus"], large["RuntimeConfig"]["CurrentCopyCount"]) == ("Failed", 0)
    remove(lab, "too-large")


def test_without_copies_the_instances_go_and_come_back_or_not(lab: Lab, endpoint: str) -> None:
    component(lab, endpoint, "unlucky", answer="x")
    copies(lab, "unlucky", 0)
    lab.advance(300)
    assert instances(lab, endpoint) == 0
    beats = count(lab, "/aws/sagemaker/Endpoints", "CPUUtilization", EndpointName=endpoint, VariantName="all")
    lab.advance(180)
    again = count(lab, "/aws/sagemaker/Endpoints", "CPUUtilization", EndpointName=endpoint, VariantName="all")
    assert again == beats, "no instance, no heartbeat"

    lab.control("SetFaults", refusedInstanceTypes=["ml.m5.large"])
    failed = copies(lab, "unlucky", 1)
    lab.control("ClearFaults")
    assert failed["InferenceComponentStatus"] == "Failed"
    assert failed["FailureReason"].startswith("Unable to provision requested ML compute capacity")
    assert failed["RuntimeConfig"]["CurrentCopyCount"] == 0
    assert copies(lab, "unlucky", 1)["InferenceComponentStatus"] == "InService"
    assert instances(lab, endpoint) == 1
    assert ask(lab, endpoint, "unlucky")["answer"] == "x"
    remove(lab, "unlucky")


def test_calls_are_metrics_of_the_component(lab: Lab, endpoint: str) -> None:
    component(lab, endpoint, "measured", copies=2, answer="x")
    ask(lab, endpoint, "measured")
    copies(lab, "measured", 0)
    refusal(lab.runtime.invoke_endpoint, EndpointName=endpoint, InferenceComponentName="measured", Body=b"1")
    lab.advance(60)
    of = {"InferenceComponentName": "measured"}
    assert total(lab, "AWS/SageMaker", "InvocationsPerCopy", **of) == 0.5
    assert total(lab, "AWS/SageMaker", "NoCapacityInvocationFailures", **of) == 1
    remove(lab, "measured")


def test_a_caller_needs_the_component_as_well_as_its_endpoint(lab: Lab, endpoint: str) -> None:
    component(lab, endpoint, "guarded", answer="x")
    account = "arn:aws:sagemaker:us-east-1:000000000000"
    role = lab.assumable(allow("sagemaker:InvokeEndpoint", f"{account}:endpoint/{endpoint}"))
    runtime = lab.session(role).client("sagemaker-runtime", endpoint_url=lab.cloud.server.endpoint_url)
    error = refusal(runtime.invoke_endpoint, EndpointName=endpoint, InferenceComponentName="guarded", Body=b"1")
    assert error["Code"] == "AccessDeniedException"
    assert f"{account}:inference-component/guarded" in error["Message"]
    remove(lab, "guarded")


def test_copies_come_back_after_a_restart(home: Path) -> None:
    lab = Lab(Cloud(lifecycle.start(home, port=free_port())))
    endpoint = lab.serve({"ManagedInstanceScaling": SCALING}, ExecutionRoleArn=lab.role_arn)
    component(lab, endpoint, "stays", answer="still here")
    component(lab, endpoint, "sleeps", answer="asleep")
    copies(lab, "sleeps", 0)
    lifecycle.stop(home)
    lab.cloud = Cloud(lifecycle.start(home, port=free_port()))
    lab.sagemaker, lab.runtime = lab.cloud.client("sagemaker"), lab.cloud.client("sagemaker-runtime")
    assert ask(lab, endpoint, "stays")["answer"] == "still here"
    error = refusal(lab.runtime.invoke_endpoint, EndpointName=endpoint, InferenceComponentName="sleeps", Body=b"1")
    assert error["Message"] == NO_CAPACITY
    assert copies(lab, "sleeps", 1)["RuntimeConfig"]["CurrentCopyCount"] == 1
    assert ask(lab, endpoint, "sleeps")["answer"] == "asleep"


def points(lab: Lab, namespace: str, metric: str, stat: str, **dimensions: str) -> list[float]:
    end = lab.control("Status")["Now"] + 60
    found = lab.cloud.client("cloudwatch").get_metric_statistics(
        Namespace=namespace, MetricName=metric, Statistics=[stat], Period=60, StartTime=end - 7200, EndTime=end,
        Dimensions=[{"Name": key, "Value": text} for key, text in dimensions.items()],
    )["Datapoints"]  # fmt: skip
    return [point[stat] for point in found]


def count(lab: Lab, namespace: str, metric: str, **dimensions: str) -> float:
    return sum(points(lab, namespace, metric, "SampleCount", **dimensions))


def total(lab: Lab, namespace: str, metric: str, **dimensions: str) -> float:
    return sum(points(lab, namespace, metric, "Sum", **dimensions))


def test_another_model_takes_over_in_place(lab: Lab, endpoint: str) -> None:
    component(lab, endpoint, "changing", answer="old")
    lab.sagemaker.update_inference_component(
        InferenceComponentName="changing", Specification={"ModelName": lab.model(answer="new")}
    )
    assert settled(lab, "changing")["InferenceComponentStatus"] == "InService"
    assert ask(lab, endpoint, "changing")["answer"] == "new"
    remove(lab, "changing")


def test_an_endpoint_with_components_is_not_deleted(lab: Lab, endpoint: str) -> None:
    component(lab, endpoint, "guest", answer="x")
    assert "hosts inference components" in refusal(lab.sagemaker.delete_endpoint, EndpointName=endpoint)["Message"]
    remove(lab, "guest")


@pytest.mark.parametrize(
    ("variant", "members", "text"),
    [
        pytest.param({}, {}, "ExecutionRoleArn is required", id="no role"),
        pytest.param({"ManagedInstanceScaling": {"Status": "ENABLED", "MinInstanceCount": 2, "MaxInstanceCount": 3}},
                     {"ExecutionRoleArn": "given"}, "InitialInstanceCount must be between", id="too few instances"),
        pytest.param({}, {"ExecutionRoleArn": "given",
                          "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/answers"}}},
                     "AsyncInferenceConfig is not supported for endpoints with inference components", id="async"),
    ],
)  # fmt: skip
def test_a_configuration_for_components_is_refused(lab: Lab, variant: dict, members: dict, text: str) -> None:
    members = members | ({"ExecutionRoleArn": lab.role_arn} if "ExecutionRoleArn" in members else {})
    with pytest.raises(ClientError, match=text):
        lab.configure("refused", variant, **members)
