"""Inference Recommender: the model's own container under load, and nothing left running."""

import io
import subprocess
import tarfile
from typing import Any

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, next_number
from contract.support import allow, wait_until
from ebb.requests import recommendations

ENDED = ("COMPLETED", "FAILED", "STOPPED")
MADE = ("model", "endpoint-config", "endpoint")


def tester(lab: Lab, *without: str) -> str:
    """Return a role that may do what a load test does, but for some actions."""
    actions = ["InvokeEndpoint", "DescribeEndpoint", "DescribeModelPackage"]
    actions += [f"{what}{kind}" for kind in ("Model", "EndpointConfig", "Endpoint") for what in ("Create", "Delete")]
    arns = [f"arn:aws:sagemaker:us-east-1:000000000000:{kind}/recommend-*" for kind in MADE]
    arns.append("arn:aws:sagemaker:us-east-1:000000000000:model-package/*")
    allowed = [allow(f"sagemaker:{each}", arns) for each in actions if each not in without]
    return lab.role(*allowed, allow("iam:PassRole", "arn:aws:iam::000000000000:role/*"))


def package(lab: Lab, payload: str | None = "1,2\n", **settings: Any) -> str:
    """Register a model of the tiny server, with its sample payload."""
    group = f"group-{next_number()}"
    lab.sagemaker.create_model_package_group(ModelPackageGroupName=group)
    container = lab.sagemaker.describe_model(ModelName=lab.model(**settings))["PrimaryContainer"]
    sample: dict[str, Any] = {}
    if payload is not None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            member = tarfile.TarInfo("row.csv")
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload.encode()))
        uri = lab.put(f"{group}/payload.tar.gz", data.getvalue())
        sample = {"SamplePayloadUrl": uri, "Domain": "MACHINE_LEARNING", "Task": "OTHER"}
    return lab.sagemaker.create_model_package(
        ModelPackageGroupName=group,
        InferenceSpecification={
            "Containers": [{"Image": container["Image"], "ModelDataUrl": container["ModelDataUrl"]}],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        **sample,
    )["ModelPackageArn"]


def asked(lab: Lab, package_arn: str, **changes: Any) -> dict[str, Any]:
    """The very body that Ebb sends, without a key."""
    given = {"instance_types": ["ml.c5.large", "ml.m5.xlarge"], "role_arn": tester(lab)} | changes
    described = lab.sagemaker.describe_model_package(ModelPackageName=package_arn)
    body = recommendations.create_inference_recommendations_job(
        name=f"recommend-{next_number()}",
        package_arn=package_arn,
        payload_uri=described.get("SamplePayloadUrl", ""),
        content_type="text/csv",
        kms_key="",
        tags=[],
        **given,
    )
    del body["InputConfig"]["VolumeKmsKeyId"], body["OutputConfig"]
    if "SamplePayloadUrl" not in described:
        del body["InputConfig"]["ContainerConfig"]
    return body


def run(lab: Lab, body: dict[str, Any]) -> dict[str, Any]:
    lab.sagemaker.create_inference_recommendations_job(**body)
    describe = lab.sagemaker.describe_inference_recommendations_job
    wait_until(lambda: describe(JobName=body["JobName"])["Status"] in ENDED)
    return describe(JobName=body["JobName"])


def test_each_type_that_is_asked_is_measured_on_the_models_own_container(lab: Lab) -> None:
    body = asked(lab, package(lab, answer="scored", sleep_s=0.05))
    job = run(lab, body)
    assert job["Status"] == "COMPLETED", job.get("FailureReason")
    found = {each["EndpointConfiguration"]["InstanceType"]: each["Metrics"] for each in job["InferenceRecommendations"]}
    assert set(found) == {"ml.c5.large", "ml.m5.xlarge"}
    for kind, callers in (("ml.c5.large", 2), ("ml.m5.xlarge", 4)):
        assert 60 <= found[kind]["MaxInvocations"] <= callers / 0.05 * 60, "a model that sleeps 50 ms answers no faster"
        assert found[kind]["ModelLatency"] >= 50_000
    assert found["ml.m5.xlarge"]["MaxInvocations"] > found["ml.c5.large"]["MaxInvocations"]
    assert "served 1,2" in lab.log_lines("InferenceRecommendationsJobs", body["JobName"])
    listed = lab.sagemaker.list_inference_recommendations_jobs(NameContains=body["JobName"])
    assert [each["Status"] for each in listed["InferenceRecommendationsJobs"]] == ["COMPLETED"]
    running = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True).stdout
    assert body["JobName"] not in running


