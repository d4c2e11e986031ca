"""Accounts: what was spent, and what was not, as entries of the footprint ledger. Pure; `ebb.aws.accounts` writes.

One entry for each stage's job of a run, each hour of an endpoint and each job that was avoided. Entries of a project
and month (UTC) share a partition with their total, so that one transaction writes both and one query reads the month:

    pk FOOTPRINT#<project>#<YYYY-MM>   sk stage#<run_id>#<attempt>#<stage>#<job>
                                       sk serving#<endpoint>#<YYYY-MM-DDTHH>
                                       sk avoided#<run_id or why>
                                       sk TOTAL    spent_*, saved_* (energy_kwh, carbon_g, water_l, cost_usd), entries

The total counts the middle of each band, its bounds beside it (`spent_carbon_g_low`, `spent_carbon_g_high`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from ebb import carbon, catalog, footprint, ledger
from ebb.carbon import Band
from ebb.footprint import NOTHING, Footprint

Kind = Literal["stage", "serving", "avoided", "control"]
TOTAL = "TOTAL"
LISTED = "FOOTPRINTS"  # partition of the table's index under which the totals of all projects are found
UNITS = ("energy_kwh", "carbon_g", "water_l", "cost_usd")
_ALWAYS = ("pue", "grid intensity", "water: cooling", "water: electricity")
MEASURED = "measured by the service: time, machine"  # what the service itself reports and bills


@dataclass(frozen=True)
class Counterfactual:
    """What would have been spent otherwise, and how."""

    what: str
    footprint: Footprint


@dataclass(frozen=True)
class Entry:
    """One entry of the footprint ledger.

    `usage` is what was measured: duration_s, billable_s, utilization, instance, region, bytes, measured (whether the
    service measured it) and basis (in words). `coefficients` are those that turned it into a footprint. `id` is unique
    within its kind and month; writing the same one twice changes nothing.
    """

    kind: Kind
    id: str
    project: str
    at: datetime  # decides the month
    footprint: Footprint
    usage: Mapping[str, Any] = field(default_factory=dict)
    coefficients: Sequence[Mapping[str, str]] = ()
    counterfactual: Counterfactual | None = None
    run_id: str | None = None
    endpoint: str | None = None
    stage: str | None = None

    @property
    def month(self) -> str:
        """Return the month, in UTC, on which the entry is booked: `2026-11`."""
        return month_of(self.at)

    @property
    def saved(self) -> dict[str, Band]:
        """Return what was saved against the counterfactual; below zero where more was spent, 0 without one.

        saved = counterfactual - spent, bound by bound: both were reckoned with the same coefficients
        """
        if self.counterfactual is None:
            return dict.fromkeys(UNITS, carbon.ZERO)
        other = self.counterfactual.footprint
        return {unit: carbon.difference(getattr(other, unit), getattr(self.footprint, unit)) for unit in UNITS}

    def key(self) -> dict[str, str]:
        """Return the key of the entry."""
        return {"pk": partition(self.project, self.month), "sk": f"{self.kind}#{self.id}"}

    def item(self) -> dict[str, Any]:
        """Return the entry as the ledger holds it."""
        other = self.counterfactual
        fields = {
            **self.key(),
            "kind": self.kind,
            "id": self.id,
            "at": ledger.iso(self.at),
            "project": self.project,
            "run_id": self.run_id,
            "endpoint": self.endpoint,
            "stage": self.stage,
            "usage": self.usage,
            "footprint": as_booked(self.footprint),
            "coefficients": list(self.coefficients),
            "counterfactual": {"what": other.what, "footprint": as_booked(other.footprint)} if other else None,
            "saved": {unit: band.as_dict() for unit, band in self.saved.items()},
        }
        held: dict[str, Any] = ledger.to_item(fields)
        return held


def month_of(moment: datetime) -> str:
    """Return the month of a moment in UTC: `2026-11`."""
    return f"{moment.astimezone(UTC):%Y-%m}"


def partition(project: str, month: str) -> str:
    """Return the partition of a project's month."""
    return f"FOOTPRINT#{project}#{month}"


def total_key(project: str, month: str) -> dict[str, str]:
    """Return the key of a month's total."""
    return {"pk": partition(project, month), "sk": TOTAL}


def as_booked(spent: Footprint) -> dict[str, dict[str, float]]:
    """Return a footprint with its carbon told apart, as an entry holds it."""
    return spent.as_dict() | {"carbon_operational_g": spent.carbon_operational_g.as_dict()}


def sums(entry: Entry) -> dict[str, float]:
    """Return what an entry adds to its month's total."""
    added: dict[str, float] = {"entries": 1}
    for unit in UNITS:
        for what, band in (("spent", getattr(entry.footprint, unit)), ("saved", entry.saved[unit])):
            for end, value in (("", band.value), ("_low", band.low), ("_high", band.high)):
                added[f"{what}_{unit}{end}"] = value
    return added


