"""The newest labelled rows as requests: read from what was dropped, encoded by the served model's own codec.

Not as `process` curates them: it would type columns and find classes anew, and what the served model would answer to
such a row, in a spelling that training never saw, is just what is to be judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import process_drop, tables
from ebb_jobs.bad_request import BadRequestError
from ebb_jobs.sql import literal, quote

MOST_ROWS = 20_000
"""Evenly spread over what there is: chance then moves a share by a third of a point."""
CHUNK_ROWS = 512


@dataclass(frozen=True)
class Labelled:
    """Rows with their true answers. `raws` is what the codec takes, `labels` are texts as they were dropped."""

    raws: Any
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, places: list[int]) -> Labelled:
        """Return some of the rows."""
        if isinstance(self.raws, Mapping):
            raws: Any = {name: [values[place] for place in places] for name, values in self.raws.items()}
        else:
            raws = [self.raws[place] for place in places]
        return Labelled(raws, [self.labels[place] for place in places])


def read(data: Path, spec: dict[str, Any], target: str, codec: Any, work: Path) -> Labelled:
    """Return the rows below `data` that have a label.

    Raises: RejectedError when a file cannot be read, `NotReadError` when its kind of data is not read here.
    """
    drop = process_drop.read(data, spec, work)
    if drop.form in ("csv", "jsonl", "parquet"):
        return _table(drop.folder, drop.files, target, codec, work)
    if drop.form == "images":
        return _pictures(drop)
    raise NotReadError(f"labelled data in the form of {drop.form} is not read by an assessment")


class NotReadError(Exception):
    """Labelled rows are there, and of a kind whose labels an assessment does not read."""


def encode(codec: Any, rows: Labelled) -> tuple[Labelled, np.ndarray]:
    """Return the rows that the served model can read, and the network's input for them; the others are left out."""
    kept: list[int] = []
    parts: list[np.ndarray] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        places = list(range(start, min(start + CHUNK_ROWS, len(rows))))
        try:
            parts.append(codec.encode(rows.part(places).raws))
            kept += places
        except BadRequestError:  # one of them is at fault
            for place in places:
                try:
                    parts.append(codec.encode(rows.part([place]).raws))
                    kept.append(place)
                except BadRequestError:
                    continue
    return rows.part(kept), np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)


def _table(folder: Path, files: list[Path], target: str, codec: Any, work: Path) -> Labelled:
    text = getattr(codec, "column", None)
    with tables.connect(work) as connection:
        loaded = tables.load(connection, folder, files, target, text=text)
        wanted = [text] if text else list(codec.columns)
        lacking = [name for name in wanted if name not in loaded.columns]
        if lacking:
            raise NotReadError(f"the newest rows have no column {lacking[0]}, which the served model reads")
        fields = ", ".join(map(quote, [*wanted, target]))
        numbered = f"SELECT {fields}, row_number() OVER () AS ebb_row FROM raw WHERE {quote(target)} IS NOT NULL"
        count = connection.execute(f"SELECT count(*) FROM ({numbered})").fetchone()
        every = max(1, -(-(count[0] if count else 0) // MOST_ROWS))
        present = f" AND {quote(text)} <> {literal('')}" if text else ""
        found = connection.execute(f"SELECT {fields} FROM ({numbered}) WHERE ebb_row % {every} = 0{present}").fetchall()
    columns = [list(values) for values in zip(*found, strict=True)] or [[] for _ in [*wanted, target]]
    raws: Any = columns[0] if text else dict(zip(wanted, columns[:-1], strict=True))
    return Labelled(raws, [str(label) for label in columns[-1]])


def _pictures(drop: process_drop.Drop) -> Labelled:
    """Return pictures whose folder is their class, as drops without a manifest have them."""
    named = [(file, Path(name).parent.name) for file, name in drop.inner.items() if Path(name).parent.name]
    if len(named) < len(drop.inner):
        raise NotReadError("pictures that a manifest labels are not read by an assessment")
    every = max(1, -(-len(named) // MOST_ROWS))
    picked = sorted(named)[::every]
    return Labelled([file.read_bytes() for file, _ in picked], [label for _, label in picked])
