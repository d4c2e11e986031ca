import subprocess
import sys
from pathlib import Path

import pytest

from ebb_jobs import infer
from ebb_jobs.infer import CLASSIFICATION, REGRESSION, Labelled
from ebb_jobs.rejection import RejectedError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", ("csv", None)),
        ("deep/A.CSV", ("csv", None)),
        ("a.csv.gz", ("csv", "gzip")),
        ("a.jsonl.gz", ("jsonl", "gzip")),
        ("a.parquet", ("parquet", None)),
        ("a.parquet.gz", None),
        ("a.xlsx", None),
        ("a.zip", None),
        ("csv", None),
    ],
)
def test_file_format(name, expected):
    assert infer.file_format(name) == expected


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        pytest.param("a,b\n1,2\n3,4\n", ",", id="commas"),
        pytest.param("a;b\n1,5;2\n3,5;4\n", ";", id="decimal commas do not outvote semicolons"),
        pytest.param("a\tb\tc\n1\t2\t3\n", "\t", id="tabs"),
        pytest.param("a|b\n1|2\n", "|", id="bars"),
        pytest.param('a,b\n"x;y;z",2\n"p;q",4\n', ",", id="quoted semicolons"),
        pytest.param("a\n1\n2\n", ",", id="one column"),
    ],
)
def test_delimiter(sample, expected):
    assert infer.delimiter(sample).value == expected


@pytest.mark.parametrize(
    ("columns", "asked", "expected"),
    [
        pytest.param(["a", "Label", "b"], None, "Label", id="by its name, in any case"),
        pytest.param(["a", "b", "c"], None, "c", id="the last one otherwise"),
        pytest.param(["target", "label"], None, "target", id="the better name wins"),
        pytest.param(["x", "y", "z", "cut"], None, "cut", id="y beside x is a coordinate"),
        pytest.param(["x", "y"], None, "y", id="y at the end is what x predicts"),
        pytest.param(["label", "b"], "b", "b", id="the spec outranks names"),
    ],
)
def test_target(columns, asked, expected):
    found = infer.target(columns, asked)
    assert found.value == expected
    assert found.reason


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(["cat", "dog"] * 20, CLASSIFICATION, id="text"),
        pytest.param(["0", "1"] * 20, CLASSIFICATION, id="two numbers"),
        pytest.param(["0.0", "1.0", "2.0"] * 20, CLASSIFICATION, id="few whole numbers, written as decimals"),
        pytest.param([str(n) for n in range(40)], REGRESSION, id="many whole numbers"),
        pytest.param(["0.5", "1.5", "2.5"] * 20, REGRESSION, id="few fractions"),
        pytest.param(["1", "2", "three"] * 20, CLASSIFICATION, id="one word among numbers"),
        pytest.param(["3", "4", "5", "6"], REGRESSION, id="too few rows to call whole numbers classes"),
    ],
)
def test_task_of_values(values, expected):
    assert infer.task_of_values(values).value == expected


def test_a_column_of_texts_is_no_target():
    assert infer.target(["kind", "body"], None, "body").value == "kind"
    assert infer.target(["body"], None, "body").value == "body"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["a.csv"], "csv", id="a table"),
        pytest.param(["x/a.csv", "x/b.csv.gz"], "csv", id="tables in parts"),
        pytest.param(["a.jsonl"], "jsonl", id="jsonl"),
        pytest.param(["a.parquet", "b.parquet"], "parquet", id="parquet"),
        pytest.param(["pets.ZIP"], "archive", id="zip"),
        pytest.param(["pets.tar.gz"], "archive", id="tar.gz"),
        pytest.param(["pets.tgz", "more.zip"], "archive", id="archives"),
        pytest.param(["cat/1.png", "dog/2.JPEG", "dog/3.jpg"], "images", id="pictures"),
        pytest.param(["all/1.png", "list.csv"], "images", id="pictures and a table that names them"),
        pytest.param(["cat/1.png", ".DS_Store", "__MACOSX/x", "README.md", "_SUCCESS"], "images", id="what is no data"),
        pytest.param(["train.py", "a.csv", "b.bin", "x.zip"], "script", id="a script and anything"),
    ],
)
def test_drop_format(names, expected):
    assert infer.drop_format(names) == expected


