"""What the columns of large CSV look like in a sample from all over the files: which of them hold what.

A guess says how each column is read; `process_quick` counts all rows and gives up where the guess was wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from ebb_jobs import infer, process_key, process_split, spelling, tables, typing_rules
from ebb_jobs.process_split import scalar
from ebb_jobs.sql import free_name, quote

LEAST_BYTES = 64 * 2**20
"""Below this the slow way takes a few seconds."""
SAMPLES, SAMPLE_BYTES = 32, 2**15
FEW_IN_SAMPLE = 2000
"""A column of so few different texts in the sample: each is looked at once, with the number of its rows."""
LABELS, ROWS_PER_LABEL = 64, 16
"""As many texts, each seen so often, are all that a column holds, most likely: it is read as numbers of these texts."""


REPEATED = 0.75
"""Of the values of a sample, that many differ in a column of about as many values as the sample has rows."""


class NotQuickError(Exception):
    """Something that only the slow way does exactly; nothing that was written stays."""


class OtherSpellingsError(NotQuickError):
    """Missing values are spelt in ways that the sample does not show."""


class SameNumbersError(NotQuickError):
    """Rows differ in their texts alone, though in the sample all did in their numbers."""


class Own(NamedTuple):
    """The columns added to the data's: the hash of a whole row, and that of what is learned from."""

    row: str
    key: str


class Guess(NamedTuple):
    """How the columns are read, and which of them are learned from."""

    mark: str
    names: list[str]
    target: infer.Inferred
    task: str
    kinds: dict[str, typing_rules.Column]
    numbers: list[str]
    labels: dict[str, list[str]]
    few: list[str]
    many: list[str]
    """The rest: texts that nearly all differ."""
    numbered: list[str]
    """Of the numbers, what may be the number of a row."""
    used: list[str]
    used_numbers: list[str]
    missing: list[str]
    careful: bool
    """Missing values may be spelt in ways that the sample does not show."""
    always_digest: bool
    """The hash is of all that is learned from, whether or not its numbers tell rows apart."""
    by_numbers: bool
    """The hash of what is learned from is that of its numbers."""
    told_by_numbers: bool
    """Rows that differ do so in their numbers, so the hash of a whole row leaves out its texts, which take longest."""
    rows: int
    """About as many are in the files."""
    own: Own

    @property
    def key(self) -> tuple[str, str]:
        """The SQL of the hash of what is learned from, a whole number in the order of the hashes, in two steps.

        The second is of the column `own.key`, which holds the first: so that the first is computed once.
        """
        if self.by_numbers:
            key = process_key.of_numbers(self.used_numbers)
            return key.first, key.second(self.own.key)
        texts = [name for name in self.used if name not in self.used_numbers]
        return (
            f"md5({process_key.of(texts, self.used_numbers)})",
            f"CAST('0x' || substr({self.own.key}, 1, 16) AS UBIGINT)",
        )

    @property
    def whole(self) -> str:
        """The SQL of the columns that the hash of a whole row is of; the first step of `key` stands for its numbers."""
        if not self.by_numbers:
            return ", ".join(map(quote, self.names))
        columns = self.numbers if self.told_by_numbers else self.names
        return ", ".join([self.own.key, *(quote(name) for name in columns if name not in self.used_numbers)])

    def repeats(self, name: str) -> bool:
        """Tell whether a column's values come again so often that Parquet should keep each once."""
        counts = self.kinds[name].counts
        return bool(counts["distinct"] <= REPEATED * counts["present"])

    def without_labels(self) -> Guess:
        """Return the guess that columns hold more labels than the sample shows; those of the target are all."""
        name = self.target.value
        kept = {name: self.labels[name]} if name in self.labels else {}
        return self._replace(labels=kept, few=[*self.few, *(each for each in self.labels if each != name)])

    def with_all_spellings(self) -> Guess:
        """Return the guess that missing values are spelt in any way, in the usual capitals."""
        return self._replace(
            missing=sorted({spelt for word in spelling.MISSING for spelt in (word, word.upper(), word.title(), "NaN")})
        )

    def bound(self, share: float) -> int:
        """Return the hash below which a share of all lies."""
        return process_key.bound(share) if self.by_numbers else process_key.first_half(share)


