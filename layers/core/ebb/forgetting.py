"""Forgetting: what holds rows of a dataset, and the writes by which the ledger knows that they are gone. Pure.

What goes and what stays of a run that read the data, below `projects/<project>/runs/<run>/` but for the curated rows:

    curated/<project>/<run>/                                                 goes
    features/<project>/   its rows of the tables there, and the files that held them        go, by a job of the project
    a*/process/       what Spark was at work with                            goes
    a*/compile/bundles/sample-payload.tar.gz   requests made of held-out rows  goes
    checkpoints/      of the interrupted training of a run                   goes
    scored/           rows with a prediction beside each                     goes
    a*/train, a*/compress, a*/compile/bundles  the models                    go when they are asked for
    run.json, report.html   of a run that failed with words of its job       go
    run.json, report.html, manifest.json, sources.json, */report/metrics.json   stay: names, classes, counts, digests

Order matters, because a call can fail half-way: first nothing can be started from the data any more, then the data
goes, and the record is closed last. Each step finds what is left, so the same command goes on where it stopped.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ebb import ledger, names
from ebb.ledger import Request
from ebb.lineage import RUNNING, SCORE, Place, Run

LANDING, CURATED, SAMPLES, SCORED, CHECKPOINTS, REQUESTS, ANSWERS, RECORDS, MODELS = CLASSES = (
    "landing", "curated", "samples", "scored", "checkpoints", "requests", "answers", "records", "models",
)  # fmt: skip
FORGOTTEN = "FORGOTTEN#"
BEGUN, DONE = "begun", "done"
FORCED = "ebb-force=1"  # as `ebb drop --force` sends it: an older run of the same bytes does not stand in
MOST_LISTED = 100  # names in one record: an item holds 400 KB, and a key may take one of them
SCRUBBED = "what the job said was forgotten with the data that it may have quoted"

_CLASSES = (
    (CURATED, re.compile(r"a\d+/process/(?!report/metrics\.json$)")),
    (SAMPLES, re.compile(r"a\d+/compile/bundles/sample-payload\.tar\.gz$")),
    (SCORED, re.compile(r"scored/")),
    (CHECKPOINTS, re.compile(r"checkpoints/")),
    (MODELS, re.compile(r"a\d+/(train|compress|compile)/(?!report/metrics\.json$)")),
)


def class_of(run_id: str, key: str) -> str | None:
    """Return what an object of a run is, one of CLASSES, None for a record that holds no row."""
    if key.startswith(names.curated_prefix(run_id)):
        return CURATED
    rest = key.removeprefix(names.run_prefix(run_id))
    return next((name for name, pattern in _CLASSES if pattern.match(rest)), None)


def prefixes(run_id: str) -> tuple[str, ...]:
    """Return the prefixes of the artifact bucket below which everything of a run lies."""
    return names.run_prefix(run_id), names.curated_prefix(run_id)


def in_progress(runs: Iterable[Run], where: Place, reading: Iterable[str]) -> list[str]:
    """Return the runs that work on a place, by their ids; `reading` are those that are known to read it.

    One that has not named yet what it reads counts when it is of the place's own project: it may add to the data.
    """
    known = set(reading)
    return sorted(
        str(run["run_id"])
        for run in runs
        if run.get("status") == RUNNING
        and (run["run_id"] in known or (not run.get("sources") and run.get("project") == where.project))
    )


def boxes(stack: str, projects: Iterable[str]) -> list[tuple[str, str]]:
    """Return, as (class, prefix), where requests to the models of some projects wait and their answers lie."""
    addresses = [names.endpoint(stack, project) for project in sorted(set(projects))]
    return [(kind, f"{kind}/{address}/") for address in addresses for kind in (REQUESTS, ANSWERS)]


def record_key(where: Place, begun_at: datetime) -> dict[str, str]:
    """Return the key of the record of one forgetting, beside its project; a place is hashed, as keys may be long."""
    name = hashlib.sha256(where.uri.encode()).hexdigest()[:16]
    return ledger.project_key(where.project) | {"sk": f"{FORGOTTEN}{ledger.iso(begun_at)}#{name}"}


def begun(
    where: Place,
    *,
    by: str,
    now: datetime,
    runs: Sequence[str],
    models: Sequence[str],
    serving: Sequence[str],
    objects: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record of a forgetting that begins.

    `runs` read the data, `models` learnt from it, and `serving` are those of them that serve. `objects` are
    {class: {objects, bytes}} as they were found.
    """
    return {
        **record_key(where, now),
        "dataset": where.uri,
        "bucket": where.bucket,
        "key": where.key,
        "status": BEGUN,
        "by": by,
        "begun_at": ledger.iso(now),
        "objects": {name: dict(counts) for name, counts in objects.items()},
        "runs": list(runs)[:MOST_LISTED],
        "run_count": len(runs),
        "models": list(models)[:MOST_LISTED],
        "model_count": len(models),
        "serving": list(serving),
    }


def done(
    record: Mapping[str, Any], *, now: datetime, removed: Mapping[str, int], still_serving: Sequence[str]
) -> Request:
    """Return the write that closes a record; `removed` counts what the last call took away, by class."""
    fields = {"status": DONE, "ended_at": ledger.iso(now), "removed_last": dict(removed)}
    return ledger.update(_key_of(record), fields | {"still_serving": list(still_serving)[:MOST_LISTED]})


def is_quoted(run: Run) -> bool:
    """Return whether the record of a run holds words of a job, which may quote the data."""
    return (run.get("error") or {}).get("type") == "JobFailed"


