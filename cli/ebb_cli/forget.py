"""`ebb forget`: remove a dataset and everything that holds rows of it, and record that it was done.

What goes and what stays is decided in `ebb.forgetting`; this module looks, asks and deletes. It acts with the caller's
own credentials (docs/data.md lists what they must allow).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import typer
from botocore.exceptions import ClientError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ebb import forgetting, names, tables
from ebb import ledger as keys
from ebb import lineage as rules
from ebb.lineage import Place
from ebb_cli import confirmation, destroy, forget_features, output
from ebb_cli.lineage import Known
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

BATCH = 1_000  # DeleteObjects takes as many
SHOWN = 20  # objects of one class that are listed to people; --json has all
REFUSED = "ConditionalCheckFailedException"
AGAIN = "Call the same ebb forget again: it goes on with what is left."


class Held(NamedTuple):
    """One version of an object, or a delete marker (of no size), or an upload that was never finished."""

    kind: str
    bucket: str
    key: str
    version_id: str | None
    size_bytes: int
    upload_id: str | None = None


@dataclass
class Found:
    """Everything that holds rows of a place, and who learnt from it."""

    where: Place
    reading: list[dict[str, Any]]
    """The runs that read objects of the place, those that scored among them."""
    models: list[dict[str, Any]]
    """The runs with a model that learnt from it, also by a warm start."""
    serving: dict[str, dict[str, Any]]
    held: list[Held] = field(default_factory=list)
    streams: list[tuple[str, str]] = field(default_factory=list)
    features: list[forget_features.Group] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    """Of the Data Catalog, with the rows of one of the runs: named here they would be read as empty."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """{class: {objects, bytes}} of what is to be removed."""
        counted: dict[str, dict[str, int]] = {}
        for each in self.held:
            entry = counted.setdefault(each.kind, {"objects": 0, "bytes": 0})
            entry["objects"] += 1
            entry["bytes"] += each.size_bytes
        return counted


def forget(
    target: Target,
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="An object or a folder: its key in the landing bucket, or s3://...")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed; remove nothing.")] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Remove the models that learnt from it too, and what serves them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing (embedded cloud only).")] = False,
    as_json: Json = False,
) -> None:
    """Remove dropped data and all that holds its rows; tell which models learnt from it."""
    known = Known(target)
    try:
        where = rules.place(dataset, known.landing)
    except ValueError as problem:
        raise CommandError(f"{problem}.", "Name a key like churn/data/rows.csv, or a folder.", status=USAGE) from None
    found = look(known, where, models=models)
    open_record = _unfinished(known, where)
    if not (found.held or found.reading or found.streams or found.tables or open_record or known.forgotten(where)):
        raise CommandError(f"Nothing is known of {where.uri}.", "aws s3 ls shows what was dropped.")
    if not dry_run:
        _refuse_running(known, found)
    if not as_json:
        _print(found, known, models=models)
    if dry_run:
        if as_json:
            output.emit_json(_told(found, known, dry_run=True))
        return
    what = f"{where.uri} and all that holds its rows" + (" AND ITS MODELS" if models else "")
    confirmation.ask(target, what, command="forget", answer=where.key, called=where.key, yes=yes)
    removed = carry_out(known, found, open_record, models=models)
    if as_json:
        output.emit_json(_told(found, known, dry_run=False) | {"removed": removed})
        return
    total = sum(removed.values())
    output.out().print(f"{where.uri} is forgotten: {total:,} things removed.", markup=False, soft_wrap=True)


def look(known: Known, where: Place, *, models: bool) -> Found:
    """Return everything that holds rows of a place; with `models` the models too. Removes nothing."""
    reading = [dict(each.run) for each in rules.read_there(known.runs, where)]
    made = [dict(each.run) for each in rules.descendants(known.runs, where) if rules.is_model(each.run)]
    found = Found(where, reading, made, known.serving(made))
    if where.bucket == known.landing:
        found.held += _versions(known, where.key, where)
    with_rows, with_model = ({run["run_id"] for run in runs} for runs in (reading, made if models else []))
    for run_id in sorted(with_rows | with_model):
        for each in (each for prefix in forgetting.prefixes(run_id) for each in _versions(known, prefix)):
            kind = forgetting.class_of(run_id, each.key)
            if kind and run_id in (with_model if kind == forgetting.MODELS else with_rows):
                found.held.append(each._replace(kind=kind))
    for run in (each for each in reading if forgetting.is_quoted(each)):
        for key in (names.record_key(run["run_id"]), names.report_key(run["run_id"])):
            found.held += [each._replace(kind=forgetting.RECORDS) for each in _versions(known, key)]
    for kind, prefix in forgetting.boxes(known.target.stack, (run["project"] for run in made)):
        found.held += [each._replace(kind=kind) for each in _versions(known, prefix)]
    found.streams = [stream for run in reading for stream in _streams(known.target, run)]
    found.features = forget_features.look(known, reading)
    found.tables = sorted({name for run in reading if (name := _table(known.target, run))})
    return found


def _versions(known: Known, prefix: str, where: Place | None = None) -> Iterator[Held]:
    """Yield each version, delete marker and unfinished upload below a prefix of the artifact bucket, or of a place."""
    s3, bucket = known.target.client("s3"), where.bucket if where else known.artifacts
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            if where is None or where.covers(bucket, each["Key"]):
                yield Held(forgetting.LANDING, bucket, each["Key"], each["VersionId"], each.get("Size", 0))
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Uploads", []):
            if where is None or where.covers(bucket, each["Key"]):
                yield Held(forgetting.LANDING, bucket, each["Key"], None, 0, each["UploadId"])


def _streams(target: Target, run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the log streams of a run's jobs: what a job prints may quote the data."""
    logs = target.client("logs")
    spark = [(f"{names.spark_logs(target.stack)}/{kind}", f"{run['run_id']}-a") for kind in ("output", "error")]
    for group, prefix in (*forgetting.log_streams(run), *spark):
        try:
            pages = logs.get_paginator("describe_log_streams").paginate(logGroupName=group, logStreamNamePrefix=prefix)
            yield from ((group, each["logStreamName"]) for page in pages for each in page["logStreams"])
        except ClientError as problem:
            if problem.response["Error"]["Code"] not in destroy.GONE:
                raise


