"""Where the marks of the report's plots stand, in percent of a plot's width and in pixels of its height. Pure.

A plot has no viewBox: across, all is in percent, so that it is as wide as the page and its letters stay as large as the
text around them, on a phone and on paper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_FROM = 8.0  # a range of more than so many times is told apart on a logarithmic scale only
LEFT, RIGHT = 9.0, 93.0  # percent: room for the marks at the edges and their names
TOP, BOTTOM = 26.0, 284.0  # px
TICKS = 4
FLIP_AT = 60.0  # percent: beyond it a name stands to the left of its mark


@dataclass(frozen=True)
class Tick:
    """A line of the grid."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A candidate in the plot. `kind`: shipped, front, beaten, refused or original."""

    name: str
    kind: str
    x: float
    y: float
    told: str

    @property
    def flipped(self) -> bool:
        """Whether its name stands to the left."""
        return self.x > FLIP_AT


@dataclass(frozen=True)
class Pareto:
    """The candidates by energy and quality, with the floor below which none is shipped."""

    marks: tuple[Mark, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    floor: float | None
    logarithmic: bool
    height: int = 320


@dataclass(frozen=True)
class Point:
    """A measured candidate before it has a place."""

    name: str
    kind: str
    energy: float
    quality: float
    told: str


@dataclass(frozen=True)
class Bar:
    """A stage in the timeline: where it begins and how long it is, and its share of the energy; all in percent."""

    at: float
    width: float
    share: float


def pareto(points: Sequence[Point], *, floor: float | None, better_up: bool) -> Pareto | None:
    """Return the plot, None when nothing was measured; the better quality is always above, the leaner to the left."""
    if not points:
        return None
    energies = [each.energy for each in points]
    qualities = [each.quality for each in points] + ([floor] if floor is not None else [])
    logarithmic = min(energies) > 0 and max(energies) > LOG_FROM * min(energies)
    x_low, x_high = _padded([math.log10(each) if logarithmic else each for each in energies])
    y_low, y_high = _padded(qualities)

    def x(energy: float) -> float:
        value = math.log10(energy) if logarithmic else energy
        return round(LEFT + (RIGHT - LEFT) * (value - x_low) / (x_high - x_low), 2)

    def y(quality: float) -> float:
        share = (quality - y_low) / (y_high - y_low)
        return round(BOTTOM - (BOTTOM - TOP) * (share if better_up else 1 - share), 1)

    across = _log_ticks(x_low, x_high) if logarithmic else _ticks(x_low, x_high)
    return Pareto(
        tuple(Mark(each.name, each.kind, x(each.energy), y(each.quality), each.told) for each in points),
        tuple(Tick(x(each), f"{each:.6g}") for each in across),
        tuple(Tick(y(each), f"{each:.6g}") for each in _ticks(y_low, y_high)),
        y(floor) if floor is not None else None,
        logarithmic,
    )


def timeline(
    spans: Sequence[tuple[float, float] | None], energies: Sequence[float | None]
) -> tuple[list[Bar | None], float]:
    """Return a bar for each stage from its start and end in seconds, and the seconds from the first to the last.

    None for a stage whose times are not known.
    """
    known = [each for each in spans if each]
    if not known:
        return [None for _ in spans], 0.0
    begun, ended = min(each[0] for each in known), max(each[1] for each in known)
    whole, energy = max(ended - begun, 1e-9), sum(each or 0.0 for each in energies)
    bars: list[Bar | None] = []
    for span, used in zip(spans, energies, strict=True):
        if span is None:
            bars.append(None)
            continue
        width = max(0.6, 100 * (span[1] - span[0]) / whole)  # what took a moment is still seen
        at = min(100 * (span[0] - begun) / whole, 100 - width)
        bars.append(Bar(round(at, 2), round(width, 2), round(100 * (used or 0.0) / energy, 2) if energy else 0.0))
    return bars, ended - begun


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or max(abs(high) * 0.05, 1e-9)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two: steps of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= TICKS + 1)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten between two logarithms; only the powers where those are many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [each for each in found if low <= math.log10(each) <= high]
        if len(found) <= TICKS + 2:
            break
    return found
