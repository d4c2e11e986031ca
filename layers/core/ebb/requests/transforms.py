"""Request bodies of scoring: CreateTransformJob."""

from collections.abc import Sequence
from typing import Any

LONGEST_ANSWER_S = 3600  # of one payload; a file that is sent whole may hold a million rows


def create_transform_job(
    *,
    name: str,
    model_name: str,
    manifest_uri: str,
    output_uri: str,
    content_type: str,
    accept: str,
    split: str,
    assemble: str,
    payload_mib: int,
    instance_type: str,
    kms_key: str,
    tags: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateTransformJob over the objects of a manifest, one instance, gone when it is done.

    `split` and `assemble` are SageMaker's SplitType and AssembleWith: None sends each object whole.
    """
    return {
        "TransformJobName": name,
        "ModelName": model_name,
        "MaxConcurrentTransforms": 1,
        "MaxPayloadInMB": payload_mib,
        "BatchStrategy": "MultiRecord" if split == "Line" else "SingleRecord",
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": LONGEST_ANSWER_S, "InvocationsMaxRetries": 1},
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": manifest_uri}},
            "ContentType": content_type,
            "CompressionType": "None",
            "SplitType": split,
        },
        "TransformOutput": {
            "S3OutputPath": output_uri,
            "Accept": accept,
            "AssembleWith": assemble,
            "KmsKeyId": kms_key,
        },
        "TransformResources": {"InstanceType": instance_type, "InstanceCount": 1, "VolumeKmsKeyId": kms_key},
        "Tags": list(tags),
    }
