"""Reads the dropped files into one DuckDB table of trimmed text, or says what is wrong with them.

Everything becomes text first, whatever the format, so that one set of rules types the columns and the served model
can read the same text. DuckDB keeps to a memory limit and spills to disk.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import duckdb
from duckdb.sqltypes import VARCHAR

from ebb_jobs import infer, precheck, refusals, spelling
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import cpu_count
from ebb_jobs.sql import is_one_of, literal, quote

BETWEEN_WORDS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
SPACE = "E' \\t\\r\\n'"


class Loaded(NamedTuple):
    """What the table `raw` holds."""

    columns: list[str]
    form: infer.Inferred
    target: infer.Inferred


MOST_MB = 4_000
"""Of memory for DuckDB. Each of hundreds of columns has its buffers; how few megabytes would do is not measured."""


def connect(work: Path, most_mb: int = MOST_MB, *, kept: bool = True) -> duckdb.DuckDBPyConnection:
    """Return a connection whose memory is bounded by half of the machine's and at most `most_mb`.

    Tables that are not `kept` lie in memory while it lasts, and no commit waits for the disk.
    The process takes some 200 MB besides.
    """
    limit_mb = min(most_mb, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21)
    connection = duckdb.connect(
        str(work / "work.duckdb") if kept else ":memory:",
        config={
            "memory_limit": f"{limit_mb}MB",
            "threads": str(cpu_count()),
            "temp_directory": str(work / "spill"),
            "autoinstall_known_extensions": "false",
            "enable_external_access": "true",
        },
    )
    connection.create_function("ebb_alike", alike, [VARCHAR], VARCHAR)
    return connection


def alike(text: str) -> str:
    """Return a digest that is equal for texts which the tokenizer makes equal: NFKC, lower case, control characters.

    Were such texts told apart, one could be learned and the other tested.
    """
    seen = " ".join(BETWEEN_WORDS.split(unicodedata.normalize("NFKC", text).lower())).strip()
    return hashlib.blake2b(seen.encode(), digest_size=16).hexdigest()


def load(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    files: list[Path],
    asked_target: str | None,
    *,
    text: str | None = None,
) -> Loaded:
    """Fill the table `raw` with text columns; return the columns, the format and the target.

    `text` is the column of free text, if there is one: there "none" and "-" are words and no missing values.
    """
    names = {file: str(file.relative_to(folder)) for file in files}
    formats = {file: infer.file_format(file.name) for file in files}
    for file, found in formats.items():
        check_file(names[file], file, found)
    kinds = {found.name for found in formats.values() if found}
    if len(kinds) > 1:
        raise RejectedError(refusals.mixed_formats(kinds))
    form = kinds.pop()
    columns: list[str] = []
    target = infer.Inferred("", "")
    for position, file in enumerate(files):
        source, header = _source(connection, names[file], file, form, asked_target)
        if not columns:
            columns, target = header, infer.target(header, asked_target, text)
            if target.value not in columns:
                raise RejectedError(refusals.target_missing(names[file], target.value, columns))
        check_same_columns(names[file], header, columns)
        verb = "INSERT INTO raw" if position else "CREATE TABLE raw AS"
        try:
            kinds_of = {column: _kind(connection, source, column) for column in columns}
            # In two steps, so that a text is trimmed once and not for each spelling of a missing value.
            trimmed = ", ".join(f"{_trimmed(column, kinds_of[column])} AS {quote(column)}" for column in columns)
            fields = ", ".join(_missing(quote(column), column, target.value, text) for column in columns)
            connection.execute(f"{verb} SELECT {fields} FROM (SELECT {trimmed} FROM {source})")
        except duckdb.Error as error:
            _explain(names[file], file, form, asked_target, error)
            # The file is well formed by the strict rules of `precheck`: only its line ends are mixed.
            source = source.replace("strict_mode=true", "strict_mode=false")
            connection.execute(f"{verb} SELECT {fields} FROM (SELECT {trimmed} FROM {source})")
    return Loaded(columns, told_form(form, list(names.values())), target)


def told_form(form: str, names: Sequence[str]) -> infer.Inferred:
    """Return the format of some files, with the reason."""
    others = f", like its {len(names) - 1} neighbours'" if len(names) > 1 else ""
    return infer.Inferred(form, f"the name of {names[0]!r} ends so{others}")


def first_line_without(folder: Path, files: list[Path], target: str) -> tuple[str | None, int | None]:
    """Return the file and line of the first row without a target; (None, None) for Parquet, which has no lines."""
    for file in files:
        found = infer.file_format(file.name)
        name = str(file.relative_to(folder))
        if found is None or found.name == "parquet":
            continue
        try:
            with open_text(file) as stream:
                precheck.scan(name, stream, found.name, complete=True, target=target)
        except RejectedError as rejected:
            if rejected.rejection.code == "target-empty":
                return name, rejected.rejection.line
    return None, None


def first_line(
    folder: Path, files: list[Path], column: str, wrong: Callable[[str], bool]
) -> tuple[str | None, int | None]:
    """Return the file and line of the first row whose value in `column` is wrong; (None, None) for Parquet."""
    for file in files:
        found = infer.file_format(file.name)
        name = str(file.relative_to(folder))
        if found is None or found.name == "parquet":
            continue
        with open_text(file) as stream:
            mark = infer.delimiter(stream.read(2**16)).value
            stream.seek(0)
            position: int | None = None
            for record in precheck.records(name, stream, found.name, mark, complete=True):
                if isinstance(record.cells, dict):
                    cell = record.cells.get(column)
                    value = "" if cell is None else str(cell)
                elif position is None:
                    position = [cell.strip() for cell in record.cells].index(column)
                    continue
                else:
                    value = record.cells[position]
                if wrong(value.strip()):
                    return name, record.line
    return None, None


def check_file(name: str, file: Path, found: infer.Format | None) -> None:
    """Raise RejectedError when a file is empty, or its bytes are not what its name announces."""
    with file.open("rb") as stream:
        head = stream.read(16)
    if found is None or not head:
        rejection = precheck.check(name, len(head), head, complete=True)
        raise RejectedError(rejection) if rejection else AssertionError(name)
    if found.name == "parquet":
        with file.open("rb") as stream:
            stream.seek(-min(12, file.stat().st_size), os.SEEK_END)
            rejection = precheck.check(name, file.stat().st_size, head[:4] + stream.read(), complete=True)
        if rejection:
            raise RejectedError(rejection)
        return
    _check_utf8(name, file)


def _check_utf8(name: str, file: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = position = 0
    try:
        for chunk in _chunks(file):
            plain = chunk.isascii() and not decoder.getstate()[0]
            try:
                if not plain:
                    decoder.decode(chunk)
            except UnicodeDecodeError as error:
                begin = position - (len(error.object) - len(chunk))  # a character may begin in the chunk before
                line = lines + error.object.count(b"\n", 0, error.start) + 1
                raise RejectedError(
                    refusals.not_utf8(name, chunk if not position else b"", line, begin + error.start + 1)
                ) from error
            lines += chunk.count(b"\n")
            position += len(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RejectedError(
            Rejection(
                "broken-gzip",
                f"{name} is not complete gzip data",
                file=name,
                remedy="Compress the file again, or drop it uncompressed.",
            )
        ) from error
    if decoder.getstate()[0]:
        raise RejectedError(refusals.not_utf8(name, b"", lines + 1, position))


def _source(
    connection: duckdb.DuckDBPyConnection, name: str, file: Path, form: str, target: str | None
) -> tuple[str, list[str]]:
    """Return the SQL that reads `file` and its columns."""
    path = literal(str(file))
    if form == "csv":
        with open_text(file) as stream:
            sample = stream.read(2**16)
        mark = infer.delimiter(sample).value
        rows = precheck.records(name, io.StringIO(sample, newline=""), "csv", mark, complete=len(sample) < 2**16)
        header = next(rows, None)
        if header is None:
            raise RejectedError(refusals.no_rows(name))
        columns = precheck.check_header(name, list(header.cells), target)
        types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
        return (
            f"read_csv({path}, auto_detect=false, header=true, delim={literal(mark)}, quote='\"', escape='\"', "
            f"columns={{{types}}}, strict_mode=true, null_padding=false, max_line_size=16000000)"
        ), columns
    if form == "jsonl":
        path = literal(str(_without_mark(connection, file)))
    source = (
        f"read_parquet({path})"
        if form == "parquet"
        else f"read_json({path}, format='newline_delimited', maximum_depth=1, sample_size=-1)"
    )
    try:
        columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    except duckdb.Error as error:
        _explain(name, file, form, target, error)
        raise  # not reached: there is one reading of these formats
    return source, columns


def _without_mark(connection: duckdb.DuckDBPyConnection, file: Path) -> Path:
    """Return the file, or a copy of it without its byte order mark, which DuckDB takes for wrong JSON."""
    if not next(_chunks(file), b"").startswith(codecs.BOM_UTF8):
        return file
    (found,) = connection.execute("SELECT current_setting('temp_directory')").fetchone() or ("",)
    Path(found).mkdir(exist_ok=True)
    # Named after the whole path: a table of texts is read twice, and files of one name may lie in several folders.
    copy = Path(found) / f"{hashlib.sha256(bytes(file)).hexdigest()}.jsonl"
    with copy.open("wb") as out:
        for number, chunk in enumerate(_chunks(file)):
            out.write(chunk if number else chunk.removeprefix(codecs.BOM_UTF8))
    return copy


def _kind(connection: duckdb.DuckDBPyConnection, source: str, column: str) -> str:
    """Return a column's type, as DuckDB calls it."""
    if source.startswith("read_csv"):
        return "VARCHAR"
    found = connection.execute(f"SELECT typeof({quote(column)}) FROM {source} LIMIT 1").fetchone()
    return found[0] if found else "VARCHAR"


