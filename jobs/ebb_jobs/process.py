"""Stage `process`: dropped files in; typed, checked, de-duplicated and split Parquet out, or a rejection."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from ebb_jobs import infer, paths, refusals, spelling, tables, typing_rules
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import Report, write_json
from ebb_jobs.sql import free_name, literal, quote

SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = 0.15
MIN_ROWS_PER_SIDE = 3


class Own(NamedTuple):
    """The columns that the split adds to the data's."""

    key: str
    split: str
    unsettled: str


def main() -> None:
    """Process the data channel; a rejection is a good end of the job and is told in the report."""
    settings = paths.settings("process")
    report = Report("process")
    curated, report_folder = paths.output("process", "curated"), paths.output("process", "report")
    try:
        with tempfile.TemporaryDirectory() as work:
            process(paths.channel("process", "data"), curated, settings, report, Path(work))
        report.fields.update(status="finished", rejection=None)
    except RejectedError as rejected:
        shutil.rmtree(curated)
        curated.mkdir()
        report.fields.update(status="rejected", rejection=rejected.rejection.as_dict())
        print(f"rejected: {rejected.rejection.message}", flush=True)
    report.write(report_folder)


def process(data: Path, curated: Path, settings: dict[str, Any], report: Report, work: Path) -> None:
    """Write train, validation and test Parquet and schema.json into `curated`. Raises RejectedError."""
    spec = settings.get("spec", {})
    tables.verify_bytes(data, settings.get("sources") or {})
    files = tables.find_files(data)
    with tables.connect(work) as connection:
        asked = (spec.get("data") or {}).get("target")
        names, form, target = tables.load(connection, data, files, asked)
        told = refusals.find_target(names, asked)
        read, kept = _remove_duplicates(connection, names)
        task = _judge_target(connection, told, spec.get("task"), data, files)
        columns = typing_rules.profile(connection, "kept", [name for name in names if name != target.value])
        used = [column for column in columns if column.kind != "dropped"]
        if not used:
            raise RejectedError(
                Rejection(
                    "no-feature",
                    "no column besides the target can be learned from: "
                    + "; ".join(f"column {names.index(column.name) + 1}: {column.reason}" for column in columns[:5]),
                    remedy="Add columns that say something about the target.",
                )
            )
        classes = _classes(connection, told) if task.value == infer.CLASSIFICATION else None
        own = Own(*(free_name(f"ebb_{field}", names) for field in Own._fields))
        rows = _split(connection, used, told, classes, own)
        unsettled = rows.pop("unsettled")
        # Decisions quote the target's name. Up to here it may be a value: of a row that stands where names should.
        for what, decided in (("format", form), ("target", target), ("task", task)):
            report.decide(what, decided.value, decided.reason)
        _write_parquet(connection, curated, used, target.value, own, numeric_target=classes is None)
        _write_outcome(
            report,
            curated,
            names=names,
            columns=columns,
            target=target.value,
            task=task.value,
            classes=classes,
            rows={"read": read, "kept": kept, "duplicates": read - kept, **rows},
            unsettled=unsettled,
        )


def _remove_duplicates(connection: duckdb.DuckDBPyConnection, names: list[str]) -> tuple[int, int]:
    read = _scalar(connection, "SELECT count(*) FROM raw")
    if read == 0:
        raise RejectedError(Rejection("no-rows", "the drop holds no rows", remedy="Add the rows."))
    connection.execute(f"CREATE TABLE kept AS SELECT DISTINCT {', '.join(map(quote, names))} FROM raw")
    connection.execute("DROP TABLE raw")
    return read, _scalar(connection, "SELECT count(*) FROM kept")


