"""Who may do what: shown on the running stack, not read off the template."""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from .conftest import CURIOUS, Cloud, Ebb


@contextmanager
def acting_as(cloud: Cloud, role_name: str) -> Iterator[boto3.Session]:
    """Give a session under a role that trusts only SageMaker: as long as it lasts, the role trusts the account too."""
    iam, sts = cloud.client("iam"), cloud.client("sts")
    role = iam.get_role(RoleName=role_name)["Role"]
    trusted = role["AssumeRolePolicyDocument"]
    account = {"Effect": "Allow", "Principal": {"AWS": role["Arn"].split(":")[4]}, "Action": "sts:AssumeRole"}
    wider = {**trusted, "Statement": [*trusted["Statement"], account]}
    iam.update_assume_role_policy(RoleName=role_name, PolicyDocument=json.dumps(wider))
    try:
        found = sts.assume_role(RoleArn=role["Arn"], RoleSessionName=CURIOUS)["Credentials"]
        keys = (found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])
        yield boto3.Session(*keys, region_name=cloud.session.region_name)
    finally:
        iam.update_assume_role_policy(RoleName=role_name, PolicyDocument=json.dumps(trusted))


@pytest.mark.parametrize("kind", ["process", "train", "compress", "compile", "model"])
def test_a_job_of_one_project_cannot_read_another_projects_data(ebb: Ebb, cloud: Cloud, tables: Path, kind: str):
    for project in ("alice", "bob"):
        assert ebb.drop(tables / "few.csv", project)["status"] in {"succeeded", "reused"}
    landing, artifacts = cloud.outputs["LandingBucketName"], cloud.outputs["ArtifactBucketName"]
    listed = cloud.client("s3").list_objects_v2(Bucket=artifacts, Prefix="projects/bob/")["Contents"]
    with acting_as(cloud, f"{cloud.stack}-alice-{kind}") as session:
        s3 = session.client("s3", endpoint_url=cloud.endpoint_url)
        for bucket, key in [(landing, "bob/data/few.csv"), (artifacts, listed[0]["Key"])]:
            with pytest.raises(ClientError, match="AccessDenied"):
                s3.get_object(Bucket=bucket, Key=key)


def test_buckets_refuse_public_access_and_are_encrypted_with_the_stacks_key(cloud: Cloud):
    s3 = cloud.client("s3")
    for name in ("LandingBucketName", "ArtifactBucketName"):
        bucket = cloud.outputs[name]
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
        rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
        policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
        assert any(
            statement["Effect"] == "Deny" and "aws:SecureTransport" in json.dumps(statement.get("Condition", {}))
            for statement in policy["Statement"]
        )


def test_what_is_served_holds_no_pickle(ebb: Ebb, cloud: Cloud, tables: Path, tmp_path: Path):
    run = ebb.drop(tables / "few.csv", "alice")
    run = ebb.json("show", run.get("reuses") or run["run_id"])
    model = cloud.client("sagemaker").describe_model(ModelName=f"{run['run_id']}-a{run['attempt']}")
    bucket, key = model["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").split("/", 1)
    cloud.client("s3").download_file(bucket, key, str(tmp_path / "model.tar.gz"))
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        names = [member.name.removeprefix("./") for member in archive if member.isfile()]
    assert {"model.onnx", "preprocess.json", "signature.json", "code/serve.py", "code/tabular.py"} <= set(names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".joblib"))]
