"""Budgets in DynamoDB: reads a month's account, sets aside and settles. A refused condition is an answer, no error."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from boto3.dynamodb.conditions import Key
from botocore.exceptions import BotoCoreError, ClientError

from ebb import accounting, budget_items, budgets, ledger, record
from ebb.aws.clients import table
from ebb.aws.ledger import Ledger
from ebb.budgets import Account, Line
from ebb.errors import LedgerUnavailableError

_REFUSED = {"ConditionalCheckFailed", "TransactionConflict"}  # another write was first: read again
MOST_TRIES = 8


class Budgets:
    """The accounts of one stack's ledger table."""

    def __init__(self, name: str):
        self._table = table(name)
        self._book = Ledger(name)

    def account(self, project: str, month: str, *, but: str | None = None) -> Account:
        """Return what stands against a project's month. Raises: LedgerUnavailableError."""
        items = self._query(Key("pk").eq(budget_items.partition(project, month)))
        return budget_items.account(items, month, self._serving(project, month), but=but)

    def run(self, project: str, month: str, run_id: str) -> dict[str, Any] | None:
        """Return what a run has set aside or taken in a month, None when it has done neither."""
        key = budget_items.run_key(project, month, run_id)
        return next(iter(self._query(Key("pk").eq(key["pk"]) & Key("sk").eq(key["sk"]))), None)

    def reserve(
        self,
        project: str,
        month: str,
        run_id: str,
        attempt: int,
        *,
        wanted: Mapping[str, float],
        lines: Sequence[Line],
        before: Mapping[str, float],
        known: Mapping[str, Any] | None,
        shrunk: int,
        now: datetime,
    ) -> bool:
        """Set an amount aside; False when the account has changed since it was read. Raises: LedgerUnavailableError."""
        return self._write(
            budget_items.reserve(
                project,
                month,
                run_id,
                attempt,
                wanted=wanted,
                lines=lines,
                before=before,
                known=known,
                shrunk=shrunk,
                now=now,
            )
        )

    def settle(self, run_id: str, attempt: int, project: str, *, now: datetime) -> None:
        """Put what a run took in the place of what it set aside; a repeat changes nothing.

        Raises: LedgerUnavailableError.
        """
        story = self._book.story(run_id)
        if story is None:
            return
        month = str(story.run.get("budget_month") or budgets.month_of(now))
        took = budgets.taken(record.total_footprint(story.stages).as_dict())
        for _ in range(MOST_TRIES):
            known = self.run(project, month, run_id)
            writes = budget_items.settle(project, month, run_id, attempt, known=known, took=took, now=now)
            if not writes or self._write(writes):
                return
        raise LedgerUnavailableError(f"the budget of {project} in {month} is written to by too many")

    def reclaim(self, account: Account, project: str, *, now: datetime) -> bool:
        """Settle what runs that have ended left set aside, and tell whether there were any.

        Whoever ends a run settles it; this finds the ones that nobody could settle.
        """
        found = False
        for run_id in account.under_way:
            run = self._book.run(run_id)
            if run is not None and run.get("status") != "running":
                self.settle(run_id, int(run["attempt"]), project, now=now)
                found = True
        return found

    def _serving(self, project: str, month: str) -> dict[str, float]:
        """Return what a project's endpoints took in a month, by the footprint ledger."""
        partition = accounting.partition(project, month)
        total = dict(budgets.NOTHING)
        for entry in self._query(Key("pk").eq(partition) & Key("sk").begins_with("serving#")):
            total = budgets.plus(total, budgets.taken(entry.get("footprint")))
        return total

    def _query(self, wanted: Any) -> list[dict[str, Any]]:
        request: dict[str, Any] = {"KeyConditionExpression": wanted, "ConsistentRead": True}
        items: list[dict[str, Any]] = []
        while True:
            try:
                page = self._table.query(**request)
            except ClientError as error:
                raise LedgerUnavailableError(f"DynamoDB answered {error.response['Error']['Code']} to query") from error
            except BotoCoreError as error:
                raise LedgerUnavailableError(f"query: {type(error).__name__}") from error
            items += ledger.from_item(page["Items"])
            if "LastEvaluatedKey" not in page:
                return items
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _write(self, writes: budget_items.Transaction) -> bool:
        each = [
            {kind: {"TableName": self._table.name, **request}} for write in writes for kind, request in write.items()
        ]
        try:
            self._table.meta.client.transact_write_items(TransactItems=each)
        except ClientError as error:
            reasons = {reason.get("Code") for reason in error.response.get("CancellationReasons") or ()} - {
                "None",
                None,
            }
            if reasons and reasons <= _REFUSED:
                return False
            code = error.response["Error"]["Code"]
            raise LedgerUnavailableError(f"DynamoDB answered {code} {reasons} to TransactWriteItems") from error
        except BotoCoreError as error:
            raise LedgerUnavailableError(f"TransactWriteItems: {type(error).__name__}") from error
        return True
