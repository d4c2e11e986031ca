"""The program of `process_tables` for large CSV on one machine, with the same outcome from one pass over the text.

`process_tables` reads everything as text before it decides anything, because a column's kind follows from all of its
values. That is what costs, so here a sample guesses the kinds, the file is read once into columns of those kinds, and
all of it is counted as ever. What the counts decide is what counts: where it is not what the sample guessed, or where
something stands in the file that only the slow way reads exactly, nothing is written and the slow way goes on.

The rows of each split are the same, and in the same order, that of the hash: later stages take the first rows for a
sample of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from ebb_jobs import infer, process_key, process_split, process_target, refusals, spelling, tables, typing_rules
from ebb_jobs.process_split import SPLITS, scalar
from ebb_jobs.sql import free_name, literal, quote

LEAST_BYTES = 64 * 2**20
"""Below this the slow way takes a few seconds."""
SAMPLES, SAMPLE_BYTES = 32, 2**16
MOST_MB = 800
"""Of memory: more made nothing faster."""
MANY = 100
"""As many different rows of a class on a side are beyond doubt: no row is moved there for want of others."""
FEW = 100_000
"""So few different values of a column are counted first, and what they look like is looked up once each."""
_IN_A_NUMBER = re.compile(rb"[0-9]_[0-9]")


class NotQuickError(Exception):
    """Something that only the slow way does exactly; nothing has been written."""


class Own(NamedTuple):
    """The columns added to the data's: the hash of a whole row, that of what is learned from, and its side."""

    row: str
    key: str
    side: str


class Quick(NamedTuple):
    """The rows, typed and without duplicates, in the table `kept`, and what was decided of them."""

    table: tables.Loaded
    own: Own
    read: int
    kept: int
    columns: list[typing_rules.Column]
    task: infer.Inferred
    classes: list[str] | None
    rows: dict[str, int]


class _Guess(NamedTuple):
    mark: str
    names: list[str]
    numbers: list[str]
    used: list[str]
    used_numbers: list[str]
    target: infer.Inferred
    missing: list[str]
    own: Own
    same: list[str]
    """The SQL of what tells rows apart: the columns, a target that holds numbers by their value."""


def applies(files: Sequence[Path], spec: dict[str, Any]) -> bool:
    """Tell whether it is worth a try: plain CSV, large, and nothing asked for that the slow way alone knows."""
    data = spec.get("data") or {}
    asked = data.get("input") or data.get("group") or spec.get("task") == infer.TEXTS
    plain = all(infer.file_format(file.name) == infer.Format("csv", None) for file in files)
    return plain and not asked and sum(file.stat().st_size for file in files) >= LEAST_BYTES


def load(
    connection: duckdb.DuckDBPyConnection, folder: Path, files: list[Path], spec: dict[str, Any], work: Path
) -> Quick:
    """Fill `kept` with typed rows and columns of its own. Raises NotQuickError and RejectedError."""
    asked = (spec.get("data") or {}).get("target")
    quoted = _look_at_bytes(files)
    guess = _guess(connection, files, asked, spec.get("task"), work)
    told = refusals.find_target(guess.names, asked)
    others = [name for name in guess.names if name != told.name]
    for last in (False, True):
        read = _stage(connection, files, guess, work / "staged.parquet", quoted=quoted)
        _remove_duplicates(connection, guess)
        kept = scalar(connection, "SELECT count(*) FROM kept")
        columns = _profile(connection, others, set(guess.numbers))
        used = [column.name for column in columns if column.kind != "dropped"]
        numeric = [column.name for column in columns if column.kind == "numeric"]
        if (used, numeric) == (guess.used, guess.used_numbers):
            break
        if last or not used or not set(numeric) <= set(guess.numbers):
            raise NotQuickError("the sample guessed other columns")
        guess = guess._replace(used=used, used_numbers=numeric)  # the hash is of other columns: once more
    try:
        task = process_target.judge(connection, told, spec.get("task"), folder, files)
    except duckdb.CatalogException as error:
        raise NotQuickError("classes are numbers spelt in several ways") from error
    classified = task.value == infer.CLASSIFICATION
    if classified and guess.same != _quoted(guess.names) and _has_broken_numbers(connection, told.name):
        raise NotQuickError("classes that are numbers, but not whole ones")
    classes = process_target.classes(connection, told) if classified else None
    form = tables.told_form("csv", [str(file.relative_to(folder)) for file in files])
    table = tables.Loaded(guess.names, form, guess.target)
    rows = _count(connection, told.name, classes, columns, guess.own)
    return Quick(table, guess.own, read, kept, columns, task, classes, rows)


