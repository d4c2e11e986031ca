"""What the columns of large CSV hold, added up over the chunks that `process_quick` reads.

The counts are those of `typing_rules`, from which the kinds follow. How many values differ is counted up to FEW; of
columns with more, those values are counted whose hash is one of SHARE, and their number is multiplied.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np

from ebb_jobs import infer, process_key, process_split, process_target, refusals, spelling, typing_rules
from ebb_jobs.process_guess import Guess, NotQuickError, OtherSpellingsError
from ebb_jobs.rejection import RejectedError
from ebb_jobs.sql import literal, quote

FEW = 12_000
SHARE = 64
_BOUND = 2**64 // SHARE
SURE_GROUPS_SHARE = 16
MANY = 100
"""As many different rows of a class on a side are beyond doubt: no row is moved there for want of others."""
_CANONICAL = ("____-__-__", "____-__-__ __:__:__")


class _Different:
    """How many values differ: their hashes while they are few, then those of one in SHARE."""

    def __init__(self) -> None:
        self._hashes: np.ndarray = np.empty(0, dtype=np.uint64)
        self.few = True

    def look(self, connection: duckdb.DuckDBPyConnection, name: str) -> tuple[np.ndarray, bool]:
        """Return the hashes of a chunk's values, and whether those are all."""
        value = f"hash({quote(name)})"
        query = f"SELECT DISTINCT {value} AS value FROM chunk WHERE {quote(name)} IS NOT NULL"
        if self.few:
            found = np.asarray(connection.execute(f"{query} LIMIT {FEW + 1}").fetchnumpy()["value"])
            if len(found) <= FEW:
                return found, True
        return np.asarray(connection.execute(f"{query} AND {value} < {_BOUND}").fetchnumpy()["value"]), False

    def add(self, found: np.ndarray, *, complete: bool) -> None:
        """Add what was found in a chunk."""
        self._hashes = np.union1d(self._hashes, found)
        if self.few and (not complete or len(self._hashes) > FEW):
            self.few = False
        if not self.few:
            self._hashes = self._hashes[self._hashes < _BOUND]

    @property
    def count(self) -> int:
        return len(self._hashes) * (1 if self.few else SHARE)


class _Numbered:
    """How many values of a column of whole numbers differ, exactly; four bytes each where they fit."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._ranges: list[tuple[int, int, int]] = []

    def add(self, values: np.ndarray) -> None:
        """Add a chunk's values, without gaps in them."""
        values = np.sort(values)
        different = values[np.append(True, values[1:] != values[:-1])] if len(values) else values
        if not len(different):
            return
        low, high = int(different[0]), int(different[-1])
        self._ranges.append((low, high, len(different)))
        self._parts.append(different.astype(np.uint32) if low >= 0 and high < 2**32 else different)

    def told(self) -> tuple[int, tuple[int, int] | None]:
        """Return how many values differ, and the least and the largest."""
        if not self._ranges:
            return 0, None
        ranges = sorted(self._ranges)
        bounds = ranges[0][0], max(high for _, high, _ in ranges)
        if all(one[1] < other[0] for one, other in pairwise(ranges)):
            return sum(count for _, _, count in ranges), bounds
        return len(np.unique(np.concatenate(self._parts))), bounds


