"""What was dropped: its bytes verified, its archives unpacked, its files told apart."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ebb_jobs import archives, infer, precheck, refusals
from ebb_jobs.errors import InputMissingError
from ebb_jobs.rejection import RejectedError, Rejection

SOURCES = "sources.json"
DATA = "data"
"""The folder of a drop with a training script that holds nothing but data."""
SHA256 = re.compile(r"[0-9a-f]{64}")
LANDED = re.compile(r"[^/]+/data/[^/]+/")
"""The folder of one drop, in the keys of a project to which data is appended drop by drop."""


class Drop(NamedTuple):
    """The files of a drop, after unpacking."""

    folder: Path
    """Rejections call a file by its path from here: its key, and inside an archive its name there."""
    files: list[Path]
    inner: dict[Path, str]
    """Each file's path from the top of the drop, or of the archive, that it came with."""
    form: str
    source: Path | None
    """What the spec names as the training script, apart from the data."""
    left_out: list[str]
    """Files that are no data by their names, as far as they are worth telling."""

    def told(self, file: Path) -> str:
        """Return how a rejection calls a file."""
        return file.relative_to(self.folder).as_posix()


def digests(channel: Path) -> dict[str, str]:
    """Return the SHA-256 of each key that the run was planned with, as the channel lists them; none without one."""
    file = channel / SOURCES
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def verify(folder: Path, expected: dict[str, str]) -> None:
    """Raise RejectedError when a file is not the one whose hash the run was planned with."""
    for key, digest in expected.items():
        file = folder / key
        if not file.is_file():
            raise RejectedError(
                Rejection("deleted", f"{key} was deleted before it was read", file=key, remedy="Drop the file again.")
            )
        if SHA256.fullmatch(digest or "") and _sha256(file) != digest:
            raise RejectedError(changed(key))


def changed(key: str) -> Rejection:
    """Return the rejection for a file that is another one than when the run was planned."""
    return Rejection(
        "changed",
        f"{key} was changed while it was being read",
        file=key,
        remedy="Drop the file again; the newer upload starts its own run.",
    )


def read(data: Path, spec: dict[str, Any], work: Path) -> Drop:
    """Return the drop that lies in the channel `data`; archives are unpacked below `work`. Raises RejectedError."""
    train = spec.get("train") or {}
    entry_point = train.get("entry_point") or infer.ENTRY_POINT
    source = _source(data, train.get("source"))
    found = {path.relative_to(data).as_posix(): path for path in data.rglob("*") if path.is_file() and path != source}
    shared = infer.common_folder(found)
    aside = {key: path for key, path in found.items() if infer.is_no_data(key.removeprefix(shared))}
    files = [found[key] for key in sorted(found) if key not in aside]
    if not files and source is None:
        raise InputMissingError(f"the data channel {data.name!r} holds no file")
    inner = _from_top(data, files, appended=(spec.get("data") or {}).get("mode") == "append")
    form = precheck.content_format(list(inner.values()), entry_point=entry_point, script=source is not None)
    if form != "archive":
        tops = {path.relative_to(data).as_posix().removesuffix(name) for path, name in inner.items()}
        more, others = _spared(aside, tops, form, everything=source is not None)
        return Drop(data, sorted([*files, *more]), inner | more, form, source, others)
    folder = work / "unpacked"
    unpacked: dict[Path, str] = {}
    left_out: list[str] = []
    forms = set()
    left = archives.LIMITS
    for archive in files:
        told = archive.relative_to(data).as_posix()
        into = folder / told
        inside = archives.extract(archive, into, name=told, limits=left, leave_out=infer.is_litter)
        left = left._replace(
            members=left.members - len(inside), bytes=left.bytes - sum(path.stat().st_size for path in inside)
        )
        names = {path: path.relative_to(into).as_posix() for path in inside}
        plain = {path: name for path, name in names.items() if not infer.is_no_data(name)}
        if not plain and source is None:
            raise RejectedError(refusals.empty_archive(told))
        form = precheck.content_format(
            list(plain.values()), entry_point=entry_point, archive=told, script=source is not None
        )
        forms.add(form)
        top = "" if source is not None else _top(list(plain.values()))
        unpacked.update({path: name.removeprefix(top) for path, name in plain.items()})
        more, others = _spared(
            {name: path for path, name in names.items() if path not in plain},
            {top},
            form,
            everything=source is not None,
        )
        unpacked.update(more)
        left_out.extend(f"{told}/{name}" for name in others)
    if len(forms) > 1 or (forms == {"script"} and source is None and len(files) > 1):
        raise RejectedError(
            Rejection(
                "mixed-formats",
                f"the archives of the drop hold {' and '.join(sorted(forms))}",
                remedy="Drop archives of one kind together, and a training script in one archive alone.",
            )
        )
    return Drop(folder, sorted(unpacked), unpacked, forms.pop(), source, left_out)


def _spared(
    aside: dict[str, Path], tops: set[str], form: str, *, everything: bool
) -> tuple[dict[Path, str], list[str]]:
    """Return which files a script gets although their names say that they are no data, and the names of the others.

    What lies below `data`, or beside a script of its own, the user put there for the script: README may be a text to
    learn from.
    """
    spared: dict[Path, str] = {}
    left_out = []
    for name, path in sorted(aside.items()):
        if infer.is_litter(name):
            continue
        top = max((top for top in tops if name.startswith(top)), key=len, default="")
        inner = name.removeprefix(top)
        if form == "script" and (everything or inner.startswith(f"{DATA}/")):
            spared[path] = inner
        else:
            left_out.append(name)
    return spared, left_out


def _source(data: Path, uri: str | None) -> Path | None:
    """Return the file that `train.source` names: it lies among the data files, by its key."""
    if not uri:
        return None
    key = uri.removeprefix("s3://").partition("/")[2]
    file = data / key
    if ".." in PurePosixPath(key).parts or not file.is_relative_to(data) or not file.is_file():
        raise RejectedError(
            Rejection(
                "source-missing",
                f"train.source names {key}, which is not there",
                file=key,
                remedy="Upload the script, or correct train.source in pipeline.yaml.",
            )
        )
    return file


def _from_top(data: Path, files: list[Path], *, appended: bool) -> dict[Path, str]:
    """Return the files' paths from the top of their drop; appended drops have a top each."""
    keys = {file: file.relative_to(data).as_posix() for file in files}
    tops = {file: LANDED.match(key) for file, key in keys.items()}
    if appended and all(tops.values()):
        return {file: key.removeprefix(found[0]) for file, key in keys.items() if (found := tops[file])}
    top = _top(list(keys.values()))
    return {file: key.removeprefix(top) for file, key in keys.items()}


def _top(names: list[str]) -> str:
    """Return the folders around everything in an archive; a lone folder of pictures stays: it is their class."""
    shared = infer.common_folder(names)
    if shared and all(infer.is_image(name) and "/" not in name.removeprefix(shared) for name in names):
        return shared[: shared.rstrip("/").rfind("/") + 1]
    return shared


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
