"""`ebb score`: have files predicted by a project's model, in one batch, with nothing left running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ebb import scoring
from ebb_cli import output, progress, show
from ebb_cli.drop import BEGINS_WITHIN_S
from ebb_cli.ledger import Ledger
from ebb_cli.problems import EXIT_OF_STATUS, REJECTED, USAGE, CommandError
from ebb_cli.target import Json, Target
from ebb_cli.upload import Upload, require_project, send


def score(
    target: Target,
    path: Annotated[Path, typer.Argument(help=f"A file, or a folder of files of one kind: {scoring.SUPPORTED}.")],
    project: Annotated[str, typer.Option("--project", help="Project whose model predicts.")],
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is done and fetch the scored files.")] = False,
    into: Annotated[
        Path | None, typer.Option("--output", help="Folder for the scored files; the current one without it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score files with a batch transform: each row comes back with its prediction, and no endpoint is needed."""
    require_project(project)
    if into is not None and not wait:
        raise CommandError("--output fetches what has been scored.", "Add --wait.", status=USAGE)
    upload = prepare(path, project)
    ledger = Ledger(target)
    if not ledger.project(project).get("served"):
        remedy = f"ebb drop PATH --project {project} makes one."
        raise CommandError(f"{project} has no model yet.", remedy, status=REJECTED)
    bucket, s3 = target.outputs["LandingBucketName"], target.client("s3")
    drop_id = send(s3, bucket, upload, on_bytes=lambda count: None)
    told = f"dropped {path} ({output.size(upload.size_bytes)}) as s3://{bucket}/{upload.key}"
    output.err().print(escape(told), style="dim", soft_wrap=True)
    run = progress.wait_for_drop(target, ledger, drop_id, within_s=BEGINS_WITHIN_S)
    output.err().print(f"run {run['run_id']}", style="bold", soft_wrap=True)
    if not wait:
        if as_json:
            output.emit_json(run)
        else:
            output.out().print(f"{run['run_id']} {output.status(run['status'])}; ebb show {run['run_id']} --wait")
        return
    document = progress.follow(target, ledger, run["run_id"])
    files = fetch(s3, document["scored_uri"], into or Path()) if document["status"] == "succeeded" else []
    if as_json:
        output.emit_json({**document, "files": [str(file) for file in files]})
    else:
        show.print_run(document)
        for file in files:
            output.out().print(str(file), markup=False, soft_wrap=True)
    if code := EXIT_OF_STATUS.get(document["status"], 1):
        raise typer.Exit(code)


def prepare(path: Path, project: str) -> Upload:
    """Return the upload of a file or folder; refuse what the pipeline would reject anyway."""
    if path.is_dir():
        files = [item for item in sorted(path.iterdir()) if item.is_file() and not item.name.startswith((".", "_"))]
    else:
        files = [path]
    if not path.exists() or not files:
        raise CommandError(f"{path} holds no file to score.", f"Name {scoring.SUPPORTED}.", status=REJECTED)
    folder = f"{project}/score/{path.resolve().name}/" if path.is_dir() else f"{project}/score/"
    sent: list[tuple[Path | None, str]] = [(item, f"{folder}{item.name}") for item in files]
    sizes = [item.stat().st_size for item in files]
    scoring.form_of(
        [scoring.ToScore(item.name, size) for item, size in zip(files, sizes, strict=True)], folder=str(path)
    )
    marker: list[tuple[Path | None, str]] = [(None, f"{folder}_SUCCESS")] if path.is_dir() else []
    return Upload(project, (*sent, *marker), sum(sizes))


def fetch(s3: Any, uri: str, into: Path) -> list[Path]:
    """Download what was scored: `rows.csv.out` becomes `rows.scored.csv`; return the files."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            place = into / scored_name(item["Key"].rpartition("/")[2])
            s3.download_file(bucket, item["Key"], str(place))
            written.append(place)
    return written


def scored_name(name: str) -> str:
    """Return the name of a scored file on this machine: the kind stays last, so that it opens as what it is."""
    stem, _, suffix = name.removesuffix(".out").rpartition(".")
    return f"{stem}.scored.{suffix if f'.{suffix}' in scoring.TABLES else 'json'}"