def applies(files: Sequence[Path], spec: dict[str, Any]) -> bool:
    """Tell whether it is worth a try: plain CSV, large, and nothing asked for that the slow way alone knows."""
    data = spec.get("data") or {}
    asked = data.get("input") or data.get("group") or spec.get("task") == infer.TEXTS
    plain = all(infer.file_format(file.name) == infer.Format("csv", None) for file in files)
    return plain and not asked and sum(file.stat().st_size for file in files) >= LEAST_BYTES


def make(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[Path],
    asked: str | None,
    task: str | None,
    work: Path,
    *,
    always_digest: bool,
) -> Guess:
    """Return what the kinds of the columns look like. Raises NotQuickError and RejectedError."""
    with tables.open_text(files[0]) as stream:
        sample = stream.read(2**16)
    mark = infer.delimiter(sample).value
    place = work / "sample"
    place.mkdir()
    header = sample.partition("\n")[0] + "\n"
    (place / "sample.csv").write_bytes(header.encode() + b"".join(_pieces(files)))
    loaded = tables.load(connection, place, [place / "sample.csv"], asked)
    names, target = loaded.columns, loaded.target.value
    for file in files[1:]:
        with tables.open_text(file) as stream:
            if stream.readline() != header:
                raise NotQuickError("the files have headers of their own")
    rows = scalar(connection, "SELECT count(*) FROM raw")
    connection.execute("CREATE TABLE sampled AS SELECT DISTINCT * FROM raw")
    columns = {column.name: column for column in typing_rules.profile(connection, "sampled", names)}
    looks = columns[target].counts
    numeric = looks["numbers"] == looks["present"]
    guessed = infer.task(
        rows=looks["rows"],
        distinct=looks["distinct"],
        numeric=numeric,
        integral=looks["whole"] == looks["present"],
        asked=task,
    ).value
    if guessed == infer.REGRESSION and not numeric:
        raise NotQuickError("a number to learn that is a text")
    if not task and any(
        infer.is_prose(each.counts["words"] or 0, each.counts["distinct"], each.counts["present"])
        for each in columns.values()
    ):
        raise NotQuickError("texts")
    plain = [each for each in columns.values() if each.counts["numbers"] == each.counts["present"] > 0]
    numbers = [each.name for each in plain if each.name != target or guessed == infer.REGRESSION]
    labels = _labels(connection, [column for column in columns.values() if column.name not in numbers])
    share = (place / "sample.csv").stat().st_size / max(sum(file.stat().st_size for file in files), 1)
    others = [name for name in names if name != target]
    used = [name for name in others if columns[name].kind != "dropped" or _repeats(columns[name], share)]
    used_numbers = [name for name in used if name in numbers]
    if not used or {name for name in used if columns[name].kind == "numeric"} != set(used_numbers):
        raise NotQuickError("a column of numbers holds other texts")
    rest = [name for name in names if name not in numbers and name not in labels]
    few = [name for name in rest if columns[name].counts["distinct"] <= FEW_IN_SAMPLE and rows > 2 * FEW_IN_SAMPLE]
    found = Guess(
        mark=mark,
        names=names,
        target=loaded.target,
        task=guessed,
        kinds=columns,
        numbers=numbers,
        labels=labels,
        few=few,
        many=[name for name in rest if name not in few],
        numbered=[name for name in numbers if name != target and _may_be_numbered(columns[name].counts, share)],
        used=used,
        used_numbers=used_numbers,
        missing=_spellings((place / "sample.csv").read_bytes(), mark),
        careful=False,
        always_digest=always_digest,
        by_numbers=False,
        told_by_numbers=False,
        rows=round(rows / share),
        own=Own(*(free_name(f"ebb_{field}", names) for field in Own._fields)),
    )
    by_numbers = _apart_by_numbers(connection, found)
    found = found._replace(by_numbers=by_numbers, told_by_numbers=by_numbers and _told_by_numbers(connection, found))
    connection.execute("DROP TABLE raw")
    connection.execute("DROP TABLE sampled")
    return found