def writes(*entries: Entry) -> tuple[Any, ...]:
    """Return the writes of entries of one project and month, which belong into one transaction: each, then the total.

    An entry's is refused when it stands already; then the total must not be counted up for it either.
    Raises: ValueError for entries of several months: each month has a total of its own.
    """
    project, month = entries[0].project, entries[0].month
    if {(each.project, each.month) for each in entries} != {(project, month)}:
        raise ValueError("entries of one transaction are of one project and month")
    added: dict[str, float] = {}
    for entry in entries:
        for name, value in sums(entry).items():
            added[name] = added.get(name, 0) + value
    puts = ({"Item": each.item(), "ConditionExpression": "attribute_not_exists(pk)"} for each in entries)
    fields = {"project": project, "month": month, "gsi_pk": LISTED, "gsi_sk": f"{month}#{project}"}
    total = {
        "Key": total_key(project, month),
        "UpdateExpression": "SET "
        + ", ".join(f"#{name} = :{name}" for name in fields)
        + " ADD "
        + ", ".join(f"#{name} :{name}" for name in added),
        "ExpressionAttributeNames": {f"#{name}": name for name in (*fields, *added)},
        "ExpressionAttributeValues": {f":{name}": ledger.to_item(value) for name, value in {**fields, **added}.items()},
    }
    return *puts, total


def stage_entry(
    *,
    project: str,
    run_id: str,
    attempt: int,
    stage: str,
    job: str,
    at: datetime,
    spent: Footprint,
    usage: Mapping[str, Any],
    counterfactual: Counterfactual | None = None,
    coefficients: Iterable[Mapping[str, str]] = (),
) -> Entry:
    """Return the entry of one job (or build) of a stage; each attempt and each machine that was tried is one."""
    return Entry(
        kind="stage",
        id=f"{run_id}#{attempt}#{stage}#{job}",
        project=project,
        at=at,
        footprint=spent,
        usage=usage,
        coefficients=tuple(coefficients),
        counterfactual=counterfactual,
        run_id=run_id,
        stage=stage,
    )


def serving_entry(
    *,
    project: str,
    endpoint: str,
    hour: datetime,
    spent: Footprint,
    usage: Mapping[str, Any],
    counterfactual: Counterfactual | None = None,
    coefficients: Iterable[Mapping[str, str]] = (),
    run_id: str | None = None,
) -> Entry:
    """Return the entry of one hour (UTC, by its beginning) of one endpoint."""
    begun = hour.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return Entry(
        kind="serving",
        id=f"{endpoint}#{begun:%Y-%m-%dT%H}",
        project=project,
        at=begun,
        footprint=spent,
        usage=usage,
        coefficients=tuple(coefficients),
        counterfactual=counterfactual,
        run_id=run_id,
        endpoint=endpoint,
    )


def avoided_entry(
    why: str,
    *,
    project: str,
    id: str,
    at: datetime,
    instead_of: str,
    would_have: Footprint,
    spent: Footprint = NOTHING,
    usage: Mapping[str, Any] | None = None,
    coefficients: Iterable[Mapping[str, str]] = (),
    run_id: str | None = None,
) -> Entry:
    """Return the entry of a job that was not run, or not to its end.

    `why`: reused, retraining-skipped, stopped, slept, waited. `id` makes it unique: a run, or a decision's own id.
    `would_have` is what `instead_of` would have taken, `spent` what avoiding it took where nothing else books that.
    """
    return Entry(
        kind="avoided",
        id=f"{why}#{id}",
        project=project,
        at=at,
        footprint=spent,
        usage={"why": why, **(usage or {})},
        coefficients=tuple(coefficients),
        counterfactual=Counterfactual(instead_of, would_have),
        run_id=run_id,
    )


def coefficients(*names: str) -> list[dict[str, str]]:
    """Return the catalog's coefficients of these names, and those of every footprint, as entries hold them.

    Raises: KeyError for a name that the catalog's list does not have.
    """
    known = {each["what"]: each for each in catalog.sources()}
    return [
        {"name": name} | {key: known[name][key] for key in ("source", "year", "confidence")}
        for name in (*names, *_ALWAYS)
    ]


def coefficients_in_short(*names: str) -> list[dict[str, str]]:
    """Return them without their sources' names, for what is written for every hour: the catalog has those."""
    return [each | {"source": "ebb/catalog"} for each in coefficients(*names)]


def recorded_footprint(recorded: Mapping[str, Any] | None) -> Footprint:
    """Return a footprint as the ledger holds it, nothing for none."""
    return footprint.Footprint.of(recorded) if recorded else NOTHING
