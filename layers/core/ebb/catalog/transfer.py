"""What it takes to bring data from one Region to another: the networks' energy, and the price that the sender pays."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ebb.carbon import Band


def kwh_per_gb() -> Band:
    """Return the energy of bringing a GB (10^9 bytes) from one Region to another, in kWh."""
    return Band.of(_facts()["energy"]["kwh_per_gb"])


def usd_per_gb(source: str, destination: str) -> Band | None:
    """Return the price of a GB that leaves a Region for another; None where the catalog does not know the Region."""
    price = _facts()["price"]
    if source == destination:
        return Band.exact(0.0)
    each = price["pairs"].get(source, {}).get(destination, price["usd_per_gb"].get(source))
    return None if each is None else Band.within(float(each), price["band"])


def sources() -> list[dict[str, str]]:
    """Return where the coefficients come from, as `catalog.sources` tells its own."""
    facts = _facts()
    return [
        {
            "what": f"data transfer ({name})",
            "source": facts[name]["source"],
            "year": str(facts[name]["year"]),
            "confidence": facts[name]["confidence"],
        }
        for name in ("energy", "price")
    ]


@cache
def _facts() -> dict[str, Any]:
    return yaml.safe_load(files(__package__).joinpath("transfer.yaml").read_text(encoding="utf-8"))