def test_a_type_on_which_it_is_too_slow_for_what_was_asked_answers_nothing(lab: Lab) -> None:
    job = run(lab, asked(lab, package(lab, answer="scored", sleep_s=0.05), instance_types=["ml.c5.large"], p95_ms=10))
    assert [each["Metrics"]["MaxInvocations"] for each in job["InferenceRecommendations"]] == [0]


def test_serverless_sizes_are_measured_too(lab: Lab) -> None:
    serverless = {"instance_types": (), "serverless_memory_mb": [1024], "max_concurrency": 2}
    (found,) = run(lab, asked(lab, package(lab, answer="scored"), **serverless))["InferenceRecommendations"]
    assert found["EndpointConfiguration"]["ServerlessConfig"] == {"MemorySizeInMB": 1024, "MaxConcurrency": 2}
    assert found["Metrics"]["MaxInvocations"] > 0


@pytest.mark.parametrize(
    ("payload", "settings", "reason"),
    [
        pytest.param("bad", {"answer": "scored"}, "answered the sample payload with 400", id="the model refuses it"),
        pytest.param("1,2", {"crash": True}, "did not pass the ping", id="the model does not start"),
    ],
)
def test_a_job_fails_with_a_reason(lab: Lab, payload: str, settings: dict, reason: str) -> None:
    job = run(lab, asked(lab, package(lab, payload, **settings)))
    assert job["Status"] == "FAILED"
    assert reason in job["FailureReason"]


@pytest.mark.parametrize("missing", ["DescribeModelPackage", "CreateEndpointConfig", "DeleteEndpoint"])
def test_a_job_whose_role_may_not_make_what_is_tested_fails_while_it_runs(lab: Lab, missing: str) -> None:
    job = run(lab, asked(lab, package(lab, answer="scored"), role_arn=tester(lab, missing)))
    assert job["Status"] == "FAILED"
    assert f"not authorized to perform: sagemaker:{missing}" in job["FailureReason"]


def test_what_the_job_says_of_its_sample_goes_before_what_the_package_says(lab: Lab) -> None:
    body = asked(lab, package(lab, "bad", answer="scored"), instance_types=["ml.c5.large"])
    better = lab.sagemaker.describe_model_package(ModelPackageName=package(lab, "1,2", answer="scored"))
    body["InputConfig"]["ContainerConfig"]["PayloadConfig"]["SamplePayloadUrl"] = better["SamplePayloadUrl"]
    assert run(lab, body)["Status"] == "COMPLETED"


def test_a_job_that_is_stopped_does_not_wait_for_the_models_answer(lab: Lab) -> None:
    body = asked(lab, package(lab, answer="scored", sleep_s=600))
    lab.sagemaker.create_inference_recommendations_job(**body)
    describe, name = lab.sagemaker.describe_inference_recommendations_job, body["JobName"]
    wait_until(lambda: "IN_PROGRESS" in describe(JobName=name)["Status"])
    lab.sagemaker.stop_inference_recommendations_job(JobName=name)
    wait_until(lambda: describe(JobName=name)["Status"] == "STOPPED")
    with pytest.raises(ClientError, match="is in status STOPPED"):
        lab.sagemaker.stop_inference_recommendations_job(JobName=name)


def test_a_package_without_a_sample_payload_is_refused(lab: Lab) -> None:
    body = asked(lab, package(lab, None, answer="scored"))
    with pytest.raises(ClientError, match="SamplePayloadUrl is needed"):
        lab.sagemaker.create_inference_recommendations_job(**body)


def test_a_caller_needs_the_permission_for_this_job_and_to_pass_the_role(lab: Lab) -> None:
    body = asked(lab, package(lab, answer="scored"), instance_types=["ml.c5.large"])
    arn = "arn:aws:sagemaker:us-east-1:000000000000:inference-recommendations-job/"
    create = allow("sagemaker:CreateInferenceRecommendationsJob", f"{arn}recommend-*")
    without = lab.session(lab.assumable(create))
    with pytest.raises(ClientError, match="PassRole"):
        lab.cloud.client("sagemaker", session=without).create_inference_recommendations_job(**body)
    elsewhere = lab.session(lab.assumable(allow("sagemaker:CreateInferenceRecommendationsJob", f"{arn}other-*")))
    with pytest.raises(ClientError, match="not authorized"):
        lab.cloud.client("sagemaker", session=elsewhere).create_inference_recommendations_job(**body)
