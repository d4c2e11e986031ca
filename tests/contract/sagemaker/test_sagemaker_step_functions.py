"""State machines run SageMaker jobs and wait for them, as the machine's role."""

import contextlib
import json
from itertools import count

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, next_number
from contract.support import Machine, allow, task, wait_until

TRAIN = "arn:aws:states:::sagemaker:createTrainingJob.sync"
ACCOUNT = "000000000000"
JOBS = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/*"
RULE = f"arn:aws:events:us-east-1:{ACCOUNT}:rule/StepFunctionsGetEventsForSageMakerTrainingJobsRule"
_numbers = count(1)


def needed(lab: Lab) -> list[dict]:
    """What the role of a machine needs to run training jobs."""
    passed = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    job_actions = [
        f"sagemaker:{verb}" for verb in ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "AddTags")
    ]
    return [
        allow(job_actions, JOBS),
        allow("iam:PassRole", lab.role_arn, **passed),
        allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], RULE),
    ]


def machine(lab: Lab, states: dict, statements: list[dict]) -> Machine:
    name = f"sagemaker-machine-{next_number()}"
    iam, states_client = lab.cloud.client("iam"), lab.cloud.client("stepfunctions")
    trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]["Arn"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_role_policy(RoleName=name, PolicyName="given", PolicyDocument=policy)
    definition = {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states}
    arn = states_client.create_state_machine(name=name, definition=json.dumps(definition), roleArn=role)
    return Machine(lab.cloud, arn["stateMachineArn"])


def test_the_result_is_the_describe_response(lab: Lab) -> None:
    request = lab.training("print('trained')")
    ended = machine(lab, {"Train": task(TRAIN, request)}, needed(lab)).run()
    assert ended["status"] == "SUCCEEDED", ended
    job = ended["output"]
    assert job["TrainingJobStatus"] == "Completed"
    described = lab.sagemaker.describe_training_job(TrainingJobName=request["TrainingJobName"])
    assert job["TrainingEndTime"] == pytest.approx(described["TrainingEndTime"].timestamp() * 1000, abs=1)
    tags = lab.sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    assert {"Key": "MANAGED_BY_AWS", "Value": "STARTED_BY_STEP_FUNCTIONS"} in tags


def test_a_failed_job_is_a_failed_task_with_the_describe_response_as_cause(lab: Lab) -> None:
    script = """
        import os, pathlib, sys
        pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "output/failure").write_text("loss is NaN")
        sys.exit(1)
    """
    ended = machine(lab, {"Train": task(TRAIN, lab.training(script))}, needed(lab)).run()
    assert (ended["status"], ended["error"]) == ("FAILED", "States.TaskFailed")
    assert json.loads(ended["cause"])["FailureReason"] == "AlgorithmError: loss is NaN, exit code: 1"


@pytest.mark.parametrize("missing", ["sagemaker:AddTags", "iam:PassRole", "events:PutRule"])
def test_the_machine_needs_every_permission(lab: Lab, missing: str) -> None:
    statements = [
        {**statement, "Action": [action for action in _actions(statement) if action != missing]}
        for statement in needed(lab)
    ]
    statements = [statement for statement in statements if statement["Action"]]
    ended = machine(lab, {"Train": task(TRAIN, lab.training("pass"))}, statements).run()
    assert ended["error"] == "SageMaker.AmazonSageMakerException"
    assert f"is not authorized to perform: {missing}" in ended["cause"]


def test_stopping_the_execution_stops_the_job(lab: Lab) -> None:
    request = lab.training("import time\ntime.sleep(60)")
    name = request["TrainingJobName"]
    execution = machine(lab, {"Train": task(TRAIN, request)}, needed(lab)).start()
    wait_until(lambda: lab.sagemaker.list_training_jobs(NameContains=name)["TrainingJobSummaries"])
    wait_until(lambda: lab.sagemaker.describe_training_job(TrainingJobName=name)["SecondaryStatus"] == "Training")
    lab.cloud.client("stepfunctions").stop_execution(executionArn=execution)
    assert lab.trained(name)["TrainingJobStatus"] == "Stopped"


def test_a_timeout_of_the_state_stops_the_job(lab: Lab) -> None:
    request = lab.training("import time\ntime.sleep(60)")
    ended = machine(lab, {"Train": task(TRAIN, request, TimeoutSeconds=2)}, needed(lab)).run()
    assert ended["error"] == "States.Timeout"
    assert lab.trained(request["TrainingJobName"])["TrainingJobStatus"] == "Stopped"


def test_errors_have_the_names_of_their_integration(lab: Lab) -> None:
    name = f"group-{next(_numbers)}"
    create = task("arn:aws:states:::aws-sdk:sagemaker:createModelPackageGroup", {"ModelPackageGroupName": name})
    groups = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:model-package-group/*"
    states = {"One": task(create["Resource"], create["Arguments"], Next="Two"), "Two": create}
    ended = machine(lab, states, [allow("sagemaker:CreateModelPackageGroup", groups)]).run()
    assert (ended["status"], ended["error"]) == ("FAILED", "SageMaker.SageMakerException")
    assert ended["cause"].startswith(f"Model Package Group already exists: {groups.replace('*', name)}")

    used = lab.train("pass")["TrainingJobName"]
    ended = machine(lab, {"Train": task(TRAIN, lab.training("pass", name=used))}, needed(lab)).run()
    assert ended["error"] == "SageMaker.ResourceInUseException"
    assert "Error Code: ResourceInUse" in ended["cause"]


def test_a_machine_deploys_with_narrow_permissions(lab: Lab) -> None:
    model, name = lab.model(answer="one"), f"deployed-{next(_numbers)}"
    image = lab.sagemaker.describe_model(ModelName=model)["PrimaryContainer"]
    arn, tags = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}", [{"Key": "ebb:project", "Value": "iris"}]
    serverless = {"MemorySizeInMB": 1024, "MaxConcurrency": 2}
    variant = {"VariantName": "all", "ModelName": name, "ServerlessConfig": serverless}
    optimized, sdk = "arn:aws:states:::sagemaker:", "arn:aws:states:::aws-sdk:sagemaker:"
    requests = {
        f"{optimized}createModel": {
            "ModelName": name, "PrimaryContainer": image, "ExecutionRoleArn": lab.role_arn, "Tags": tags},
        f"{optimized}createEndpointConfig": {
            "EndpointConfigName": name, "ProductionVariants": [variant], "Tags": tags},
        f"{optimized}createEndpoint": {"EndpointName": name, "EndpointConfigName": name, "Tags": tags},
        f"{sdk}describeEndpoint": {"EndpointName": name},
    }  # fmt: skip
    names = list(requests)
    states = {
        resource: task(resource, arguments, **({"Next": names[index + 1]} if index + 1 < len(names) else {}))
        for index, (resource, arguments) in enumerate(requests.items())
    }
    passed = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    statements = [
        allow(["sagemaker:CreateModel", "sagemaker:AddTags"], f"{arn}:model/{name}"),
        allow(["sagemaker:CreateEndpointConfig", "sagemaker:AddTags"], f"{arn}:endpoint-config/{name}"),
        allow(
            ["sagemaker:CreateEndpoint", "sagemaker:AddTags", "sagemaker:DescribeEndpoint"], f"{arn}:endpoint/{name}"
        ),
        allow("sagemaker:CreateEndpoint", f"{arn}:endpoint-config/{name}"),
        allow("iam:PassRole", lab.role_arn, **passed),
    ]
    for index in range(len(statements)):
        denied = machine(lab, states, statements[:index] + statements[index + 1 :]).run()
        assert denied["status"] == "FAILED", f"not needed: {statements[index]}"
        assert "is not authorized to perform" in denied["cause"]
        _delete(lab, name)
    ended = machine(lab, states, statements).run()
    assert ended["status"] == "SUCCEEDED", ended
    assert ended["output"]["EndpointStatus"] in ("Creating", "InService")
    assert ended["output"]["CreationTime"].endswith("Z"), "SDK integrations give times as text"
    lab.settled(name)
    assert lab.invoke(name)["answer"] == "one"
    _delete(lab, name)


def _delete(lab: Lab, name: str) -> None:
    """Delete what there is of an endpoint, its configuration and its model."""
    client = lab.sagemaker
    with contextlib.suppress(ClientError):
        lab.settled(name)
        client.delete_endpoint(EndpointName=name)
    with contextlib.suppress(ClientError):
        client.delete_endpoint_config(EndpointConfigName=name)
    with contextlib.suppress(ClientError):
        client.delete_model(ModelName=name)


def _actions(statement: dict) -> list[str]:
    return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
