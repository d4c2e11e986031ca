"""Request bodies of searches: CreateHyperParameterTuningJob, and the list of what it trained.

A training job of a search has no entry point of its own in the API: the image's own is run with the word `train`.
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_HyperParameterAlgorithmSpecification.html
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ebb.requests import jobs
from ebb.tuning import OBJECTIVE, Search

PAGE = 100  # of ListTrainingJobsForHyperParameterTuningJob, and the most trials that a spec may ask for


def create_hyper_parameter_tuning_job(
    search: Search,
    *,
    name: str,
    role_arn: str,
    image_uri: str,
    instance_type: str,
    volume_gib: int,
    channels: Mapping[str, str],
    output_uri: str,
    settings: Mapping[str, Any],
    kms_key: str,
    max_runtime_s: int,
    seed: int,
    tags: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the body of CreateHyperParameterTuningJob: each trial is the stage `train` with other knobs.

    Bayesian, because few trials at once learn from each other; SageMaker ends a trial that is unlikely to win, and the
    search when no trial of the last ones was better (by 1 % or more, its own measure). On demand: a search names one
    place for checkpoints and the API says nothing of how trials share it, so that spot capacity could lose a trial or
    mix two. The tags are put on every training job as well.
    """
    limits = {
        "MaxParallelTrainingJobs": search.jobs,
        "MaxNumberOfTrainingJobs": search.trials,
        "MaxRuntimeInSeconds": search.budget_s,
    }
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": search.goal, "MetricName": OBJECTIVE},
            "ResourceLimits": limits,
            "ParameterRanges": search.ranges,
            "TrainingJobEarlyStoppingType": "Auto",
            "TuningJobCompletionCriteria": {
                "BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": search.patience}
            },
            "RandomSeed": seed,
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {
                "settings": json.dumps(settings, separators=(",", ":"), sort_keys=True, ensure_ascii=False),
                **search.fixed,
            },
            "AlgorithmSpecification": {
                "TrainingImage": image_uri,
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": OBJECTIVE, "Regex": search.metric_regex}],
            },
            "RoleArn": role_arn,
            "InputDataConfig": [jobs.training_input(channel, uri) for channel, uri in channels.items()],
            "OutputDataConfig": {"S3OutputPath": output_uri, "KmsKeyId": kms_key, "CompressionType": "NONE"},
            "ResourceConfig": {
                "InstanceCount": 1,
                "InstanceType": instance_type,
                "VolumeSizeInGB": volume_gib,
                "VolumeKmsKeyId": kms_key,
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime_s},
            "EnableNetworkIsolation": True,
            "EnableManagedSpotTraining": False,
        },
        "Tags": list(tags),
    }


def list_trials(name: str) -> dict[str, Any]:
    """Return the body of ListTrainingJobsForHyperParameterTuningJob: every trial, those without a result as well."""
    return {
        "HyperParameterTuningJobName": name,
        "MaxResults": PAGE,
        "SortBy": "CreationTime",
        "SortOrder": "Ascending",
    }