def _table(target: Target, run: Mapping[str, Any]) -> str | None:
    """Return the project's table in the Data Catalog when it holds the rows of this run, not those of a later one."""
    name = names.catalog_table(str(run["project"]))
    try:
        table = target.client("glue").get_table(DatabaseName=names.catalog_database(target.stack), Name=name)["Table"]
    except ClientError as problem:
        if problem.response["Error"]["Code"] not in destroy.GONE:
            raise
        return None
    return name if (table.get("Parameters") or {}).get(tables.RUN) == run["run_id"] else None


def _unfinished(known: Known, where: Place) -> dict[str, Any] | None:
    """Return the record of an earlier call that did not come to its end."""
    mine = [each for each in known.forgotten(where) if each["dataset"] == where.uri]
    return next((each for each in reversed(mine) if each["status"] == forgetting.BEGUN), None)


def _working(known: Known, found: Found) -> list[str]:
    return forgetting.in_progress(known.runs, found.where, (run["run_id"] for run in found.reading))


def _refuse_running(known: Known, found: Found) -> None:
    working = _working(known, found)
    if working:
        raise CommandError(
            f"These runs work on it: {', '.join(working)}.",
            f"Wait for the end (ebb show {working[0]} --wait), or ebb cancel {working[0]} --wait; then forget again.",
        )


