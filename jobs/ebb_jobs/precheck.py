"""Finds what makes a drop unusable by reading its bytes: the first MiB before any job, the whole file inside `process`.

Standard library only. `check` judges what a control plane has at hand; `scan` walks a whole stream and is what
names the line when the fast reader of `process` only says that something is wrong.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from ebb_jobs import infer, spelling
from ebb_jobs.rejection import RejectedError, Rejection

csv.field_size_limit(2**24)
MAX_HEAD_CHARACTERS = 2**23
PARQUET_MAGIC = b"PAR1"
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Record(NamedTuple):
    """One row of a text file: the line it begins on and its cells by position (csv) or by key (jsonl)."""

    line: int
    cells: list[str] | dict[str, object]


class Target(NamedTuple):
    """The target, and how a rejection speaks of it."""

    name: str
    column: str
    """Its name when the spec asks for it or it is a usual one, else its position: a file without a header has a row's
    values for names."""

    @property
    def words(self) -> str:
        """Return the column in a sentence: "the target 'label'", "the target in column 3"."""
        return repr(self.name) if self.column == self.name else f"in column {self.column}"


class Scan(NamedTuple):
    """What a walk over a text file found."""

    columns: list[str]
    rows: int
    target: Target | None
    target_values: int
    """How many different values the target has; 2 stands for any more."""


def check(name: str, size_bytes: int, head: bytes, *, complete: bool, target: str | None = None) -> Rejection | None:
    """Return why the file `name` cannot be used, as far as its first bytes show it; None when nothing is wrong.

    `head` holds the file's first bytes (1 MiB is plenty), `complete` says whether that is all of it, `target` is the
    column that the spec names.
    """
    found = infer.file_format(name)
    if found is None:
        return Rejection(
            "unsupported-format", f"{name}: not a supported file type", file=name, remedy=f"Drop {infer.SUPPORTED}."
        )
    if size_bytes == 0:
        return Rejection("empty-file", f"{name} is empty", file=name, remedy="Upload the file again, with its rows.")
    if found.name == "parquet":
        return _check_parquet(name, head, complete)
    try:
        text = _head_text(name, head, found.compression, complete)
        complete = complete and len(text) < MAX_HEAD_CHARACTERS
        seen = scan(name, io.StringIO(text, newline=""), found.name, complete=complete, target=target)
        if complete and seen.target and seen.target_values < 2:
            return one_value(name, seen.target)
    except RejectedError as rejected:
        return rejected.rejection
    return None


def find_target(columns: list[str], asked: str | None) -> Target:
    """Return the column to predict, asked for or inferred."""
    name = infer.target(columns, asked).value
    known = bool(asked) or name.strip().lower() in infer.TARGET_NAMES
    return Target(name, name if known else str(columns.index(name) + 1))


def scan(name: str, stream: IO[str], form: str, *, complete: bool, target: str | None = None) -> Scan:
    """Read every row of a text stream; raise RejectedError at the first that is wrong.

    Without `target` the one that inference would take is checked.
    """
    sample = stream.read(2**16)
    stream.seek(0)
    columns: list[str] = []
    values: set[str] = set()
    found = Target(target, target) if target else None
    rows, without_target = 0, None
    for record in records(name, stream, form, infer.delimiter(sample).value, complete=complete):
        if isinstance(record.cells, dict):
            columns.extend(key for key in record.cells if key not in columns)
            if found is None or found.name not in columns:
                without_target = without_target or record
                rows += 1
                continue
            cell = record.cells.get(found.name)
            value = "" if cell is None else str(cell)
        elif not columns:
            columns = check_header(name, record.cells, target)
            found = find_target(columns, target)
            position = columns.index(found.name)
            continue
        elif len(record.cells) != len(columns):
            raise RejectedError(ragged_row(name, record.line, len(record.cells), len(columns)))
        else:
            value = record.cells[position]
        rows += 1
        if found and without_target:
            raise RejectedError(target_empty(name, without_target.line, found))
        if found and value.strip().lower() in spelling.MISSING_TARGET:
            raise RejectedError(target_empty(name, record.line, found))
        if len(values) < 2:
            values.add(value.strip())
    if rows == 0 and complete:
        raise RejectedError(
            Rejection(
                "no-rows",
                f"{name} has no rows" + (" below its header" if columns else ""),
                file=name,
                remedy="Add the rows.",
            )
        )
    if found and columns and found.name not in columns:
        raise RejectedError(target_missing(name, found.name, columns))
    return Scan(columns, rows, found if columns else None, len(values))


def records(name: str, stream: IO[str], form: str, delimiter: str, *, complete: bool) -> Iterator[Record]:
    """Yield the rows of a text stream with the line each begins on; the last, cut one is left out when not complete."""
    return (_json_records if form == "jsonl" else _csv_records)(name, stream, delimiter, complete)


def check_header(name: str, header: list[str], target: str | None) -> list[str]:
    """Return the trimmed column names, or raise RejectedError: empty, twice, values, or without the target.

    Columns are told by their position: the first line of a file without a header is a row of the data.
    """
    columns = [cell.strip() for cell in header]
    for number, column in enumerate(columns, start=1):
        held = spelling.value_in_header(column)
        if held or all(map(spelling.is_number, columns)):
            raise RejectedError(
                Rejection(
                    "no-header",
                    f"{name}: column {number} of the first line holds {held or 'a number'} where a name should be",
                    file=name,
                    line=1,
                    column=str(number),
                    remedy="Put a line with the column names first; a number, a date or NA is no name.",
                )
            )
    for number, column in enumerate(columns, start=1):
        if not column:
            raise RejectedError(
                Rejection(
                    "empty-column-name",
                    f"{name}: column {number} has no name",
                    file=name,
                    line=1,
                    column=str(number),
                    remedy="Name every column in the first line.",
                )
            )
    seen: dict[str, int] = {}
    for number, column in enumerate(columns, start=1):
        first = seen.setdefault(column.lower(), number)
        if first != number:
            raise RejectedError(
                Rejection(
                    "duplicate-column",
                    f"{name}: columns {first} and {number} have the same name",
                    file=name,
                    line=1,
                    column=str(number),
                    remedy="Give each column its own name (case does not tell them apart).",
                )
            )
    if target and target not in columns:
        raise RejectedError(target_missing(name, target, columns))
    return columns


def target_missing(name: str | None, target: str, columns: list[str]) -> Rejection:
    """Return the rejection for a target that the spec asks for and no column is called."""
    alike = [number for number, column in enumerate(columns, start=1) if column.lower() == target.lower()]
    hint = f" Column {alike[0]} differs from {target!r} only in its capitals." if alike else ""
    return Rejection(
        "target-missing",
        f"the data has {len(columns)} columns, none is called {target!r}",
        file=name,
        column=target,
        remedy=f"Set data.target in pipeline.yaml to the name of a column, spelt as in the data.{hint}",
    )


def target_empty(name: str | None, line: int | None, target: Target, count: int = 1) -> Rejection:
    """Return the rejection for rows whose target has no value."""
    where = f"{name}, line {line}: " if line else ""
    more = f" ({count} such rows)" if count > 1 else ""
    return Rejection(
        "target-empty",
        f"{where}the target {target.words} has no value{more}",
        file=name,
        line=line,
        column=target.column,
        remedy="Fill in the target or remove the rows that have none.",
    )


def one_value(name: str | None, target: Target) -> Rejection:
    """Return the rejection for a target that is the same in every row."""
    return Rejection(
        "one-class",
        f"the target {target.words} has the same value in every row",
        file=name,
        column=target.column,
        remedy="Add rows of another class, or name another column with data.target in pipeline.yaml.",
    )


def ragged_row(name: str, line: int | None, cells: int, columns: int) -> Rejection:
    """Return the rejection for a row that has more or fewer cells than the header."""
    return Rejection(
        "ragged-row",
        f"{name}, line {line}: {cells} cells where the header has {columns}",
        file=name,
        line=line,
        remedy="Give every row as many cells as the header; quote cells that hold the delimiter.",
    )


def not_utf8(name: str, head: bytes, line: int | None, byte: int | None) -> Rejection:
    """Return the rejection for bytes that are no UTF-8 text."""
    if head[:2] in UTF16_MARKS:
        return Rejection("not-utf8", f"{name} is UTF-16 text", file=name, line=1, remedy="Save the file as UTF-8.")
    return Rejection(
        "not-utf8",
        f"{name}, line {line}: byte {byte} of the file is not UTF-8",
        file=name,
        line=line,
        remedy="Save the file as UTF-8 (many spreadsheets offer 'CSV UTF-8').",
    )


def _check_parquet(name: str, head: bytes, complete: bool) -> Rejection | None:
    if head[:4] == PARQUET_MAGIC and (not complete or (len(head) >= 12 and head[-4:] == PARQUET_MAGIC)):
        return None
    return Rejection(
        "not-parquet",
        f"{name} is called .parquet and is not a complete Parquet file",
        file=name,
        remedy="Write the file again; Parquet begins and ends with the letters PAR1.",
    )


def _head_text(name: str, head: bytes, compression: str | None, complete: bool) -> str:
    if compression:
        try:
            inflate = zlib.decompressobj(wbits=31)
            head = inflate.decompress(head, MAX_HEAD_CHARACTERS)
        except zlib.error as error:
            raise RejectedError(
                Rejection(
                    "broken-gzip",
                    f"{name} is called .gz and is not gzip data",
                    file=name,
                    remedy="Compress the file again, or drop it uncompressed.",
                )
            ) from error
        if complete and not inflate.eof and len(head) < MAX_HEAD_CHARACTERS:
            raise RejectedError(
                Rejection(
                    "broken-gzip",
                    f"{name} ends in the middle of its gzip data",
                    file=name,
                    remedy="Upload the file again: it was cut.",
                )
            )
        complete = complete and inflate.eof
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        return decoder.decode(head, final=complete)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RejectedError(not_utf8(name, head, line, error.start + 1)) from error


def _csv_records(name: str, stream: IO[str], delimiter: str, complete: bool) -> Iterator[Record]:
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    begun, held = 1, None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            if not complete and "unexpected end" in str(error):
                row = None  # the head ends inside a quoted cell
            else:
                raise RejectedError(
                    Rejection(
                        "bad-quotes",
                        f"{name}: the row that begins on line {begun} has a quotation mark out of place",
                        file=name,
                        line=begun,
                        remedy='Close every quoted cell, and write "" for a quotation mark.',
                    )
                ) from error
        if held is not None and (row is not None or complete):
            yield held
        if row is None:
            return
        held = Record(begun, row) if row else None
        begun = reader.line_num + 1


def _json_records(name: str, stream: IO[str], delimiter: str, complete: bool) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        if not line.strip() or (not complete and not line.endswith("\n")):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # the second: nested without end
            raise RejectedError(
                Rejection(
                    "bad-json",
                    f"{name}, line {number}: not valid JSON",
                    file=name,
                    line=number,
                    remedy="Write one JSON object per line.",
                )
            ) from error
        if not isinstance(row, dict):
            raise RejectedError(
                Rejection(
                    "bad-json",
                    f"{name}, line {number}: not a JSON object",
                    file=name,
                    line=number,
                    remedy='Write one JSON object per line, like {"column": 1}.',
                )
            )
        yield Record(number, row)