def _quoted(names: Sequence[str]) -> list[str]:
    return [quote(name) for name in names]


def _has_broken_numbers(connection: duckdb.DuckDBPyConnection, target: str) -> bool:
    """Tell whether a class is no whole number with a value of its own: such classes differ as texts."""
    value = f"TRY_CAST({quote(target)} AS DOUBLE)"
    whole = f"coalesce(abs({value}) < {2**53} AND {value} = floor({value}), false)"
    return scalar(connection, f"SELECT count(*) FROM kept WHERE NOT {whole}") > 0


def _look_at_bytes(files: Sequence[Path]) -> bool:
    """Return whether a file holds a quotation mark. Raises NotQuickError for what the quick way reads otherwise."""
    quoted = False
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(2**22):
                quoted = quoted or b'"' in chunk
                if b"\t" in chunk or b"\r" in chunk:
                    raise NotQuickError("white space other than blanks")
                if b"_" in chunk and _IN_A_NUMBER.search(chunk):
                    raise NotQuickError("DuckDB reads 1_000 as a number, and the rules do not")
    return quoted


def _guess(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Path], asked: str | None, task: str | None, work: Path
) -> _Guess:
    """Return what the kinds of the columns look like in a sample from all over the files."""
    with tables.open_text(files[0]) as stream:
        sample = stream.read(2**16)
    mark = infer.delimiter(sample).value
    place = work / "sample"
    place.mkdir()
    header = sample.partition("\n")[0] + "\n"
    (place / "sample.csv").write_bytes(header.encode() + b"".join(_pieces(files)))
    loaded = tables.load(connection, place, [place / "sample.csv"], asked)
    names, target = loaded.columns, loaded.target
    for file in files[1:]:
        with tables.open_text(file) as stream:
            if stream.readline() != header:
                raise NotQuickError("the files have headers of their own")
    connection.execute("CREATE TABLE sampled AS SELECT DISTINCT * FROM raw")
    columns = typing_rules.profile(connection, "sampled", names)
    looks = next(column.counts for column in columns if column.name == target.value)
    same = _quoted([name for name in names if name != target.value])
    same.append(
        f"TRY_CAST({quote(target.value)} AS DOUBLE)" if looks["numbers"] == looks["present"] else quote(target.value)
    )
    if same[-1] == quote(target.value):
        same = _quoted(names)
    connection.execute("DROP TABLE raw")
    connection.execute("DROP TABLE sampled")
    by_name = {column.name: column for column in columns}
    if task is None and any(
        infer.is_prose(each.counts["words"] or 0, each.counts["distinct"], each.counts["present"]) for each in columns
    ):
        raise NotQuickError("texts")
    others = [name for name in names if name != target.value]
    # What looks like a row number stays a text: whether it is one depends on how each is spelt.
    numbers = [
        name
        for name in others
        if by_name[name].counts["numbers"] == by_name[name].counts["present"] > 0
        and not (by_name[name].kind == "dropped" and by_name[name].counts["distinct"] > 1)
    ]
    total = sum(file.stat().st_size for file in files)
    share = (place / "sample.csv").stat().st_size / total
    used = [name for name in others if by_name[name].kind != "dropped" or _repeats(by_name[name], share)]
    numeric = [name for name in used if by_name[name].kind == "numeric"]
    if not used or set(numeric) != set(numbers) & set(used):
        raise NotQuickError("a column of numbers holds other texts")
    missing = _spellings((place / "sample.csv").read_bytes(), mark)
    own = Own(*(free_name(f"ebb_{field}", names) for field in Own._fields))
    return _Guess(mark, names, numbers, used, numeric, target, missing, own, same)


