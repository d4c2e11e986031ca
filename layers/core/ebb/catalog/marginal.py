"""What one kilowatt hour more makes a grid emit, as marginal.yaml tells it; what it is on average tells grid.json."""

from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from ebb import catalog
from ebb.carbon import Band

Signal = Literal["average", "marginal"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)


def g_per_kwh(region: str, signal: Signal = "marginal") -> Band:
    """Return what a Region's grid emits for a kilowatt hour, by one of the signals.

        low, high = the lowest of the cleanest, the highest of the dirtiest of the fuels that are turned up
        value     = the mean of their middles
    Of a Region that is not known: the world's average, or gas and coal.
    """
    if signal == "average":
        return catalog.grid_g_per_kwh(region)
    bands = [Band.of(_facts()["fuels"][fuel]) for fuel in fuels(region)]
    middle = sum(each.value for each in bands) / len(bands)
    return Band(min(each.low for each in bands), middle, max(each.high for each in bands))


def fuels(region: str) -> tuple[str, ...]:
    """Return the fuels of the plants that are turned up on the grid of a Region."""
    facts = _facts()
    return tuple(facts["grids"].get(region, facts["unknown"]))


def regions() -> tuple[str, ...]:
    """Return the Regions whose marginal fuels are known."""
    return tuple(_facts()["grids"])


def source() -> dict[str, str]:
    """Return where the figures come from, as `catalog.sources` tells it of the others."""
    facts = _facts()
    told = {name: str(facts[name]) for name in ("source", "year", "licence", "confidence")}
    return {"what": "marginal intensity", **told}


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("marginal.yaml").read_text(encoding="utf-8"))
    return facts
