"""Texts and their labels: which column holds them, checked, de-duplicated and split Parquet out, or a rejection."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from ebb_jobs import infer, process_split, process_target, refusals, tables, typing_rules
from ebb_jobs.infer import Inferred
from ebb_jobs.process_split import SPLITS, Own, scalar
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import Report, write_json
from ebb_jobs.sql import free_name, literal, quote

MAX_TEXT_BYTES = 1_000_000
"""A thick novel; longer texts are several joined by mistake, or a quotation mark that closes far below."""
SPLIT_COLUMN = "split"


class Found(NamedTuple):
    """The column of texts and the one of labels, each with the reason."""

    text: Inferred
    target: Inferred
    task: Inferred
    numbers: dict[str, float]


def find_column(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    names: list[str],
    *,
    target: str | None,
    text: str | None,
) -> Found:
    """Return the columns of a table that the spec calls texts: those that it names, else the text of most words."""
    told = Inferred(infer.TEXTS, "named in the spec")
    label = infer.target(names, target, text)
    if text:
        if text not in names or text == label.value:
            raise RejectedError(
                Rejection(
                    "input-missing",
                    f"the data has {len(names)} columns, and none besides the target is called {text!r}",
                    column=text,
                    remedy="Set data.input in pipeline.yaml to the name of the column with the texts.",
                )
            )
        return Found(Inferred(text, "named by data.input in the spec"), label, told, _measure(connection, table, text))
    others = [name for name in names if name not in (label.value, _split_column(connection, table, names))]
    if not others:
        raise RejectedError(
            Rejection("no-feature", "the data has no column besides the target", remedy="Add a column with the texts.")
        )
    measured = {name: _measure(connection, table, name) for name in others}
    best = max(others, key=lambda name: measured[name]["words"])
    reason = f"it has the most words ({measured[best]['words']:.1f} on average); name another one with data.input"
    return Found(Inferred(best, reason), label, told, measured[best])


def only_text(
    connection: duckdb.DuckDBPyConnection, table: str, columns: list[typing_rules.Column], target: Inferred
) -> Found | None:
    """Return the column of free text when a table has nothing else to learn from; None for a tabular one."""
    split = _split_column(connection, table, [column.name for column in columns])
    if any(column.kind != "dropped" and column.name != split for column in columns):
        return None
    prose = [
        column
        for column in columns
        if infer.is_prose(column.counts["words"] or 0, column.counts["distinct"], column.counts["present"])
    ]
    if not prose:
        return None
    best = max(prose, key=lambda column: column.counts["words"])
    others = f", more than {len(prose) - 1} other(s)" if len(prose) > 1 else ""
    return _inferred(
        best.name, target, _measure(connection, table, best.name), f"nothing else can be learned from{others}"
    )


def text_that_ends(
    connection: duckdb.DuckDBPyConnection, table: str, names: list[str], target: refusals.Target
) -> Found | None:
    """Return texts that stand last, where a target is guessed to be, when one other column holds classes."""
    if not target.guessed:
        return None
    numbers = _measure(connection, table, target.name)
    if not infer.is_prose(numbers["words"], int(numbers["distinct"]), int(numbers["rows"])):
        return None
    split = _split_column(connection, table, names)
    classes = []
    for name in names:
        column = quote(name)
        missing, distinct = connection.execute(
            f"SELECT count(*) - count({column}), count(DISTINCT {column}) FROM {table}"
        ).fetchone() or (0, 0)
        if name not in (target.name, split) and not missing and 2 <= distinct <= numbers["rows"] / 10:
            classes.append(name)
    if len(classes) != 1 or len(names) > 2 + (split is not None):
        return None
    reason = "the other column holds free text; name another one with data.target"
    return _inferred(target.name, Inferred(classes[0], reason), numbers, "it is the column of free text")


def process(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    files: list[Path],
    found: Found,
    curated: Path,
    spec: dict[str, Any],
    report: Report,
) -> None:
    """Write train, validation and test Parquet and schema.json of texts into `curated`. Raises RejectedError.

    The files are read anew: whether "none" is a word or a missing value depends on the column.
    """
    for table in ("raw", "kept"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    asked = (spec.get("data") or {}).get("target")
    text, target = found.text.value, refusals.Target(found.target.value, found.target.value)
    names, form, _ = tables.load(connection, folder, files, target.name, text=text)
    if not asked:
        target = target._replace(column=refusals.column_told(names, target.name))
    _check_texts(connection, folder, files, text)
    given = _split_column(connection, "raw", [name for name in names if name not in (text, target.name)])
    read = scalar(connection, "SELECT count(*) FROM raw")
    side = _side(given) if given else "NULL"
    own_given, own_same = (free_name(f"ebb_{name}", names) for name in ("given", "same"))
    label = quote(target.name)
    connection.execute(
        f"CREATE TABLE kept AS SELECT min({quote(text)}) AS {quote(text)}, {label}, {own_given}, {own_same} FROM "
        f"(SELECT {quote(text)}, {label}, {side} AS {own_given}, ebb_alike({quote(text)}) AS {own_same} FROM raw) "
        f"GROUP BY {label}, {own_given}, {own_same}"
    )
    connection.execute("DROP TABLE raw")
    kept = scalar(connection, "SELECT count(*) FROM kept")
    asked_task = infer.CLASSIFICATION if spec.get("task") == infer.TEXTS else None
    process_target.judge(connection, target, asked_task, folder, files, numbers_too=False)
    if given:
        _refuse_across_splits(connection, folder, files, text, own_same, own_given, given)
    contradicting = _drop_contradictions(connection, folder, files, text, own_same, target, kept)
    classes = process_target.classes(connection, target)
    own = Own(*(free_name(f"ebb_{field}", names) for field in Own._fields))
    if given:
        rows = process_split.place_as_given(
            connection, own_same, target.name, len(classes), own, own_given, column=target.column
        )
    else:
        rows = process_split.place(connection, own_same, target.name, len(classes), own, column=target.column)
    for what, decided in (("format", form), ("target", found.target)):
        report.decide(what, decided.value, decided.reason)
    report.decide("input", text, found.text.reason, numbers=found.numbers)
    report.decide("task", found.task.value, found.task.reason)
    duplicates = read - kept
    report.decide(
        "duplicates",
        duplicates,
        "texts with the same label that differ in nothing that the tokenizer sees (capitals, spaces, forms of letters) "
        "are kept once",
        numbers={"read": read},
    )
    if contradicting:
        report.decide(
            "contradictions",
            contradicting,
            "the same text under different labels teaches nothing: all of its rows are left out",
            numbers={"kept": kept},
        )
    process_split.decide(report, rows, "text", given=given is not None, stratified=True)
    stored = free_name("text", [target.name])
    for split in SPLITS:
        connection.execute(
            f"COPY (SELECT {quote(text)} AS {quote(stored)}, {quote(target.name)} FROM placed "
            f"WHERE {own.split} = '{split}' ORDER BY {own.key}, {quote(target.name)}) "
            f"TO {literal(str(curated / f'{split}.parquet'))} (FORMAT parquet, COMPRESSION zstd)"
        )
    counted = {"read": read, "kept": kept - contradicting, "duplicates": duplicates, **rows}
    if contradicting:
        counted["contradicting"] = contradicting
    report.fields.update(
        task=infer.TEXTS,
        target=target.name,
        rows=counted,
        classes=len(classes),
        features=[{"name": text, "kind": "text", "missing": 0, "reason": found.text.reason}],
    )
    write_json(
        curated / "schema.json",
        {
            "version": 1,
            "kind": "text",
            "task": infer.TEXTS,
            "input": {"column": text},
            "columns": [stored],
            "target": {"name": target.name, "classes": classes},
            "features": [],
            "rows": counted,
        },
    )


def _side(column: str) -> str:
    """Return the SQL that reads a side from a column of split names."""
    cases = " ".join(f"WHEN {literal(name)} THEN {literal(side)}" for name, side in infer.SPLIT_NAMES.items())
    return f"CASE lower({quote(column)}) {cases} END"


def _inferred(text: str, target: Inferred, numbers: dict[str, float], why: str) -> Found:
    reason = (
        f"{numbers['words']:.1f} words on average, {numbers['distinct']:.0f} different texts in "
        f"{numbers['rows']:.0f} rows, and {why}"
    )
    return Found(
        Inferred(text, f"{reason}; name another one with data.input"),
        target,
        Inferred(
            infer.TEXTS,
            f"one column of free text: at least {infer.MIN_WORDS:.0f} words a value on average, "
            f"and more than {infer.MIN_DISTINCT_SHARE:.0%} of the values different",
        ),
        numbers,
    )


def _measure(connection: duckdb.DuckDBPyConnection, table: str, name: str) -> dict[str, float]:
    column = quote(name)
    rows, words, distinct, longest = connection.execute(
        f"SELECT count({column}), avg(length({column}) - length(replace({column}, ' ', '')) + 1), "
        f"count(DISTINCT {column}), max(strlen({column})) FROM {table}"
    ).fetchone() or (0, 0, 0, 0)
    return {"words": round(words or 0.0, 1), "distinct": distinct, "rows": rows, "longest_bytes": longest or 0}


def _split_column(connection: duckdb.DuckDBPyConnection, table: str, names: list[str]) -> str | None:
    """Return the column called split when nothing but names of splits stands in it."""
    for name in names:
        if name.lower() == SPLIT_COLUMN:
            side = _side(name)
            others, sides = connection.execute(
                f"SELECT count(*) - count({side}), count(DISTINCT {side}) FROM {table}"
            ).fetchone() or (1, 0)
            if not others and sides > 1:
                return name
    return None


def _check_texts(connection: duckdb.DuckDBPyConnection, folder: Path, files: list[Path], column: str) -> None:
    name = quote(column)
    empty, long = connection.execute(
        f"SELECT count(*) FILTER ({name} IS NULL), count(*) FILTER (strlen({name}) > {MAX_TEXT_BYTES}) FROM raw"
    ).fetchone() or (0, 0)
    if empty:
        file, line = tables.first_line(folder, files, column, lambda value: not value)
        raise RejectedError(
            Rejection(
                "text-empty",
                _told(file, line, "the text is empty", empty),
                file=file,
                line=line,
                column=column,
                remedy="Fill in the text or remove the rows that have none.",
            )
        )
    if long:
        file, line = tables.first_line(folder, files, column, lambda value: len(value.encode()) > MAX_TEXT_BYTES)
        raise RejectedError(
            Rejection(
                "text-too-long",
                _told(file, line, f"the text is longer than {MAX_TEXT_BYTES:,} bytes", long),
                file=file,
                line=line,
                column=column,
                remedy="Cut the text into parts, or look for a quotation mark that never closes.",
            )
        )


def _told(file: str | None, line: int | None, what: str, count: int) -> str:
    return (f"{file}, line {line}: " if line else "") + what + (f" ({count} such rows)" if count > 1 else "")


def _refuse_across_splits(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    files: list[Path],
    text: str,
    alike: str,
    given: str,
    column: str,
) -> None:
    several = f"SELECT {alike} FROM kept GROUP BY {alike} HAVING count(DISTINCT {given}) > 1"
    count = scalar(connection, f"SELECT count(*) FROM ({several})")
    if count:
        file, line = _first_of(connection, folder, files, text, several)
        raise RejectedError(
            Rejection(
                "duplicates-across-splits",
                _told(file, line, f"{count} texts stand in more than one of train, validation and test", 1),
                file=file,
                line=line,
                column=column,
                remedy="Keep each text in one split, or remove the column and let the rows be split.",
            )
        )


def _first_of(
    connection: duckdb.DuckDBPyConnection, folder: Path, files: list[Path], text: str, several: str
) -> tuple[str | None, int | None]:
    """Return file and line of the first text whose digest the query `several` finds."""
    found = {digest for (digest,) in connection.execute(several).fetchall()}
    return tables.first_line(folder, files, text, lambda value: tables.alike(value) in found)


def _drop_contradictions(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    files: list[Path],
    text: str,
    alike: str,
    target: refusals.Target,
    rows: int,
) -> int:
    """Delete the rows of texts under several labels and return how many; reject the drop when they are many."""
    several = f"SELECT {alike} FROM kept GROUP BY {alike} HAVING count(DISTINCT {quote(target.name)}) > 1"
    count = scalar(connection, f"SELECT count(*) FROM kept WHERE {alike} IN ({several})")
    if count > refusals.MAX_CONTRADICTING_SHARE * rows:
        file, line = _first_of(connection, folder, files, text, several)
        raise RejectedError(refusals.contradicting("texts", count, rows, target.column, file=file, line=line))
    if count:
        connection.execute(f"DELETE FROM kept WHERE {alike} IN ({several})")
    return count
