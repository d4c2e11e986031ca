"""Real tables that ship inside a package of the Python index: fetched by name, checked, and never installed."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "plotnine==0.15.9"
WHEEL_SHA256 = "36f4526235b3ddd9ea379dd677093ea2ee1b58ab98adec1bde891930283448cd"
WHEEL = "plotnine-0.15.9-py3-none-any.whl"
HOLDOUT_EVERY = 250
"""One row in so many is held out of the drop: no stage ever sees it."""
DEFAULT = "diamonds"

Row = dict[str, str]


class DemoDataError(Exception):
    """The demo table cannot be had; the message says what to do."""


@dataclass(frozen=True)
class DemoData:
    """A table on disk: what is dropped, and rows that were kept back with their answers."""

    train_csv: Path
    holdout_csv: Path
    holdout_labels: list[str]
    description: str
    licence: str
    source: str


@dataclass(frozen=True)
class _Table:
    member: str
    target: str
    keep: Callable[[Row], bool]
    description: str


TABLES = {
    "diamonds": _Table(
        member="plotnine/data/diamonds.csv",
        target="cut",
        keep=lambda row: True,
        description="53,940 round-cut diamonds: predict the grade of the cut (Fair, Good, Very Good, Premium, Ideal) "
        "from size, proportions, colour, clarity and price",
    ),
    "housing": _Table(
        member="plotnine/data/txhousing.csv",
        target="median",
        keep=lambda row: row["median"] not in ("", "NA"),  # months in which no price was recorded
        description="7,986 months of house sales in 46 cities of Texas, 2000 to 2015: predict the median price",
    ),
}


def fetch(name: str, into: Path) -> DemoData:
    """Return the table `name`, its target moved to the last column, where it is found without a spec.

    The wheel is downloaded once (1.6 MB), by its hash, and read as the zip file that it is.
    Raises: DemoDataError.
    """
    if name not in TABLES:
        raise DemoDataError(f"there is no demo table {name!r}; there are {', '.join(TABLES)}")
    table = TABLES[name]
    folder = into / name
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(_wheel(into / "cache")) as wheel, wheel.open(table.member) as raw:
        rows = [row for row in csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")) if table.keep(row)]
    columns = [column for column in rows[0] if column != table.target]
    held_out = rows[HOLDOUT_EVERY // 2 :: HOLDOUT_EVERY]
    known = {tuple(row[column] for column in columns) for row in held_out}  # twins of a held-out row stay out too
    train = [row for row in rows if tuple(row[column] for column in columns) not in known]
    data = DemoData(
        train_csv=folder / f"{name}.csv",
        holdout_csv=folder / f"{name}-held-out.csv",
        holdout_labels=[row[table.target] for row in held_out],
        description=table.description,
        licence="MIT (ggplot2 and plotnine)",
        source=f"{table.member} in {PACKAGE}",
    )
    _write(data.train_csv, [*columns, table.target], train)
    _write(data.holdout_csv, columns, held_out)
    return data


def _wheel(cache: Path) -> Path:
    """Return the wheel, downloaded when the cache does not hold it; pip refuses one with another hash."""
    wheel = cache / WHEEL
    if not (wheel.exists() and hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL_SHA256):
        cache.mkdir(parents=True, exist_ok=True)
        wanted = cache / "requirements.txt"
        wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--dest", str(cache), "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not wheel.exists():
            told = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise DemoDataError(f"{PACKAGE} cannot be downloaded: {told[0]}")
    return wheel


def _write(file: Path, columns: list[str], rows: list[Row]) -> None:
    """Write a CSV file; equal rows give equal bytes, so that a second demo reuses the first one's run."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
