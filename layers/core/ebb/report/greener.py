"""What would have made a run, or its model, greener: each piece of advice with the figures it is drawn from. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from ebb import catalog, figures, names, payback, rungs

IDLE_BELOW = 0.35  # of a machine's processors; assumed: below it a smaller machine would hold the work
WORTH_SHARE = 0.05  # of the run's energy; less is not worth a line
REGIONS_TOLD = 2


def advice(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield advice, what concerns the whole run first; nothing where the record has nothing to draw it from."""
    energy = _path(run, "footprint", "energy_kwh", "value")
    if not energy:
        return
    yield from _regions(run)
    yield from _failed(run, energy)
    yield from _ladder(run, energy)
    yield from _compression(run, energy)
    yield from _builds(run, energy)
    yield from _idle(run, energy)
    yield from _floor(run)


def region_of(run: Mapping[str, Any]) -> str | None:
    """Return the Region in which a run ran, as the ARN of its execution tells it."""
    return names.region_of(run.get("execution_arn"))


def _regions(run: Mapping[str, Any]) -> Iterator[str]:
    """The same energy on another grid; embodied carbon goes along unchanged, moving the data is not counted."""
    here = region_of(run)
    if here is None:
        return
    energy, carbon = (float(run["footprint"][name]["value"]) for name in ("energy_kwh", "carbon_g"))
    mine = catalog.grid_g_per_kwh(here).value
    cleanest = sorted(catalog.grid_regions(), key=lambda name: catalog.grid_g_per_kwh(name).value)[:REGIONS_TOLD]
    told = []
    for name in cleanest:
        there = catalog.grid_g_per_kwh(name).value
        if there < mine:
            told.append(f"{figures.number(carbon - energy * (mine - there))} gCO2e in {name} ({there:.0f} g/kWh)")
    if told:
        yield (
            f"Another Region: this run took {figures.number(carbon)} gCO2e in {here} ({mine:.0f} g/kWh); by yearly "
            f"averages it would have taken {' or '.join(told)}, moving the data not counted."
        )


def _failed(run: Mapping[str, Any], energy: float) -> Iterator[str]:
    wasted = sum(
        _path(part, "footprint", "energy_kwh", "value") or 0.0
        for stage in run.get("stages") or ()
        for part in ((stage, *(stage.get("earlier_attempts") or ())))
        if part.get("status") == "failed"
    )
    if wasted > WORTH_SHARE * energy:
        yield f"Attempts that failed took {_share(wasted, energy)}: what made them fail is told by their stage."


def _ladder(run: Mapping[str, Any], energy: float) -> Iterator[str]:
    tried, taken = rungs.of(run)
    spent = {
        str(rung["name"]): float(_path(rung, "energy_kwh", "value") or 0.0) for rung in tried if rung["name"] != taken
    }
    if sum(spent.values()) > WORTH_SHARE * energy:
        yield (
            f"Recipes that were tried and not taken ({', '.join(spent)}) took {_share(sum(spent.values()), energy)}: "
            f"{taken} was good enough. On data like these expect the same again."
        )


def _compression(run: Mapping[str, Any], energy: float) -> Iterator[str]:
    found = payback.payback(run.get("stages") or (), run.get("comparison"))
    if not found:
        return
    spent = float(found["energy_kwh"]["value"])
    if found["predictions"] is None:
        yield (
            f"Looking for a smaller model took {_share(spent, energy)} and found none that takes less: for data like "
            "these, compress.methods with fewer entries saves most of it."
        )
    else:
        yield (
            f"Looking for a smaller model took {_share(spent, energy)}; it is even after {found['predictions']:,} "
            "predictions. A model that will answer fewer is cheaper with fewer compress.methods."
        )


def _builds(run: Mapping[str, Any], energy: float) -> Iterator[str]:
    spent = sum(
        _path(stage, "footprint", "energy_kwh", "value") or 0.0
        for stage in run.get("stages") or ()
        if stage["stage"] == "images"
    )
    if spent > WORTH_SHARE * energy:
        yield f"Building the images took {_share(spent, energy)}; the next run with the same code finds them built."


def _idle(run: Mapping[str, Any], energy: float) -> Iterator[str]:
    for stage in run.get("stages") or ():
        load, used = stage.get("utilisation"), _path(stage, "footprint", "energy_kwh", "value") or 0.0
        if load is not None and load < IDLE_BELOW and used > WORTH_SHARE * energy:
            yield (
                f"The stage {stage['stage']} used {100 * load:.0f} % of {stage.get('instance_type')}'s processors and "
                f"took {_share(used, energy)}: it waits for something else, and a smaller machine would do, if one "
                "holds its memory."
            )


def _floor(run: Mapping[str, Any]) -> Iterator[str]:
    """What a looser floor would have let through, and what it takes."""
    every = run.get("candidates") or ()
    chosen = next((each for each in every if each.get("name") == run.get("chosen")), None)
    cpu_ms = (chosen or {}).get("cpu_ms_per_prediction")
    below = [
        each
        for each in every
        if " the floor " in str(each.get("verdict")) and each.get("cpu_ms_per_prediction") is not None
    ]
    if not cpu_ms or not below:
        return
    leanest = min(below, key=lambda each: each["cpu_ms_per_prediction"])
    share = 1 - leanest["cpu_ms_per_prediction"] / cpu_ms
    if share > WORTH_SHARE:
        yield (
            f"A looser compress.max_metric_drop would let {leanest['name']} compete, which takes {100 * share:.0f} % "
            f"less CPU time a prediction: {leanest['verdict']}."
        )


def _share(part: float, whole: float) -> str:
    return f"{figures.number(part)} kWh, {100 * part / whole:.0f} % of this run's"


def _path(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
