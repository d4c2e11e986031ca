"""Pictures and their classes: decoded once to one size, checked, de-duplicated and split, or a rejection.

Pixels go to disk as they are decoded, so that memory does not grow with the number of pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median_high
from typing import Any, NamedTuple, TypeVar

import duckdb
import numpy as np

from ebb_jobs import image, infer, process_manifest, process_split, refusals, tables
from ebb_jobs.errors import JobError
from ebb_jobs.infer import Inferred
from ebb_jobs.process_drop import Drop
from ebb_jobs.process_manifest import Picture
from ebb_jobs.process_split import SPLITS, Own
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import Report, cpu_count, write_json
from ebb_jobs.sql import literal

MAX_SIDE = 96
"""Pixels. A small network tells everyday things apart at this size; twice of it costs four times the work."""
MIN_SIDE = 8
MAX_SAMPLES = 128
MAX_SAMPLE_BYTES = 4_000_000
"""A serverless endpoint takes requests of at most 4 MB, so that clients send no larger file."""
LARGE_PIXELS = 10_000_000
LARGE_AT_ONCE = 2
"""Larger pictures decoded together: one of 50 megapixels takes 400 MB on its way, and there may be 16 threads."""
AT_ONCE = 512
"""Pictures whose pixels are in memory together: 14 MB at the largest size."""

T = TypeVar("T")
U = TypeVar("U")
OWN = Own("key", "split", "unsettled")


class Geometry(NamedTuple):
    """The one size and number of channels that all pictures get."""

    height: int
    width: int
    channels: int

    @property
    def size_bytes(self) -> int:
        """Return the bytes of one picture's pixels."""
        return self.height * self.width * self.channels


def process(drop: Drop, curated: Path, spec: dict[str, Any], report: Report, work: Path) -> None:
    """Write the pixels and labels of each split, sample files and schema.json into `curated`. Raises RejectedError."""
    listed = process_manifest.pictures(drop, spec.get("data") or {})
    if few := _few(listed.pictures):
        raise RejectedError(few)
    with ThreadPoolExecutor(cpu_count()) as pool:
        sizes = list(_in_batches(pool, _probe, listed.pictures))
        geometry, why = choose_geometry(sizes)
        pixels = work / "pixels"
        digests = _decode(pool, listed.pictures, sizes, geometry, pixels)
    kept, duplicates, contradicting = _distinct(listed.pictures, digests)
    if few := _few([listed.pictures[row] for row in kept]):
        raise RejectedError(few)
    classes = process_split.in_order(list({listed.pictures[row].label for row in kept}))
    given = any(listed.pictures[row].split for row in kept)
    with tables.connect(work) as connection:
        rows = _place(connection, work, listed.pictures, digests, kept, len(classes), given=given)
        report.decide("format", "images", listed.form.reason)
        report.decide("target", listed.target.value, listed.target.reason)
        _decide_task(report, spec)
        report.decide(
            "geometry",
            f"{geometry.width} x {geometry.height}, {'grey' if geometry.channels == 1 else 'colour'}",
            why.reason,
            numbers=why.value,
        )
        report.decide(
            "duplicates",
            duplicates,
            "pictures of the same class that are equal pixel by pixel at this size are kept once",
            numbers={"read": len(listed.pictures)},
        )
        if contradicting:
            report.decide(
                "contradictions",
                contradicting,
                "the same picture under different labels teaches nothing: all of its copies are left out",
                numbers={"read": len(listed.pictures)},
            )
        process_split.decide(report, rows, "pixels", given=given, stratified=True)
        samples = {}
        for split in SPLITS:
            order = _write_parquet(connection, curated, split)
            _write_pixels(curated / f"{split}.pixels.npy", pixels, order, geometry)
            if split != "train":
                samples[split] = _write_samples(curated / "samples" / split, listed.pictures, order)
    write_json(curated / "samples.json", samples)
    counted = {"read": len(listed.pictures), "kept": len(kept), "duplicates": duplicates, **rows}
    if contradicting:
        counted["contradicting"] = contradicting
    shape = geometry._asdict()
    report.fields.update(
        task=infer.IMAGES,
        target=listed.target.value,
        rows=counted,
        classes=len(classes),
        input=shape,
        unlisted=listed.unlisted,
        features=[],
    )
    write_json(
        curated / "schema.json",
        {
            "version": 1,
            "kind": "image",
            "task": infer.IMAGES,
            "input": shape,
            "target": {"name": "label", "classes": classes},
            "columns": [],
            "features": [],
            "rows": counted,
        },
    )