def _labels(connection: duckdb.DuckDBPyConnection, columns: Sequence[typing_rules.Column]) -> dict[str, list[str]]:
    """Return the texts of each column that holds few, in the order of their bytes, which is that of text in SQL."""
    found = {}
    for column in columns:
        if 0 < column.counts["distinct"] <= LABELS:
            name = quote(column.name)
            texts = connection.execute(
                f"SELECT {name}, count(*) FROM sampled WHERE {name} IS NOT NULL GROUP BY {name}"
            ).fetchall()
            if min(count for _, count in texts) >= ROWS_PER_LABEL:
                found[column.name] = sorted((text for text, _ in texts), key=str.encode)
    return found


def _may_be_numbered(counts: dict[str, int], share: float) -> bool:
    """Tell whether a column may hold a whole number for each row, which says nothing.

    Were there as many numbers as half of the rows, no more pairs of equals would be expected (see `_repeats`), but for
    chance: hence the 10.
    """
    pairs = counts["rows"] - counts["distinct"]
    return counts["whole"] == counts["rows"] and pairs <= 10 + 2 * counts["rows"] * min(share, 1)


def _apart_by_numbers(connection: duckdb.DuckDBPyConnection, guess: Guess) -> bool:
    if guess.always_digest or not guess.used_numbers or guess.rows < process_key.LEAST_ROWS:
        return False
    fields = ", ".join(f"TRY_CAST({quote(name)} AS DOUBLE) + 0e0 AS {quote(name)}" for name in guess.used_numbers)
    connection.execute(f"CREATE TEMP TABLE kept AS SELECT {fields} FROM sampled")
    apart = process_split.told_apart(connection, process_key.of_numbers(guess.used_numbers))
    connection.execute("DROP TABLE kept")
    return apart


def _told_by_numbers(connection: duckdb.DuckDBPyConnection, guess: Guess) -> bool:
    """Tell whether no two rows of the sample that differ have the same numbers."""
    fields = ", ".join(f"TRY_CAST({quote(name)} AS DOUBLE)" for name in guess.numbers)
    same = f"SELECT count(*) - count(DISTINCT hash({fields})) FROM sampled"
    return scalar(connection, same) == 0


def _repeats(column: typing_rules.Column, share: float) -> bool:
    """Tell whether a column of texts, nearly all different in a sample of some share, should repeat in all rows.

    As in the birthday problem: n rows over D values make about n^2 / (2 D) pairs of equals.
    """
    counts = column.counts
    pairs = counts["present"] - counts["distinct"]
    texts = counts["numbers"] < typing_rules.ALMOST_ALL * counts["present"] and counts["distinct"] > 1
    return texts and counts["present"] ** 2 * share < max(pairs, 1) * counts["present"]


def _pieces(files: Sequence[Path]) -> Iterator[bytes]:
    """Return whole lines from places spread evenly over the files; the first line of each place may be cut."""
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            for number in range(SAMPLES):
                stream.seek(size * number // SAMPLES)
                stream.readline()
                piece = stream.read(SAMPLE_BYTES)
                yield piece[: piece.rfind(b"\n") + 1]


def _spellings(sample: bytes, mark: str) -> list[str]:
    """Return the ways in which the sample writes missing values; each that the reader looks for costs time."""
    ends = re.escape(mark).encode() + rb'\r\n"'
    return sorted(
        {
            found.decode()
            for word in spelling.MISSING - {""}
            for found in re.findall(
                rb"(?<=[" + ends + rb"])(?i:" + re.escape(word).encode() + rb")(?=[" + ends + rb"])", sample
            )
        }
        | {""}
    )
