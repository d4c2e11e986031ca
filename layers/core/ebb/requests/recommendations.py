"""Request body of SageMaker's Inference Recommender: CreateInferenceRecommendationsJob.

Sent by `deploy_model` where `serve.recommender` asks for it; otherwise Ebb sizes from its own measurement. When it is
asked is decided in `ebb.recommendation`, what such a job finds is read by `ebb.serving_model.recommended`.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

# The job starts real instances and pays for them, so everything that multiplies is capped. EndpointConfigurations
# takes ten; its guide: https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-load-test.html
MOST_CONFIGURATIONS = 4
MOST_AT_ONCE = 2
# "An average of 2 hours", by the job's duration and the number of configurations; here few, and the shortest phases:
# https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-recommendation-jobs.html
LONGEST = timedelta(hours=2)
GRACE = timedelta(minutes=20)  # a job that reaches its own limit ends by itself; after that `deploy_model` stops it
PHASE_S = 120  # the shortest that the guide allows
MOST_CALLERS = 6  # one at the start of each phase and one more each minute, were both phases' to stay
LONGEST_NAME = 64


def create_inference_recommendations_job(
    *,
    name: str,
    role_arn: str,
    package_arn: str,
    payload_uri: str,
    content_type: str,
    instance_types: Sequence[str] = (),
    serverless_memory_mb: Sequence[int] = (),
    max_concurrency: int = 1,
    p95_ms: int | None = None,
    kms_key: str,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body for a load test of a registered model on some instance types or serverless sizes.

    `payload_uri` is a tar.gz whose files are requests, each of `content_type`: the package names all that the model
    takes, and what stands here goes before it. Serverless and instances cannot be mixed in one job. The test ends where
    more requests find no more answers, or when one in twenty takes longer than `p95_ms`.
    Raises: ValueError when nothing, too much or both is to be tested.
    """
    if bool(instance_types) == bool(serverless_memory_mb):
        raise ValueError("a recommendations job tests instance types or serverless sizes, one of the two")
    configurations: list[dict[str, Any]] = [{"InstanceType": each} for each in instance_types]
    configurations += [
        {"ServerlessConfig": {"MemorySizeInMB": each, "MaxConcurrency": max_concurrency}}
        for each in serverless_memory_mb
    ]
    if len(configurations) > MOST_CONFIGURATIONS:
        raise ValueError(f"{len(configurations)} configurations would be paid for, at most {MOST_CONFIGURATIONS} are")
    stopping: dict[str, Any] = {"FlatInvocations": "Stop"}
    if p95_ms is not None:
        stopping["ModelLatencyThresholds"] = [{"Percentile": "P95", "ValueInMilliseconds": p95_ms}]
    phase = {"InitialNumberOfUsers": 1, "SpawnRate": 1, "DurationInSeconds": PHASE_S}
    return {
        "JobName": name[:LONGEST_NAME].rstrip("-"),
        "JobType": "Advanced",
        "RoleArn": role_arn,
        "InputConfig": {
            "ModelPackageVersionArn": package_arn,
            "JobDurationInSeconds": int(LONGEST.total_seconds()),
            "TrafficPattern": {"TrafficType": "PHASES", "Phases": [phase, phase]},
            "ResourceLimit": {"MaxNumberOfTests": len(configurations), "MaxParallelOfTests": MOST_AT_ONCE},
            "EndpointConfigurations": configurations,
            "ContainerConfig": {
                "PayloadConfig": {"SamplePayloadUrl": payload_uri, "SupportedContentTypes": [content_type]},
            },
            "VolumeKmsKeyId": kms_key,
        },
        "StoppingConditions": stopping,
        "OutputConfig": {"KmsKeyId": kms_key},
        "Tags": list(tags),
    }
