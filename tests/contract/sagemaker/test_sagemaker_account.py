"""What an account's sweep meets beside endpoints: notebooks, Studio's apps and spaces, warm pools, long lists, tags."""

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, next_number
from contract.support import wait_until

ACCOUNT = "arn:aws:sagemaker:us-east-1:000000000000"


def refusal(call, **request) -> dict:
    with pytest.raises(ClientError) as refused:
        call(**request)
    return refused.value.response["Error"]


def test_a_notebook_starts_stops_and_is_deleted_in_its_time(lab: Lab) -> None:
    name, client = f"Notebook-{next_number()}", lab.sagemaker
    made = client.create_notebook_instance(NotebookInstanceName=name, InstanceType="ml.t3.medium",
                                           RoleArn=lab.role_arn, Tags=[{"Key": "team", "Value": "a"}])  # fmt: skip
    assert made["NotebookInstanceArn"] == f"{ACCOUNT}:notebook-instance/{name.lower()}"

    def status() -> str:
        return client.describe_notebook_instance(NotebookInstanceName=name)["NotebookInstanceStatus"]

    assert status() == "Pending"
    lab.advance(120)
    assert status() == "InService"
    error = refusal(client.delete_notebook_instance, NotebookInstanceName=name)
    assert error["Message"].startswith("Status (InService) not in (['Stopped', 'Failed'])")
    client.stop_notebook_instance(NotebookInstanceName=name)
    assert status() == "Stopping"
    lab.advance(60)
    listed = client.list_notebook_instances(StatusEquals="Stopped", NameContains=name)["NotebookInstances"]
    assert [row["NotebookInstanceName"] for row in listed] == [name]
    client.start_notebook_instance(NotebookInstanceName=name)
    lab.advance(120)
    client.stop_notebook_instance(NotebookInstanceName=name)
    lab.advance(60)
    client.delete_notebook_instance(NotebookInstanceName=name)
    lab.advance(60)
    assert refusal(client.describe_notebook_instance, NotebookInstanceName=name)["Message"] == "RecordNotFound"


def test_studio_is_taken_down_from_the_inside(lab: Lab) -> None:
    client = lab.sagemaker
    domain = client.create_domain(
        DomainName=f"domain-{next_number()}", AuthMode="IAM", DefaultUserSettings={"ExecutionRole": lab.role_arn}
    )["DomainId"]
    client.create_user_profile(DomainId=domain, UserProfileName="ada")
    client.create_space(DomainId=domain, SpaceName="Desk", OwnershipSettings={"OwnerUserProfileName": "ada"},
                        SpaceSharingSettings={"SharingType": "Private"},
                        SpaceSettings={"AppType": "JupyterLab", "SpaceStorageSettings": {
                            "EbsStorageSettings": {"EbsVolumeSizeInGb": 20}}})  # fmt: skip
    app = {"DomainId": domain, "SpaceName": "Desk", "AppType": "JupyterLab", "AppName": "default"}
    made = client.create_app(**app, ResourceSpec={"InstanceType": "ml.t3.medium"})
    assert made["AppArn"] == f"{ACCOUNT}:app/{domain}/desk/jupyterlab/default"
    lab.advance(60)
    [row] = client.list_apps(DomainIdEquals=domain)["Apps"]
    assert (row["Status"], row["ResourceSpec"]["InstanceType"]) == ("InService", "ml.t3.medium")
    [space] = client.list_spaces(DomainIdEquals=domain)["Spaces"]
    volume = space["SpaceSettingsSummary"]["SpaceStorageSettings"]["EbsStorageSettings"]
    assert volume == {"EbsVolumeSizeInGb": 20}

    first = client.describe_app(**app)["LastUserActivityTimestamp"]
    lab.advance(600)
    assert client.describe_app(**app)["LastUserActivityTimestamp"] == first
    lab.control("UseApp", **app)
    assert client.describe_app(**app)["LastUserActivityTimestamp"] > first

    assert refusal(client.delete_space, DomainId=domain, SpaceName="Desk")["Code"] == "ResourceInUse"
    assert refusal(client.delete_user_profile, DomainId=domain, UserProfileName="ada")["Code"] == "ResourceInUse"
    assert refusal(client.delete_domain, DomainId=domain)["Code"] == "ResourceInUse"
    client.delete_app(**app)
    lab.advance(60)
    assert client.describe_app(**app)["Status"] == "Deleted"
    client.delete_space(DomainId=domain, SpaceName="Desk")
    lab.advance(60)
    client.delete_user_profile(DomainId=domain, UserProfileName="ada")
    lab.advance(60)
    client.delete_domain(DomainId=domain, RetentionPolicy={"HomeEfsFileSystem": "Delete"})
    lab.advance(60)
    assert not [row for row in client.list_domains()["Domains"] if row["DomainId"] == domain]


def resources(keep_s: int, **more) -> dict:
    wanted = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10}
    return wanted | {"KeepAlivePeriodInSeconds": keep_s} | more


