"""Carbon accounting: time and power in, kWh and gCO2e out, every quantity with its low-high band."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Band:
    """An estimate and the bounds between which it may lie. Combined bound by bound: the spread is overstated."""

    low: float
    value: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"a band is low <= value <= high, not {self.low}, {self.value}, {self.high}")

    @classmethod
    def exact(cls, value: float) -> Self:
        """Return a band without width: a number that was measured, not estimated."""
        return cls(value, value, value)

    @classmethod
    def within(cls, value: float, share: float) -> Self:
        """Return a band that reaches `share` of the value to either side."""
        return cls(value * (1 - share), value, value * (1 + share))

    @classmethod
    def of(cls, mapping: dict[str, Any]) -> Self:
        """Return the band that a catalog or ledger entry holds."""
        return cls(float(mapping["low"]), float(mapping["value"]), float(mapping["high"]))

    def as_dict(self) -> dict[str, float]:
        """Return the band as it stands in the ledger."""
        return {"low": self.low, "value": self.value, "high": self.high}

    def __add__(self, other: "Band") -> "Band":
        return Band(self.low + other.low, self.value + other.value, self.high + other.high)

    def __mul__(self, other: "Band | float") -> "Band":
        by = other if isinstance(other, Band) else Band.exact(other)
        return Band(self.low * by.low, self.value * by.value, self.high * by.high)


ZERO = Band.exact(0.0)


def processor_power_w(units: float, utilization: Band, *, idle_w: Band, max_w: Band) -> Band:
    """Return the mean power of an allocation's processors, in watts.

        power_w = units * (idle_w + utilization * (max_w - idle_w))
    `units` are vCPUs or accelerators, `idle_w` and `max_w` watts of one of them at 0 and at full load, `utilization`
    the mean share from 0 to 1.
    Raises: ValueError when the utilization leaves 0 to 1.
    Source: Cloud Carbon Footprint, methodology, "Compute".
    """
    if utilization.low < 0 or utilization.high > 1:
        raise ValueError(f"utilization is a share from 0 to 1, not {utilization}")
    return Band(
        *(
            units * (idle + share * (full - idle))
            for idle, share, full in zip(_bounds(idle_w), _bounds(utilization), _bounds(max_w), strict=True)
        )
    )


def energy_kwh(
    power_w: Band, duration_s: float, *, memory_gib: float, memory_kwh_per_gib_hour: Band, pue: Band
) -> Band:
    """Return the energy of an allocation over its time, in kWh, cooling and conversion losses included.

        energy_kwh = (power_w / 1000 + memory_gib * memory_kwh_per_gib_hour) * hours * pue
    `pue` (power usage effectiveness) is a ratio of at least 1.
    Raises: ValueError when `pue` is below 1, which no data centre can reach.
    Source: Cloud Carbon Footprint, methodology; PUE as in its catalog entry.
    """
    if pue.low < 1:
        raise ValueError(f"no data centre reaches a PUE of {pue.low}")
    hours = duration_s / 3600
    return (power_w * 0.001 + memory_kwh_per_gib_hour * memory_gib) * hours * pue


def operational_carbon_g(energy: Band, intensity_g_per_kwh: Band) -> Band:
    """Return the carbon of using an amount of energy, in grams of CO2-equivalent, location-based.

        carbon_g = energy_kwh * intensity_g_per_kwh
    Source: Green Software Foundation, Software Carbon Intensity specification, O = E * I.
    """
    return energy * intensity_g_per_kwh


def embodied_carbon_g(units: float, duration_s: float, g_per_unit_hour: Band) -> Band:
    """Return the share of making the hardware that falls on an allocation's time, in grams of CO2-equivalent.

        carbon_g = units * hours * g_per_unit_hour
    `units` are vCPUs, which stand for the whole server, or accelerators.
    Source: Green Software Foundation, Software Carbon Intensity specification, M = TE * TS * RS.
    """
    return g_per_unit_hour * (units * duration_s / 3600)


def water_l(energy: Band, *, pue: Band, on_site_l_per_kwh: Band, electricity_l_per_kwh: Band) -> Band:
    """Return the water that using an amount of energy takes, in litres: cooling, and generating the electricity.

        water_l = energy_kwh / pue * on_site_l_per_kwh + energy_kwh * electricity_l_per_kwh
    `energy` includes cooling and conversion losses; what cools is told per kWh of the machines alone, so that the PUE
    that made it is taken out bound by bound; of an energy that was measured without one the bounds are put in order.
    Source: The Green Grid, WUE (white paper 35); Li et al., Making AI Less "Thirsty" (https://arxiv.org/abs/2304.03271).
    """
    ends = (energy.low / pue.low, energy.value / pue.value, energy.high / pue.high)
    machines = Band(min(ends), ends[1], max(ends))
    return machines * on_site_l_per_kwh + energy * electricity_l_per_kwh


def difference(larger: Band, smaller: Band) -> Band:
    """Return what is between two quantities that were reckoned with the same coefficients.

        low, high = the least and the most of (larger - smaller), taken bound by bound
    An error of a shared coefficient moves both the same way, so that the far ends are not set against each other.
    """
    ends = sorted(one - other for one, other in zip(_bounds(larger), _bounds(smaller), strict=True))
    value = larger.value - smaller.value
    return Band(min(ends[0], value), value, max(ends[2], value))


def _bounds(band: Band) -> tuple[float, float, float]:
    return band.low, band.value, band.high