def carry_out(known: Known, found: Found, record: dict[str, Any] | None, *, models: bool) -> dict[str, int]:
    """Remove what was found, and return how much of each class went; `record` is that of an earlier, broken call."""
    by = str(known.target.client("sts").get_caller_identity()["Arn"])
    removed: Counter[str] = Counter()
    record = record or _begin(known, found, by)
    _lock(known, found, by)
    removed.update(_delete(known.target, [each for each in found.held if each.kind == forgetting.LANDING]))
    again = Known(known.target)  # an upload whose event was on its way may have started a run meanwhile
    later = look(again, found.where, models=models)
    _refuse_running(again, later)
    _lock(again, later, by)
    for group, rows in forget_features.carry_out(again, later.features):
        output.err().print(f"removed {rows:,} rows of the feature group {group}", markup=False, soft_wrap=True)
        removed["rows of feature groups"] += rows
    removed.update(_delete(known.target, later.held))
    for group, stream in later.streams:
        known.target.client("logs").delete_log_stream(logGroupName=group, logStreamName=stream)
        removed["log streams"] += 1
    for name in later.tables:
        known.target.client("glue").delete_table(DatabaseName=names.catalog_database(known.target.stack), Name=name)
        removed["tables"] += 1
    if models:
        for kind, name in _unmade(again, later, record):
            output.err().print(f"removed {kind:22} {name}", markup=False, soft_wrap=True)
            removed[kind] += 1
    serving = [] if models else sorted(later.serving)
    _apply(known, "update_item", forgetting.done(record, now=again.now, removed=removed, still_serving=serving))
    return dict(removed)


def _begin(known: Known, found: Found, by: str) -> dict[str, Any]:
    record = forgetting.begun(
        found.where,
        by=by,
        now=known.now,
        runs=[run["run_id"] for run in found.reading],
        models=[run["run_id"] for run in found.models],
        serving=sorted(found.serving),
        objects=found.counts,
    )
    known.table.put_item(Item=keys.to_item(record))
    return record


def _lock(known: Known, found: Found, by: str) -> None:
    """See that nothing is started from the data any more: no reuse, no retry, no growing, no warm start."""
    for run in found.reading:
        run_id, stages = str(run["run_id"]), known.items(keys.run_key(str(run["run_id"]))["pk"], "STAGE#")
        if not run.get("forgotten"):
            _apply(known, "update_item", forgetting.mark_run(run, found.where, by=by, now=known.now))
        if run.get("identity"):
            _apply(known, "delete_item", forgetting.unremember_identity(str(run["identity"]), run_id))
        for stage in stages:
            _apply(known, "update_item", forgetting.unfinish_stage(stage))
    for project in sorted({str(run["project"]) for run in (*found.reading, *found.models)}):
        for operation, request in forgetting.unaccepted(known.items(keys.project_key(project)["pk"]), found.where):
            _apply(known, operation, request)
        mine = [str(run["run_id"]) for run in found.models if run["project"] == project]
        for request in forgetting.cold_start(project, mine):
            _apply(known, "update_item", request)
        for run_id in (str(run["run_id"]) for run in found.reading if run["project"] == project):
            _apply(known, "update_item", forgetting.unpublish(project, run_id))


def _delete(target: Target, held: Sequence[Held]) -> Counter[str]:
    """Delete versions, markers and uploads for good, with a bar where somebody looks."""
    s3, gone = target.client("s3"), Counter[str]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = output.err()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("removing", total=len(held))
        for each in (each for each in held if each.upload_id):
            s3.abort_multipart_upload(Bucket=each.bucket, Key=each.key, UploadId=each.upload_id)
            gone[each.kind] += 1
            bar.advance(task)
        for bucket in sorted({each.bucket for each in held}):
            mine = [each for each in held if each.bucket == bucket and not each.upload_id]
            for start in range(0, len(mine), BATCH):
                part = mine[start : start + BATCH]
                objects = [{"Key": each.key, "VersionId": each.version_id} for each in part]
                answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
                if answer.get("Errors"):
                    first = answer["Errors"][0]
                    told = f"{bucket}/{first['Key']} was not deleted: {first['Code']}: {first.get('Message', '')}"
                    raise CommandError(told, AGAIN)
                gone.update(each.kind for each in part)
                bar.advance(task, len(part))
    return gone


