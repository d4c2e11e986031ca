"""The target of a table: whether it can be learned, which task follows from it, and its classes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import duckdb

from ebb_jobs import infer, process_split, refusals, spelling, tables
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.sql import literal, quote


class Measured(NamedTuple):
    """What is counted of a target: rows, and of its texts how many are present, differ, are numbers, or whole ones.

    `values` differ where numbers are compared by their value.
    """

    rows: int
    present: int
    distinct: int
    numbers: int
    wholes: int
    values: int


def judge(
    connection: duckdb.DuckDBPyConnection,
    target: refusals.Target,
    asked: str | None,
    folder: Path,
    files: list[Path],
    *,
    numbers_too: bool = True,
) -> infer.Inferred:
    """Return the tabular task after checking that the target suits it; whole classes get one spelling (1.0 is 1).

    Without `numbers_too` nothing but classes will do, as for texts. Raises RejectedError.
    """
    column = quote(target.name)
    value = f"TRY_CAST({column} AS DOUBLE)"
    # Above this a DOUBLE no longer tells whole numbers apart: their text does.
    exact = f"abs({value}) < {2**53}"
    number = f"count(*) FILTER (regexp_full_match({column}, {literal(spelling.NUMBER.pattern)}))"
    measured = Measured(
        *(
            connection.execute(
                f"SELECT count(*), count({column}), count(DISTINCT {column}), {number}, "
                f"count(*) FILTER (NOT ({exact}) OR {value} = floor({value})), "
                f"count(DISTINCT CASE WHEN {exact} THEN {value}::VARCHAR ELSE {column} END) FROM kept"
            ).fetchone()
            or (0,) * 6
        )
    )
    task = decide(target, asked, measured, folder, files, numbers_too=numbers_too)
    if task.value == infer.CLASSIFICATION and measured.numbers == measured.wholes == measured.rows:
        _spell_alike(connection, target.name, f"CASE WHEN {exact} THEN {value}::BIGINT::VARCHAR ELSE {column} END")
    return task


def decide(
    target: refusals.Target,
    asked: str | None,
    measured: Measured,
    folder: Path,
    files: list[Path],
    *,
    numbers_too: bool = True,
) -> infer.Inferred:
    """Return the task that follows from what was counted. Raises RejectedError."""
    rows, present, distinct, numbers, wholes, values = measured
    if present < rows:
        file, line = tables.first_line_without(folder, files, target.name)
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
    if task.value == infer.REGRESSION and not numbers_too:
        raise RejectedError(refusals.too_many_classes(target, distinct, rows, numbers_too=False))
    if task.value == infer.CLASSIFICATION and refusals.too_many(distinct, rows):
        raise RejectedError(refusals.too_many_classes(target, distinct, rows, numbers_too=numbers_too))
    return task


def _spell_alike(connection: duckdb.DuckDBPyConnection, name: str, spelt: str) -> None:
    """Replace a column of `kept`: a new table instead of an UPDATE, which Spark has not; none where nothing changes."""
    if not process_split.scalar(connection, f"SELECT count(*) FROM kept WHERE {quote(name)} <> {spelt}"):
        return
    names = [field[0] for field in connection.execute("SELECT * FROM kept LIMIT 0").description or ()]
    fields = [f"{spelt} AS {quote(each)}" if each == name else quote(each) for each in names]
    connection.execute(f"CREATE TABLE spelt AS SELECT {', '.join(fields)} FROM kept")
    connection.execute("DROP TABLE kept")
    connection.execute("ALTER TABLE spelt RENAME TO kept")


def classes(connection: duckdb.DuckDBPyConnection, target: refusals.Target) -> list[str]:
    """Return the class labels, numbers in the order of numbers; reject classes with too few rows."""
    counts = connection.execute(f"SELECT {quote(target.name)}, count(*) FROM kept GROUP BY 1").fetchall()
    if rare := refusals.rare_classes(target, [count for _, count in counts]):
        raise RejectedError(rare)
    return process_split.in_order([label for label, _ in counts])
