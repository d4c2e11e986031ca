"""`ebb carbon`: what was spent and saved, by project and kind, and what another signal would have changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from boto3.dynamodb.types import TypeDeserializer

from ebb import accounting, carbon_sums
from ebb import ledger as keys
from ebb.carbon_sums import Change, Sums
from ebb.catalog import marginal
from ebb.catalog.marginal import Signal
from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

UNITS = {"energy_kwh": "kWh", "carbon_g": "gCO2e", "water_l": "litres of water", "cost_usd": "USD on AWS"}
WINDOW = re.compile(r"when \w+ runs")  # what the decisions about low-carbon windows are called
Project = Annotated[str | None, typer.Option("--project", metavar="NAME", help="This project alone.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="A month (2026-11), a day (2026-11-03) or a time ago (30d)."),
]
Asked = Annotated[
    str, typer.Option("--signal", help="How the grid is counted: average, or marginal (the plants that are turned up).")
]


def carbon(
    target: Target, project: Project = None, since: Since = None, signal: Asked = "average", as_json: Json = False
) -> None:
    """Sum up what was spent and saved: kWh, grams, litres and USD, each with its band, by project and kind.

    `--signal marginal` counts the electricity by the plants that are turned up for it, and says which decisions that
    would have changed. The control plane is in `ebb cost`.
    """
    if signal not in marginal.SIGNALS:
        raise CommandError(
            f"There is no signal {signal!r}.", f"Write one of: {', '.join(marginal.SIGNALS)}.", status=USAGE
        )
    ledger = Ledger(target)
    begin = moment(since, ledger.now)
    entries = carbon_sums.since(read(target, project, begin), begin)
    found = carbon_sums.changes(entries, target.region, **_decided(ledger, project, begin))
    answer = as_document(entries, signal, found, region=target.region, project=project, since=begin)
    if as_json:
        output.emit_json(answer)
        return
    show(entries, signal, found, target.region)


def moment(since: str | None, now: datetime) -> datetime | None:
    """Return the moment that is meant, None for the beginning. Raises: CommandError."""
    if since is None:
        return None
    if ago := re.fullmatch(r"(\d{1,4})([dh])", since):
        return now - timedelta(**{{"d": "days", "h": "hours"}[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(f"{since}-01" if re.fullmatch(r"\d{4}-\d{2}", since) else since)
    except ValueError as problem:
        raise CommandError(
            f"{since!r} is no time.", "Write 2026-11, 2026-11-03, 30d or 12h.", status=USAGE
        ) from problem
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read(target: Target, project: str | None, begin: datetime | None) -> list[dict[str, Any]]:
    """Return the entries of one project, or of all, from the month of a moment on."""
    since = accounting.month_of(begin) if begin else ""
    totals = _items(
        target,
        IndexName="runs",
        KeyConditionExpression="gsi_pk = :listed" + (" AND gsi_sk >= :since" if since else ""),
        ExpressionAttributeValues={":listed": {"S": accounting.LISTED}} | ({":since": {"S": since}} if since else {}),
    )
    wanted = [each for each in totals if project in (None, each["project"])]
    found = (
        _items(target, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": each["pk"]}})
        for each in wanted
    )
    return [item for items in found for item in items if item["sk"] != accounting.TOTAL]


def _items(target: Target, **request: Any) -> Iterator[dict[str, Any]]:
    plain = TypeDeserializer().deserialize
    asked = {"TableName": target.outputs["LedgerTableName"], **request}
    for page in target.client("dynamodb").get_paginator("query").paginate(**asked):
        for item in page["Items"]:
            yield keys.from_item({name: plain(value) for name, value in item.items()})


def _decided(ledger: Ledger, project: str | None, begin: datetime | None) -> dict[str, Any]:
    """Return what signals decide about: the months' budgets, as each project's newest run has them, and windows."""
    limits: dict[str, float] = {}
    waited: list[dict[str, Any]] = []
    for run in ledger.runs(project):
        if begin and output.parse_moment(run["created_at"]) < begin:
            break
        carbon_of = (run.get("spec") or {}).get("carbon") or {}
        budget = carbon_of.get("budget")
        if isinstance(budget, Mapping) and budget.get("per") == "month" and budget.get("carbon") is not None:
            limits.setdefault(run["project"], float(budget["carbon"]))
        if carbon_of.get("deadline") or run.get("window"):
            waited += [each for each in ledger.decisions(run["run_id"]) if WINDOW.fullmatch(str(each["what"]))]
    return {"limits_g": limits, "waited": waited}


def as_document(
    entries: list[Mapping[str, Any]],
    signal: Signal,
    found: list[Change],
    *,
    region: str,
    project: str | None,
    since: datetime | None,
) -> dict[str, Any]:
    """Return everything as plain values: the sums by the signal, the carbon by both, what would change, the sources."""

    def sums(name: str) -> dict[str, Any]:
        return {key: each.as_dict() for key, each in carbon_sums.by(entries, name, signal, region).items()}

    both = {each: carbon_sums.total(entries, each, region) for each in marginal.SIGNALS}
    return {
        "signal": signal,
        "project": project,
        "since": since,
        "region": region,
        "total": both[signal].as_dict(),
        "projects": sums("project"),
        "kinds": sums("kind"),
        "by_signal": {
            name: {"spent": each.spent.carbon_g.as_dict(), "saved": each.saved["carbon_g"].as_dict()}
            for name, each in both.items()
        },
        "changes": [each.as_dict() for each in found],
        "signal_source": marginal.source() if signal == "marginal" else None,
    }


def show(entries: list[Mapping[str, Any]], signal: Signal, found: list[Change], region: str) -> None:
    """Print the sums, the saving and what would change."""
    say = output.out().print
    if not entries:
        say("Nothing has been booked yet: each run books its stages when it ends, each endpoint its hours.")
        return
    columns = ("", "entries", *UNITS.values(), "gCO2e saved")
    right = columns[1:]
    for title, name in (("By project", "project"), ("By kind", "kind")):
        rows = [_row(key, each) for key, each in carbon_sums.by(entries, name, signal, region).items()]
        output.table(f"{title}, {signal} signal", columns, rows, right=right)
    whole = carbon_sums.total(entries, signal, region)
    say("")
    for what, bands in (("Spent", {unit: getattr(whole.spent, unit) for unit in UNITS}), ("Saved", whole.saved)):
        told = ", ".join(output.band(bands[unit].as_dict(), word) for unit, word in UNITS.items())
        say(f"{what}: {told}", markup=False, soft_wrap=True)
    both = {each: carbon_sums.total(entries, each, region).spent.carbon_g for each in marginal.SIGNALS}
    words = ", ".join(f"{output.band(band.as_dict(), 'g')} by the {name} signal" for name, band in both.items())
    say(f"Carbon of the same energy: {words}.", markup=False, soft_wrap=True)
    changed = [each for each in found if each.turns]
    say(f"\nBy the other signal {_count(len(changed))} would come out otherwise:", markup=False)
    for each in found:
        turned = f"{each.average} -> {each.marginal}" if each.turns else f"{each.average}, by either"
        say(f"  {each.decision}: {turned} ({each.why})", markup=False, soft_wrap=True)
    if signal == "marginal":
        origin = marginal.source()
        output.remark(f"marginal intensities: {origin['source']}, {origin['year']}, confidence {origin['confidence']}")


def _row(name: str, sums: Sums) -> tuple[str, ...]:
    spent = [output.band(getattr(sums.spent, unit).as_dict(), "").strip() for unit in UNITS]
    return (name, str(sums.entries), *spent, output.number(sums.saved["carbon_g"].value))


def _count(number: int) -> str:
    return {0: "nothing", 1: "one decision"}.get(number, f"{number} decisions")