def _judge_target(
    connection: duckdb.DuckDBPyConnection, target: refusals.Target, asked: str | None, data: Path, files: list[Path]
) -> infer.Inferred:
    """Return the task after checking that the target suits it; whole-number classes get one spelling (1.0 is 1)."""
    column = quote(target.name)
    value = f"TRY_CAST({column} AS DOUBLE)"
    # Above this a DOUBLE no longer tells whole numbers apart: their text does.
    exact = f"abs({value}) < {2**53}"
    number = f"count(*) FILTER (regexp_full_match({column}, {literal(spelling.NUMBER.pattern)}))"
    rows, present, distinct, numbers, wholes, values = (
        connection.execute(
            f"SELECT count(*), count({column}), count(DISTINCT {column}), {number}, "
            f"count(*) FILTER ({value} = floor({value})), "
            f"count(DISTINCT CASE WHEN {exact} THEN {value}::VARCHAR ELSE {column} END) FROM kept"
        ).fetchone()
        or (0,) * 6
    )
    if present < rows:
        file, line = tables.first_line_without(data, files, target.name)
        raise RejectedError(refusals.target_empty(file, line, target, rows - present))
    numeric = numbers == rows
    distinct = values if numeric else distinct
    if distinct < 2:
        raise RejectedError(refusals.one_value(None, target))
    if rows < refusals.MIN_ROWS:
        raise RejectedError(refusals.too_few_rows(rows))
    task = infer.task(rows=rows, distinct=distinct, numeric=numeric, integral=wholes == rows, asked=asked)
    if task.value == infer.REGRESSION and not numeric:
        raise RejectedError(
            Rejection(
                "target-not-number",
                f"{rows - numbers} rows have a target {target.words} that is no number",
                column=target.column,
                remedy=f"Make every value of the target a plain number, or write task: {infer.CLASSIFICATION}.",
            )
        )
    if task.value == infer.CLASSIFICATION:
        if refusals.too_many(distinct, rows):
            raise RejectedError(refusals.too_many_classes(target, distinct, rows))
        if numeric and wholes == rows:
            connection.execute(f"UPDATE kept SET {column} = {value}::BIGINT::VARCHAR WHERE {exact}")
    return task


def _classes(connection: duckdb.DuckDBPyConnection, target: refusals.Target) -> list[str]:
    """Return the class labels, numbers in the order of numbers; reject classes with too few rows."""
    counts = connection.execute(f"SELECT {quote(target.name)}, count(*) FROM kept GROUP BY 1").fetchall()
    if rare := refusals.rare_classes(target, [count for _, count in counts]):
        raise RejectedError(rare)
    labels = [label for label, _ in counts]
    numeric = all(map(spelling.is_number, labels))
    return sorted(labels, key=lambda label: (float(label), label) if numeric else label)


def _split(
    connection: duckdb.DuckDBPyConnection,
    features: list[typing_rules.Column],
    target: refusals.Target,
    classes: list[str] | None,
    own: Own,
) -> dict[str, int]:
    """Mark each row train, validation or test by the hash of its features; count each, and the `unsettled` rows.

    Rows with equal features stay together, so that none is learned and tested at once, and a row keeps its side when
    data is added. Only where chance gives a side fewer than `fewest` groups of a class, those nearest to its threshold
    move over: all rows of such a class are unsettled, because later data can move them back.
    """
    text = ", ".join(f"coalesce({_canonical(column)}, chr(30))" for column in features)
    stratum = quote(target.name) if classes is not None else "''"
    fewest = math.ceil(MIN_ROWS_PER_SIDE / (len(classes) if classes else 1))
    share = HELD_OUT_SHARE
    connection.execute(f"""
        CREATE TABLE placed AS
        WITH keyed AS (SELECT *, md5(concat_ws(chr(31), {text})) AS {own.key} FROM kept),
        groups AS (SELECT {own.key}, min({stratum}) AS stratum,
                          ('0x' || substr({own.key}, 1, 8))::UBIGINT / 4294967296.0 AS place
                   FROM keyed GROUP BY {own.key}),
        ranked AS (SELECT {own.key}, place, row_number() OVER (PARTITION BY stratum ORDER BY {own.key}) AS rank,
                          count(*) OVER (PARTITION BY stratum) AS size,
                          count(*) FILTER (place < {share}) OVER (PARTITION BY stratum) AS test,
                          count(*) FILTER (place < {2 * share}) OVER (PARTITION BY stratum) AS held_out FROM groups),
        least_a_side AS (SELECT *, greatest(1, least({fewest}, size // 3)) AS fewest FROM ranked),
        tests AS (SELECT *, greatest(fewest, least(test, size - 2 * fewest)) AS tests FROM least_a_side),
        sides AS (SELECT {own.key}, least(test, held_out - test, size - held_out) < {fewest} AS {own.unsettled},
                         CASE WHEN rank <= tests THEN 'test'
                              WHEN rank <= greatest(tests + fewest, least(held_out, size - fewest)) THEN 'validation'
                              ELSE 'train' END AS {own.split} FROM tests)
        SELECT keyed.*, sides.{own.split}, sides.{own.unsettled} FROM keyed JOIN sides USING ({own.key})""")
    connection.execute("DROP TABLE kept")
    placed = f"FROM placed WHERE {own.split} ="
    sizes = {split: _scalar(connection, f"SELECT count(*) {placed} '{split}'") for split in SPLITS}
    learned = _scalar(connection, f"SELECT count(DISTINCT {quote(target.name)}) {placed} 'train'")
    if min(sizes.values()) < MIN_ROWS_PER_SIDE or (classes is not None and learned < len(classes)):
        raise RejectedError(
            Rejection(
                "too-few-rows",
                "too few rows differ in their features: a class or a split would be empty",
                column=target.column,
                remedy="Drop more rows, or columns that tell the rows apart.",
            )
        )
    return {**sizes, "unsettled": _scalar(connection, f"SELECT count(*) FROM placed WHERE {own.unsettled}")}


