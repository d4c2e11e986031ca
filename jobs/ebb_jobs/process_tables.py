"""Tables: typed, checked, de-duplicated and split Parquet out, or a rejection."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from ebb_jobs import (
    infer,
    process_guess,
    process_key,
    process_split,
    process_target,
    process_texts,
    refusals,
    tables,
    typing_rules,
)
from ebb_jobs.process_split import SPLITS, Own, scalar
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import Report, write_json
from ebb_jobs.sql import free_name, literal, number, quote


class Dropped(NamedTuple):
    """Where the files lie, so that a rejection can name the line that is wrong; no file where they are too large."""

    folder: Path
    files: list[Path]


class Curated(NamedTuple):
    """Where the results go, a folder or a URI, and what writes a JSON document of some name there."""

    place: str
    write_json: Callable[[str, Any], None]


def process(
    folder: Path,
    files: list[Path],
    curated: Path,
    spec: dict[str, Any],
    report: Report,
    work: Path,
    learn_share: float = 1.0,
) -> None:
    """Write train, validation and test Parquet and schema.json of the tables `files` below `folder` into `curated`.

    A table that is no tabular one, but texts and their labels, is handed on. `learn_share` is the share of the rows
    that a training machine holds. Raises RejectedError.
    """
    data = spec.get("data") or {}
    into = Curated(str(curated), lambda name, document: write_json(curated / name, document))
    whole = learn_share >= 1
    if whole and process_guess.applies(files, spec) and _process_quickly(folder, files, into, spec, report, work):
        return
    with tables.connect(work) as connection:
        table = tables.load(connection, folder, files, data.get("target"))
        judge_and_write(connection, table, Dropped(folder, files), into, spec, report, learn_share)


def _process_quickly(
    folder: Path, files: list[Path], curated: Curated, spec: dict[str, Any], report: Report, work: Path
) -> bool:
    """Do what `process` does the quick way; return False where only the slow way is exact."""
    from ebb_jobs import process_quick  # needs pyarrow, which is not where Spark runs this program

    own = work / "quick"
    own.mkdir()
    try:
        with tables.connect(own, process_quick.MOST_MB, kept=False) as connection:
            for file in files:
                with file.open("rb") as stream:
                    if not stream.read(1):
                        raise process_guess.NotQuickError("an empty file")
            found = process_quick.process(connection, folder, files, spec, own, Path(curated.place))
        names, form, target = found.table
        for what, decided in (("format", form), ("target", target), ("task", found.task)):
            report.decide(what, decided.value, decided.reason)
        _write_outcome(
            report,
            curated,
            names=names,
            columns=found.columns,
            target=target.value,
            task=found.task.value,
            classes=found.classes,
            rows={"read": found.read, "kept": found.kept, "duplicates": found.read - found.kept, **found.rows},
            group=None,
            stays=_stays(spec, by_numbers=found.by_numbers),
            by_numbers=found.by_numbers,
        )
    except (process_guess.NotQuickError, RejectedError, UnicodeDecodeError, duckdb.OutOfMemoryException) as error:
        # A rejection too: what is wrong with a sample is not said in the file's words.
        refused = "to be refused"
        known = {RejectedError: refused, UnicodeDecodeError: refused, duckdb.OutOfMemoryException: "memory"}
        why = known.get(type(error), str(error))
        print(f"read as text: {why}", flush=True)
        for split in SPLITS:
            shutil.rmtree(Path(curated.place) / f"{split}.parquet", ignore_errors=True)
        return False
    finally:
        shutil.rmtree(own)
    return True


def judge_and_write(
    connection: duckdb.DuckDBPyConnection,
    table: tables.Loaded,
    drop: Dropped,
    curated: Curated,
    spec: dict[str, Any],
    report: Report,
    learn_share: float = 1.0,
) -> None:
    """Do what `process` does, with the table `raw` that holds nothing but texts.

    This is the program that both engines run, on a connection to DuckDB or on Spark's (`process_spark`), so it keeps to
    the SQL that `spark_sql` can say in Spark's words. Raises RejectedError.
    """
    data = spec.get("data") or {}
    asked, text, group = data.get("target"), data.get("input"), data.get("group")
    names, target = table.columns, table.target
    told = refusals.find_target(names, asked)
    if found := _texts_by_name(connection, names, told, spec.get("task"), asked, text):
        _hand_on(connection, drop, found, curated, spec, report, learn_share)
        return
    if group is not None and (group not in names or group == target.value):
        raise RejectedError(refusals.group_missing(group, names))
    read = _remove_duplicates(connection, names)
    task = process_target.judge(connection, told, spec.get("task"), *drop)
    others = [name for name in names if name != target.value]
    columns = typing_rules.profile(connection, "kept", others)
    numeric = {column.name for column in columns if typing_rules.is_number(column.counts)}
    numeric |= {target.value} if task.value == infer.REGRESSION else set()
    if numeric and _merge_spellings(connection, names, numeric):
        task = process_target.judge(connection, told, spec.get("task"), *drop)
        columns = typing_rules.profile(connection, "kept", others)
    _leave_out_group(columns, group)
    used = [column for column in columns if column.kind != "dropped"]
    if not spec.get("task") and (only := process_texts.only_text(connection, "kept", columns, target)):
        _hand_on(connection, drop, only, curated, spec, report, learn_share)
        return
    if not used:
        raise RejectedError(
            Rejection(
                "no-feature",
                "no column besides the target can be learned from: "
                + "; ".join(f"column {names.index(column.name) + 1}: {column.reason}" for column in columns[:5]),
                remedy="Add columns that say something about the target.",
            )
        )
    classes = process_target.classes(connection, told) if task.value == infer.CLASSIFICATION else None
    own = Own(*(free_name(f"ebb_{field}", names) for field in Own._fields))
    _type(connection, used, target.value, group)
    kept = scalar(connection, "SELECT count(*) FROM kept")
    numbers = [column.name for column in used if column.kind == "numeric"]
    features = process_key.of([column.name for column in used if column.kind != "numeric"], numbers)
    fixed = group is not None or process_split.appended(spec) or kept < process_key.LEAST_ROWS
    by = process_key.of_numbers(numbers) if numbers and not fixed else None
    by = by if by and process_split.told_apart(connection, by) else None
    rows = process_split.place(
        connection,
        features if group is None else quote(group),
        target.value,
        len(classes) if classes else None,
        own,
        column=told.column,
        apart=None if group is None else features,
        by=by,
    )
    if learn_share < 1:
        placed = sum(rows[split] for split in SPLITS)
        of_class = target.value if classes else None
        rows |= process_split.take_sample(connection, of_class, own, learn_share, by or process_key.digest(""))
        rows["beyond_sample"] = placed - sum(rows[split] for split in SPLITS)
    # Decisions quote the target's name. Up to here it may be a value: of a row that stands where names should.
    for what, decided in (("format", table.form), ("target", target), ("task", task)):
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
        group=group,
        stays=_stays(spec, by_numbers=by is not None),
        by_numbers=by is not None,
    )


def _stays(spec: dict[str, Any], *, by_numbers: bool) -> str:
    """Say what becomes of a row's side when data is added."""
    if by_numbers:
        return (
            "no text is hashed, because the numbers tell so many rows apart; with data.mode append all features are, "
            "so the first such run deals the rows anew and trains afresh"
        )
    same = "a row keeps its side when data is added"
    if (spec.get("data") or {}).get("group") is not None:
        return same
    same += ", as long as the same columns are used"
    if process_split.appended(spec):
        return same
    return f"{same} and rows are fewer than {process_key.LEAST_ROWS:,} or data.mode is append"


