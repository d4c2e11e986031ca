"""The ledger's items: keys, and the conditional writes that make every repeat harmless. Pure; `ebb.aws.ledger` sends.

One table, pk and sk. A run, its stages and its decisions share a partition, so one query reads the whole story.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ebb import events, names
from ebb.errors import Rejection

Request = dict[str, Any]
FINISHED, FAILED, REJECTED = "finished", "failed", "rejected"
DECISION_BASE = {
    stage: number * 100 for number, stage in enumerate(("identify", "plan", *names.STAGES, "select", "deploy"))
} | {"catalog": 295, names.FEATURES: 297, names.NEO: 690}  # after those of process, and of select
RECOMMENDATION = "RECOMMENDATION"
TOLD_AS_DECISIONS = ("DECISION#", RECOMMENDATION)  # sort keys of what `ebb why` tells
# What is longer stays in metrics.json: an item holds 400 KB, a state of Step Functions 256 KiB.
LONGEST_LIST = 64
LONGEST_TEXT = 2_000
LONGEST_REPORT = 150_000
TEXT_LENGTHS = (LONGEST_TEXT, 1_000, 500, 250, 120)
# What is kept of an earlier job of a stage: enough to show it, and to book it (`ebb.booking`).
OF_A_JOB = (
    *("attempt", "status", "job_name", "job_run", "started_at", "ended_at", "duration_s", "billable_s", "footprint"),
    *("instance_type", "machines", "spot", "utilisation", "builds", "stopped"),
)


def run_key(run_id: str) -> dict[str, str]:
    """Return the key of a run."""
    return {"pk": f"RUN#{run_id}", "sk": "RUN"}


def stage_key(run_id: str, stage: str) -> dict[str, str]:
    """Return the key of a run's stage; they sort in the order in which they run."""
    return {"pk": f"RUN#{run_id}", "sk": f"STAGE#{names.RECORDED_STAGES.index(stage)}#{stage}"}


def recommendation_key(run_id: str) -> dict[str, str]:
    """Return the key of what Inference Recommender said about a run's model."""
    return {"pk": f"RUN#{run_id}", "sk": RECOMMENDATION}


def project_key(project: str) -> dict[str, str]:
    """Return the key of a project."""
    return {"pk": f"PROJECT#{project}", "sk": "PROJECT"}


def identity_key(identity: str) -> dict[str, str]:
    """Return the key under which the successful run of an identity is found."""
    return {"pk": f"IDENTITY#{identity}", "sk": "RUN"}


def object_key(bucket: str, key: str) -> dict[str, str]:
    """Return the key of what is known about an uploaded object."""
    return {"pk": f"OBJECT#{bucket}/{key}", "sk": "SEQUENCER"}


def iso(moment: datetime) -> str:
    """Return a moment as the ledger writes it: ISO 8601, UTC, whole seconds when it has no fraction."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def to_item(value: Any) -> Any:
    """Return a value as DynamoDB holds it: exact decimals, no nulls in maps, no NaN."""
    if isinstance(value, Mapping):
        return {str(key): to_item(each) for key, each in value.items() if _is_kept(each)}
    if isinstance(value, list | tuple):
        return [to_item(each) for each in value if _is_kept(each)]
    if isinstance(value, datetime):
        return iso(value)
    return Decimal(repr(value)) if isinstance(value, float) else value


def from_item(value: Any) -> Any:
    """Return what DynamoDB holds as plain JSON values."""
    if isinstance(value, dict):
        return {key: from_item(each) for key, each in value.items()}
    if isinstance(value, list):
        return [from_item(each) for each in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def condensed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report without what is too long for an item; `omitted` names the fields that were left out whole."""
    short = {key: shortened(each) for key, each in report.items()}
    chars = {key: len(json.dumps(each, default=str)) for key, each in short.items()}
    omitted: list[str] = []
    for key in sorted(chars, key=lambda each: -chars[each]):
        if sum(chars[each] for each in chars if each not in omitted) <= LONGEST_REPORT:
            break
        omitted.append(key)
    kept = {key: each for key, each in short.items() if key not in omitted}
    return kept | ({"omitted": omitted} if omitted else {})


def shortened(value: Any, longest_text: int = LONGEST_TEXT) -> Any:
    """Return a value with its long lists and texts cut."""
    if isinstance(value, Mapping):
        return {key: shortened(each, longest_text) for key, each in value.items()}
    if isinstance(value, list):
        return [shortened(each, longest_text) for each in value[:LONGEST_LIST]]
    if isinstance(value, str) and len(value) > longest_text:
        return value[: longest_text - 3] + "..."
    return value


def fitting(value: Any, most_chars: int) -> Any:
    """Return a value with its texts cut as far as it takes to hold it in so many characters of JSON, if that helps."""
    short = shortened(value)
    for longest in TEXT_LENGTHS:
        short = shortened(value, longest)
        if len(json.dumps(short, default=str)) <= most_chars:
            break
    return short


