"""A project's table in the Glue Data Catalog: its curated rows, as each of its runs leaves them.

One database a stack, one table a project, a partition for each of train, validation and test. A later run writes its
columns, places and lineage over those of an earlier one; an older run that ends late does not.
Source: https://docs.aws.amazon.com/glue/latest/webapi/API_TableInput.html
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebb import names
from ebb.requests import glue

KINDS = ("tabular", "text")  # of schema.json: what is written as Parquet that others can read
SPLITS = ("train", "validation", "test")
PARTITION_KEY = "split"
GENERATION, RUN = "ebb.generation", "ebb.run_id"
NAME_MAX_CHARS = 255
COMMENT_MAX_CHARS = 255
MOST_CHARS = 40_000  # of all columns: a state of Step Functions carries 256 KiB, and the requests name them four times


@dataclass(frozen=True)
class Registered:
    """What a run registers: its columns, and those that a catalog cannot name, with the reason."""

    columns: tuple[dict[str, str], ...]
    left_out: Mapping[str, str]


def columns(schema: Mapping[str, Any]) -> Registered:
    """Return the columns of curated rows, from their schema.json, in the types of Hive.

    A catalog folds names to lower case, and Parquet is read by name: of columns that it cannot tell apart, the first
    is named.
    """
    features = schema["features"] if schema["kind"] == "tabular" else [{"name": each} for each in schema["columns"]]
    target = schema["target"]
    typed = [(str(each["name"]), _type(each.get("kind")), str(each.get("kind") or "text")) for each in features]
    typed.append((str(target["name"]), "string" if "classes" in target else "double", "target"))
    found: dict[str, dict[str, str]] = {}
    left_out: dict[str, str] = {}
    chars = 0
    for name, kind, comment in typed:
        folded = name.lower()
        if folded in found or folded == PARTITION_KEY:
            left_out[name] = "called as another one, but for its capitals"
        elif len(name) > NAME_MAX_CHARS or not name.isprintable():
            left_out[name] = f"longer than {NAME_MAX_CHARS} characters, or not one line"
        elif chars > MOST_CHARS:
            left_out[name] = f"beyond {len(found):,} columns: more than these a run does not register"
        else:
            found[folded] = {"Name": folded, "Type": kind, "Comment": comment[:COMMENT_MAX_CHARS]}
            chars += len(json.dumps(found[folded]))
    return Registered(tuple(found.values()), left_out)


def requests(
    schema: Mapping[str, Any],
    *,
    database: str,
    project: str,
    run_id: str,
    attempt: int,
    generation: int,
    curated_uri: str,
    manifest_uri: str,
) -> dict[str, Any] | None:
    """Return what registers a run's curated rows; None for what is no table.

    `read` asks for the table that is there, `write` is the body of CreateTable and UpdateTable, `partitions` that of
    BatchCreatePartition.
    """
    if schema["kind"] not in KINDS:
        return None
    table, place = names.catalog_table(project), curated_uri.rstrip("/") + "/"
    registered = columns(schema)
    rows = schema.get("rows") or {}
    parameters = {
        RUN: run_id,
        "ebb.attempt": str(attempt),
        GENERATION: str(generation),
        "ebb.project": project,
        "ebb.task": str(schema.get("task")),
        "ebb.target": str(schema["target"]["name"]).lower()[:NAME_MAX_CHARS],
        "ebb.manifest": manifest_uri,  # the objects that the rows were made of
        "recordCount": str(sum(int(rows.get(split, 0)) for split in SPLITS)),
    }
    return {
        "read": {"DatabaseName": database, "Name": table},
        "write": glue.catalog_table(
            database=database,
            name=table,
            place=place,
            description=f"Curated rows of the project {project}, written by {run_id}",
            columns=registered.columns,
            partition_key=PARTITION_KEY,
            parameters=parameters,
        ),
        "partitions": glue.catalog_partitions(
            database=database,
            table=table,
            columns=registered.columns,
            places={split: f"{place}{split}.parquet/" for split in SPLITS},
        ),
    }


def decision(schema: Mapping[str, Any], asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return where the rows are registered, or why they are not, as `ebb why` tells it."""
    if asked is None:
        kinds = " and ".join(KINDS)
        return _told("none", f"the curated data are of the kind {schema['kind']}; only those of {kinds} are tables", {})
    registered = columns(schema)
    where, rows = asked["read"], schema.get("rows") or {}
    reason = "a partition for each of " + ", ".join(SPLITS)
    if registered.left_out:
        reason += f"; {len(registered.left_out)} columns are not named there: " + _some(registered.left_out)
    numbers = {"columns": len(registered.columns), **{split: rows.get(split, 0) for split in SPLITS}}
    return _told(f"{where['DatabaseName']}.{where['Name']}", reason, numbers)


def _told(chosen: str, reason: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "what": "table in the Data Catalog",
        "chosen": chosen,
        "reason": reason,
        "numbers": dict(numbers),
        "alternatives": [],
        "source": "ebb/tables.py",
    }


def _type(kind: Any) -> str:
    return "double" if kind == "numeric" else "string"


def _some(left_out: Mapping[str, str], most: int = 5) -> str:
    shown: Sequence[str] = list(left_out)[:most]
    return ", ".join(shown) + (" ..." if len(left_out) > most else "")
