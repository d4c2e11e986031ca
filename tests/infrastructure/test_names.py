"""One name, five spellings: file, handler, logical id, substitution and state."""

import re

import pytest

from infrastructure import project

FUNCTIONS = project.resources("AWS::Serverless::Function")


def _snake(logical_id: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", logical_id.removesuffix("Function")).lower()


@pytest.mark.parametrize("logical_id", FUNCTIONS)
def test_a_function_is_spelled_alike_everywhere(logical_id):
    assert logical_id.endswith("Function")
    name = _snake(logical_id)
    properties = FUNCTIONS[logical_id]["Properties"]
    assert (project.ROOT / "functions" / f"{name}.py").is_file()
    assert properties["Handler"] == f"{name}.handler"
    assert properties["Role"] == {"Fn::GetAtt": [f"{logical_id}Role", "Arn"]}
    assert properties["LoggingConfig"]["LogGroup"] == {"Ref": f"{logical_id}LogGroup"}
    kebab = name.replace("_", "-")
    assert properties.get("Description"), "what it decides, in a line"
    groups = project.resources("AWS::Logs::LogGroup")
    log_group = groups[f"{logical_id}LogGroup"]["Properties"]["LogGroupName"]
    assert log_group == {"Fn::Sub": f"/aws/lambda/${{AWS::StackName}}-{kebab}"}


def test_every_handler_file_is_deployed():
    files = {path.stem for path in (project.ROOT / "functions").glob("*.py") if not path.stem.startswith("_")}
    assert files == {_snake(logical_id) for logical_id in FUNCTIONS}


def test_a_state_is_named_after_the_function_that_it_calls():
    for path in project.MACHINES:
        for name, state, _ in project.states(project.machine(path)):
            if state.get("Resource") == "arn:aws:states:::lambda:invoke":
                function = _snake(state["Arguments"]["FunctionName"].removeprefix("${").removesuffix("Arn}"))
                if function == "record_run":  # one function, many things to record
                    assert name.startswith("Record "), name
                else:
                    assert name.lower().replace(" ", "_").removesuffix("_again") == function


def test_a_substitution_is_named_after_the_resource_that_it_stands_for():
    for each in project.resources("AWS::Serverless::StateMachine").values():
        for name, value in each["Properties"].get("DefinitionSubstitutions", {}).items():
            if "Fn::Sub" in value:  # a parameter, as text
                assert value["Fn::Sub"] == f"${{{name}}}"
                continue
            resource = value.get("Ref") or value["Fn::GetAtt"][0]
            assert name == (f"{resource}Name" if resource.endswith("Table") else f"{resource}Arn")


def test_state_machines_are_spelled_alike():
    for logical_id, each in project.resources("AWS::Serverless::StateMachine").items():
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", logical_id.removesuffix("StateMachine")).lower()
        assert each["Properties"]["DefinitionUri"] == f"statemachines/{name}.asl.yaml"
        assert each["Properties"]["Name"] == {"Fn::Sub": f"${{AWS::StackName}}-{name.replace('_', '-')}"}


def test_logical_ids_end_in_their_kind():
    kinds = {
        "AWS::CloudWatch::Alarm": "Alarm",
        "AWS::CodeBuild::Project": "Project",
        "AWS::DynamoDB::Table": "Table",
        "AWS::ECR::Repository": "Repository",
        "AWS::Events::Rule": "Rule",
        "AWS::IAM::Role": "Role",
        "AWS::KMS::Key": "Key",
        "AWS::Logs::LogGroup": "LogGroup",
        "AWS::S3::Bucket": "Bucket",
        "AWS::S3::BucketPolicy": "BucketPolicy",
        "AWS::SNS::Topic": "Topic",
        "AWS::SQS::Queue": "Queue",
        "AWS::SQS::QueuePolicy": "QueuePolicy",
        "AWS::Serverless::LayerVersion": "Layer",
        "AWS::Serverless::StateMachine": "StateMachine",
    }
    for name, each in project.template()["Resources"].items():
        assert name.endswith(kinds.get(each["Type"], "")), name
