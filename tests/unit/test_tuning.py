"""Tuning: where a search runs, over what, and what of it stands in the record."""

import json
import re
from dataclasses import replace

import botocore.session
import pytest
from botocore.validate import ParamValidator

from ebb import explain, names, plan, record, tuning
from ebb.errors import InvalidSpecError
from ebb.requests.tuning import PAGE
from ebb.spec import PipelineSpec, parse
from ebb.spec_train import TRIALS_MAX
from ebb.spec_values import RUNGS
from ebb_jobs import knobs
from unit.test_plan import channels, settings
from worked_run import RUN_ID, STACK, facts

SAGEMAKER = botocore.session.get_session().get_service_model("sagemaker")
SCRIPT = """
task: custom
train:
  tune:
    ranges: {lr: {min: 0.0001, max: 0.1, scale: log}, layers: {min: 1, max: 4}, act: {values: [relu, tanh]}}
    metric_regex: 'val_loss=([0-9.]+)'
    goal: minimize
"""


def asked(text: str) -> PipelineSpec:
    return parse(text.encode(), file="pipeline.yaml")


def planned(text: str, **more):
    spec = asked(text)
    run = facts(**more)
    return plan.build(replace(run, spec=spec, data=replace(run.data, task=spec.task)), STACK)


def test_the_knobs_of_the_plan_are_those_of_the_jobs():
    known = {each.name: each for each in vars(knobs).values() if isinstance(each, knobs.Knob)}
    assert {name: (each.levels[0], each.levels[-1]) for name, each in known.items()} == dict(tuning.KNOBS)
    assert {name for name, each in known.items() if each.whole} == tuning.WHOLE
    recipes = {
        "trees": knobs.TREES, "small-net": knobs.SMALL_TABLE_NETWORK, "net": knobs.TABLE_NETWORK,
    }  # fmt: skip
    assert {name: {each.name for each in turned} for name, turned in recipes.items()} == {
        name: set(turned) for name, turned in tuning._TABLE.items()
    }
    assert set(tuning._TEXT["net"]) == {each.name for each in knobs.TEXT_NETWORK}
    assert all(set(turned) == {each.name for each in knobs.NETWORK} for turned in tuning._IMAGE.values())
    assert {*tuning._TABLE, *tuning._TEXT, *tuning._IMAGE} <= set(RUNGS)


def test_the_objective_that_a_trial_prints_is_found():
    (found,) = re.findall(tuning.OBJECTIVE_REGEX, "ebb objective -0.97123456\n")
    assert float(found) == -0.97123456
    assert re.findall(tuning.OBJECTIVE_REGEX, "ebb objective 1.5e-07") == ["1.5e-07"]


@pytest.mark.parametrize(
    ("text", "in_jobs"),
    [
        pytest.param("", False, id="nothing is searched"),
        pytest.param("train: {tune: true}", False, id="a recipe, inside its job"),
        pytest.param("train: {tune: {jobs: 2}}", True, id="several jobs at once"),
        pytest.param(SCRIPT, True, id="a script"),
    ],
)
def test_where_a_search_runs(text, in_jobs):
    assert tuning.in_jobs(asked(text), asked(text).task) is in_jobs
    assert (planned(text)["tuning"] is not None) is in_jobs