def _repeats(column: typing_rules.Column, share: float) -> bool:
    """Tell whether a column of texts, nearly all different in a sample of some share, should repeat in all rows.

    As in the birthday problem: n rows over D values make about n^2 / (2 D) pairs of equals.
    """
    counts = column.counts
    pairs = counts["present"] - counts["distinct"]
    texts = counts["numbers"] < typing_rules.ALMOST_ALL * counts["present"] and counts["distinct"] > 1
    return texts and counts["present"] ** 2 * share < max(pairs, 1) * counts["present"]


def _pieces(files: Sequence[Path]) -> Iterator[bytes]:
    """Return whole lines from places spread evenly over the files; the first line of each place may be cut."""
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            for number in range(SAMPLES):
                stream.seek(size * number // SAMPLES)
                stream.readline()
                piece = stream.read(SAMPLE_BYTES)
                yield piece[: piece.rfind(b"\n") + 1]


def _stage(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Path], guess: _Guess, staged: Path, *, quoted: bool
) -> int:
    """Read the files into the Parquet file `staged`, under a view of that name, and return how many rows there were.

    A file rather than a table: DuckDB reads single columns of it again at no cost, and keeps none of it in memory.
    """
    types = {name: "DOUBLE" if name in guess.numbers else "VARCHAR" for name in guess.names}
    declared = ", ".join(f"{literal(name)}: '{kind}'" for name, kind in types.items())
    missing = ", ".join(map(literal, guess.missing))
    source = (
        f"read_csv([{', '.join(literal(str(file)) for file in files)}], auto_detect=false, header=true, "
        f"delim={literal(guess.mark)}, quote='\"', escape='\"', columns={{{declared}}}, nullstr=[{missing}], "
        "strict_mode=true, null_padding=false, max_line_size=16000000)"
    )
    fields = ", ".join(
        (f"{quote(name)} + 0e0" if kind == "DOUBLE" else _trimmed(quote(name), quoted=quoted)) + f" AS {quote(name)}"
        for name, kind in types.items()
    )
    key = process_key.of([name for name in guess.used if name not in guess.used_numbers], guess.used_numbers)
    own = guess.own
    connection.execute("SET preserve_insertion_order = false")
    try:
        connection.execute(
            f"COPY (SELECT *, hash({', '.join(guess.same)}) AS {own.row}, {process_split.first_half(key)} AS {own.key} "
            f"FROM (SELECT {fields} FROM {source})) TO {literal(str(staged))} "
            "(FORMAT parquet, COMPRESSION snappy, PARQUET_VERSION V2)"
        )
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW staged AS SELECT *, {process_split.side(own.key)} AS {own.side} "
            f"FROM read_parquet({literal(str(staged))})"
        )
    except duckdb.Error as error:
        raise NotQuickError("the sample guessed other kinds, or a row is wrong") from error
    finally:
        connection.execute("SET preserve_insertion_order = true")
    endless = " OR ".join(f"isinf({quote(name)}) OR isnan({quote(name)})" for name in guess.numbers) or "false"
    if scalar(connection, f"SELECT count(*) FROM staged WHERE {endless}"):
        raise NotQuickError("a word that DuckDB reads as a number")
    return scalar(connection, "SELECT count(*) FROM staged")


def _spellings(sample: bytes, mark: str) -> list[str]:
    """Return the ways in which the sample writes missing values; each that the reader looks for costs time."""
    ends = re.escape(mark).encode() + rb'\r\n"'
    return sorted(
        {
            found.decode()
            for word in spelling.MISSING - {""}
            for found in re.findall(
                rb"(?<=[" + ends + rb"])(?i:" + re.escape(word).encode() + rb")(?=[" + ends + rb"])", sample
            )
        }
        | {""}
    )


def _trimmed(column: str, *, quoted: bool) -> str:
    """Return the SQL of a text without blanks around it, NULL where it says that a value is missing."""
    missing = ", ".join(map(literal, sorted(spelling.MISSING)))
    if quoted:  # line breaks may stand within quotation marks
        text = f"trim({column}, {tables.SPACE})"
        return f"CASE WHEN lower({text}) IN ({missing}) THEN NULL ELSE {text} END"
    text = f"trim({column})"
    short = max(map(len, spelling.MISSING))
    odd = f"starts_with({column}, ' ') OR ends_with({column}, ' ') OR strlen({column}) <= {short}"
    return f"CASE WHEN {odd} THEN CASE WHEN lower({text}) IN ({missing}) THEN NULL ELSE {text} END ELSE {column} END"


