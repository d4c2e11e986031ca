"""One program, two engines: what Spark writes is what DuckDB writes."""

import hashlib
import json
import re
import subprocess
import sys

import duckdb
import pytest

from ebb_jobs import dataset, process_key, process_split, spark_sql
from unit.jobs import sparks
from unit.jobs.stages import run_stage_here

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module", autouse=True)
def spark():
    sparks.start()


def mixed_table(rows=420):
    """Numbers spelt in several ways, categories, dates, gaps, quotes, line breaks, a group, and rows that repeat,
    some with another spelling of a number."""
    lines = ["order,Amount,ratio,big,kind,day,flag,note,patient,label"]
    for n in range(rows):
        amount = [f"{n % 41}", f"{n % 41}.0", f"+{n % 41}", f"{n % 41}e0"][n % 4] if n % 13 else "NA"
        ratio = (n * 7919 % 1000) / 997 if n % 17 else "bad"
        big = [f"{n}e25", f"-{n}.5e-30", "1e999", f"{2**53 + n}"][n % 4]
        kind = ['"say ""hi"""', '"a, b"', '"two\nlines"', " ünder ", "none"][n % 5]
        day = f"2024-{n % 12 + 1:02}-{n % 28 + 1:02} 0{n % 9}:00"
        label = "yes" if n * 7919 % 5 > 1 else "no"
        lines.append(f"{n},{amount},{ratio},{big},{kind},{day},{n % 2 == 0},{n % 7},p{n % 60},{label}")
    respelt = [re.sub(r"^([0-9]+),([0-9]+),", r"\1,\2e0,", line) for line in lines[30:60]]
    return "\n".join([*lines, *lines[1:30], *respelt]) + "\n"


def on_duckdb(base, text, spec, name, **settings):
    (base / "data/project/data").mkdir(parents=True)
    (base / "data/project/data" / name).write_bytes(text)
    ended = run_stage_here(base / "job", "process", {"data": base / "data"}, {"spec": spec, **settings})
    return ended.base / "processing/output/curated", ended.metrics()


def on_spark(base, text, spec, name, **settings):
    base.mkdir()
    (base / name).write_bytes(text)
    return base / "curated", sparks.process(base, [base / name], spec, **settings)


def rows_of(curated, split):
    return duckdb.sql(f"SELECT * FROM read_parquet('{dataset.file_of(curated, split)}')").fetchall()


GOOD = mixed_table().encode()


def test_it_needs_no_pyarrow():
    """Glue installs what the job asks for, and pyarrow is not among that: the quick way alone needs it."""
    code = "import sys; sys.modules['pyarrow'] = None; from ebb_jobs import process_spark, process_tables"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "text", "spec"),
    [
        pytest.param("t.csv", GOOD, {}, id="a table of everything"),
        pytest.param("t.csv", GOOD, {"data": {"group": "patient"}}, id="groups stay together"),
        pytest.param("t.csv", GOOD, {"data": {"target": "ratio"}}, id="a gap in the target is refused"),
    ],
)
def test_both_engines_write_the_same_rows_in_the_same_order(tmp_path, name, text, spec):
    curated, told = on_duckdb(tmp_path / "duckdb", text, spec, name)
    spark_curated, spark_told = on_spark(tmp_path / "spark", text, spec, name)
    assert spark_told["engine"].startswith("Spark 3.5.")
    assert spark_told["status"] == told["status"]
    if told["status"] == "rejected":
        assert spark_told["rejection"]["code"] == told["rejection"]["code"]
        return
    assert spark_told["rows"] == told["rows"]
    assert json.loads((spark_curated / "schema.json").read_text()) == json.loads((curated / "schema.json").read_text())
    for split in SPLITS:
        assert repr(rows_of(spark_curated, split)) == repr(rows_of(curated, split)), split


