"""Least privilege, read off the template: no wildcard action, and no wildcard resource without AWS's own reason."""

import re

import pytest

from infrastructure import project

STATEMENTS = project.statements()
ALLOWING = [each for each in STATEMENTS if each.body["Effect"] == "Allow"]
AWS_PAGE = re.compile(r"https://docs\.aws\.amazon\.com/\S+")
ROLES = project.resources("AWS::IAM::Role")


def test_the_walk_sees_every_policy():
    """What is parsed with comments is what is deployed: nothing escapes the tests below."""
    seen = {each.where for each in STATEMENTS}
    assert seen >= set(project.resources("AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::KMS::Key"))
    assert seen >= set(project.resources("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"))
    assert len(STATEMENTS) > 80


@pytest.mark.parametrize("statement", ALLOWING, ids=lambda each: f"{each.where}-{each.actions[0]}")
def test_no_action_is_a_wildcard(statement):
    assert not [action for action in statement.actions if "*" in action]


@pytest.mark.parametrize("statement", ALLOWING, ids=lambda each: f"{each.where}-{each.actions[0]}")
def test_a_resource_is_everything_only_where_aws_cannot_narrow_it(statement):
    if "*" in statement.resources:
        assert AWS_PAGE.search(statement.comment), f"{statement.where}: {statement.actions} on * without a reason"


def test_what_is_denied_is_only_what_is_not_encrypted_in_transit():
    for statement in STATEMENTS:
        if statement.body["Effect"] == "Deny":
            assert statement.body["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize("kind", ["AWS::Serverless::Function", "AWS::Serverless::StateMachine"])
def test_nobody_shares_a_role_and_no_role_is_generated(kind):
    """The roles that SAM generates carry managed policies with logs:* on every log group of the account."""
    roles = [each["Properties"]["Role"]["Fn::GetAtt"][0] for each in project.resources(kind).values()]
    assert len(set(roles)) == len(roles)
    assert not any("Policies" in each["Properties"] for each in project.resources(kind).values())


def test_every_role_belongs_to_one_function_machine_rule_or_schedule():
    users = set(project.resources("AWS::Serverless::Function", "AWS::Serverless::StateMachine"))
    users |= set(project.resources("AWS::CodeBuild::Project"))
    users |= {
        name
        for name, rule in project.resources("AWS::Events::Rule").items()
        if any("RoleArn" in target for target in rule["Properties"]["Targets"])
    }
    users |= {
        f"{name}Schedule"
        for function in project.resources("AWS::Serverless::Function").values()
        for name, event in function["Properties"].get("Events", {}).items()
        if event["Type"] == "ScheduleV2"
    }
    assert set(ROLES) == {f"{name}Role" for name in users}


def test_only_state_machines_create_and_delete():
    changing = re.compile(r"^(sagemaker|iam|cloudwatch):(Create|Update|Delete|Stop|Put|Pass)")
    for statement in ALLOWING:
        if statement.where.endswith("FunctionRole"):
            assert not [action for action in statement.actions if changing.match(action)], statement.where


def test_a_build_reads_its_context_and_pushes_to_the_two_repositories_only():
    mine = [each for each in ALLOWING if each.where == "ImagesProjectRole"]
    writing = [each for each in mine if any("Put" in action or "Upload" in action for action in each.actions)]
    targets = [resource for each in writing for resource in each.resources]
    assert targets == [
        {"Fn::GetAtt": ["ImagesProjectLogGroup", "Arn"]},
        {"Fn::GetAtt": ["JobsRepository", "Arn"]},
        {"Fn::GetAtt": ["ServeRepository", "Arn"]},
    ]
    (reading,) = [each for each in mine if "s3:GetObject" in each.actions]
    assert reading.resources == [{"Fn::Sub": "${ArtifactBucket.Arn}/images/*"}]


def test_roles_are_passed_only_to_sagemaker_and_glue_and_only_from_this_stack():
    passing = [each for each in ALLOWING if "iam:PassRole" in each.actions]
    assert {each.where for each in passing} == {
        "RunPipelineStateMachineRole",
        "CompileModelStateMachineRole",
        "DeployModelStateMachineRole",
        "ScoreDataStateMachineRole",
        "WakeEndpointStateMachineRole",
        "JobBoundary",  # a load test's role hands itself to the endpoints that it makes
    }
    for each in passing:
        service = "glue" if "-*-spark" in str(each.body["Resource"]) else "sagemaker"
        assert each.body["Condition"] == {"StringEquals": {"iam:PassedToService": f"{service}.amazonaws.com"}}
        (resource,) = each.resources
        assert ":role/${AWS::StackName}/" in resource["Fn::Sub"]


def test_roles_are_created_only_inside_the_boundary():
    writing = [each for each in ALLOWING if {"iam:CreateRole", "iam:PutRolePolicy"} & set(each.actions)]
    assert writing
    for each in writing:
        assert each.body["Condition"]["StringEquals"] == {"iam:PermissionsBoundary": {"Ref": "JobBoundary"}}


def test_aws_services_that_act_for_us_are_held_to_this_account_or_resource():
    """A service principal without such a condition is a confused deputy."""
    for statement in ALLOWING:
        principal = statement.body.get("Principal", {})
        trust = statement.actions == ["sts:AssumeRole"]  # only this account can pass these roles
        if isinstance(principal, dict) and "Service" in principal and not trust:
            keys = str(statement.body.get("Condition", {}))
            assert any(key in keys for key in ("aws:SourceAccount", "aws:SourceArn", "aws:logs:arn")), statement


def test_a_public_principal_is_narrowed_to_this_account():
    for statement in ALLOWING:
        if statement.body.get("Principal") in ("*", {"AWS": "*"}):
            equals = statement.body["Condition"]["StringEquals"]
            assert equals["kms:CallerAccount"] == {"Ref": "AWS::AccountId"}


@pytest.mark.parametrize("where", ["JobBoundary", "IdentifyDatasetFunctionRole"])
def test_data_left_in_a_bucket_with_a_key_of_its_own_can_be_read_and_nothing_written_with_it(where):
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html"""
    (found,) = [each for each in ALLOWING if each.where == where and {"Ref": "ExternalDataKeyArns"} in each.resources]
    assert found.actions == ["kms:Decrypt"]
    assert found.body["Condition"] == {
        "StringEquals": {"kms:ViaService": {"Fn::Sub": "s3.${AWS::Region}.${AWS::URLSuffix}"}}
    }


def test_every_role_writes_its_own_log_only():
    for name in project.resources("AWS::Serverless::Function"):
        writing = [each for each in ALLOWING if each.where == f"{name}Role" and "logs:PutLogEvents" in each.actions]
        assert [each.resources for each in writing] == [[{"Fn::GetAtt": [f"{name}LogGroup", "Arn"]}]]
