"""Large CSV in chunks: the rows of the slow way, whatever the chunks cut, in memory that hardly grows with the file."""

import json
import subprocess
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ebb_jobs import (
    process_chunks,
    process_columns,
    process_counts,
    process_guess,
    process_key,
    process_quick,
    process_tables,
    report,
    typing_rules,
    warm,
)
from ebb_jobs.process_guess import NotQuickError
from unit.jobs.test_process import big_table, process, respelt, schema_of, side_of_each_row, splits_of, yes_or_no


def shuffled(text):
    header, *lines = text.splitlines()
    order = np.random.default_rng(3).permutation(len(lines))
    return "\n".join([header, *(lines[at] for at in order)]) + "\n"


def quoted(text):
    return text.replace("spaced", '"said ""a, b""\nand left"')


def another_text(text, of):
    """Append a row that is there already, with another kind."""
    cells = text.splitlines()[of].split(",")
    return text + ",".join([*cells[:2], "abc"["cab".index(cells[2])], *cells[3:]]) + "\n"


@pytest.mark.parametrize("least_rows", [10**6, 0], ids=["by the digest", "by the numbers if they do"])
@pytest.mark.parametrize(
    ("content", "quickly"),
    [
        pytest.param(big_table(), True, id="rows that stand again in a later chunk"),
        pytest.param(shuffled(respelt(big_table())), True, id="anywhere, spelt otherwise"),
        pytest.param(
            shuffled(respelt(big_table(label=lambda n: n * 7919 % 9973 / 8))), True, id="and a number to learn"
        ),
        pytest.param(another_text(big_table(), of=10_000), True, id="a row that differs in a text from one far off"),
        pytest.param(another_text(big_table(), of=-400), True, id="and from one nearby"),
        pytest.param(big_table().replace(",c", ", c"), True, id="blanks around cells"),
        pytest.param(big_table() + "7,1.5,a,c1,2024-01-01,True,NULL,none,yes\n", True, id="a gap spelt anew"),
        pytest.param(big_table() + "7,1.5,a,?,2024-01-01,True,1,none,yes\n", True, id="and in a column of many texts"),
        pytest.param(big_table() + "7,1.5,new,c1,2024-01-01,True,1,x,yes\n", True, id="labels never seen"),
        pytest.param(big_table() + "7,1.5,a,c1,2024-01-01,True,1,none,maybe\n", False, id="a class never seen"),
        pytest.param(big_table() + "7,1.5,a\n", False, id="a row that is short"),
        pytest.param(big_table() + "7,+-1.5,a,c1,2024-01-01,True,1,x,yes\n", False, id="a number to DuckDB alone"),
        pytest.param(big_table() + "7,\f1.5,a,c1,2024-01-01,True,1,x,yes\n", False, id="spaces of other kinds"),
        pytest.param(big_table().encode("utf-16"), False, id="no UTF-8"),
    ],
)
def test_chunks_write_the_rows_of_the_slow_way(tmp_path, content, quickly, least_rows, monkeypatch, capsys):
    monkeypatch.setattr(process_key, "LEAST_ROWS", least_rows)
    for folder in ("slow", "quick"):
        (tmp_path / folder).mkdir()
    slow = process(tmp_path / "slow", content)
    monkeypatch.setattr(process_guess, "LEAST_BYTES", 0)
    monkeypatch.setattr(process_quick, "BYTES", 2**17)
    monkeypatch.setattr(process_quick, "HEAD_ROWS", 2000)
    quick = process(tmp_path / "quick", content)
    assert ("read as text" in capsys.readouterr().out) == (not quickly)
    assert quick.metrics()["status"] == slow.metrics()["status"]
    if slow.metrics()["status"] == "rejected":
        return
    assert quick.metrics()["rows"] == slow.metrics()["rows"]
    assert quick.metrics()["features"] == slow.metrics()["features"]
    assert schema_of(quick) == schema_of(slow)
    found, expected = splits_of(quick), splits_of(slow)
    for split, rows in expected.items():
        assert sorted(map(repr, found[split])) == sorted(map(repr, rows)), split
        assert repr(found[split][:150]) == repr(rows[:150]), f"{split} begins with a sample of all"


