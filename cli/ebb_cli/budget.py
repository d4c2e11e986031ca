"""`ebb budget`: what projects may take this month, what went, what runs under way have set aside, and what is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import typer
from boto3.dynamodb.types import TypeDeserializer
from rich.markup import escape

from ebb import accounting, budget_items, budgets
from ebb import ledger as keys
from ebb_cli import output
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

Project = Annotated[str | None, typer.Argument(help="This project alone; every project that ran without it.")]
Month = Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="Another month than this one, in UTC.")]


def budget(target: Target, project: Project = None, month: Month = None, as_json: Json = False) -> None:
    """Show a month's budgets: the limits, what runs and endpoints took, what is set aside, and what is left.

    The limits are those of carbon.budget in the spec of the last run that had one with `per: month`.
    """
    if month is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise CommandError(f"{month!r} is no month.", "Write 2026-11.", status=USAGE)
    reading = _Reading(target)
    totals = list(reading.totals())
    wanted = month or budgets.month_of(reading.now)
    found = [each for each in totals if each["month"] == wanted and project in (None, each["project"])]
    answer = {"month": wanted, "projects": [reading.project(each) for each in found]}
    if as_json:
        output.emit_json(answer)
    else:
        show(answer, project)


def read_account(target: Target, project: str) -> budgets.Account:
    """Return what stands against a project's budget this month."""
    reading = _Reading(target)
    list(reading.totals())  # whose answer tells the time
    return reading.account(project, budgets.month_of(reading.now))[1]


class _Reading:
    """Reads the accounts; knows the cloud's time by its last answer, for an embedded cloud's clock may be ahead."""

    def __init__(self, target: Target) -> None:
        self._client = target.client("dynamodb")
        self._table = target.outputs["LedgerTableName"]
        self.now = datetime.now(UTC)

    def totals(self) -> Iterator[dict[str, Any]]:
        """Yield the total of every project and month."""
        yield from self._items(
            IndexName="runs",
            KeyConditionExpression="gsi_pk = :listed",
            ExpressionAttributeValues={":listed": {"S": budget_items.LISTED}},
        )

    def project(self, total: dict[str, Any]) -> dict[str, Any]:
        """Return a project's month as plain values."""
        project, month = str(total["project"]), str(total["month"])
        items, account = self.account(project, month)
        limits = {name: float(limit) for name, limit in (total.get("limits") or {}).items()}
        left = budgets.minus(budgets.minus({**budgets.NOTHING, **limits}, account.committed), account.serving)
        return {
            "project": project,
            "limits": limits,
            "taken": budgets.minus(account.committed, account.aside),
            "aside": account.aside,
            "serving": account.serving,
            "left": {quantity: left[quantity] for quantity in limits},
            "under_way": [
                {"run_id": item["run_id"], "since": item["at"], "aside": item["aside"]}
                for item in items
                if item.get("run_id") in account.under_way
            ],
        }

    def account(self, project: str, month: str) -> tuple[list[dict[str, Any]], budgets.Account]:
        """Return the items and the account of a project's month."""
        items = list(self._below(budget_items.partition(project, month), ""))
        serving = dict(budgets.NOTHING)
        for entry in self._below(accounting.partition(project, month), "serving#"):
            serving = budgets.plus(serving, budgets.taken(entry.get("footprint")))
        return items, budget_items.account(items, month, serving)

    def _below(self, pk: str, sk: str) -> Iterator[dict[str, Any]]:
        values = {":pk": {"S": pk}} | ({":sk": {"S": sk}} if sk else {})
        condition = "pk = :pk" + (" AND begins_with(sk, :sk)" if sk else "")
        yield from self._items(KeyConditionExpression=condition, ExpressionAttributeValues=values)

    def _items(self, **request: Any) -> Iterator[dict[str, Any]]:
        plain = TypeDeserializer().deserialize
        for page in self._client.get_paginator("query").paginate(TableName=self._table, **request):
            date = page["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
            self.now = parsedate_to_datetime(date) if date else self.now
            for item in page["Items"]:
                yield keys.from_item({name: plain(value) for name, value in item.items()})


def show(answer: dict[str, Any], project: str | None) -> None:
    """Print each project's month: a row for each quantity, and the runs that have something set aside."""
    say = output.out().print
    if not answer["projects"]:
        who = f"The project {project} took" if project else "No project took"
        say(f"{who} {'nothing ' if project else 'anything '}in {answer['month']} (UTC).", markup=False)
        return
    rows = [
        (
            escape(each["project"]), unit,
            *(_amount(each[name].get(quantity)) for name in ("limits", "taken", "aside", "serving", "left")),
        )
        for each in answer["projects"]
        for quantity, (_, unit) in budgets.QUANTITIES.items()
    ]  # fmt: skip
    columns = ("project", "", "limit", "taken by runs", "set aside", "by serving", "left")
    output.table(f"{answer['month']}, UTC", columns, rows, right=columns[2:])
    for each in answer["projects"]:
        for run in each["under_way"]:
            aside = ", ".join(
                f"{output.number(run['aside'][quantity])} {unit}" for quantity, (_, unit) in budgets.QUANTITIES.items()
            )
            say(f"{run['run_id']} has set aside {aside}, since {run['since']}", markup=False, soft_wrap=True)
    if not any(each["limits"] for each in answer["projects"]):
        say(
            "No run had a budget for the month: carbon: {budget: {carbon: 500g}} in pipeline.yaml sets one.",
            markup=False,
        )


def _amount(value: float | None) -> str:
    return "-" if value is None else output.number(value)
