"""`ebb drop`: put a table into the landing bucket and, with --wait, stay until its model is served."""

from __future__ import annotations

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
SHOW_BAR_FROM_BYTES = 32 * 1024 * 1024

Project = Annotated[str, typer.Option("--project", help="Project that the data belongs to.")]
SpecFile = Annotated[Path | None, typer.Option("--spec", help="pipeline.yaml; what it leaves out is inferred.")]


def drop(
    target: Target,
    path: Annotated[Path, typer.Argument(help="A .csv, .parquet or .jsonl file, a folder, or a pipeline.yaml.")],
    project: Project,
    spec: SpecFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the stages live until the run has ended.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run even if these bytes have a successful run.")] = False,
    as_json: Json = False,
) -> None:
    """Drop a table: it is read, a model is trained, made small, and served."""
    try:
        ledger, run = begin(target, path, project, spec=spec, force=force)
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
    target: Target, path: Path, project: str, *, spec: Path | None = None, force: bool = False
) -> tuple[Ledger, dict[str, Any]]:
    """Upload a drop and return the run that it started.

    Raises: InvalidSpecError when the spec cannot be used; nothing is uploaded then.
    """
    prepared = upload.prepare(path, project)
    if spec:
        upload.read_spec(spec)
    if prepared.key.endswith(".yaml") and upload.read_spec(path).data.uri is None:
        raise CommandError(
            f"{path} names no data, so it starts no run.",
            f"Write data.uri into it, or drop a table with --spec {path}.",
            status=USAGE,
        )
    bucket, s3 = target.outputs["LandingBucketName"], target.client("s3")
    say = output.err().print
    if spec is None and not prepared.key.endswith(".yaml") and _has_spec(s3, bucket, project):
        say(f"using the spec that the project has: s3://{bucket}/{project}/pipeline.yaml", style="dim", soft_wrap=True)
    with _bar(prepared.size_bytes) as bar:
        task = bar.add_task("uploading", total=prepared.size_bytes)
        drop_id = upload.send(
            s3, bucket, prepared, spec=spec, force=force, on_bytes=lambda count: bar.update(task, advance=count)
        )
    size = output.size(prepared.size_bytes)
    say(f"dropped {escape(str(path))} ({size}) as s3://{bucket}/{prepared.key}", style="dim", soft_wrap=True)
    ledger = Ledger(target)
    run = progress.wait_for_drop(target, ledger, drop_id, within_s=BEGINS_WITHIN_S)
    say(f"run {run['run_id']}", style="bold", soft_wrap=True)
    return ledger, run


def _has_spec(s3: Any, bucket: str, project: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=f"{project}/pipeline.yaml")
    except ClientError as problem:
        if problem.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}:
            return False  # 403 is what S3 says about a missing key to those who may not list
        raise
    return True


def _bar(size_bytes: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    console = output.err()
    hidden = not console.is_terminal or size_bytes < SHOW_BAR_FROM_BYTES
    return Progress(*columns, console=console, transient=True, disable=hidden)
