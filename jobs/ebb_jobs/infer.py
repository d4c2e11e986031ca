"""What the data is when nobody says so: format, delimiter, target and task, each with the reason in words.

Standard library only, and the only implementation: `process` judges the full data with it, the control plane the
first MiB.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ebb_jobs import spelling

CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"
SUPPORTED = "csv, parquet or jsonl (csv and jsonl also as .gz)"
TARGET_NAMES = (
    "target",
    "label",
    "labels",
    "class",
    "y",
    "outcome",
    "species",
    "response",
    "churn",
    "default",
    "survived",
)
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MAX_INTEGER_CLASSES = 20


class Inferred(NamedTuple):
    """A value that was concluded or asked for, and why."""

    value: Any
    reason: str


class Format(NamedTuple):
    """How the bytes of a file are to be read."""

    name: str
    compression: str | None


def file_format(name: str) -> Format | None:
    """Return the format that a file's name announces, None when it is not a supported one."""
    lower = name.lower()
    compression = "gzip" if lower.endswith(".gz") else None
    stem = lower.removesuffix(".gz")
    for suffix, found in ((".csv", "csv"), (".jsonl", "jsonl"), (".parquet", "parquet")):
        if stem.endswith(suffix):
            return None if found == "parquet" and compression else Format(found, compression)
    return None


def delimiter(sample: str) -> Inferred:
    """Return the delimiter under which the sample's first rows all have the header's number of cells.

    A delimiter that fits every row wins over one that splits the header into more cells: text columns
    are full of commas.
    """
    fits = {}
    for mark in DELIMITERS:
        rows = []
        try:
            for row in csv.reader(io.StringIO(sample, newline=""), delimiter=mark):
                if row:
                    rows.append(len(row))
                if len(rows) == 200:
                    break
        except csv.Error:
            continue
        if rows and rows[0] > 1:
            fits[mark] = (sum(width == rows[0] for width in rows) / len(rows), rows[0])
    if not fits:
        return Inferred(",", "the header has a single column, so that no delimiter shows")
    best = max(fits, key=lambda mark: fits[mark])
    share, width = fits[best]
    return Inferred(best, f"{DELIMITERS[best]}: {share:.0%} of the first rows have the header's {width} cells")


def target(columns: Sequence[str], asked: str | None = None) -> Inferred:
    """Return the column to predict. An asked one is taken as it is; whether it exists is judged elsewhere."""
    if asked:
        return Inferred(asked, "named by data.target in the spec")
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in TARGET_NAMES:
        if name == "y" and "x" in by_name and columns[-1] != by_name.get("y"):
            continue  # x and y are coordinates
        if name in by_name:
            return Inferred(by_name[name], f"the column is called {by_name[name]!r}; name another one with data.target")
    return Inferred(
        columns[-1],
        "the last column, because none is called target, label, class, y or outcome; name another one with data.target",
    )


def task(*, rows: int, distinct: int, numeric: bool, integral: bool, asked: str | None = None) -> Inferred:
    """Return the task from counts of the target's non-missing values."""
    if asked:
        return Inferred(asked, "named by task in the spec")
    if not numeric:
        return Inferred(CLASSIFICATION, f"the target holds text: {distinct} different values in {rows} rows")
    if distinct <= 2:
        return Inferred(CLASSIFICATION, f"the target has {distinct} different values")
    if integral and distinct <= MAX_INTEGER_CLASSES and rows >= 5 * distinct:
        return Inferred(
            CLASSIFICATION,
            f"the target holds {distinct} different whole numbers in {rows} rows; "
            f"write task: {REGRESSION} to predict the number itself",
        )
    return Inferred(REGRESSION, f"the target holds {distinct} different numbers in {rows} rows")


def task_of_values(values: Iterable[str], asked: str | None = None) -> Inferred:
    """Return the task from a sample of the target's texts."""
    kept = [value.strip() for value in values if value.strip().lower() not in spelling.MISSING_TARGET]
    numeric = all(map(spelling.is_number, kept)) if kept else False
    integral = numeric and all(float(value).is_integer() for value in kept)
    # As in `process`: beyond 2^53 floats no longer tell whole numbers apart, their text does.
    distinct = len({float(value) if numeric and abs(float(value)) < 2**53 else value for value in kept})
    return task(rows=len(kept), distinct=distinct, numeric=numeric, integral=integral, asked=asked)