def _hand_on(
    connection: duckdb.DuckDBPyConnection,
    drop: Dropped,
    found: process_texts.Found,
    curated: Curated,
    spec: dict[str, Any],
    report: Report,
    learn_share: float,
) -> None:
    """Let `process_texts` process a table of texts, which it reads anew. Raises RejectedError."""
    if not drop.files or learn_share < 1:
        raise RejectedError(refusals.too_many_texts())
    process_texts.process(connection, *drop, found, Path(curated.place), spec, report)


def _texts_by_name(
    connection: duckdb.DuckDBPyConnection,
    names: list[str],
    told: refusals.Target,
    task: str | None,
    asked: str | None,
    text: str | None,
) -> process_texts.Found | None:
    """Return the texts of a table that the spec calls one, or whose texts stand last; None for a tabular one."""
    if task == infer.TEXTS or (text and not task):
        return process_texts.find_column(connection, "raw", names, target=asked, text=text)
    return None if task else process_texts.text_that_ends(connection, "raw", names, told)


def _leave_out_group(columns: list[typing_rules.Column], group: str | None) -> None:
    """Make the column that names the groups one that is not learned from. Raises RejectedError when it has gaps."""
    for column in columns:
        if column.name == group:
            if column.counts["missing"]:
                raise RejectedError(refusals.group_empty(group, column.counts["missing"]))
            column.kind, column.reason = "dropped", "named by data.group: it says which rows stay together"


