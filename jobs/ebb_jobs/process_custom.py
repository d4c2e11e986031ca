"""The user's own training script and its data: told apart, and refused early when the script cannot start."""

from __future__ import annotations

import ast
import filecmp
import importlib.metadata
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from ebb_jobs import archives, infer
from ebb_jobs.process_drop import DATA, Drop
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import Report, write_json

WHEELS = "wheels"
REQUIREMENTS = "requirements.txt"
CODE_SUFFIXES = (".py", ".pyi", ".ipynb", ".sh", ".toml", ".cfg", ".ini", ".yaml", ".yml", ".md")
ENTRY_POINTS_TO_COME = ("inference.py", "code/inference.py")
"""What serving starts with: checked now, not after an hour of training."""


def process(drop: Drop, curated: Path, spec: dict[str, Any], report: Report, work: Path) -> None:
    """Write the script with what lies beside it into `curated`/source and the data into `curated`/data.

    Raises RejectedError when there is no entry point, it is no Python, or it needs what the image does not have.
    """
    entry_point = (spec.get("train") or {}).get("entry_point") or infer.ENTRY_POINT
    source, data = curated / "source", curated / DATA
    if drop.source is not None:
        told = drop.source.name
        _take_source(drop.source, source, entry_point, work)
        _copy(_each_a_place(drop, [(file, drop.inner[file]) for file in drop.files]), data)
        reason = "train.source names the script; everything dropped is data"
    else:
        told = PurePosixPath(drop.told(drop.files[0])).parts[0] if drop.files else ""
        code, rest, reason = _apart(drop)
        _copy(_once(drop, code), source)
        _copy(_each_a_place(drop, rest), data)
    data.mkdir(exist_ok=True)
    if not (source / entry_point).is_file():
        raise RejectedError(
            Rejection(
                "no-entry-point",
                f"there is no {entry_point} at the top of {told}",
                file=entry_point,
                remedy="Put the script there, or name another file with train.entry_point.",
            )
        )
    for name in (entry_point, *ENTRY_POINTS_TO_COME):
        if (source / name).is_file():
            _check_syntax(source / name, name)
    if (source / REQUIREMENTS).is_file():
        _check_requirements(source)
    files = [path for path in data.rglob("*") if path.is_file()]
    bytes_of_data = sum(path.stat().st_size for path in files)
    report.decide("format", drop.form, f"the drop comes with the training script {entry_point}")
    report.decide("task", infer.CUSTOM, "a training script is there; what it learns is its own affair")
    report.decide("script", entry_point, reason, numbers={"data_files": len(files), "data_bytes": bytes_of_data})
    if drop.left_out:
        shown = ", ".join(drop.left_out[:5]) + (", ..." if len(drop.left_out) > 5 else "")
        report.decide("left out", len(drop.left_out), f"hidden files and leaflets outside of {DATA} stay away: {shown}")
    report.fields.update(task=infer.CUSTOM, target=None, rows=None, classes=None, features=[], files=len(files))
    write_json(
        curated / "schema.json",
        {
            "version": 1,
            "kind": "custom",
            "task": infer.CUSTOM,
            "entry_point": entry_point,
            "target": {"name": ""},
            "columns": [],
            "features": [],
            "rows": {},
        },
    )


def _take_source(file: Path, into: Path, entry_point: str, work: Path) -> None:
    """Unpack the script's archive without the folder around it; a lone .py becomes the entry point."""
    if not infer.is_archive(file.name):
        into.mkdir()
        shutil.copyfile(file, into / entry_point)
        return
    top = work / "source"
    found = archives.extract(file, top)
    names = {path: path.relative_to(top).as_posix() for path in found}
    shared = "" if entry_point in names.values() else infer.common_folder(names.values())
    _copy(((path, name.removeprefix(shared)) for path, name in names.items()), into)


def _apart(drop: Drop) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]], str]:
    """Return the code and the data of a drop with its own script, by file and new name, and by which rule."""
    folder = f"{DATA}/"
    if any(name.startswith(folder) for name in drop.inner.values()):
        code = [(file, name) for file, name in drop.inner.items() if not name.startswith(folder)]
        data = [(file, name.removeprefix(folder)) for file, name in drop.inner.items() if name.startswith(folder)]
        return code, data, "the folder data is the data, the rest lies beside the script"
    packages = {name.split("/")[0] for name in drop.inner.values() if name.endswith(".py") and "/" in name}

    def is_code(name: str) -> bool:
        first, _, rest = name.partition("/")
        if rest:
            return first == WHEELS or first in packages
        return name.lower().endswith(CODE_SUFFIXES) or name.lower().startswith("requirements")

    code = [(file, name) for file, name in drop.inner.items() if is_code(name)]
    data = [(file, name) for file, name in drop.inner.items() if not is_code(name)]
    return code, data, "without a folder data, everything that is neither Python nor its settings is the data"


