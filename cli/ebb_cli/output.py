"""How results are written: tables with units for people, one JSON document for programs.

Results go to stdout; the target, progress and remarks go to stderr, so that stdout can be piped.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ebb.figures import band as band
from ebb.figures import duration as duration
from ebb.figures import number as number
from ebb.figures import size as size

# Rich takes 80 columns for a pipe, which folds tables; a log has no width.
PLAIN_WIDTH = 140
WIDEST = 1000

MARKS = {
    "succeeded": "[green]succeeded[/]",
    "running": "[cyan]running[/]",
    "rejected": "[yellow]rejected[/]",
    "failed": "[red]failed[/]",
    "cancelled": "[magenta]cancelled[/]",
    "reused": "[green]reused[/]",
    "superseded": "[dim]superseded[/]",
}


def out() -> Console:
    """Return the console on stdout, as it is now (tests replace it)."""
    return _console(sys.stdout)


def err() -> Console:
    """Return the console on stderr, as it is now."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)


def command() -> str:
    """Return how a person calls this very `ebb` from here: by its name, or by its path when the name finds another."""
    own = Path(sys.argv[0]).absolute()
    found = shutil.which("ebb")
    if own.name != "ebb" or (found and Path(found).absolute() == own):
        return "ebb"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


def emit_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(document, indent=2, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime():
            return value.astimezone(UTC).isoformat()
        case set() | frozenset():
            return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), whole: bool = False
) -> None:
    """Print a table; the columns named in `right` hold numbers. `whole`: as wide as it is, whatever the terminal is."""
    drawn = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None)
    drawn.pad_edge = False
    for name in columns:
        drawn.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        drawn.add_row(*("-" if cell is None or cell == "" else str(cell) for cell in row))
    console = Console(file=sys.stdout, width=WIDEST, highlight=False) if whole else out()
    console.print(drawn)


def remark(text: str) -> None:
    """Print a line beside a result: broken between words on a terminal, whole in a pipe."""
    console = out()
    console.print(text, style="dim", markup=False, soft_wrap=not console.is_terminal)


def status(name: str) -> str:
    """Return a status in its colour."""
    return MARKS.get(name, escape(name))


def moment(iso: Any) -> str:
    """Return an ISO moment as local time, to the second."""
    if not iso:
        return "-"
    return parse_moment(str(iso)).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def parse_moment(iso: str) -> datetime:
    """Return an aware datetime from an ISO text; a text without an offset is UTC."""
    parsed = datetime.fromisoformat(iso)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
