"""Tuning jobs: trials are training jobs with what is proposed, and the search ends as it was told to."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, channel, next_number
from contract.sagemaker.test_sagemaker_step_functions import ACCOUNT, machine
from contract.support import allow, task, wait_until

# Prints the squared distance to x = 0.5 as the objective, half-way a worse one, as a training loop would.
SCRIPT = """
import json, os, pathlib, sys
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
given = json.loads((base / "input/config/hyperparameters.json").read_text())
assert sys.argv[1:] == ["train"], sys.argv
value = (float(given["x"]) - 0.5) ** 2
print(f"loss={value + 1:.6f}", flush=True)
print(f"loss={value:.6f}", flush=True)
(base / "model/given.json").write_text(json.dumps(given))
"""
FOREVER = "import time\nprint('loss=1', flush=True)\ntime.sleep(60)"
TUNE = "arn:aws:states:::sagemaker:createHyperParameterTuningJob.sync"


def tuning(lab: Lab, script: str = SCRIPT, *, most: int = 4, together: int = 2, **config: Any) -> dict[str, Any]:
    """Return a CreateHyperParameterTuningJob request over one number, one count and one of two words."""
    name = f"tune-{next_number()}"
    code = lab.put(f"{name}/code/run.py", script)
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {"MaxParallelTrainingJobs": together, "MaxNumberOfTrainingJobs": most},
            "ParameterRanges": {
                "ContinuousParameterRanges": [
                    {"Name": "x", "MinValue": "0.01", "MaxValue": "1", "ScalingType": "Logarithmic"}
                ],
                "IntegerParameterRanges": [{"Name": "layers", "MinValue": "1", "MaxValue": "3"}],
                "CategoricalParameterRanges": [{"Name": "rung", "Values": ["trees", "net"]}],
            },
            "TrainingJobEarlyStoppingType": "Off",
            "RandomSeed": 3,
            **config,
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {"settings": "{}"},
            "AlgorithmSpecification": {
                "TrainingImage": lab.images["jobs"],
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": "loss", "Regex": "loss=([0-9.]+)"}],
            },
            "RoleArn": lab.role_arn,
            "InputDataConfig": [channel("code", code.removesuffix("run.py"))],
            "OutputDataConfig": {"S3OutputPath": f"s3://{lab.bucket}/{name}/out", "CompressionType": "NONE"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        },
        "Tags": [{"Key": "ebb:project", "Value": "wine"}],
    }


def described(lab: Lab, name: str) -> dict[str, Any]:
    return lab.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def searched(lab: Lab, request: dict[str, Any]) -> dict[str, Any]:
    """Run a search to its end; return how Describe tells it."""
    lab.sagemaker.create_hyper_parameter_tuning_job(**request)
    return ended(lab, request["HyperParameterTuningJobName"])


def ended(lab: Lab, name: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        told = described(lab, name)
        return told if told["HyperParameterTuningJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return wait_until(final)


def trials(lab: Lab, name: str, **more: Any) -> list[dict[str, Any]]:
    listed = lab.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(HyperParameterTuningJobName=name, **more)
    return listed["TrainingJobSummaries"]


def test_a_search_trains_in_its_ranges_and_tells_the_best(lab: Lab) -> None:
    request = tuning(lab)
    job = searched(lab, request)
    assert job["HyperParameterTuningJobStatus"] == "Completed", job.get("FailureReason")
    assert job["TrainingJobStatusCounters"]["Completed"] == job["ObjectiveStatusCounters"]["Succeeded"] == 4
    found = trials(lab, request["HyperParameterTuningJobName"], SortBy="CreationTime", SortOrder="Ascending")
    values = [trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for trial in found]
    best = job["BestTrainingJob"]
    assert best["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == min(values), "the last line counts"
    assert all(trial["TrainingJobName"].startswith(f"{request['HyperParameterTuningJobName']}-00") for trial in found)
    for trial in found:
        tuned = trial["TunedHyperParameters"]
        assert 0.01 <= float(tuned["x"]) <= 1
        assert int(tuned["layers"]) in (1, 2, 3)
        assert tuned["rung"] in ("trees", "net")
    assert len({trial["TunedHyperParameters"]["x"] for trial in found}) == 4
    # the best one's artifact lies where its training job says, and it was told everything
    training = lab.sagemaker.describe_training_job(TrainingJobName=best["TrainingJobName"])
    assert training["TuningJobArn"] == job["HyperParameterTuningJobArn"]
    key = training["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{lab.bucket}/") + "given.json"
    given = json.loads(lab.get(key))
    assert given["settings"] == "{}"
    assert given["_tuning_objective_metric"] == "loss"
    assert given["x"] == best["TunedHyperParameters"]["x"]
    tags = lab.sagemaker.list_tags(ResourceArn=training["TrainingJobArn"])["Tags"]
    assert {"Key": "ebb:project", "Value": "wine"} in tags
    listed = lab.sagemaker.list_hyper_parameter_tuning_jobs(NameContains=request["HyperParameterTuningJobName"])
    (summary,) = listed["HyperParameterTuningJobSummaries"]
    assert (summary["Strategy"], summary["ResourceLimits"]["MaxParallelTrainingJobs"]) == ("Bayesian", 2)
    by_value = trials(lab, request["HyperParameterTuningJobName"], SortBy="FinalObjectiveMetricValue")
    assert [trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for trial in by_value] == sorted(values)


def test_a_search_that_brings_nothing_more_ends_before_its_last_trial(lab: Lab) -> None:
    criteria = {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    same = SCRIPT.replace('float(given["x"]) - 0.5', "0.3")
    job = searched(lab, tuning(lab, same, most=30, TuningJobCompletionCriteria=criteria))
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert 4 <= job["TrainingJobStatusCounters"]["Completed"] <= 6


def test_a_search_without_an_objective_has_failed(lab: Lab) -> None:
    job = searched(lab, tuning(lab, "import sys\nsys.exit(3)", most=2))
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert "No training job succeeded with the objective metric loss" in job["FailureReason"]
    assert "BestTrainingJob" not in job
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 2


def test_stopping_a_search_stops_its_trials(lab: Lab) -> None:
    request = tuning(lab, FOREVER)
    name = request["HyperParameterTuningJobName"]
    lab.sagemaker.create_hyper_parameter_tuning_job(**request)
    wait_until(lambda: len(trials(lab, name)) == 2)
    lab.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert ended(lab, name)["HyperParameterTuningJobStatus"] == "Stopped"
    assert {trial["TrainingJobStatus"] for trial in trials(lab, name)} == {"Stopped"}
    with pytest.raises(ClientError, match="is in status Stopped"):
        lab.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def test_a_trial_that_falls_behind_is_stopped_early(lab: Lab) -> None:
    """The fourth trial would never end: the others have shown what a loss can be."""
    script = """
