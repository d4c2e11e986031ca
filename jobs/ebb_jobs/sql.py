"""Names and texts as SQL."""

from collections.abc import Iterable

from ebb_jobs import spelling


def quote(name: str) -> str:
    """Return a column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """Return `wanted`, lengthened until no column is called so (SQL does not tell capitals apart)."""
    lower = {name.lower() for name in taken}
    while wanted in lower:
        wanted += "_"
    return wanted


def is_one_of(value: str, texts: Iterable[str]) -> str:
    """Return the SQL that tells whether a value is one of few texts.

    One by one, because DuckDB makes a join of a longer IN: of hundreds of columns, hundreds, each with its memory.
    """
    return "(" + " OR ".join(f"{value} = {literal(text)}" for text in sorted(texts)) + ")"


def number(column: str) -> str:
    """Return the SQL of a quoted text column as a DOUBLE, NULL where it is no plain number; -0 is 0."""
    plain = f"regexp_full_match({column}, {literal(spelling.NUMBER.pattern)})"
    return f"CASE WHEN {plain} THEN TRY_CAST({column} AS DOUBLE) END + 0e0"