def open_run(request: events.RunRequested, *, execution_arn: str, drop_id: str | None, now: datetime) -> Request:
    """Return the write that begins an attempt; refused when the run has ended or a newer attempt has begun."""
    fields = {
        **_identity_fields(request.run_id, request.project),
        "status": "running",
        "attempt": request.attempt,
        "execution_arn": execution_arn,
        "started_at": iso(now),
        "drop": request.drop.model_dump(mode="json") | ({"drop_id": drop_id} if drop_id else {}),
    }
    return update(
        run_key(request.run_id),
        fields,
        remove=("ended_at", "error", "reason", "reuses", "report_uri", "report_error"),
        condition="attribute_not_exists(pk) OR #attempt < :attempt OR (#attempt = :attempt AND #status = :status)",
    )


def change_run(run_id: str, attempt: int, fields: Mapping[str, Any]) -> Request:
    """Return the write of some fields of a running attempt; refused once another attempt or an end has come."""
    return update(
        run_key(run_id),
        dict(fields),
        values={":mine": attempt, ":running": "running"},
        condition="#attempt = :mine AND #status = :running",
        names_used=("attempt", "status"),
    )


def end_run(
    run_id: str,
    attempt: int,
    project: str,
    status: str,
    *,
    now: datetime,
    fields: Mapping[str, Any],
    repeatable: bool = True,
) -> Request:
    """Return the write that ends a run; refused when it has ended otherwise, repeated without harm when it has not.

    A run that failed before it was opened is entered here, so that nothing ends without a record. Without `repeatable`
    any end that stands is left alone: the one who writes knows less than the one who wrote.
    """
    same = " OR #status = :status" if repeatable else ""
    return update(
        run_key(run_id),
        {
            **_identity_fields(run_id, project),
            "status": status,
            "attempt": attempt,
            "ended_at": iso(now),
            **fields,
        },
        values={":running": "running"},
        condition="attribute_not_exists(pk) OR (#attempt = :attempt AND (#status = :running" + same + "))",
    )


def note_report(run_id: str, attempt: int, fields: Mapping[str, str]) -> Request:
    """Return the write that notes where a run's report lies, or why there is none; refused for another attempt."""
    other = {"report_uri", "report_error"} - set(fields)
    return update(
        run_key(run_id),
        dict(fields),
        remove=sorted(other),
        values={":mine": attempt},
        condition="#attempt = :mine",
        names_used=("attempt",),
    )


def note_object(bucket: str, key: str, sequencer: str, run_id: str) -> Request:
    """Return the write that notes an upload; refused when a later one of the same key has been noted.

    The same sequencer under another run id is a second delivery of one upload, and is refused too.
    """
    return update(
        object_key(bucket, key),
        {"sequencer": events.sortable_sequencer(sequencer), "run_id": run_id},
        condition="attribute_not_exists(pk) OR #sequencer < :sequencer OR #run_id = :run_id",
    )


def take_generation(project: str) -> Request:
    """Return the write that counts the project's runs; its answer holds the new number."""
    return {
        "Key": project_key(project),
        "UpdateExpression": "ADD #generation :one",
        "ExpressionAttributeNames": {"#generation": "generation"},
        "ExpressionAttributeValues": {":one": 1},
        "ReturnValues": "UPDATED_NEW",
    }


def keep_generation(run_id: str, generation: int) -> Request:
    """Return the write that gives a run its generation once: a retried run keeps its place behind newer ones."""
    return {
        "Key": run_key(run_id),
        "UpdateExpression": "SET #generation = if_not_exists(#generation, :generation)",
        "ExpressionAttributeNames": {"#generation": "generation"},
        "ExpressionAttributeValues": {":generation": generation},
        "ReturnValues": "UPDATED_NEW",
    }


def remember_identity(identity: str, run_id: str, now: datetime) -> Request:
    """Return the write that lets an identical drop find this successful run."""
    return update(identity_key(identity), {"run_id": run_id, "succeeded_at": iso(now)})


def remember_served(project: str, generation: int, served: Mapping[str, Any]) -> Request:
    """Return the write of what the project's endpoint serves; refused for an older run."""
    return update(
        project_key(project),
        {"served": dict(served), "served_generation": generation},
        condition="attribute_not_exists(#served_generation) OR #served_generation <= :served_generation",
    )


def remember_measured(project: str, generation: int, measured: Mapping[str, Any]) -> Request:
    """Return the write of what the stages of the project's last run used; refused for an older run."""
    return update(
        project_key(project),
        {"measured": dict(measured), "measured_generation": generation},
        condition="attribute_not_exists(#measured_generation) OR #measured_generation <= :measured_generation",
    )


def remember_curve(project: str, generation: int, curve: Mapping[str, Any]) -> Request:
    """Return the write of what the script of a project's last run printed of its metric; refused for an older run."""
    return update(
        project_key(project),
        {"curve": dict(curve), "curve_generation": generation},
        condition="attribute_not_exists(#curve_generation) OR #curve_generation <= :curve_generation",
    )


