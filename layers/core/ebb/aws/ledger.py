"""The ledger in DynamoDB: sends what `ebb.ledger` builds. A refused condition is an answer, not an error."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from boto3.dynamodb.conditions import Key
from botocore.exceptions import BotoCoreError, ClientError

from ebb import accepted, accounting, addresses, ledger, names, training_watch
from ebb.aws.clients import table
from ebb.errors import LedgerUnavailableError
from ebb.sources import Source


@dataclass(frozen=True)
class RunStory:
    """Everything that the ledger holds about a run."""

    run: dict[str, Any]
    stages: list[dict[str, Any]]
    decisions: list[dict[str, Any]]


class Ledger:
    """One stack's ledger table."""

    def __init__(self, name: str):
        self._table = table(name)
        self._answered_at: datetime | None = None

    @property
    def name(self) -> str:
        """The table's name."""
        return str(self._table.name)

    @property
    def now(self) -> datetime:
        """The moment of DynamoDB's last answer: for what no event tells the time, and functions never ask the clock.

        Raises: LedgerUnavailableError when nothing has been asked yet, or the answer had no date.
        """
        if self._answered_at is None:
            raise LedgerUnavailableError("DynamoDB has not told the time")
        return self._answered_at

    def apply(self, request: ledger.Request) -> bool:
        """Send a conditional write; return False when its condition refused it.

        Raises: LedgerUnavailableError.
        """
        return self._update(request) is not None

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return a run, None when it was never opened."""
        return self._get(ledger.run_key(run_id))

    def project(self, project: str) -> dict[str, Any]:
        """Return what is known about a project; empty before its first run."""
        return self._get(ledger.project_key(project)) or {}

    def address(self, name: str) -> addresses.Address | None:
        """Return where a model is reached and in which state it is, None when the ledger does not know the address."""
        found = self._get(addresses.key(name))
        return addresses.read(found) if found else None

    def every_address(self) -> list[addresses.Address]:
        """Return every address, as far as the table's index knows it yet; without snapshots."""
        names = [name for name in addresses.Address.model_fields if name != "snapshot"]
        return [
            addresses.read(item)
            for item in self._pages(
                IndexName="runs",
                KeyConditionExpression=Key("gsi_pk").eq(addresses.LISTED),
                ProjectionExpression=", ".join(f"#{name}" for name in names),
                ExpressionAttributeNames={f"#{name}": name for name in names},
            )
        ]

    def stage(self, run_id: str, stage: str) -> dict[str, Any] | None:
        """Return a stage of a run, None before it was recorded."""
        return self._get(ledger.stage_key(run_id, stage))

    def stopped(self, run_id: str, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return why a job that has ended as stopped was stopped by ourselves, None when it was not."""
        if job.get("TrainingJobStatus") != "Stopped":
            return None
        return self._get(training_watch.note_key(run_id, str(job["TrainingJobName"])))

    def recommendation(self, run_id: str) -> dict[str, Any] | None:
        """Return what Inference Recommender said about a run's model, None when it was not asked yet."""
        return self._get(ledger.recommendation_key(run_id))

    def successful_run(self, identity: str) -> str | None:
        """Return the run that did the same work with success, None when there is none."""
        found = self._get(ledger.identity_key(identity))
        run = self.run(found["run_id"]) if found else None
        return run["run_id"] if run and run["status"] == "succeeded" else None

    def story(self, run_id: str) -> RunStory | None:
        """Return a run with its stages and decisions, None when it was never opened."""
        items = self._query(ledger.run_key(run_id)["pk"])
        run = next((item for item in items if item["sk"] == "RUN"), None)
        if run is None:
            return None
        return RunStory(
            run,
            [item for item in items if item["sk"].startswith("STAGE#")],
            [item for item in items if item["sk"].startswith(ledger.TOLD_AS_DECISIONS)],
        )

    def booked(self, project: str, run_id: str, until: datetime) -> list[dict[str, Any]]:
        """Return what the footprint ledger has booked for a run, in the months from its beginning to a moment."""
        months = sorted({accounting.month_of(each) for each in (names.created_at(run_id), until)})
        found = [item for month in months for item in self._query(accounting.partition(project, month))]
        return [item for item in found if item.get("run_id") == run_id]

    def generation(self, project: str, run_id: str) -> int:
        """Return the run's place among its project's runs; taken once, kept when the run is tried again."""
        run = self.run(run_id) or {}
        if run.get("generation"):
            return int(run["generation"])
        taken = self._update(ledger.take_generation(project)) or {}
        kept = self._update(ledger.keep_generation(run_id, int(taken["generation"]))) or {}
        return int(kept["generation"])

    def accept(self, project: str, run_id: str, generation: int, mode: str, sources: Sequence[Source]) -> None:
        """Note what a drop brings; where a newer run has noted the same object, its note stands."""
        for request in accepted.notes(project, run_id, generation, mode, sources):
            self.apply(request)

    def accepted(self, project: str, generation: int) -> list[Source]:
        """Return what a run of this generation builds on."""
        return accepted.base(self._query(ledger.project_key(project)["pk"]), generation)

    def forget_rejected(self, run: Mapping[str, Any]) -> None:
        """Take back what a rejected run has noted."""
        for request in accepted.rejected(self._query(ledger.project_key(run["project"])["pk"]), run):
            self._delete(request)

    def forget_replaced(self, project: str, generation: int) -> None:
        """Forget what came before a replacing run that has succeeded."""
        for request in accepted.replaced(self._query(ledger.project_key(project)["pk"]), generation):
            self._delete(request)

    def put_stage(self, run_id: str, stage: str, fields: Mapping[str, Any]) -> None:
        """Record a stage; what an earlier attempt of it used stays counted."""
        before = self.stage(run_id, stage)
        self._call("put_item", Item=ledger.stage_item(run_id, stage, fields, before))

    def put_decisions(self, run_id: str, stage: str, decisions: Iterable[Mapping[str, Any]], *, first: int = 0) -> None:
        """Record a stage's decisions, numbered from `first` on; a repeat writes the same items."""
        for item in ledger.decision_items(run_id, stage, decisions, first=first):
            self._call("put_item", Item=item)

    def _get(self, key: Mapping[str, str]) -> dict[str, Any] | None:
        found = self._call("get_item", Key=dict(key), ConsistentRead=True).get("Item")
        return ledger.from_item(found) if found else None

    def _query(self, pk: str) -> list[dict[str, Any]]:
        return self._pages(KeyConditionExpression=Key("pk").eq(pk), ConsistentRead=True)

    def _pages(self, **request: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        while True:
            page = self._call("query", **request)
            items += ledger.from_item(page["Items"])
            if "LastEvaluatedKey" not in page:
                return items
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _delete(self, request: ledger.Request) -> None:
        with contextlib.suppress(_ConditionRefusedError):  # noted anew meanwhile: not ours to take back
            self._call("delete_item", **request)

    def _update(self, request: ledger.Request) -> dict[str, Any] | None:
        try:
            return ledger.from_item(self._call("update_item", **request).get("Attributes", {}))
        except _ConditionRefusedError:
            return None

    def _call(self, action: str, **request: Any) -> dict[str, Any]:
        try:
            answer = dict(getattr(self._table, action)(**request))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ConditionalCheckFailedException":
                raise _ConditionRefusedError from error
            raise LedgerUnavailableError(f"DynamoDB answered {code} to {action}") from error
        except BotoCoreError as error:
            raise LedgerUnavailableError(f"{action}: {type(error).__name__}") from error
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        self._answered_at = parsedate_to_datetime(date) if date else None
        return answer


class _ConditionRefusedError(Exception):
    """Internal: the condition of a write did not hold."""