def test_a_dropped_script_without_ranges_is_refused_with_what_to_write():
    with pytest.raises(InvalidSpecError) as refused:
        tuning.search(asked("train: {tune: true}"), "custom")
    assert refused.value.rejection.column == "train.tune.ranges"
    assert "lr" in refused.value.rejection.remedy


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("train: {tune: {jobs: 3, trials: 9, budget: 30m}}", id="data whose kind is not known yet"),
        pytest.param("task: tabular-regression\ntrain: {tune: {jobs: 2}}", id="a table"),
        pytest.param("task: image-classification\ntrain: {tune: {jobs: 2, trials: 100}}", id="pictures"),
        pytest.param("task: text-classification\ntrain: {tune: {jobs: 10}}", id="texts"),
        pytest.param(SCRIPT, id="a script"),
    ],
)
def test_the_requests_are_valid_for_sagemaker(text):
    search = planned(text)["tuning"]
    for action, request in (
        ("CreateHyperParameterTuningJob", search["request"]),
        ("ListTrainingJobsForHyperParameterTuningJob", search["trials"]),
    ):
        shape = SAGEMAKER.operation_model(action).input_shape
        assert not ParamValidator().validate(request, shape).generate_report()
    config = search["request"]["HyperParameterTuningJobConfig"]
    ranges = [each for kind in config["ParameterRanges"].values() for each in kind]
    assert 1 <= len(ranges) <= 30
    assert all(isinstance(value, str) for each in ranges for value in each.values() if not isinstance(value, list))
    members = SAGEMAKER.shape_for("HyperParameterTuningJobName").metadata
    name = search["request"]["HyperParameterTuningJobName"]
    assert len(name) <= members["max"]
    assert re.fullmatch(members["pattern"], name)
    assert config["ResourceLimits"]["MaxNumberOfTrainingJobs"] <= PAGE == TRIALS_MAX
    # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_BestObjectiveNotImproving.html: at least 3
    assert (
        config["TuningJobCompletionCriteria"]["BestObjectiveNotImproving"]["MaxNumberOfTrainingJobsNotImproving"] >= 3
    )


def test_a_search_has_the_limits_of_the_spec():
    config = planned("train: {tune: {jobs: 3, trials: 9, budget: 30m}}")["tuning"]["request"][
        "HyperParameterTuningJobConfig"
    ]
    assert config["ResourceLimits"] == {
        "MaxParallelTrainingJobs": 3,
        "MaxNumberOfTrainingJobs": 9,
        "MaxRuntimeInSeconds": 1800,
    }
    assert config["TrainingJobEarlyStoppingType"] == "Auto"


def test_a_plan_says_that_a_search_of_jobs_moves_to_no_other_machine():
    told = {each["what"]: each for each in planned("train: {tune: {jobs: 2}}")["decisions"]}
    order = told["order of machines for train"]
    assert order["alternatives"] == []
    assert order["chosen"].endswith("on demand")
    assert "ends the search" in order["reason"]
    assert "ebb retry" in order["reason"]
    assert told["order of machines for compress"]["alternatives"]


