"""State machine definitions: YAML is read, and what AWS would refuse is refused when the machine is created.

MiniStack stores what it gets, so a YAML definition or an unknown state shows itself in the first execution only.
Sources: https://docs.aws.amazon.com/step-functions/latest/dg/concepts-asl-file.html (YAML through CloudFormation),
https://states-language.net/ (structure), https://docs.aws.amazon.com/step-functions/latest/apireference/
API_ValidateStateMachineDefinition.html (codes). Texts follow AWS's; not every wording was compared.
"""

import json
from collections.abc import Iterator

import botocore.session
import yaml
from ministack.services import stepfunctions
from ministack.services.cloudformation import provisioners

from ebb_local import sync_tasks
from ebb_local.gaps import sdk_errors, state_machine_roles

_TRANSITIONS = {"Task", "Pass", "Wait", "Parallel", "Map"}  # need Next or End
_TYPES = _TRANSITIONS | {"Choice", "Succeed", "Fail"}
_JSONPATH_FIELDS = ("InputPath", "OutputPath", "Parameters", "ResultPath", "ResultSelector")
_JSONATA_FIELDS = ("Arguments", "Output")
_SAGEMAKER = "arn:aws:states:::sagemaker:"


def install() -> None:
    """Wrap the two ways by which a definition arrives: CloudFormation and the API."""
    read, check = provisioners._sfn_definition, stepfunctions._validate_definition_jsonata

    def read_checked(props: dict) -> str:
        text = as_json(read(props))
        problem = check(text) or first_problem(text)
        if problem:
            raise ValueError(
                f"Resource handler returned message: \"Invalid State Machine Definition: '{problem}' "
                '(Service: AWSStepFunctions; Status Code: 400; Error Code: InvalidDefinition)"'
            )
        return text

    def check_all(definition_str: str | None) -> str | None:
        problem = check(definition_str) or first_problem(definition_str)
        return f"Invalid State Machine Definition: '{problem}'" if problem else None

    provisioners._sfn_definition = read_checked
    stepfunctions._validate_definition_jsonata = check_all


def as_json(text: str) -> str:
    """Return a definition as the JSON that CloudFormation makes of YAML."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(yaml.safe_load(text))
    return text


def first_problem(text: str | None) -> str | None:
    """Return why AWS would refuse the definition, as `CODE: reason at /path`; None when it would not."""
    try:
        definition = json.loads(text or "")
    except ValueError as problem:
        return f"INVALID_JSON_DESCRIPTION: {problem}"
    if not isinstance(definition, dict):
        return "SCHEMA_VALIDATION_FAILED: The definition must be an object at /"
    language = definition.get("QueryLanguage", "JSONPath")
    return next(_problems(definition, "", language), None)


def _problems(machine: dict, path: str, language: str) -> Iterator[str]:
    states = machine.get("States")
    if not isinstance(states, dict) or not states:
        yield f"SCHEMA_VALIDATION_FAILED: The field 'States' should have at least one state at {path}/States"
        return
    if machine.get("StartAt") not in states:
        yield f"MISSING_TRANSITION_TARGET: Missing 'StartAt' target: {machine.get('StartAt')} at {path}/StartAt"
    for name, state in states.items():
        yield from _state_problems(state, f"{path}/States/{name}", states, language)
    reached = _reachable(machine)
    for name in states:
        if name not in reached:
            yield f'MISSING_TRANSITION_TARGET: State "{name}" is not reachable. at {path}/States/{name}'


def _state_problems(state: dict, path: str, states: dict, machine_language: str) -> Iterator[str]:
    kind = state.get("Type")
    language = state.get("QueryLanguage", machine_language)
    if kind not in _TYPES:
        yield f"SCHEMA_VALIDATION_FAILED: The field 'Type' has an unknown value '{kind}' at {path}/Type"
        return
    if kind in _TRANSITIONS and ("Next" in state) == ("End" in state):
        yield f"SCHEMA_VALIDATION_FAILED: A state must have exactly one of 'Next' and 'End' at {path}"
    if kind == "Choice" and not state.get("Choices"):
        yield f"SCHEMA_VALIDATION_FAILED: The field 'Choices' should have at least one rule at {path}/Choices"
    for where, target in _targets(state):
        if target not in states:
            yield f"MISSING_TRANSITION_TARGET: Missing 'Next' target: {target} at {path}/{where}"
    refused = _JSONPATH_FIELDS if language == "JSONata" else _JSONATA_FIELDS
    for field in refused:
        if field in state:
            yield (
                f"SCHEMA_VALIDATION_FAILED: Field '{field}' is not supported when QueryLanguage is '{language}' "
                f"at {path}/{field}"
            )
    if kind == "Task" and not known_resource(state.get("Resource", "")):
        yield (
            f"SCHEMA_VALIDATION_FAILED: The resource provided {state.get('Resource')} is not recognized. The value is "
            f"not a valid resource ARN, or the resource is not available in this region. at {path}/Resource"
        )
    if kind == "Parallel":
        for index, branch in enumerate(state.get("Branches", [])):
            yield from _problems(branch, f"{path}/Branches/{index}", language)
    if kind == "Map":
        processor = "ItemProcessor" if "ItemProcessor" in state else "Iterator"
        yield from _problems(state.get(processor, {}), f"{path}/{processor}", language)


def _targets(state: dict) -> Iterator[tuple[str, str]]:
    if "Next" in state:
        yield "Next", state["Next"]
    if "Default" in state:
        yield "Default", state["Default"]
    for field in ("Choices", "Catch"):
        for index, rule in enumerate(state.get(field, [])):
            yield f"{field}/{index}/Next", rule.get("Next")


def _reachable(machine: dict) -> set[str]:
    reached: set[str] = set()
    waiting = [str(machine.get("StartAt"))]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in machine["States"]:
            continue
        reached.add(name)
        waiting += [target for _, target in _targets(machine["States"][name])]
    return reached


def known_resource(resource: str) -> bool:
    """Return whether the embedded cloud can run a Task with this Resource."""
    if resource.startswith("arn:aws:lambda:") or ":activity:" in resource or sync_tasks.find(resource):
        return True
    base, _, pattern = resource.partition(".")
    if pattern not in ("", "waitForTaskToken") or not base.startswith("arn:aws:states:::"):
        return False
    if base.startswith(("arn:aws:states:::aws-sdk:", _SAGEMAKER)):
        service, action = state_machine_roles.service_and_action(base)
        return service in stepfunctions._AWS_SDK_SERVICE_MAP and _has_operation(service, action)
    named = {"arn:aws:states:::lambda:invoke", "arn:aws:states:::states:startExecution"}
    return base in named | stepfunctions._SERVICE_DISPATCH.keys()


def _has_operation(service: str, action: str) -> bool:
    model = botocore.session.get_session().get_service_model(sdk_errors.model_name(service))
    return action[:1].islower() and action.lower() in {name.lower() for name in model.operation_names}
