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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np

from ebb_jobs import (
    infer,
    process_counts,
    process_guess,
    process_split,
    process_target,
    refusals,
    tables,
    typing_rules,
)
from ebb_jobs import spelling as spellings
from ebb_jobs.process_chunks import BYTES, Chunk, Reader, Seen
from ebb_jobs.process_guess import Guess, NotQuickError, OtherSpellingsError
from ebb_jobs.process_split import HELD_OUT_SHARE, SPLITS, TEST_SHARE, scalar
from ebb_jobs.report import cpu_count
from ebb_jobs.sql import literal, quote

LEAST_BYTES = 64 * 2**20
"""Below this the slow way takes a few seconds."""
MOST_MB = 700
"""Of memory for DuckDB."""
MOST_WORKERS = 4
"""Chunks at once: each takes some 150 MB."""
MOST_HASHES = 40_000_000
"""Of rows, whose hashes stay in memory: more is left to the slow way, which spills to disk."""
HEAD_ROWS = 2**17
WRITTEN = (
    "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, WRITE_BLOOM_FILTER false, DICTIONARY_SIZE_LIMIT 5000)"
)
"""Level 3, DuckDB's own, writes 10 % less and takes half as long again. Encodings are those that every reader knows."""


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


def applies(files: Sequence[Path], spec: dict[str, Any]) -> bool:
    """Tell whether it is worth a try: plain CSV, large, and nothing asked for that the slow way alone knows."""
    data = spec.get("data") or {}
    asked = data.get("input") or data.get("group") or spec.get("task") == infer.TEXTS
    plain = all(infer.file_format(file.name) == infer.Format("csv", None) for file in files)
    return plain and not asked and sum(file.stat().st_size for file in files) >= LEAST_BYTES


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
    connection.execute("SET threads = 1")  # each worker brings its own
    for last in (False, False, True):
        if guess.rows > MOST_HASHES:
            raise NotQuickError("more rows than hashes fit in memory")
        run = _Run(connection, guess, Reader(files, guess.mark, BYTES), work, curated)
        try:
            run.read()
            run.check_rows_that_came_late()
            columns = run.counts.columns(connection, [name for name in guess.names if name != told.name])
        except OtherSpellingsError:
            if last:
                raise
            run.undo()
            guess = guess._replace(careful=True)
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


