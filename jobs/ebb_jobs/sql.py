"""Names and texts as SQL."""

from collections.abc import Iterable


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
