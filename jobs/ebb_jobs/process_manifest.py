"""Which picture shows what: by the folders that they lie in, or by a table that names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ebb_jobs import infer, precheck, refusals, spelling, tables
from ebb_jobs.infer import Inferred
from ebb_jobs.process_drop import Drop
from ebb_jobs.rejection import RejectedError, Rejection

PATH_NAMES = ("path", "file", "filename", "file_name", "file_path", "filepath", "image", "image_path", "img")
SPLIT_COLUMN = "split"
TRIED_ROWS = 20


class Picture(NamedTuple):
    """One picture: how rejections call it, where it lies, what it shows, and its split where the user made splits."""

    name: str
    file: Path
    label: str
    split: str | None


class Listed(NamedTuple):
    """The pictures of a drop in the order of their names, and how their classes are known."""

    pictures: list[Picture]
    target: Inferred
    form: Inferred
    unlisted: int
    """Pictures that the table does not name; they are not used."""


class _Row(NamedTuple):
    line: int
    cells: dict[str, str]


def pictures(drop: Drop, data: dict[str, Any]) -> Listed:
    """Return the pictures with their classes; `data` is the spec's section. Raises RejectedError."""
    found = [file for file in drop.files if infer.is_image(file.name)]
    others = [file for file in drop.files if not infer.is_image(file.name)]
    return _by_table(drop, found, others[0], data) if others else _by_folders(drop, found)


def _by_folders(drop: Drop, files: list[Path]) -> Listed:
    labelled = infer.by_folders([drop.inner[file] for file in files])
    found = []
    for file, (label, split) in zip(files, labelled, strict=True):
        if label is None:
            unclear = split is None and any(other.split for other in labelled)
            raise RejectedError((refusals.mixed_splits if unclear else refusals.no_class_folder)(drop.told(file)))
        found.append(Picture(drop.told(file), file, label, split))
    _check_splits(found)
    return Listed(
        found,
        Inferred("label", "the class of a picture is the name of its folder"),
        Inferred("images", f"{len(found)} PNG or JPEG files in folders"),
        0,
    )


def _by_table(drop: Drop, files: list[Path], table: Path, data: dict[str, Any]) -> Listed:
    name, beside = drop.told(table), PurePosixPath(drop.inner[table]).parent
    columns, rows = _read(table, name)
    places = _Places(drop, files, beside)
    path = _path_column(name, columns, rows, places, data.get("input"))
    split = next((column for column in columns if column.lower() == SPLIT_COLUMN and column != path.value), None)
    others = [column for column in columns if column not in (path.value, split)]
    if not others:
        raise RejectedError(
            Rejection(
                "no-class", f"{name} has no column besides the path", file=name, remedy="Add a column with the class."
            )
        )
    target = infer.target(others, data.get("target"))
    if target.value not in others:
        raise RejectedError(refusals.target_missing(name, target.value, columns))
    told = refusals.Target(
        target.value, target.value if data.get("target") else refusals.column_told(columns, target.value)
    )
    found = []
    for row in rows:
        file = places.find(row.cells[path.value])
        if file is None:
            raise RejectedError(
                Rejection(
                    "manifest-no-file",
                    f"{name}, line {row.line}: the row names no picture of the drop",
                    file=name,
                    line=row.line,
                    column=told_path(columns, path.value, data.get("input")),
                    remedy="Write paths as they are in the drop, and drop every picture that the table names.",
                )
            )
        label = row.cells[target.value]
        if label.lower() in spelling.MISSING_TARGET:
            raise RejectedError(refusals.target_empty(name, row.line, told))
        side = infer.SPLIT_NAMES.get(row.cells[split].lower()) if split else None
        if split and side is None:
            raise RejectedError(
                Rejection(
                    "split-unclear",
                    f"{name}, line {row.line}: the column {split} names neither train, validation nor test",
                    file=name,
                    line=row.line,
                    column=split,
                    remedy="Write train, validation or test into every row, or remove the column.",
                )
            )
        found.append(Picture(drop.told(file), file, label, side))
    _check_splits(found)
    used = {picture.file for picture in found}
    return Listed(
        sorted(found, key=lambda picture: picture.name),
        target._replace(reason=f"{target.reason}; the table that comes with the pictures holds it"),
        Inferred("images", f"{len(files)} PNG or JPEG files, named in {name}: {path.reason}"),
        len(files) - len(used),
    )


