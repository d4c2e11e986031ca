"""The path of a run whose recipe is searched by training jobs of its own: the best one's output goes on."""

import json
from typing import Any

import pytest

from ebb import names, record, tuning
from ebb.record import RecordRequest
from infrastructure.interpreter import run
from infrastructure.test_run_pipeline import GIVEN, PATH, World, _recorded

BEST = "wine-0a1b2c3d4-t-002-89abcdef"
SEARCH = "createHyperParameterTuningJob.sync"
LIST = "listTrainingJobsForHyperParameterTuningJob"
TRIALS = [
    {
        "TrainingJobName": f"wine-0a1b2c3d4-t-00{number}-89abcdef",
        "TrainingJobArn": "arn:aws:sagemaker:us-east-1:000000000000:training-job/x",
        "TrainingJobStatus": status,
        "CreationTime": "2026-11-23T00:00:00Z",
        "TrainingStartTime": "2026-11-23T00:00:10Z",
        "TrainingEndTime": "2026-11-23T00:01:10Z",
        "TunedHyperParameters": {"rate": "0.5"},
        **(
            {"FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "objective", "Value": value}}
            if value
            else {}
        ),
    }
    for number, status, value in ((1, "Stopped", 0.7), (2, "Completed", 0.9), (3, "Failed", None))
]
DONE = {
    "HyperParameterTuningJobName": "wine-0a1b2c3d4-t",
    "HyperParameterTuningJobStatus": "Completed",
    "CreationTime": "2026-11-23T00:00:00Z",
    "HyperParameterTuningEndTime": "2026-11-23T00:03:00Z",
    "BestTrainingJob": {"TrainingJobName": BEST},
}


FAILED = json.dumps(
    {key: value for key, value in DONE.items() if key != "BestTrainingJob"}
    | {
        "HyperParameterTuningJobStatus": "Failed",
        "FailureReason": "no objective metric was found",
        "HyperParameterTuningEndTime": "2026-11-23T00:01:30Z",  # the trials ran at the same time
    }
)


class Searching(World):
    """A world whose plan has a search in place of `train`."""

    def __init__(self, *, done: Any = DONE, trials: Any = TRIALS, **more: Any):
        super().__init__(**more)
        self.done, self.trials = done, trials

    def PlanPipeline(self, given: Any) -> Any:
        """Plan as ever, the original below the job that the search will find."""
        plan = super().PlanPipeline(given)
        original = f"s3://b/a1/train/{names.BEST_TRIAL}/output/model/"
        plan["train"] |= {"report_uri": f"{original}metrics.json"}
        plan["compress"]["request"] |= {"original": original}
        plan["artifacts"] |= {"original": original}
        return plan | {"tuning": {"request": {"search": "it"}, "trials": {"of": "it"}}}

    def __call__(self, resource: str, arguments: Any) -> Any:
        if resource.endswith(SEARCH):
            self._raise("search")
            return self.done
        if resource.endswith(LIST):
            self._raise("list")
            return {"TrainingJobSummaries": self.trials}
        return super().__call__(resource, arguments)


def test_the_best_trials_output_is_the_runs_original():
    ended = run(PATH, GIVEN, Searching())
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert _recorded(ended) == ["process", "train", "compress", "compile", "succeeded"]
    assert ended.arguments(SEARCH) == [{"search": "it"}]
    assert ended.arguments(LIST) == [{"of": "it"}]
    assert "Train model" not in ended.entered
    told = [each["Payload"] for each in ended.arguments("lambda:invoke")]
    (trained,) = [each for each in told if each.get("stage") == "train"]
    assert trained["report_uri"] == f"s3://b/a1/train/{BEST}/output/model/metrics.json"
    assert trained["job"]["HyperParameterTuningJobName"] == DONE["HyperParameterTuningJobName"]
    assert [each.get("Value") for each in trained["job"]["Trials"]] == [0.7, 0.9, None]
    assert trained["job"]["Trials"][0]["TunedHyperParameters"] == {"rate": "0.5"}
    compressed = [arguments for arguments in ended.arguments("createTrainingJob.sync") if "original" in arguments]
    assert [each["original"] for each in compressed] == [f"s3://b/a1/train/{BEST}/output/model/"]
    assert told[-1]["plan"]["artifacts"]["original"] == f"s3://b/a1/train/{BEST}/output/model/"
    assert names.BEST_TRIAL not in json.dumps(told[-1])


def test_a_search_of_one_trial_is_told_as_a_list():
    ended = run(PATH, GIVEN, Searching(trials=TRIALS[1:2]))
    (trained,) = [
        each["Payload"] for each in ended.arguments("lambda:invoke") if each["Payload"].get("stage") == "train"
    ]
    assert [each["TrainingJobName"] for each in trained["job"]["Trials"]] == [BEST]


def test_what_a_search_found_in_an_earlier_attempt_is_not_searched_again():
    ended = run(PATH, {**GIVEN, "attempt": 2}, Searching(needed=("compress", "compile")))
    assert not ended.arguments(SEARCH)
    assert "Train model" not in ended.entered


@pytest.mark.parametrize(
    ("world", "error"),
    [
        pytest.param(Searching(search=("States.TaskFailed", "x")), "States.TaskFailed", id="no trial succeeded"),
        pytest.param(Searching(list=("SageMaker.ResourceNotFoundException", "x")), None, id="its trials are unknown"),
        pytest.param(
            Searching(done={key: value for key, value in DONE.items() if key != "BestTrainingJob"}),
            "States.TaskFailed",
            id="a search without a best trial",
        ),
        pytest.param(
            Searching(search=("States.TaskFailed", FAILED), list=("SageMaker.ResourceNotFoundException", "x")),
            "States.TaskFailed",
            id="a search that failed, its trials unknown",
        ),
    ],
)
def test_a_search_that_fails_is_a_failure_of_train(world, error):
    ended = run(PATH, GIVEN, world)
    assert ended.status == "FAILED"
    assert error is None or ended.error == error
    last = ended.arguments("lambda:invoke")[-1]["Payload"]
    assert (last["action"], last["stage"]) == ("failed", "train")


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        pytest.param(Searching(search=("States.TaskFailed", FAILED)), "no objective metric was found", id="failed"),
        pytest.param(
            Searching(done={key: value for key, value in DONE.items() if key != "BestTrainingJob"}),
            "no trial of the search ended well",
            id="completed without a best trial",
        ),
    ],
)
def test_the_trials_of_a_search_that_found_nothing_are_charged(world, reason):
    ended = run(PATH, GIVEN, world)
    assert ended.status == "FAILED"
    told = RecordRequest.validate_python(ended.arguments("lambda:invoke")[-1]["Payload"])
    job = record.job_in(told.cause)
    assert tuning.machine_s(job) == 180, "three trials of a minute"
    assert record.what_went_wrong(told)["message"] == reason


def test_a_search_that_was_stopped_at_its_time_keeps_its_best_model():
    """Assumed: which status SageMaker gives a search that ends at MaxRuntimeInSeconds is not documented."""
    stopped = json.dumps(DONE | {"HyperParameterTuningJobStatus": "Stopped"})
    ended = run(PATH, GIVEN, Searching(search=("States.TaskFailed", stopped)))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    last = ended.arguments("lambda:invoke")[-1]["Payload"]
    assert last["plan"]["artifacts"]["original"] == f"s3://b/a1/train/{BEST}/output/model/"


def test_a_search_that_failed_is_no_model_whatever_its_trials_found():
    broken = json.dumps(DONE | {"HyperParameterTuningJobStatus": "Failed"})
    assert run(PATH, GIVEN, Searching(search=("States.TaskFailed", broken))).status == "FAILED"
