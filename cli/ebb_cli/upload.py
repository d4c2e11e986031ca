"""Put a drop into the landing bucket: one table, a folder of tables closed by `_SUCCESS`, or a spec that names data."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb import names
from ebb import spec as specs
from ebb.spec import PipelineSpec
from ebb_cli.problems import REJECTED, USAGE, CommandError
from ebb_jobs import infer


@dataclass(frozen=True)
class Upload:
    """What goes where. The last file is the one whose arrival starts the run; None as its path is an empty marker."""

    project: str
    files: tuple[tuple[Path | None, str], ...]
    size_bytes: int

    @property
    def key(self) -> str:
        """The key that starts the run."""
        return self.files[-1][1]


def prepare(path: Path, project: str) -> Upload:
    """Return the upload for a path; refuse what the pipeline would ignore without a word."""
    require_project(project)
    if not path.exists():
        raise CommandError(f"{path} does not exist.", status=USAGE)
    if path.is_dir():
        return _folder(path, project)
    if path.suffix in {".yaml", ".yml"}:
        return Upload(project, ((path, f"{project}/pipeline.yaml"),), path.stat().st_size)
    _require_table(path)
    return Upload(project, ((path, f"{project}/data/{path.name}"),), path.stat().st_size)


def require_project(name: str) -> None:
    """Refuse a name that no project can have."""
    if not names.is_project(name):
        raise CommandError(
            f"{name!r} cannot name a project.",
            "Write at most 20 lower-case letters, digits and single dashes, like `churn-2026`.",
            status=USAGE,
        )


def read_spec(path: Path) -> PipelineSpec:
    """Return the spec that a file holds.

    Raises: InvalidSpecError naming the field, its line and what to write instead.
    """
    if not path.is_file():
        raise CommandError(f"{path} is no file.", "--spec names a pipeline.yaml.", status=USAGE)
    return specs.parse(path.read_bytes(), file=path.name)


def tables(path: Path) -> list[Path]:
    """Return the files of a drop: the path itself, or what a folder holds without hidden files and markers."""
    if not path.is_dir():
        return [path]
    return sorted(item for item in path.rglob("*") if item.is_file() and not item.name.startswith((".", "_")))


def _folder(path: Path, project: str) -> Upload:
    inside = tables(path)
    if not inside:
        raise CommandError(f"{path} holds no table.", f"Put files in it: {infer.SUPPORTED}.", status=REJECTED)
    for item in inside:
        _require_table(item)
    prefix = f"{project}/data/{path.resolve().name}"
    files: list[tuple[Path | None, str]] = [(item, f"{prefix}/{item.relative_to(path).as_posix()}") for item in inside]
    files.append((None, f"{prefix}/_SUCCESS"))
    return Upload(project, tuple(files), sum(item.stat().st_size for item in inside))


def _require_table(path: Path) -> None:
    if infer.file_format(path.name):
        return
    remedy = f"A drop is {infer.SUPPORTED}, or a folder of such files."
    if path.name.lower().endswith((".zip", ".tar.gz", ".tgz")):
        remedy = f"Unpack it and drop the folder: archives are not read yet. {remedy}"
    raise CommandError(f"{path.name} is no table that Ebb can read.", remedy, status=REJECTED)


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
    for path, key in upload.files:
        if path is None:
            s3.put_object(Bucket=bucket, Key=key, Body=b"", Metadata=metadata)
        else:
            s3.upload_file(str(path), bucket, key, ExtraArgs={"Metadata": metadata}, Callback=on_bytes)
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