def remember_features(project: str, generation: int, features: Mapping[str, Any]) -> Request:
    """Return the write of what a project has published; refused for an older run."""
    return update(
        project_key(project),
        {"features": dict(features), "features_generation": generation},
        condition="attribute_not_exists(#features_generation) OR #features_generation <= :features_generation",
    )


def share_features(project: str, share: Any) -> Request:
    """Return the write of who may learn from what a project publishes: `all`, or a list of projects."""
    return update(project_key(project), {"features_share": share})


def forget_served(project: str) -> Request:
    """Return the write by which a project serves nothing any more: its endpoint has been removed.

    Without it the next run would be measured against a model that is gone, and the same drop would be called done. A
    deployment that was stopped for it is not undone: what it claimed is free again.
    """
    return {
        "Key": project_key(project),
        "UpdateExpression": "REMOVE #served, #generation, deploying, deploying_since, deployment",
        "ExpressionAttributeNames": {"#served": "served", "#generation": "served_generation"},
    }


def stage_item(run_id: str, stage: str, fields: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a stage's item. What earlier jobs of it used stays counted, in `earlier_attempts`.

    An attempt may have several: one that was interrupted for good goes on under another name on another machine.
    """
    earlier: list[Mapping[str, Any]] = []
    if before:
        all_before = [*before.get("earlier_attempts", []), {name: before.get(name) for name in OF_A_JOB}]
        earlier = [
            {name: value for name, value in each.items() if value is not None}
            for each in all_before
            if any(each.get(name) != fields.get(name) for name in ("attempt", "job_name", "job_run"))
        ]
    return to_item({**stage_key(run_id, stage), "stage": stage, **fields, "earlier_attempts": earlier})


def decision_items(
    run_id: str, stage: str, decisions: Iterable[Mapping[str, Any]], *, first: int = 0
) -> list[dict[str, Any]]:
    """Return the items of a stage's decisions, numbered so that a repeat writes the same ones."""
    return [
        to_item({"pk": f"RUN#{run_id}", "sk": f"DECISION#{DECISION_BASE[stage] + number:03d}", "stage": stage, **each})
        for number, each in enumerate(list(decisions)[: 100 - first], start=first)
    ]


def error_of(
    rejection: Rejection | None, *, kind: str, message: str, stage: str | None, code: str | None = None
) -> dict[str, Any]:
    """Return how the ledger tells what went wrong."""
    known = rejection.as_dict() if rejection else {"code": code, "message": message}
    return {"type": kind, "stage": stage, **known}


def _identity_fields(run_id: str, project: str) -> dict[str, Any]:
    created = iso(names.created_at(run_id))
    return {
        "run_id": run_id,
        "project": project,
        "created_at": created,
        "gsi_pk": "RUNS",
        "gsi_sk": f"{created}#{run_id}",
    }


def update(
    key: Mapping[str, str],
    fields: Mapping[str, Any],
    *,
    remove: Sequence[str] = (),
    condition: str | None = None,
    values: Mapping[str, Any] | None = None,
    names_used: Sequence[str] = (),
) -> Request:
    """Return an UpdateItem that sets fields. Every name is a placeholder: many of ours are reserved words."""
    present = {name: to_item(value) for name, value in fields.items() if _is_kept(value)}
    expression = "SET " + ", ".join(f"#{name} = :{name}" for name in present)
    if remove:
        expression += " REMOVE " + ", ".join(f"#{name}" for name in remove)
    request = {
        "Key": dict(key),
        "UpdateExpression": expression,
        "ExpressionAttributeNames": {f"#{name}": name for name in (*present, *remove, *names_used)},
        "ExpressionAttributeValues": {f":{name}": value for name, value in present.items()} | dict(values or {}),
    }
    return request | ({"ConditionExpression": condition} if condition else {})


def _is_kept(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def as_action(table: str, request: Request) -> Request:
    """Return a write as a state machine sends it: DynamoDB's own API, with the type of each value written out."""
    typed = {name: {key: _typed(value) for key, value in request[name].items()} for name in _VALUES if name in request}
    return {"TableName": table, **request, **typed}


def put_action(table: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a PutItem as a state machine sends it."""
    return {"TableName": table, "Item": {key: _typed(value) for key, value in item.items() if _is_kept(value)}}


_VALUES = ("Key", "ExpressionAttributeValues")


def _typed(value: Any) -> dict[str, Any]:
    held = to_item(value)
    if isinstance(held, bool):
        return {"BOOL": held}
    if isinstance(held, str):
        return {"S": held}
    if isinstance(held, int | Decimal):
        return {"N": str(held)}
    if isinstance(held, list):
        return {"L": [_typed(each) for each in held]}
    return {"M": {key: _typed(each) for key, each in held.items()}}