class Counts:
    """Sums over chunks; each is the table `chunk` of a connection of its own."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, guess: Guess) -> None:
        """Count columns that are read as `guess` says; some counts are tables of `connection`."""
        self._guess = guess
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()
        self._labels: dict[str, Counter[Any]] = {name: Counter() for name in guess.labels}
        self._different = {name: _Different() for name in (*guess.numbers, *guess.many) if name not in guess.numbered}
        self._numbered = {name: _Numbered() for name in guess.numbered}
        self._sides: Counter[tuple[Any, str]] = Counter()
        self._keys: Counter[tuple[Any, str]] = Counter()
        self._groups: list[np.ndarray] = []
        self._every = 1 if guess.rows <= 2**20 else SURE_GROUPS_SHARE
        self._few = {name: f"ebb_texts_{place}" for place, name in enumerate(guess.few)}
        for name, table in self._few.items():
            connection.execute(f"CREATE TABLE {table} ({quote(name)} VARCHAR, ebb_rows BIGINT)")
        dates = {name: guess.kinds[name].extra.get("date_order", "") for name in guess.many}
        # Whether the day or the month comes first is told by all rows, not by a sample.
        self._dates = {name: order for name, order in dates.items() if order and "/" not in order}

    @property
    def tables(self) -> list[str]:
        """The tables that hold some of the counts."""
        return list(self._few.values())

    def add(self, connection: duckdb.DuckDBPyConnection, sides: dict[str, tuple[int, int]]) -> None:
        """Count the table `chunk`. Raises NotQuickError for what the slow way reads otherwise."""
        guess = self._guess
        sums = self._measures()
        found = (
            connection.execute(
                f"SELECT {', '.join(f'{sql} AS {quote(name)}' for name, sql in sums.items())} FROM chunk"
            ).fetchone()
            or ()
        )
        told = {name: value or 0 for name, value in zip(sums, found, strict=True)}
        if told.pop("endless"):
            raise NotQuickError("a word that DuckDB reads as a number")
        if told.pop("missing"):
            raise OtherSpellingsError("missing values are spelt in more ways than the sample shows")
        for name, order in self._dates.items():
            place, column = guess.names.index(name), quote(name)
            if told[f"{place} date"] < told[f"{place} present"]:
                counted = f"SELECT count(*) FROM chunk WHERE {_is_date(column, order)}"
                told[f"{place} date"] = process_split.scalar(connection, counted)
        labels = {
            name: dict(
                connection.execute(f"SELECT {quote(name)}, count(*) FROM chunk GROUP BY {quote(name)}").fetchall()
            )
            for name in guess.labels
        }
        target = quote(guess.target.value)
        stratum = target if guess.task == infer.CLASSIFICATION else "''"
        key = guess.own.key
        side = " ".join(f"WHEN {key} < {high} THEN '{name}'" for name, (_, high) in sides.items())
        of_sides = connection.execute(
            f"SELECT {stratum}, CASE {side} END, count(*), approx_count_distinct({key}) FROM chunk GROUP BY ALL"
        ).fetchall()
        groups = None
        if guess.used_numbers and not guess.always_digest:
            source, which = "chunk", f" WHERE {key} % {self._every} = 0" if self._every > 1 else ""
            if not guess.by_numbers:
                numbers = process_key.of_numbers(guess.used_numbers)
                firsts = f"(SELECT {numbers.first} AS first FROM chunk)"
                source = f"(SELECT {numbers.second('first')} AS {key} FROM {firsts})"
            query = f"SELECT CAST({key} AS INTEGER) AS key FROM {source}{which}"
            groups = connection.execute(query).fetchnumpy()["key"]
        whole = {
            name: connection.execute(f"SELECT {quote(name)} AS value FROM chunk").fetchnumpy()["value"]
            for name in guess.numbered
        }
        different = {name: each.look(connection, name) for name, each in self._different.items()}
        for name, table in self._few.items():
            connection.execute(f"INSERT INTO {table} SELECT {quote(name)}, count(*) FROM chunk GROUP BY {quote(name)}")
        with self._lock:
            self._sums.update(told)
            for name, texts in labels.items():
                self._labels[name].update(texts)
            for label, where, rows, keys in of_sides:
                self._sides[label, where] += rows
                self._keys[label, where] = max(self._keys[label, where], keys)
            if groups is not None:
                self._groups.append(np.asarray(groups))
            for name, values in whole.items():
                self._numbered[name].add(np.ma.compressed(values))
            for name, (hashes, complete) in different.items():
                self._different[name].add(hashes, complete=complete)

    def _measures(self) -> dict[str, str]:
        """Return what is added up over the rows, as SQL, by the column's place and what it is."""
        guess = self._guess
        sums = {"rows": "count(*)"}
        largest = [f"max(abs({quote(name)}))" for name in guess.numbers]  # NaN is more than all else
        sums["endless"] = " OR ".join(f"coalesce({most} >= 'inf'::DOUBLE, false)" for most in largest) or "false"
        words = ", ".join(map(literal, sorted(spelling.MISSING)))
        short = max(map(len, spelling.MISSING))
        unseen = [
            f"count(*) FILTER (strlen({quote(name)}) <= {short} AND lower({quote(name)}) IN ({words}))"
            for name in (*guess.few, *guess.many)
        ]
        sums["missing"] = " + ".join(unseen) or "0"
        for name in guess.numbers:
            place, column = guess.names.index(name), quote(name)
            sums[f"{place} present"] = f"count({column})"
            if name in guess.numbered or name == guess.target.value:
                sums[f"{place} whole"] = f"count(*) FILTER ({column} = floor({column}) AND abs({column}) < 1e15)"
        for name in guess.many:
            place, column = guess.names.index(name), quote(name)
            sums[f"{place} present"] = f"count({column})"
            sums[f"{place} as number"] = f"count(*) FILTER ({column} < ':')"  # numbers and dates begin below that
            if name in self._dates:
                sums[f"{place} date"] = f"count(*) FILTER ({_is_moment(column)})"
            else:
                blanks = f"length({column}) - length(replace({column}, ' ', ''))"
                sums[f"{place} blanks"] = f"sum(CASE WHEN contains({column}, ' ') THEN {blanks} ELSE 0 END)"
        return sums

    def columns(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> list[typing_rules.Column]:
        """Return the columns with their kinds. Raises NotQuickError where a count is too near to a threshold."""
        return [self._column(connection, name) for name in names]

    def _column(self, connection: duckdb.DuckDBPyConnection, name: str) -> typing_rules.Column:
        if name in self._labels or name in self._few:
            self._make_texts(connection, name)
            return typing_rules.of_texts(connection, name)
        rows, place = self._sums["rows"], self._guess.names.index(name)
        present = self._sums[f"{place} present"]
        counts: dict[str, Any] = {"rows": rows, "present": present, "missing": rows - present, "words": 1.0}
        counts |= {"numbers": 0, "whole": 0, "true": 0, "false": 0, **dict.fromkeys(spelling.DATE_PATTERNS, 0)}
        if name in self._guess.numbered:
            counts["distinct"], bounds = self._numbered[name].told()
            counts |= {"numbers": present, "whole": self._sums[f"{place} whole"], "estimated": False}
            counts["bounds"] = bounds if counts["whole"] == rows else None
            return typing_rules.typed(connection, "", typing_rules.Column(name, counts))
        counts["distinct"] = self._different[name].count
        counts["estimated"] = counts["distinct"] > 10_000 and not self._different[name].few
        if name in self._guess.numbers:
            counts["numbers"] = present
            if counts["estimated"] and counts["distinct"] >= 0.7 * rows and self._guess_is_whole(name):
                raise NotQuickError("a number that may be that of a row")
            return typing_rules.typed(connection, "", typing_rules.Column(name, counts))
        order = self._dates.get(name)
        counts["words"] = 1 + self._sums[f"{place} blanks"] / max(present, 1)
        if order:
            counts[order] = self._sums[f"{place} date"]
            if self._sums[f"{place} date"] < typing_rules.ALMOST_ALL * present:
                raise NotQuickError("dates that the sample does not settle")
        elif self._sums[f"{place} as number"] >= typing_rules.ALMOST_ALL * present:
            raise NotQuickError("texts that begin as numbers and dates do")
        elif counts["estimated"] and typing_rules.must_be_exact(counts["distinct"], rows, present):
            raise NotQuickError("nearly half of the texts differ")
        return typing_rules.typed(connection, "", typing_rules.Column(name, counts))

    def _guess_is_whole(self, name: str) -> bool:
        counts = self._guess.kinds[name].counts
        return bool(counts["whole"] == counts["rows"])

    def _make_texts(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make the table `texts` of a column's different texts and the rows of each."""
        column = quote(name)
        if name in self._few:
            source = f"SELECT {column}, CAST(sum(ebb_rows) AS BIGINT) AS ebb_rows FROM {self._few[name]} GROUP BY 1"
        else:
            told = (
                f"({'NULL' if text is None else literal(text)}, {rows})" for text, rows in self._labels[name].items()
            )
            source = f"SELECT CAST(a AS VARCHAR) AS {column}, b AS ebb_rows FROM (VALUES {', '.join(told)}) AS t(a, b)"
        connection.execute(f"CREATE OR REPLACE TEMP TABLE texts AS {source}")

    def apart_by_numbers(self, guess: Guess) -> bool:
        """Tell whether the hash of many rows' numbers spreads them. Raises NotQuickError where that is hard to say."""
        if guess.always_digest or not self._groups or self._sums["rows"] < process_key.LEAST_ROWS:
            return False
        _, sizes = np.unique(np.concatenate(self._groups), return_counts=True)
        rows, squares = float(sizes.sum()) * self._every, float((sizes.astype(float) ** 2).sum()) * self._every
        answers = {process_key.suffices(rows, squares * off) for off in ((0.7, 1.4) if self._every > 1 else (1,))}
        if len(answers) > 1:
            raise NotQuickError("numbers that hardly tell rows apart")
        return answers.pop()

    def target(self, name: str) -> process_target.Measured:
        """Return what `process_target` judges. Raises NotQuickError for classes that are spelt in several ways."""
        rows = self._sums["rows"]
        if name in self._labels:
            labels = self._labels[name]
            numeric = all(text is None or spelling.is_number(text) for text in labels)
            if numeric and not all(text is None or _is_plain_whole(text) for text in labels):
                raise NotQuickError("classes that are numbers, but not whole ones in one spelling")
            present = rows - labels[None]
            distinct = len(labels.keys() - {None})
            numbers = sum(count for text, count in labels.items() if text is not None and spelling.is_number(text))
            measured = process_target.Measured(rows, present, distinct, numbers, rows if numeric else 0, distinct)
        elif name in self._guess.numbers:
            place, distinct = self._guess.names.index(name), self._different[name].count
            present, wholes = self._sums[f"{place} present"], self._sums[f"{place} whole"]
            measured = process_target.Measured(rows, present, distinct, present, wholes, distinct)
        else:
            raise NotQuickError("classes of many names")
        if measured.present < rows:
            raise NotQuickError("gaps in the target")
        return measured

    def classes(self, told: refusals.Target) -> list[str]:
        """Return the class labels in their order. Raises RejectedError when a class has too few rows."""
        counts = self._labels[told.name]
        if rare := refusals.rare_classes(told, list(counts.values())):
            raise RejectedError(rare)
        return process_split.in_order(list(counts))

    def sides(self, target: str, classes: list[str] | None) -> dict[str, int]:
        """Return the rows of each side. Raises NotQuickError when a class is so rare that rows may have to be moved."""
        strata = classes if classes is not None else [""]
        if min(self._keys[stratum, side] for stratum in strata for side in process_split.SPLITS) < MANY:
            raise NotQuickError("a class is rare on one of the sides")
        sides = {side: sum(self._sides[stratum, side] for stratum in strata) for side in process_split.SPLITS}
        return sides | {"unsettled": 0}


def _is_plain_whole(text: str) -> bool:
    return abs(float(text)) < 2**53 and float(text).is_integer() and str(int(float(text))) == text


def _is_date(column: str, order: str) -> str:
    """Return the SQL that tells a date by its pattern."""
    return f"regexp_full_match({column}, {literal(spelling.DATE_PATTERNS[order])})"


def _is_moment(column: str) -> str:
    """Return the SQL that tells some of the dates in year-month-day, and nothing else, without a pattern."""
    forms = " OR ".join(f"(strlen({column}) = {len(form)} AND {column} LIKE '{form}')" for form in _CANONICAL)
    return f"({forms}) AND {column} >= '0' AND TRY_CAST({column} AS TIMESTAMP) IS NOT NULL"
