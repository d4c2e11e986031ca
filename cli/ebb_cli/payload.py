"""From what a person has (files, a folder of pictures, a line of text) to the requests that an endpoint takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebb_cli.problems import USAGE, CommandError
from ebb_jobs import infer

CONTENT_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".txt": "text/plain",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".npy": "application/x-npy",
}
GUESSED = frozenset({"text/csv", "application/json", "application/jsonlines"})
"""What `sniff` finds in any text, whether it is that or not."""
# How files that hold no text begin: https://www.w3.org/TR/png-3/ (5.2), ITU-T T.81 (B.1.1.3), NumPy's NEP 1.
MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"\x93NUMPY": "application/x-npy"}


Typed = Callable[[bytes], str]
"""A body -> its content type."""


@dataclass(frozen=True)
class Request:
    """One call of an endpoint; `name` tells whose answers come back, where there are several calls."""

    body: bytes
    content_type: str
    name: str = ""


def of(
    paths: Sequence[Path], texts: Sequence[str], typed: Typed | None = None, content_type: str | None = None
) -> list[Request]:
    """Return the requests for files, folders of pictures and texts; a picture is a request of its own.

    `content_type` is that of all files; else `typed` tells it where a name does not.

    Raises: CommandError when there is nothing to ask, or a file is not there.
    """
    found = [of_file(file, typed, content_type) for path in paths for file in _files(path)]
    if texts:
        found.append(of_texts(texts))
    if not found:
        raise CommandError("There is nothing to ask.", "Give a file, a folder of pictures, --text or -.", status=USAGE)
    return found


def of_file(file: Path, typed: Typed | None = None, content_type: str | None = None) -> Request:
    """Return the request for one file: see `of`."""
    body = file.read_bytes()
    return Request(body, content_type or CONTENT_TYPES.get(file.suffix.lower()) or (typed or sniff)(body), file.name)


def of_stdin(typed: Typed | None = None, content_type: str | None = None) -> Request:
    """Return the request that stands on stdin: see `of`."""
    body = sys.stdin.buffer.read()
    return Request(body, content_type or (typed or sniff)(body), "stdin")


def of_texts(texts: Iterable[str]) -> Request:
    """Return the request for texts given one by one; JSON keeps line breaks inside a text."""
    body = json.dumps({"instances": [{"text": text} for text in texts]}, ensure_ascii=False)
    return Request(body.encode(), "application/json", "text")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CommandError(f"{path} is no file.", "Give a file, a folder of pictures, or - for stdin.", status=USAGE)
    found = sorted(item for item in path.rglob("*") if item.is_file() and infer.is_image(item.name))
    if not found:
        raise CommandError(f"{path} holds no picture.", "A folder may hold .png and .jpg files.", status=USAGE)
    return found


def sniff(body: bytes) -> str:
    """Return the content type of a body without a telling name: a picture, an array, JSON, JSON Lines, or else CSV."""
    for magic, content_type in MAGIC.items():
        if body.startswith(magic):
            return content_type
    text = body.lstrip()
    if text.startswith(b"["):
        return "application/json"
    if text.startswith(b"{"):
        try:
            json.loads(text)
        except ValueError:
            return "application/jsonlines"
        return "application/json"
    return "text/csv"


def sniff_text(body: bytes) -> str:
    """Return the content type of a body for a model of texts: one text, unless it is JSON or something else."""
    found = sniff(body)
    if found == "text/csv":
        return "text/plain"
    if found in ("application/json", "application/jsonlines"):
        lines = [body] if found == "application/json" else body.splitlines()
        try:
            for line in lines:
                json.loads(line)
        except ValueError:
            return "text/plain"  # it only begins with a bracket
    return found
