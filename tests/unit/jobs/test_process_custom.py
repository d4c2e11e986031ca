import pytest

from unit.jobs.test_process import rejection, schema_of
from unit.jobs.test_process_images import curated, process, tarred, zipped

SCRIPT = "import os\nprint(os.environ['SM_CHANNEL_TRAINING'])\n"
WHEEL = "nothing_here-1.2-py3-none-any.whl"


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def accepted(ended):
    assert ended.status == 0, ended.failure
    assert ended.metrics()["status"] == "finished", ended.metrics()["rejection"]
    assert schema_of(ended)["kind"] == "custom"
    return files_in(curated(ended) / "source"), files_in(curated(ended) / "data")


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(lambda files: {f"job/{name}": data for name, data in files.items()}, id="folder"),
        pytest.param(lambda files: {"job.zip": zipped(files)}, id="zip"),
        pytest.param(
            lambda files: {"job.tar.gz": tarred({f"job/{n}": d.encode() for n, d in files.items()})},
            id="tar.gz with a folder around",
        ),
    ],
)
@pytest.mark.parametrize(
    ("files", "code", "data"),
    [
        pytest.param(["net/layers.py", "a.csv"], {"net/layers.py"}, {"a.csv"}, id="code and a table"),
        pytest.param(["data/a.csv", "words.txt"], {"words.txt"}, {"a.csv"}, id="a folder called data"),
        pytest.param(["requirements.txt", "x/1.png", "config.yaml"], {"requirements.txt", "config.yaml"}, {"x/1.png"}),
        pytest.param([], set(), set(), id="the script alone"),
    ],
)
def test_a_script_is_told_from_its_data(tmp_path, pack, files, code, data):
    contents = {"train.py": SCRIPT, **dict.fromkeys(files, "")}
    ended = process(tmp_path, pack(contents))
    assert accepted(ended) == ({"train.py", *code}, data)
    assert schema_of(ended)["entry_point"] == "train.py"
    assert schema_of(ended)["target"] == {"name": ""}
    assert ended.metrics()["task"] == "custom"
    assert ended.metrics()["files"] == len(data)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("my.py", SCRIPT, {"train.py"}, id="a lone script"),
        pytest.param("my.zip", zipped({"train.py": SCRIPT, "net.py": ""}), {"train.py", "net.py"}, id="zip"),
        pytest.param("my.tar.gz", tarred({"x/train.py": b"", "x/a/b.py": b""}), {"train.py", "a/b.py"}, id="tar.gz"),
    ],
)
def test_a_script_of_its_own_takes_all_that_was_dropped_for_data(tmp_path, name, content, expected):
    files = {"day.zip": zipped({"pets/a.png": b"1", "notes.docx": b"2"}), f"../code/{name}": content}
    spec = {"train": {"source": f"s3://landing/zoo/code/{name}"}}
    ended = process(tmp_path, files, spec=spec)
    assert accepted(ended) == (expected, {"pets/a.png", "notes.docx"})


def test_another_entry_point(tmp_path):
    spec = {"task": "custom", "train": {"entry_point": "fit.py"}}
    ended = process(tmp_path, {"job/fit.py": SCRIPT, "job/a.csv": "a\n1\n"}, spec=spec)
    assert accepted(ended) == ({"fit.py"}, {"a.csv"})


def test_what_was_dropped_is_not_changed(tmp_path):
    ended = process(tmp_path, {"job/train.py": SCRIPT, "job/a.csv": "a\n1\n"})
    accepted(ended)
    assert (tmp_path / "data/zoo/data/job/a.csv").read_text() == "a\n1\n"
    assert (curated(ended) / "data/a.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize(
    ("requirements", "line"),
    [
        pytest.param("numpy\n", None, id="what the image has"),
        pytest.param("# none\n\nnumpy>=1  # any\n", None, id="comments"),
        pytest.param('nothing-here; sys_platform == "win32"\n', None, id="not needed here"),
        pytest.param("numpy\nnothing-here>=1\n", 2, id="what nobody has"),
        pytest.param("numpy<1\n", 1, id="another version than the image's"),
    ],
)
def test_requirements(tmp_path, requirements, line):
    ended = process(tmp_path, {"job/train.py": SCRIPT, "job/requirements.txt": requirements})
    if line is None:
        accepted(ended)
        return
    found = rejection(ended)
    assert (found["code"], found["line"], found["file"]) == ("requirement-missing", line, "requirements.txt")
    assert requirements.split()[-1].split(">")[0].split("<")[0] in found["message"]
    assert "wheels" in found["remedy"]


@pytest.mark.parametrize(("asked", "there"), [("nothing-here>=1", True), ("Nothing.Here==1.2", True), ("other", False)])
def test_wheels_beside_the_script_meet_requirements(tmp_path, asked, there):
    files = {"job/train.py": SCRIPT, "job/requirements.txt": asked, f"job/wheels/{WHEEL}": b"PK"}
    ended = process(tmp_path, files)
    if there:
        assert accepted(ended) == ({"train.py", "requirements.txt", f"wheels/{WHEEL}"}, set())
    else:
        assert rejection(ended)["code"] == "requirement-missing"


@pytest.mark.parametrize(
    ("files", "spec", "code", "line"),
    [
        pytest.param({"job/train.py": "a = 1\nif a\n"}, {}, "script-syntax", 2, id="a colon is missing"),
        pytest.param({"job/train.py": "print 1\n"}, {}, "script-syntax", 1, id="Python 2"),
        pytest.param({"job/train.py": b"a\0b"}, {}, "script-syntax", None, id="no source at all"),
        pytest.param(
            {"job/train.py": SCRIPT, "job/code/inference.py": "def f(:\n"}, {}, "script-syntax", 1, id="in inference"
        ),
        pytest.param(
            {"job/train.py": SCRIPT, "job/requirements.txt": "-r more.txt\n"},
            {},
            "requirement-unreadable",
            1,
            id="a requirement that is an option",
        ),
        pytest.param({"job/a.csv": "a\n1\n"}, {"task": "custom"}, "no-entry-point", None, id="no script"),
        pytest.param(
            {"job.zip": zipped({"a.csv": b"a\n1\n"})}, {"task": "custom"}, "no-entry-point", None, id="none in a zip"
        ),
        pytest.param(
            {"day.csv": "a\n1\n", "../code/my.zip": zipped({"other.py": b""})},
            {"train": {"source": "s3://landing/zoo/code/my.zip"}},
            "no-entry-point",
            None,
            id="none in the source",
        ),
        pytest.param(
            {"day.csv": "a\n1\n"},
            {"train": {"source": "s3://landing/zoo/code/my.zip"}},
            "source-missing",
            None,
            id="no source",
        ),
        pytest.param(
            {"day.csv": "a\n1\n", "../code/my.zip": zipped({"train.py": b"", "../../x": b""})},
            {"train": {"source": "s3://landing/zoo/code/my.zip"}},
            "archive-path",
            None,
            id="a source that writes outside",
        ),
        pytest.param(
            {"job/train.py": SCRIPT}, {"task": "tabular-regression"}, "task-mismatch", None, id="a script for a table"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate")
def test_rejections(tmp_path, files, spec, code, line):
    found = rejection(process(tmp_path, files, spec=spec))
    assert found["code"] == code
    assert found["message"]
    assert found["remedy"]
    if line:
        assert found["line"] == line