@pytest.mark.parametrize(
    ("names", "code"),
    [
        pytest.param(["a.csv", "b.jsonl"], "mixed-formats", id="two kinds of tables"),
        pytest.param(["a.csv", "b.zip"], "mixed-formats", id="a table beside an archive"),
        pytest.param(["1.png", "a.csv", "b.csv"], "mixed-formats", id="two tables that may name the pictures"),
        pytest.param(["1.png", "a.parquet"], "mixed-formats", id="a table of no text beside pictures"),
        pytest.param(["cat/1.png", "cat/2.bmp"], "unsupported-format", id="a picture of another format"),
        pytest.param(["src/train.py", "a.csv"], "unsupported-format", id="a script that is not at the top"),
        pytest.param(["README.md", ".hidden.csv"], "no-data", id="nothing that counts"),
        pytest.param([], "no-data", id="nothing"),
    ],
)
def test_files_that_do_not_belong_together(names, code):
    with pytest.raises(RejectedError) as raised:
        infer.drop_format(names)
    assert raised.value.rejection.code == code
    assert raised.value.rejection.remedy


def test_another_entry_point_makes_another_script():
    assert infer.drop_format(["fit.py", "a.bin"], entry_point="fit.py") == "script"


@pytest.mark.parametrize(
    ("form", "asked", "source", "expected"),
    [
        ("images", None, False, "image-classification"),
        ("script", None, False, "custom"),
        ("csv", None, True, "custom"),
        ("csv", None, False, None),
        ("csv", "text-classification", False, "text-classification"),
        ("archive", "custom", False, "custom"),
        ("archive", None, False, None),
    ],
)
def test_drop_task(form, asked, source, expected):
    assert infer.drop_task(form, asked, source=source) == expected


@pytest.mark.parametrize(
    ("form", "asked", "code"),
    [
        ("images", "text-classification", "task-mismatch"),
        ("script", "image-classification", "task-mismatch"),
        ("csv", "image-classification", "task-mismatch"),
        ("csv", "custom", "no-entry-point"),
    ],
)
def test_tasks_that_a_drop_cannot_serve(form, asked, code):
    with pytest.raises(RejectedError) as raised:
        infer.drop_task(form, asked)
    assert raised.value.rejection.code == code


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["a/cat/1.png", "a/dog/2.png"], [("cat", None), ("dog", None)], id="below what all share"),
        pytest.param(["cat/x/1.png", "dog/2.png"], [("cat", None), ("dog", None)], id="the first folder counts"),
        pytest.param(["cat/1.png", "cat/2.png"], [("cat", None), ("cat", None)], id="a single folder is a class"),
        pytest.param(
            ["s/train/cat/1.png", "s/VAL/dog/2.png", "s/test/cat/3.png"],
            [("cat", "train"), ("dog", "validation"), ("cat", "test")],
            id="splits of the user",
        ),
        pytest.param(["train/1.png", "test/2.png"], [("train", None), ("test", None)], id="classes called like splits"),
        pytest.param(
            ["train/cat/1.png", "bus/a/2.png"], [("train", None), ("bus", None)], id="a train among other vehicles"
        ),
        pytest.param(["1.png", "cat/2.png"], [(None, None), ("cat", None)], id="a picture in no folder"),
    ],
)
def test_classes_by_folders(names, expected):
    assert infer.by_folders(names) == [Labelled(*each) for each in expected]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/.git/x.png", True),
        ("README", True),
        ("docs/License.txt", True),
        ("readme.csv", False),
        ("license/1.png", False),
        ("authors.npz", False),
    ],
)
def test_what_is_no_data(name, expected):
    assert infer.is_no_data(name) is expected


def test_the_early_checks_need_nothing_but_the_standard_library():
    code = "import ebb_jobs.precheck, ebb_jobs.archives, sys; print([m for m in sys.modules if m in " + repr(
        ["numpy", "PIL", "duckdb", "torch", "packaging"]
    )
    jobs = Path(infer.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code + "])"], cwd=jobs, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
