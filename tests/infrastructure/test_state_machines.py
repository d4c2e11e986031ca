"""Every state machine is valid, complete and true to the errors, functions and substitutions that it names."""

import json
import re
from pathlib import Path

import botocore.session
import jsonata
import pytest
from cfnlint import api as cfn_lint

from ebb import errors, pace
from infrastructure import project

RUN_PIPELINE = project.ROOT / "statemachines" / "run_pipeline.asl.yaml"
DEPLOY_MODEL = project.ROOT / "statemachines" / "deploy_model.asl.yaml"
# What Step Functions itself names, and the service of every other prefix.
# https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
# https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
STATES_ERRORS = {"States.ALL", "States.QueryEvaluationError", "States.TaskFailed", "States.Timeout"}
SERVICES = {
    "ApplicationAutoScaling": "application-autoscaling",
    "CloudWatch": "cloudwatch",
    "CloudWatchLogs": "logs",
    "DynamoDB": "dynamodb",
    "Iam": "iam",
    "CodeBuild": "codebuild",
    "Glue": "glue",
    "Lambda": "lambda",
    "SNS": "sns",
    "SageMaker": "sagemaker",
    "StepFunctions": "stepfunctions",
}
# Names that integrations give to what a service does not model.
# https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html, .../connect-sagemaker.html
GENERAL_ERRORS = {
    "CodeBuild.CodeBuildException",
    "CloudWatch.CloudWatchException",
    "Glue.AWSGlueException",
    "Glue.GlueException",
    "Iam.IamException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "SageMaker.AmazonSageMakerException",
    "SageMaker.ResourceLimitExceededException",
    "SageMaker.SageMakerException",
    "StepFunctions.AWSStepFunctionsException",
}

machines = pytest.mark.parametrize("path", project.MACHINES, ids=lambda path: path.name.removesuffix(".asl.yaml"))


def _lint(definition: dict, substitutions: set[str]) -> list[str]:
    """Return cfn-lint's findings. It does not open DefinitionUri files, so the definition is inlined."""
    properties = {"RoleArn": "arn:aws:iam::000000000000:role/machine", "Definition": definition}
    if substitutions:
        arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
        properties["DefinitionSubstitutions"] = dict.fromkeys(substitutions, arn)
    machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
    template = json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Machine": machine}})
    return [f"{each.rule.id} {each.message}" for each in cfn_lint.lint(template, regions=["us-east-1"])]


@machines
def test_cfn_lint_accepts_the_definition(path):
    assert _lint(project.machine(path), _substitutions(path)) == []


def test_the_lint_sees_a_broken_definition():
    (finding, *_) = _lint({"StartAt": "Here", "States": {"Here": {"Type": "Task", "End": True}}}, set())
    assert finding.startswith("E3601")


@machines
def test_every_transition_leads_to_a_state_of_its_own_machine(path):
    for name, state, owner in project.states(project.machine(path)):
        assert owner["StartAt"] in owner["States"]
        missing = set(project.successors(state)) - set(owner["States"])
        assert not missing, f"{name} leads to {missing}"
        ends = state["Type"] in ("Succeed", "Fail", "Choice") or state.get("End") is True
        assert ends or "Next" in state, f"{name} neither ends nor goes on"


@machines
def test_every_state_can_be_reached(path):
    owners = {id(owner): owner for _, _, owner in project.states(project.machine(path))}
    for owner in owners.values():
        assert project.reachable(owner, owner["StartAt"]) == set(owner["States"])


@machines
def test_every_error_name_exists(path):
    for name, state, _ in project.states(project.machine(path)):
        for rule in [*state.get("Retry", []), *state.get("Catch", [])]:
            for error in rule["ErrorEquals"]:
                assert _is_known(error), f"{name}: nothing raises {error}"


def test_an_unknown_error_name_is_noticed():
    assert not _is_known("DropRefusedError")
    assert not _is_known("Iam.AlreadyThereException")
    assert not _is_known("EbbNobodyRaises.Exception")


@machines
def test_a_catch_of_everything_stands_alone_and_last(path):
    for name, state, _ in project.states(project.machine(path)):
        rules = state.get("Catch", [])
        everything = [index for index, rule in enumerate(rules) if "States.ALL" in rule["ErrorEquals"]]
        assert everything in ([], [len(rules) - 1]), name
        assert all(rules[index]["ErrorEquals"] == ["States.ALL"] for index in everything), name


@machines
def test_retries_are_bounded_and_spread(path):
    for name, state, _ in project.states(project.machine(path)):
        for rule in state.get("Retry", []):
            looks = rule["ErrorEquals"] == ["States.QueryEvaluationError"]  # a pause between two looks, not a retry
            assert 1 <= rule["MaxAttempts"] <= (pace.SLEEPING_RETRIES if looks else 20), name
            assert rule["JitterStrategy"] == ("NONE" if looks else "FULL"), name
            assert "States.ALL" not in rule["ErrorEquals"], f"{name} would repeat what cannot succeed"


@machines
def test_substitutions_are_those_of_the_template(path):
    resource = _resource(path)
    given = set(resource["Properties"].get("DefinitionSubstitutions", {}))
    assert given == _substitutions(path)


@machines
def test_every_expression_parses(path):
    expressions = list(_expressions(project.machine(path)))
    assert expressions
    for expression in expressions:
        jsonata.Jsonata.jsonata(expression)  # raises on a syntax error


