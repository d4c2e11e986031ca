"""Who may do what: shown on the running stack, not read off the template."""

import json
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from .conftest import Cloud, Ebb


def acting_as(cloud: Cloud, role_name: str) -> boto3.Session:
    """Return a session under a role of the stack."""
    account = cloud.client("sts").get_caller_identity()["Account"]
    role = f"arn:aws:iam::{account}:role/ebb/{role_name}"
    found = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    return boto3.Session(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], region_name="us-east-1")


@pytest.mark.parametrize("kind", ["process", "train", "compress", "compile", "model"])
def test_a_job_of_one_project_cannot_read_another_projects_data(ebb: Ebb, cloud: Cloud, tables: Path, kind: str):
    for project in ("alice", "bob"):
        assert ebb.drop(tables / "few.csv", project)["status"] in {"succeeded", "reused"}
    s3 = acting_as(cloud, f"ebb-alice-{kind}").client("s3", endpoint_url=cloud.endpoint_url)
    landing, artifacts = cloud.outputs["LandingBucketName"], cloud.outputs["ArtifactBucketName"]
    listed = cloud.client("s3").list_objects_v2(Bucket=artifacts, Prefix="projects/bob/")["Contents"]
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
    import tarfile

    run = ebb.drop(tables / "few.csv", "alice")
    run = ebb.json("show", run.get("reuses") or run["run_id"])
    model = cloud.client("sagemaker").describe_model(ModelName=f"{run['run_id']}-a{run['attempt']}")
    bucket, key = model["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").split("/", 1)
    cloud.client("s3").download_file(bucket, key, str(tmp_path / "model.tar.gz"))
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        names = [member.name.removeprefix("./") for member in archive if member.isfile()]
    assert {"model.onnx", "preprocess.json", "signature.json", "code/serve.py", "code/tabular.py"} <= set(names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".joblib"))]
