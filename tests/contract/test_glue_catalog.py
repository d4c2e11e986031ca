"""The Glue Data Catalog: tables and partitions, who may touch them, and how state machines write them."""

import json

import botocore.exceptions
import pytest
from ministack.services import glue
from ministack.services.cloudformation import provisioners

from contract.support import allow, task, wait_until

ACCOUNT = "arn:aws:glue:us-east-1:000000000000"


def test_what_is_replaced_of_ministack_exists():
    assert callable(glue._create_security_configuration)
    assert "AWS::Glue::Database" in provisioners._RESOURCE_HANDLERS


@pytest.fixture
def database(cloud, name):
    database = name.replace("-", "_")
    cloud.client("glue").create_database(DatabaseInput={"Name": database})
    return database


def table(name: str, place: str = "s3://bucket/a1/") -> dict:
    columns = [{"Name": "petal_length", "Type": "double"}, {"Name": "species", "Type": "string"}]
    return {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "PartitionKeys": [{"Name": "split", "Type": "string"}],
        "StorageDescriptor": {"Columns": columns, "Location": place},
        "Parameters": {"ebb.run": "iris-1"},
    }


def on_table(database: str) -> list[str]:
    return [f"{ACCOUNT}:catalog", f"{ACCOUNT}:database/{database}", f"{ACCOUNT}:table/{database}/*"]


def test_a_table_is_read_by_its_name_and_keeps_its_columns(cloud, database):
    client = cloud.client("glue")
    client.create_table(DatabaseName=database, TableInput=table("iris"))
    client.batch_create_partition(
        DatabaseName=database,
        TableName="iris",
        PartitionInputList=[
            {"Values": ["train"], "StorageDescriptor": {"Location": "s3://bucket/a1/train.parquet/"}},
        ],
    )
    found = client.get_table(DatabaseName=database, Name="iris")["Table"]
    assert [each["Type"] for each in found["StorageDescriptor"]["Columns"]] == ["double", "string"]
    assert client.get_partition(DatabaseName=database, TableName="iris", PartitionValues=["train"])["Partition"][
        "StorageDescriptor"
    ]["Location"].endswith("train.parquet/")


@pytest.mark.parametrize("left_out", range(3), ids=["catalog", "database", "table"])
def test_a_table_asks_for_the_catalog_the_database_and_itself(cloud, role, database, left_out):
    resources = on_table(database)
    whole = cloud.client("glue", role(allow("glue:*Table", resources)).session)
    whole.create_table(DatabaseName=database, TableInput=table("iris"))
    missing = resources.pop(left_out)
    client = cloud.client("glue", role(allow("glue:*Table", resources)).session)
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied") as refused:
        client.get_table(DatabaseName=database, Name="iris")
    assert missing.replace("*", "iris") in str(refused.value)


def test_a_name_of_one_database_opens_no_other(cloud, role, database):
    cloud.client("glue").create_database(DatabaseInput={"Name": f"{database}_b"})
    client = cloud.client("glue", role(allow("glue:CreateTable", on_table(database))).session)
    with pytest.raises(botocore.exceptions.ClientError, match=f"table/{database}_b/iris"):
        client.create_table(DatabaseName=f"{database}_b", TableInput=table("iris"))


def test_a_state_machine_writes_a_table_as_its_role_and_catches_that_it_is_there(cloud, machine, database):
    arguments = {"DatabaseName": database, "TableInput": table("iris")}
    states = {
        "Create": task(
            "arn:aws:states:::aws-sdk:glue:createTable",
            arguments,
            Next="Again",
        ),
        "Again": task(
            "arn:aws:states:::aws-sdk:glue:createTable",
            arguments,
            Next="Read",
            Catch=[{"ErrorEquals": ["Glue.AlreadyExistsException"], "Next": "Read"}],
        ),
        "Read": task(
            "arn:aws:states:::aws-sdk:glue:getTable",
            {"DatabaseName": database, "Name": "iris"},
            Output="{% $states.result.Table.Parameters.'ebb.run' %}",
        ),
    }
    ran = machine(states, allow(["glue:CreateTable", "glue:GetTable"], on_table(database))).run()
    assert (ran["status"], ran.get("output")) == ("SUCCEEDED", "iris-1")
    refused = machine({"Create": states["Create"] | {"Next": "Read"}, "Read": states["Read"]}).run()
    assert refused["error"] == "Glue.GlueException"
    assert "glue:CreateTable" in refused["cause"]


def test_an_update_that_read_an_older_version_is_refused(cloud, database):
    client = cloud.client("glue")
    client.create_table(DatabaseName=database, TableInput=table("iris"))
    version = client.get_table(DatabaseName=database, Name="iris")["Table"]["VersionId"]
    client.update_table(DatabaseName=database, TableInput=table("iris", "s3://bucket/a2/"), VersionId=version)
    with pytest.raises(client.exceptions.ConcurrentModificationException):
        client.update_table(DatabaseName=database, TableInput=table("iris"), VersionId=version)


def test_a_template_makes_a_database_and_a_security_configuration(cloud, name):
    encryption = {
        "S3Encryptions": [{"S3EncryptionMode": "SSE-KMS", "KmsKeyArn": "arn:aws:kms:us-east-1:000000000000:key/k"}]
    }
    resources = {
        "Database": {
            "Type": "AWS::Glue::Database",
            "Properties": {
                "CatalogId": {"Ref": "AWS::AccountId"},
                "DatabaseInput": {"Name": {"Fn::Join": ["_", {"Fn::Split": ["-", {"Ref": "AWS::StackName"}]}]}},
            },
        },
        "Security": {
            "Type": "AWS::Glue::SecurityConfiguration",
            "Properties": {"Name": {"Ref": "AWS::StackName"}, "EncryptionConfiguration": encryption},
        },
    }
    stacks, client = cloud.client("cloudformation"), cloud.client("glue")
    outputs = {"Name": {"Value": {"Ref": "Security"}}, "Database": {"Value": {"Ref": "Database"}}}
    stacks.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources, "Outputs": outputs}))
    wait_until(lambda: stacks.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE")
    told = {
        each["OutputKey"]: each["OutputValue"]
        for each in stacks.describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
    }
    assert told == {"Name": name, "Database": name.replace("-", "_")}
    found = client.get_security_configuration(Name=name)["SecurityConfiguration"]
    assert found["EncryptionConfiguration"]["S3Encryption"][0]["S3EncryptionMode"] == "SSE-KMS"
    client.create_table(DatabaseName=told["Database"], TableInput=table("iris"))
    stacks.delete_stack(StackName=name)
    wait_until(
        lambda: name not in {each["Name"] for each in client.get_security_configurations()["SecurityConfigurations"]}
    )
    with pytest.raises(client.exceptions.EntityNotFoundException):
        client.get_table(DatabaseName=told["Database"], Name="iris")
