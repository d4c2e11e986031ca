"""Which kind each column is, from counts over the full data, with the reason for every column that is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import duckdb

from ebb_jobs import infer, spelling, tabular
from ebb_jobs.sql import literal, number, quote

MAX_PLAIN_CATEGORIES = tabular.MAX_CATEGORIES
ALMOST_ALL = 0.95
ESTIMATE_ERROR = 0.15
"""Of a count of different values: three standard errors of Spark's estimate (5 %), more of DuckDB's."""
AT_ONCE = 25
"""Columns in one query: the time to plan one grows with the square of what it counts."""
ID_NAME = re.compile(r"(^|[_\W])(id|uuid|guid|index|key|rowid|unnamed)([_\W]|$)|id$", re.IGNORECASE)


@dataclass
class Column:
    """A column's counts and the kind that follows from them; kind `dropped` columns train nothing."""

    name: str
    counts: dict[str, Any]
    kind: str = "dropped"
    reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def as_feature(self) -> dict[str, Any]:
        """Return the column for reports: counts and words, no values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "missing": self.counts["missing"],
            "distinct": self.counts["distinct"],
            **({"distinct_estimated": True} if self.counts.get("estimated") else {}),
            "reason": self.reason,
            **self.extra,
        }


def profile(connection: duckdb.DuckDBPyConnection, table: str, names: list[str]) -> list[Column]:
    """Count what each column of a text table holds, and type it."""
    return [
        column
        for start in range(0, len(names), AT_ONCE)
        for column in _profile(connection, table, names[start : start + AT_ONCE])
    ]


def _profile(connection: duckdb.DuckDBPyConnection, table: str, names: list[str]) -> list[Column]:
    fields = [expression for name in names for expression in _measures(quote(name)).values()]
    found = connection.execute(f"SELECT count(*), {', '.join(fields)} FROM {table}").fetchone() or (0,)
    rows, values = found[0], iter(found[1:])
    profiled = [Column(name, {"rows": rows} | {measure: next(values) for measure in _measures("")}) for name in names]
    numbers = [column for column in profiled if is_number(column.counts)]
    values = {column.name: number(quote(column.name)) for column in numbers}  # 1 and 1.0 are one
    if values:
        told = ", ".join(f"approx_count_distinct({value})" for value in values.values())
        estimates = connection.execute(f"SELECT {told} FROM {table}").fetchone() or ()
        for column, estimate in zip(numbers, estimates, strict=True):
            column.counts["distinct"] = estimate + _words_among(column.counts)
    for column in profiled:  # one by one: Spark multiplies the rows by the number of columns that it counts at once
        counts = column.counts
        counts["estimated"] = not must_be_exact(counts["distinct"], rows, counts["present"])
        if not counts["estimated"]:
            value = values.get(column.name, quote(column.name))
            exact = connection.execute(f"SELECT count(DISTINCT {value}) FROM {table}").fetchone() or (0,)
            counts["distinct"] = exact[0] + (_words_among(counts) if column.name in values else 0)
    for column in profiled:
        column.counts["missing"] = rows - column.counts["present"]
    return [typed(connection, table, column) for column in profiled]


def is_number(counts: dict[str, Any]) -> bool:
    """Tell whether a column counts as one of numbers."""
    return bool(counts["numbers"] >= ALMOST_ALL * counts["present"] > 0)


def _words_among(counts: dict[str, Any]) -> int:
    """Return 1 where words stand among the numbers: all of them are one more value, a missing one."""
    return int(counts["numbers"] < counts["present"])


def of_texts(connection: duckdb.DuckDBPyConnection, name: str) -> Column:
    """Do what `profile` does for one column, of the table `texts`: its different texts, and `ebb_rows` of each."""
    column = quote(name)
    fields = []
    for measure, expression in _measures(column).items():
        if measure == "distinct":
            fields.append(f"count({column})")
        elif measure == "present":
            fields.append(f"coalesce(sum(ebb_rows) FILTER ({column} IS NOT NULL), 0)")
        elif measure == "words":
            spaces = f"length({column}) - length(replace({column}, ' ', '')) + 1"
            fields.append(f"sum(({spaces}) * ebb_rows) / sum(ebb_rows) FILTER ({column} IS NOT NULL)")
        else:
            fields.append(expression.replace("count(*)", "coalesce(sum(ebb_rows)", 1) + ", 0)")
    found = connection.execute(f"SELECT sum(ebb_rows), {', '.join(fields)} FROM texts").fetchone() or ()
    counts = dict(zip(("rows", *_measures(column)), found, strict=True))
    counts |= {measure: int(count) for measure, count in counts.items() if measure != "words"}
    counts |= {"estimated": False, "missing": counts["rows"] - counts["present"]}
    if is_number(counts):
        values = f"count(DISTINCT {number(column)})"
        found = connection.execute(f"SELECT {values} FROM texts").fetchone() or (0,)
        counts["distinct"] = found[0] + _words_among(counts)
    return typed(connection, "texts", Column(name, counts))


def _measures(column: str) -> dict[str, str]:
    """Return what is counted of a quoted column, as SQL."""
    return {
        "present": f"count({column})",
        "distinct": f"approx_count_distinct({column})",
        "numbers": f"count(*) FILTER ({_matches(column, spelling.NUMBER.pattern)})",
        "whole": f"count(*) FILTER ({_matches(column, '[+-]?[0-9]{1,15}')})",
        "true": f"count(*) FILTER (lower({column}) IN ({_tokens(spelling.TRUE_TOKENS)}))",
        "false": f"count(*) FILTER (lower({column}) IN ({_tokens(spelling.FALSE_TOKENS)}))",
        "words": f"avg(length({column}) - length(replace({column}, ' ', '')) + 1)",
        **{
            order: f"count(*) FILTER ({_matches(column, pattern)})" for order, pattern in spelling.DATE_PATTERNS.items()
        },
    }


def must_be_exact(estimate: int, rows: int, present: int) -> bool:
    """Tell whether an estimated count of different values could change a decision: engines estimate unlike."""
    return estimate <= 10_000 or any(
        abs(estimate - limit) <= ESTIMATE_ERROR * limit
        for limit in (0.9 * rows, 0.5 * present, infer.MIN_DISTINCT_SHARE * present)
    )


def typed(connection: duckdb.DuckDBPyConnection, table: str, column: Column) -> Column:
    """Return the column with the kind that follows from its counts, and the reason."""
    counts = column.counts
    present, distinct = counts["present"], counts["distinct"]
    if present == 0:
        column.reason = "empty in every row"
    elif distinct == 1 and not counts["missing"]:
        column.reason = "the same value in every row"
    elif is_number(counts):
        _type_number(connection, table, column)
    elif (order := max(spelling.DATE_PATTERNS, key=lambda order: counts[order])) and counts[
        order
    ] >= ALMOST_ALL * present:
        if "/" in order:
            order = _order_of_slashes(connection, table, column.name)
        column.kind, column.reason = "datetime", f"dates written {order}; year, month, weekday and hour are taken apart"
        column.extra = {"date_order": order, "lenient": counts[order] < present}
    elif counts["true"] + counts["false"] == present and distinct <= 4:
        column.kind, column.reason = "boolean", "true and false only"
    elif distinct <= MAX_PLAIN_CATEGORIES:
        column.kind, column.reason = "categorical", f"{distinct} different texts"
    elif infer.is_prose(counts["words"], distinct, present):
        column.reason = f"free text ({counts['words']:.1f} words on average): not used by a tabular model"
    elif distinct > 0.5 * present:
        told = f"{different(counts)} in {present}"
        column.reason = f"nearly every row has its own text ({told}): an identifier says nothing of new rows"
    else:
        column.kind = "categorical"
        column.reason = (
            f"{different(counts)} texts: the {MAX_PLAIN_CATEGORIES} most frequent have inputs of their own, "
            "the others share one and, where that pays, are known by the mean of the target"
        )
    return column


def different(counts: dict[str, Any]) -> str:
    """Return how many values differ, in words that tell an estimate from a count."""
    return f"about {counts['distinct']} different" if counts.get("estimated") else f"{counts['distinct']} different"


def _type_number(connection: duckdb.DuckDBPyConnection, table: str, column: Column) -> None:
    counts = column.counts
    unique_whole = (
        counts["whole"] == counts["rows"] and counts["distinct"] >= 0.9 * counts["rows"] and counts["rows"] >= 50
    )
    if unique_whole:
        whole = f"TRY_CAST({quote(column.name)} AS BIGINT)"
        if bounds := counts.get("bounds"):  # known already, and `distinct` exact
            low, high, exact = bounds[0], bounds[1], counts["distinct"]
        else:
            low, high, exact = connection.execute(
                f"SELECT min({whole}), max({whole}), count(DISTINCT {whole}) FROM {table}"
            ).fetchone() or (0, 0, 0)
        counted_up = high - low + 1 <= 1.05 * exact
        if exact == counts["rows"] and (counted_up or ID_NAME.search(column.name)):
            column.reason = "a row number or identifier: every row has its own whole number"
            return
    column.kind, column.reason = "numeric", f"numbers ({different(counts)})"
    others = counts["present"] - counts["numbers"]
    if others:
        column.extra = {"lenient": True}
        column.reason += f"; {others} values that are no numbers count as missing"


def _order_of_slashes(connection: duckdb.DuckDBPyConnection, table: str, name: str) -> str:
    """Tell day/month from month/day by a number above 12; without one, month/day is taken."""
    first = (
        f"max(TRY_CAST(regexp_extract({quote(name)}, "
        f"{literal(spelling.DATE_PATTERNS['month/day/year'])}, 1) AS INTEGER))"
    )
    largest = (connection.execute(f"SELECT {first} FROM {table}").fetchone() or (0,))[0] or 0
    return "day/month/year" if largest > 12 else "month/day/year"


def _matches(column: str, pattern: str) -> str:
    return f"regexp_full_match({column}, {literal(pattern)})"


def _tokens(tokens: frozenset[str]) -> str:
    return ", ".join(map(literal, sorted(tokens)))
