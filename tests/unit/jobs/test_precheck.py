import codecs
import gzip
import io
import tarfile
import zipfile

import pytest

from ebb_jobs import precheck
from ebb_jobs.precheck import check

GOOD = b"a,b,label\n1,2,x\n3,4,y\n"


def told(name, content, *, complete=True, target=None, alone=True):
    rejection = check(name, len(content), content, complete=complete, target=target, alone=alone)
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
        pytest.param("a.csv", b"country,2019,2020,label\nFR,1,2,x\nIT,3,4,y\n", id="years as names"),
        pytest.param("a.csv.gz", gzip.compress(GOOD), id="gzip"),
        pytest.param("a.jsonl", b'{"a": 1, "label": "x"}\n\n{"a": null, "label": "y"}\n', id="jsonl"),
        pytest.param("a.parquet", b"PAR1" + b"\0" * 20 + b"PAR1", id="parquet marks"),
    ],
)
def test_nothing_is_wrong_with(name, content):
    assert told(name, content, alone=False) is None  # whether there are enough rows is asked below


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
        pytest.param("a.csv", b"a,A\n1,2\n", ("duplicate-column", 1, "2"), id="the same column twice"),
        pytest.param("a.csv", b"a,,c\n1,2,3\n", ("empty-column-name", 1, "2"), id="a column without a name"),
        pytest.param("a.csv", b"5.1,3.5,setosa\n4.9,3.0,setosa\n", ("no-header", 1, "1"), id="no header"),
        pytest.param("a.csv", b"Smith,42,M,Boston\nJones,7,F,Rome\n", ("no-header", 1, "2"), id="one number"),
        pytest.param("a.csv", b"Smith,2024-02-01,M\nJones,2024-02-02,F\n", ("no-header", 1, "2"), id="one date"),
        pytest.param("a.csv", b"Smith,NA,M\nJones,x,F\n", ("no-header", 1, "2"), id="one missing value"),
        pytest.param("a.csv", b"2019,2020\n1,2\n", ("no-header", 1, "1"), id="nothing but years"),
        pytest.param("a.csv", b"a,label\n1,x\n2,\n", ("target-empty", 3, "label"), id="an empty target"),
        pytest.param("a.csv", b"a,label\n1,x\n2,NaN\n", ("target-empty", 3, "label"), id="a NaN target"),
        pytest.param("a.csv", b"a,label\n1,x\n2,x\n", ("one-class", None, "label"), id="one class"),
        pytest.param("a.csv.gz", b"a,b\n1,2\n", ("broken-gzip", None, None), id="no gzip at all"),
        pytest.param("a.csv.gz", gzip.compress(GOOD)[:-9], ("broken-gzip", None, None), id="cut gzip"),
        pytest.param("a.jsonl", b'{"a": 1}\n{"a": \n', ("bad-json", 2, None), id="broken JSON"),
        pytest.param("a.jsonl", b'{"a": 1}\n[1]\n', ("bad-json", 2, None), id="JSON that is no object"),
        pytest.param(
            "a.jsonl", b'{"a": 1}\n{"a": ' + b"[" * 10**5, ("bad-json", 2, None), id="JSON nested without end"
        ),
        pytest.param("a.parquet", b"PAR1 and then nothing", ("not-parquet", None, None), id="cut Parquet"),
        pytest.param("a.parquet", b"a,b\n1,2\n", ("not-parquet", None, None), id="CSV called Parquet"),
    ],
)
def test_rejections(name, content, expected):
    assert told(name, content) == expected


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_missing_target_column_is_told_by_the_name_that_the_spec_asks_for(name):
    content = GOOD if name.endswith("csv") else b'{"a": 1, "label": "x"}\n{"a": 2, "label": "y"}\n'
    rejection = check(name, len(content), content, complete=True, target="price")
    assert rejection is not None
    assert (rejection.code, rejection.column) == ("target-missing", "price")
    assert "'price'" in rejection.message
    assert ("3" if name == "a.csv" else "2") + " columns" in rejection.message


def test_a_target_of_another_case_is_told_by_its_place():
    rejection = check("a.csv", len(GOOD), GOOD, complete=True, target="LABEL")
    assert rejection is not None
    assert "Column 3" in rejection.remedy


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


SECRETS = ("4111111111111111", "Smith")


