"""What Ebb knows about AWS's hardware: facts as data, each with its source, year, band and confidence."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ebb.carbon import Band


@dataclass(frozen=True)
class Instance:
    """One SageMaker instance type as the catalog holds it."""

    name: str
    vcpu: int
    memory_gib: float
    processor: str
    price_usd_per_hour: Band


@dataclass(frozen=True)
class Processor:
    """Watts per vCPU, idle and at full load."""

    idle_w: Band
    max_w: Band


@dataclass(frozen=True)
class Serverless:
    """What a serverless endpoint costs while it answers."""

    usd_per_gib_second: Band
    gib_per_vcpu: Band


def instances() -> tuple[Instance, ...]:
    """Return the instance types that sizing may choose."""
    facts = _facts("instances.yaml")
    return tuple(
        Instance(
            name,
            entry["vcpu"],
            entry["memory_gib"],
            entry["processor"],
            Band.within(entry["price_usd_per_hour"], facts["price"]["band"]),
        )
        for name, entry in facts["instances"].items()
    )


def instance(name: str) -> Instance | None:
    """Return one instance type, None when the catalog does not know it."""
    return next((known for known in instances() if known.name == name), None)


def processor(name: str) -> Processor:
    """Return the power of one kind of processor."""
    entry = _facts("power.yaml")["processors"][name]
    return Processor(Band.of(entry["idle_w"]), Band.of(entry["max_w"]))


def serverless() -> Serverless:
    """Return the price of serverless inference and the processors that come with its memory."""
    entry = _facts("serverless.yaml")
    return Serverless(Band.of(entry["usd_per_gib_second"]), Band.of(entry["gib_per_vcpu"]))


def memory_kwh_per_gib_hour() -> Band:
    """Return the energy of keeping a GiB of memory for an hour."""
    return Band.of(_facts("power.yaml")["memory"]["kwh_per_gib_hour"])


def embodied_g_per_vcpu_hour() -> Band:
    """Return the embodied carbon of a vCPU for an hour of its server's life."""
    return Band.of(_facts("power.yaml")["embodied"]["g_per_vcpu_hour"])


def pue() -> Band:
    """Return the power usage effectiveness of AWS's data centres."""
    return Band.of(_facts("power.yaml")["pue"]["global"])


def grid_g_per_kwh(region: str) -> Band:
    """Return the location-based grid intensity of a Region; the world's average where the Region is not known."""
    grid = _facts("grid.json")
    return Band.within(grid["g_per_kwh"].get(region, grid["unknown_g_per_kwh"]), grid["band"])


def sources() -> list[dict[str, str]]:
    """Return where each coefficient comes from, as `ebb why` and the run's record tell it."""
    power, price, grid, served = map(_facts, ("power.yaml", "instances.yaml", "grid.json", "serverless.yaml"))
    entries = [("processor power (jobs)", power["processors"]["skylake"], "year")]
    entries += [("processor power (serverless)", power["processors"]["serverless"], "year")]
    entries += [(name, power[name], "year") for name in ("memory", "embodied", "pue")]
    entries += [("grid intensity", grid, "year"), ("instance prices", price["price"], "date")]
    entries += [("serverless price", served, "date")]
    return [
        {"what": what, "source": entry["source"], "year": str(entry[when])[:4], "confidence": entry["confidence"]}
        for what, entry, when in entries
    ]


@cache
def _facts(name: str) -> dict[str, Any]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