def small_table(last="", rows=3000):
    """Rows of a number, a label, a text and a class; `last` stands far behind the sample of the test below."""
    lines = (f"{n * 7919 % 9973 / 8},{'abc'[n % 3]},t{n * 31 % 997},{yes_or_no(n)}" for n in range(rows))
    return "\n".join(["amount,kind,text,label", *lines]) + "\n" + last


AT_THE_END = [
    *("nan", "NaN", "inf", "-Infinity", "1e999", "1e-999", "9223372036854775808", "9007199254740993", "0.1" + "0" * 40),
    *("+1", "007", "-0", ".5", "5.", "1e5", "1E+5", "0x1F", "1e", ".", "1d", "1,", " 1 ", "  ", "NA", " NA ", "word"),
]


@pytest.mark.parametrize(
    "content",
    [
        *(pytest.param(small_table(f"{cell},a,t1,yes\n"), id=f"number {cell!r}") for cell in AT_THE_END),
        *(
            pytest.param(small_table(f"1.5,{cell},{cell},yes\n"), id=f"text {cell!r}")
            for cell in (
                *(
                    " a ",
                    '" a"',
                    '"say ""b"""',
                    '"a,b"',
                    '"a\nb"',
                    '"\na"',
                    '"a\n"',
                    '"NA\n"',
                    '"NA"',
                    '""',
                    "a\0b",
                    "\0",
                ),
                *("nUlL", "\ufeffa", "\u00a0a", "1.50", "true", "a\u2028b"),
            )
        ),
        pytest.param(small_table("\n\n"), id="empty lines at the end"),
        pytest.param(small_table("\n1.5,a,t1,yes\n"), id="an empty line among the rows"),
        pytest.param("\n" + small_table(), id="an empty line before the header"),
        pytest.param(small_table("1.5,a,t1,yes"), id="no line break at the end"),
        pytest.param("\ufeff" + small_table(), id="byte order mark"),
        pytest.param(small_table().replace("amount,", "\ufeffamount,", 1) + "\ufeff1.5,a,t1,yes\n", id="two of them"),
        pytest.param(small_table().replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(small_table("1.5,a,t1,yes\r\n"), id="one of them"),
        pytest.param(small_table().replace("kind,", "text,"), id="a column twice"),
        pytest.param(small_table().replace("kind,", "'',"), id="a column without a name"),
        pytest.param(small_table().encode() + b"1.5,\xff,t1,yes\n", id="no UTF-8 at the end"),
        pytest.param(small_table().encode() + b"1.5,a,\xed\xa0\x80,yes\n", id="half a character"),
        pytest.param(small_table("1.5,a,t1,yes,\n"), id="a cell too many"),
    ],
)
def test_what_arrow_reads_otherwise_is_read_as_the_slow_way_reads_it(tmp_path, content, monkeypatch):
    monkeypatch.setattr(process_guess, "SAMPLES", 4)
    monkeypatch.setattr(process_guess, "SAMPLE_BYTES", 2**12)
    monkeypatch.setattr(process_quick, "BYTES", 2**14)
    monkeypatch.setattr(process_counts, "MANY", 10)  # of rows on a side: the chunks are small
    found = []
    for folder, least in (("slow", 2**40), ("quick", 0)):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(process_guess, "LEAST_BYTES", least)
        ended = process(tmp_path / folder, content)
        told = ended.metrics()
        if told["status"] == "rejected":
            found.append(told["rejection"])
            continue
        found.append((schema_of(ended), {split: sorted(map(repr, rows)) for split, rows in splits_of(ended).items()}))
    assert found[0] == found[1]


def few_numbers(rows):
    """Rows of 1,920 different pairs of numbers: they tell few rows apart, and not many."""
    pairs = [n * 7919 % 1920 for n in range(rows)]
    lines = [f"{pair % 48},{pair // 48}.5,name {n * 31 % 97},{yes_or_no(n)}" for n, pair in enumerate(pairs)]
    return "\n".join(["age,hours,name,bought", *lines]) + "\n"


def sides(tmp_path, name, rows, mode):
    (tmp_path / name).mkdir()
    return process(tmp_path / name, few_numbers(rows), spec={"data": {"target": "bought", "mode": mode}})


def split_of(ended):
    return next(one for one in ended.metrics()["decisions"] if one["what"] == "split")


@pytest.mark.parametrize("quickly", [False, True], ids=["as text", "in chunks"])
def test_appended_rows_leave_all_others_on_their_sides_however_well_numbers_tell_them_apart(
    tmp_path, quickly, monkeypatch
):
    monkeypatch.setattr(process_key, "LEAST_ROWS", 0)
    monkeypatch.setattr(process_guess, "LEAST_BYTES", 0 if quickly else 2**40)
    before, after = (sides(tmp_path, str(rows), rows, "append") for rows in (1500, 9000))
    later = side_of_each_row(after)
    assert {row: later[row] for row in side_of_each_row(before)} == side_of_each_row(before)
    assert schema_of(before)["split_by"] == schema_of(after)["split_by"] == "features"
    assert split_of(after)["reason"].endswith("keeps its side when data is added, as long as the same columns are used")


@pytest.mark.parametrize("quickly", [False, True], ids=["as text", "in chunks"])
def test_what_was_dropped_before_anything_was_appended_keeps_its_sides_too(tmp_path, quickly, monkeypatch):
    monkeypatch.setattr(process_guess, "LEAST_BYTES", 0 if quickly else 2**40)
    before, after = sides(tmp_path, "one", 1500, "replace"), sides(tmp_path, "more", 9000, "append")
    later = side_of_each_row(after)
    assert {row: later[row] for row in side_of_each_row(before)} == side_of_each_row(before)
    assert "rows are fewer than 1,000,000 or data.mode is append" in split_of(before)["reason"]


def test_training_starts_afresh_where_rows_were_dealt_by_another_hash(tmp_path, monkeypatch):
    """Half of all rows change sides then: what the weights learned would be tested."""
    monkeypatch.setattr(process_key, "LEAST_ROWS", 0)
    before, after = sides(tmp_path, "one", 1500, "replace"), sides(tmp_path, "more", 9000, "append")
    assert schema_of(before)["split_by"] == "features' numbers"
    assert "keeps its side" not in split_of(before)["reason"]
    model = tmp_path / "model"
    model.mkdir()
    (model / "original.onnx").touch()
    for schema, fits in ((schema_of(before), False), (schema_of(after), True)):
        (model / "schema.json").write_text(json.dumps(schema))
        told = report.Report("train")
        assert (warm.found(model, schema_of(after), told) == model) is fits


@pytest.mark.parametrize(
    "before",
    [
        pytest.param({}, id="before schemas said how"),
        pytest.param({"split_by": "features' numbers"}, id="by numbers"),
        pytest.param({"split_by": "column patient"}, id="by groups that are none any more"),
    ],
)
def test_the_reason_to_start_afresh_is_told(tmp_path, before):
    (tmp_path / "original.onnx").touch()
    (tmp_path / "schema.json").write_text(json.dumps(before))
    told = report.Report("train")
    assert warm.found(tmp_path, {"split_by": "features"}, told) is None
    assert "dealt by the hash of the features" in json.dumps(told.as_dict()["decisions"])


def test_chunks_end_where_rows_end_and_not_within_quotes(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + '1,"x\ny"\n' * 9000)
    reader = process_chunks.Reader([tmp_path / "t.csv"], ",", 1001)
    texts = []
    while reader.next(tmp_path / "chunk.csv"):
        texts.append((tmp_path / "chunk.csv").read_text())
    assert len(texts) > 50
    assert all(text.count('"') % 2 == 0 and text.endswith('"\n') for text in texts)
    assert "".join(texts) == '1,"x\ny"\n' * 9000


@pytest.mark.parametrize(
    ("text", "blanks"),
    [("a b,c\n", False), ("a ,c\n", True), ("a, c\n", True), ("a,c \n", True), (" a,c\n", True), ('" a",c\n', True)],
)
def test_a_blank_beside_the_end_of_a_cell_is_seen(tmp_path, text, blanks):
    (tmp_path / "t.csv").write_text("x,y\n1,2\n" + text)
    assert process_chunks.Reader([tmp_path / "t.csv"], ",", 1000).next(tmp_path / "chunk.csv").blanks is blanks


def test_a_row_longer_than_a_chunk_is_left_to_the_slow_way(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n" + "1" * 5000 + ",2\n")
    with pytest.raises(NotQuickError):
        process_chunks.Reader([tmp_path / "t.csv"], ",", 1000).next(tmp_path / "chunk.csv")


@pytest.mark.parametrize("expected", [0, 30_000, 10**8])
def test_hashes_are_known_from_every_chunk_before_however_many_were_expected(expected):
    seen = process_chunks.Seen(expected)
    random = np.random.default_rng(0)
    before = set()
    for number in range(6):
        rows = random.integers(0, 50_000, 5000).astype(np.uint64) << np.uint64(40)
        twice, late = seen.add(number, rows)
        values, counts = np.unique(rows, return_counts=True)
        assert set(twice.tolist()) == set(values[counts > 1].tolist())
        assert set(late.tolist()) == before & set(values.tolist())
        before |= set(values.tolist())


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param("i::DOUBLE AS a", id="counted up"),
        pytest.param("i * 1e-9 AS a", id="tiny"),
        pytest.param("i * 1e12 AS a", id="large"),
        pytest.param("(i % 300)::DOUBLE AS a, (i // 300)::DOUBLE AS b", id="two columns of few numbers"),
        pytest.param("CASE WHEN i % 2 = 0 THEN i::DOUBLE END AS a, (i // 2) * 0.5 AS b", id="gaps"),
    ],
)
def test_the_key_of_numbers_spreads_rows_over_the_sides(columns):
    with duckdb.connect() as connection:
        table = connection.execute(f"SELECT {columns} FROM range(100000) AS t(i)")
        names = [field[0] for field in table.description]
        key = process_key.of_numbers(names)
        shares = connection.execute(
            f"SELECT avg(({key.below('key', 0.15)})::INT), avg(({key.below('key', 0.5)})::INT), "
            f"count(DISTINCT key), min(key) >= 0 FROM (SELECT {key.second('first')} AS key FROM "
            f"(SELECT {key.first} AS first FROM (SELECT {columns} FROM range(100000) AS t(i))))"
        ).fetchone()
    assert shares[:2] == (pytest.approx(0.15, abs=0.01), pytest.approx(0.5, abs=0.015))
    assert shares[2] > 95_000
    assert shares[3]


