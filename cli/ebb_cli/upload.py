"""Put a drop into the landing bucket: one file, a folder as one zip or as objects closed by `_SUCCESS`, or a spec."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb import names, sources
from ebb import spec as specs
from ebb.errors import DropRejectedError, Rejection
from ebb.spec import PipelineSpec
from ebb_cli import packing
from ebb_cli.problems import REJECTED, USAGE, CommandError
from ebb_jobs import infer
from ebb_jobs.rejection import RejectedError

# What is sent as one zip without being asked: pictures are many and small, a script needs every file that lies beside
# it, whatever it is called.
PACKED = {"images", "script"}
# Uploads that wait for each other cost a round trip each.
AT_ONCE = 8


@dataclass(frozen=True)
class Upload:
    """What goes where. The last file is the one whose arrival starts the run; None as its path is an empty marker."""

    project: str
    files: tuple[tuple[Path | None, str], ...]
    size_bytes: int
    packed: int = 0
    """How many files the one that is sent holds, where they were packed for the way."""

    @property
    def key(self) -> str:
        """The key that starts the run."""
        return self.files[-1][1]


def prepare(
    path: Path, project: str, scratch: Path, *, asked: PipelineSpec | None = None, pack: bool | None = None
) -> Upload:
    """Return the upload for a path; refuse what the pipeline would ignore without a word.

    A folder of pictures or with a training script is packed into one zip in `scratch`; `pack` asks for it, or for its
    files as they are, whatever they are. `asked` is the spec that goes with the drop.
    Raises: DropRejectedError when the files are no drop.
    """
    require_project(project)
    if not path.exists():
        raise CommandError(f"{path} does not exist.", status=USAGE)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return Upload(project, ((path, f"{project}/pipeline.yaml"),), path.stat().st_size)
    found = contents(path, asked or PipelineSpec())
    if found.form in PACKED if pack is None else pack and path.is_dir():
        return _packed(found, path, project, scratch)
    if path.is_dir():
        return _objects(found, path, project)
    return Upload(project, ((path, f"{project}/data/{path.name}"),), path.stat().st_size)


@dataclass(frozen=True)
class Contents:
    """The files of a drop by their names inside it, and what they are together (`infer.drop_format`)."""

    form: str
    files: dict[str, Path]

    @property
    def size_bytes(self) -> int:
        """The size of all files, as they lie on the disk."""
        return sum(file.stat().st_size for file in self.files.values())


def contents(path: Path, asked: PipelineSpec) -> Contents:
    """Return what a path holds for the pipeline. Raises: DropRejectedError when it is no drop."""
    files = _files(path, asked)
    if asked.train.source and not all(infer.is_archive(name) or infer.file_format(name) for name in files):
        return Contents("script", files)  # the script comes from elsewhere and reads what it likes
    if not files:
        raise CommandError(f"{path} holds no data.", f"Put files in it: {infer.SUPPORTED_DROPS}.", status=REJECTED)
    try:
        form = infer.drop_format(list(files), entry_point=asked.train.entry_point)
    except RejectedError as refused:
        raise DropRejectedError(Rejection.of(refused.rejection)) from None
    if form == "images" and not path.is_dir():
        raise CommandError(
            f"{path.name} is one picture, and a model learns from many.",
            "Drop the folder with one folder of pictures per class, or a zip of it.",
            status=REJECTED,
        )
    return Contents(form, files)


def _files(path: Path, asked: PipelineSpec) -> dict[str, Path]:
    """Return the path itself, or what a folder holds without hidden files, markers and what editors leave."""
    if not path.is_dir():
        return {path.name: path}
    every = {
        item.relative_to(path).as_posix(): item
        for item in sorted(path.rglob("*"))
        if item.is_file() and not _is_hidden(item.relative_to(path))
    }
    if asked.train.entry_point in every or asked.train.source:
        return every  # beside a script any name may be a part of it
    # A name with an underscore in front is a marker among tables; cameras name pictures so.
    return {
        name: item
        for name, item in every.items()
        if not infer.is_no_data(name) and (infer.is_image(name) or not item.name.startswith("_"))
    }


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") or part in {"__pycache__", "__MACOSX"} for part in name.parts)


def _packed(found: Contents, path: Path, project: str, scratch: Path) -> Upload:
    archive = scratch / f"{path.resolve().name}.zip"
    packing.write(archive, found.files.items())
    key = f"{project}/data/{archive.name}"
    return Upload(project, ((archive, key),), archive.stat().st_size, packed=len(found.files))


def _objects(found: Contents, path: Path, project: str) -> Upload:
    if len(found.files) > sources.MAX_OBJECTS:
        raise CommandError(
            f"{path} holds {len(found.files):,} files; one run takes at most {sources.MAX_OBJECTS:,} objects.",
            "Send it as one: ebb drop --zip.",
            status=REJECTED,
        )
    prefix = f"{project}/data/{path.resolve().name}"
    sent: list[tuple[Path | None, str]] = [(item, f"{prefix}/{name}") for name, item in found.files.items()]
    return Upload(project, (*sent, (None, f"{prefix}/_SUCCESS")), found.size_bytes)


def require_project(name: str) -> None:
    """Refuse a name that no project can have."""
    if not names.is_project(name):
        raise CommandError(
            f"{name!r} cannot name a project.",
            "Write at most 20 lower-case letters, digits and single dashes, like `churn-2026`; `sm-epc` is AWS's.",
            status=USAGE,
        )


def read_spec(path: Path) -> PipelineSpec:
    """Return the spec that a file holds.

    Raises: InvalidSpecError naming the field, its line and what to write instead.
    """
    if not path.is_file():
        raise CommandError(f"{path} is no file.", "--spec names a pipeline.yaml.", status=USAGE)
    return specs.parse(path.read_bytes(), file=path.name)


def send(
    s3: Any,
    bucket: str,
    upload: Upload,
    *,
    spec: Path | None = None,
    force: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> str:
    """Upload everything, the starting key last; return the id by which the run can be found."""
    drop_id = uuid.uuid4().hex
    metadata = {"ebb-drop-id": drop_id} | ({"ebb-force": "1"} if force else {})
    _refuse_leftovers(s3, bucket, upload)
    if spec:
        # Before the data: data that arrives before its spec would run with what is inferred.
        s3.upload_file(str(spec), bucket, f"{upload.project}/pipeline.yaml")

    def put(file: tuple[Path | None, str]) -> None:
        path, key = file
        if path is None:
            s3.put_object(Bucket=bucket, Key=key, Body=b"", Metadata=metadata)
        else:
            s3.upload_file(str(path), bucket, key, ExtraArgs={"Metadata": metadata}, Callback=on_bytes)

    *before, last = upload.files
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(put, before):
            pass  # an upload that failed raises here, and the run is not started
    put(last)
    return drop_id


def _refuse_leftovers(s3: Any, bucket: str, upload: Upload) -> None:
    """Files of an earlier drop under the same name would silently become part of this one."""
    if not upload.key.endswith("/_SUCCESS"):
        return
    prefix = upload.key.removesuffix("_SUCCESS")
    sent = {key for _, key in upload.files}
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    left = [item["Key"] for page in pages for item in page.get("Contents", []) if item["Key"] not in sent]
    if left:
        raise CommandError(
            f"s3://{bucket}/{prefix} already holds {len(left)} file(s) that are not in this folder, first {left[0]}.",
            "Rename the folder, or delete them there.",
        )
