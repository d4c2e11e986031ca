"""`ebb drop`: put data into the landing bucket and, with --wait, stay until its model is served."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ebb.errors import RejectionError
from ebb_cli import output, progress, show, upload
from ebb_cli.ledger import Ledger
from ebb_cli.problems import REJECTED, USAGE, CommandError
from ebb_cli.target import Json, Target

# From the upload to the run in the ledger: event, queue, two functions that may start cold.
BEGINS_WITHIN_S = 180.0
SHOW_BAR_FROM_BYTES, SHOW_BAR_FROM_FILES = 32 * 1024 * 1024, 100

Project = Annotated[str, typer.Option("--project", help="Project that the data belongs to.")]
SpecFile = Annotated[Path | None, typer.Option("--spec", help="pipeline.yaml; what it leaves out is inferred.")]


def drop(
    target: Target,
    path: Annotated[
        Path,
        typer.Argument(help="A table, texts, a .zip or .tar.gz, a folder (tables, pictures, a script), or a spec."),
    ],
    project: Project,
    spec: SpecFile = None,
    pack: Annotated[
        bool | None,
        typer.Option(
            "--zip/--no-zip",
            help="Send a folder as one zip, or each of its files; untold, pictures and scripts are zipped.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the stages live until the run has ended.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run even if these bytes have a successful run.")] = False,
    as_json: Json = False,
) -> None:
    """Drop data: it is read, a model is trained, made small, and served."""
    try:
        ledger, run = begin(target, path, project, spec=spec, pack=pack, force=force)
    except RejectionError as refused:
        if not as_json:
            raise
        # The shape of a run that the pipeline rejected; there is none, because nothing was uploaded.
        error = refused.rejection.as_dict()
        output.emit_json({"run_id": None, "project": project, "status": "rejected", "error": error, "stages": []})
        raise typer.Exit(REJECTED) from None
    if not wait:
        if as_json:
            output.emit_json(run)
        else:
            told = f"{run['run_id']} {output.status(run['status'])}"
            output.out().print(f"{told}; ebb show {run['run_id']} --wait follows it", soft_wrap=True)
        return
    show.finish(progress.follow(target, ledger, run["run_id"]), as_json=as_json)


def begin(
    target: Target,
    path: Path,
    project: str,
    *,
    spec: Path | None = None,
    pack: bool | None = None,
    force: bool = False,
) -> tuple[Ledger, dict[str, Any]]:
    """Upload a drop and return the run that it started.

    Raises: InvalidSpecError, DropRejectedError when it cannot be used; nothing is uploaded then.
    """
    asked = upload.read_spec(spec) if spec else None
    with tempfile.TemporaryDirectory(prefix="ebb-") as scratch:
        prepared = upload.prepare(path, project, Path(scratch), asked=asked, pack=pack)
        if prepared.key.endswith(".yaml") and upload.read_spec(path).data.elsewhere is None:
            raise CommandError(
                f"{path} names no data, so it starts no run.",
                f"Write data.uri or data.features into it, or drop data with --spec {path}.",
                status=USAGE,
            )
        drop_id = _send(target, prepared, spec=spec, force=force)
    size = output.size(prepared.size_bytes)
    packed = f"{prepared.packed:,} files as one zip, " if prepared.packed else ""
    output.err().print(
        f"dropped {escape(str(path))} ({packed}{size}) as s3://{target.outputs['LandingBucketName']}/{prepared.key}",
        style="dim",
        soft_wrap=True,
    )
    ledger = Ledger(target)
    run = progress.wait_for_drop(target, ledger, drop_id, within_s=BEGINS_WITHIN_S)
    output.err().print(f"run {run['run_id']}", style="bold", soft_wrap=True)
    return ledger, run


def _send(target: Target, prepared: upload.Upload, *, spec: Path | None, force: bool) -> str:
    bucket, s3 = target.outputs["LandingBucketName"], target.client("s3")
    if spec is None and not prepared.key.endswith(".yaml") and _has_spec(s3, bucket, prepared.project):
        told = f"using the spec that the project has: s3://{bucket}/{prepared.project}/pipeline.yaml"
        output.err().print(told, style="dim", soft_wrap=True)
    with _bar(prepared) as bar:
        task = bar.add_task("uploading", total=prepared.size_bytes)
        return upload.send(
            s3, bucket, prepared, spec=spec, force=force, on_bytes=lambda count: bar.update(task, advance=count)
        )


def _has_spec(s3: Any, bucket: str, project: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=f"{project}/pipeline.yaml")
    except ClientError as problem:
        if problem.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}:
            return False  # 403 is what S3 says about a missing key to those who may not list
        raise
    return True


def _bar(prepared: upload.Upload) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    console = output.err()
    quick = prepared.size_bytes < SHOW_BAR_FROM_BYTES and len(prepared.files) < SHOW_BAR_FROM_FILES
    return Progress(*columns, console=console, transient=True, disable=quick or not console.is_terminal)
