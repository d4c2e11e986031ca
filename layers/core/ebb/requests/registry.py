"""Request bodies of the model registry: CreateModelPackageGroup and CreateModelPackage."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

CONTENT_TYPES = ("text/csv", "application/json", "application/jsonlines")
RESPONSE_TYPES = ("application/json",)


def create_model_package_group(*, name: str, description: str, tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the body of CreateModelPackageGroup."""
    return {"ModelPackageGroupName": name, "ModelPackageGroupDescription": description, "Tags": list(tags)}


def create_model_package(
    *,
    group: str,
    description: str,
    image_uri: str,
    bundle_uri: str,
    report_uri: str,
    metadata: Mapping[str, str],
    token: str,
) -> dict[str, Any]:
    """Return the body of CreateModelPackage for one bundle.

    A version in a group takes the group's tags and may have none of its own. The same `token` registers once.
    """
    return {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": description,
        "InferenceSpecification": {
            "Containers": [{"Image": image_uri, "ModelDataUrl": bundle_uri, "Framework": "ONNX"}],
            "SupportedContentTypes": list(CONTENT_TYPES),
            "SupportedResponseMIMETypes": list(RESPONSE_TYPES),
        },
        "ModelApprovalStatus": "Approved",
        "ModelMetrics": {
            "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": report_uri}},
        },
        "CustomerMetadataProperties": dict(metadata),
        "ClientToken": hashlib.sha256(token.encode()).hexdigest()[:32],
    }
