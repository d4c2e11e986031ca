"""What a spec's train.stop, debugger and compiler ask for: fields, requests, alarms, and what the record tells."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import validate_parameters

from ebb import plan, record, spec, training_watch
from ebb.errors import InvalidSpecError
from ebb.requests import debugger, training_alarms
from ebb.requests.alarms import LONGEST_WINDOW_S
from ebb.spec_stop import DEBUGGER_RULES, StopSpec
from ebb.training_rules import Rules, Verdict
from ebb_jobs import curves
from worked_run import REGION, STACK, facts

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
REGEX = "val_loss=([0-9.]+)"
WATCHED = f"task: custom\ntrain: {{spot: false, stop: {{metric_regex: '{REGEX}', goal: minimize, target: 0.2}}}}"


def read(text: str) -> spec.PipelineSpec:
    return spec.parse(text.encode(), file="pipeline.yaml")


def planned(text: str, **more: Any) -> dict[str, Any]:
    asked, run = read(text), facts(**more)
    return plan.build(replace(run, spec=asked, data=replace(run.data, task=asked.task)), STACK)


def valid(service: str, operation: str, body: dict[str, Any]) -> None:
    shape = get_session().get_service_model(service).operation_model(operation).input_shape
    report = validate_parameters(body, shape)
    assert report is None, report


@pytest.mark.parametrize(
    ("train", "field", "remedy"),
    [
        ("stop: {}", "train.stop", "metric_regex:"),
        ("stop: {target: 0.9}", "train.stop.target", "metric_regex:"),
        ("stop: {budget: 2}", "train.stop.budget", "2 USD, 0.5 kWh, 90m or 3h"),
        ("stop: {budget: 0 USD}", "train.stop.budget", "2 USD"),
        ("stop: {metric_regex: 'loss'}", "train.stop.metric_regex", "one group around the number"),
        ("stop: {metric_regex: 'loss=(.+)', plateau: 10}", "train.stop.plateau", "unit"),
        ("stop: {metric_regex: 'loss=(.+)', plateau: 1m}", "train.stop.plateau", ""),
        ("stop: {budget: 1h}, tune: {ranges: {lr: {min: 1, max: 2}}}", "train.stop", "train.tune"),
        ("debugger: {rules: [Psychic]}", "train.debugger.rules", "LossNotDecreasing"),
        ("debugger: {rules: [Overfit, Overfit]}", "train.debugger.rules", "once"),
        ("compiler: magic", "train.compiler", "torch_compile"),
        ("compiler: torch_compile", "train.compiler", "calls torch.compile itself"),
        ("compiler: training_compiler", "train.compiler", "train.instance"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field_and_the_remedy(train: str, field: str, remedy: str):
    with pytest.raises(InvalidSpecError) as refused:
        read(f"task: custom\ntrain: {{{train}}}\n")
    told = json.loads(str(refused.value))
    assert told["column"].startswith(field)
    assert remedy in told["message"] + told["remedy"]


@pytest.mark.parametrize("train", ["stop: {budget: 1h}", "debugger: {rules: [Overfit]}"])
def test_ebbs_own_recipes_stop_themselves_and_are_not_watched(train: str):
    with pytest.raises(InvalidSpecError, match="task: custom"):
        read(f"task: tabular-classification\ntrain: {{{train}}}\n")


def test_a_resolved_spec_is_read_again_as_it_was():
    for text in (WATCHED, "task: custom\ntrain: {stop: {budget: 0.5 kWh}, debugger: {rules: [Overfit]}}"):
        once = read(text)
        assert spec.PipelineSpec.model_validate(json.loads(json.dumps(once.resolved()))) == once


def test_a_watched_script_gets_its_metrics_its_alarms_and_the_tag_by_which_its_end_is_known():
    train = planned(WATCHED)["train"]
    valid("sagemaker", "CreateTrainingJob", train["request"])
    definitions = {
        each["Name"]: each["Regex"] for each in train["request"]["AlgorithmSpecification"]["MetricDefinitions"]
    }
    assert definitions[training_alarms.METRIC] == REGEX
    said = f"{curves.NOT_A_NUMBER} 3"  # by the job
    assert re.search(definitions[training_alarms.NOT_A_NUMBER], said)[1] == "3"
    assert {"Key": "ebb:watched", "Value": "yes"} in train["request"]["Tags"]
    kinds = [each["AlarmName"].rpartition("-")[2] for each in train["alarms"]]
    assert kinds == ["target", "nan", "lost", "history"]
    for alarm in train["alarms"]:
        valid("cloudwatch", "PutMetricAlarm", alarm)
        assert training_alarms.WATCHED_JOB in json.dumps(alarm["AlarmName"])
        period_s = alarm.get("Period") or 60
        assert period_s * alarm["EvaluationPeriods"] <= LONGEST_WINDOW_S


def test_the_alarm_of_a_budget_asks_when_the_dearest_machine_that_may_be_tried_has_used_it():
    text = "task: custom\ntrain: {spot: false, max_runtime: 4h, stop: {budget: 0.2 USD}}"
    train = planned(text)["train"]
    stop, machines = StopSpec(budget="0.2 USD"), [train["request"]["ResourceConfig"]["InstanceType"]]
    machines += [each["instance_type"] for each in train["offers"]]
    (alarm,) = train["alarms"]
    asked_after_s = alarm["DatapointsToAlarm"] * alarm["Period"]
    seconds = [training_watch.budget_s(stop, each, 1, REGION) for each in machines]
    assert max(seconds) > 1.5 * min(seconds), "the machines differ in price"
    assert asked_after_s == pytest.approx(min(seconds), abs=60)


def test_nobody_watches_what_did_not_ask_for_it():
    train = planned("task: custom\ntrain: {spot: false}")["train"]
    assert train["alarms"] == []
    assert "MetricDefinitions" not in train["request"]["AlgorithmSpecification"]
    assert not {"DebugHookConfig", "DebugRuleConfigurations"} & set(train["request"])


def test_the_plan_tells_who_may_stop_the_training():
    (told,) = [each for each in planned(WATCHED)["decisions"] if each["what"] == "stop training from outside"]
    assert told["chosen"] == "target 0.2, no gain for 30 min, divergence"
    assert told["numbers"]["alarms"] == 4


def test_an_alarms_name_holds_its_job_and_nothing_elses_does():
    name = training_alarms.alarm_name("ebb", "pets-20261123093000-3f9a1c07be-a1-train-1", "lost")
    assert training_alarms.watched_job("ebb", name) == ("pets-20261123093000-3f9a1c07be-a1-train-1", "lost")
    assert training_alarms.watched_job("ebb", "ebb-pets-idle") is None
    assert training_alarms.watched_job("other", name) is None
    assert training_alarms.watched_job("ebb", "ebb-team-budget") is None, "an alarm of somebody else's"


@pytest.mark.parametrize(
    ("budget", "seconds"), [("90m", 5400), ("0.23 USD", 3600), ("1 d", 86400)], ids=["time", "money", "a day"]
)
def test_a_budget_is_so_many_seconds_of_the_machine(budget: str, seconds: float):
    stop = StopSpec(budget=budget)
    assert training_watch.budget_s(stop, "ml.m5.xlarge", 1, REGION) == pytest.approx(seconds, rel=0.01)


def test_energy_is_a_budget_too_and_two_machines_use_it_twice_as_fast():
    stop = StopSpec(budget="0.1 kWh")
    alone, together = (training_watch.budget_s(stop, "ml.m5.xlarge", count, REGION) for count in (1, 2))
    assert alone == pytest.approx(2 * together)


@pytest.mark.parametrize("seconds", [30, 600, 40_000, 4 * 86_400])
def test_the_alarm_of_a_budget_is_one_that_cloudwatch_takes(seconds: float):
    alarm = training_alarms.budget("ebb", "job", seconds=seconds, tags=[])
    valid("cloudwatch", "PutMetricAlarm", alarm)
    longest = LONGEST_WINDOW_S if alarm["Period"] < 3600 else 7 * LONGEST_WINDOW_S
    assert alarm["Period"] * alarm["EvaluationPeriods"] <= longest
    assert alarm["Period"] * alarm["DatapointsToAlarm"] <= max(seconds, 60)


def test_a_budget_beyond_max_runtime_needs_no_alarm():
    stop = StopSpec(budget="2h")
    rules = Rules(budget="2h", budget_s=7200, divergence=False)
    made = [training_watch.alarms(stop, rules, stack="ebb", max_runtime_s=limit, tags=[]) for limit in (3600, 9000)]
    assert [len(each) for each in made] == [0, 1]


def test_divergence_alone_has_the_alarm_that_looks_again_too():
    stop = StopSpec(metric_regex=REGEX, plateau=False, loser=False)
    rules = training_watch.rules_of(stop, instance_type="ml.m5.xlarge", machines=1, region=REGION, curve=None)
    made = training_watch.alarms(stop, rules, stack="ebb", max_runtime_s=3600, tags=[])
    assert [each["AlarmName"].rpartition("-")[2] for each in made] == ["nan", "lost", "history"]


# ---- the earlier run's curve ----

CURVE = {"regex": REGEX, "goal": "minimize", "count": 128, "best_so_far": [float(64 - n) for n in range(64)]}
STOP = StopSpec(metric_regex=REGEX, goal="minimize")


def rules_beside(curve: dict[str, Any], machines: int = 1) -> Rules:
    return training_watch.rules_of(STOP, instance_type="ml.m5.xlarge", machines=machines, region=REGION, curve=curve)


def test_an_earlier_runs_curve_stands_for_as_many_values_as_it_had():
    rules = rules_beside(CURVE | {"count": 100_000})
    assert (rules.reference_values, len(rules.reference)) == (100_000, 64)
    assert (rules.reference[0], rules.reference[-1]) == (64.0, 1.0)


def test_what_several_machines_print_is_not_compared_with_what_the_first_one_printed():
    assert list(rules_beside(CURVE, machines=2).reference) == []
    stage = {"stage": "train", "report": {"curve": CURVE}}
    asked = {"train": {"instances": 2, "stop": {"metric_regex": REGEX}}}
    assert training_watch.remembered(asked, [stage]) is None


def test_the_rest_of_a_curve_after_an_interruption_is_not_what_the_next_run_is_compared_with():
    asked = {"train": {"stop": {"metric_regex": REGEX}}}
    stages = [{"stage": "train", "report": {"curve": CURVE | {"resumed": resumed}}} for resumed in (True, False)]
    assert [training_watch.remembered(asked, [stage]) for stage in stages] == [None, CURVE]


def test_what_was_printed_before_an_interruption_is_another_curve():
    begun, again = datetime(2026, 11, 23, 9, tzinfo=UTC), datetime(2026, 11, 23, 11, tzinfo=UTC)
    phases = [("Starting", begun), ("Training", begun), ("Interrupted", NOW), ("Training", again)]
    job = {"SecondaryStatusTransitions": [{"Status": name, "StartTime": moment} for name, moment in phases]}
    assert training_watch.last_begun(job) == again
    assert training_watch.last_begun({"TrainingStartTime": begun}) == begun
    assert training_watch.last_begun({}) is None


def test_six_epochs_of_four_hours_start_the_machine():
    made = training_alarms.history("ebb", "job", tags=[])
    assert (made["DatapointsToAlarm"] - 1) * 4 * 3600 < made["Period"] * made["EvaluationPeriods"]


@pytest.mark.parametrize("other", [{"regex": "acc=(.+)"}, {"goal": "maximize"}, {"best_so_far": []}])
def test_another_metrics_curve_is_no_reference(other: dict[str, Any]):
    assert training_watch.reference(STOP, CURVE | other) == []


@pytest.mark.parametrize(
    ("rule", "kept"), [(None, True), ("plateau", True), ("predicted loser", False), ("budget", False)]
)
def test_only_a_run_that_came_to_its_end_is_what_the_next_one_is_compared_with(rule: str | None, kept: bool):
    asked = {"train": {"stop": {"metric_regex": REGEX}}}
    report = {"curve": {name: CURVE[name] for name in ("goal", "count", "best_so_far")}}
    stage = {"stage": "train", "report": report} | ({"stopped": {"rule": rule}} if rule else {})
    assert (training_watch.remembered(asked, [stage]) == CURVE) is kept


# ---- what is noted ----


def test_a_stop_is_noted_with_what_it_saves_at_most():
    job = {
        "TrainingJobName": "pets-a1-train",
        "StoppingCondition": {"MaxRuntimeInSeconds": 7200},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2},
        "SecondaryStatusTransitions": [
            {"Status": "Starting", "StartTime": datetime(2026, 11, 23, 10, tzinfo=UTC), "EndTime": NOW},
            {"Status": "Training", "StartTime": datetime(2026, 11, 23, 11, tzinfo=UTC)},
        ],
    }
    verdict = Verdict("stop", "it is flat", "plateau", {"best": 0.3})
    fields, write = training_watch.note(verdict, job, run_id="pets", execution="arn", region=REGION, now=NOW)
    assert fields["saved"]["at_most_s"] == 3600
    assert fields["saved"]["at_most_usd"] == pytest.approx(2 * 0.23, rel=0.01)
    assert write["Key"] == {"pk": "RUN#pets", "sk": "STOP#pets-a1-train"}
    assert "attribute_not_exists(pk)" in write["ConditionExpression"]
    told = training_watch.decision(fields)
    assert told["chosen"] == "plateau"
    assert told["numbers"] == {"best": 0.3} | {f"saved_{name}": value for name, value in fields["saved"].items()}


def test_a_script_that_had_saved_nothing_is_told_what_to_do():
    told = training_watch.nothing_left({"rule": "target", "reason": "it reached 0.9"}, "s3://x")
    assert "SM_MODEL_DIR" in told
    assert "0.9" in told


# ---- Debugger and Training Compiler ----


def test_debuggers_rules_are_asked_for_as_aws_documents_them_and_the_plan_warns():
    made = planned("task: custom\ntrain: {spot: false, debugger: {rules: [LossNotDecreasing, Overfit]}}")
    request = made["train"]["request"]
    valid("sagemaker", "CreateTrainingJob", request)
    first, _ = request["DebugRuleConfigurations"]
    assert first["RuleParameters"] == {"rule_to_invoke": "LossNotDecreasing"}
    assert first["RuleEvaluatorImage"] == "503895931360.dkr.ecr.us-east-1.amazonaws.com/sagemaker-debugger-rules:latest"
    (told,) = [each for each in made["decisions"] if each["what"] == "SageMaker Debugger"]
    assert "closed to new customers" in told["reason"]
    assert "train.stop" in told["alternatives"][0]


def test_every_rule_makes_a_valid_request_and_another_region_has_none():
    parts = debugger.debug_parts(DEBUGGER_RULES, REGION, output_uri="s3://b")
    request = planned("task: custom\ntrain: {spot: false}")["train"]["request"]
    valid("sagemaker", "CreateTrainingJob", request | parts)
    assert debugger.debug_parts(("Overfit",), "sa-east-1", output_uri="s3://b") is None


def test_the_training_compiler_is_a_hyperparameter_with_a_warning():
    made = planned("task: custom\ntrain: {spot: false, instance: ml.g5.xlarge, compiler: training_compiler}")
    request = made["train"]["request"]
    valid("sagemaker", "CreateTrainingJob", request)
    assert request["HyperParameters"]["sagemaker_training_compiler_enabled"] == "true"
    (told,) = [each for each in made["decisions"] if each["what"] == "compiler for train"]
    assert "no new releases" in told["reason"]
    assert "torch.compile" in told["alternatives"][0]


@pytest.mark.parametrize(("compiler", "lever"), [("torch_compile", True), ("none", None)])
def test_its_successor_is_a_lever_of_ebbs_own_recipes(compiler: str, lever: bool | None):
    made = planned(f"train: {{compiler: {compiler}}}")
    settings = json.loads(made["train"]["request"]["HyperParameters"]["settings"])
    assert settings["levers"] == {"compiled": lever}
    assert "levers" not in json.loads(planned("{}")["train"]["request"]["HyperParameters"]["settings"])


def test_an_account_that_debugger_is_closed_to_is_told_what_to_write():
    said = "Amazon SageMaker Debugger is no longer open to new customers. (Service: SageMaker, Status Code: 400)"
    ended = {
        "action": "failed",
        "run_id": "pets-20261123093000-3f9a1c07be",
        "attempt": 1,
        "project": "pets",
        "now": NOW,
        "stage": "train",
        "error": "SageMaker.AmazonSageMakerException",
        "cause": said,
    }
    told = record.what_went_wrong(record.RecordRequest.validate_python(ended))
    assert told["type"] == "DebuggerRefused"
    assert "train.stop" in told["message"]
    assert said in told["message"]
