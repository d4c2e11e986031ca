"""What the data is when nobody says so: format, delimiter, target and task, each with the reason in words.

Standard library only, and the only implementation: `process` judges the full data with it, the control plane the
first MiB.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ebb_jobs import spelling
from ebb_jobs.rejection import RejectedError, Rejection

CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"
IMAGES = "image-classification"
TEXTS = "text-classification"
CUSTOM = "custom"
TABULAR = frozenset({CLASSIFICATION, REGRESSION})
TABLES = frozenset({"csv", "jsonl", "parquet"})
SUPPORTED = "csv, parquet or jsonl (csv and jsonl also as .gz)"
SUPPORTED_DROPS = (
    "tables (csv, parquet or jsonl; csv and jsonl also as .gz), PNG or JPEG pictures, "
    "one of these packed as .zip or .tar.gz, or a folder with train.py"
)
ARCHIVE_SUFFIXES = (".zip", ".tar.gz", ".tgz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
ENTRY_POINT = "train.py"
NO_DATA = frozenset({"__macosx", "__pycache__", "thumbs.db", "desktop.ini", "icon\r", "_success"})
LEAFLETS = frozenset({"readme", "license", "licence", "copying", "notice", "changelog", "authors"})
LEAFLET_SUFFIXES = frozenset({"", ".txt", ".md", ".rst", ".html", ".pdf"})
TARGET_NAMES = (
    "target",
    "label",
    "labels",
    "class",
    "y",
    "outcome",
    "species",
    "response",
    "churn",
    "default",
    "survived",
)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MAX_INTEGER_CLASSES = 20
MIN_WORDS = 3.0
MIN_DISTINCT_SHARE = 0.2


class Inferred(NamedTuple):
    """A value that was concluded or asked for, and why."""

    value: Any
    reason: str


class Format(NamedTuple):
    """How the bytes of a file are to be read."""

    name: str
    compression: str | None


def file_format(name: str) -> Format | None:
    """Return the format that a file's name announces, None when it is not a supported one."""
    lower = name.lower()
    compression = "gzip" if lower.endswith(".gz") else None
    stem = lower.removesuffix(".gz")
    for suffix, found in ((".csv", "csv"), (".jsonl", "jsonl"), (".parquet", "parquet")):
        if stem.endswith(suffix):
            return None if found == "parquet" and compression else Format(found, compression)
    return None