def text_of(column: str, kind: str, target: str, prose: str | None) -> str:
    """Return the SQL for one column as trimmed text, NULL where missing; whole numbers without a decimal point."""
    return _missing(_trimmed(column, kind), column, target, prose)


def _trimmed(column: str, kind: str) -> str:
    name = quote(column)
    if kind == "JSON":  # values of several types; a text keeps its quotation marks unless they are taken off
        name = f"coalesce(json_extract_string({name}, '$'), {name}::VARCHAR)"
    elif kind in ("DOUBLE", "FLOAT"):
        name = (
            f"CASE WHEN {name} = floor({name}) AND abs({name}) < 1e15 THEN {name}::BIGINT::VARCHAR "
            f"ELSE {name}::VARCHAR END"
        )
    return f"trim({name}::VARCHAR, {SPACE})"


def _missing(text: str, column: str, target: str, prose: str | None) -> str:
    """Return the SQL of a trimmed text of a column, NULL where it says that a value is missing."""
    spelt = {target: spelling.MISSING_TARGET, prose: frozenset({""})}.get(column, spelling.MISSING)
    short = f"length({text}) <= {max(map(len, spelt))}"
    return f"CASE WHEN {short} AND {is_one_of(f'lower({text})', spelt)} THEN NULL ELSE {text} END AS {quote(column)}"