import json, os, pathlib, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
number = int(os.environ["TRAINING_JOB_NAME"].split("-")[-2])
for _ in range(4):
    print(f"loss={0.1 * number if number < 4 else 9:.6f}", flush=True)
if number == 4:
    time.sleep(60)
"""
    request = tuning(lab, script, most=4, together=1, TrainingJobEarlyStoppingType="Auto")
    job = searched(lab, request)
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert (job["TrainingJobStatusCounters"]["Completed"], job["TrainingJobStatusCounters"]["Stopped"]) == (3, 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            {"HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "accuracy"}},
            "has no metric definition", id="an objective that nothing finds",
        ),
        pytest.param(
            {"Strategy": "Hyperband", "TrainingJobEarlyStoppingType": "Auto"}, "must be Off", id="Hyperband ends trials"
        ),
        pytest.param({"Strategy": "Grid"}, "categorical parameters only", id="a grid of numbers"),
    ],
)  # fmt: skip
def test_what_aws_refuses_is_refused(lab: Lab, change: dict, told: str) -> None:
    with pytest.raises(ClientError, match=told):
        lab.sagemaker.create_hyper_parameter_tuning_job(**tuning(lab, **change))


def test_a_state_machine_waits_for_a_search_and_stops_it(lab: Lab) -> None:
    jobs = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:hyper-parameter-tuning-job/*"
    rule = f"arn:aws:events:us-east-1:{ACCOUNT}:rule/StepFunctionsGetEventsForSageMakerTuningJobsRule"
    verbs = [f"sagemaker:{verb}HyperParameterTuningJob" for verb in ("Create", "Describe", "Stop")]
    needed = [
        allow([*verbs, "sagemaker:AddTags"], jobs),
        allow("iam:PassRole", lab.role_arn, StringEquals={"iam:PassedToService": "sagemaker.amazonaws.com"}),
        allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], rule),
    ]
    request = tuning(lab, most=2)
    done = machine(lab, {"Tune": task(TUNE, request)}, needed).run()
    assert done["status"] == "SUCCEEDED", done
    assert done["output"]["BestTrainingJob"]["TrainingJobName"].startswith(request["HyperParameterTuningJobName"])
    endless = tuning(lab, FOREVER, most=2)
    timed_out = machine(lab, {"Tune": task(TUNE, endless, TimeoutSeconds=2)}, needed).run()
    assert timed_out["error"] == "States.Timeout"
    assert ended(lab, endless["HyperParameterTuningJobName"])["HyperParameterTuningJobStatus"] == "Stopped"