def is_archive(name: str) -> bool:
    """Tell whether a file's name announces an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_image(name: str) -> bool:
    """Tell whether a file's name announces a picture that can be read."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_suffix(head: bytes) -> str | None:
    """Return .png or .jpg as the first bytes of a file say, None when it is neither: names are often wrong."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    return ".jpg" if head.startswith(b"\xff\xd8\xff") else None


def is_no_data(name: str) -> bool:
    """Tell whether a file only lies about: hidden, left by an operating system, a marker, or a leaflet like README."""
    parts = name.lower().split("/")
    hidden = any(part.startswith(".") or part in NO_DATA for part in parts)
    leaf = PurePosixPath(parts[-1])
    return hidden or (leaf.stem in LEAFLETS and leaf.suffix in LEAFLET_SUFFIXES)


def is_litter(name: str) -> bool:
    """Tell whether a file was left by an operating system or a program: not even a script wants it for data."""
    return any(part in NO_DATA or part == ".ds_store" or part.startswith("._") for part in name.lower().split("/"))


def common_folder(names: Iterable[str]) -> str:
    """Return the folders that all of the names begin with, with a slash at the end; empty when there is none."""
    parents = {PurePosixPath(name).parent.parts for name in names}
    shared: list[str] = []
    for level in zip(*parents, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{part}/" for part in shared)


class Labelled(NamedTuple):
    """What the folders of a picture say: its class, and its split where the user made the splits."""

    label: str | None
    split: str | None


def by_folders(names: Sequence[str]) -> list[Labelled]:
    """Return class and split of each picture as its folders say them.

    Folders that all pictures share say nothing. Below them the first one is the class, unless it and all of its
    neighbours are called train, validation or test: then it is the split, and the class follows.
    """
    start = len(common_folder(names))
    rests = [name[start:].split("/")[:-1] for name in names]
    if start and not any(rests):  # a single folder: the class that all of them have
        label = names[0].split("/")[-2]
        return [Labelled(label, None)] * len(names)
    firsts = {rest[0].lower() for rest in rests if rest}
    if firsts and firsts <= SPLIT_NAMES.keys() and any(len(rest) > 1 for rest in rests):
        return [
            Labelled(rest[1] if len(rest) > 1 else None, SPLIT_NAMES[rest[0].lower()] if rest else None)
            for rest in rests
        ]
    return [Labelled(rest[0] if rest else None, None) for rest in rests]


def drop_format(names: Sequence[str], *, entry_point: str = ENTRY_POINT) -> str:
    """Return what a drop's files are together: csv, jsonl, parquet, archive, images or script.

    `names` are relative to the drop: a script is known by its entry point at the top, pictures may come with one csv
    or jsonl that names them. Several archives count as one.
    Raises: RejectedError when the files do not belong together, or no stage can read one of them.
    """
    if entry_point in names:
        return "script"
    told = [name for name in names if not is_no_data(name)]
    if not told:
        raise RejectedError(
            Rejection("no-data", "the drop holds no data file", remedy=f"Drop {SUPPORTED_DROPS}."),
        )
    kinds = {name: _kind(name) for name in told}
    found = set(kinds.values())
    if None in found:
        name = next(name for name, kind in kinds.items() if kind is None)
        raise RejectedError(
            Rejection(
                "unsupported-format",
                f"{name}: not a supported file type",
                file=name,
                remedy=f"Drop {SUPPORTED_DROPS}.",
            )
        )
    manifests = [name for name, kind in kinds.items() if kind in ("csv", "jsonl")]
    if len(found) == 1 or (found <= {"images", "csv", "jsonl"} and "images" in found and len(manifests) == 1):
        return "images" if "images" in found else str(found.pop())
    if "images" in found and found <= {"images", "csv", "jsonl"}:
        raise RejectedError(
            Rejection(
                "mixed-formats",
                f"the drop holds pictures and {len(manifests)} tables: one of them at most may name the pictures",
                file=manifests[1],
                remedy="Join the tables that name the pictures into one.",
            )
        )
    raise RejectedError(
        Rejection(
            "mixed-formats",
            f"the drop mixes {' and '.join(sorted(map(str, found)))} files",
            remedy="Drop files of one format together.",
        )
    )


def drop_task(form: str, asked: str | None, *, source: bool = False) -> str | None:
    """Return the task that a drop's format settles, None when only the columns of its tables can tell.

    `source` says whether the spec names the training script apart from the data.
    Raises: RejectedError when the spec asks for a task that files of this format cannot be used for.
    """
    if source or form == "script" or asked == CUSTOM:
        if asked not in (None, CUSTOM):
            raise RejectedError(_misfit("the drop brings its own training script", str(asked), f"task: {CUSTOM}"))
        if not source and form not in ("script", "archive"):
            raise RejectedError(
                Rejection(
                    "no-entry-point",
                    f"task: {CUSTOM} needs a training script, and the drop holds no {ENTRY_POINT} at its top",
                    remedy=f"Put {ENTRY_POINT} beside the data, or name the script with train.source.",
                )
            )
        return CUSTOM
    if form == "images":
        if asked not in (None, IMAGES):
            raise RejectedError(_misfit("the drop holds pictures", str(asked), f"task: {IMAGES}"))
        return IMAGES
    if form in TABLES and asked == IMAGES:
        raise RejectedError(_misfit("the drop holds tables and no picture", asked, "another task"))
    return asked


def _kind(name: str) -> str | None:
    if is_archive(name):
        return "archive"
    if is_image(name):
        return "images"
    found = file_format(name)
    return found.name if found else None


def _misfit(what: str, asked: str, instead: str) -> Rejection:
    return Rejection(
        "task-mismatch", f"{what}, and the spec asks for {asked}", remedy=f"Write {instead}, or leave the task out."
    )


def delimiter(sample: str) -> Inferred:
    """Return the delimiter under which the sample's first rows all have the header's number of cells.

    A delimiter that fits every row wins over one that splits the header into more cells: text columns
    are full of commas.
    """
    fits = {}
    for mark in DELIMITERS:
        rows = []
        try:
            for row in csv.reader(io.StringIO(sample, newline=""), delimiter=mark):
                if row:
                    rows.append(len(row))
                if len(rows) == 200:
                    break
        except csv.Error:
            continue
        if rows and rows[0] > 1:
            fits[mark] = (sum(width == rows[0] for width in rows) / len(rows), rows[0])
    if not fits:
        return Inferred(",", "the header has a single column, so that no delimiter shows")
    best = max(fits, key=lambda mark: fits[mark])
    share, width = fits[best]
    return Inferred(best, f"{DELIMITERS[best]}: {share:.0%} of the first rows have the header's {width} cells")


def is_prose(words: float, distinct: int, present: int) -> bool:
    """Tell whether a column holds free text: `words` a value on average, most of the `present` values different."""
    return words >= MIN_WORDS and distinct > MIN_DISTINCT_SHARE * present


def target(columns: Sequence[str], asked: str | None = None, text: str | None = None) -> Inferred:
    """Return the column to predict. An asked one is taken as it is; whether it exists is judged elsewhere.

    `text` is the column that the spec learns from, which cannot be the target as well.
    """
    if asked:
        return Inferred(asked, "named by data.target in the spec")
    columns = [column for column in columns if column != text] or list(columns)
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in TARGET_NAMES:
        if name == "y" and "x" in by_name and columns[-1] != by_name.get("y"):
            continue  # x and y are coordinates
        if name in by_name:
            return Inferred(by_name[name], f"the column is called {by_name[name]!r}; name another one with data.target")
    return Inferred(
        columns[-1],
        "the last column, because none is called target, label, class, y or outcome; name another one with data.target",
    )


def task(*, rows: int, distinct: int, numeric: bool, integral: bool, asked: str | None = None) -> Inferred:
    """Return the task from counts of the target's non-missing values."""
    if asked:
        return Inferred(asked, "named by task in the spec")
    if not numeric:
        return Inferred(CLASSIFICATION, f"the target holds text: {distinct} different values in {rows} rows")
    if distinct <= 2:
        return Inferred(CLASSIFICATION, f"the target has {distinct} different values")
    if integral and distinct <= MAX_INTEGER_CLASSES and rows >= 5 * distinct:
        return Inferred(
            CLASSIFICATION,
            f"the target holds {distinct} different whole numbers in {rows} rows; "
            f"write task: {REGRESSION} to predict the number itself",
        )
    return Inferred(REGRESSION, f"the target holds {distinct} different numbers in {rows} rows")


def task_of_values(values: Iterable[str], asked: str | None = None) -> Inferred:
    """Return the task from a sample of the target's texts."""
    kept = [value.strip() for value in values if value.strip().lower() not in spelling.MISSING_TARGET]
    numeric = all(map(spelling.is_number, kept)) if kept else False
    integral = numeric and all(float(value).is_integer() for value in kept)
    # As in `process`: beyond 2^53 floats no longer tell whole numbers apart, their text does.
    distinct = len({float(value) if numeric and abs(float(value)) < 2**53 else value for value in kept})
    return task(rows=len(kept), distinct=distinct, numeric=numeric, integral=integral, asked=asked)