def test_a_script_is_searched_in_its_ranges_by_its_own_metric():
    request = planned(SCRIPT)["tuning"]["request"]
    config = request["HyperParameterTuningJobConfig"]
    assert config["HyperParameterTuningJobObjective"]["Type"] == "Minimize"
    assert config["ParameterRanges"] == {
        "ContinuousParameterRanges": [
            {"Name": "lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
        ],
        "IntegerParameterRanges": [{"Name": "layers", "MinValue": "1", "MaxValue": "4", "ScalingType": "Linear"}],
        "CategoricalParameterRanges": [{"Name": "act", "Values": ["relu", "tanh"]}],
    }
    (definition,) = request["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]
    assert definition["Regex"] == "val_loss=([0-9.]+)"


def test_a_recipe_is_judged_by_what_its_trials_print_whatever_the_spec_says():
    """An archive may turn out to hold no script, after the spec has been accepted."""
    request = planned("train: {tune: {jobs: 2, metric_regex: 'loss=(.+)', goal: minimize}}")["tuning"]["request"]
    (metric,) = request["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]
    assert metric["Regex"] == tuning.OBJECTIVE_REGEX
    assert request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["Type"] == "Maximize"
    told = json.loads(request["TrainingJobDefinition"]["StaticHyperParameters"]["settings"])
    assert told["trial"] == {"own_metric": False}


def test_recipes_that_the_spec_names_are_searched_and_no_others():
    only = planned("task: tabular-classification\ntrain: {rungs: [linear, trees], tune: {jobs: 2}}")["tuning"]
    ranges = only["request"]["HyperParameterTuningJobConfig"]["ParameterRanges"]
    assert "CategoricalParameterRanges" not in ranges
    assert [each["Name"] for each in ranges["ContinuousParameterRanges"]] == list(tuning._TABLE["trees"])
    assert only["request"]["TrainingJobDefinition"]["StaticHyperParameters"]["rung"] == "trees"


def test_the_trials_read_and_write_what_train_would():
    made = planned("train: {tune: {jobs: 2}}")
    plain = planned("")["train"]["request"]
    definition = made["tuning"]["request"]["TrainingJobDefinition"]
    for member in ("RoleArn", "OutputDataConfig", "ResourceConfig", "EnableNetworkIsolation"):
        assert definition[member] == plain[member]
    assert channels(definition) == channels(plain)
    assert definition["EnableManagedSpotTraining"] is False, "trials share one place for checkpoints"
    assert "CheckpointConfig" not in definition
    told = settings({"HyperParameters": definition["StaticHyperParameters"]})
    assert told["trial"] == {"own_metric": False}
    assert told["spec"]["train"]["tune"] is None, "a trial does not search itself"
    assert len(definition["StaticHyperParameters"]["settings"]) <= 2500
    original = made["artifacts"]["original"]
    assert names.BEST_TRIAL in original
    assert channels(made["compress"]["request"])["original"] == original
    assert made["train"]["report_uri"] == f"{original}metrics.json"


def test_a_search_in_the_training_job_is_told_its_limits():
    told = settings(planned("train: {tune: {trials: 12, budget: 5m}}")["train"]["request"])
    assert told["spec"]["train"]["tune"] == {"trials": 12, "budget": 300.0}


def test_a_later_attempt_goes_on_with_the_best_trial_of_an_earlier_one():
    best = "cancer-0a1b2c3d4-t-002-89abcdef"
    made = planned("train: {tune: {jobs: 2}}", attempt=2, finished={"process": 1, "train": 1}, jobs={"train": best})
    assert made["tuning"] is None
    assert made["artifacts"]["original"].endswith(f"a1/train/{best}/output/model/")
    assert not [each for each in made["decisions"] if each["what"].startswith("search")]


def test_the_plan_says_where_it_searches_and_on_which_capacity():
    decisions = {each["what"]: each for each in planned("train: {tune: {jobs: 2}}")["decisions"]}
    assert decisions["search over the recipe"]["numbers"]["at once"] == 2
    assert decisions["capacity for the search"]["chosen"] == "on demand"
    inside = {each["what"]: each for each in planned("train: {tune: true}")["decisions"]}
    assert inside["search over the recipe"]["chosen"] == "inside the training job"


# ---- in the record ----


def trial(number, status, seconds, value=None):
    return {
        "TrainingJobName": f"cancer-0-t-00{number}-ab",
        "TrainingJobStatus": status,
        "TrainingStartTime": 1_795_426_200,
        "TrainingEndTime": 1_795_426_200 + seconds,
        "TunedHyperParameters": {"rate": "0.5", "rung": '"net"'},
        **({"Value": value} if value is not None else {}),
    }


JOB = {
    "HyperParameterTuningJobName": "cancer-0-t",
    "HyperParameterTuningJobArn": "arn:aws:sagemaker:us-east-1:123456789012:hyper-parameter-tuning-job/cancer-0-t",
    "CreationTime": 1_795_426_190,
    "HyperParameterTuningEndTime": 1_795_426_390,
    "HyperParameterTuningJobConfig": {
        "HyperParameterTuningJobObjective": {"Type": "Maximize"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 9},
    },
    "TrainingJobDefinition": {"ResourceConfig": {"InstanceType": "ml.m5.large"}},
    "BestTrainingJob": {"TrainingJobName": "cancer-0-t-002-ab", "TrainingJobArn": "arn:best"},
    "Trials": [trial(1, "Stopped", 60, 0.7), trial(2, "Completed", 100, 0.9), trial(3, "Failed", 40)],
}


def recorded(job=JOB, report=None):
    return record.stage_fields(
        job, report or {"cpu_seconds": 90.0, "duration_s": 95.0, "vcpu": 2}, status="finished", attempt=1,
        region="us-east-1", identity="x",
    )  # fmt: skip


def test_a_search_is_charged_for_every_machine_second_of_its_trials():
    stage = recorded()
    assert stage["duration_s"] == stage["billable_s"] == 200
    assert stage["instance_type"] == "ml.m5.large"
    assert (stage["job_name"], stage["job_arn"]) == ("cancer-0-t-002-ab", "arn:best"), "where the original lies"
    told = stage["report"]["tuning"]
    assert [each["status"] for each in told["trials"]] == ["pruned", "finished", "failed"]
    assert told["best"] == {
        "trial": 1, "job_name": "cancer-0-t-002-ab", "knobs": {"rate": "0.5", "rung": "net"}, "objective": None,
    }  # fmt: skip
    parts = [each["energy_kwh"]["value"] for each in told["trials"]]
    assert sum(parts) == pytest.approx(stage["footprint"]["energy_kwh"]["value"])
    assert parts[1] == pytest.approx(2.5 * parts[2])


def test_a_failed_search_is_charged_from_its_beginning_to_its_end():
    failed = {name: value for name, value in JOB.items() if name not in ("Trials", "BestTrainingJob")}
    stage = recorded(failed | {"FailureReason": "No training job succeeded"}, {})
    assert stage["duration_s"] == 200
    assert stage["job_name"] == "cancer-0-t"
    assert record.job_in('{"HyperParameterTuningJobName": "cancer-0-t"}')


@pytest.mark.parametrize(
    ("at_once", "counters", "machines"),
    [
        pytest.param(10, {"Completed": 1, "NonRetryableError": 3}, 4, id="fewer were started than might have run"),
        pytest.param(2, {"Completed": 1, "NonRetryableError": 3}, 2, id="no more than run at once"),
        pytest.param(10, {"Completed": 0}, 0, id="none was started"),
        pytest.param(10, None, 1, id="nothing is known"),
    ],
)
def test_of_a_failed_search_whose_trials_cannot_be_listed_as_many_machines_count_as_ran(at_once, counters, machines):
    failed = {name: value for name, value in JOB.items() if name not in ("Trials", "BestTrainingJob")}
    config = failed["HyperParameterTuningJobConfig"]
    limits = {**config["ResourceLimits"], "MaxParallelTrainingJobs": at_once}
    failed |= {"HyperParameterTuningJobConfig": {**config, "ResourceLimits": limits}}
    failed |= {"TrainingJobStatusCounters": counters} if counters else {}
    assert tuning.machine_s(failed) == 200 * machines


def test_a_search_that_found_no_model_took_none():
    failed = {name: value for name, value in JOB.items() if name != "BestTrainingJob"}
    told = recorded(failed | {"HyperParameterTuningJobStatus": "Failed", "FailureReason": "no metric"}, {})
    search = told["report"]["tuning"]
    assert (search["taken"], search["stop"]) == (False, "failed")
    assert tuning.in_words(search).endswith("no model was found; it ended because no metric")
    assert told["duration_s"] == 200


def test_a_search_in_the_training_job_tells_each_fits_part_of_the_energy():
    job = {
        "TrainingJobName": "x", "TrainingStartTime": 0, "TrainingEndTime": 100,
        "ResourceConfig": {"InstanceType": "ml.m5.large"},
    }  # fmt: skip
    search = {"where": "in the training job", "trials": [{"number": 0, "cpu_seconds": 20.0, "knobs": {}}]}
    stage = recorded(job, {"cpu_seconds": 80.0, "duration_s": 100.0, "vcpu": 2, "tuning": search})
    (fit,) = stage["report"]["tuning"]["trials"]
    assert fit["energy_kwh"]["value"] == pytest.approx(stage["footprint"]["energy_kwh"]["value"] / 4)


def test_why_tells_a_search():
    stage = {**recorded(), "stage": "train"}
    run = {"run_id": RUN_ID, "stages": [stage], "status": "succeeded"}
    assert tuning.of(run) is stage["report"]["tuning"]
    words = tuning.in_words(stage["report"]["tuning"])
    assert words.startswith("3 fits in a SageMaker tuning job; rate 0.5, rung net taken")
    assert tuning.numbers(stage["report"]["tuning"])["ended early"] == 1
    assert any(step.kind == "search" for step in explain._ladder(run))
