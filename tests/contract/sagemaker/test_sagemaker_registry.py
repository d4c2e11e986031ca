"""Model Registry and tags."""

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab

SPECIFICATION = {
    "Containers": [{"Image": "000000000000.dkr.ecr.us-east-1.amazonaws.com/ebb-serve:v1"}],
    "SupportedContentTypes": ["text/csv"],
    "SupportedResponseMIMETypes": ["application/json"],
}


def test_versions_of_a_group(lab: Lab) -> None:
    client, group = lab.sagemaker, "ebb-flowers"
    arn = client.create_model_package_group(ModelPackageGroupName=group, Tags=[{"Key": "a", "Value": "1"}])
    arn = arn["ModelPackageGroupArn"]
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/ebb-flowers"
    assert client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "1"}]
    request = {
        "ModelPackageGroupName": group,
        "InferenceSpecification": SPECIFICATION,
        "CustomerMetadataProperties": {"energy_kwh": "0.01"},
        "ClientToken": "once",
    }
    first = client.create_model_package(**request)["ModelPackageArn"]
    assert first == "arn:aws:sagemaker:us-east-1:000000000000:model-package/ebb-flowers/1"
    assert client.create_model_package(**request)["ModelPackageArn"] == first, "the same ClientToken"
    second = client.create_model_package(**request | {"ClientToken": "twice"})["ModelPackageArn"]
    assert second.endswith("/2")

    described = client.describe_model_package(ModelPackageName=first)
    assert described["ModelPackageStatus"] == "Completed"
    assert described["ModelApprovalStatus"] == "PendingManualApproval"
    assert described["CustomerMetadataProperties"] == {"energy_kwh": "0.01"}
    client.update_model_package(
        ModelPackageArn=first, ModelApprovalStatus="Approved", CustomerMetadataProperties={"carbon_g": "3"}
    )
    described = client.describe_model_package(ModelPackageName=first)
    assert described["CustomerMetadataProperties"] == {"energy_kwh": "0.01", "carbon_g": "3"}
    approved = client.list_model_packages(ModelPackageGroupName=group, ModelApprovalStatus="Approved")
    assert [row["ModelPackageVersion"] for row in approved["ModelPackageSummaryList"]] == [1]

    with pytest.raises(ClientError, match="still contains model packages"):
        client.delete_model_package_group(ModelPackageGroupName=group)
    for package in (first, second):
        client.delete_model_package(ModelPackageName=package)
    client.delete_model_package_group(ModelPackageGroupName=group)
    with pytest.raises(ClientError, match="does not exist"):
        client.describe_model_package_group(ModelPackageGroupName=group)


def test_versions_take_no_tags_of_their_own(lab: Lab) -> None:
    lab.sagemaker.create_model_package_group(ModelPackageGroupName="ebb-tagless")
    with pytest.raises(ClientError, match="Tags cannot be specified for a versioned model package"):
        lab.sagemaker.create_model_package(
            ModelPackageGroupName="ebb-tagless",
            InferenceSpecification=SPECIFICATION,
            Tags=[{"Key": "a", "Value": "1"}],
        )


def test_tags_are_added_and_removed(lab: Lab) -> None:
    client = lab.sagemaker
    arn = client.create_model_package_group(ModelPackageGroupName="ebb-tagged")["ModelPackageGroupArn"]
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "3"}])
    client.delete_tags(ResourceArn=arn, TagKeys=["b"])
    assert client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "3"}]