@pytest.mark.parametrize("target", [None, "label"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param("a,label\n{}\n1,x\n", id="ragged"),
        pytest.param('a,label\n"{0}"{0},x\n', id="quotes"),
        pytest.param("a,label\n{0},x\n{0},\n", id="no target"),
        pytest.param("a,label\n{},x\n2,x\n", id="one class"),
        pytest.param("{},42,M\nJones,7,F\n", id="a row for a header"),
        pytest.param("John,{},Boston\nJim,x,Rome\n", id="a row for a header, words only"),
        pytest.param("{0},{0},M\nJones,Jim,F\n", id="a row for a header, the same word twice"),
        pytest.param("John,{}\nJim,\n", id="a row for a header, then no target"),
        pytest.param("John,{}\nJim,x\nJack,x\n", id="a row for a header, then one class"),
        pytest.param("{},\nJim,x\n", id="a row for a header, a cell empty"),
    ],
)
def test_rejections_hold_no_values_of_the_data(content, target):
    for secret in SECRETS:
        text = content.format(secret)
        rejection = check("a.csv", len(text), text.encode(), complete=True, target=target)
        assert rejection is not None
        assert secret not in str(rejection)


def table(*labels):
    return "a,b,label\n" + "".join(f"{n},{n * 7},{label}\n" for n, label in enumerate(labels))


@pytest.mark.parametrize(
    ("content", "task", "code"),
    [
        pytest.param(table(*"xy" * 14), None, "too-few-rows", id="too few rows"),
        pytest.param("a,label\n" + "1,x\n2,y\n" * 100, None, "too-few-rows", id="too few different rows"),
        pytest.param(table(*"xy" * 20, *"zzzz"), None, "too-few-rows", id="too few rows of a class"),
        pytest.param(table(*range(40)), None, None, id="numbers"),
        pytest.param(table(*(["1", "2"] * 20), "3"), None, None, id="numbers that may be a quantity"),
        pytest.param(
            table(*(["1", "2"] * 20), "3"), "tabular-classification", "too-few-rows", id="numbers that are classes"
        ),
        pytest.param(table(*(["1", "2"] * 20), *["3", "3.0"] * 3), "tabular-classification", None, id="3 and 3.0"),
        pytest.param(table(*(f"name{n}" for n in range(40))), None, "too-many-classes", id="names"),
        pytest.param(table(*"xy" * 15), None, None, id="just enough"),
    ],
)
def test_a_drop_of_one_file_needs_the_rows_that_processing_needs(content, task, code):
    found = check("a.csv", len(content), content.encode(), complete=True, task=task)
    assert (found and found.code) == code


def test_json_without_a_usual_target_needs_rows_too():
    rows = "".join(f'{{"a": {n}, "b": {n}}}\n' for n in range(40))
    short = rows[: rows.index('{"a": 20')]
    assert check("a.jsonl", len(rows), rows.encode(), complete=True) is None
    assert check("a.jsonl", len(short), short.encode(), complete=True).code == "too-few-rows"


@pytest.mark.parametrize("content", [table(*"xy"), table(*"xx" * 20)])
def test_one_file_of_several_need_not_be_enough(content):
    assert check("a.csv", len(content), content.encode(), complete=True, alone=False) is None


def test_the_head_of_a_longer_file_says_nothing_of_its_rows():
    assert check("a.csv", 10**7, table(*"xy").encode(), complete=False) is None


