"""Loads the curated splits as raw columns and as the network's input."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb
import numpy as np

from ebb_jobs.errors import InputMissingError
from ebb_jobs.sql import literal, quote
from ebb_jobs.tabular import Preprocessor

CHUNK_ROWS = 8192
IN_MEMORY_BYTES = 512 * 2**20
Columns = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """One split as a network takes it.

    `inputs` is an array or a memory map, examples along the first axis; `targets` are class indices (int64) or scaled
    numbers (float32), `raw_targets` the same as the data spells them.
    """

    inputs: np.ndarray
    targets: np.ndarray
    raw_targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def is_classified(self) -> bool:
        """Tell class indices from numbers."""
        return self.targets.dtype.kind == "i"


def read_schema(curated: Path) -> dict[str, Any]:
    """Return schema.json of the curated channel."""
    file = curated / "schema.json"
    if not file.exists():
        raise InputMissingError("the curated channel holds no schema.json: did `process` finish?")
    return json.loads(file.read_text())


def read_columns(curated: Path, split: str, names: list[str], *, limit: int | None = None, every: int = 1) -> Columns:
    """Return raw columns: float64 arrays (NaN where missing) or lists of text (None where missing).

    `every` picks each so-manieth row, evenly over the file, where its first rows alone may be those of one month.
    """
    fields = ", ".join(map(quote, names))
    tail = "" if limit is None else f" LIMIT {limit}"
    with duckdb.connect() as connection:  # rows come in the order of the file
        source = f"read_parquet({literal(file_of(curated, split))})"
        if every > 1:
            numbered = f"SELECT {fields}, row_number() OVER () AS ebb_row FROM {source}"
            source = f"(SELECT {fields} FROM ({numbered}) WHERE ebb_row % {every} = 0)"
        found = connection.execute(f"SELECT {fields} FROM {source}{tail}").fetchnumpy()
    return {name: _plain(found[name]) for name in names}


def count_rows(curated: Path, split: str) -> int:
    """Return how many rows a split has."""
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT count(*) FROM read_parquet({literal(file_of(curated, split))})").fetchone()
    return int(found[0]) if found else 0


def file_of(curated: Path, split: str) -> str:
    """Return what matches the parts of a split, whose names are in order; its file where an older run wrote one."""
    place = curated / f"{split}.parquet"
    return str(place / "*.parquet" if place.is_dir() else place)


def _plain(column: np.ndarray) -> Any:
    """Return a DuckDB column without its mask."""
    if column.dtype == np.float64:
        return np.ma.filled(column, np.nan)
    return [None if value is np.ma.masked else value for value in column]


def encode(
    preprocessor: Preprocessor, columns: Columns, means: Mapping[str, np.ndarray] = MappingProxyType({})
) -> np.ndarray:
    """Encode in chunks; what does not fit in memory goes to a memory-mapped file that the epochs read.

    `means` are those of training rows (`target_means.for_training`).
    """
    rows = len(next(iter(columns.values())))
    shape = (rows, preprocessor.width)
    encoded: np.ndarray
    if rows * preprocessor.width * 4 <= IN_MEMORY_BYTES:
        encoded = np.empty(shape, dtype=np.float32)
    else:
        with tempfile.NamedTemporaryFile(prefix="ebb-", suffix=".f32") as file:  # the map outlives the name
            encoded = np.memmap(file.name, dtype=np.float32, mode="w+", shape=shape)
    for start in range(0, rows, CHUNK_ROWS):
        stop = start + CHUNK_ROWS
        encoded[start:stop] = preprocessor.encode(
            {name: values[start:stop] for name, values in columns.items()},
            {name: values[start:stop] for name, values in means.items()},
        )
    return encoded


def rows_of(columns: Columns, count: int) -> list[dict[str, Any]]:
    """Return the first rows as a client would send them: one object per row, null where a value is missing."""
    rows = []
    for index in range(min(count, len(next(iter(columns.values()))))):
        row = {name: values[index] for name, values in columns.items()}
        rows.append(
            {
                name: None
                if isinstance(value, float) and np.isnan(value)
                else float(value)
                if isinstance(value, float)
                else value
                for name, value in row.items()
            }
        )
    return rows