def _canonical(column: typing_rules.Column) -> str:
    """Return the SQL of a column's text for hashing: one spelling per number, whatever the format of the file."""
    name = quote(column.name)
    return f"coalesce(TRY_CAST({name} AS DOUBLE)::VARCHAR, {name})" if column.kind == "numeric" else name


def _write_parquet(
    connection: duckdb.DuckDBPyConnection,
    curated: Path,
    used: list[typing_rules.Column],
    target: str,
    own: Own,
    *,
    numeric_target: bool,
) -> None:
    fields = [
        f"CASE WHEN regexp_full_match({quote(column.name)}, {literal(spelling.NUMBER.pattern)}) THEN "
        f"TRY_CAST({quote(column.name)} AS DOUBLE) END AS {quote(column.name)}"
        if column.kind == "numeric"
        else quote(column.name)
        for column in used
    ]
    fields.append(f"{quote(target)}::DOUBLE AS {quote(target)}" if numeric_target else quote(target))
    for split in SPLITS:
        everything = ", ".join(map(quote, (column.name for column in used)))
        connection.execute(
            f"COPY (SELECT {', '.join(fields)} FROM placed WHERE {own.split} = '{split}' "
            f"ORDER BY {own.key}, {quote(target)}, {everything}) "
            f"TO {literal(str(curated / f'{split}.parquet'))} (FORMAT parquet, COMPRESSION zstd)"
        )


def _write_outcome(
    report: Report,
    curated: Path,
    *,
    names: list[str],
    columns: list[typing_rules.Column],
    target: str,
    task: str,
    classes: list[str] | None,
    rows: dict[str, int],
    unsettled: int,
) -> None:
    used = [column for column in columns if column.kind != "dropped"]
    dropped = [column for column in columns if column.kind == "dropped"]
    report.decide(
        "features",
        f"{len(used)} of {len(columns)} columns",
        "; ".join(f"{column.name} left out: {column.reason}" for column in dropped) or "every column is usable",
        numbers={
            kind: sum(column.kind == kind for column in used)
            for kind in ("numeric", "categorical", "boolean", "datetime")
        },
    )
    report.decide(
        "duplicates", rows["duplicates"], "rows equal in every column are kept once", numbers={"read": rows["read"]}
    )
    report.decide(
        "split",
        "about 70/15/15 by the hash of the features",
        "equal features never stand on two sides, and a row keeps its side when data is added, as long as the same "
        "columns are used"
        + (
            f"; {unsettled} rows may change sides: by the hash alone a side has too few "
            f"{'of their class' if classes is not None else 'rows'}, and the nearest were moved there"
            if unsettled
            else ""
        ),
        numbers={**{split: rows[split] for split in SPLITS}, "may_change_side": unsettled},
    )
    report.fields.update(
        task=task,
        target=target,
        rows=rows,
        classes=len(classes) if classes else None,
        features=[column.as_feature() for column in columns],
    )
    write_json(
        curated / "schema.json",
        {
            "version": 1,
            "task": task,
            "columns": [name for name in names if name != target],
            "target": {"name": target, **({"classes": classes} if classes is not None else {})},
            "features": [column.as_feature() for column in used],
            "dropped": [{"name": column.name, "reason": column.reason} for column in dropped],
            "rows": rows,
        },
    )


def _scalar(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    return int((connection.execute(query).fetchone() or (0,))[0])