@machines
def test_what_looks_like_an_expression_is_one(path):
    """Step Functions takes `{% … %}` only with nothing before or after it; anything else is silently a string."""
    for text in _strings(project.machine(path)):
        assert ("{%" in text) == (text.startswith("{%") and text.endswith("%}")), text


@machines
def test_lambda_tasks_wait_at_least_as_long_as_their_function(path):
    functions = project.resources("AWS::Serverless::Function")
    default = project.template()["Globals"]["Function"]["Timeout"]
    for name, state, _ in project.states(project.machine(path)):
        if state.get("Resource") == "arn:aws:states:::lambda:invoke":
            function = state["Arguments"]["FunctionName"].removeprefix("${").removesuffix("Arn}")
            assert state["TimeoutSeconds"] >= functions[function]["Properties"].get("Timeout", default), name


def test_a_run_that_ends_badly_is_recorded_before_it_fails():
    definition = project.machine(RUN_PIPELINE)
    recording = frozenset({"Record failure", "Record rejection"})
    fails = {name for name, state in definition["States"].items() if state["Type"] == "Fail"}
    assert fails
    assert not project.reachable(definition, definition["StartAt"], without=recording) & fails


def test_a_recorded_failure_or_rejection_never_succeeds():
    definition = project.machine(RUN_PIPELINE)
    succeeding = {name for name, state in definition["States"].items() if state["Type"] == "Succeed"}
    for name in ("Record failure", "Record rejection"):
        assert not project.reachable(definition, name) & succeeding


def test_every_step_of_a_run_hands_any_error_to_its_recorder():
    definition = project.machine(RUN_PIPELINE)
    for name, state in definition["States"].items():
        if state["Type"] in ("Task", "Map"):
            last = state["Catch"][-1]
            tolerated = name in ("Notify", "Notify failure", "Notify rejection", "Record failure", "Record rejection")
            if name == "Ensure model group":
                assert last == {**last, "ErrorEquals": ["States.TaskFailed"], "Next": "Register model"}
            elif name in ("Process data", "Compress model", "Compile model"):
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "Record refusal"), name
            elif name == "Train model":
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "Watched?")
                assert definition["States"]["Watched?"]["Default"] == "Record refusal"
            elif name == "Clear alarms":  # of a job that was refused: its own error goes on to be recorded
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "Record refusal")
                assert last["Output"] == state["Output"] == "{% $states.input %}"
            elif name == "Tune model":  # and the list hands on what it was given, where there is nothing to list
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "List trials"), name
            elif name == "Record refusal":  # hands on what it was given, and that names the stage
                assert (last["ErrorEquals"], last["Output"]) == (["States.ALL"], "{% $states.input %}")
                assert last["Next"] == "Record failure"
            elif name == "Watch training":  # a script that nobody watches ends by itself
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "Train model")
            elif name == "Choose window":  # the stage begins at once, as it would without a deadline
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "Window open?")
                assert last["Output"] == {"action": "run"}
            elif name == "Compile with Neo":  # it records its own reason, and the run has what its job compiled
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "Ensure model group")
            elif not tolerated:
                assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], "Record failure"), name
                assert "'stage': '" in last["Output"], f"{name} does not say which stage failed"


def test_a_claimed_deployment_gives_its_claim_back_however_it_ends():
    """But for one thing: where the claim cannot even be read, it is found stale later."""
    definition = project.machine(DEPLOY_MODEL)
    reached = project.reachable(definition, "Create log groups", without=frozenset({"Give claim back"}))
    ends = {"Deployed", "Not deployed", "Deployment failed"}
    before = {name for name in reached if ends & set(project.successors(definition["States"][name]))}
    assert before == {"Read claim", "What is there to undo?"}


def test_an_undoing_creates_nothing():
    definition = project.machine(DEPLOY_MODEL)
    reached = project.reachable(definition, "Read claim")
    made = {"Create model", "Create endpoint", "Update endpoint", "Create component", "Create alarms", "Switch address"}
    assert not reached & made


def test_every_failure_after_the_claim_is_undone():
    definition = project.machine(DEPLOY_MODEL)
    forward = project.reachable(definition, "Create log groups", without=frozenset({"Read claim", "Let calls end"}))
    for name in forward:
        state = definition["States"][name]
        if state["Type"] in ("Task", "Map"):
            last = state["Catch"][-1]
            assert last["Next"] in ("Read claim", "Created meanwhile?", "Endpoint at rest?"), name


def _is_known(error: str) -> bool:
    if error in STATES_ERRORS | GENERAL_ERRORS:
        return True
    if "." not in error:
        found = getattr(errors, error, None)
        return isinstance(found, type) and issubclass(found, errors.EbbError)
    prefix, name = error.split(".", 1)
    if prefix not in SERVICES:
        return False
    model = botocore.session.get_session().get_service_model(SERVICES[prefix])
    return name.removesuffix("Exception") in {shape.name.removesuffix("Exception") for shape in model.error_shapes}


def _substitutions(path: Path) -> set[str]:
    return set(re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8")))


def _resource(path: Path) -> dict:
    uri = path.relative_to(project.ROOT).as_posix()
    machines = project.resources("AWS::Serverless::StateMachine").values()
    (found,) = [each for each in machines if each["Properties"]["DefinitionUri"] == uri]
    return found


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _expressions(definition):
    return (text[2:-2].strip() for text in _strings(definition) if text.startswith("{%"))
