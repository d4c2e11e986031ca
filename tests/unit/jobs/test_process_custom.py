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


APPEND = {"data": {"mode": "append"}}


@pytest.mark.parametrize(
    ("files", "spec", "expected"),
    [
        pytest.param(
            {"d1/train.py": SCRIPT, "d1/a.csv": "1", "d2/a.csv": "2", "d3/b.csv": "3"},
            APPEND,
            {"d1/a.csv": "1", "d2/a.csv": "2", "b.csv": "3"},
            id="appended drops",
        ),
        pytest.param(
            {"d1/train.py": SCRIPT, "d1/data/a.csv": "1", "d2/data/a.csv": "2"},
            APPEND,
            {"d1/a.csv": "1", "d2/a.csv": "2"},
            id="appended drops with a folder data",
        ),
        pytest.param(
            {
                "../code/my.py": SCRIPT,
                "1.zip": zipped({"p/a.csv": b"1"}),
                "2.zip": zipped({"p/a.csv": b"2", "b": b"3"}),
            },
            {"train": {"source": "s3://landing/zoo/code/my.py"}},
            {"1.zip/p/a.csv": "1", "2.zip/p/a.csv": "2", "2.zip/b": "3"},
            id="archives",
        ),
        pytest.param(
            {"../code/my.py": SCRIPT, "1.zip": zipped({"a": b"1"}), "2.zip": zipped({"a/b": b"2"})},
            {"train": {"source": "s3://landing/zoo/code/my.py"}},
            {"1.zip/a": "1", "2.zip/a/b": "2"},
            id="a file where another archive has a folder",
        ),
        pytest.param(
            {"../code/my.py": SCRIPT, "1.zip": zipped({"a/1": b"1"}), "2.zip": zipped({"a/2": b"2"})},
            {"train": {"source": "s3://landing/zoo/code/my.py"}},
            {"a/1": "1", "a/2": "2"},
            id="archives that go together",
        ),
    ],
)
def test_no_file_takes_the_place_of_another_of_its_name(tmp_path, files, spec, expected):
    ended = process(tmp_path, files, spec=spec)
    accepted(ended)
    folder = curated(ended) / "data"
    assert {name: (folder / name).read_text() for name in files_in(folder)} == expected
    for name, content in files.items():
        given = (tmp_path / "data/zoo/data" / name).read_bytes()
        assert given == (content.encode() if isinstance(content, str) else content), "the drop was written into"


def test_a_script_may_be_dropped_again_and_not_another_one(tmp_path):
    files = {"d1/train.py": SCRIPT, "d1/a.csv": "1", "d2/train.py": SCRIPT}
    assert accepted(process(tmp_path / "same", files, spec=APPEND)) == ({"train.py"}, {"a.csv"})
    found = rejection(process(tmp_path / "other", files | {"d2/train.py": SCRIPT + "\n"}, spec=APPEND))
    assert (found["code"], found["file"]) == ("script-twice", "zoo/data/d2/train.py")


@pytest.mark.parametrize("pack", [dict, lambda files: {"job.zip": zipped({n: d.encode() for n, d in files.items()})}])
def test_a_script_gets_all_of_its_folder_data(tmp_path, pack):
    names = ["data/authors.txt", "data/README", "data/x/.hidden", "data/.DS_Store", ".env", "README.md"]
    files = {f"job/{name}": "x" for name in names}
    ended = process(tmp_path, pack({"job/train.py": SCRIPT, **files}))
    assert accepted(ended) == ({"train.py"}, {"authors.txt", "README", "x/.hidden"})
    [told] = [each for each in ended.metrics()["decisions"] if each["what"] == "left out"]
    assert told["chosen"] == 2
    assert "job/.env" in told["reason"]


def test_a_source_outside_of_the_data_is_none(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    spec = {"train": {"source": f"s3://landing/{tmp_path}/train.py"}}
    assert rejection(process(tmp_path, {"a.csv": "1"}, spec=spec))["code"] == "source-missing"
