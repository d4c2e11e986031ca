import pytest

from ebb_jobs import infer
from ebb_jobs.infer import CLASSIFICATION, REGRESSION


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
