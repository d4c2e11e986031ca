"""Feature Store: a feature group and the Iceberg table behind it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, environments
from contract.support import Cloud, allow, free_port, wait_until
from ebb_local import lifecycle

JOBS_PYTHON = Path(__file__).parents[3] / ".venvs/jobs/bin/python"
GLUE = [
    "glue:CreateDatabase", "glue:CreateTable", "glue:GetDatabase", "glue:GetTable", "glue:UpdateTable",
]  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cloud whose jobs image is the real one's environment: Iceberg's library is in that."""
    venvs = environments(tmp_path_factory.mktemp("venvs"), sys.executable)
    python = venvs / "jobs/bin/python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {JOBS_PYTHON} "$@"\n')
    python.chmod(0o755)
    home = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EBB_VENVS", str(venvs))
        started = lifecycle.start(home, port=free_port())
    yield Lab(Cloud(started))
    assert lifecycle.stop(home) == []


def group(lab: Lab, name: str, role_arn: str, **changes) -> dict:
    request = {
        "FeatureGroupName": name,
        "RecordIdentifierFeatureName": "id",
        "EventTimeFeatureName": "at",
        "FeatureDefinitions": [
            {"FeatureName": "id", "FeatureType": "String"},
            {"FeatureName": "at", "FeatureType": "String"},
            {"FeatureName": "Wing", "FeatureType": "Fractional"},
            {"FeatureName": "count", "FeatureType": "Integral"},
        ],
        "OfflineStoreConfig": {
            "TableFormat": "Iceberg",
            "S3StorageConfig": {"S3Uri": f"s3://{lab.bucket}/features/birds"},
        },
        "RoleArn": role_arn,
    }
    return request | changes


def created(lab: Lab, name: str) -> dict:
    def ended() -> dict | None:
        found = lab.sagemaker.describe_feature_group(FeatureGroupName=name)
        return found if found["FeatureGroupStatus"] != "Creating" else None

    return wait_until(ended, timeout_s=60)


def test_a_group_comes_with_a_table_of_iceberg_in_the_catalog(lab: Lab) -> None:
    role = lab.role(allow(GLUE), allow("s3:DeleteObject"))
    arn = lab.sagemaker.create_feature_group(**group(lab, "ebb-birds-1", role))["FeatureGroupArn"]
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:feature-group/ebb-birds-1"
    found = created(lab, "ebb-birds-1")
    assert found["FeatureGroupStatus"] == "Created", found.get("FailureReason")
    assert found["OfflineStoreStatus"] == {"Status": "Active"}

    catalogued = found["OfflineStoreConfig"]["DataCatalogConfig"]
    moment = int(found["CreationTime"].timestamp())
    assert catalogued == {
        "Catalog": "AwsDataCatalog", "Database": "sagemaker_featurestore", "TableName": f"ebb_birds_1_{moment}",
    }  # fmt: skip
    place = f"features/birds/000000000000/sagemaker/us-east-1/offline-store/ebb-birds-1-{moment}"
    stored = found["OfflineStoreConfig"]["S3StorageConfig"]
    assert stored["ResolvedOutputS3Uri"] == f"s3://{lab.bucket}/{place}/data"

    table = lab.cloud.client("glue").get_table(DatabaseName=catalogued["Database"], Name=catalogued["TableName"])
    parameters = table["Table"]["Parameters"]
    assert parameters["table_type"] == "ICEBERG"
    metadata = json.loads(lab.get(parameters["metadata_location"].removeprefix(f"s3://{lab.bucket}/")))
    fields = {each["name"]: each["type"] for each in metadata["schemas"][0]["fields"]}
    assert fields == {
        "id": "string", "at": "string", "wing": "double", "count": "long",
        "write_time": "timestamptz", "api_invocation_time": "timestamptz", "is_deleted": "boolean",
    }  # fmt: skip
    assert metadata["partition-specs"][0]["fields"][0]["name"] == "at_trunc"
    assert metadata["location"] == f"s3://{lab.bucket}/{place}"

    with pytest.raises(ClientError, match="already exists") as refused:
        lab.sagemaker.create_feature_group(**group(lab, "ebb-birds-1", role))
    assert refused.value.response["Error"]["Code"] == "ResourceInUse"
    listed = lab.sagemaker.list_feature_groups(NameContains="ebb-birds")["FeatureGroupSummaries"]
    assert [each["FeatureGroupName"] for each in listed] == ["ebb-birds-1"]

    lab.sagemaker.delete_feature_group(FeatureGroupName="ebb-birds-1")
    with pytest.raises(ClientError, match="ResourceNotFound"):
        lab.sagemaker.describe_feature_group(FeatureGroupName="ebb-birds-1")
    assert lab.keys(place), "the data of the offline store stays"


def test_a_role_that_may_not_make_the_table_lets_the_creation_fail(lab: Lab) -> None:
    role = lab.role(allow([each for each in GLUE if each != "glue:CreateTable"]))
    lab.sagemaker.create_feature_group(**group(lab, "ebb-birds-2", role))
    found = created(lab, "ebb-birds-2")
    assert found["FeatureGroupStatus"] == "CreateFailed"
    assert "glue:CreateTable" in found["FailureReason"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"EventTimeFeatureName": "when"}, "EventTimeFeatureName when", id="an event time that is no feature"
        ),
        pytest.param({"EventTimeFeatureName": "count"}, "String or Fractional", id="an event time that is a number"),
        pytest.param(
            {"OnlineStoreConfig": {"EnableOnlineStore": True}}, "online store is not implemented", id="an online store"
        ),
        pytest.param(
            {"OfflineStoreConfig": {"S3StorageConfig": {"S3Uri": "s3://b/x"}}},
            "Iceberg table in the Glue Data Catalog is not implemented",
            id="another format",
        ),
    ],
)
def test_what_is_refused(lab: Lab, changes: dict, words: str) -> None:
    with pytest.raises(ClientError, match=words):
        lab.sagemaker.create_feature_group(**group(lab, "ebb-birds-3", lab.role_arn) | changes)


def test_a_column_may_not_be_called_as_what_the_store_adds(lab: Lab) -> None:
    asked = group(lab, "ebb-birds-4", lab.role_arn)
    asked["FeatureDefinitions"].append({"FeatureName": "write_time", "FeatureType": "String"})
    with pytest.raises(ClientError, match="reserved"):
        lab.sagemaker.create_feature_group(**asked)
