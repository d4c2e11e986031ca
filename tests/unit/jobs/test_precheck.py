import codecs
import gzip

import pytest

from ebb_jobs import precheck
from ebb_jobs.precheck import check

GOOD = b"a,b,label\n1,2,x\n3,4,y\n"


def told(name, content, *, complete=True, target=None):
    rejection = check(name, len(content), content, complete=complete, target=target)
    return rejection and (rejection.code, rejection.line, rejection.column)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.csv", GOOD, id="plain"),
        pytest.param("a.csv", codecs.BOM_UTF8 + GOOD, id="with a byte order mark"),
        pytest.param("a.csv", GOOD.replace(b"\n", b"\r\n"), id="with Windows line ends"),
        pytest.param("a.csv", b'a,b,label\n1,"x\n""y""",p\n2,z,q\n', id="quoted newlines and quotation marks"),
        pytest.param("a.csv", b"a;b;label\n1;2;x\n3;4;y\n", id="semicolons"),
        pytest.param("a.csv", b"a,b,label\n1,2,x\n\n3,4,y\n\n", id="blank lines"),
        pytest.param("a.csv.gz", gzip.compress(GOOD), id="gzip"),
        pytest.param("a.jsonl", b'{"a": 1, "label": "x"}\n\n{"a": null, "label": "y"}\n', id="jsonl"),
        pytest.param("a.parquet", b"PAR1" + b"\0" * 20 + b"PAR1", id="parquet marks"),
    ],
)
def test_nothing_is_wrong_with(name, content):
    assert told(name, content) is None


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("a.xlsx", b"PK", ("unsupported-format", None, None), id="unsupported type"),
        pytest.param("a.csv", b"", ("empty-file", None, None), id="empty"),
        pytest.param("a.csv", b"\n\n", ("no-rows", None, None), id="blank lines only"),
        pytest.param("a.csv", b"a,b\n", ("no-rows", None, None), id="header only"),
        pytest.param("a.csv", b"a,label\n1,x\n\xff\xfe,y\n", ("not-utf8", 3, None), id="not UTF-8"),
        pytest.param("a.csv", "a,label\n1,é\n2,y\n".encode("latin-1"), ("not-utf8", 2, None), id="Latin-1"),
        pytest.param("a.csv", "a,b\n".encode("utf-16"), ("not-utf8", 1, None), id="UTF-16"),
        pytest.param("a.csv", b"a,b\n1,2\n3\n", ("ragged-row", 3, None), id="a cell too few"),
        pytest.param(
            "a.csv", b'a,b\n"1\n\n",2\n3,4,5\n', ("ragged-row", 5, None), id="a cell too many, after newlines"
        ),
        pytest.param("a.csv", b'a,b\n1,"2\n3,4\n', ("bad-quotes", 2, None), id="a quote that never closes"),
        pytest.param("a.csv", b"a,A\n1,2\n", ("duplicate-column", 1, "A"), id="the same column twice"),
        pytest.param("a.csv", b"a,,c\n1,2,3\n", ("empty-column-name", 1, "2"), id="a column without a name"),
        pytest.param("a.csv", b"5.1,3.5,setosa\n4.9,3.0,setosa\n", ("no-header", 1, None), id="no header"),
        pytest.param("a.csv", b"a,label\n1,x\n2,\n", ("target-empty", 3, "label"), id="an empty target"),
        pytest.param("a.csv", b"a,label\n1,x\n2,NaN\n", ("target-empty", 3, "label"), id="a NaN target"),
        pytest.param("a.csv", b"a,label\n1,x\n2,x\n", ("one-class", None, "label"), id="one class"),
        pytest.param("a.csv.gz", b"a,b\n1,2\n", ("broken-gzip", None, None), id="no gzip at all"),
        pytest.param("a.csv.gz", gzip.compress(GOOD)[:-9], ("broken-gzip", None, None), id="cut gzip"),
        pytest.param("a.jsonl", b'{"a": 1}\n{"a": \n', ("bad-json", 2, None), id="broken JSON"),
        pytest.param("a.jsonl", b'{"a": 1}\n[1]\n', ("bad-json", 2, None), id="JSON that is no object"),
        pytest.param("a.parquet", b"PAR1 and then nothing", ("not-parquet", None, None), id="cut Parquet"),
        pytest.param("a.parquet", b"a,b\n1,2\n", ("not-parquet", None, None), id="CSV called Parquet"),
    ],
)
def test_rejections(name, content, expected):
    assert told(name, content) == expected


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_missing_target_column_is_told_with_the_columns_there_are(name):
    content = GOOD if name.endswith("csv") else b'{"a": 1, "label": "x"}\n{"a": 2, "label": "y"}\n'
    rejection = check(name, len(content), content, complete=True, target="price")
    assert rejection is not None
    assert (rejection.code, rejection.column) == ("target-missing", "price")
    assert "label" in rejection.remedy


def test_a_json_row_without_the_target_is_told_by_its_line():
    content = b'{"a": 1}\n{"a": 2, "label": "y"}\n'
    assert told("a.jsonl", content, target="label") == ("target-empty", 1, "label")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'a,b,label\n1,2,x\n3,"4', id="inside a quoted cell"),
        pytest.param(b"a,b,label\n1,2,x\n3,4", id="inside a row"),
        pytest.param(b"a,b,label\n1,2,x\n3,\xc3", id="inside a character"),
        pytest.param(b"a,b,label\n1,2,x\n1,2,x\n", id="before a second class came"),
    ],
)
def test_a_head_that_is_cut_anywhere_is_no_reason_to_reject(content):
    assert told("a.csv", content, complete=False) is None


def test_a_cut_gzip_head_is_read_as_far_as_it_goes():
    rows = b"".join(b"%d,%d,%s\n" % (n, n * 7919 % 1000, b"xy"[n % 2 : n % 2 + 1]) for n in range(20_000))
    packed = gzip.compress(b"a,b,label\n" + rows)
    assert told("a.csv.gz", packed[: len(packed) // 2], complete=False) is None
    bad = gzip.compress(b"a,b,label\n1,2\n" + rows)
    assert told("a.csv.gz", bad[: len(bad) // 2], complete=False) == ("ragged-row", 2, None)


def test_rejections_hold_no_values_of_the_data():
    secret = "4111111111111111"
    for content in (
        f"a,label\n{secret}\n1,x\n",
        f'a,label\n"{secret}"{secret},x\n',
        f"a,label\n{secret},x\n{secret},\n",
        f"a,label\n{secret},x\n2,x\n",
    ):
        rejection = check("a.csv", len(content), content.encode(), complete=True)
        assert rejection is not None
        assert secret not in str(rejection)


def test_reading_from_a_stream_names_the_line_far_into_the_file(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("a,label\n" + "1,x\n" * 50_000 + "2\n" + "1,y\n")
    with file.open(newline="") as stream, pytest.raises(precheck.RejectedError) as raised:
        precheck.scan("a.csv", stream, "csv", complete=True)
    assert raised.value.rejection.line == 50_002