def _remove_duplicates(connection: duckdb.DuckDBPyConnection, guess: _Guess) -> None:
    """Make `kept` of `staged`: of rows whose hashes are equal all but one of equal ones are left out."""
    row = guess.own.row
    target = quote(guess.target.value)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE twice AS SELECT {row} FROM staged GROUP BY {row} HAVING count(*) > 1"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE single AS "
        f"SELECT DISTINCT ON ({', '.join(guess.same)}) * FROM staged SEMI JOIN twice USING ({row}) ORDER BY {target}"
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW kept AS SELECT * FROM staged WHERE {row} NOT IN (SELECT {row} FROM twice) "
        "UNION ALL SELECT * FROM single"
    )


def _profile(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], numbers: set[str]
) -> list[typing_rules.Column]:
    """Count what each column holds, as `typing_rules.profile` does of texts."""
    fields = ", ".join(f"count({quote(name)}), approx_count_distinct({quote(name)})" for name in names)
    rows, *found = connection.execute(f"SELECT count(*), {fields} FROM kept").fetchone() or (0,)
    columns = []
    for name, present, distinct in zip(names, found[::2], found[1::2], strict=True):
        if name in numbers:
            estimated = not typing_rules.must_be_exact(distinct, rows, present)
            if not estimated:
                distinct = scalar(connection, f"SELECT count(DISTINCT {quote(name)}) FROM kept")
            counts = {"rows": rows, "present": present, "missing": rows - present, "distinct": distinct}
            counts["estimated"] = estimated
            whole = f"SELECT count(*) FILTER ({quote(name)} = floor({quote(name)})) FROM kept"
            may_be_numbered = distinct >= 0.8 * rows
            counts |= {"numbers": present, "whole": scalar(connection, whole) if may_be_numbered else 0}
            counts |= {"true": 0, "false": 0, "words": 1.0}
            counts |= dict.fromkeys(spelling.DATE_PATTERNS, 0)
            columns.append(typing_rules.typed(connection, "kept", typing_rules.Column(name, counts)))
        elif distinct <= FEW:
            columns += typing_rules.profile_few(connection, "kept", name, distinct)
        else:
            columns += typing_rules.profile(connection, "kept", [name])
    return columns


def _count(
    connection: duckdb.DuckDBPyConnection,
    target: str,
    classes: list[str] | None,
    columns: Sequence[typing_rules.Column],
    own: Own,
) -> dict[str, int]:
    """Return the rows of each side. Raises NotQuickError when a class is so rare that rows may have to be moved."""
    finest = max((each for each in columns if each.kind != "dropped"), key=lambda each: each.counts["distinct"])
    stratum = quote(target) if classes is not None else "''"
    found = connection.execute(
        f"SELECT {stratum}, {own.side}, count(*), approx_count_distinct({quote(finest.name)}) FROM kept GROUP BY 1, 2"
    ).fetchall()
    if len(found) < len(SPLITS) * (len(classes) if classes else 1) or min(each[3] for each in found) < MANY:
        raise NotQuickError("a class is rare on one of the sides")
    return {split: sum(each[2] for each in found if each[1] == split) for split in SPLITS} | {"unsettled": 0}


def write(connection: duckdb.DuckDBPyConnection, place: str, fields: Sequence[str], found: Quick) -> None:
    """Write the splits; `fields` is the SQL of what they hold. The hash of the whole row settles ties."""
    own = found.own
    connection.execute("SET preserve_insertion_order = true")
    for split in SPLITS:
        connection.execute(
            f"COPY (SELECT {', '.join(fields)} FROM kept WHERE {own.side} = '{split}' "
            f"ORDER BY {own.key}, kept.{quote(found.table.target.value)}, {own.row}) "
            f"TO {literal(f'{place}/{split}.parquet')} (FORMAT parquet, COMPRESSION zstd)"
        )
