"""What the beginning of a table or the directory of an archive lets one expect: enough to choose a machine by.

Standard library only. These are guesses: nothing is refused for them, and `process` concludes anew from all of it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ebb_jobs import archives, infer, precheck
from ebb_jobs.infer import Inferred
from ebb_jobs.rejection import RejectedError

MAX_CHARACTERS = 2**20


class TableGlimpse(NamedTuple):
    """Target and task of a table, None as long as they cannot be told."""

    target: Inferred | None
    task: Inferred | None


class ArchiveGlimpse(NamedTuple):
    """What archives hold: the format of it, how many pictures, how many bytes once unpacked; None: not known."""

    content: str | None = None
    pictures: int | None = None
    unpacked_bytes: int | None = None


UNKNOWN = ArchiveGlimpse()


def of_table(
    name: str,
    head: bytes,
    *,
    complete: bool,
    target: str | None = None,
    text: str | None = None,
    task: str | None = None,
) -> TableGlimpse:
    """Return target and task as the first bytes show them; Parquet keeps both to itself until `process` opens it.

    `target`, `text` and `task` are those that the spec names.
    """
    named = Inferred(task, "named by task in the spec") if task else None
    found = infer.file_format(name)
    if found is None or found.name == "parquet":
        return TableGlimpse(Inferred(target, "named by data.target in the spec") if target else None, named)
    try:
        shown = precheck.head_text(name, head, found.compression, complete)
        complete, shown = complete and len(shown) <= MAX_CHARACTERS, shown[:MAX_CHARACTERS]
        columns, rows = _rows(name, shown, found.name, complete=complete)
    except RejectedError:  # whoever judges has said so, or will
        return TableGlimpse(None, named)
    if not columns:
        return TableGlimpse(None, named)
    label = infer.target(columns, target, text)
    if task is None and (texts := _texts(columns, rows, label, guessed=target is None)):
        return texts
    return TableGlimpse(label, infer.task_of_values(_values(rows, label.value), task))


def of_listing(
    archive: str, listed: archives.Listing, *, share: float = 1.0, entry_point: str = infer.ENTRY_POINT
) -> ArchiveGlimpse:
    """Return what an archive holds by its directory; `share` is how much of its bytes the listing comes from."""
    if not listed.members:
        return UNKNOWN
    names = [each.name for each in listed.members]
    try:
        content = precheck.content_format(names, entry_point=entry_point, archive=archive)
    except RejectedError:
        content = None
    return ArchiveGlimpse(
        content,
        round(sum(map(infer.is_image, names)) / share) or None,
        min(round(sum(each.size_bytes for each in listed.members) / share), archives.LIMITS.bytes),
    )


def together(found: Sequence[ArchiveGlimpse]) -> ArchiveGlimpse:
    """Return what archives hold together; what is not known of one is not known of all."""
    contents = {each.content for each in found}
    return ArchiveGlimpse(
        contents.pop() if len(contents) == 1 else None,
        _sum(each.pictures for each in found),
        _sum(each.unpacked_bytes for each in found),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total or None


def _rows(name: str, shown: str, form: str, *, complete: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and the rows that a text shows."""
    columns: list[str] = []
    rows: list[dict[str, Any]] = []
    mark = infer.delimiter(shown[: 2**16]).value
    for record in precheck.records(name, io.StringIO(shown, newline=""), form, mark, complete=complete):
        if isinstance(record.cells, dict):
            columns += [key for key in record.cells if key not in columns]
            rows.append(record.cells)
        elif not columns:
            columns = [cell.strip() for cell in record.cells]
        else:
            rows.append(dict(zip(columns, record.cells, strict=False)))
    return columns, rows


def _texts(columns: list[str], rows: list[dict[str, Any]], target: Inferred, *, guessed: bool) -> TableGlimpse | None:
    """Return target and task where the one column besides the target is free text, whichever of the two comes last."""
    if len(columns) != 2 or target.value not in columns:
        return None
    other = next(column for column in columns if column != target.value)
    ways = [(other, target)]
    if guessed:
        ways.append((target.value, Inferred(other, "the other column holds free text; name another with data.target")))
    for text, label in ways:
        values = [value for value in _values(rows, text) if value]
        words = sum(len(value.split()) for value in values) / max(len(values), 1)
        if infer.is_prose(words, len(set(values)), len(values)):
            told = f"the column {text!r} is free text, {words:.1f} words on average, and the only other one"
            return TableGlimpse(label, Inferred(infer.TEXTS, told))
    return None


def _values(rows: list[dict[str, Any]], column: str) -> list[str]:
    return ["" if row.get(column) is None else str(row[column]) for row in rows]
