"""The program of `process_tables` for large CSV on one machine, with the same outcome from one pass over the text.

`process_tables` reads everything as text before it decides anything, because a column's kind follows from all of its
values. That is what costs, so here a sample guesses the kinds, and chunk after chunk is read into columns of those
kinds, freed of rows that were there before, counted, and written. What the counts of all chunks decide is what counts:
where it is not what the sample guessed, or where something stands in the file that only the slow way reads exactly,
what was written is removed and the slow way goes on.

The rows of each split are the same. They begin with the same ones, in the order of the hash, because later stages take
the first rows for a sample of all of them; HEAD_ROWS further on, rows stand as in the files.
"""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from ebb_jobs import (
    infer,
    process_columns,
    process_counts,
    process_guess,
    process_split,
    process_target,
    refusals,
    tables,
    typing_rules,
)
from ebb_jobs.process_chunks import BYTES, Chunk, Reader, Seen, among
from ebb_jobs.process_guess import Guess, NotQuickError, OtherSpellingsError, SameNumbersError
from ebb_jobs.process_split import HELD_OUT_SHARE, SPLITS, TEST_SHARE, scalar
from ebb_jobs.report import cpu_count
from ebb_jobs.sql import quote

MOST_MB = 700
"""Of memory for DuckDB."""
MOST_WORKERS = 4
"""Chunks at once: each takes some 150 MB."""
MOST_HASHES = 40_000_000
"""Of rows, whose hashes stay in memory: more is left to the slow way, which spills to disk."""
MANY_BYTES = 2 * 2**30
"""From here on chunks are half as large: hashes of many rows need their place, at a tenth more CPU time."""
HEAD_ROWS = 2**17


class Quick(NamedTuple):
    """What was decided of the rows that were written."""

    table: tables.Loaded
    read: int
    kept: int
    columns: list[typing_rules.Column]
    task: infer.Inferred
    classes: list[str] | None
    rows: dict[str, int]
    by_numbers: bool
    """The hash of the numbers alone says on which side a row stands."""


def process(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    files: list[Path],
    spec: dict[str, Any],
    work: Path,
    curated: Path,
) -> Quick:
    """Write the splits below `curated`, each a folder of parts. Raises NotQuickError and RejectedError."""
    asked = (spec.get("data") or {}).get("target")
    always_digest = process_split.appended(spec)
    guess = process_guess.make(connection, files, asked, spec.get("task"), work, always_digest=always_digest)
    told = refusals.find_target(guess.names, asked)
    process_columns.keep_pages()
    connection.execute("SET threads = 1")  # each worker brings its own
    for last in (False, False, True):
        if guess.rows > MOST_HASHES:
            raise NotQuickError("more rows than hashes fit in memory")
        size = BYTES // 2 if sum(file.stat().st_size for file in files) >= MANY_BYTES else BYTES
        run = _Run(connection, guess, Reader(files, guess.mark, size), work, curated)
        try:
            run.read()
            run.check_rows_that_came_late()
            columns = run.counts.columns(connection, [name for name in guess.names if name != told.name])
        except (OtherSpellingsError, SameNumbersError) as error:
            if last:
                raise
            run.undo()
            spelt = isinstance(error, OtherSpellingsError)
            guess = guess._replace(careful=True) if spelt else guess._replace(told_by_numbers=False)
            continue
        except duckdb.ConversionException as error:
            wider = guess.without_labels() if "ENUM" in str(error) else guess.with_all_spellings()
            if last or wider == guess:
                raise NotQuickError("the sample guessed other kinds") from error
            run.undo()
            guess = wider
            continue
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise NotQuickError("the sample guessed other kinds, or a row is wrong") from error
        used = [column.name for column in columns if column.kind != "dropped"]
        numeric = [column.name for column in columns if column.kind == "numeric"]
        by_numbers = bool(numeric) and run.counts.apart_by_numbers(guess)
        if (used, numeric, by_numbers) == (guess.used, guess.used_numbers, guess.by_numbers):
            break
        if last or not used or not set(numeric) <= set(guess.numbers):
            raise NotQuickError("the sample guessed other columns")
        run.undo()
        # Other columns are written, or the hash is of others: once more.
        guess = guess._replace(used=used, used_numbers=numeric, by_numbers=by_numbers)
    measured = run.counts.target(told.name)
    task = process_target.decide(told, spec.get("task"), measured, folder, files)
    if task.value != guess.task:
        raise NotQuickError("the sample guessed another task")
    classes = run.counts.classes(told) if task.value == infer.CLASSIFICATION else None
    rows = run.counts.sides(told.name, classes)
    run.write_heads()
    form = tables.told_form("csv", [str(file.relative_to(folder)) for file in files])
    loaded = tables.Loaded(guess.names, form, guess.target)
    return Quick(
        loaded, run.rows_read, sum(rows[side] for side in SPLITS), columns, task, classes, rows, guess.by_numbers
    )


