"""Before an endpoint is deleted: its models, their data and their images are there, and are those that run."""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from ebb.aws import restoring
from ebb.endpoint_world import World
from ebb.errors import EndpointUnreadableError
from integration.conftest import MANIFEST, Account, made
from worked_run import ACCOUNT, REGION

ROLE = f"arn:aws:iam::{ACCOUNT}:role/theirs"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/theirs/serve:v1"
DATA = "s3://lake/models/shop/model.tar.gz"
PREFIX = "s3://lake/models/shop/parts/"
EARLIER, LATER = (datetime.now(UTC) + timedelta(minutes=each) for each in (-60, 60))


@pytest.fixture
def shop(account: Account) -> Account:
    """What an endpoint of another hand is made of."""
    made("ecr").create_repository(repositoryName="theirs/serve")
    push("1")
    for key in ("models/shop/model.tar.gz", "models/shop/parts/a.bin", "models/shop/manifest.csv"):
        account.s3.put_object(Bucket="lake", Key=key, Body=b"weights")
    return account


def push(layer: str) -> str:
    """Push an image under the tag and return its digest."""
    manifest = MANIFEST | {"config": {"size": 1, "digest": "sha256:" + layer * 64}}
    text = json.dumps(manifest)
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    made("ecr").put_image(repositoryName="theirs/serve", imageTag="v1", imageManifest=text, imageDigest=digest)
    return digest


def world(
    *containers: dict[str, Any], running: str = "", since: datetime = LATER, configured: datetime | None = None
) -> World:
    """Return an endpoint with one variant, whose model is made of these containers; it was scaled a moment ago."""
    given = {"PrimaryContainer": containers[0]} if len(containers) == 1 else {"Containers": list(containers)}
    made("sagemaker").create_model(ModelName="shop", ExecutionRoleArn=ROLE, **given)
    shown = [{"SpecifiedImage": IMAGE, "ResolvedImage": f"{IMAGE.rpartition(':')[0]}@{running}"}] if running else []
    return World(
        endpoint={
            "CreationTime": since.isoformat(),
            "LastModifiedTime": LATER.isoformat(),
            "ProductionVariants": [{"VariantName": "blue", "DeployedImages": shown}],
        },
        config={"ProductionVariants": [{"VariantName": "blue", "ModelName": "shop"}]},
        config_made_at=configured or since,
    )


def source(uri: str, kind: str = "S3Object", **more: str) -> dict[str, Any]:
    return {"S3DataSource": {"S3Uri": uri, "S3DataType": kind, "CompressionType": "None", **more}}


@pytest.mark.parametrize(
    "container",
    [
        pytest.param({"Image": IMAGE}, id="an image alone"),
        pytest.param({"Image": IMAGE, "ModelDataUrl": DATA}, id="an archive"),
        pytest.param({"Image": IMAGE, "ModelDataUrl": "s3://lake/models/shop", "Mode": "MultiModel"}, id="many models"),
        pytest.param({"Image": IMAGE, "ModelDataSource": source(PREFIX, "S3Prefix")}, id="files below a prefix"),
        pytest.param({"Image": IMAGE, "ModelDataSource": source(DATA)}, id="one object"),
    ],
)
def test_what_is_all_there_can_be_made_again(shop, container):
    assert restoring.missing(world(container)) is None


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        pytest.param({"Image": IMAGE, "ModelDataUrl": DATA[:-1]}, "tar.g is gone", id="one that only begins so"),
        pytest.param({"Image": IMAGE, "ModelDataUrl": "s3://nobodys/m.tar.gz"}, "m.tar.gz is gone", id="its bucket"),
        pytest.param({"Image": IMAGE, "ModelDataSource": source(f"{PREFIX}old/", "S3Prefix")}, "gone", id="a prefix"),
        pytest.param(
            {"Image": IMAGE, "ModelDataSource": source(DATA, ManifestS3Uri="s3://lake/none.csv")},
            "none.csv is gone",
            id="a manifest",
        ),
        pytest.param(
            {"Image": IMAGE, "ModelDataSource": source(DATA, ETag="0" * 32)},
            "written anew since it was fetched",
            id="the version that it names",
        ),
        pytest.param(
            {"Image": IMAGE, "ModelDataUrl": "https://lake/m.tar.gz"}, "nobody has seen that it is there", id="a URL"
        ),
        pytest.param({"Image": f"{IMAGE}2"}, "v12 is gone", id="a tag"),
        pytest.param({"Image": IMAGE.replace("serve", "nothing")}, "is gone", id="a repository"),
        pytest.param({"Image": f"{IMAGE.rpartition(':')[0]}@sha256:{'0' * 64}"}, "is gone", id="a digest"),
        pytest.param({"Image": "quay.io/theirs/serve:v1"}, "is not in ECR", id="an image that ECR does not hold"),
        pytest.param({"ModelPackageName": "theirs"}, "its model package theirs is gone", id="a model package"),
    ],
)
def test_what_is_gone_is_the_reason(shop, container, reason):
    assert re.search(reason, restoring.missing(world(container)) or "nothing is missing")


