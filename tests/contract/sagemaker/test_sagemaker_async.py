"""Asynchronous endpoints: requests wait in a queue that survives everything, and instances may go to zero."""

import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab
from contract.support import Cloud, allow, free_port, messages, queue_arn, wait_until
from ebb_local import lifecycle


def asynchronous(lab: Lab, client: dict | None = None, notify: dict | None = None, **settings) -> str:
    output = {"S3OutputPath": f"s3://{lab.bucket}/answers", "S3FailurePath": f"s3://{lab.bucket}/failures"}
    config = {"OutputConfig": output | ({"NotificationConfig": notify} if notify else {})}
    config |= {"ClientConfig": client} if client else {}
    return lab.serve({"ModelName": lab.model(**settings)}, AsyncInferenceConfig=config)


def ask(lab: Lab, endpoint: str, body: str = "1,2", **members) -> dict:
    location = lab.put(f"inputs/{abs(hash(body))}", body)
    return lab.runtime.invoke_endpoint_async(EndpointName=endpoint, InputLocation=location, ContentType="text/csv",
                                             **members)  # fmt: skip


def key_of(uri: str) -> str:
    return uri.split("/", 3)[3]


def answer(lab: Lab, reply: dict) -> dict:
    wait_until(lambda: lab.keys(key_of(reply["OutputLocation"])))
    return json.loads(lab.get(key_of(reply["OutputLocation"])))


def scale(lab: Lab, endpoint: str, count: int) -> dict:
    wanted = [{"VariantName": "all", "DesiredInstanceCount": count}]
    lab.sagemaker.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=wanted)
    return lab.settled(endpoint)


@pytest.fixture(scope="module")
def endpoint(lab: Lab):
    name = asynchronous(lab, answer="one", client={"MaxConcurrentInvocationsPerInstance": 2})
    yield name
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_the_answer_lies_in_the_output_path(lab: Lab, endpoint: str) -> None:
    reply = ask(lab, endpoint, "5,6", InferenceId="mine")
    assert reply["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert reply["InferenceId"] == "mine"
    assert reply["OutputLocation"].startswith(f"s3://{lab.bucket}/answers/")
    assert reply["FailureLocation"].startswith(f"s3://{lab.bucket}/failures/")
    assert answer(lab, reply)["got"] == "5,6"
    described = lab.sagemaker.describe_endpoint(EndpointName=endpoint)
    assert described["AsyncInferenceConfig"]["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 2}


def test_a_request_may_hold_its_input_and_name_its_output(lab: Lab, endpoint: str) -> None:
    reply = lab.runtime.invoke_endpoint_async(
        EndpointName=endpoint, Body=b"7,8", S3OutputPathExtension="a/b", Filename="c.json", ContentType="text/csv"
    )
    assert reply["OutputLocation"] == f"s3://{lab.bucket}/answers/a/b/c.json"
    assert answer(lab, reply)["got"] == "7,8"


def test_what_the_model_refuses_ends_as_a_failure(lab: Lab, endpoint: str) -> None:
    reply = ask(lab, endpoint, "bad")
    wait_until(lambda: lab.keys(key_of(reply["FailureLocation"])))
    assert "Received client error (400) from primary" in lab.get(key_of(reply["FailureLocation"]))
    assert not lab.keys(key_of(reply["OutputLocation"]))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        pytest.param({"InputLocation": "s3://b/k", "RequestTTLSeconds": 21_601},
                     "Value '21601' at 'requestTTLSeconds' failed to satisfy constraint", id="a long life"),
        pytest.param({"InputLocation": "s3://b/k", "Body": b"x"}, "Exactly one of InputLocation", id="two inputs"),
        pytest.param({}, "Exactly one of InputLocation and Body", id="no input"),
        pytest.param({"InputLocation": "s3://b/k", "Filename": "a.b.c"}, "'filename' failed", id="a file name"),
    ],
)  # fmt: skip
def test_a_request_is_refused(lab: Lab, endpoint: str, members: dict, text: str) -> None:
    with pytest.raises(ClientError) as refused:
        lab.runtime.invoke_endpoint_async(EndpointName=endpoint, **members)
    assert text in refused.value.response["Error"]["Message"]


def test_each_kind_of_endpoint_takes_its_own_kind_of_request(lab: Lab, endpoint: str) -> None:
    serverless = lab.endpoint(answer="one")
    calls = [(lab.runtime.invoke_endpoint, {"EndpointName": endpoint, "Body": b"1"}),
             (lab.runtime.invoke_endpoint_async, {"EndpointName": serverless, "Body": b"1"})]  # fmt: skip
    for call, request in calls:
        with pytest.raises(ClientError) as refused:
            call(**request)
        assert refused.value.response["Error"]["Code"] == "ValidationError"
    config = lab.config(lab.model(answer="two"), InstanceType="ml.m5.large", InitialInstanceCount=1)
    with pytest.raises(ClientError, match="between asynchronous and other inference"):
        lab.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    lab.sagemaker.delete_endpoint(EndpointName=serverless)