def _few(pictures: Sequence[Picture]) -> Rejection | None:
    first = {each.label: each.name for each in reversed(pictures)}
    return refusals.few_pictures(Counter(each.label for each in pictures), first)


def choose_geometry(sizes: Sequence[tuple[int, int, int]]) -> tuple[Geometry, Inferred]:
    """Return the size for pictures of these widths, heights and channels, and why, with the numbers it rests on."""
    widths, heights, channels = zip(*sizes, strict=True)
    width, height = median_high(widths), median_high(heights)
    scale = min(1.0, MAX_SIDE / max(width, height))
    chosen = Geometry(
        height=max(MIN_SIDE, round(height * scale)),
        width=max(MIN_SIDE, round(width * scale)),
        channels=1 if max(channels) == 1 else 3,
    )
    same = len(set(zip(widths, heights, strict=True))) == 1
    reason = "all pictures have this size" if same and scale == 1 else "all pictures are of one size" if same else ""
    reason = reason or "the median width and height: half of the pictures are smaller, half are larger"
    if scale < 1:
        reason += f"; scaled to {MAX_SIDE} pixels on the longer side, because the work grows with the square of it"
    if min(width, height) * scale < MIN_SIDE:
        reason += f"; no side is shorter than {MIN_SIDE} pixels, which a network needs"
    grey = sum(each == 1 for each in channels)
    reason += (
        "; grey, because every picture is"
        if chosen.channels == 1
        else f"; colour, because {'no' if not grey else 'not every'} picture is grey"
    )
    numbers = {
        "smallest": f"{min(widths)} x {min(heights)}",
        "median": f"{width} x {height}",
        "largest": f"{max(widths)} x {max(heights)}",
        "grey": grey,
        "colour": len(sizes) - grey,
    }
    return chosen, Inferred(numbers, reason)


def _decide_task(report: Report, spec: dict[str, Any]) -> None:
    reason = "named by task in the spec" if spec.get("task") else "the drop holds pictures"
    report.decide("task", infer.IMAGES, reason)


def _in_batches(pool: ThreadPoolExecutor, act: Callable[[U], T], pictures: Iterable[U]) -> Iterator[T]:
    """Yield what `act` returns for each picture, in order; no more than a batch of results waits to be taken."""
    remaining = iter(pictures)
    while batch := list(islice(remaining, AT_ONCE)):
        yield from pool.map(act, batch)


def _probe(picture: Picture) -> tuple[int, int, int]:
    return _readable(picture, image.probe)


def _readable(picture: Picture, look: Callable[[bytes], T]) -> T:
    data = picture.file.read_bytes()
    if not data:
        raise RejectedError(refusals.empty_file(picture.name))
    if infer.image_suffix(data) is None:
        raise RejectedError(refusals.no_picture(picture.name))
    try:
        return look(data)
    except MemoryError as error:  # the picture may be whole
        raise JobError(f"{picture.name} does not fit into the memory of this machine: scale it down") from error
    except image.TooManyPixelsError as error:
        raise RejectedError(
            Rejection(
                "image-too-large",
                f"{picture.name}: {error}",
                file=picture.name,
                remedy="Scale the picture down; training reads a small one anyway.",
            )
        ) from error
    except image.BrokenImageError as error:
        raise RejectedError(
            Rejection(
                "broken-image",
                f"{picture.name}: {error}",
                file=picture.name,
                remedy="Save the picture again, or remove it.",
            )
        ) from error


def _decode(
    pool: ThreadPoolExecutor,
    pictures: Sequence[Picture],
    sizes: Sequence[tuple[int, int, int]],
    geometry: Geometry,
    into: Path,
) -> list[bytes]:
    """Write every picture's pixels one after the other into a file; return their digests."""
    turn = threading.BoundedSemaphore(LARGE_AT_ONCE)

    def decoded(one: tuple[Picture, tuple[int, int, int]]) -> tuple[bytes, bytes]:
        picture, (width, height, _) = one
        with turn if width * height > LARGE_PIXELS else contextlib.nullcontext():
            found = _readable(picture, lambda data: image.pixels(data, **geometry._asdict())).tobytes()
        return found, hashlib.blake2b(found, digest_size=16).digest()

    digests = []
    with into.open("wb") as out:
        for found, digest in _in_batches(pool, decoded, zip(pictures, sizes, strict=True)):
            out.write(found)
            digests.append(digest)
    return digests