@pytest.mark.parametrize(("mode", "split_by"), [("replace", "features' numbers"), ("append", "features")])
def test_both_engines_deal_many_rows_by_the_same_hash(tmp_path, mode, split_by, monkeypatch):
    monkeypatch.setattr(process_key, "LEAST_ROWS", 0)
    spec = {"data": {"mode": mode}}
    curated, _ = on_duckdb(tmp_path / "duckdb", GOOD, spec, "t.csv")
    spark_curated, _ = on_spark(tmp_path / "spark", GOOD, spec, "t.csv")
    for place in (curated, spark_curated):
        assert json.loads((place / "schema.json").read_text())["split_by"] == split_by
    for split in SPLITS:
        assert repr(rows_of(spark_curated, split)) == repr(rows_of(curated, split)), split


def test_both_engines_take_the_same_fair_sample_of_what_no_machine_could_learn_from(tmp_path, monkeypatch):
    monkeypatch.setattr(process_split, "RARE_ROWS", 5)
    whole, told_whole = on_duckdb(tmp_path / "whole", GOOD, {}, "t.csv")
    curated, told = on_duckdb(tmp_path / "duckdb", GOOD, {}, "t.csv", learn_share=0.5)
    spark_curated, _ = on_spark(tmp_path / "spark", GOOD, {}, "t.csv", learn_share=0.5)
    for split in SPLITS:
        rows, all_rows = rows_of(curated, split), rows_of(whole, split)
        assert repr(rows) == repr(rows_of(spark_curated, split)), split
        assert set(map(repr, rows)) < set(map(repr, all_rows)), "no row changes its side"
    taken, of = (sum(told["rows"][split] for split in SPLITS) for told in (told, told_whole))
    assert 0.35 < taken / of < 0.65
    assert told["rows"]["beyond_sample"] == of - taken
    assert [each["numbers"] for each in told["decisions"] if each["what"] == "sample"] == [{"left_out": of - taken}]


def test_texts_of_which_no_machine_holds_all_are_refused_rather_than_read_whole(tmp_path):
    text = "\n".join(["text,label", *(f"a letter number {n} about a matter,{'xy'[n % 2]}" for n in range(60))]) + "\n"
    _, told = on_duckdb(tmp_path, text.encode(), {"task": "text-classification"}, "t.csv", learn_share=0.5)
    assert told["rejection"]["code"] == "texts-too-large"


def test_rare_classes_are_not_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(process_split, "RARE_ROWS", 20)
    rare = [f"{n},{n % 7},rare" for n in range(9)]
    text = "\n".join(["a,b,label", *(f"{n},{n % 5},{'xy'[n % 2]}" for n in range(400)), *rare]) + "\n"
    whole, _ = on_duckdb(tmp_path / "whole", text.encode(), {}, "t.csv")
    curated, _ = on_duckdb(tmp_path / "duckdb", text.encode(), {}, "t.csv", learn_share=0.2)
    for split in SPLITS:
        kept, there = ([row for row in rows_of(place, split) if row[-1] == "rare"] for place in (curated, whole))
        assert kept, split
        assert kept == there, split


@pytest.mark.parametrize(("digest", "status"), [(None, "finished"), ("0" * 64, "rejected")])
def test_a_file_that_is_not_the_one_of_the_plan_is_refused(tmp_path, digest, status):
    (tmp_path / "t.csv").write_bytes(GOOD)
    known = digest or hashlib.sha256(GOOD).hexdigest()
    told = sparks.process(tmp_path, [tmp_path / "t.csv"], {}, {"t.csv": known})
    assert told["status"] == status
    assert (told["rejection"] or {}).get("code") == (None if digest is None else "changed")
    assert "cpu_seconds" not in told, "the driver's own time says nothing about Spark's"
    assert (tmp_path / "curated/schema.json").exists() == (status == "finished")


def test_a_statement_that_only_one_engine_knows_is_refused():
    with pytest.raises(ValueError, match="both engines"):
        spark_sql.Connection(None, "nowhere").execute("UPDATE kept SET a = 1")