def test_a_model_that_is_deleted_is_the_reason(shop):
    found = world({"Image": IMAGE})
    made("sagemaker").delete_model(ModelName="shop")
    assert "its model shop is gone" in (restoring.missing(found) or "")


def test_every_container_of_a_model_is_looked_at(shop):
    found = restoring.missing(world({"Image": IMAGE}, {"Image": f"{IMAGE}2"}))
    assert found == f"its image {IMAGE}2 is gone: it could not be made again"


def test_data_that_was_overwritten_while_the_endpoint_runs_would_come_back_as_another_model(shop):
    found = world({"Image": IMAGE, "ModelDataUrl": DATA}, since=EARLIER)
    assert "written anew since it was fetched" in (restoring.missing(found) or "")


def test_data_that_was_there_when_the_endpoint_got_another_configuration_is_what_runs(shop):
    found = world({"Image": IMAGE, "ModelDataUrl": DATA}, since=EARLIER, configured=LATER)
    assert restoring.missing(found) is None


def test_a_configuration_made_once_more_after_the_last_change_says_nothing_of_what_was_fetched(shop):
    again = LATER + timedelta(minutes=1)
    found = world({"Image": IMAGE, "ModelDataUrl": DATA}, since=EARLIER, configured=again)
    assert "written anew since it was fetched" in (restoring.missing(found) or "")


SEVERAL = [
    pytest.param({"Image": IMAGE, "ModelDataSource": source(PREFIX, "S3Prefix")}, id="files below a prefix"),
    pytest.param({"Image": IMAGE, "ModelDataUrl": PREFIX, "Mode": "MultiModel"}, id="many models"),
]


@pytest.mark.parametrize("container", SEVERAL)
def test_one_file_of_many_that_was_overwritten_would_come_back_as_another_model(shop, monkeypatch, container):
    now = datetime.now(UTC)
    lists(monkeypatch, [("a.bin", EARLIER), ("b.bin", EARLIER)], [("c.bin", EARLIER), ("d.bin", now)])
    found = world(container, since=now - timedelta(minutes=1))
    assert f"{PREFIX} (models/shop/parts/d.bin) has been written anew" in (restoring.missing(found) or "")


@pytest.mark.parametrize("container", SEVERAL)
def test_all_files_of_many_that_are_as_old_as_the_deployment_can_be_made_again(shop, monkeypatch, container):
    lists(monkeypatch, [("a.bin", EARLIER)], [("b.bin", EARLIER)])
    assert restoring.missing(world(container)) is None


def test_a_folder_without_files_is_no_model(shop):
    shop.s3.put_object(Bucket="lake", Key="models/shop/empty/", Body=b"")
    source_ = source("s3://lake/models/shop/empty/", "S3Prefix")
    assert "models/shop/empty/ is gone" in (
        restoring.missing(world({"Image": IMAGE, "ModelDataSource": source_})) or ""
    )