def _once(drop: Drop, code: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Return the code without the copies that later drops brought of it. Raises RejectedError when they differ."""
    found: dict[str, Path] = {}
    for file, name in code:
        first = found.setdefault(name, file)
        if not filecmp.cmp(first, file, shallow=False):
            raise RejectedError(
                Rejection(
                    "script-twice",
                    f"{drop.told(first)} and {drop.told(file)} are different, and both are {name} of the script",
                    file=drop.told(file),
                    remedy="Delete the older one, or name the script apart from the data with train.source.",
                )
            )
    return [(file, name) for name, file in found.items()]


def _each_a_place(drop: Drop, data: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Return the data with a place of its own for each file: drops and archives of equal names keep their folders."""
    tops = {file: drop.told(file).removesuffix(drop.inner[file]) for file, _ in data}
    owners: dict[str, set[str]] = {}
    for file, name in data:
        for path in (name, *(f"{folder}/" for folder in PurePosixPath(name).parents)):
            owners.setdefault(path, set()).add(tops[file])
    alike = set[str]()
    for _, name in data:
        sharing = owners[name] | owners.get(f"{name}/", set())
        if len(sharing) > 1:
            alike |= sharing
    shared = infer.common_folder(tops.values())
    return [(file, tops[file].removeprefix(shared) + name if tops[file] in alike else name) for file, name in data]


def _copy(files: Iterable[tuple[Path, str]], into: Path) -> None:
    """Put files under new names below `into`; a hard link where the disk is the same, as data may be large."""
    into.mkdir(exist_ok=True)
    for file, name in files:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.resolve(), path)
        except OSError:
            with file.open("rb") as found, path.open("xb") as out:  # never through a link into what was dropped
                shutil.copyfileobj(found, out, archives.CHUNK_BYTES)


def _check_syntax(file: Path, name: str) -> None:
    """Raise RejectedError with the line when a file is no Python of the version that runs it."""
    try:
        ast.parse(file.read_bytes(), name)
    except SyntaxError as error:
        raise RejectedError(
            Rejection(
                "script-syntax",
                f"{name}, line {error.lineno}: {error.msg}",
                file=name,
                line=error.lineno,
                remedy="Correct the line; python -m py_compile shows the same.",
            )
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; nested without end
        raise RejectedError(
            Rejection("script-syntax", f"{name} is no Python source", file=name, remedy="Upload the script itself.")
        ) from error


def _check_requirements(source: Path) -> None:
    """Raise RejectedError for the first requirement that neither the image nor `wheels` meets: jobs have no network."""
    wheels = _wheels(source / WHEELS)
    text = (source / REQUIREMENTS).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        wanted = line.split(" #")[0].strip()
        if not wanted or wanted.startswith("#"):
            continue
        try:
            requirement = Requirement(wanted)
        except InvalidRequirement as error:
            raise RejectedError(
                _refused(
                    number,
                    "requirement-unreadable",
                    "is no plain requirement",
                    "Write one name with its version a line, like numpy>=2; options and files cannot be followed here.",
                )
            ) from error
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        there = _installed(requirement.name)
        at_hand = [*([there] if there else []), *wheels.get(canonicalize_name(requirement.name), [])]
        if any(requirement.specifier.contains(version, prereleases=True) for version in at_hand):
            continue
        told = f"the image has {there}" if there else "the image does not have it"
        raise RejectedError(
            _refused(
                number,
                "requirement-missing",
                f"{requirement.name}{requirement.specifier} is needed, and {told}",
                f"Put its wheel, and those that it needs, into a folder {WHEELS} beside the script "
                f"(pip download --only-binary :all: -d {WHEELS} -r {REQUIREMENTS}), or do without it; "
                "jobs have no network.",
            )
        )


def _refused(line: int, code: str, what: str, remedy: str) -> Rejection:
    return Rejection(code, f"{REQUIREMENTS}, line {line}: {what}", file=REQUIREMENTS, line=line, remedy=remedy)


def _installed(name: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None


def _wheels(folder: Path) -> dict[str, list[Version]]:
    """Return the versions of each package whose wheel lies beside the script."""
    found: dict[str, list[Version]] = {}
    for file in folder.glob("*.whl"):
        try:
            name, version, _, _ = parse_wheel_filename(file.name)
        except InvalidWheelFilename:
            continue
        found.setdefault(name, []).append(version)
    return found