def mark_run(run: Run, where: Place, *, by: str, now: datetime) -> Request:
    """Return the write by which a run knows that its data was forgotten; what a failed job said goes with it.

    The words of a rejection are Ebb's own and quote nothing.
    """
    fields: dict[str, Any] = {"forgotten": {"dataset": where.uri, "at": ledger.iso(now), "by": by}}
    if is_quoted(run):
        fields["error"] = {**run["error"], "message": SCRUBBED}
    return ledger.update(ledger.run_key(str(run["run_id"])), fields, condition="attribute_exists(pk)")


def unremember_identity(identity: str, run_id: str) -> Request:
    """Return the deletion by which no drop finds this run as the one that did the same work; refused for another's."""
    return {
        "Key": ledger.identity_key(identity),
        "ConditionExpression": "#run_id = :run_id",
        "ExpressionAttributeNames": {"#run_id": "run_id"},
        "ExpressionAttributeValues": {":run_id": run_id},
    }


def unfinish_stage(stage: Mapping[str, Any]) -> Request:
    """Return the write by which a stage does not count as finished any more when its run is tried again."""
    return {
        "Key": _key_of(stage),
        "UpdateExpression": "REMOVE #identity",
        "ExpressionAttributeNames": {"#identity": "identity"},
    }


def cold_start(project: str, run_ids: Sequence[str]) -> list[Request]:
    """Return the writes by which no training of a project starts from the weights that one of these runs left."""
    return [
        {
            "Key": ledger.project_key(project),
            "UpdateExpression": "REMOVE #served.#original",
            "ConditionExpression": "#served.#run = :run",
            "ExpressionAttributeNames": {"#served": "served", "#original": "original_uri", "#run": "run_id"},
            "ExpressionAttributeValues": {":run": run_id},
        }
        for run_id in run_ids
    ]


def unpublish(project: str, run_id: str) -> Request:
    """Return the write by which no project learns from the features that a run published."""
    return {
        "Key": ledger.project_key(project),
        "UpdateExpression": "REMOVE #features, #generation",
        "ConditionExpression": "#features.#run = :run",
        "ExpressionAttributeNames": {"#features": "features", "#generation": "features_generation", "#run": "run_id"},
        "ExpressionAttributeValues": {":run": run_id},
    }


def unaccepted(items: Iterable[Mapping[str, Any]], where: Place) -> list[tuple[str, Request]]:
    """Return the writes, with the operation of each, after which no appending run builds on objects of a place.

    `items` are those of a project (`ebb.accepted`). Refused where a newer run has noted the same object meanwhile.
    """
    writes: list[tuple[str, Request]] = []
    for item in items:
        held = item.get("sources") or ([item["source"]] if "source" in item else [])
        kept = [each for each in held if not where.covers(each["bucket"], each["key"])]
        if len(kept) == len(held):
            continue
        if not kept:
            condition: Request = {
                "ConditionExpression": "#run_id = :run_id",
                "ExpressionAttributeNames": {"#run_id": "run_id"},
                "ExpressionAttributeValues": {":run_id": item["run_id"]},
            }
            writes.append(("delete_item", {"Key": _key_of(item), **condition}))
        else:
            write = ledger.update(
                _key_of(item),
                {"sources": kept},
                condition="#run_id = :run_id",
                values={":run_id": item["run_id"]},
                names_used=("run_id",),
            )
            writes.append(("update_item", write))
    return writes


def log_streams(run: Run) -> list[tuple[str, str]]:
    """Return, as (log group, prefix of streams), where the jobs of a run wrote."""
    kinds = ("TransformJobs",) if run.get("purpose") == SCORE else ("ProcessingJobs", "TrainingJobs")
    found = [(f"/aws/sagemaker/{kind}", f"{run['run_id']}-a") for kind in kinds]
    if ((run.get("spec") or {}).get("train") or {}).get("tune"):  # the trials of each attempt's search
        attempts = range(1, int(run.get("attempt") or 1) + 1)
        found += [("/aws/sagemaker/TrainingJobs", f"{names.tuning_job(run['run_id'], each)}-") for each in attempts]
    return found


def retraining(run: Run, where: Place, landing_bucket: str) -> str:
    """Return the command that trains a model anew without a place, by what started the run that made it.

    Where objects are left, the event of one of them starts it: the marker of a folder, or an object that is put upon
    itself. Training then begins from nothing, for `cold_start` took away the weights that it would have gone on from.
    """
    drop, project = run.get("drop") or {}, run["project"]
    left = [each for each in run.get("sources") or () if not where.covers(each["bucket"], each["key"])]
    if left and drop.get("kind") == "prefix" and not where.covers(drop["bucket"], drop["key"]):
        return f"aws s3api put-object --bucket {drop['bucket']} --key '{drop['key']}' --metadata {FORCED}"
    if drop.get("kind") == "spec" and (left or not run.get("sources")):
        return f"ebb drop pipeline.yaml --project {project} --force"
    own = [each["key"] for each in left if each["bucket"] == landing_bucket and _starts_runs(each["key"], project)]
    if own and (run.get("spec") or {}).get("data", {}).get("mode") == "append":
        uri = f"s3://{landing_bucket}/{own[-1]}"
        return f"aws s3 cp '{uri}' '{uri}' --metadata-directive REPLACE --metadata {FORCED}"
    return f"ebb drop PATH --project {project}"


def _starts_runs(key: str, project: str) -> bool:
    first, _, rest = key.partition("/")
    return first == project and rest.startswith("data/") and rest.count("/") == 1


def _key_of(item: Mapping[str, Any]) -> dict[str, str]:
    return {"pk": str(item["pk"]), "sk": str(item["sk"])}