def test_more_files_than_are_looked_at_are_a_reason_to_keep_the_endpoint(shop, monkeypatch):
    lists(monkeypatch, *[[(f"{page}.bin", EARLIER)] for page in range(restoring.MOST_PAGES + 1)])
    found = restoring.missing(world({"Image": IMAGE, "ModelDataSource": source(PREFIX, "S3Prefix")}))
    assert "is more than 10,000 objects" in (found or "")


def test_a_tag_that_was_moved_would_bring_back_other_bytes(shop):
    before = push("2")
    found = world({"Image": IMAGE}, running=before)
    assert restoring.missing(found) is None
    push("3")
    assert f"another one by now than the one that runs ({before})" in (restoring.missing(found) or "")


def test_what_a_model_package_is_made_of_is_looked_at(shop):
    made("sagemaker").create_model_package_group(ModelPackageGroupName="theirs")
    containers = [{"Image": IMAGE, "ModelDataUrl": "s3://lake/gone.tar.gz"}]
    package = made("sagemaker").create_model_package(
        ModelPackageGroupName="theirs",
        InferenceSpecification={
            "Containers": containers,
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        },
    )["ModelPackageArn"]
    assert "s3://lake/gone.tar.gz is gone" in (restoring.missing(world({"ModelPackageName": package})) or "")


@pytest.mark.parametrize(
    ("service", "action", "code", "permission"),
    [
        ("s3", "list_objects_v2", "AccessDenied", "s3:ListBucket on lake"),
        ("ecr", "batch_get_image", "AccessDeniedException", "ecr:BatchGetImage on theirs/serve"),
        ("sagemaker", "describe_model", "AccessDeniedException", "sagemaker:DescribeModel"),
    ],
)
def test_what_may_not_be_looked_at_counts_as_gone_and_the_permission_is_named(
    shop, monkeypatch, service, action, code, permission
):
    found = world({"Image": IMAGE, "ModelDataUrl": DATA})
    fails(monkeypatch, service, action, ClientError({"Error": {"Code": code, "Message": "no"}}, action))
    assert f"({permission} is denied): it could not be made again" in (restoring.missing(found) or "")


@pytest.mark.parametrize(
    "problem",
    [
        ClientError({"Error": {"Code": "SlowDown", "Message": "Please reduce your request rate."}}, "ListObjectsV2"),
        ConnectTimeoutError(endpoint_url="https://s3"),
    ],
    ids=["throttled", "no answer"],
)
def test_what_is_not_known_for_now_is_an_error_and_asked_again(shop, monkeypatch, problem):
    found = world({"Image": IMAGE, "ModelDataUrl": DATA})
    fails(monkeypatch, "s3", "list_objects_v2", problem)
    with pytest.raises(EndpointUnreadableError, match="ListObjectsV2"):
        restoring.missing(found)


def fails(monkeypatch: pytest.MonkeyPatch, service: str, action: str, problem: Exception) -> None:
    """Let an action fail."""

    def refused(**_: Any) -> None:
        raise problem

    monkeypatch.setattr(restoring.client(service), action, refused)


def lists(monkeypatch: pytest.MonkeyPatch, *pages: list[tuple[str, datetime]]) -> None:
    """Let ListObjectsV2 show these files below the prefix, page by page."""

    def listed(*, ContinuationToken: str = "0", Prefix: str, **_: Any) -> dict[str, Any]:
        here, last = int(ContinuationToken), len(pages) - 1
        contents = [{"Key": Prefix + name, "LastModified": at, "ETag": '"0"'} for name, at in pages[here]]
        more = {"NextContinuationToken": str(here + 1)} if here < last else {}
        return {"Contents": contents, "IsTruncated": here < last, **more}

    monkeypatch.setattr(restoring.client("s3"), "list_objects_v2", listed)
