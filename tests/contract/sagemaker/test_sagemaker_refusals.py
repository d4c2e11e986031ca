"""What SageMaker refuses, in AWS's words: the service model's constraints, and those that it does not hold."""

import json

import boto3
import botocore.config
import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, channel
from contract.support import allow, key_with


def unchecked(lab: Lab, session: boto3.Session | None = None):
    """A client that sends whatever it is given, so that the service has to refuse it."""
    config = botocore.config.Config(parameter_validation=False, retries={"max_attempts": 1})
    return (session or lab.cloud.session()).client(
        "sagemaker", endpoint_url=lab.cloud.server.endpoint_url, config=config
    )


def refusal(call, **request) -> dict:
    with pytest.raises(ClientError) as refused:
        call(**request)
    return refused.value.response["Error"]


def test_constraints_of_the_model_are_counted_and_named(lab: Lab) -> None:
    request = lab.training("pass")
    request["TrainingJobName"] = "under_score"
    request["ResourceConfig"]["InstanceType"] = "ml.none.large"
    error = refusal(unchecked(lab).create_training_job, **request)
    assert error["Code"] == "ValidationException"
    assert error["Message"].startswith("2 validation errors detected: Value 'under_score' at 'trainingJobName' failed")
    assert "Member must satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}" in error["Message"]
    assert "Value 'ml.none.large' at 'resourceConfig.instanceType'" in error["Message"]
    assert "Member must satisfy enum value set: [" in error["Message"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param({"RoleArn": None}, "Value null at 'roleArn' failed to satisfy constraint: Member must not be null",
                     id="a required member"),
        pytest.param({"TrainingJobName": "a" * 64}, "Member must have length less than or equal to 63", id="length"),
        pytest.param({"StoppingCondition": {"MaxRuntimeInSeconds": 0}},
                     "Value '0' at 'stoppingCondition.maxRuntimeInSeconds' failed to satisfy constraint: "
                     "Member must have value greater than or equal to 1", id="value"),
        pytest.param({"StoppingCondition": {"MaxRuntimeInSeconds": 5, "MaxWaitTimeInSeconds": 9}},
                     "Invalid MaxWaitTimeInSeconds. It is only supported when EnableManagedSpotTraining is set to true",
                     id="a waiting time without spot"),
        pytest.param({"EnableManagedSpotTraining": True,
                      "StoppingCondition": {"MaxRuntimeInSeconds": 5, "MaxWaitTimeInSeconds": 4}},
                     "greater than or equal to MaxRuntimeInSeconds", id="spot that may not wait"),
        pytest.param({"RoleArn": "arn:aws:iam::000000000000:role/nobody"}, "Could not assume role", id="no such role"),
        pytest.param({"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 5, "VolumeSizeInGB": 1}},
                     "A job on more than 4 instances is not implemented by the embedded cloud", id="five machines"),
    ],
)  # fmt: skip
def test_a_training_request_is_refused(lab: Lab, change: dict, text: str) -> None:
    request = {**lab.training("pass"), **change}
    wire = {key: value for key, value in request.items() if value is not None}
    assert text in refusal(_raw(lab), **wire)["Message"]


def test_a_wrong_type_is_a_serialization_error(lab: Lab) -> None:
    error = refusal(_raw(lab), **lab.training("pass", StoppingCondition={"MaxRuntimeInSeconds": "soon"}))
    assert (error["Code"], error["Message"]) == (
        "SerializationException", "STRING_VALUE can not be converted to an Integer")  # fmt: skip


def test_a_member_that_the_model_does_not_know_is_refused(lab: Lab) -> None:
    answer = lab.send("SageMaker.CreateTrainingJob", lab.training("pass", Nonsense=1))
    assert (answer["status"], answer["__type"]) == (400, "ValidationException")
    assert "Value '1' at 'nonsense' failed to satisfy constraint" in answer["message"]


def test_an_image_has_to_be_in_the_registry(lab: Lab) -> None:
    request = lab.training("pass")
    image = lab.images["jobs"].replace(":v1", ":gone")
    request["AlgorithmSpecification"]["TrainingImage"] = image
    assert refusal(lab.sagemaker.create_training_job, **request)["Message"] == f"Requested image {image} not found."


def test_a_role_has_to_be_allowed_to_pull(lab: Lab) -> None:
    role = lab.role(allow("s3:*"), given=False)
    error = refusal(lab.sagemaker.create_training_job, **lab.training("pass", RoleArn=role))
    assert f'The role "{role}" does not have GetAuthorizationToken permission for the image' in error["Message"]


@pytest.mark.parametrize(
    "trust",
    [
        pytest.param({"trust": "lambda.amazonaws.com"}, id="another service"),
        pytest.param({"account": "111111111111"}, id="another account"),
    ],
)
def test_a_role_has_to_trust_sagemaker(lab: Lab, trust: dict) -> None:
    role = lab.role(**trust)
    error = refusal(lab.sagemaker.create_training_job, **lab.training("pass", RoleArn=role))
    assert error["Message"].startswith(f"Could not assume role {role}.")


