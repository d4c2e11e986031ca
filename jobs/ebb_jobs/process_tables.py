"""Tables: typed, checked, de-duplicated and split Parquet out, or a rejection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from ebb_jobs import infer, process_split, process_target, process_texts, refusals, spelling, tables, typing_rules
from ebb_jobs.process_split import SPLITS, Own, scalar
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import Report, write_json
from ebb_jobs.sql import free_name, literal, quote


def process(folder: Path, files: list[Path], curated: Path, spec: dict[str, Any], report: Report, work: Path) -> None:
    """Write train, validation and test Parquet and schema.json of the tables `files` below `folder` into `curated`.

    A table that is no tabular one, but texts and their labels, is handed on. Raises RejectedError.
    """
    data = spec.get("data") or {}
    asked, text = data.get("target"), data.get("input")
    with tables.connect(work) as connection:
        names, form, target = tables.load(connection, folder, files, asked)
        if spec.get("task") == infer.TEXTS or (text and not spec.get("task")):
            chosen = process_texts.find_column(connection, "raw", names, target=asked, text=text)
            process_texts.process(connection, folder, files, chosen, curated, spec, report)
            return
        told = refusals.find_target(names, asked)
        if not spec.get("task") and (found := process_texts.text_that_ends(connection, "raw", names, told)):
            process_texts.process(connection, folder, files, found, curated, spec, report)
            return
        read, kept = _remove_duplicates(connection, names)
        task = process_target.judge(connection, told, spec.get("task"), folder, files)
        columns = typing_rules.profile(connection, "kept", [name for name in names if name != target.value])
        used = [column for column in columns if column.kind != "dropped"]
        if not spec.get("task") and (only := process_texts.only_text(connection, "kept", columns, target)):
            process_texts.process(connection, folder, files, only, curated, spec, report)
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
        features = ", ".join(f"coalesce({_canonical(column)}, chr(30))" for column in used)
        rows = process_split.place(
            connection,
            f"concat_ws(chr(31), {features})",
            target.value,
            len(classes) if classes else None,
            own,
            column=told.column,
        )
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
        )


def _remove_duplicates(connection: duckdb.DuckDBPyConnection, names: list[str]) -> tuple[int, int]:
    read = scalar(connection, "SELECT count(*) FROM raw")
    if read == 0:
        raise RejectedError(Rejection("no-rows", "the drop holds no rows", remedy="Add the rows."))
    connection.execute(f"CREATE TABLE kept AS SELECT DISTINCT {', '.join(map(quote, names))} FROM raw")
    connection.execute("DROP TABLE raw")
    return read, scalar(connection, "SELECT count(*) FROM kept")


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
    process_split.decide(report, rows, "features", given=False, stratified=classes is not None)
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
            "kind": "tabular",
            "task": task,
            "columns": [name for name in names if name != target],
            "target": {"name": target, **({"classes": classes} if classes is not None else {})},
            "features": [column.as_feature() for column in used],
            "dropped": [{"name": column.name, "reason": column.reason} for column in dropped],
            "rows": rows,
        },
    )
