"""Request bodies of SageMaker Neo: CreateCompilationJob, and those that ask for the job and stop it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def create_compilation_job(
    *,
    name: str,
    role_arn: str,
    framework: str,
    model_uri: str,
    input_name: str,
    input_shape: Sequence[int],
    output_uri: str,
    device: str,
    kms_key: str,
    max_runtime_s: int,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateCompilationJob for one model with one input, packed as tar.gz.

    The version of ONNX stands in the file; FrameworkVersion is for other frameworks.
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_InputConfig.html
    """
    return {
        "CompilationJobName": name,
        "RoleArn": role_arn,
        "InputConfig": {
            "S3Uri": model_uri,
            "DataInputConfig": json.dumps({input_name: list(input_shape)}, separators=(",", ":")),
            "Framework": framework,
        },
        "OutputConfig": {"S3OutputLocation": output_uri, "TargetDevice": device, "KmsKeyId": kms_key},
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime_s},
        "Tags": list(tags),
    }


def compilation_job(name: str) -> dict[str, Any]:
    """Return the body of DescribeCompilationJob, and of StopCompilationJob."""
    return {"CompilationJobName": name}
