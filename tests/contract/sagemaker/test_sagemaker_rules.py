"""Rules of the embedded SageMaker that need no server: paths, names, patterns of the service model."""

import io
import re
import tarfile
from pathlib import Path

import botocore.session
import pytest

from ebb_local.sagemaker import capacity, hosting, placement, registration, service, validation
from ebb_local.sagemaker.capacity import Size
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
        (
            "CreateInferenceComponent",
            {"InferenceComponentName": "I", "EndpointName": "e"},
            f"{ACCOUNT}:inference-component/i",
        ),
        ("UpdateEndpointWeightsAndCapacities", {"EndpointName": "e"}, f"{ACCOUNT}:endpoint/e"),
        ("CreateTransformJob", {"TransformJobName": "t", "ModelName": "m"}, f"{ACCOUNT}:transform-job/t"),
        ("StopNotebookInstance", {"NotebookInstanceName": "N"}, f"{ACCOUNT}:notebook-instance/n"),
        ("CreateDomain", {"DomainName": "d"}, f"{ACCOUNT}:domain/*"),
        ("DescribeDomain", {"DomainId": "d-1"}, f"{ACCOUNT}:domain/d-1"),
        ("DeleteSpace", {"DomainId": "d-1", "SpaceName": "S"}, f"{ACCOUNT}:space/d-1/s"),
        ("DescribeUserProfile", {"DomainId": "d-1", "UserProfileName": "U"}, f"{ACCOUNT}:user-profile/d-1/u"),
        (
            "DeleteApp",
            {"DomainId": "d-1", "SpaceName": "S", "AppType": "JupyterLab", "AppName": "default"},
            f"{ACCOUNT}:app/d-1/s/jupyterlab/default",
        ),
        ("ListTags", {"ResourceArn": f"{ACCOUNT}:model/m"}, f"{ACCOUNT}:model/m"),
        ("ListModelPackages", {"ModelPackageGroupName": "g"}, "*"),
        ("CreateModelPackage", {"ModelPackageGroupName": "g"}, f"{ACCOUNT}:model-package/g/*"),
        ("DescribeModelPackageGroup", {"ModelPackageGroupName": "g"}, f"{ACCOUNT}:model-package-group/g"),
    ],
)
def test_the_resource_that_iam_is_asked_about(action: str, request_: dict, arn: str) -> None:
    assert registration.resource_arn(action, request_) == arn


SMALL = placement.Demand("small", 2, Size(0, 1000, 0))
BIG = placement.Demand("big", 2, Size(0, 3000, 0))


@pytest.mark.parametrize(
    ("demands", "at_least", "instances"),
    [
        pytest.param([], 0, 0, id="no copies, no instances"),
        pytest.param([], 2, 2, id="but as many as are kept"),
        pytest.param([SMALL], 0, 1, id="small ones share an instance"),
        pytest.param([BIG, SMALL], 0, 2, id="small ones fill the room beside big ones"),
        pytest.param([placement.Demand("cpus", 2, Size(1.5, 10, 0))], 0, 2, id="vCPUs are counted too"),
        pytest.param([placement.Demand("huge", 1, Size(0, 5000, 0))], 0, None, id="larger than an instance"),
        pytest.param([placement.Demand("gpu", 1, Size(0, 10, 1))], 0, None, id="no accelerator"),
    ],
)
def test_how_many_instances_copies_need(demands: list, at_least: int, instances: int | None) -> None:
    assert placement.instances_needed(demands, Size(2, 4000, 0), at_least=at_least) == instances


@pytest.mark.parametrize(
    ("instance_type", "cpus", "memory_gib", "accelerators"),
    [  # https://docs.aws.amazon.com/ec2/latest/instancetypes/: the sheets of each family
        ("ml.m5.large", 2, 8, 0),
        ("ml.c5.xlarge", 4, 8, 0),
        ("ml.r6i.2xlarge", 8, 64, 0),
        ("ml.t3.medium", 2, 4, 0),
        ("ml.c7g.4xlarge", 16, 32, 0),
        ("ml.m6g.large", 2, 8, 0),
        ("ml.g4dn.xlarge", 4, 16, 1),
        ("ml.g5.12xlarge", 48, 192, 4),
    ],
)
def test_the_size_of_an_instance(instance_type: str, cpus: float, memory_gib: float, accelerators: float) -> None:
    found = capacity.size(instance_type)
    assert (found.cpus, found.accelerators) == (cpus, accelerators)
    assert found.memory_mb == pytest.approx(memory_gib * 1024 * 0.9)


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


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        pytest.param(r"\p{ASCII}*", "text/csv", True, id="a class by itself"),
        pytest.param(r"\p{ASCII}*", "größe", False, id="not in the class"),
        pytest.param(r"\A\S[\p{Print}]*\z", "an id", True, id="a class in brackets"),
    ],
)
def test_classes_of_java_patterns_are_read(pattern: str, text: str, fits: bool) -> None:
    assert bool(validation._compiled(pattern).fullmatch(text)) is fits
