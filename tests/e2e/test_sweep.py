"""What others left running: shown with its price, protected by default, stopped once parameter and tags allow it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import STACK, Cloud, Ebb, connect, model_of_another_hand, wait_until

pytestmark = pytest.mark.embedded_only  # needs half a day to pass
OPT_IN = [{"Key": "ebb:sleep", "Value": "allowed"}]
HOURS = {"Key": "ebb:budget-hours", "Value": "8"}
KEEP = [*OPT_IN, {"Key": "ebb:keep", "Value": "yes"}]


@pytest.fixture(scope="module")
def left_running(ebb: Ebb, few_run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A notebook, one that is to be kept, an app and an endpoint that nobody has used for half a day; a warm pool."""
    cloud, name = connect(ebb), f"{few_run['run_id']}-a{few_run['attempt']}"
    sagemaker = cloud.client("sagemaker")
    trained = sagemaker.describe_training_job(TrainingJobName=f"{name}-train")
    for notebook, tags in (("lab", [*OPT_IN, HOURS]), ("precious", KEEP)):
        sagemaker.create_notebook_instance(
            NotebookInstanceName=notebook, InstanceType="ml.t3.medium", RoleArn=trained["RoleArn"], Tags=tags
        )
    domain = sagemaker.create_domain(
        DomainName="studio",
        AuthMode="IAM",
        DefaultUserSettings={"ExecutionRole": trained["RoleArn"]},
        SubnetIds=["subnet-0a1b2c3d"],
        VpcId="vpc-0a1b2c3d",
    )
    domain_id = domain.get("DomainId") or domain["DomainArn"].rpartition("/")[2]
    sagemaker.create_user_profile(DomainId=domain_id, UserProfileName="ada")
    app = {"DomainId": domain_id, "UserProfileName": "ada", "AppType": "KernelGateway", "AppName": "kernel"}
    sagemaker.create_app(**app, ResourceSpec={"InstanceType": "ml.t3.large"}, Tags=OPT_IN)
    model = model_of_another_hand(cloud, "theirs", name)
    variant = {"VariantName": "all", "ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="theirs", EndpointConfigName="theirs", Tags=OPT_IN)
    assert ebb("advance", "15m").returncode == 0  # all of them take minutes to start
    assert notebook_status(cloud, "lab") == notebook_status(cloud, "precious") == "InService"
    assert sagemaker.describe_app(**app)["Status"] == "InService"
    wait_until(lambda: endpoint_status(cloud) == "InService", "the endpoint is in service")
    assert ebb("advance", "13h").returncode == 0
    copied = (
        "AlgorithmSpecification",
        "HyperParameters",
        "InputDataConfig",
        "OutputDataConfig",
        "Environment",
    )
    sagemaker.create_training_job(
        TrainingJobName="theirs",
        RoleArn=sagemaker.describe_model(ModelName=model)["ExecutionRoleArn"],
        **{each: trained[each] for each in copied if each in trained},
        ResourceConfig={**trained["ResourceConfig"], "KeepAlivePeriodInSeconds": 3600},
        StoppingCondition={"MaxRuntimeInSeconds": 3600},
        Tags=OPT_IN,
    )
    wait_until(lambda: pool_status(cloud) == "Available", "the job's machines are kept warm")
    assert ebb("advance", "20m").returncode == 0
    yield {"app": app, "domain": domain_id}
    manage_foreign(connect(ebb), "only-wake")  # nobody leaves asleep what he put to sleep for others
    woken = ebb("wake", "theirs", "--wait")
    assert woken.returncode == 0, woken.stderr
    assert endpoint_status(cloud) == "InService"
    manage_foreign(connect(ebb), "no")


def notebook_status(cloud: Cloud, name: str) -> str:
    return cloud.client("sagemaker").describe_notebook_instance(NotebookInstanceName=name)["NotebookInstanceStatus"]


def endpoint_status(cloud: Cloud) -> str | None:
    found = cloud.client("sagemaker").list_endpoints(NameContains="theirs")["Endpoints"]
    return found[0]["EndpointStatus"] if found else None


def pool_status(cloud: Cloud) -> str | None:
    found = cloud.client("sagemaker").describe_training_job(TrainingJobName="theirs")
    return found.get("WarmPoolStatus", {}).get("Status")


def manage_foreign(cloud: Cloud, answer: str) -> None:
    """Deploy the stack again with another answer to whether others' resources may be managed."""
    formation = cloud.client("cloudformation")
    stack = formation.describe_stacks(StackName=STACK)["Stacks"][0]
    parameters = [
        {"ParameterKey": each["ParameterKey"], "ParameterValue": each["ParameterValue"]}
        for each in stack.get("Parameters", [])
        if each["ParameterKey"] != "ManageForeignEndpoints"
    ]
    formation.update_stack(
        StackName=STACK,
        UsePreviousTemplate=True,
        Parameters=[*parameters, {"ParameterKey": "ManageForeignEndpoints", "ParameterValue": answer}],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND", "CAPABILITY_NAMED_IAM"],
    )
    status = "UPDATE_COMPLETE"
    wait_until(lambda: formation.describe_stacks(StackName=STACK)["Stacks"][0]["StackStatus"] == status, status)


def findings(ebb: Ebb, *more: str) -> dict[tuple[str, str], dict[str, Any]]:
    document = ebb.json("idle", *more)
    assert document["unread"] == []
    return {(each["kind"], each["name"]): each for each in document["findings"]}


def app_name(left: dict[str, Any]) -> str:
    return f"{left['domain']}/ada/KernelGateway/kernel"


def test_what_others_left_running_is_shown_with_its_price_and_protected(ebb: Ebb, cloud: Cloud, left_running):
    found = findings(ebb, "--dry-run")
    expected = [("notebook", "lab"), ("app", app_name(left_running)), ("endpoint", "theirs"), ("warm-pool", "theirs")]
    assert {key: found[key]["action"] for key in expected} == dict.fromkeys(expected, "protected")
    assert all(found[key]["usd_per_month"] > 0 for key in expected)
    assert found["notebook", "precious"]["action"] == "keep"
    findings(ebb)  # a real sweep leaves them alone as well
    assert notebook_status(cloud, "lab") == "InService"
    assert endpoint_status(cloud) == "InService"


def test_with_parameter_and_tags_each_is_stopped_and_its_owner_told(ebb: Ebb, cloud: Cloud, left_running):
    sagemaker = cloud.client("sagemaker")
    manage_foreign(cloud, "yes")
    would = findings(ebb, "--dry-run")
    assert would["notebook", "lab"]["action"] == "stop"
    assert would["endpoint", "theirs"]["action"] == "sleep"
    did = findings(ebb)
    assert did["warm-pool", "theirs"]["action"] == "stop"
    # stopping takes minutes, and an endpoint waits for metrics that may be late
    assert ebb("advance", "12m").returncode == 0
    wait_until(lambda: notebook_status(cloud, "lab") == "Stopped", "the notebook is stopped")
    wait_until(lambda: pool_status(cloud) == "Terminated", "the warm pool has ended")
    wait_until(lambda: sagemaker.describe_app(**left_running["app"])["Status"] == "Deleted", "the app is stopped")
    assert notebook_status(cloud, "precious") == "InService"
    events = cloud.client("dynamodb").query(
        TableName=cloud.outputs["LedgerTableName"],
        IndexName="runs",
        KeyConditionExpression="gsi_pk = :events",
        ExpressionAttributeValues={":events": {"S": "EVENTS"}},
    )["Items"]
    assert {each["kind"]["S"] for each in events} >= {"notebook", "app", "warm-pool"}
    wait_until(lambda: endpoint_status(cloud) is None, "the endpoint is asleep", within_s=30)
    again = findings(ebb, "--dry-run")
    assert ("notebook", "lab") not in again
    assert ("endpoint", "theirs") not in again


def test_the_control_plane_prints_its_own_bill(ebb: Ebb, left_running):
    document = ebb.json("cost", "--since", "30d")
    services = {each["service"] for each in document["items"]}
    assert services >= {"Lambda", "Step Functions", "DynamoDB", "KMS", "CloudWatch", "SQS", "Scheduler", "S3"}
    measured = {each["what"]: each for each in document["items"] if each["how"] == "measured"}
    assert measured["SweepAccountFunction: requests"]["units"] >= 52, "a quarter of an hour each, over half a day"
    assert 0 < document["standing_usd_per_month"] < 50
    assert json.dumps(document["savings"])
