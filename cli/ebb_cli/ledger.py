"""Read the ledger: runs, their stages and their decisions, as plain values.

The functions write it (layers/core/ebb); this module only reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from ebb import accounting, addresses, serving
from ebb import ledger as keys
from ebb.addresses import Address
from ebb_cli.output import parse_moment
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Target

# What every run document holds, in this order, whatever became of the run; a field that does not apply is null.
RUN_FIELDS = (
    "run_id", "project", "status", "attempt", "created_at", "started_at", "ended_at", "duration_s", "drop", "task",
    "target", "format", "metric", "spec", "identity", "generation", "sources", "reuses", "reason", "error", "stages",
    "candidates", "chosen", "comparison", "footprint", "deployed", "deploy_reason", "endpoint_name", "record_uri",
    "execution_arn", "serving", "right_sizing", "purpose", "source", "scored_by", "scored_uri", "report_uri",
    "report_error", "window", "admission",
)  # fmt: skip
STAGE_FIELDS = (
    "stage", "status", "attempt", "earlier_attempts", "duration_s", "billable_s", "cpu_seconds", "utilisation",
    "dpu_hours", "instance_type", "job_name", "started_at", "ended_at", "footprint", "artifacts", "report",
    "stopped",
)  # fmt: skip
LISTS = ("sources", "stages", "candidates")


class Ledger:
    """The ledger table of one stack."""

    def __init__(self, target: Target) -> None:
        self._client = target.client("dynamodb")
        self._table = target.outputs["LedgerTableName"]
        self.now = datetime.now(UTC)
        """The moment of the cloud's last answer about an address: an embedded cloud's clock may be ahead."""

    def runs(self, project: str | None = None, limit: int | None = None, **more: Any) -> Iterator[dict[str, Any]]:
        """Yield runs, newest first."""
        request = {
            "TableName": self._table,
            "IndexName": "runs",
            "KeyConditionExpression": "gsi_pk = :runs",
            "ExpressionAttributeValues": {":runs": {"S": "RUNS"}},
            "ScanIndexForward": False,
            **more,
        }
        found = 0
        for page in self._client.get_paginator("query").paginate(**request):
            for item in page["Items"]:
                run = run_document([_plain(item)])
                if project in (None, run["project"]):
                    yield run
                    found += 1
                if limit and found >= limit:
                    return

    def resolve(self, name: str) -> str:
        """Return the run id for a full id, a prefix that only one run has, or `latest`."""
        if name == "latest":
            newest = next(self.runs(limit=1), None)
            if newest is None:
                raise CommandError("There are no runs yet.", "ebb drop PATH --project NAME starts one.")
            return newest["run_id"]
        if self._items(name, limit=1):
            return name
        matches = [run["run_id"] for run in self.runs() if run["run_id"].startswith(name)]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise CommandError(f"No run is called {name!r}.", "ebb runs lists them.", status=USAGE)
        shown = ", ".join(matches[:5]) + (", ..." if len(matches) > 5 else "")
        raise CommandError(f"{name!r} may be any of {len(matches)} runs: {shown}", "Write more of it.", status=USAGE)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return everything the ledger holds about a run, or None when it does not know it (yet)."""
        items = self._items(run_id)
        return run_document(items) if any(item["sk"] == "RUN" for item in items) else None

    def decisions(self, run_id: str) -> list[dict[str, Any]]:
        """Return the decisions of a run in the order in which they were taken."""
        return [_without_keys(item) for item in self._items(run_id) if item["sk"].startswith(keys.TOLD_AS_DECISIONS)]

    def entries(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what the footprint ledger has booked for a run, in the months from its beginning to its end."""
        begun = parse_moment(run["created_at"])
        ended = parse_moment(run["ended_at"]) if run["ended_at"] else begun
        months = sorted({accounting.month_of(each) for each in (begun, ended)})
        found = []
        for month in months:
            request = {
                "TableName": self._table,
                "KeyConditionExpression": "pk = :pk",
                "FilterExpression": "run_id = :run",
                "ExpressionAttributeValues": {
                    ":pk": {"S": accounting.partition(run["project"], month)},
                    ":run": {"S": run["run_id"]},
                },
            }
            for page in self._client.get_paginator("query").paginate(**request):
                found += [_without_keys(_plain(item)) for item in page["Items"]]
        return found

    def of_drop(self, drop_id: str) -> dict[str, Any] | None:
        """Return the run that the drop with this id started, or None while there is none."""
        found = self.runs(FilterExpression="#drop.drop_id = :drop", **_named(drop_id))
        return next(found, None)

    def project(self, project: str) -> dict[str, Any]:
        """Return what the ledger holds about a project; empty when it never ran."""
        key = {name: {"S": value} for name, value in keys.project_key(project).items()}
        return _plain(self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item", {}))

    def addresses(self) -> list[Address]:
        """Return where each model is reached, by name."""
        request = {
            "TableName": self._table,
            "IndexName": "runs",
            "KeyConditionExpression": "gsi_pk = :listed",
            "ExpressionAttributeValues": {":listed": {"S": addresses.LISTED}},
        }
        pages = list(self._client.get_paginator("query").paginate(**request))
        self._note_time(pages[-1])
        return [addresses.read(_plain(item)) for page in pages for item in page["Items"]]

    def address(self, name: str) -> Address | None:
        """Return where a model is reached and in which state its endpoint is, None when nothing is known."""
        key = {name: {"S": value} for name, value in addresses.key(name).items()}
        found = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        self._note_time(found)
        return addresses.read(_plain(found["Item"])) if "Item" in found else None

    def _note_time(self, answer: dict[str, Any]) -> None:
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        self.now = parsedate_to_datetime(date) if date else self.now

    def _items(self, run_id: str, limit: int | None = None) -> list[dict[str, Any]]:
        request = {
            "TableName": self._table,
            "KeyConditionExpression": "pk = :run",
            "ExpressionAttributeValues": {":run": {"S": keys.run_key(run_id)["pk"]}},
            "ConsistentRead": True,
        }
        if limit:
            return [_plain(item) for item in self._client.query(**request, Limit=limit)["Items"]]
        found = []
        for page in self._client.get_paginator("query").paginate(**request):
            self._note_time(page)
            found += [_plain(item) for item in page["Items"]]
        return found


def _named(drop_id: str) -> dict[str, Any]:
    return {
        "ExpressionAttributeNames": {"#drop": "drop"},
        "ExpressionAttributeValues": {":runs": {"S": "RUNS"}, ":drop": {"S": drop_id}},
    }


def run_document(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one document from the items of a run: every field of RUN_FIELDS, stages in the order they ran."""
    run = next(item for item in items if item["sk"] == "RUN")
    document: dict[str, Any] = {field: run.get(field) for field in RUN_FIELDS}
    document["run_id"] = run["pk"].removeprefix("RUN#")
    stages = sorted((item for item in items if item["sk"].startswith("STAGE#")), key=lambda item: item["sk"])
    document["stages"] = [{field: stage.get(field) for field in STAGE_FIELDS} for stage in stages]
    began = run.get("started_at") or run.get("created_at")
    if began and run.get("ended_at"):
        spent = parse_moment(run["ended_at"]) - parse_moment(began)
        document["duration_s"] = round(spent.total_seconds(), 3)
    chosen = (item for item in items if item["sk"].startswith("DECISION#") and item.get("what") == serving.DECISION)
    document["serving"] = next((_without_keys(item) for item in chosen), None)
    sized = (item for item in items if item["sk"] == keys.RECOMMENDATION)
    document["right_sizing"] = next((_without_keys(item) for item in sized), None)
    for field in LISTS:
        document[field] = document[field] or []
    return document


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    deserialise = TypeDeserializer().deserialize
    return {name: keys.from_item(deserialise(value)) for name, value in item.items()}


def _without_keys(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in {"pk", "sk", "gsi_pk", "gsi_sk"}}
