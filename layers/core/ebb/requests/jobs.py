"""Request bodies of jobs: CreateProcessingJob and CreateTrainingJob."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

PROCESSING_ROOT = "/opt/ml/processing"
TRAINING_CODE = "/opt/ml/input/data/code"
ENVIRONMENT_VALUE_MAX_CHARS = 256  # ProcessingEnvironmentValue
ENVIRONMENT_MAX_ENTRIES = 100
SPOT_WAIT_FACTOR = 3  # how many times its run time a spot job may wait for capacity and start over


def settings_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return a job's settings as environment variables, numbered pieces when one value cannot hold them.

    Raises: ValueError when they do not fit at all.
    """
    text = json.dumps(settings, separators=(",", ":"), sort_keys=True)
    if len(text) <= ENVIRONMENT_VALUE_MAX_CHARS:
        return {"EBB_SETTINGS": text}
    step = ENVIRONMENT_VALUE_MAX_CHARS
    pieces = [text[start : start + step] for start in range(0, len(text), step)]
    if len(pieces) > ENVIRONMENT_MAX_ENTRIES:
        raise ValueError(f"{len(text)} characters of settings do not fit a processing job's environment")
    return {f"EBB_SETTINGS_{number}": piece for number, piece in enumerate(pieces)}


def settings_of(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that a processing job was given, from its environment as it is described."""
    pieces = [environment.get(f"EBB_SETTINGS_{number}", "") for number in range(ENVIRONMENT_MAX_ENTRIES)]
    found: dict[str, Any] = json.loads(environment.get("EBB_SETTINGS") or "".join(pieces) or "{}")
    return found


def processing_input(name: str, uri: str, *, manifest: bool = False) -> dict[str, Any]:
    """Return one input: a prefix (or the objects of a manifest) in S3, copied to /opt/ml/processing/input/<name>."""
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": uri,
            "LocalPath": f"{PROCESSING_ROOT}/input/{name}",
            "S3DataType": "ManifestFile" if manifest else "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": "FullyReplicated",
        },
    }


def processing_output(name: str, uri: str) -> dict[str, Any]:
    """Return one output: /opt/ml/processing/output/<name>, uploaded when the job has ended."""
    local_path = f"{PROCESSING_ROOT}/output/{name}"
    return {
        "OutputName": name,
        "S3Output": {"S3Uri": uri, "LocalPath": local_path, "S3UploadMode": "EndOfJob"},
    }


def training_input(channel: str, uri: str) -> dict[str, Any]:
    """Return one channel: a prefix in S3, copied to /opt/ml/input/data/<channel>."""
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": channel, "DataSource": {"S3DataSource": source}, "InputMode": "File"}


def create_processing_job(
    *,
    name: str,
    stage: str,
    role_arn: str,
    image_uri: str,
    instance_type: str,
    volume_gib: int,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    kms_key: str,
    max_runtime_s: int,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateProcessingJob for a stage that reads prefixes and writes prefixes, without network."""
    return {
        "ProcessingJobName": name,
        "RoleArn": role_arn,
        "AppSpecification": {
            "ImageUri": image_uri,
            "ContainerEntrypoint": ["python3", f"{PROCESSING_ROOT}/input/code/run.py", stage],
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceCount": 1,
                "InstanceType": instance_type,
                "VolumeSizeInGB": volume_gib,
                "VolumeKmsKeyId": kms_key,
            }
        },
        "ProcessingInputs": list(inputs),
        "ProcessingOutputConfig": {"Outputs": list(outputs), "KmsKeyId": kms_key},
        "Environment": settings_environment(settings),
        "NetworkConfig": {"EnableNetworkIsolation": True},
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime_s},
        "Tags": list(tags),
    }


def stopping_condition(max_runtime_s: int, *, spot: bool) -> dict[str, int]:
    """Return how long a training job may run, and on spot capacity wait and run together."""
    waiting = {"MaxWaitTimeInSeconds": max_runtime_s * SPOT_WAIT_FACTOR} if spot else {}
    return {"MaxRuntimeInSeconds": max_runtime_s, **waiting}


def create_training_job(
    *,
    name: str,
    stage: str,
    role_arn: str,
    image_uri: str,
    instance_type: str,
    volume_gib: int,
    channels: Mapping[str, str],
    output_uri: str,
    checkpoint_uri: str,
    settings: Mapping[str, Any],
    kms_key: str,
    spot: bool,
    max_runtime_s: int,
    tags: Sequence[Mapping[str, str]],
    instances: int = 1,
) -> dict[str, Any]:
    """Return the body of CreateTrainingJob for a stage that keeps checkpoints, on spot capacity when asked for.

    The output stays uncompressed, so that the next job and a Lambda can read single files of it. Under network
    isolation the machines of one job still reach each other, and what they tell each other is encrypted:
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
    """
    return {
        "TrainingJobName": name,
        "RoleArn": role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": image_uri,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", f"{TRAINING_CODE}/run.py", stage],
        },
        # The limit of 2,500 counts characters, so letters of any script stay as they are.
        "HyperParameters": {
            "settings": json.dumps(settings, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        },
        "InputDataConfig": [training_input(channel, uri) for channel, uri in channels.items()],
        "OutputDataConfig": {"S3OutputPath": output_uri, "KmsKeyId": kms_key, "CompressionType": "NONE"},
        "ResourceConfig": {
            "InstanceCount": instances,
            "InstanceType": instance_type,
            "VolumeSizeInGB": volume_gib,
            "VolumeKmsKeyId": kms_key,
        },
        "EnableInterContainerTrafficEncryption": instances > 1,
        "CheckpointConfig": {"S3Uri": checkpoint_uri, "LocalPath": "/opt/ml/checkpoints"},
        "EnableManagedSpotTraining": spot,
        "EnableNetworkIsolation": True,
        # Without it SageMaker may start profiling rules, each a processing job of its own.
        "ProfilerConfig": {"DisableProfiler": True},
        "StoppingCondition": stopping_condition(max_runtime_s, spot=spot),
        "Tags": list(tags),
    }