def check_same_columns(name: str, found: list[str], columns: list[str]) -> None:
    """Raise RejectedError when a file has other columns than the first one of its drop."""
    lacking = [number for number, column in enumerate(columns, start=1) if column not in found]
    more = [number for number, column in enumerate(found, start=1) if column not in columns]
    if lacking or more:
        told = (
            f"lacks column {lacking[0]} of the first file of the drop"
            if lacking
            else f"has a column {more[0]} that the first file of the drop lacks"
        )
        raise RejectedError(
            Rejection(
                "columns-differ",
                f"{name} {told}",
                file=name,
                column=str((lacking or more)[0]),
                remedy="Give all files of a drop the same columns.",
            )
        )


def _explain(name: str, file: Path, form: str, target: str | None, error: duckdb.Error) -> None:
    """Raise RejectedError with the line that is wrong; return when the slow, exact reader finds nothing wrong."""
    if form == "parquet":
        raise RejectedError(
            Rejection("not-parquet", f"{name} cannot be read as Parquet", file=name, remedy="Write the file again.")
        ) from error
    with open_text(file) as stream:
        precheck.scan(name, stream, form, complete=True, target=target)
    if form == "jsonl":
        raise RejectedError(
            Rejection(
                "bad-json",
                f"{name} cannot be read, although each line is JSON",
                file=name,
                remedy="Give every row the same keys, each once (capitals do not tell them apart), and values of at "
                "most 16 MB.",
            )
        ) from error


def open_text(file: Path) -> IO[str]:
    """Open a csv or jsonl file for reading, packed with gzip or not; a byte order mark is skipped."""
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _chunks(file: Path) -> Iterator[bytes]:
    with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
        while chunk := stream.read(2**20):
            yield chunk
