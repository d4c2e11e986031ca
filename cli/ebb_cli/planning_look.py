"""What a drop is, from its file or the names of its objects alone: as the pipeline judges it before any job."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb import sources
from ebb.errors import DropRejectedError, Rejection
from ebb.sources import Source
from ebb.spec import PipelineSpec
from ebb_cli.problems import REJECTED, USAGE, CommandError
from ebb_cli.target import Target
from ebb_cli.upload import Contents
from ebb_jobs import archives, glimpse, infer, precheck
from ebb_jobs.infer import Inferred
from ebb_jobs.rejection import RejectedError

HEAD_BYTES = 1024 * 1024
ASSUMED_BYTES = 100 * 1024 * 1024  # of data that stays in a bucket, when there is no target to ask
SHOWN_CLASSES = 10
_FORM_OF_TASK = {infer.IMAGES: "images", infer.CUSTOM: "script"}


@dataclass(frozen=True)
class Look:
    """What a file shows without being read to its end."""

    files: int
    size_bytes: int
    form: str
    compressed: bool
    target: Inferred | None
    task: Inferred | None
    size_known: bool = True
    inside: glimpse.ArchiveGlimpse = glimpse.UNKNOWN


def look(held: Contents, asked: PipelineSpec) -> Look:
    """Return what the drop is, judged as the pipeline judges it before any job.

    Raises: DropRejectedError when it would be rejected.
    """
    try:
        if held.form in infer.TABLES:
            return _look_at_tables(held, asked)
        return _look_at_names(held, asked)
    except RejectedError as refused:
        raise DropRejectedError(Rejection.of(refused.rejection)) from None


def _look_at_tables(held: Contents, asked: PipelineSpec) -> Look:
    alone = len(held.files) == 1 and asked.data.mode == "replace"
    wanted = {"target": asked.data.target, "text": asked.data.input, "task": asked.task}
    shown: list[glimpse.TableGlimpse] = []
    for item in held.files.values():
        with item.open("rb") as file:
            head = file.read(HEAD_BYTES)
        size = item.stat().st_size
        complete = size <= HEAD_BYTES
        _refuse(precheck.check(item.name, size, head, complete=complete, alone=alone, **wanted))
        if not shown:
            shown.append(glimpse.of_table(item.name, head, complete=complete, **wanted))
    compressed = any(sources.is_packed(name) for name in held.files)
    return Look(len(held.files), held.size_bytes, held.form, compressed, shown[0].target, shown[0].task)


def _look_at_names(held: Contents, asked: PipelineSpec) -> Look:
    """Look at pictures, a script, or what an archive lists: names and sizes tell what they are together."""
    known: dict[str, Any] = {"source": asked.train.source is not None, "entry_point": asked.train.entry_point}
    wanted = {"task": asked.task, "target": asked.data.target, **known}
    sizes = [(name, file.stat().st_size) for name, file in held.files.items()]
    inside, archive, shown = sizes, None, []
    if held.form == "archive":
        inside = []
        for archive, file in held.files.items():
            with file.open("rb") as stream:
                size_bytes = file.stat().st_size
                listed = archives.listing(archive, size_bytes, stream) if size_bytes else None
                _refuse(precheck.check_archive(archive, size_bytes, stream, **wanted, listed=listed))
            if listed:
                inside += listed.members
                shown.append(glimpse.of_listing(archive, listed, entry_point=known["entry_point"]))
    else:
        _refuse(precheck.check_listing(sizes, **wanted))
    found = [name for name, _ in inside]
    form = precheck.content_format(found, entry_point=known["entry_point"], archive=archive, script=known["source"])
    task = infer.drop_task(form, asked.task, source=known["source"])
    return Look(
        len(held.files), held.size_bytes, held.form, held.form == "archive",
        _class_of(found) if task == infer.IMAGES else None,
        Inferred(task, _reason(form, found, asked)) if task else None,
        inside=glimpse.together(shown) if shown else glimpse.UNKNOWN,
    )  # fmt: skip


def _refuse(found: Any) -> None:
    if found:
        raise DropRejectedError(Rejection.of(found))


def _class_of(files: list[str]) -> Inferred | None:
    """Return what pictures are told apart by; None where a table beside them says it."""
    pictures = [name for name in files if infer.is_image(name)]
    classes = sorted({str(each.label) for each in infer.by_folders(pictures) if each.label is not None})
    shown = ", ".join(classes[:SHOWN_CLASSES]) + (", ..." if len(classes) > SHOWN_CLASSES else "")
    told = sum(not infer.is_no_data(name) for name in files)
    return Inferred("label", f"the folder of a picture names its class: {shown}") if told == len(pictures) else None


def _reason(form: str, files: list[str], asked: PipelineSpec) -> str:
    if asked.task:
        return "named by task in the spec"
    if asked.train.source:
        return "train.source in the spec names a training script"
    if form == "script":
        return f"there is a training script, {asked.train.entry_point}"
    return f"the drop holds {sum(map(infer.is_image, files)):,} pictures"


def look_at_names(found: list[Source], asked: PipelineSpec, *, known: bool) -> Look:
    """Return what objects are by their names, as the pipeline judges those; their content is read by it only.

    Raises: DropRejectedError when they are no drop.
    """
    keys = [each.key for each in found]
    script = asked.train.source is not None
    top = infer.common_folder(keys)
    try:
        if known or sources.is_file(keys[0]):
            relative = [key.removeprefix(top) for key in keys]
            form = precheck.content_format(relative, entry_point=asked.train.entry_point, script=script)
        else:  # a folder that nobody has looked into
            form = "script" if script else _FORM_OF_TASK.get(asked.task or "", "csv")
        task = infer.drop_task(form, asked.task, source=script)
    except RejectedError as refused:
        raise DropRejectedError(Rejection.of(refused.rejection)) from None
    compressed = any(map(sources.is_packed, keys))
    size_bytes = sum(item.size_bytes for item in found)
    target = Inferred(asked.data.target, "named by data.target in the spec") if asked.data.target else None
    told = Inferred(task, _reason(form, keys, asked)) if task else None
    return Look(len(found), size_bytes, form, compressed, target, told, known)


def local_sources(held: Contents) -> list[Source]:
    """Return the files of a drop as the pipeline would name them."""
    return [
        Source(bucket="LANDING", key=f"plan/data/{name}", size_bytes=item.stat().st_size, etag="", sha256=_sha256(item))
        for name, item in held.files.items()
    ]


def remote_sources(path: Path, asked: PipelineSpec, target: Target | None) -> tuple[list[Source], bool]:
    """Return the objects that `data.uri` names, and whether their sizes are known: only a target can tell."""
    uri, lent = asked.data.uri, asked.data.features
    if lent is not None:
        raise CommandError(
            f"{path} learns from the features of {lent}, and only the ledger knows what they hold.",
            f"Plan the data of {lent}; less what process takes, it is the same. Or drop it: ebb why tells the plan.",
            status=USAGE,
        )
    if uri is None:
        raise CommandError(
            f"{path} names no data.", f"Write data.uri into it, or plan a table with --spec {path}.", status=USAGE
        )
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if target is None:
        return [Source(bucket=bucket, key=key, size_bytes=ASSUMED_BYTES, etag="", sha256="0" * 64)], False
    s3 = target.client("s3")
    if sources.is_file(key):
        listed = [(key, s3.head_object(Bucket=bucket, Key=key)["ContentLength"])]
    else:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key.rstrip("/") + "/")
        objects = [item for page in pages for item in page.get("Contents", [])]
        prefix = key.rstrip("/") + "/"
        listed = [(item["Key"], item["Size"]) for item in objects if sources.is_data(item["Key"], item["Size"], prefix)]
    if not listed:
        raise CommandError(f"{uri} holds no data.", f"Put files there: {infer.SUPPORTED_DROPS}.", status=REJECTED)
    return [Source(bucket=bucket, key=name, size_bytes=size, etag="", sha256="0" * 64) for name, size in listed], True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