def test_gaps_in_a_thousand_columns_overflow_nothing():
    names = [f"c{number}" for number in range(1000)]
    key = process_key.of_numbers(names)
    with duckdb.connect() as connection:
        fields = ", ".join(f"NULL::DOUBLE AS {name}" for name in names)
        found = connection.execute(
            f"SELECT {key.second('first')} FROM (SELECT {key.first} AS first FROM (SELECT {fields}))"
        ).fetchone()
    assert 0 <= found[0] < 2**31


def test_numbers_that_leave_rows_alike_are_no_key():
    assert process_key.suffices(rows=100, squares=100)
    assert process_key.suffices(rows=100, squares=50 * 4)
    assert not process_key.suffices(rows=100, squares=20 * 25)
    assert process_key.suffices(rows=1e7, squares=1e4 * 1e6)
    assert not process_key.suffices(rows=1e7, squares=5e3 * 4e6)


def test_no_statement_counts_all_of_many_columns():
    """One over 500 columns took minutes to plan."""
    told = []

    class Connection:
        def __init__(self, connection):
            self._connection = connection

        def execute(self, statement):
            told.append(statement.count("approx_count_distinct("))
            return self._connection.execute(statement)

    names = [f"c{number}" for number in range(120)]
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE t AS SELECT {', '.join(f'i::VARCHAR AS {name}' for name in names)} FROM range(60) r(i)"
        )
        columns = typing_rules.profile(Connection(connection), "t", names)
    assert [column.name for column in columns] == names
    assert {column.counts["distinct"] for column in columns} == {60}
    assert max(told) <= typing_rules.AT_ONCE