def test_reading_from_a_stream_names_the_line_far_into_the_file(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("a,label\n" + "1,x\n" * 50_000 + "2\n" + "1,y\n")
    with file.open(newline="") as stream, pytest.raises(precheck.RejectedError) as raised:
        precheck.scan("a.csv", stream, "csv", complete=True)
    assert raised.value.rejection.line == 50_002


def prose(*labels, first="label"):
    rows = "".join(f"{label},many words of number {n} stand here\n" for n, label in enumerate(labels))
    return f"{first},text\n{rows}"


@pytest.mark.parametrize(
    ("content", "asked", "code"),
    [
        pytest.param(prose(*"xy" * 20), {}, None, id="texts last, a label by its name"),
        pytest.param(prose(*"xy" * 20, first="kind"), {}, None, id="texts where a target is guessed to be"),
        pytest.param(prose(*"xy" * 20, first="kind"), {"text": "text"}, None, id="texts that the spec names"),
        pytest.param(
            prose(*"x" * 40, first="kind"), {"text": "text"}, "one-class", id="one class beside texts that it names"
        ),
        pytest.param(prose(*range(40)), {"task": "text-classification"}, "too-many-classes", id="quantities"),
        pytest.param(prose(*"xy" * 20, "z"), {"task": "text-classification"}, "too-few-rows", id="a rare class"),
    ],
)
def test_texts(content, asked, code):
    found = check("a.csv", len(content), content.encode(), complete=True, **asked)
    assert (found and found.code) == code


def pets(classes=("cat", "dog"), count=20, *, top="pets/"):
    return {f"{top}{label}/{n}.png": b"x" for label in classes for n in range(count)}


def packed(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


LISTINGS = [
    pytest.param(pets(), {}, None, id="pictures"),
    pytest.param({**pets(), "pets/m.csv": b"x"}, {}, None, id="pictures and a manifest"),
    pytest.param({"pets/all/1.png": b"x", "pets/m.csv": b"x"}, {}, None, id="a manifest may say more of few"),
    pytest.param({"train.py": b"", "x.zip": b"x"}, {}, None, id="a script"),
    pytest.param({"any.bin": b"x"}, {"source": True}, None, id="whatever a script elsewhere may read"),
    pytest.param(pets(["cat"], 40), {}, "one-class", id="one class"),
    pytest.param(pets(["cat"], 40), {"alone": False}, None, id="one class, and more data beside"),
    pytest.param(pets(count=10), {}, "too-few-images", id="too few pictures"),
    pytest.param(pets() | pets(["owl"], 4), {}, "too-few-images", id="too few of a class"),
    pytest.param(pets(list(map(str, range(40))), 1), {}, "too-many-classes", id="a folder per picture"),
    pytest.param(pets() | {"pets/1.png": b"x"}, {}, "no-class", id="a picture in no folder"),
    pytest.param(pets() | {"pets/cat/x.png": b""}, {}, "empty-file", id="a picture without a byte"),
    pytest.param(pets() | {"pets/cat/x.gif": b"x"}, {}, "unsupported-format", id="a GIF"),
    pytest.param({".DS_Store": b"x"}, {}, "no-data", id="nothing"),
    pytest.param(pets(), {"task": "tabular-regression"}, "task-mismatch", id="pictures for a table"),
    pytest.param(pets(), {"task": "custom"}, "no-entry-point", id="pictures without a script"),
    pytest.param(
        pets(top="train/") | {"test/cat/1.png": b"x", "odd/2.png": b"x"},
        {},
        "too-few-images",
        id="classes, because not all are called like splits",
    ),
    pytest.param(
        pets(top="a/train/") | {"a/test/cat/1.png": b"x", "a/2.png": b"x"}, {}, "split-unclear", id="outside splits"
    ),
]


@pytest.mark.parametrize(("files", "asked", "code"), LISTINGS)
def test_a_listing_shows(files, asked, code):
    found = precheck.check_listing([(name, len(content)) for name, content in files.items()], **asked)
    assert (found and found.code) == code
    assert found is None or found.remedy


@pytest.mark.parametrize("pack", [packed, tarred])
@pytest.mark.parametrize(("files", "asked", "code"), LISTINGS)
def test_the_directory_of_an_archive_shows_the_same(files, asked, code, pack):
    data = pack(files)
    name = "pets.zip" if pack is packed else "pets.tar.gz"
    found = precheck.check_archive(name, len(data), io.BytesIO(data), **asked)
    assert (found and found.code) == code


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        pytest.param("a.zip", b"", "empty-file", id="empty"),
        pytest.param("a.zip", b"PK and then nothing", "broken-archive", id="broken"),
        pytest.param("a.zip", packed({"x/a.csv": b"1", "x/b.zip": b"1"}), "nested-archive", id="an archive inside"),
        pytest.param("a.zip", packed({"../a.csv": b"1"}), "archive-path", id="outside its folder"),
        pytest.param("a.tar.gz", tarred({"a.csv": b"1"})[:-20], "broken-archive", id="cut"),
    ],
)
def test_bad_archives(name, data, code):
    found = precheck.check_archive(name, len(data), io.BytesIO(data))
    assert found is not None
    assert found.code == code
    assert found.file.startswith(name)


def test_the_first_bytes_of_an_archive_are_enough_to_refuse_and_never_to_miss():
    bad = tarred({"../evil": b"1", **{f"{n}.csv": bytes(range(256)) * n for n in range(50)}})
    found = precheck.check_archive("a.tar.gz", len(bad), io.BytesIO(bad[: len(bad) // 2]))
    assert found is not None
    assert found.code == "archive-path"
    few = tarred(pets(["cat"], 40))
    assert precheck.check_archive("a.tar.gz", len(few), io.BytesIO(few[: len(few) // 2])) is None
    assert precheck.check_archive("a.zip", 10**9, io.BytesIO(b"PK\x03\x04" + b"x" * 1000)) is None