class _Rows(NamedTuple):
    """Rows, the hash of each whole row (uint64) and that of what is learned from (uint64 or int64)."""

    table: pa.Table
    hashes: np.ndarray
    keys: np.ndarray


class _Run:
    """One pass over the files: what it has read, and what it has written."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, guess: Guess, reader: Reader, work: Path, curated: Path
    ) -> None:
        self._connection, self._guess, self._reader = connection, guess, reader
        self._work, self._curated = work, curated
        self._seen = Seen(guess.rows)
        self._chunks: dict[int, Chunk] = {}
        self._turn = threading.Condition()
        self._next = 0
        self._failed = False
        self.rows_read = 0
        self.counts = process_counts.Counts(connection, guess)
        self._written = [*guess.used, guess.target.value]
        limits = [guess.bound(share) for share in (0, TEST_SHARE, HELD_OUT_SHARE, 1)]
        self._sides = dict(zip(("test", "validation", "train"), pairwise(limits), strict=True))
        self._all_in_head = guess.rows <= 2 * HEAD_ROWS
        self._heads = {
            side: high if self._all_in_head else low + (high - low) * HEAD_ROWS // guess.rows
            for side, (low, high) in self._sides.items()
        }
        for split in SPLITS:
            (curated / f"{split}.parquet").mkdir()
        for table in ("heads", "late", "early"):
            connection.execute(f"CREATE TABLE {table} AS {self._nothing()}")

    def read(self) -> None:
        """Work on all chunks, several at once. Raises what the first that failed raised."""
        workers = min(cpu_count(), MOST_WORKERS)
        with ThreadPoolExecutor(workers) as pool:
            ended = [pool.submit(self._work_on_chunks, number) for number in range(workers)]
        errors = [error for each in ended if (error := each.exception()) is not None]
        for error in errors:
            if not isinstance(error, _OtherFailedError):
                raise error

    def _work_on_chunks(self, worker: int) -> None:
        file = self._work / f"chunk-{worker}.csv"
        connection = self._connection.cursor()
        try:
            while not self._failed and (chunk := self._reader.next(file)):
                self._chunks[chunk.number] = chunk._replace(data=memoryview(b""))
                self._work_on(connection, chunk, file)
        except BaseException:
            with self._turn:
                self._failed = True
                self._turn.notify_all()
            raise
        finally:
            connection.close()

    def _work_on(self, connection: duckdb.DuckDBPyConnection, chunk: Chunk, file: Path) -> None:
        rows = self._read(connection, chunk, file)
        with self._turn:  # in the order of the files, so that the same rows are written again
            self._turn.wait_for(lambda: self._failed or self._next == chunk.number)
            if self._failed:
                raise _OtherFailedError
            twice, late = self._seen.add(chunk.number, rows.hashes)
            self.rows_read += len(rows.hashes)
            self._next += 1
            self._turn.notify_all()
        self._sort_and_write(connection, rows, self._staying(connection, rows, twice, late), chunk.number)

    def _sort_and_write(
        self, connection: duckdb.DuckDBPyConnection, rows: _Rows, stay: np.ndarray, number: int
    ) -> None:
        """Count the rows that stay, and write them; those that belong to the beginning of their split, apart.

        One copy of the columns leaves out what does not stay and puts the rows of each side together.
        """
        places = np.flatnonzero(stay)
        keys = rows.keys[places]
        sides = (keys >= self._sides["test"][1]).astype(np.int8) + (keys >= self._sides["train"][0])
        groups = sides.copy()
        for place, side in enumerate(self._sides):
            groups[(sides == place) & (keys < self._heads[side])] = len(self._sides)
        order = np.argsort(groups, kind="stable")
        places = places[order]
        rows = _Rows(rows.table.take(pa.array(places)), rows.hashes[places], rows.keys[places])
        self.counts.add(connection, rows.table, rows.keys, sides[order])
        begin = 0
        written = rows.table.select(self._written)
        for side, size in zip(self._sides, np.bincount(groups, minlength=len(self._sides)).tolist(), strict=False):
            if not self._all_in_head:
                self._to_parquet(written.slice(begin, size), side, number + 1)
            begin += size
        self._insert(connection, "heads", rows, np.arange(begin, len(places)))

    def _read(self, connection: duckdb.DuckDBPyConnection, chunk: Chunk, file: Path) -> _Rows:
        """Return a chunk's rows, typed, with the hashes of each."""
        guess = self._guess
        table = process_columns.read(chunk, guess)
        if table is None:
            if not chunk.quotes:
                chunk.copy(file)
            # Within quotes a line break may stand at the end of a cell: trimmed too, as the slow way does.
            blanks = chunk.quotes or chunk.blanks
            table = connection.sql(process_columns.query(file, guess, blanks=blanks)).to_arrow_table()
            table = process_columns.as_read(table, guess)
        own, (first, second) = guess.own, guess.key
        connection.register("chunk", table)
        found = connection.execute(
            f"SELECT hash({guess.whole}) AS {own.row}, {second} AS {own.key} "
            f"FROM (SELECT *, {first} AS {own.key} FROM chunk)"
        ).fetchnumpy()
        connection.unregister("chunk")
        return _Rows(table, np.asarray(found[own.row]), np.asarray(found[own.key]))

    def _staying(
        self, connection: duckdb.DuckDBPyConnection, rows: _Rows, twice: np.ndarray, late: np.ndarray
    ) -> np.ndarray:
        """Tell which rows stay: the first of rows that are equal, and none whose hash another chunk holds: `late`.

        Equal hashes alone say nothing: rows are compared by their values.
        """
        stay: np.ndarray = np.ones(len(rows.hashes), dtype=bool)
        if len(late):
            places = among(rows.hashes, late)
            self._insert(connection, "late", rows, places)
            stay[places] = False
        if len(twice):
            places = among(rows.hashes, twice)
            places = places[stay[places]]
            place = self._guess.own.row
            connection.register("alike", rows.table.take(pa.array(places)).append_column(place, pa.array(places)))
            first = connection.execute(
                f"SELECT min({place}) AS first FROM alike GROUP BY {', '.join(map(quote, self._guess.names))}"
            ).fetchnumpy()["first"]
            connection.unregister("alike")
            self._check_hash(len(first), len(np.unique(rows.hashes[places])))
            stay[places] = False
            stay[first] = True
        return stay

    def _check_hash(self, rows: int, hashes: int) -> None:
        """Raise when so many rows, all different, have too few hashes for the hash to be of any use."""
        if rows > hashes and self._guess.told_by_numbers:
            raise SameNumbersError("rows differ in their texts alone")

    def _insert(self, connection: duckdb.DuckDBPyConnection, into: str, rows: _Rows, places: np.ndarray) -> None:
        """Add the rows at some places to a table of DuckDB's."""
        some = rows.table.take(pa.array(places))
        some = some.append_column(self._guess.own.row, pa.array(rows.hashes[places]))
        connection.register("arrived", some.append_column(self._guess.own.key, pa.array(rows.keys[places])))
        connection.execute(f"INSERT INTO {into} FROM arrived")
        connection.unregister("arrived")

    def _nothing(self) -> str:
        """Return the SQL of a table of rows with their hashes, which holds none."""
        guess = self._guess
        fields = ", ".join(
            f"CAST(NULL AS {process_columns.kept_as(name, guess)}) AS {quote(name)}" for name in guess.names
        )
        key = "BIGINT" if guess.by_numbers else "UBIGINT"
        return f"SELECT {fields}, NULL::UBIGINT AS {guess.own.row}, NULL::{key} AS {guess.own.key} LIMIT 0"

    def _to_parquet(self, table: pa.Table, side: str, part: int) -> None:
        process_columns.write(table, self._curated / f"{side}.parquet" / f"part-{part:05}.parquet", self._guess)

    def check_rows_that_came_late(self) -> None:
        """Read again the chunks that hold the hashes of left-out rows. Raises NotQuickError if they hold other rows."""
        connection = self._connection
        row = self._guess.own.row
        hashes = np.asarray(connection.execute(f"SELECT DISTINCT {row} AS row FROM late").fetchnumpy()["row"])
        file = self._work / "chunk-0.csv"
        for number in self._seen.chunks_with(hashes) if len(hashes) else ():
            rows = self._read(connection, self._reader.again(self._chunks[number], file), file)
            self._insert(connection, "early", rows, among(rows.hashes, hashes))
        # Each left-out row is there as another chunk's too: as often as the rows of its hash, and all are alike.
        different = scalar(connection, "SELECT count(*) FROM (SELECT DISTINCT * FROM early)")
        self._check_hash(different, held := scalar(connection, f"SELECT count(DISTINCT {row}) FROM early"))
        if different > held:
            raise NotQuickError("different rows with one hash")

    def write_heads(self) -> None:
        """Write how each split begins, in the order in which the slow way writes all of it."""
        target = quote(self._guess.target.value)
        order = ", ".join([self._guess.own.key, target, *map(quote, self._guess.used)])
        key, fields = self._guess.own.key, ", ".join(map(quote, self._written))
        self._connection.execute(f"SET threads = {cpu_count()}")
        for side, (low, high) in self._sides.items():
            head = f"SELECT {fields} FROM heads WHERE {key} >= {low} AND {key} < {high} ORDER BY {order}"
            self._to_parquet(self._connection.sql(head).to_arrow_table(), side, 0)

    def undo(self) -> None:
        """Remove what was written."""
        for split in SPLITS:
            shutil.rmtree(self._curated / f"{split}.parquet")
        for table in ("heads", "late", "early", *self.counts.tables):
            self._connection.execute(f"DROP TABLE IF EXISTS {table}")


class _OtherFailedError(Exception):
    """Another worker failed, so this one stopped."""
