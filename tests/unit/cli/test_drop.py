"""What `ebb drop` puts where, what it refuses, and how it finds its run."""

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import pytest

from ebb import sources
from ebb.spec import PipelineSpec
from ebb_cli import drop, upload
from ebb_cli.problems import CommandError

from .conftest import RUN_ID


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("a,label\n1,yes\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "months"
    (path / "deep").mkdir(parents=True)
    for name in ("b.csv", "deep/a.csv", ".hidden", "_SUCCESS"):
        (path / name).write_text("a,label\n1,yes\n")
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes, and what systems and editors leave beside them."""
    path = tmp_path / "animals"
    for name in ("cats/1.png", "cats/_MG_2.JPG", "dogs/1.png", "dogs/.DS_Store", "Thumbs.db", "__MACOSX/cats/1.png"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode())
    return path


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A training script with a package beside it, and its data."""
    path = tmp_path / "mine"
    for name in ("train.py", "net/__init__.py", "net/__pycache__/net.pyc", "data/README.md", "data/rows.npz", ".env"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode())
    return path


def sent(target, path: Path, **options) -> str:
    """Upload a path as `ebb drop` does; return the drop's id."""
    with tempfile.TemporaryDirectory() as scratch:
        return upload.send(target.client("s3"), "landing", upload.prepare(path, "churn", Path(scratch), **options))


def inside(target, key: str) -> list[str]:
    body = target.client("s3").get_object(Bucket="landing", Key=key)["Body"].read()
    return zipfile.ZipFile(io.BytesIO(body)).namelist()


def keys(target) -> list[str]:
    found = target.client("s3").list_objects_v2(Bucket="landing").get("Contents", [])
    return [item["Key"] for item in found]


def metadata(target, key: str) -> dict:
    return target.client("s3").head_object(Bucket="landing", Key=key)["Metadata"]


def test_a_table_lands_under_its_project_with_the_id_by_which_its_run_is_found(target, table):
    drop_id = sent(target, table)
    assert keys(target) == ["churn/data/table.csv"]
    assert metadata(target, "churn/data/table.csv") == {"ebb-drop-id": drop_id}


def test_force_is_told_to_the_pipeline(target, table):
    upload.send(target.client("s3"), "landing", upload.prepare(table, "churn", table.parent), force=True)
    assert metadata(target, "churn/data/table.csv")["ebb-force"] == "1"


def test_a_folder_is_closed_by_its_marker_which_carries_the_id(target, folder):
    prepared = upload.prepare(folder, "churn", folder.parent)
    assert [key for _, key in prepared.files] == [
        "churn/data/months/b.csv", "churn/data/months/deep/a.csv", "churn/data/months/_SUCCESS",
    ]  # fmt: skip
    drop_id = upload.send(target.client("s3"), "landing", prepared)
    assert metadata(target, "churn/data/months/_SUCCESS") == {"ebb-drop-id": drop_id}


def test_the_spec_arrives_before_the_data(target, table, tmp_path):
    spec = tmp_path / "any-name.yaml"
    spec.write_text("data: {target: label}\n")
    requests = []
    s3 = target.client("s3")
    s3.meta.events.register("before-call.s3", lambda model, params, **_: requests.append(params["url_path"]))
    upload.send(s3, "landing", upload.prepare(table, "churn", tmp_path), spec=spec)
    puts = [path for path in requests if path.endswith((".yaml", ".csv"))]
    assert [path.rsplit("/", 1)[1] for path in puts] == ["pipeline.yaml", "table.csv"]


def test_a_folder_of_pictures_is_sent_as_one_zip_without_what_systems_leave(target, pictures):
    drop_id = sent(target, pictures)
    assert keys(target) == ["churn/data/animals.zip"]
    assert inside(target, "churn/data/animals.zip") == ["cats/1.png", "cats/_MG_2.JPG", "dogs/1.png"]
    assert metadata(target, "churn/data/animals.zip") == {"ebb-drop-id": drop_id}


def test_equal_pictures_are_equal_bytes_whenever_they_were_written(target, pictures):
    def digest() -> str:
        sent(target, pictures)
        return target.client("s3").head_object(Bucket="landing", Key="churn/data/animals.zip")["ETag"]

    before = digest()
    os.utime(pictures / "cats/1.png", (1, 1))
    assert digest() == before
    (pictures / "cats/1.png").write_bytes(b"another cat")
    assert digest() != before


def test_whatever_lies_beside_a_training_script_goes_with_it(target, script):
    sent(target, script)
    found = ["data/README.md", "data/rows.npz", "net/__init__.py", "train.py"]
    assert inside(target, "churn/data/mine.zip") == found


def test_a_script_may_be_called_as_the_spec_says(target, script):
    (script / "train.py").rename(script / "fit.py")
    sent(target, script, asked=PipelineSpec(task="custom", train={"entry_point": "fit.py"}))
    assert "fit.py" in inside(target, "churn/data/mine.zip")


def test_pictures_are_sent_one_by_one_when_that_is_asked_for(target, pictures):
    sent(target, pictures, pack=False)
    names = ("_SUCCESS", "cats/1.png", "cats/_MG_2.JPG", "dogs/1.png")
    assert keys(target) == [f"churn/data/animals/{name}" for name in names]


def test_tables_are_zipped_when_that_is_asked_for(target, folder):
    sent(target, folder, pack=True)
    assert inside(target, "churn/data/months.zip") == ["b.csv", "deep/a.csv"]


def test_more_objects_than_a_run_checks_are_refused_with_the_way_out(ebb, target, pictures, monkeypatch):
    monkeypatch.setattr(sources, "MAX_OBJECTS", 2)
    done = ebb("drop", pictures, "--project", "churn", "--no-zip")
    assert done.exit_code == 3
    assert "ebb drop --zip" in done.stderr
    assert keys(target) == []


def test_an_archive_is_sent_as_it_is(target, pictures, tmp_path):
    archive = tmp_path / "animals.tar.gz"
    archive.write_bytes(b"packed")
    sent(target, archive)
    assert keys(target) == ["churn/data/animals.tar.gz"]


def test_files_of_an_earlier_drop_of_the_same_folder_are_not_mixed_in(target, folder):
    target.client("s3").put_object(Bucket="landing", Key="churn/data/months/old.csv", Body=b"a\n")
    with pytest.raises(CommandError, match=r"old\.csv"):
        sent(target, folder)
    assert keys(target) == ["churn/data/months/old.csv"], "nothing was uploaded"


def test_the_same_folder_may_be_dropped_again(target, folder):
    for _ in range(2):
        sent(target, folder)
    assert "churn/data/months/_SUCCESS" in keys(target)


@pytest.mark.parametrize(
    ("name", "project", "code", "told"),
    [
        pytest.param("table.csv", "Churn", 2, "cannot name a project", id="capital letters"),
        pytest.param("table.csv", "a" * 21, 2, "cannot name a project", id="too long"),
        pytest.param("missing.csv", "churn", 2, "does not exist", id="no such file"),
        pytest.param("notes.txt", "churn", 3, "csv, parquet or jsonl", id="no kind of data"),
        pytest.param("cat.png", "churn", 3, "one folder of pictures per class", id="a single picture"),
        pytest.param("mixed", "churn", 3, "mixes", id="files that do not belong together"),
        pytest.param("empty", "churn", 3, "holds no data", id="an empty folder"),
    ],
)
def test_what_the_pipeline_would_ignore_is_refused_before_it_is_uploaded(
    ebb, target, table, tmp_path, name, project, code, told
):
    for made in ("empty", "mixed"):
        (tmp_path / made).mkdir()
    for made in ("notes.txt", "cat.png", "mixed/a.csv", "mixed/b.jsonl"):
        (tmp_path / made).write_text("x")
    done = ebb("drop", tmp_path / name, "--project", project)
    assert done.exit_code == code, done.stderr
    assert told in done.stderr
    assert keys(target) == []


@pytest.mark.parametrize("alone", [False, True], ids=["beside a table", "dropped by itself"])
def test_a_spec_that_cannot_be_used_is_rejected_before_anything_is_uploaded(ebb, target, table, tmp_path, alone):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("data: {uri: s3://bucket-a/rows.csv}\nservee: {}\n")
    arguments = [spec] if alone else [table, "--spec", spec]
    done = ebb("drop", *arguments, "--project", "churn", "--json")
    assert done.exit_code == 3
    document = json.loads(done.stdout)
    assert (document["status"], document["run_id"], document["stages"]) == ("rejected", None, [])
    assert "servee" in document["error"]["message"]
    assert (document["error"]["file"], document["error"]["line"]) == ("pipeline.yaml", 2)
    assert document["error"]["remedy"]
    assert "servee" in ebb("drop", *arguments, "--project", "churn").stderr
    assert keys(target) == []


def test_a_spec_dropped_by_itself_must_name_its_data(ebb, target, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("data: {target: label}\n")
    done = ebb("drop", spec, "--project", "churn")
    assert done.exit_code == 2
    assert "data.uri" in done.stderr
    assert keys(target) == []


def test_a_drop_prints_the_run_that_it_started(ebb, target, put, table, monkeypatch):
    monkeypatch.setattr(upload.uuid, "uuid4", lambda: type("Id", (), {"hex": "drop-1"}))
    put("running", drop={"drop_id": "drop-1", "key": "churn/data/table.csv"})
    put("running", run_id="churn-20261123050505-ffffff", drop={"drop_id": "another"})
    done = ebb("drop", table, "--project", "churn", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["run_id"] == RUN_ID


def test_waiting_for_a_rejected_drop_ends_with_status_3_and_one_document(ebb, target, put, table, monkeypatch):
    monkeypatch.setattr(upload.uuid, "uuid4", lambda: type("Id", (), {"hex": "drop-1"}))
    put("rejected", drop={"drop_id": "drop-1"}, error={"message": "empty", "remedy": "Upload it again."})
    done = ebb("drop", table, "--project", "churn", "--wait", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["status"] == "rejected"


def test_a_run_that_never_begins_is_told_with_the_place_to_look(ebb, target, table, monkeypatch):
    monkeypatch.setattr(drop, "BEGINS_WITHIN_S", 0.05)
    done = ebb("drop", table, "--project", "churn")
    assert done.exit_code == 1
    assert "http://queue/dead" in done.stderr
