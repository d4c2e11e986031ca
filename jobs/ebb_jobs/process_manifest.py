"""Which picture shows what: by the folders that they lie in, or by a table that names them."""

from __future__ import annotations

import posixpath
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
    path, skip = _path_column(name, columns, rows, places, data.get("input"))
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
        file = places.find(row.cells[path.value], skip)
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
        self._by_name: dict[str, list[tuple[str, Path]]] = {}
        for file in files:
            self._by_name.setdefault(file.name, []).append((f"/{drop.told(file)}", file))

    def find(self, text: str, skip: int = 0) -> Path | None:
        """Return the picture at a path from the table's folder or from any folder above it; None when it is not sure.

        The first `skip` folders of the path are left out: they may be those of the machine that wrote the table.
        """
        parts = text.replace("\\", "/").split("/")[skip:]
        if not any(parts):
            return None
        path = posixpath.normpath("/".join(parts))
        exact = self._by_path.get(posixpath.normpath(self._beside / path)) or self._by_path.get(path)
        if exact:
            return exact
        ending = [file for told, file in self._by_name.get(parts[-1], []) if told.endswith(f"/{path}")]
        return ending[0] if len(ending) == 1 else None

    def skipped(self, texts: list[str]) -> int | None:
        """Return how many folders to leave out, in all paths alike, so that each names a picture; None when none do."""
        most = min((text.replace("\\", "/").count("/") for text in texts), default=0)
        return next((skip for skip in range(most + 1) if all(self.find(text, skip) for text in texts)), None)


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


def _path_column(
    name: str, columns: list[str], rows: list[_Row], places: _Places, asked: str | None
) -> tuple[Inferred, int]:
    """Return the column whose cells are the pictures' paths, and how many of their folders to leave out.

    The first rows decide for all: were each path found as well as it can be, one whose picture is missing could find
    another class's picture of the same name.
    """
    if asked and asked not in columns:
        raise RejectedError(
            Rejection(
                "input-missing",
                f"{name} has {len(columns)} columns, none is called {asked!r}",
                file=name,
                column=asked,
                remedy="Set data.input in pipeline.yaml to the name of the column with the paths.",
            )
        )
    skips = {column: places.skipped([row.cells[column] for row in rows[:TRIED_ROWS]]) for column in columns}
    if asked:
        return Inferred(asked, "data.input in the spec names its column of paths"), skips[asked] or 0
    usual = [column for column in columns if column.lower() in PATH_NAMES]
    found = next((column for column in (*usual, *columns) if skips[column] is not None), None)
    if found is not None:
        reason = f"column {columns.index(found) + 1} holds paths of the drop's pictures"
        return Inferred(found, reason), skips[found] or 0
    if usual:
        return Inferred(usual[0], f"its column {usual[0]} holds paths by its name"), 0
    raise RejectedError(
        Rejection(
            "manifest-no-path",
            f"no column of {name} holds the paths of the drop's pictures",
            file=name,
            remedy="Write the paths as they are in the drop into a column called path, or name it with data.input.",
        )
    )


def _check_splits(found: list[Picture]) -> None:
    outside = [picture for picture in found if picture.split is None]
    if outside and len(outside) < len(found):
        raise RejectedError(refusals.mixed_splits(outside[0].name))