def _remove_duplicates(connection: duckdb.DuckDBPyConnection, names: list[str]) -> int:
    """Leave rows that differ as texts, in the table `kept`, and return how many were read."""
    read = scalar(connection, "SELECT count(*) FROM raw")
    if read == 0:
        raise RejectedError(Rejection("no-rows", "the drop holds no rows", remedy="Add the rows."))
    connection.execute(f"CREATE TABLE kept AS SELECT DISTINCT {', '.join(map(quote, names))} FROM raw")
    connection.execute("DROP TABLE raw")
    return read


def _merge_spellings(connection: duckdb.DuckDBPyConnection, names: list[str], numeric: set[str]) -> bool:
    """Make one row of those in `kept` that differ in nothing but how numbers are spelt; tell whether there were any."""
    values = [number(quote(name)) if name in numeric else quote(name) for name in names]
    own = [free_name(f"ebb_value_{place}", names) for place in range(len(names))]
    typed = ", ".join(f"{value} AS {name}" for value, name in zip(values, own, strict=True))
    before = scalar(connection, "SELECT count(*) FROM kept")
    if scalar(connection, f"SELECT count(*) FROM (SELECT DISTINCT {typed} FROM kept)") == before:
        return False
    fields = ", ".join(f"min({quote(name)}) AS {quote(name)}" for name in names)
    connection.execute(
        f"CREATE TABLE merged AS SELECT {fields} FROM (SELECT *, {typed} FROM kept) GROUP BY {', '.join(own)}"
    )
    connection.execute("DROP TABLE kept")
    connection.execute("ALTER TABLE merged RENAME TO kept")
    return True


def _type(
    connection: duckdb.DuckDBPyConnection, used: list[typing_rules.Column], target: str, group: str | None
) -> None:
    """Leave in `kept` the columns that are used, numbers as numbers."""
    fields = [
        f"{number(quote(column.name))} AS {quote(column.name)}" if column.kind == "numeric" else quote(column.name)
        for column in used
    ]
    others = [quote(name) for name in (target, group) if name is not None]
    connection.execute(f"CREATE TABLE typed AS SELECT {', '.join([*fields, *others])} FROM kept")
    connection.execute("DROP TABLE kept")
    connection.execute("ALTER TABLE typed RENAME TO kept")


def _write_parquet(
    connection: duckdb.DuckDBPyConnection,
    curated: Curated,
    used: list[typing_rules.Column],
    target: str,
    own: Own,
    *,
    numeric_target: bool,
) -> None:
    fields = _fields(used, target, numeric_target=numeric_target)
    for split in SPLITS:
        file = literal(f"{curated.place}/{split}.parquet")
        everything = ", ".join(map(quote, (column.name for column in used)))
        connection.execute(
            f"COPY (SELECT {', '.join(fields)} FROM placed WHERE {own.split} = '{split}' "
            f"ORDER BY {own.key}, {quote(target)}, {everything}) "
            f"TO {file} (FORMAT parquet, COMPRESSION zstd)"
        )


def _fields(used: list[typing_rules.Column], target: str, *, numeric_target: bool) -> list[str]:
    """Return the SQL of what a split holds: the columns that are learned from, and the target."""
    number = f"CAST({quote(target)} AS DOUBLE) AS {quote(target)}"
    return [*(quote(column.name) for column in used), number if numeric_target else quote(target)]


def _write_outcome(
    report: Report,
    curated: Curated,
    *,
    names: list[str],
    columns: list[typing_rules.Column],
    target: str,
    task: str,
    classes: list[str] | None,
    rows: dict[str, int],
    group: str | None,
    stays: str,
    by_numbers: bool,
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
        "duplicates",
        rows["duplicates"],
        "rows equal in every column, numbers by their value, are kept once",
        numbers={"read": rows["read"]},
    )
    learned_from = f"column {group}" if group is not None else "features' numbers" if by_numbers else "features"
    process_split.decide(report, rows, learned_from, given=False, stratified=classes is not None, stays=stays)
    if "beyond_sample" in rows:
        report.decide(
            "sample",
            f"{sum(rows[split] for split in SPLITS):,} rows",
            "no training machine holds them all: taken are those whose hash is lowest on each side, a fair sample, and "
            "part of every larger one",
            numbers={"left_out": rows["beyond_sample"]},
        )
    report.fields.update(
        task=task,
        target=target,
        rows=rows,
        classes=len(classes) if classes else None,
        features=[column.as_feature() for column in columns],
    )
    curated.write_json(
        "schema.json",
        {
            "version": 1,
            "kind": "tabular",
            "task": task,
            "columns": [name for name in names if name != target],
            "target": {"name": target, **({"classes": classes} if classes is not None else {})},
            "features": [column.as_feature() for column in used],
            **({"group": group} if group is not None else {}),
            "dropped": [{"name": column.name, "reason": column.reason} for column in dropped],
            "split_by": learned_from,
            "rows": rows,
        },
    )