def test_a_build_of_arrow_without_jemalloc_keeps_its_own_choice(monkeypatch):
    def missing():
        # as pyarrow answers where its wheel was built without jemalloc
        raise NotImplementedError("This Arrow build does not enable jemalloc")

    before = pa.default_memory_pool().backend_name
    monkeypatch.setattr(pa, "supported_memory_backends", lambda: ["mimalloc", "system"])
    monkeypatch.setattr(pa, "jemalloc_memory_pool", missing)
    process_columns.keep_pages()
    assert pa.default_memory_pool().backend_name == before


LIMIT_MIB = 128
IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from ebb_jobs import memory, process_quick, process_tables, report, tables
process_quick.BYTES = 2**22
process_quick.MOST_MB = 64
process_quick.cpu_count = lambda: 2
process_quick.HEAD_ROWS = 2**14
file, out = Path(sys.argv[1]), Path(sys.argv[2])
(out / "work").mkdir(parents=True)
before = memory.peak_mib()
told = report.Report("process")
process_tables.process(file.parent, [file], out, {}, told, out / "work")
print("grew", memory.peak_mib() - before, told.fields["rows"]["kept"])
"""


@pytest.mark.parametrize(("many", "size"), [(2**40, 2**17), (0, 2**16)], ids=["few bytes", "many"])
def test_of_many_bytes_chunks_are_half_as_large(tmp_path, monkeypatch, many, size):
    read, reader = [], process_chunks.Reader
    monkeypatch.setattr(process_quick, "MANY_BYTES", many)
    monkeypatch.setattr(process_quick, "Reader", lambda *given: read.append(given[-1]) or reader(*given))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(process_guess, "LEAST_BYTES", 0)
    monkeypatch.setattr(process_quick, "BYTES", 2**17)
    file = tmp_path / "data/t.csv"
    file.write_text("amount,label\n" + "".join(f"{n * 0.25},{yes_or_no(n)}\n" for n in range(20_000)))
    (tmp_path / "out/work").mkdir(parents=True)
    told = report.Report("process")
    process_tables.process(file.parent, [file], tmp_path / "out", {}, told, tmp_path / "out/work")
    assert told.fields["rows"]["kept"] == 20_000
    assert set(read) == {size}


def test_a_file_four_times_the_memory_limit_is_processed_within_it(tmp_path):
    """Read at once, half of that file takes 1.3 GiB."""
    words = ["".join(chr(97 + (place * step) % 26) for place in range(1200)) for step in range(1, 9)]
    rows = 0
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/t.csv"
    with file.open("w") as out:
        out.write("amount,words,label\n")
        while out.tell() < 4 * LIMIT_MIB * 2**20:
            out.writelines(f"{n * 0.25},{words[n % 8]},{yes_or_no(n)}\n" for n in range(rows, rows + 10_000))
            rows += 10_000
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, str(file), str(tmp_path / "out")]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    file.unlink()
    grew, kept = (float(each) for each in told.splitlines()[-1].split()[1:])
    assert "read as text" not in told
    assert kept == rows
    assert grew < LIMIT_MIB