class _Run:
    """One pass over the files: what it has read, and what it has written."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, guess: Guess, reader: Reader, work: Path, curated: Path
    ) -> None:
        self._connection, self._guess, self._reader = connection, guess, reader
        self._work, self._curated = work, curated
        self._seen = Seen()
        self._chunks: dict[int, Chunk] = {}
        self._turn = threading.Condition()
        self._next = 0
        self._failed = False
        self.rows_read = 0
        self.counts = process_counts.Counts(connection, guess)
        target = quote(guess.target.value)
        self._fields = ", ".join([*map(quote, guess.used), target])
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
                self._chunks[chunk.number] = chunk
                self._work_on(connection, chunk, file)
        except BaseException:
            with self._turn:
                self._failed = True
                self._turn.notify_all()
            raise
        finally:
            connection.close()

    def _work_on(self, connection: duckdb.DuckDBPyConnection, chunk: Chunk, file: Path) -> None:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE chunk AS {self._typed(chunk, file)}")
        rows = connection.execute(f"SELECT {self._guess.own.row} AS row FROM chunk").fetchnumpy()["row"]
        with self._turn:  # in the order of the files, so that the same rows are written again
            self._turn.wait_for(lambda: self._failed or self._next == chunk.number)
            if self._failed:
                raise _OtherFailedError
            twice, late = self._seen.add(chunk.number, np.asarray(rows))
            self.rows_read += len(rows)
            self._next += 1
            self._turn.notify_all()
        self._leave_out(connection, twice, late)
        self.counts.add(connection, self._sides)
        self._write(connection, chunk)
        connection.execute("DROP TABLE chunk")

    def _typed(self, chunk: Chunk, file: Path) -> str:
        """Return the SQL of a chunk's rows, typed, with the hashes of each."""
        guess = self._guess
        declared = ", ".join(f"{literal(name)}: {literal(self._type(name, chunk))}" for name in guess.names)
        missing = ", ".join(map(literal, guess.missing))
        source = (
            f"read_csv({literal(str(file))}, auto_detect=false, header=false, delim={literal(guess.mark)}, quote='\"', "
            f"escape='\"', columns={{{declared}}}, nullstr=[{missing}], strict_mode=true, null_padding=false)"
        )
        fields = ", ".join(f"{self._field(name, chunk)} AS {quote(name)}" for name in guess.names)
        own = guess.own
        same = ", ".join(map(quote, guess.names))
        first, second = guess.key
        return (
            f"SELECT * REPLACE ({second} AS {own.key}) FROM (SELECT *, hash({same}) AS {own.row}, {first} AS {own.key} "
            f"FROM (SELECT {fields} FROM {source}))"
        )

    def _type(self, name: str, chunk: Chunk) -> str:
        if name in self._guess.numbers:
            return "DOUBLE"
        return "VARCHAR" if chunk.blanks else self._kept_as(name)

    def _kept_as(self, name: str) -> str:
        labels = self._guess.labels.get(name)
        return f"ENUM({', '.join(map(literal, labels))})" if labels else "VARCHAR"

    def _field(self, name: str, chunk: Chunk) -> str:
        column = quote(name)
        if name in self._guess.numbers:
            return f"{column} + 0e0"  # -0 is 0
        if not chunk.blanks and name in self._guess.labels:
            return column
        text = f"trim({column}, {tables.SPACE})" if chunk.blanks else column
        if not self._guess.careful and not chunk.blanks:
            return column
        missing = ", ".join(map(literal, sorted(spellings.MISSING)))
        short = max(map(len, spellings.MISSING))
        found = f"CASE WHEN strlen({text}) <= {short} AND lower({text}) IN ({missing}) THEN NULL ELSE {text} END"
        return f"CAST({found} AS {self._kept_as(name)})" if name in self._guess.labels else found

    def _leave_out(self, connection: duckdb.DuckDBPyConnection, twice: np.ndarray, late: np.ndarray) -> None:
        """Leave in `chunk` one of rows that are equal, and none whose hash another chunk holds: it is kept in `late`.

        Equal hashes alone say nothing: rows are compared by their values.
        """
        row = self._guess.own.row
        if len(late):
            connection.register("hashes", {"hash": late})
            connection.execute(f"INSERT INTO late FROM chunk WHERE {row} IN (SELECT hash FROM hashes)")
            connection.execute(f"DELETE FROM chunk WHERE {row} IN (SELECT hash FROM hashes)")
            connection.unregister("hashes")
        if len(twice):
            connection.register("hashes", {"hash": twice})
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE single AS SELECT DISTINCT * FROM chunk "
                f"WHERE {row} IN (SELECT hash FROM hashes) ORDER BY {row}, {self._fields}"
            )
            connection.execute(f"DELETE FROM chunk WHERE {row} IN (SELECT hash FROM hashes)")
            connection.execute("INSERT INTO chunk FROM single")
            connection.execute("DROP TABLE single")
            connection.unregister("hashes")

    def _nothing(self) -> str:
        """Return the SQL of a table like `chunk`, without rows."""
        guess = self._guess
        fields = ", ".join(
            f"CAST(NULL AS {'DOUBLE' if name in guess.numbers else self._kept_as(name)}) AS {quote(name)}"
            for name in guess.names
        )
        key = "BIGINT" if guess.by_numbers else "UBIGINT"
        return f"SELECT {fields}, NULL::UBIGINT AS {guess.own.row}, NULL::{key} AS {guess.own.key} LIMIT 0"

    def _write(self, connection: duckdb.DuckDBPyConnection, chunk: Chunk) -> None:
        """Write a chunk's rows, those apart that belong to the beginning of their split."""
        key = self._guess.own.key
        heads = " OR ".join(
            f"({key} >= {low} AND {key} < {self._heads[side]})" for side, (low, _) in self._sides.items()
        )
        connection.execute(f"INSERT INTO heads FROM chunk WHERE {heads}")
        if self._all_in_head:
            return
        for side, (_, high) in self._sides.items():
            part = self._curated / f"{side}.parquet" / f"part-{chunk.number + 1:05}.parquet"
            connection.execute(
                f"COPY (SELECT {self._fields} FROM chunk WHERE {key} >= {self._heads[side]} AND {key} < {high}) "
                f"TO {literal(str(part))} {WRITTEN}"
            )

    def check_rows_that_came_late(self) -> None:
        """Read again the chunks that hold the hashes of left-out rows. Raises NotQuickError if they hold other rows."""
        connection = self._connection
        row = self._guess.own.row
        hashes = np.asarray(connection.execute(f"SELECT DISTINCT {row} AS row FROM late").fetchnumpy()["row"])
        file = self._work / "chunk-0.csv"
        for number in self._seen.chunks_with(hashes) if len(hashes) else ():
            self._reader.again(self._chunks[number], file)
            connection.execute(
                f"INSERT INTO early FROM ({self._typed(self._chunks[number], file)}) AS typed "
                f"WHERE {row} IN (SELECT {row} FROM late)"
            )
        # Each left-out row is there as another chunk's too: as often as the rows of its hash, and all are alike.
        different = f"SELECT count(*) FROM (SELECT {row} FROM (SELECT DISTINCT * FROM early) GROUP BY ALL "
        if scalar(connection, different + "HAVING count(*) > 1)"):
            raise NotQuickError("different rows with one hash")

    def write_heads(self) -> None:
        """Write how each split begins, in the order in which the slow way writes all of it."""
        target = quote(self._guess.target.value)
        order = ", ".join([self._guess.own.key, target, *map(quote, self._guess.used)])
        key = self._guess.own.key
        self._connection.execute(f"SET threads = {cpu_count()}")
        for side, (low, high) in self._sides.items():
            place = self._curated / f"{side}.parquet/part-00000.parquet"
            self._connection.execute(
                f"COPY (SELECT {self._fields} FROM heads WHERE {key} >= {low} AND {key} < {high} ORDER BY {order}) "
                f"TO {literal(str(place))} {WRITTEN}"
            )

    def undo(self) -> None:
        """Remove what was written."""
        for split in SPLITS:
            shutil.rmtree(self._curated / f"{split}.parquet")
        for table in ("heads", "late", "early", *self.counts.tables):
            self._connection.execute(f"DROP TABLE IF EXISTS {table}")


class _OtherFailedError(Exception):
    """Another worker failed, so this one stopped."""