def pool_of(lab: Lab, name: str) -> dict:
    return lab.sagemaker.describe_training_job(TrainingJobName=name)["WarmPoolStatus"]


def test_a_warm_pool_is_kept_and_billed_until_its_time_is_over(lab: Lab) -> None:
    name = lab.train("pass", ResourceConfig=resources(600))["TrainingJobName"]
    assert pool_of(lab, name)["Status"] == "Available"
    listed = lab.sagemaker.list_training_jobs(WarmPoolStatusEquals="Available", NameContains=name)
    assert listed["TrainingJobSummaries"][0]["WarmPoolStatus"]["Status"] == "Available"
    lab.advance(300)
    assert 300 <= pool_of(lab, name)["ResourceRetainedBillableTimeInSeconds"] < 400
    lab.advance(400)
    pool = pool_of(lab, name)
    assert pool["Status"] == "Terminated"
    assert 600 <= pool["ResourceRetainedBillableTimeInSeconds"] < 700


def test_a_warm_pool_is_ended_by_hand_or_taken_by_a_job_that_fits(lab: Lab) -> None:
    first = lab.train("pass", ResourceConfig=resources(3000, VolumeSizeInGB=11))["TrainingJobName"]
    second = lab.train("pass", ResourceConfig=resources(3000, VolumeSizeInGB=11))["TrainingJobName"]
    assert (pool_of(lab, first)["Status"], pool_of(lab, first)["ReusedByJob"]) == ("Reused", second)
    end = {"TrainingJobName": second, "ResourceConfig": {"KeepAlivePeriodInSeconds": 0}}
    lab.sagemaker.update_training_job(**end)
    assert pool_of(lab, second)["Status"] == "Terminated"
    assert "it is not Available" in refusal(lab.sagemaker.update_training_job, **end)["Message"]


def test_spot_and_warm_pools_exclude_each_other(lab: Lab) -> None:
    request = lab.training("pass", ResourceConfig=resources(60), EnableManagedSpotTraining=True,
                           StoppingCondition={"MaxRuntimeInSeconds": 5, "MaxWaitTimeInSeconds": 9})  # fmt: skip
    assert "managed spot training" in refusal(lab.sagemaker.create_training_job, **request)["Message"]


def test_long_lists_come_in_pages(lab: Lab) -> None:
    model, names = lab.model(answer="x"), [f"page-{number}" for number in range(5)]
    for name in names:
        lab.configure(name, {"ModelName": model})
        lab.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    for name in names:
        lab.settled(name)
    pages = [
        [row["EndpointName"] for row in page["Endpoints"]]
        for page in lab.sagemaker.get_paginator("list_endpoints").paginate(
            NameContains="page-", StatusEquals="InService", SortBy="Name", SortOrder="Ascending", MaxResults=2
        )
    ]
    assert pages == [names[:2], names[2:4], names[4:]]
    for name in names:
        lab.sagemaker.delete_endpoint(EndpointName=name)


def test_tags_come_in_pages(lab: Lab) -> None:
    tags = [{"Key": f"k{number:02}", "Value": ""} for number in range(50)]
    name = f"tagged-{next_number()}"
    arn = lab.sagemaker.create_model_package_group(ModelPackageGroupName=name, Tags=tags)["ModelPackageGroupArn"]
    lab.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "one-more", "Value": ""}])
    pages = list(lab.sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn, PaginationConfig={"PageSize": 50}))
    assert [len(page["Tags"]) for page in pages] == [50, 1]


def test_named_actions_are_throttled_as_often_as_asked(lab: Lab) -> None:
    lab.control("SetFaults", throttled={"ListEndpoints": 2})
    answers = [lab.send("SageMaker.ListEndpoints", {}).get("__type") for _ in range(3)]
    assert answers == ["ThrottlingException", "ThrottlingException", None]
    assert lab.control("SetFaults", nonsense=1)["status"] == 400


def test_faults_are_for_the_root_only(lab: Lab) -> None:
    keys = lab.cloud.client("iam")
    keys.create_user(UserName="no-root")
    access = keys.create_access_key(UserName="no-root")["AccessKey"]
    answer = lab.send("Ebb.SetFaults", {}, scope="ebb", keys=(access["AccessKeyId"], access["SecretAccessKey"]))
    assert answer["status"] == 403


def test_instances_come_late_when_asked(lab: Lab) -> None:
    lab.control("SetFaults", provisioningDelayS=240)
    name = f"late-{next_number()}"
    lab.configure(name, {"ModelName": lab.model(answer="x")})
    lab.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    status = lab.sagemaker.describe_endpoint
    lab.advance(200)
    assert status(EndpointName=name)["EndpointStatus"] == "Creating"
    lab.advance(60)
    wait_until(lambda: status(EndpointName=name)["EndpointStatus"] == "InService")
    lab.control("ClearFaults")
    lab.sagemaker.delete_endpoint(EndpointName=name)