def _unmade(known: Known, found: Found, record: Mapping[str, Any]) -> Iterator[destroy.Removal]:
    """Remove what serves the models that learnt from the data, and their entries in the registry.

    An earlier call may have broken between a project's address and its endpoint: the record knows that it served.
    """
    sagemaker, runs = known.target.client("sagemaker"), {str(run["run_id"]) for run in found.models}
    for project in sorted({names.project_of(run_id) for run_id in (*found.serving, *record.get("serving", ()))}):
        served = known.served(project)
        if served is None or served["run_id"] in runs:  # else another model has taken its place since
            yield from destroy.unserve(known.target, known.target.outputs, project)
    for project in sorted({str(run["project"]) for run in found.models}):
        for package in known.packages(project):
            if package["run_id"] in runs:
                sagemaker.delete_model_package(ModelPackageName=package["arn"])
                yield "model package", package["arn"].rpartition(":")[2]


def _apply(known: Known, operation: str, request: Mapping[str, Any]) -> None:
    """Send a write of the ledger; one whose condition refuses it has nothing to do any more."""
    try:
        getattr(known.table, operation)(**request)
    except ClientError as problem:
        if problem.response["Error"]["Code"] != REFUSED:
            raise


def _retrain(found: Found, known: Known) -> list[dict[str, Any]]:
    return [
        {
            "run_id": run["run_id"],
            "project": run["project"],
            "serves": found.serving.get(str(run["run_id"])),
            "retrain": forgetting.retraining(run, found.where, known.landing),
        }
        for run in found.models
    ]


def _told(found: Found, known: Known, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dataset": found.where.uri,
        "dry_run": dry_run,
        "objects": found.counts,
        "held": [{name: value for name, value in each._asdict().items() if value is not None} for each in found.held],
        "log_streams": [f"{group}/{stream}" for group, stream in found.streams],
        "features": [each.told() for each in found.features],
        "tables": found.tables,
        "runs": [run["run_id"] for run in found.reading],
        "in_progress": _working(known, found),
        "models": _retrain(found, known),
    }


def _print(found: Found, known: Known, *, models: bool) -> None:
    say = output.out().print
    for kind in forgetting.CLASSES:
        mine = [each for each in found.held if each.kind == kind]
        if not mine:
            continue
        size = output.size(sum(each.size_bytes for each in mine))
        say(f"{kind}: {len(mine):,} object version{'s' if len(mine) > 1 else ''}, {size}", markup=False, style="bold")
        for line in _some(
            f"  s3://{each.bucket}/{each.key}  {each.version_id or 'unfinished upload'}" for each in mine
        ):
            say(line, markup=False, soft_wrap=True)
    for group in found.features:
        what = f"features: {group.rows:,} rows of {len(group.runs)} run{'s' if len(group.runs) > 1 else ''}"
        say(f"{what} in the table of {group.name}", markup=False, style="bold")
    if found.streams:
        say(f"log streams of its jobs: {len(found.streams):,}", style="bold")
    for name in found.tables:
        say(f"table {names.catalog_database(known.target.stack)}.{name} of the Data Catalog", style="bold")
    if found.where.bucket != known.landing:
        say(f"{found.where.uri} itself is not Ebb's to remove: remove it there.", markup=False, soft_wrap=True)
    for run_id in _working(known, found):
        say(f"{run_id} works on it: nothing is forgotten before it has ended", markup=False, soft_wrap=True)
    for each in _retrain(found, known):
        serves = each["serves"]
        at = f", serves at {serves.get('address') or serves.get('endpoint_name')}" if serves else ""
        goes = "goes too" if models else "learnt from it and stays (--models removes it)"
        say(f"model of {each['run_id']}{at}: {goes}", markup=False, soft_wrap=True)
        say(f"  without the data: {each['retrain']}", markup=False, soft_wrap=True)


def _some(lines: Iterable[str]) -> list[str]:
    every = list(lines)
    return every if len(every) <= SHOWN else [*every[:SHOWN], f"  ... {len(every) - SHOWN:,} more: --json has all"]
