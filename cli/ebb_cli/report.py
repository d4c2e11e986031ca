"""`ebb report`: the page that a run left, on this machine and in the browser."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError

from ebb import names
from ebb.report import page
from ebb_cli import output, show
from ebb_cli.ledger import Ledger
from ebb_cli.problems import CommandError
from ebb_cli.target import Json, Target, home

RUNNING = "running"
MISSING = {"404", "NoSuchKey", "NotFound"}
AS_IT_ENDED, FROM_THE_RECORD = "written when the run ended", "made now from run.json"


def report(
    target: Target,
    run: show.Run,
    path: Annotated[
        Path | None, typer.Option("--path", metavar="FILE", help="Write the page here instead of below .ebb/reports.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only download; open nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Open the report of a run: one page that needs no network, on a phone and on paper too."""
    ledger = Ledger(target)
    document = show.require(ledger, ledger.resolve(run))
    file, origin = download(target, document, path)
    if as_json:
        told = {"run_id": document["run_id"], "status": document["status"], "path": str(file), "origin": origin}
        output.emit_json(told | {"report_uri": document["report_uri"]})
        return
    if origin == FROM_THE_RECORD:
        output.err().print(f"The run left no page ({document['report_error'] or 'an earlier version'}): {origin}.")
    print(file)
    if not no_browser and not webbrowser.open(file.as_uri()):
        output.err().print("No browser was found: open the file above.")


def download(target: Target, document: dict[str, Any], path: Path | None = None) -> tuple[Path, str]:
    """Write a run's page to this machine; return where it lies, and where it came from.

    A run of an earlier version, or one whose page could not be written, has it made from its record.
    Raises: CommandError when the run goes on, or has no record any more.
    """
    run_id = document["run_id"]
    if document["status"] == RUNNING:
        raise CommandError(
            f"{run_id} is still running; the report is written when it ends.", f"ebb show {run_id} --wait waits for it."
        )
    bucket = target.outputs["ArtifactBucketName"]
    body, origin = _read(target, bucket, names.report_key(run_id)), AS_IT_ENDED
    if body is None:
        record, origin = _read(target, bucket, names.record_key(run_id)), FROM_THE_RECORD
        if record is None:
            raise CommandError(f"{run_id} has neither a report nor a record.", f"ebb why {run_id} tells what is known.")
        body = page.render(json.loads(record))
    file = (path or home() / "reports" / f"{run_id}.html").absolute()
    if file.is_dir():
        file /= f"{run_id}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)
    return file, origin


def _read(target: Target, bucket: str, key: str) -> bytes | None:
    try:
        return target.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as problem:
        if problem.response["Error"]["Code"] in MISSING:
            return None
        raise
