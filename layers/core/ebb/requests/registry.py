"""Request bodies of the model registry: CreateModelPackageGroup and CreateModelPackage."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

# What an endpoint of each kind takes and answers, as its codec in jobs/ebb_jobs reads it. A model that is served as it
# is takes what SageMaker's toolkit does; an inference.py may read more.
_ARRAYS = ("application/json", "text/csv", "application/x-npy")
CONTENT_TYPES = {
    "tabular": ("text/csv", "application/json", "application/jsonlines"),
    "image": ("image/png", "image/jpeg", "application/json"),
    "text": ("text/plain", "application/json", "application/jsonlines", "text/csv"),
    "tensors": _ARRAYS,
    "as-is": _ARRAYS,
}
RESPONSE_TYPES = {"as-is": _ARRAYS}
ANSWERS = ("application/json",)
FRAMEWORKS = {"as-is": "PYTORCH"}
# What Inference Recommender wants to know of a package, in its own words:
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RecommendationJobContainerConfig.html
DOMAINS = {"image": "COMPUTER_VISION", "text": "NATURAL_LANGUAGE_PROCESSING"}
TASKS = {
    "tabular-classification": "CLASSIFICATION",
    "tabular-regression": "REGRESSION",
    "image-classification": "IMAGE_CLASSIFICATION",
    "text-classification": "CLASSIFICATION",
}


def create_model_package_group(*, name: str, description: str, tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the body of CreateModelPackageGroup."""
    return {"ModelPackageGroupName": name, "ModelPackageGroupDescription": description, "Tags": list(tags)}


def create_model_package(
    *,
    group: str,
    description: str,
    kind: str,
    task: str,
    instance_types: Sequence[str],
    payload_uri: str | None,
    image_uri: str,
    bundle_uri: str,
    report_uri: str,
    metadata: Mapping[str, str],
    token: str,
) -> dict[str, Any]:
    """Return the body of CreateModelPackage for one bundle. `kind` is one of CONTENT_TYPES.

    `payload_uri` names a tar.gz of requests that the model answers, where some are known. A version in a group takes
    the group's tags and may have none of its own. The same `token` registers once.
    """
    return {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": description,
        "InferenceSpecification": {
            "Containers": [{"Image": image_uri, "ModelDataUrl": bundle_uri, "Framework": FRAMEWORKS.get(kind, "ONNX")}],
            "SupportedContentTypes": list(CONTENT_TYPES[kind]),
            "SupportedResponseMIMETypes": list(RESPONSE_TYPES.get(kind, ANSWERS)),
            "SupportedRealtimeInferenceInstanceTypes": list(instance_types),
        },
        "Domain": DOMAINS.get(kind, "MACHINE_LEARNING"),
        "Task": TASKS.get(task, "OTHER"),
        **({"SamplePayloadUrl": payload_uri} if payload_uri else {}),
        "ModelApprovalStatus": "Approved",
        "ModelMetrics": {
            "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": report_uri}},
        },
        "CustomerMetadataProperties": dict(metadata),
        "ClientToken": hashlib.sha256(token.encode()).hexdigest()[:32],
    }


def also_compiled(
    *, name: str, image_uri: str, model_uri: str, framework: str, instance_types: Sequence[str]
) -> dict[str, Any]:
    """Return what CreateModelPackage takes for another form of the same model, which needs an image of its own.

    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_AdditionalInferenceSpecificationDefinition.html
    """
    return {
        "AdditionalInferenceSpecifications": [
            {
                "Name": name,
                "Description": f"compiled by SageMaker Neo for {name}",
                "Containers": [{"Image": image_uri, "ModelDataUrl": model_uri, "Framework": framework}],
                **({"SupportedRealtimeInferenceInstanceTypes": list(instance_types)} if instance_types else {}),
            }
        ]
    }
