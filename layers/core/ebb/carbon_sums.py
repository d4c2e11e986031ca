"""What was spent and saved, summed over the footprint ledger; what another signal would have changed. Pure.

A signal is how a grid is counted: by its `average`, or by the plants that are turned up for one kilowatt hour more
(`marginal`). Energy, water and cost are the same by either; of the carbon only the part of use changes:

    carbon_g = energy_kwh * g_per_kwh(region, signal) + carbon_embodied_g
    saved_g  = the same of the counterfactual, less that
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ebb import carbon, figures
from ebb.accounting import UNITS
from ebb.carbon import Band
from ebb.catalog import marginal
from ebb.catalog.marginal import Signal
from ebb.footprint import NOTHING, Footprint

KINDS = ("stage", "serving", "avoided", "control")
REGIONS_TOLD = 3


@dataclass(frozen=True)
class Sums:
    """What entries come to: spent, what would have been without what saved, and the difference."""

    entries: int = 0
    spent: Footprint = NOTHING
    saved: Mapping[str, Band] = field(default_factory=lambda: dict.fromkeys(UNITS, carbon.ZERO))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.entries + other.entries,
            self.spent + other.spent,
            {unit: self.saved[unit] + other.saved[unit] for unit in UNITS},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the sums as `ebb carbon --json` prints them."""
        return {
            "entries": self.entries,
            "spent": self.spent.as_dict(),
            "saved": {unit: band.as_dict() for unit, band in self.saved.items()},
        }


def of_entry(entry: Mapping[str, Any], signal: Signal, region: str) -> Sums:
    """Return what one entry comes to by a signal; `region` is where it was when the entry does not say."""
    where = str((entry.get("usage") or {}).get("region") or region)
    spent = by_signal(entry["footprint"], where, signal)
    other = (entry.get("counterfactual") or {}).get("footprint")
    if other is None:
        return Sums(1, spent)
    instead = by_signal(other, where, signal)
    return Sums(1, spent, {unit: carbon.difference(getattr(instead, unit), getattr(spent, unit)) for unit in UNITS})


def by_signal(recorded: Mapping[str, Any], region: str, signal: Signal) -> Footprint:
    """Return a recorded footprint with its carbon of use counted by a signal; by the average as recorded."""
    found = Footprint.of(recorded)
    if signal == "average":
        return found
    used = carbon.operational_carbon_g(found.energy_kwh, marginal.g_per_kwh(region, signal))
    embodied = found.carbon_embodied_g
    return Footprint(found.energy_kwh, used + embodied, found.cost_usd, found.water_l, embodied)


def since(entries: Iterable[Mapping[str, Any]], begin: datetime | None) -> list[Mapping[str, Any]]:
    """Return the entries at or after a moment; all of them without one."""
    return [each for each in entries if begin is None or datetime.fromisoformat(str(each["at"])) >= begin]


def by(entries: Iterable[Mapping[str, Any]], name: str, signal: Signal, region: str) -> dict[str, Sums]:
    """Return the sums of entries by one of their fields (`project`, `kind`, `stage`), the largest carbon first."""
    found: dict[str, Sums] = {}
    for each in entries:
        key = str(each.get(name) or "-")
        found[key] = found.get(key, Sums()) + of_entry(each, signal, region)
    return dict(sorted(found.items(), key=lambda one: -one[1].spent.carbon_g.value))


def total(entries: Iterable[Mapping[str, Any]], signal: Signal, region: str) -> Sums:
    """Return what all entries come to."""
    return sum((of_entry(each, signal, region) for each in entries), start=Sums())


@dataclass(frozen=True)
class Change:
    """A decision by either signal: what it is by each, and whether it turns."""

    decision: str
    average: str
    marginal: str
    why: str

    @property
    def turns(self) -> bool:
        """Return whether the other signal decides otherwise."""
        return self.average != self.marginal

    def as_dict(self) -> dict[str, Any]:
        """Return it as `ebb carbon --json` prints it."""
        told = {"decision": self.decision, "average": self.average, "marginal": self.marginal}
        return told | {"turns": self.turns, "why": self.why}


def changes(
    entries: Sequence[Mapping[str, Any]],
    region: str,
    *,
    limits_g: Mapping[str, float] | None = None,
    waited: Sequence[Mapping[str, Any]] = (),
) -> list[Change]:
    """Return how decisions come out by either signal.

    `limits_g` are the grams that a project may spend in a month, `waited` the decisions of runs about windows. What
    compares energy with energy in one Region (machines, candidates, kinds of serving) is not asked: both sides of it
    are multiplied by the same figure, whichever that is.
    """
    if not entries:
        return []
    found = [_region(entries, region), *_limits(entries, region, limits_g or {})]
    return [*found, *map(_window, waited), _alike()]


def _region(entries: Sequence[Mapping[str, Any]], region: str) -> Change:
    spent = sum((Footprint.of(each["footprint"]) for each in entries), start=NOTHING)
    embodied, energy = spent.carbon_embodied_g.value, spent.energy_kwh.value
    told = []
    for signal in marginal.SIGNALS:
        ranked = sorted(marginal.regions(), key=lambda name: (marginal.g_per_kwh(name, signal).value, name))
        worded = [
            f"{name} {figures.number(energy * marginal.g_per_kwh(name, signal).value + embodied)} g"
            for name in ranked[:REGIONS_TOLD]
        ]
        told.append((ranked[0], ", ".join(worded)))
    why = (
        f"of {figures.number(energy)} kWh: by the average {told[0][1]}; marginal {told[1][1]}; moving data not counted"
    )
    return Change("cleanest Region", told[0][0], told[1][0], why)


def _limits(entries: Sequence[Mapping[str, Any]], region: str, limits_g: Mapping[str, float]) -> Iterable[Change]:
    months: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in entries:
        months.setdefault((str(each["project"]), str(each["at"])[:7]), []).append(each)
    for (project, month), mine in sorted(months.items()):
        limit = limits_g.get(project)
        if limit is None:
            continue
        spent = {signal: total(mine, signal, region).spent.carbon_g.value for signal in marginal.SIGNALS}
        verdict = {signal: "within the budget" if spent[signal] <= limit else "above it" for signal in spent}
        why = " and ".join(f"{figures.number(spent[signal])} g by the {signal} signal" for signal in spent)
        yield Change(
            f"budget of {project} in {month}",
            verdict["average"],
            verdict["marginal"],
            f"{why}, of {figures.number(limit)} g",
        )


def _window(decision: Mapping[str, Any]) -> Change:
    """The marginal table is the same at every hour: by it alone nothing is gained by waiting."""
    chosen = str(decision["chosen"])
    why = f"{decision.get('reason')}; the marginal table knows no hours, so by it a run begins at once"
    return Change(str(decision["what"]), chosen, "runs now", why)


def _alike() -> Change:
    same = "the leanest in energy"
    why = "both sides are in one Region, and are multiplied by the same grams per kWh, whichever signal gives them"
    return Change("machines, candidates, kinds of serving", same, same, why)
