"""The columns of a chunk of CSV in memory: read, looked at and written with Arrow.

Arrow reads typed columns in half of DuckDB's time and writes Parquet in half of it. It is laxer, though: what it might
read otherwise than the slow way, which DuckDB reads, is left to DuckDB here too (`query`), with the same columns for an
outcome. Numbers are those of DuckDB: both parse with fast_float.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset  # what DuckDB reads a table of Arrow with
import pyarrow.parquet as pq

from ebb_jobs import spelling, tables
from ebb_jobs.process_chunks import Chunk
from ebb_jobs.process_guess import Guess
from ebb_jobs.sql import literal, quote

DATE_ORDER = "year-month-day"
_LABELS = pa.dictionary(pa.int32(), pa.string())
_BLOCK = 2**20
_GROUP = 2**17
_LEVEL = 1
"""Of zstd; level 3 writes a tenth less and takes half as long again."""
_DATE, _MOMENT = len("2020-01-01"), len("2020-01-01 00:00:00")
_SHORT = max(map(len, spelling.MISSING))
_WORDS = pa.array(sorted(spelling.MISSING))


def keep_pages() -> None:
    """Let Arrow keep the memory that it has for the next chunk, of all that can the one that grows the least.

    Wheels for ARM and macOS come without it: there Arrow's own choice stays.
    """
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def read(chunk: Chunk, guess: Guess) -> pa.Table | None:
    """Return a chunk's columns, of float64, of string, and labels as codes; None where DuckDB has to read them."""
    if chunk.quotes or guess.careful:
        return None
    types = {name: pa.float64() if name in guess.numbers else pa.string() for name in guess.names}
    types |= dict.fromkeys((*guess.labels, *guess.few), _LABELS)
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(chunk.data),
            pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=guess.names),
            pa.csv.ParseOptions(delimiter=guess.mark, quote_char=False, ignore_empty_lines=False),
            pa.csv.ConvertOptions(column_types=types, null_values=guess.missing, strings_can_be_null=True),
        )
    except pa.ArrowInvalid:
        return None
    table = as_read(table, guess)
    texts = {name: one(table[name]) for name in guess.names if name not in guess.numbers}
    texts = {
        name: each.dictionary if name in guess.labels or name in guess.few else each for name, each in texts.items()
    }
    if any(map(_has_blanks_around, texts.values())):
        return None
    return None if any(set(texts[name].to_pylist()) - set(labels) for name, labels in guess.labels.items()) else table


def as_read(table: pa.Table, guess: Guess) -> pa.Table:
    """Return columns of one piece each, those of few texts as codes; -0 is 0."""
    columns = {}
    for name in guess.names:
        column = table[name]
        if name in guess.numbers:
            column = pc.add(column, 0.0)
        elif name in guess.labels or name in guess.few:
            column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            column = column.unify_dictionaries().cast(_LABELS)
        columns[name] = column.combine_chunks()
    return pa.table(columns)


def kept_as(name: str, guess: Guess) -> str:
    """Return DuckDB's type of a column."""
    labels = guess.labels.get(name)
    texts = f"ENUM({', '.join(map(literal, labels))})" if labels else "VARCHAR"
    return "DOUBLE" if name in guess.numbers else texts


def query(file: Path, guess: Guess, *, blanks: bool) -> str:
    """Return the SQL of the rows of a file without a header; `blanks` may stand around its cells."""

    def field(name: str) -> str:
        column = quote(name)
        if name in guess.numbers:
            return column
        if not blanks and (name in guess.labels or not guess.careful):
            return column
        text = f"trim({column}, {tables.SPACE})" if blanks else column
        words = ", ".join(map(literal, sorted(spelling.MISSING)))
        found = f"CASE WHEN strlen({text}) <= {_SHORT} AND lower({text}) IN ({words}) THEN NULL ELSE {text} END"
        return f"CAST({found} AS {kept_as(name, guess)})" if name in guess.labels else found

    types = {name: "VARCHAR" if blanks else kept_as(name, guess) for name in guess.names}
    types |= dict.fromkeys(guess.numbers, "DOUBLE")
    declared = ", ".join(f"{literal(name)}: {literal(types[name])}" for name in guess.names)
    missing = ", ".join(map(literal, guess.missing))
    fields = ", ".join(f"{field(name)} AS {quote(name)}" for name in guess.names)
    return (
        f"SELECT {fields} FROM read_csv({literal(str(file))}, auto_detect=false, header=false, "
        f"delim={literal(guess.mark)}, quote='\"', escape='\"', columns={{{declared}}}, nullstr=[{missing}], "
        "strict_mode=true, null_padding=false)"
    )


def write(table: pa.Table, file: Path, guess: Guess) -> None:
    """Write Parquet in encodings that every reader knows.

    No bounds of pages and groups: rows stand as in the files, so no reader could leave any out.
    """
    pq.write_table(
        table,
        file,
        row_group_size=_GROUP,
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=[name for name in table.column_names if guess.repeats(name)],
        write_statistics=False,
        store_schema=False,
    )


def one(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def coded(column: pa.DictionaryArray) -> tuple[list[str | None], np.ndarray]:
    """Return the texts of a column and the place of each row's among them; the last one is the gap, None."""
    texts: list[str | None] = column.dictionary.to_pylist()
    return [*texts, None], column.indices.fill_null(len(texts)).to_numpy()


def counted(column: pa.DictionaryArray) -> dict[str | None, int]:
    """Return the rows of each text."""
    texts, codes = coded(column)
    rows = np.bincount(codes, minlength=len(texts)).tolist()
    return {text: count for text, count in zip(texts, rows, strict=True) if count}


def hashes(connection: duckdb.DuckDBPyConnection, values: pa.Array) -> np.ndarray:
    """Return 64 bits for each value, none of which is a gap."""
    if pa.types.is_floating(values.type):
        bits = values.to_numpy().view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(32)
        bits *= np.uint64(0xD6E8FEB86659FD93)
        bits ^= bits >> np.uint64(32)
        return bits * np.uint64(0xD6E8FEB86659FD93)
    connection.register("hashed", pa.table({"value": values}))
    found = connection.execute("SELECT hash(value) AS value FROM hashed").fetchnumpy()["value"]
    connection.unregister("hashed")
    return np.asarray(found)


def has_missing(texts: pa.Array) -> bool:
    """Tell whether a text says that the value is missing."""
    short = texts.filter(pc.less_equal(pc.binary_length(texts), _SHORT))
    return bool(pc.any(pc.is_in(pc.utf8_lower(short), _WORDS)).as_py())


def are_moments(texts: pa.Array) -> bool:
    """Tell whether all texts are dates of DATE_ORDER, some with a time; not of all that are."""
    lengths = pc.unique(pc.binary_length(texts)).to_pylist()
    if not set(lengths) <= {_DATE, _MOMENT}:
        return False
    try:
        texts.cast(pa.timestamp("s"))
    except pa.ArrowInvalid:
        return False
    return True


def blanks_in(texts: pa.Array) -> int:
    """Return how many blanks all texts hold, none of which is a gap."""
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if not len(texts) or texts.buffers()[2] is None:
        return 0
    seen: Any = np.frombuffer(texts.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    return int(np.count_nonzero(seen == ord(" ")))


def _has_blanks_around(texts: pa.Array) -> bool:
    return bool(pc.any(pc.or_(pc.starts_with(texts, " "), pc.ends_with(texts, " "))).as_py())
