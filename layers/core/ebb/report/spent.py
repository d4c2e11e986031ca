"""The footprint part of the report: what a run took, with bands; what would have been instead; what was saved. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebb import carbon, figures
from ebb.carbon import Band
from ebb.footprint import Footprint

Record = Mapping[str, Any]
Row = tuple[str, str, str, str]
SHOWN = (("energy_kwh", "Energy", "kWh"), ("carbon_g", "Carbon", "gCO2e"), ("water_l", "Water", "l"),
         ("cost_usd", "Cost on AWS", "USD"))  # fmt: skip
SAVED = ("what", "instead of", "kWh saved", "gCO2e saved", "litres saved", "USD saved")


@dataclass(frozen=True)
class Reach:
    """One band as a bar: from `low` over `width`, with a mark at `value`; all in percent of the widest of its group."""

    name: str
    kind: str  # shipped or original
    told: str
    low: float
    width: float
    value: float


@dataclass(frozen=True)
class Group:
    """The bands of one quantity, which share a scale from zero."""

    label: str
    bars: tuple[Reach, ...]


def rows(run: Record) -> tuple[Row, ...]:
    """Return low, middle and high of everything that the run took; carbon is told apart into use and hardware."""
    used = run.get("footprint")
    if not used:
        return ()
    spent = Footprint.of(used)
    found = [(f"{label}, {unit}", getattr(spent, name)) for name, label, unit in SHOWN]
    if used.get("carbon_embodied_g"):
        found[2:2] = [
            ("of it electricity, gCO2e", spent.carbon_operational_g),
            ("of it hardware, gCO2e", spent.carbon_embodied_g),
        ]
    return tuple(
        (label, figures.number(band.low), figures.number(band.value), figures.number(band.high))
        for label, band in found
    )


def compared(run: Record) -> tuple[Group, ...]:
    """Return the bands of a million predictions, of the shipped model and of the one as it was trained."""
    sides = [(run.get("comparison") or {}).get(side) or {} for side in ("shipped", "original")]
    both = [Footprint.of(each["per_million"]) if each.get("per_million") else None for each in sides]
    shipped, original = both
    if shipped is None or original is None:
        return ()
    names = (str(run.get("chosen")), "as trained")
    return tuple(
        _group(f"{label}, {unit}", names, (getattr(shipped, name), getattr(original, name)))
        for name, label, unit in SHOWN
    )


def _group(label: str, names: Sequence[str], bands: Sequence[Band]) -> Group:
    widest = max(each.high for each in bands) or 1.0
    bars = (
        Reach(
            name,
            kind,
            figures.band(band.as_dict(), "").strip(),
            round(100 * band.low / widest, 2),
            round(max(0.5, 100 * (band.high - band.low) / widest), 2),
            round(100 * band.value / widest, 2),
        )
        for name, kind, band in zip(names, ("shipped", "original"), bands, strict=True)
    )
    return Group(label, tuple(bars))


def saved(run: Record) -> tuple[tuple[str, ...], ...]:
    """Return what was avoided, a row each: the run's entries of the footprint ledger that have a counterfactual."""
    return tuple(_saved(run))


def _saved(run: Record) -> Iterator[tuple[str, ...]]:
    for entry in run.get("entries") or ():
        other = entry.get("counterfactual")
        if not other:
            continue
        spent, instead = Footprint.of(entry["footprint"]), Footprint.of(other["footprint"])
        gained = (carbon.difference(getattr(instead, name), getattr(spent, name)) for name, _, _ in SHOWN)
        why = str((entry.get("usage") or {}).get("why") or entry.get("stage") or entry.get("endpoint") or entry["kind"])
        yield why, str(other.get("what") or "-"), *(figures.band(each.as_dict(), "").strip() for each in gained)
