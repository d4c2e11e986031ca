"""Endpoints are real HTTP servers: they start, answer, rest, are replaced without a gap, and end."""

import io
import json
import subprocess
import tarfile
import threading
import time

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab
from contract.support import allow, wait_until

INSTANCE = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}


def refused(call, **request) -> dict:
    with pytest.raises(ClientError) as error:
        call(**request)
    return error.value.response


def test_an_endpoint_answers_and_logs_and_ends(lab: Lab) -> None:
    name = lab.endpoint(answer="one")
    described = lab.sagemaker.describe_endpoint(EndpointName=name)
    assert described["EndpointStatus"] == "InService", described.get("FailureReason")
    [variant] = described["ProductionVariants"]
    assert variant["CurrentServerlessConfig"] == {"MemorySizeInMB": 1024, "MaxConcurrency": 5}
    assert variant["DeployedImages"][0]["ResolvedImage"].startswith(
        "000000000000.dkr.ecr.us-east-1.amazonaws.com/ebb-serve@sha256:"
    )

    assert lab.invoke(name, b"5,6") == {"answer": "one", "got": "5,6", "argv": ["serve"]}
    wait_until(lambda: "served 5,6" in lab.log_lines(f"Endpoints/{name}", "all/"))

    lab.sagemaker.delete_endpoint(EndpointName=name)
    error = refused(lab.runtime.invoke_endpoint, EndpointName=name, Body=b"")["Error"]
    assert error == {"Code": "ValidationError", "Message": f"Endpoint {name} of account 000000000000 not found."}
    assert not _processes_of(lab, name)


def test_errors_of_the_model_are_passed_on_as_model_errors(lab: Lab) -> None:
    name = lab.endpoint(answer="one")
    response = refused(lab.runtime.invoke_endpoint, EndpointName=name, Body=b"bad")
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalStatusCode"] == 400
    assert response["Error"]["Message"].startswith('Received client error (400) from primary with message "{"answer"')
    assert f"group=/aws/sagemaker/Endpoints/{name} in account 000000000000" in response["Error"]["Message"]
    response = refused(lab.runtime.invoke_endpoint, EndpointName=name, Body=b"x" * (4 * 1024 * 1024 + 1))
    assert response["Error"]["Code"] == "ValidationError"
    assert "Member must have length less than or equal to 4194304" in response["Error"]["Message"]
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_a_serverless_endpoint_rests_and_starts_cold(lab: Lab) -> None:
    name = lab.endpoint(answer="one")
    wait_until(lambda: not _processes_of(lab, name), timeout_s=10)
    assert lab.sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
    assert lab.invoke(name)["answer"] == "one"
    cold = wait_until(lambda: _sum(lab, name, "ModelSetupTime"))
    assert cold > 10_000, "microseconds that a process needs to start"
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_invocations_are_metrics(lab: Lab) -> None:
    name = lab.endpoint(answer="one")
    for body in (b"1", b"2", b"bad"):
        try:
            lab.runtime.invoke_endpoint(EndpointName=name, Body=body)
        except ClientError:
            assert body == b"bad"
    wait_until(lambda: _sum(lab, name, "Invocations") == 3)
    assert _sum(lab, name, "Invocation4XXErrors") == 1
    assert _sum(lab, name, "Invocation5XXErrors") == 0
    assert _sum(lab, name, "ModelLatency") > 0
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_an_update_leaves_no_gap(lab: Lab) -> None:
    name = lab.endpoint(answer="old")
    answers, stop = [], threading.Event()

    def call() -> None:
        while not stop.is_set():
            answers.append(lab.invoke(name)["answer"])

    caller = threading.Thread(target=call)
    caller.start()
    wait_until(lambda: "old" in answers)
    lab.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=lab.config(lab.model(answer="new")))
    wait_until(lambda: "new" in answers)
    stop.set()
    caller.join()
    assert answers == sorted(answers, reverse=True), "the old one answers until the new one does"
    assert lab.settled(name)["EndpointStatus"] == "InService"
    wait_until(lambda: len(_processes_of(lab, name)) == 1)
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_a_failed_update_keeps_the_old_model(lab: Lab) -> None:
    name = lab.endpoint(answer="old")
    before = lab.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    lab.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=lab.config(lab.model(crash=True)))
    after = lab.settled(name)
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", before)
    assert after["FailureReason"] == (
        "The primary container for production variant all did not pass the ping health check. Please check CloudWatch "
        "logs for this endpoint."
    )
    assert "cannot load the model" in lab.log_lines(f"Endpoints/{name}", "all/")
    assert lab.invoke(name)["answer"] == "old"
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_an_endpoint_whose_model_crashes_has_failed(lab: Lab) -> None:
    name = lab.endpoint(crash=True)
    described = lab.sagemaker.describe_endpoint(EndpointName=name)
    assert described["EndpointStatus"] == "Failed"
    assert "did not pass the ping health check" in described["FailureReason"]
    lab.sagemaker.delete_endpoint(EndpointName=name)


