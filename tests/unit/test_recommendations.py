"""Inference Recommender's request body: valid for AWS, and never more than was meant to be paid for."""

import pytest

from aws_shapes import assert_valid
from ebb.requests import recommendations

ASKED = {
    "name": "cancer-20261123093000-3f9a1c07be-a1-recommend-" + "x" * 40,
    "role_arn": "arn:aws:iam::123456789012:role/ebb/ebb-cancer-recommend",
    "package_arn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/ebb-cancer/3",
    "payload_uri": "s3://artifacts/projects/cancer/runs/r/a1/compile/bundles/sample-payload.tar.gz",
    "content_type": "text/csv",
    "kms_key": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "tags": [{"Key": "ebb:project", "Value": "cancer"}],
}


@pytest.mark.parametrize(
    "tested",
    [
        {"instance_types": ["ml.c5.large", "ml.m5.large"], "p95_ms": 50},
        {"serverless_memory_mb": [1024, 2048], "max_concurrency": 5},
    ],
)
def test_the_body_is_what_the_service_takes(tested):
    body = recommendations.create_inference_recommendations_job(**ASKED, **tested)
    assert_valid("sagemaker", "CreateInferenceRecommendationsJob", body)
    assert body["InputConfig"]["ResourceLimit"]["MaxNumberOfTests"] == 2
    assert body["StoppingConditions"]["FlatInvocations"] == "Stop"


@pytest.mark.parametrize(
    "tested",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"instance_types": ["ml.c5.large"], "serverless_memory_mb": [1024]}, id="both"),
        pytest.param({"instance_types": [f"ml.c5.{size}xlarge" for size in range(5)]}, id="more than is paid for"),
    ],
)
def test_what_nobody_meant_to_pay_for_is_refused(tested):
    with pytest.raises(ValueError, match=r"one of the two|at most"):
        recommendations.create_inference_recommendations_job(**ASKED, **tested)