def test_without_instances_requests_wait_for_capacity(lab: Lab, endpoint: str) -> None:
    assert scale(lab, endpoint, 0)["ProductionVariants"][0]["CurrentInstanceCount"] == 0
    reply = ask(lab, endpoint, "9,9")
    assert not lab.keys(key_of(reply["OutputLocation"]))
    assert scale(lab, endpoint, 1)["ProductionVariants"][0]["DesiredInstanceCount"] == 1
    assert answer(lab, reply)["got"] == "9,9"


def test_capacity_that_is_refused_leaves_the_requests_waiting(lab: Lab, endpoint: str) -> None:
    scale(lab, endpoint, 0)
    reply = ask(lab, endpoint, "8,9")
    lab.control("SetFaults", refusedInstanceTypes=["ml.m5.large"])
    described = scale(lab, endpoint, 1)
    assert described["EndpointStatus"] == "InService"
    assert described["FailureReason"].startswith("Unable to provision requested ML compute capacity")
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 0
    lab.control("ClearFaults")
    assert "FailureReason" not in scale(lab, endpoint, 1)
    assert answer(lab, reply)["got"] == "8,9"


def test_the_queue_is_measured_each_minute(lab: Lab, endpoint: str) -> None:
    scale(lab, endpoint, 0)
    reply = ask(lab, endpoint, "1")
    lab.advance(120)
    assert latest(lab, endpoint, "ApproximateBacklogSize") == 1
    assert latest(lab, endpoint, "HasBacklogWithoutCapacity") == 1
    assert latest(lab, endpoint, "ApproximateAgeOfOldestRequest") >= 60
    scale(lab, endpoint, 1)
    answer(lab, reply)
    lab.advance(120)
    assert latest(lab, endpoint, "ApproximateBacklogSize") == 0
    assert latest(lab, endpoint, "HasBacklogWithoutCapacity") == 0
    assert latest(lab, endpoint, "InvocationsProcesssed", "Sum", VariantName="all") is not None
    assert latest(lab, endpoint, "Invocations", "Sum", VariantName="all") is None, "AWS publishes none here"


def test_a_request_that_nobody_takes_expires(lab: Lab, endpoint: str) -> None:
    scale(lab, endpoint, 0)
    reply = ask(lab, endpoint, "late", RequestTTLSeconds=120)
    lab.advance(240)
    wait_until(lambda: lab.keys(key_of(reply["FailureLocation"])))
    assert latest(lab, endpoint, "ExpiredRequests", "Sum", VariantName="all") == 1
    scale(lab, endpoint, 1)
    assert not lab.keys(key_of(reply["OutputLocation"]))


def latest(lab: Lab, endpoint: str, metric: str, stat: str = "Maximum", **dimensions: str) -> float | None:
    """Return the last value of a metric of the endpoint in its last quarter of an hour."""
    end = lab.control("Status")["Now"] + 60
    found = lab.cloud.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker", MetricName=metric, Statistics=[stat], Period=60, StartTime=end - 900, EndTime=end,
        Dimensions=[{"Name": key, "Value": text} for key, text in {"EndpointName": endpoint, **dimensions}.items()],
    )["Datapoints"]  # fmt: skip
    return max(found, key=lambda point: point["Timestamp"])[stat] if found else None


def test_topics_are_told_under_the_role_of_the_model(lab: Lab) -> None:
    sns, sqs = lab.cloud.client("sns"), lab.cloud.client("sqs")
    topic = sns.create_topic(Name="inference-results")["TopicArn"]
    url = sqs.create_queue(QueueName="inference-results")["QueueUrl"]
    arn = queue_arn(lab.cloud, url)
    policy = {"Version": "2012-10-17", "Statement": [{**allow("sqs:SendMessage", arn), "Principal": "*"}]}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    name = asynchronous(lab, notify={"SuccessTopic": topic, "ErrorTopic": topic}, answer="one")
    answer(lab, ask(lab, name, "unheard"))
    role = lab.role_arn.rsplit("/", 1)[-1]
    statement = {"Version": "2012-10-17", "Statement": [allow("sns:Publish", topic)]}
    lab.cloud.client("iam").put_role_policy(RoleName=role, PolicyName="tell", PolicyDocument=json.dumps(statement))
    good = ask(lab, name, "heard", InferenceId="good")
    [message] = messages(lab.cloud, url)
    told = json.loads(message["Body"])
    assert (told["inferenceId"], told["invocationStatus"]) == ("good", "Completed")
    assert told["responseParameters"]["outputLocation"] == good["OutputLocation"]
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_no_more_at_once_than_the_instances_take(lab: Lab, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    name = asynchronous(lab, client={"MaxConcurrentInvocationsPerInstance": 1}, answer="one", hold=str(hold))
    first, second = ask(lab, name, "1"), ask(lab, name, "2")
    hold.unlink()
    assert answer(lab, first)["peak"] == answer(lab, second)["peak"] == 1
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_waiting_requests_survive_a_restart(home: Path) -> None:
    lab = Lab(Cloud(lifecycle.start(home, port=free_port())))
    name = asynchronous(lab, answer="one")
    scale(lab, name, 0)
    reply = ask(lab, name, "patience")
    lifecycle.stop(home)
    lab.cloud = Cloud(lifecycle.start(home, port=free_port()))
    lab.sagemaker, lab.s3 = lab.cloud.client("sagemaker"), lab.cloud.client("s3")
    assert scale(lab, name, 1)["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    assert answer(lab, reply)["got"] == "patience"