def test_an_archive_cannot_write_outside_its_directory(lab: Lab) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        member = tarfile.TarInfo("../../outside")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    url = lab.put("evil/model.tar.gz", data.getvalue())
    container = {"Image": lab.images["serve"], "ModelDataUrl": url}
    lab.sagemaker.create_model(ModelName="evil", PrimaryContainer=container, ExecutionRoleArn=lab.role_arn)
    lab.sagemaker.create_endpoint(EndpointName="evil", EndpointConfigName=lab.config("evil"))
    described = lab.settled("evil")
    assert described["EndpointStatus"] == "Failed"
    assert "Failed to extract model data archive" in described["FailureReason"]
    lab.sagemaker.delete_endpoint(EndpointName="evil")


def test_instances_go_serverless_never(lab: Lab) -> None:
    name = "on-instances"
    lab.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=lab.config(lab.model(answer="one"), **INSTANCE))
    assert lab.settled(name)["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    serverless = lab.config(lab.model(answer="two"))
    error = refused(lab.sagemaker.update_endpoint, EndpointName=name, EndpointConfigName=serverless)["Error"]
    assert error["Code"] == "ValidationException"
    time.sleep(2.5)  # longer than a serverless endpoint would stay awake
    assert len(_processes_of(lab, name)) == 1
    lab.sagemaker.delete_endpoint(EndpointName=name)


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        pytest.param({"ServerlessConfig": {"MemorySizeInMB": 1500, "MaxConcurrency": 1}}, "must be one of [1024, 2048",
                     id="memory in steps"),
        pytest.param({"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 201}},
                     "Member must have value less than or equal to 200", id="concurrency"),
        pytest.param({**INSTANCE, "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}},
                     "ServerlessConfig cannot be specified together with InstanceType", id="both kinds"),
        pytest.param({"InitialVariantWeight": 1.0}, "needs either ServerlessConfig or InstanceType", id="no kind"),
    ],
)  # fmt: skip
def test_a_variant_is_refused(lab: Lab, variant: dict, text: str) -> None:
    with pytest.raises(ClientError) as error:
        lab.config(lab.model(answer="one"), **variant)
    assert text in error.value.response["Error"]["Message"]


def test_a_model_needs_data_that_its_role_can_read(lab: Lab) -> None:
    url = f"s3://{lab.bucket}/no/model.tar.gz"
    container = {"Image": lab.images["serve"], "ModelDataUrl": url}
    error = refused(
        lab.sagemaker.create_model, ModelName="no-data", PrimaryContainer=container, ExecutionRoleArn=lab.role_arn
    )["Error"]
    assert error["Message"].startswith(f"Could not access model data at {url}.")


def test_callers_need_invoke_endpoint_on_that_endpoint(lab: Lab) -> None:
    name = lab.endpoint(answer="one")
    root = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [root]})
    iam = lab.cloud.client("iam")
    role = iam.create_role(RoleName="caller", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    runtime = lab.session(role).client("sagemaker-runtime", endpoint_url=lab.cloud.server.endpoint_url)
    error = refused(runtime.invoke_endpoint, EndpointName=name, Body=b"1")["Error"]
    assert error["Code"] == "AccessDeniedException"
    arn = f"arn:aws:sagemaker:us-east-1:000000000000:endpoint/{name}"
    assert f"sagemaker:InvokeEndpoint on resource: {arn}" in error["Message"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow("sagemaker:InvokeEndpoint", arn)]})
    iam.put_role_policy(RoleName="caller", PolicyName="given", PolicyDocument=policy)
    assert runtime.invoke_endpoint(EndpointName=name, Body=b"1")["InvokedProductionVariant"] == "all"
    lab.sagemaker.delete_endpoint(EndpointName=name)


def _processes_of(lab: Lab, endpoint: str) -> list[str]:
    """Return the command lines of the processes that serve an endpoint."""
    listing = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True).stdout
    where = str(lab.cloud.server.home / "endpoints" / endpoint) + "/"
    return [line for line in listing.splitlines() if where in line and "serve" in line]


def _sum(lab: Lab, endpoint: str, metric: str) -> float:
    end = lab.control("Status")["Now"] + 60
    points = lab.cloud.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker", MetricName=metric, Statistics=["Sum"], Period=60, StartTime=end - 600, EndTime=end,
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "all"}],
    )["Datapoints"]  # fmt: skip
    return sum(point["Sum"] for point in points)