def test_an_encrypted_volume_needs_a_grant_of_the_role_or_the_caller(lab: Lab) -> None:
    key = key_with(lab.cloud)
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1, "VolumeKmsKeyId": key}
    iam = lab.cloud.client("iam")
    root = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [root]})
    caller = iam.create_role(RoleName="volume-caller", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    policy = {"Version": "2012-10-17", "Statement": [allow(["sagemaker:CreateTrainingJob", "iam:PassRole"])]}
    iam.put_role_policy(RoleName="volume-caller", PolicyName="given", PolicyDocument=json.dumps(policy))
    client = lab.session(caller).client("sagemaker", endpoint_url=lab.cloud.server.endpoint_url)
    request = lab.training("pass", ResourceConfig=resources)
    error = refusal(client.create_training_job, **request)
    assert f"not authorized to perform: kms:CreateGrant on resource: {key}" in error["Message"]
    with_grant = lab.role(allow("kms:CreateGrant", key, Bool={"kms:GrantIsForAWSResource": "true"}))
    client.create_training_job(**request | {"RoleArn": with_grant})
    assert lab.trained(request["TrainingJobName"])["TrainingJobStatus"] == "Completed"


def test_job_names_are_unique(lab: Lab) -> None:
    job = lab.train("pass")
    request = lab.training("pass", name=job["TrainingJobName"])
    error = refusal(lab.sagemaker.create_training_job, **request)
    assert error["Code"] == "ResourceInUse"
    assert f"already exists ({job['TrainingJobArn']})" in error["Message"]


def test_an_empty_input_is_refused_with_the_url_and_the_permission(lab: Lab) -> None:
    request = lab.training("pass")
    request["InputDataConfig"].append(channel("data", f"s3://{lab.bucket}/nothing/"))
    assert refusal(lab.sagemaker.create_training_job, **request)["Message"] == (
        f'No S3 objects found under S3 URL "s3://{lab.bucket}/nothing/" given in input data source. Please ensure '
        "that the bucket exists in the selected region (us-east-1), that objects exist under that S3 prefix, and that "
        f'the role "{lab.role_arn}" has "s3:ListBucket" permissions on bucket "{lab.bucket}".'
    )


def test_unknown_resources_have_the_texts_of_their_kind(lab: Lab) -> None:
    client, account = lab.sagemaker, "arn:aws:sagemaker:us-east-1:000000000000"
    cases = [
        (client.describe_training_job, {"TrainingJobName": "x"}, "Requested resource not found."),
        (client.describe_processing_job, {"ProcessingJobName": "x"}, "Could not find requested job with name: x"),
        (client.describe_model, {"ModelName": "x"}, f'Could not find model "{account}:model/x".'),
        (client.describe_endpoint, {"EndpointName": "x"}, f'Could not find endpoint "{account}:endpoint/x".'),
        (client.describe_endpoint_config, {"EndpointConfigName": "x"},
         f'Could not find endpoint configuration "{account}:endpoint-config/x".'),
    ]  # fmt: skip
    for call, request, text in cases:
        assert refusal(call, **request)["Message"] == text


def test_an_action_that_is_not_there_says_its_name(lab: Lab) -> None:
    error = refusal(lab.sagemaker.list_monitoring_schedules)
    assert error == {
        "Code": "UnknownOperationException",
        "Message": "ListMonitoringSchedules is not implemented by the embedded cloud",
    }


def test_callers_need_the_action_the_role_to_pass_and_the_tags(lab: Lab) -> None:
    root = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [root]})
    iam = lab.cloud.client("iam")
    caller = iam.create_role(RoleName="job-caller", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    client = lab.session(caller).client("sagemaker", endpoint_url=lab.cloud.server.endpoint_url)
    request = lab.training("pass", Tags=[{"Key": "ebb:project", "Value": "iris"}])
    arn = f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{request['TrainingJobName']}"
    given: list[dict] = []

    def grant(statement: dict) -> None:
        given.append(statement)
        policy = json.dumps({"Version": "2012-10-17", "Statement": given})
        iam.put_role_policy(RoleName="job-caller", PolicyName="given", PolicyDocument=policy)

    needed = [
        allow("sagemaker:CreateTrainingJob", arn),
        allow("sagemaker:AddTags", arn),
        allow("iam:PassRole", lab.role_arn, StringEquals={"iam:PassedToService": "sagemaker.amazonaws.com"}),
    ]
    for statement in needed:
        error = refusal(client.create_training_job, **request)
        assert error["Code"] == "AccessDeniedException"
        assert f"not authorized to perform: {statement['Action']}" in error["Message"]
        grant(statement)
    assert client.create_training_job(**request)["TrainingJobArn"] == arn
    assert lab.trained(request["TrainingJobName"])["TrainingJobStatus"] == "Completed"


def _raw(lab: Lab):
    return unchecked(lab).create_training_job
