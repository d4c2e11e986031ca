"""Regions: what one run would have emitted in each, with the transfer of its data counted. Pure.

The same jobs on the same machines: energy and embodied carbon stay, the grid changes, and the data has to get there.
What differs by Region and is not known is said, not guessed: the price of machines, and whether a Region has them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebb import carbon, catalog, footprint
from ebb.carbon import Band
from ebb.catalog import transfer

Intensity = Callable[[str], Band]
BYTES_PER_GB = 1e9


@dataclass(frozen=True)
class Work:
    """What a run used where it ran, and what data it read: all that a comparison of Regions needs.

    `energy_kwh` is that of its jobs, `embodied_g` their share of making the hardware, `data_bytes` what was dropped.
    """

    region: str
    energy_kwh: Band
    embodied_g: Band
    cost_usd: Band
    data_bytes: float
    machines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """One Region for a run. `carbon_g` is everything: operational, embodied and `transfer_g`, which is the data's way.

    `surely_less` is whether it stays below the run's own Region when both grids are as unfavourable as their bands
    allow; `geography` whether it is in the same part of the world by its name (us, eu, ap ...): whether data may leave
    that is a question of law and contract.
    """

    region: str
    grid_g_per_kwh: Band
    carbon_g: Band
    transfer_kwh: Band
    transfer_g: Band
    transfer_usd: Band | None
    less_g: float
    surely_less: bool
    geography: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the Region as `ebb regions --json` prints it."""
        return {
            "region": self.region,
            "grid_g_per_kwh": self.grid_g_per_kwh.as_dict(),
            "carbon_g": self.carbon_g.as_dict(),
            "transfer_kwh": self.transfer_kwh.as_dict(),
            "transfer_g": self.transfer_g.as_dict(),
            "transfer_usd": self.transfer_usd.as_dict() if self.transfer_usd else None,
            "less_g": self.less_g,
            "surely_less": self.surely_less,
            "same_geography": self.geography,
        }


def work(run: Mapping[str, Any], stages: Iterable[Mapping[str, Any]], region: str) -> Work | None:
    """Return what a recorded run used, None when none of its stages has a footprint.

    embodied_g = carbon_g - energy_kwh * grid_g_per_kwh(region), bound by bound, as `ebb.footprint` added them
    """
    finished = [each for each in stages if each.get("footprint")]
    if not finished:
        return None
    used = footprint.sum_of(each["footprint"] for each in finished)
    grid = carbon.operational_carbon_g(used.energy_kwh, catalog.grid_g_per_kwh(region))
    parts = zip(_bounds(used.carbon_g), _bounds(grid), strict=True)
    # of a stage that the catalog's coefficients have changed under since, the difference may be below nothing
    embodied = Band(*sorted(max(0.0, whole - operational) for whole, operational in parts))
    sources = run.get("sources") or []
    size = float(run.get("size_bytes") or sum(float(each.get("size_bytes") or 0) for each in sources))
    machines = sorted({str(each["instance_type"]) for each in finished if catalog.instance(str(each["instance_type"]))})
    return Work(region, used.energy_kwh, embodied, used.cost_usd, size, tuple(machines))


def rank(done: Work, *, intensity: Intensity = catalog.grid_g_per_kwh, among: Sequence[str] = ()) -> list[Place]:
    """Return the Regions for a run, least carbon first; the run's own is one of them.

        carbon_g   = energy_kwh * grid(there) + embodied_g + transfer_g
        transfer_g = GB * kwh_per_gb * (grid(here) + grid(there)) / 2: half of the way at either end, assumed
    Source: Green Software Foundation, Software Carbon Intensity specification; `catalog/transfer.yaml`.
    """
    regions = dict.fromkeys([done.region, *(among or catalog.grid_regions())])
    here = intensity(done.region)
    # both have the same energy and hardware, so only the grids and the way can tell them apart
    least_here = done.energy_kwh.value * here.low
    value_here = done.energy_kwh.value * here.value
    places = []
    for region in regions:
        there = intensity(region)
        away = done.data_bytes / BYTES_PER_GB if region != done.region else 0.0
        moved = transfer.kwh_per_gb() * away
        way = carbon.operational_carbon_g(moved, (here + there) * 0.5)
        whole = carbon.operational_carbon_g(done.energy_kwh, there) + done.embodied_g + way
        price = transfer.usd_per_gb(done.region, region)
        places.append(
            Place(
                region=region,
                grid_g_per_kwh=there,
                carbon_g=whole,
                transfer_kwh=moved,
                transfer_g=way,
                transfer_usd=price * away if price is not None else None,
                less_g=value_here - done.energy_kwh.value * there.value - way.value,
                surely_less=region != done.region and done.energy_kwh.value * there.high + way.high < least_here,
                geography=region.partition("-")[0] == done.region.partition("-")[0],
            )
        )
    return sorted(places, key=lambda each: (each.carbon_g.value, each.region != done.region, each.region))


def pays_after(done: Work, place: Place) -> float | None:
    """Return how many runs over the same data a Region has to serve until its lower carbon has paid for moving it once.

        runs = transfer_g / (energy_kwh * (grid(here) - grid(there)))
    None where the run itself emits no less there.
    """
    saved = place.less_g + place.transfer_g.value
    return place.transfer_g.value / saved if saved > 0 else None


def _bounds(band: Band) -> tuple[float, float, float]:
    return band.low, band.value, band.high
