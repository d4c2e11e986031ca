"""The footprint ledger in DynamoDB: each entry and its total in one transaction, so that no retry counts twice."""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from boto3.dynamodb.conditions import Key
from botocore.exceptions import BotoCoreError, ClientError

from ebb import accounting, ledger
from ebb.accounting import Entry
from ebb.aws.clients import table
from ebb.errors import LedgerUnavailableError

# Two transactions at once on one month's total: one is cancelled, and the SDK does not retry it.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html (Transaction conflict handling)
CONFLICTS, FIRST_PAUSE_S = 7, 0.05
# A transaction has 100 writes; one is the total's: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
MOST_AT_ONCE = 99


class Accounts:
    """The entries of one stack's ledger table."""

    def __init__(self, name: str):
        self._table = table(name)

    def write(self, entry: Entry) -> bool:
        """Write an entry and count it; False when it stands already, which is no error.

        Raises: LedgerUnavailableError.
        """
        return bool(self.write_all([entry]))

    def write_all(self, entries: Iterable[Entry]) -> list[Entry]:
        """Write entries and count them; return those that did not stand already.

        Those of a project and month in as few transactions as may be: each is written with its part of the total, or
        neither is.
        Raises: LedgerUnavailableError.
        """
        partitions: dict[str, dict[str, Entry]] = {}
        for each in entries:
            partitions.setdefault(each.key()["pk"], {})[each.key()["sk"]] = each
        written: list[Entry] = []
        for found in map(list, map(dict.values, partitions.values())):
            for first in range(0, len(found), MOST_AT_ONCE):
                written += self._write(found[first : first + MOST_AT_ONCE])
        return written

    def _write(self, entries: Sequence[Entry]) -> list[Entry]:
        """Write entries of one month; those that stand already are left out, and the others written without them."""
        left, conflicts = list(entries), 0
        reasons: list[str] | None = []
        while left and conflicts < CONFLICTS:
            *puts, total = accounting.writes(*left)
            each = [{"Put": {"TableName": self._table.name, **put}} for put in puts]
            reasons = self._transact([*each, {"Update": {"TableName": self._table.name, **total}}])
            if reasons is None:
                return left
            there = {place for place, reason in enumerate(reasons) if reason == "ConditionalCheckFailed"}
            new = [entry for place, entry in enumerate(left) if place not in there]
            if len(new) == len(left):
                if "TransactionConflict" not in reasons:
                    break
                time.sleep(FIRST_PAUSE_S * 2**conflicts * random.random())  # jitter
                conflicts += 1
            left = new
        if left:
            raise LedgerUnavailableError(f"DynamoDB cancelled TransactWriteItems: {reasons}")
        return []

    def _transact(self, writes: list[dict[str, Any]]) -> list[str] | None:
        """Send writes; return None when they are done, or for each why the transaction was cancelled."""
        try:
            self._table.meta.client.transact_write_items(TransactItems=writes)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "TransactionCanceledException":
                return [str(each.get("Code")) for each in error.response.get("CancellationReasons") or ()]
            raise LedgerUnavailableError(f"DynamoDB answered {code} to TransactWriteItems") from error
        except BotoCoreError as error:
            raise LedgerUnavailableError(f"TransactWriteItems: {type(error).__name__}") from error
        return None

    def month(self, project: str, month: str) -> dict[str, Any]:
        """Return a project's month, as `2026-11`: its entries, oldest last within their kind, and its total.

        Raises: LedgerUnavailableError.
        """
        items = list(self._query(KeyConditionExpression=Key("pk").eq(accounting.partition(project, month))))
        total = next((item for item in items if item["sk"] == accounting.TOTAL), {})
        return {"entries": [item for item in items if item["sk"] != accounting.TOTAL], "total": total}

    def totals(self, since: str = "") -> list[dict[str, Any]]:
        """Return the totals of every project and month from `since` (`2026-11`) on, oldest month first.

        As far as the table's index knows them yet.
        Raises: LedgerUnavailableError.
        """
        listed = Key("gsi_pk").eq(accounting.LISTED)
        wanted = listed & Key("gsi_sk").gte(since) if since else listed
        return list(self._query(IndexName="runs", KeyConditionExpression=wanted))

    def months(self, project: str | None = None, since: str = "") -> Iterator[dict[str, Any]]:
        """Give the entries of one project, or of all, from a month (`2026-11`) on, month by month.

        Raises: LedgerUnavailableError.
        """
        for total in self.totals(since):
            if project in (None, total["project"]):
                yield from self.month(total["project"], total["month"])["entries"]

    def _query(self, **request: Any) -> Iterator[dict[str, Any]]:
        while True:
            try:
                page = self._table.query(**request)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                raise LedgerUnavailableError(f"DynamoDB answered {code} to query") from error
            except BotoCoreError as error:
                raise LedgerUnavailableError(f"query: {type(error).__name__}") from error
            yield from ledger.from_item(page["Items"])
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
