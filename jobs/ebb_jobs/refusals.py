"""What is wrong with a drop, as rejections: each in one place, for the first look and for `process`.

Standard library only. They name columns by position, unless the spec names them: without a header a row's values stand
where names should.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ebb_jobs import infer, spelling
from ebb_jobs.rejection import Rejection

MIN_ROWS = 30
MIN_ROWS_PER_CLASS = 5
MAX_CLASSES = 1000
MAX_CONTRADICTING_SHARE = 0.01
"""More examples that stand under two labels are a mistake in the data, fewer are its noise."""
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Target(NamedTuple):
    """The target, and how a rejection speaks of it."""

    name: str
    column: str
    """Its name when the spec asks for it or it is a usual one, else its position: a file without a header has a row's
    values for names."""

    @property
    def guessed(self) -> bool:
        """Tell that it is only taken for the target because it stands last."""
        return self.column != self.name

    @property
    def words(self) -> str:
        """Return the column in a sentence: "the target 'label'", "the target in column 3"."""
        return repr(self.name) if self.column == self.name else f"in column {self.column}"


def find_target(columns: list[str], asked: str | None, text: str | None = None) -> Target:
    """Return the column to predict, asked for or inferred; `text` is the one that the spec learns from."""
    name = infer.target(columns, asked, text).value
    return Target(name, name if asked else column_told(columns, name))


def column_told(columns: list[str], name: str) -> str:
    """Return how a rejection calls a column that no spec names: a usual name for a target, or else its position."""
    return name if name.strip().lower() in infer.TARGET_NAMES else str(columns.index(name) + 1)


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


def mixed_formats(formats: Iterable[str]) -> Rejection:
    """Return the rejection for tables of several formats."""
    return Rejection(
        "mixed-formats",
        f"the drop mixes {' and '.join(sorted(formats))} files",
        remedy="Drop files of one format together.",
    )


def no_rows(name: str) -> Rejection:
    """Return the rejection for a table without a line."""
    return Rejection("no-rows", f"{name} has no rows", file=name, remedy="Add a header and rows.")


def malformed(form: str) -> Rejection:
    """Return the rejection for a table too large to say on which line it is wrong."""
    return Rejection(
        "ragged-row" if form == "csv" else "bad-json",
        "a row has more or fewer cells than the header" if form == "csv" else "a line is no JSON object",
        remedy="Write the file anew with a library; a small part of it, dropped alone, is told the line.",
    )


def broken_text() -> Rejection:
    """Return the rejection for bytes that are no UTF-8, in a table too large to say where."""
    return Rejection(
        "not-utf8",
        "some bytes are not UTF-8 (or a replacement character stands where an earlier conversion failed)",
        remedy="Save the files as UTF-8.",
    )


def group_missing(group: str, columns: list[str]) -> Rejection:
    """Return the rejection for a column of groups that the spec asks for and no column but the target is called."""
    return Rejection(
        "group-missing",
        f"the data has {len(columns)} columns, and none besides the target is called {group!r}",
        column=group,
        remedy="Set data.group in pipeline.yaml to the name of a column, spelt as in the data.",
    )


def group_empty(group: str, count: int) -> Rejection:
    """Return the rejection for rows that belong to no group."""
    return Rejection(
        "group-empty",
        f"{count} rows have no value in the column {group!r}, which says what they belong to",
        column=group,
        remedy="Fill in the column: a value of its own for each row that belongs to no other.",
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


def too_few_rows(rows: int) -> Rejection:
    """Return the rejection for a drop of too few different rows."""
    return Rejection(
        "too-few-rows",
        f"{rows} different rows: training, validation and test need at least {MIN_ROWS}",
        remedy="Drop more rows.",
    )


def too_many(classes: int, rows: int) -> bool:
    """Tell whether a target has so many values that they cannot be classes."""
    return classes > MAX_CLASSES or classes > rows / 2


def too_many_classes(target: Target, classes: int, rows: int, *, numbers_too: bool = True) -> Rejection:
    """Return the rejection for a target that names rows instead of classes.

    `numbers_too` says whether a number could be learned from the same data.
    """
    return Rejection(
        "too-many-classes",
        f"the target {target.words} has {classes} different values in {rows} rows",
        column=target.column,
        remedy="Name the column to predict with data.target"
        + (", or write task: tabular-regression." if numbers_too else ": its values are the classes."),
    )


def rare_classes(target: Target, rows_per_class: list[int]) -> Rejection | None:
    """Return the rejection for classes of too few different rows, None when there is none."""
    small = sum(count < MIN_ROWS_PER_CLASS for count in rows_per_class)
    if not small:
        return None
    return Rejection(
        "too-few-rows",
        f"{small} of {len(rows_per_class)} classes have fewer than {MIN_ROWS_PER_CLASS} different rows "
        f"(the smallest has {min(rows_per_class)})",
        column=target.column,
        remedy="Add rows of the rare classes, or merge or remove them.",
    )


def too_many_texts() -> Rejection:
    """Return the rejection for texts to classify that are more than one machine processes."""
    return Rejection(
        "texts-too-large",
        "the table is texts and their labels, and too large for the one machine that processes texts",
        remedy="Drop fewer texts, or name the columns to learn from besides the text and write the task.",
    )


def no_picture(name: str) -> Rejection:
    """Return the rejection for a file that is called like a picture and is none."""
    return Rejection(
        "not-an-image",
        f"{name} is neither PNG nor JPEG, whatever its name says",
        file=name,
        remedy="Save the picture as PNG or JPEG, or remove the file.",
    )


def empty_file(name: str) -> Rejection:
    """Return the rejection for a file without a byte."""
    return Rejection("empty-file", f"{name} is empty", file=name, remedy="Upload the file again, with its content.")


def no_class_folder(name: str) -> Rejection:
    """Return the rejection for a picture of which nothing says what it shows."""
    return Rejection(
        "no-class",
        f"{name} lies in no class's folder, and no table names the pictures",
        file=name,
        remedy="Put each picture into a folder named after its class, or add a csv with columns path and label.",
    )


def mixed_splits(name: str) -> Rejection:
    """Return the rejection for a picture outside the split folders that others lie in."""
    return Rejection(
        "split-unclear",
        f"{name} lies outside the folders train, validation and test that other pictures lie in",
        file=name,
        remedy="Put every picture below train, validation or test, or none.",
    )


def few_pictures(pictures_per_class: Counter[str], first: Mapping[str, str]) -> Rejection | None:
    """Return why so many pictures of each class are too few or of too many classes; None when they are enough.

    `first` holds a picture of each class, by its name.
    """
    pictures, classes = pictures_per_class.total(), len(pictures_per_class)
    if classes < 2:
        return Rejection(
            "one-class",
            "all pictures are of the same class",
            remedy="Add pictures of another class, in a folder of its own or with its own label.",
        )
    if pictures < MIN_ROWS:
        return Rejection(
            "too-few-images",
            f"{pictures} different pictures: training, validation and test need at least {MIN_ROWS}",
            remedy="Drop more pictures.",
        )
    if too_many(classes, pictures):
        return Rejection(
            "too-many-classes",
            f"{classes} classes for {pictures} pictures",
            remedy="Put pictures of one class into one folder; at most 1,000 classes are learned.",
        )
    small = sum(count < MIN_ROWS_PER_CLASS for count in pictures_per_class.values())
    if not small:
        return None
    smallest = min(pictures_per_class, key=lambda label: pictures_per_class[label])
    return Rejection(
        "too-few-images",
        f"{small} of {classes} classes have fewer than {MIN_ROWS_PER_CLASS} different pictures "
        f"(the smallest has {pictures_per_class[smallest]}, {first[smallest]} among them)",
        file=first[smallest],
        remedy="Add pictures of the rare classes, or merge or remove them.",
    )


def contradicting(
    what: str,
    count: int,
    total: int,
    column: str | None = None,
    *,
    file: str | None = None,
    line: int | None = None,
    like: str | None = None,
) -> Rejection:
    """Return the rejection for examples (`what`, in the plural) of which many stand under several labels.

    The first one is in `file`, on `line` or of the same content as the file `like`.
    """
    where = f"{file}, line {line}: " if line else ""
    first = f", the first {file} and {like}" if like else ""
    return Rejection(
        "contradicting-labels",
        f"{where}{count} of {total} {what} stand under different labels although they are the same{first}",
        file=file,
        line=line,
        column=column,
        remedy="Give equal examples one label, or remove them.",
    )


def empty_archive(name: str) -> Rejection:
    """Return the rejection for an archive without a file of data."""
    return Rejection("no-data", f"{name} holds no file", file=name, remedy="Pack the data files into it.")


def nested_archive(name: str, inner: str) -> Rejection:
    """Return the rejection for an archive in an archive."""
    return Rejection(
        "nested-archive",
        f"{name} holds another archive, {inner}",
        file=name,
        remedy="Unpack the inner archive and pack its files themselves.",
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


def too_few(name: str, target: Target, counts: Counter[str], task: str | None) -> Rejection | None:
    """Return why these rows are too few, by the rules of `process`; only what is sure before it types the columns."""
    rows = counts.total()
    numeric = all(map(spelling.is_number, counts))
    classes = Counter[float | str]()
    for value, count in counts.items():
        classes[float(value) if numeric and abs(float(value)) < 2**53 else value] += count
    if len(classes) < 2:
        return one_value(name, target)
    if rows < MIN_ROWS:
        return too_few_rows(rows)
    if task not in (infer.CLASSIFICATION, infer.TEXTS) and (numeric or task):
        return None  # numbers may be a quantity
    if too_many(len(classes), rows):
        if target.guessed and (task == infer.TEXTS or infer.is_prose(_words(counts), len(classes), rows)):
            return None  # texts may stand last: `process` looks for the classes before them
        return too_many_classes(target, len(classes), rows)
    return rare_classes(target, list(classes.values()))


def _words(counts: Counter[str]) -> float:
    """Return how many words a value has on average, counted like `typing_rules`: by the spaces between them."""
    return sum((value.count(" ") + 1) * count for value, count in counts.items()) / counts.total()
