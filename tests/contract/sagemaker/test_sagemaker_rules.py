"""Rules of the embedded SageMaker that need no server: paths, names, patterns of the service model."""

import io
import re
import tarfile
from pathlib import Path

import botocore.session
import pytest

from ebb_local.sagemaker import hosting, registration, service, validation
from ebb_local.sagemaker.containers import local_text
from ebb_local.sagemaker.errors import JobFailure
from ebb_local.sagemaker.storage import _path_in_channel, inside

ACCOUNT = "arn:aws:sagemaker:us-east-1:000000000000"


@pytest.mark.parametrize(
    ("prefix", "key", "path"),
    [
        pytest.param("data/", "data/a.csv", "a.csv", id="a folder"),
        pytest.param("data", "data/deep/a.csv", "deep/a.csv", id="a folder without its slash"),
        pytest.param("data/a.csv", "data/a.csv", "a.csv", id="one object"),
        pytest.param("data/tr", "data/train/a.csv", "train/a.csv", id="the beginning of a name"),
        pytest.param("", "a.csv", "a.csv", id="a whole bucket"),
    ],
)
def test_where_a_channel_puts_an_object(prefix: str, key: str, path: str) -> None:
    assert _path_in_channel(prefix, key) == path


@pytest.mark.parametrize("old", [False, True], ids=["tarfile with its filter", "Python 3.11.0 to 3.11.3"])
@pytest.mark.parametrize("name", ["../a", "b/../../a", "model/a"])
def test_a_bundle_is_unpacked_inside_its_directory_only(name: str, old: bool, tmp_path: Path, monkeypatch) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    if old:
        monkeypatch.delattr(tarfile, "data_filter")
        monkeypatch.setattr(tarfile.TarFile, "extractall", _extractall_without_filter)
    (tmp_path / "in").mkdir()
    if name == "model/a":
        hosting.extract(tmp_path / "model.tar.gz", tmp_path / "in")
        assert (tmp_path / "in/model/a").read_bytes() == b"x"
    else:
        with pytest.raises(tarfile.TarError):
            hosting.extract(tmp_path / "model.tar.gz", tmp_path / "in")
    assert not (tmp_path / "a").exists()


def _extractall_without_filter(tar: tarfile.TarFile, path: Path) -> None:
    for member in tar.getmembers():
        tar.extract(member, path, filter="fully_trusted")


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", ""])
def test_no_name_leaves_its_directory(path: str, tmp_path: Path) -> None:
    with pytest.raises(JobFailure, match="is not inside its directory"):
        inside(tmp_path, path)


@pytest.mark.parametrize(
    ("text", "mapped"),
    [
        pytest.param("/opt/ml/input/run.py", "/base/input/run.py", id="a path"),
        pytest.param("--out=/opt/ml", "--out=/base", id="an option"),
        pytest.param("/a:/opt/ml/b", "/a:/base/b", id="a search path"),
        pytest.param("s3://bucket/opt/ml/x", "s3://bucket/opt/ml/x", id="not a part of another path"),
        pytest.param("/opt/mlflow", "/opt/mlflow", id="not another folder"),
    ],
)
def test_the_root_of_a_container_is_the_base_directory(text: str, mapped: str) -> None:
    assert local_text(text, Path("/base")) == mapped


@pytest.mark.parametrize(
    ("action", "request_", "arn"),
    [
        ("CreateTrainingJob", {"TrainingJobName": "Job"}, f"{ACCOUNT}:training-job/job"),
        ("CreateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c"}, f"{ACCOUNT}:endpoint/e"),
        ("CreateEndpointConfig", {"EndpointConfigName": "c"}, f"{ACCOUNT}:endpoint-config/c"),
        ("ListTags", {"ResourceArn": f"{ACCOUNT}:model/m"}, f"{ACCOUNT}:model/m"),
        ("ListModelPackages", {"ModelPackageGroupName": "g"}, "*"),
        ("CreateModelPackage", {"ModelPackageGroupName": "g"}, f"{ACCOUNT}:model-package/g/*"),
        ("DescribeModelPackageGroup", {"ModelPackageGroupName": "g"}, f"{ACCOUNT}:model-package-group/g"),
    ],
)
def test_the_resource_that_iam_is_asked_about(action: str, request_: dict, arn: str) -> None:
    assert registration.resource_arn(action, request_) == arn


def test_every_action_exists_on_aws() -> None:
    assert [action for action in service.ACTIONS if validation.operation(action) is None] == []


def test_every_pattern_of_the_actions_is_understood() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    unread, seen = set(), set()

    def walk(shape) -> None:
        if shape.name in seen:
            return
        seen.add(shape.name)
        pattern = shape.metadata.get("pattern")
        if pattern and validation._compiled(pattern).flags & re.DOTALL:  # what accepts everything
            unread.add(shape.name)
        for part in (*getattr(shape, "members", {}).values(), *_parts(shape)):
            walk(part)

    for action in service.ACTIONS:
        walk(model.operation_model(action).input_shape)
    assert unread <= {"AthenaCatalog", "AthenaDatabase", "AthenaWorkGroup", "Catalog", "Database", "TableName"}


def _parts(shape) -> list:
    if shape.type_name == "list":
        return [shape.member]
    return [shape.key, shape.value] if shape.type_name == "map" else []