def told_path(columns: list[str], name: str, asked: str | None) -> str:
    """Return how a rejection calls the column of paths: a name that somebody gave it, or its position."""
    known = asked == name or name.strip().lower() in PATH_NAMES
    return name if known else str(columns.index(name) + 1)


class _Places:
    """Finds a picture by what a table calls it."""

    def __init__(self, drop: Drop, files: list[Path], beside: PurePosixPath) -> None:
        self._beside = beside
        self._by_path = {drop.inner[file]: file for file in files}
        self._by_name: dict[str, Path | None] = {}
        for file in files:
            self._by_name[file.name] = None if file.name in self._by_name else file

    def find(self, text: str) -> Path | None:
        """Return the picture at a path from the table's folder or the drop's top, or else the only one so called."""
        if not text:
            return None
        path = PurePosixPath(text.replace("\\", "/"))
        exact = self._by_path.get(str(self._beside / path)) or self._by_path.get(str(path))
        return exact or self._by_name.get(path.name)


def _read(table: Path, name: str) -> tuple[list[str], list[_Row]]:
    """Return the columns and the rows of a csv or jsonl table as trimmed text. Raises RejectedError."""
    found = infer.file_format(table.name)
    form = found.name if found else "csv"
    tables.check_file(name, table, found)
    columns: list[str] = []
    rows = []
    for record in _records(table, name, form):
        if isinstance(record.cells, dict):
            columns.extend(key for key in record.cells if key not in columns)
            cells = {key: "" if value is None else str(value).strip() for key, value in record.cells.items()}
        elif not columns:
            columns = precheck.check_header(name, record.cells, None)
            continue
        elif len(record.cells) != len(columns):
            raise RejectedError(refusals.ragged_row(name, record.line, len(record.cells), len(columns)))
        else:
            cells = dict(zip(columns, map(str.strip, record.cells), strict=True))
        rows.append(_Row(record.line, cells))
    if not rows:
        raise RejectedError(Rejection("no-rows", f"{name} has no rows", file=name, remedy="Add the rows."))
    return columns, [_Row(row.line, dict.fromkeys(columns, "") | row.cells) for row in rows]


def _records(table: Path, name: str, form: str) -> Iterator[precheck.Record]:
    with tables.open_text(table) as stream:
        mark = infer.delimiter(stream.read(2**16)).value
        stream.seek(0)
        yield from precheck.records(name, stream, form, mark, complete=True)


def _path_column(name: str, columns: list[str], rows: list[_Row], places: _Places, asked: str | None) -> Inferred:
    """Return the column whose cells are the pictures' paths."""
    if asked:
        if asked not in columns:
            raise RejectedError(
                Rejection(
                    "input-missing",
                    f"{name} has {len(columns)} columns, none is called {asked!r}",
                    file=name,
                    column=asked,
                    remedy="Set data.input in pipeline.yaml to the name of the column with the paths.",
                )
            )
        return Inferred(asked, "named by data.input in the spec")
    known = [column for column in columns if column.lower() in PATH_NAMES]
    for column in [*known, *(column for column in columns if column not in known)]:
        if all(places.find(row.cells[column]) for row in rows[:TRIED_ROWS]):
            return Inferred(column, f"column {columns.index(column) + 1} holds paths of the drop's pictures")
    if known:
        return Inferred(known[0], f"the column is called {known[0]!r}")
    raise RejectedError(
        Rejection(
            "manifest-no-path",
            f"no column of {name} holds the paths of the drop's pictures",
            file=name,
            remedy="Write the paths as they are in the drop into a column called path, or name it with data.input.",
        )
    )


def _check_splits(found: list[Picture]) -> None:
    for picture in found:
        if picture.split is None and any(other.split for other in found):
            raise RejectedError(refusals.mixed_splits(picture.name))
