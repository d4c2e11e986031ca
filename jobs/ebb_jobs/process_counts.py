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
import pyarrow as pa
import pyarrow.compute as pc

from ebb_jobs import (
    infer,
    process_columns,
    process_key,
    process_split,
    process_target,
    refusals,
    spelling,
    typing_rules,
)
from ebb_jobs.process_guess import Guess, NotQuickError, OtherSpellingsError
from ebb_jobs.rejection import RejectedError
from ebb_jobs.sql import literal, quote

FEW = 12_000
SHARE = 64
_BOUND = 2**64 // SHARE
SURE_GROUPS_SHARE = 16
MANY = 100
"""As many different rows of a class on a side are beyond doubt: no row is moved there for want of others."""
SIDES = ("test", "validation", "train")
"""In the order of their keys."""


class _Different:
    """How many values differ: their hashes while they are few, then those of one in SHARE."""

    def __init__(self) -> None:
        self._hashes: np.ndarray = np.empty(0, dtype=np.uint64)
        self.few = True

    def look(self, connection: duckdb.DuckDBPyConnection, values: pa.Array) -> tuple[np.ndarray, bool]:
        """Return the hashes of a chunk's values, none of them a gap, and whether those are all."""
        if self.few and len(values[: 2 * FEW].unique()) <= FEW and len(different := values.unique()) <= FEW:
            return process_columns.hashes(connection, different), True
        found = process_columns.hashes(connection, values)
        return np.unique(found[found < _BOUND]), False

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
    """Sums over chunks."""

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

    def add(self, connection: duckdb.DuckDBPyConnection, table: pa.Table, keys: np.ndarray, sides: np.ndarray) -> None:
        """Count rows, the side of each given as a place in SIDES. Raises NotQuickError for what the slow way reads."""
        guess = self._guess
        columns = {name: process_columns.one(table[name]) for name in table.column_names}
        filled = {name: columns[name].drop_null() for name in (*guess.numbers, *guess.many)}
        texts = {name: process_columns.counted(columns[name]) for name in (*guess.labels, *guess.few)}
        sums = self._sums_of(connection, filled, texts) | {"rows": len(table)}
        of_sides, distinct = self._of_sides(columns[guess.target.value], keys, sides)
        groups = self._numbers_of_rows(connection, table, keys)
        different = {name: each.look(connection, filled[name]) for name, each in self._different.items()}
        for name, few in self._few.items():
            found = {name: pa.array(texts[name].keys(), pa.string()), "ebb_rows": pa.array(texts[name].values())}
            connection.register("found", pa.table(found))
            connection.execute(f"INSERT INTO {few} FROM found")
            connection.unregister("found")
        with self._lock:
            self._sums.update(sums)
            for name in guess.labels:
                self._labels[name].update(texts[name])
            self._sides.update(of_sides)
            for which, several in distinct.items():
                self._keys[which] = max(self._keys[which], several)
            if groups is not None:
                self._groups.append(groups)
            for name, numbers in self._numbered.items():
                numbers.add(filled[name].to_numpy(zero_copy_only=False))
            for name, (hashes, complete) in different.items():
                self._different[name].add(hashes, complete=complete)

    def _sums_of(
        self, connection: duckdb.DuckDBPyConnection, filled: dict[str, pa.Array], texts: dict[str, dict[Any, int]]
    ) -> dict[str, int]:
        """Return what is added up over the rows, by the column's place and what it is."""
        guess, sums = self._guess, {}
        for name in (*guess.numbers, *guess.many):
            sums[f"{guess.names.index(name)} present"] = len(filled[name])
        for name in guess.numbers:
            values = filled[name].to_numpy(zero_copy_only=False)
            if not np.isfinite(values).all():
                raise NotQuickError("a word that is read as a number")
            if name in guess.numbered or name == guess.target.value:
                whole = (values == np.floor(values)) & (np.abs(values) < 1e15)
                sums[f"{guess.names.index(name)} whole"] = int(np.count_nonzero(whole))
        unseen = [pa.array([text for text in texts[name] if text is not None], pa.string()) for name in guess.few]
        if any(map(process_columns.has_missing, (*unseen, *(filled[name] for name in guess.many)))):
            raise OtherSpellingsError("missing values are spelt in more ways than the sample shows")
        for name in guess.many:
            place, values = guess.names.index(name), filled[name]
            sums[f"{place} as number"] = pc.sum(pc.less(values, ":")).as_py() or 0  # numbers and dates begin below that
            if order := self._dates.get(name):
                dates = len(values)
                if order != process_columns.DATE_ORDER or not process_columns.are_moments(values):
                    connection.register("dates", pa.table({name: values}))
                    dates = process_split.scalar(
                        connection, f"SELECT count(*) FROM dates WHERE {_is_date(quote(name), order)}"
                    )
                    connection.unregister("dates")
                sums[f"{place} date"] = dates
            else:
                sums[f"{place} blanks"] = process_columns.blanks_in(values)
        return sums

    def _of_sides(
        self, target: pa.Array, keys: np.ndarray, sides: np.ndarray
    ) -> tuple[dict[tuple[Any, str], int], dict[tuple[Any, str], int]]:
        """Return the rows of each class on each side, and how many keys those have where MANY are not known of yet."""
        labels: list[str | None] = [""]
        codes: np.ndarray = np.zeros(len(sides), dtype=np.int64)
        if self._guess.task == infer.CLASSIFICATION:
            if self._guess.target.value not in self._guess.labels:
                raise NotQuickError("classes of many names")
            labels, codes = process_columns.coded(target)
        both = codes * len(SIDES) + sides
        found = np.bincount(both, minlength=len(labels) * len(SIDES))
        rows, distinct = {}, {}
        for place in np.flatnonzero(found):
            which = labels[place // len(SIDES)], SIDES[place % len(SIDES)]
            rows[which] = int(found[place])
            if self._keys[which] < MANY:
                mine = keys[both == place]
                some = len(np.unique(mine[: 4 * MANY]))
                distinct[which] = some if some >= MANY else len(np.unique(mine))
        return rows, distinct

    def _numbers_of_rows(
        self, connection: duckdb.DuckDBPyConnection, table: pa.Table, keys: np.ndarray
    ) -> np.ndarray | None:
        """Return the hashes of some rows' numbers, for `apart_by_numbers`."""
        guess = self._guess
        if not guess.used_numbers or guess.always_digest:
            return None
        if not guess.by_numbers:
            numbers = process_key.of_numbers(guess.used_numbers)
            connection.register("chunk", table)
            keys = connection.execute(
                f"SELECT {numbers.second('first')} AS key FROM (SELECT {numbers.first} AS first FROM chunk)"
            ).fetchnumpy()["key"]
            connection.unregister("chunk")
        keys = np.asarray(keys)
        return (keys[keys % self._every == 0] if self._every > 1 else keys).astype(np.int32)

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