def _distinct(pictures: Sequence[Picture], digests: Sequence[bytes]) -> tuple[list[int], int, int]:
    """Return the rows to keep, how many copies they leave out, and how many stand under several labels."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        groups.setdefault(digest, []).append(row)
    kept, contradicting = [], 0
    pair: tuple[Picture, Picture] | None = None
    for rows in groups.values():
        first = pictures[rows[0]]
        for row in rows[1:]:
            if pictures[row].split != first.split:
                raise RejectedError(_across_splits(first, pictures[row]))
        if len({pictures[row].label for row in rows}) > 1:
            contradicting += len(rows)
            pair = pair or (first, next(pictures[row] for row in rows if pictures[row].label != first.label))
        else:
            kept.append(rows[0])
    if pair and contradicting > refusals.MAX_CONTRADICTING_SHARE * len(pictures):
        one, other = (each.name for each in pair)
        raise RejectedError(refusals.contradicting("pictures", contradicting, len(pictures), file=one, like=other))
    return kept, len(pictures) - contradicting - len(kept), contradicting


def _across_splits(one: Picture, other: Picture) -> Rejection:
    return Rejection(
        "duplicates-across-splits",
        f"{one.name} ({one.split}) and {other.name} ({other.split}) are the same picture",
        file=other.name,
        remedy="Keep each picture in one split, or drop the pictures without splits.",
    )


def _place(
    connection: duckdb.DuckDBPyConnection,
    work: Path,
    pictures: Sequence[Picture],
    digests: Sequence[bytes],
    kept: Sequence[int],
    classes: int,
    *,
    given: bool,
) -> dict[str, int]:
    """Split the kept pictures by the digests of their pixels, in the table `placed`."""
    listing = work / "pictures.jsonl"
    with listing.open("w", encoding="utf-8") as out:
        for row in kept:
            each = pictures[row]
            line = {"row": row, "path": each.name, "label": each.label, "digest": digests[row].hex()}
            out.write(json.dumps({**line, "given": each.split}) + "\n")
    columns = "{'row': 'BIGINT', 'path': 'VARCHAR', 'label': 'VARCHAR', 'digest': 'VARCHAR', 'given': 'VARCHAR'}"
    connection.execute(
        f"CREATE TABLE kept AS SELECT * FROM read_json({literal(str(listing))}, "
        f"format='newline_delimited', columns={columns})"
    )
    if given:
        return process_split.place_as_given(connection, "digest", "label", classes, OWN, "given", column="label")
    return process_split.place(connection, "digest", "label", classes, OWN, column="label")


def _write_parquet(connection: duckdb.DuckDBPyConnection, curated: Path, split: str) -> list[int]:
    """Write a split's paths and labels; return its rows in the same order."""
    chosen = f"FROM placed WHERE {OWN.split} = '{split}' ORDER BY {OWN.key}, row"
    connection.execute(
        f"COPY (SELECT path, label {chosen}) TO {literal(str(curated / f'{split}.parquet'))} "
        "(FORMAT parquet, COMPRESSION zstd)"
    )
    return [row for (row,) in connection.execute(f"SELECT row {chosen}").fetchall()]


def _write_pixels(file: Path, pixels: Path, order: Sequence[int], geometry: Geometry) -> None:
    """Write the pixels of some rows as one uint8 array [rows, height, width, channels], a picture at a time."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(order), *geometry)}
    source = os.open(pixels, os.O_RDONLY)
    try:
        with file.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, header)
            for row in order:
                out.write(os.pread(source, geometry.size_bytes, row * geometry.size_bytes))
    finally:
        os.close(source)


def _write_samples(folder: Path, pictures: Sequence[Picture], order: Sequence[int]) -> list[dict[str, Any]]:
    """Copy some files of a split as they were dropped; return which row of the split each is.

    The split is in the order of a hash, so that its first rows are a fair sample.
    """
    folder.mkdir(parents=True)
    small = [number for number, row in enumerate(order) if pictures[row].file.stat().st_size <= MAX_SAMPLE_BYTES]
    found = []
    for number in (small or range(len(order)))[:MAX_SAMPLES]:
        file = pictures[order[number]].file
        with file.open("rb") as stream:
            suffix = infer.image_suffix(stream.read(8))
        name = f"{number:05}{suffix}"
        shutil.copyfile(file, folder / name)
        found.append({"row": number, "file": f"samples/{folder.name}/{name}"})
    return found
