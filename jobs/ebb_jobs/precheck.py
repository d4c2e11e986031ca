"""Finds what makes a drop unusable by reading its bytes: the first MiB before any job, the whole file inside `process`.

Standard library only. `check` judges what a control plane has at hand; `scan` walks a whole stream and is what
names the line when the fast reader of `process` only says that something is wrong.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO, NamedTuple

from ebb_jobs import archives, infer, refusals, spelling
from ebb_jobs.rejection import RejectedError, Rejection

csv.field_size_limit(2**24)
MAX_HEAD_CHARACTERS = 2**23
PARQUET_MAGIC = b"PAR1"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Record(NamedTuple):
    """One row of a text file: the line it begins on and its cells by position (csv) or by key (jsonl)."""

    line: int
    cells: list[str] | dict[str, object]


class Scan(NamedTuple):
    """What a walk over a text file found."""

    columns: list[str]
    rows: int
    target: refusals.Target | None
    different: int
    """Different rows, and in `counts` those per value of the target, where the scan was asked to count."""
    counts: Counter[str]


def check(
    name: str,
    size_bytes: int,
    head: bytes,
    *,
    complete: bool,
    target: str | None = None,
    task: str | None = None,
    text: str | None = None,
    alone: bool = True,
) -> Rejection | None:
    """Return why the file `name` cannot be used, as far as its first bytes show it; None when nothing is wrong.

    `head` holds the file's first bytes (1 MiB is plenty), `complete` says whether that is all of it, `target` and
    `text` are the columns that the spec names, `task` the one that it asks for, `alone` whether the run reads no other
    file: else the others may bring the rows that this one lacks.
    """
    found = infer.file_format(name)
    if found is None:
        return Rejection(
            "unsupported-format", f"{name}: not a supported file type", file=name, remedy=f"Drop {infer.SUPPORTED}."
        )
    if size_bytes == 0:
        return refusals.empty_file(name)
    if found.name == "parquet":
        return _check_parquet(name, head, complete)
    try:
        shown = head_text(name, head, found.compression, complete)
        complete = complete and len(shown) < MAX_HEAD_CHARACTERS
        enough = complete and alone
        seen = scan(
            name, io.StringIO(shown, newline=""), found.name, complete=complete, target=target, text=text, count=enough
        )
        if enough and seen.target:
            return refusals.too_few(name, seen.target, seen.counts, task)
        if enough and seen.different < refusals.MIN_ROWS:
            return refusals.too_few_rows(seen.different)
    except RejectedError as rejected:
        return rejected.rejection
    return None


def check_archive(
    name: str,
    size_bytes: int,
    stream: BinaryIO,
    *,
    task: str | None = None,
    target: str | None = None,
    source: bool = False,
    entry_point: str = infer.ENTRY_POINT,
    alone: bool = True,
    listed: archives.Listing | None = None,
) -> Rejection | None:
    """Return why the archive `name` cannot be used, as far as its directory shows it; None when nothing is wrong.

    `stream` is seekable and may hold only the first bytes of the `size_bytes`: of a .zip that shows nothing, of a
    .tar.gz its first files. `source` says whether the spec names the training script apart from the data, `alone`
    whether the run reads nothing else, `listed` what `archives.listing` has found already.
    """
    if size_bytes == 0:
        return refusals.empty_file(name)
    try:
        listed = listed or archives.listing(name, size_bytes, stream)
    except RejectedError as rejected:
        return rejected.rejection
    if not listed.complete:
        return None
    return check_listing(
        listed.members, task=task, target=target, source=source, entry_point=entry_point, archive=name, alone=alone
    )


def check_listing(
    files: Sequence[tuple[str, int]],
    *,
    task: str | None = None,
    target: str | None = None,
    source: bool = False,
    entry_point: str = infer.ENTRY_POINT,
    archive: str | None = None,
    alone: bool = True,
) -> Rejection | None:
    """Return why files cannot be used together, by their names and sizes alone; None when nothing is wrong.

    `files` holds names relative to the drop, or to the top of `archive` when they are packed in it, with their sizes
    in bytes. `alone` says whether the run reads nothing else: else other drops may bring the pictures that lack here.
    """
    told = [(name, size) for name, size in files if not infer.is_no_data(name)]
    place = f"{archive}/" if archive else ""
    try:
        form = content_format([name for name, _ in files], entry_point=entry_point, archive=archive, script=source)
        settled = infer.drop_task(form, task, source=source)
        if form == "archive" or settled == infer.CUSTOM:
            return None
        for name, size in told:
            if size == 0:
                return refusals.empty_file(place + name)
        if form == "images":
            pictures = [name for name, _ in told if infer.is_image(name)]
            if len(pictures) == len(told):  # a table among them would say what each shows
                return _check_folders(pictures, place, alone=alone)
    except RejectedError as rejected:
        return rejected.rejection
    return None


def content_format(
    names: Sequence[str], *, entry_point: str = infer.ENTRY_POINT, archive: str | None = None, script: bool = False
) -> str:
    """Return `infer.drop_format` of the files of a drop or, with `archive`, of what it holds.

    With `script` the drop is the data of a script that lies elsewhere: then any files will do.
    Raises: RejectedError, also for an archive in an archive.
    """
    if script:
        return "archive" if archive is None and names and all(map(infer.is_archive, names)) else "script"
    if archive is None:
        return infer.drop_format(names, entry_point=entry_point)
    names = [name for name in names if not infer.is_no_data(name)]
    shared = infer.common_folder(names)
    inner = [name.removeprefix(shared) for name in names]
    if entry_point not in inner:
        for name in names:
            if infer.is_archive(name):
                raise RejectedError(refusals.nested_archive(archive, name))
    return infer.drop_format(inner, entry_point=entry_point)


def _check_folders(pictures: Sequence[str], place: str, *, alone: bool) -> Rejection | None:
    found = infer.by_folders(pictures)
    for name, (label, split) in zip(pictures, found, strict=True):
        if label is None:
            unclear = split is None and any(other.split for other in found)
            return (refusals.mixed_splits if unclear else refusals.no_class_folder)(place + name)
    if not alone:
        return None
    labels = [str(each.label) for each in found]
    first = {label: place + name for label, name in zip(reversed(labels), reversed(pictures), strict=True)}
    return refusals.few_pictures(Counter(labels), first)


def scan(
    name: str,
    stream: IO[str],
    form: str,
    *,
    complete: bool,
    target: str | None = None,
    text: str | None = None,
    count: bool = False,
) -> Scan:
    """Read every row of a text stream; raise RejectedError at the first that is wrong.

    Without `target` the one that inference would take is checked. `count` holds every row in memory.
    """
    sample = stream.read(2**16)
    stream.seek(0)
    columns: list[str] = []
    different: set[tuple[str, ...]] = set()
    counts: Counter[str] = Counter()
    found = refusals.Target(target, target) if target else None
    rows, without_target = 0, None
    for record in records(name, stream, form, infer.delimiter(sample).value, complete=complete):
        if isinstance(record.cells, dict):
            columns.extend(key for key in record.cells if key not in columns)
            if found is None or found.name not in columns:
                without_target = without_target or record
                rows += 1
                if count:
                    different.add(_texts(record.cells))
                continue
            cell = record.cells.get(found.name)
            value = "" if cell is None else str(cell)
        elif not columns:
            columns = check_header(name, record.cells, target)
            found = refusals.find_target(columns, target, text)
            position = columns.index(found.name)
            continue
        elif len(record.cells) != len(columns):
            raise RejectedError(refusals.ragged_row(name, record.line, len(record.cells), len(columns)))
        else:
            value = record.cells[position]
        rows += 1
        if found and without_target:
            raise RejectedError(refusals.target_empty(name, without_target.line, found))
        if found and value.strip().lower() in spelling.MISSING_TARGET:
            raise RejectedError(refusals.target_empty(name, record.line, found))
        if count:
            row = _texts(record.cells)
            counts[value.strip()] += row not in different
            different.add(row)
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
        raise RejectedError(refusals.target_missing(name, found.name, columns))
    return Scan(columns, rows, found if columns else None, len(different), counts)


def _texts(cells: list[str] | dict[str, object]) -> tuple[str, ...]:
    """Return a row so that rows which `process` holds for different are different here too."""
    if isinstance(cells, list):
        return tuple(cell.strip() for cell in cells)
    return tuple(sorted(f"{key}={value}" for key, value in cells.items() if value is not None))


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
        raise RejectedError(refusals.target_missing(name, target, columns))
    return columns


def _check_parquet(name: str, head: bytes, complete: bool) -> Rejection | None:
    if head[:4] == PARQUET_MAGIC and (not complete or (len(head) >= 12 and head[-4:] == PARQUET_MAGIC)):
        return None
    return Rejection(
        "not-parquet",
        f"{name} is called .parquet and is not a complete Parquet file",
        file=name,
        remedy="Write the file again; Parquet begins and ends with the letters PAR1.",
    )


def head_text(name: str, head: bytes, compression: str | None, complete: bool) -> str:
    """Return the text of a file's first bytes, unpacked; `complete`: they are all of it. Raises: RejectedError."""
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
        raise RejectedError(refusals.not_utf8(name, head, line, error.start + 1)) from error


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
        if SURROGATE.search(line) and _is_unpaired(row):
            raise RejectedError(
                Rejection(
                    "bad-json",
                    f"{name}, line {number}: half of a character (a surrogate, \\ud800 to \\udfff, without its other "
                    "half)",
                    file=name,
                    line=number,
                    remedy="Write the text anew: it was cut inside of a character, often an emoji.",
                )
            )
        yield Record(number, row)


def _is_unpaired(row: dict[str, object]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
