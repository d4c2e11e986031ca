"""The chain from the upload to the grams: what happened to a run, each step with its reason and numbers."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebb import catalog, counterfactuals, figures, names, rungs, tuning

_PROCESSED = names.RECORDED_STAGES.index("process") + 1
_ORDER = (
    "identify",
    "plan",
    *names.RECORDED_STAGES[:_PROCESSED],
    "catalog",
    names.FEATURES,
    *(stage for stage in names.RECORDED_STAGES[_PROCESSED:] if stage not in (names.FEATURES, names.NEO)),
    "select",
    names.NEO,
    "deploy",
)


@dataclass(frozen=True)
class Step:
    """One link of the chain."""

    kind: str  # drop | decision | stage | rung | search | skipped | outcome | footprint | grams | source
    title: str
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    source: str | None = None
    table: tuple[str, ...] = ()
    would_change: tuple[str, ...] = ()


def steps(
    run: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]] = ()
) -> list[Step]:
    """Return the whole chain of a run, as the ledger tells it; `entries` are its entries of the footprint ledger."""
    return list(_steps(run, decisions, entries))


def lines(
    run: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Return the chain as text, one line per step and an indented one for its numbers."""
    told = []
    for step in steps(run, decisions, entries):
        told.append(f"{step.title}: {step.text}" if step.text else step.title)
        if step.numbers:
            told.append("    " + ", ".join(f"{name} {_short(value)}" for name, value in step.numbers.items()))
        if step.table:
            told += [f"    {line}" if line else "" for line in step.table]
        elif step.alternatives:
            told.append("    not taken: " + "; ".join(step.alternatives))
        if step.would_change:
            told.append("    would have changed it: " + "; ".join(step.would_change))
        if step.source:
            told.append(f"    source: {step.source}")
    return told


def _steps(
    run: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]
) -> Iterator[Step]:
    drop = run.get("drop") or {}
    if drop:
        place = f"s3://{drop['bucket']}/{drop['key']}"
        yield Step("drop", "dropped", f"{place} at {drop['uploaded_at']}", {"bytes": drop["size_bytes"]})
    stages = {stage["stage"]: stage for stage in run.get("stages") or ()}
    for part in _ORDER:
        yield from (_decision(each) for each in decisions if each.get("stage") == part)
        if part in stages:
            yield _stage(stages[part])
            if part == "train":
                yield from _ladder(run)
        if part == _last_to_skip(stages):
            yield from (
                Step("skipped", f"skipped: {each['what']}", str(each["reason"])) for each in _skipped(stages[part])
            )
    yield _outcome(run)
    if run.get("footprint"):
        yield _footprint(run["footprint"])
        yield from _grams(run)
        yield from _saved(entries)
        for entry in catalog.sources():
            text = f"{entry['source']}, {entry['year']}, confidence {entry['confidence']}"
            yield Step("source", entry["what"], text)


def _ladder(run: Mapping[str, Any]) -> Iterator[Step]:
    """Give what each recipe that was tried took; why the ladder went on or ended is told by its decisions."""
    tried, taken = rungs.of(run)
    for rung in tried:
        energy = (rung.get("energy_kwh") or {}).get("value")
        numbers = {"CPU s": rung.get("cpu_seconds"), **({"kWh": energy} if energy is not None else {})}
        mark = " (taken)" if rung["name"] == taken else ""
        why = str(rung.get("stopped_because") or rung.get("reason"))
        yield Step("rung", f"fitting {rung['name']}{mark}", f"ended because {why}", numbers)
    search = tuning.of(run)
    if search:
        yield Step("search", "search", tuning.in_words(search), tuning.numbers(search))


def _skipped(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((stage.get("report") or {}).get("skipped") or ())


def _last_to_skip(stages: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the last stage that tells what was skipped: each repeats what those before it left out."""
    return next((name for name in reversed(names.STAGES) if name in stages and _skipped(stages[name])), None)


def _decision(decision: Mapping[str, Any]) -> Step:
    return Step(
        "decision",
        str(decision["what"]),
        f"{decision['chosen']}, because {decision['reason']}",
        decision.get("numbers") or {},
        tuple(str(each) for each in decision.get("alternatives") or ()),
        decision.get("source"),
        tuple(kinds(decision)),
        counterfactuals.of(decision),
    )


def kinds(decision: Mapping[str, Any]) -> list[str]:
    """Return the table of the kinds of serving as text: what each takes a month, how it starts, why it is not taken.

    Two lines a kind, and one for the fields that it does not meet, none longer than some 96 columns.
    """
    rows = list(decision.get("table") or ())
    if not rows:
        return []
    cells = [("kind, a month", "USD", "kWh", "gCO2e", "cold start, of requests")]
    for row in rows:
        month = row.get("month") or {}
        mark = "* " if row["kind"] == decision["chosen"] else "  "
        figures = (_band(month.get(name)) for name in ("energy_kwh", "carbon_g"))
        cost = _figure(month["cost_usd"]["value"]) if month else "-"
        cold = f"{_band(row['cold_start_s'])} s" + ("" if row["kind"] == "batch" else f", {_share(row['cold_share'])}")
        cells.append((mark + row["kind"], cost, *figures, cold))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    told = []
    for row, line in zip([None, *rows], cells, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(line[:4], widths, strict=True)]
        told.append("  ".join([padded[0], line[1].rjust(widths[1]), *padded[2:], line[4]]).rstrip())
        if row is not None:
            told.append(f"      {_set_up(row)}")
            for each in row.get("excluded") or ():
                told += textwrap.wrap(f"no, {each['field']}: {each['why']}", 90, initial_indent=" " * 6,
                                      subsequent_indent=" " * 8)  # fmt: skip
    told += textwrap.wrap(f"* chosen; low to high in brackets. {_traffic(decision)}", 96)
    for each in decision.get("assumed") or ():
        told += textwrap.wrap(f"assumed: {each}", 96, subsequent_indent="  ")
    return told


def _traffic(decision: Mapping[str, Any]) -> str:
    numbers = decision.get("numbers") or {}
    source = {"unknown": "unknown, compared", "expected": "expected"}.get(
        str(numbers.get("source")), f"measured over {_figure(numbers.get('days') or 0)} days"
    )
    return f"Traffic: {source} at {_figure(numbers.get('requests_per_day') or 0)} requests a day."


def _set_up(row: Mapping[str, Any]) -> str:
    if row.get("memory_mb"):
        what = f"{row['memory_mb']} MB, {row['max_concurrency']} at once"
    elif row.get("instance_type"):
        what = f"{row['copies']} x {row['instance_type']}"
    else:
        what = "cannot hold the model"
    sleeps = str(row["sleeps"])
    if sleeps == "never":
        return f"{what}, never sleeps"
    return f"{what}, sleeps {sleeps}" if sleeps.startswith("after") else f"{what}, {sleeps}"


def _band(band: Mapping[str, Any] | None) -> str:
    if band is None:
        return "-"
    return f"{_figure(band['value'])} ({_figure(band['low'], 2)}-{_figure(band['high'], 2)})"


def _figure(value: float, digits: int = 3) -> str:
    """Return a number with some significant digits: `12,700`, `1.27 M`; an exponent only below a thousandth."""
    value = float(value)
    if value >= 1e6:
        return f"{_figure(value / 1e6, digits)} M"
    if value >= 10**digits:
        return f"{round(value, digits - len(str(int(value)))):,.0f}"
    return f"{value:.{digits if value == 0 or value >= 0.001 else 1}g}"


def _share(share: float) -> str:
    percent = float(share) * 100
    return "< 0.01 %" if 0 < percent < 0.01 else f"{percent:.2g} %" if percent < 99.5 else "all"


def _stage(stage: Mapping[str, Any]) -> Step:
    used = stage.get("footprint") or {}
    numbers = {"seconds": stage.get("duration_s"), "CPU-seconds": stage.get("cpu_seconds")}
    if used:
        numbers |= {"kWh": used["energy_kwh"]["value"], "gCO2e": used["carbon_g"]["value"]}
        numbers["USD"] = used["cost_usd"]["value"]
    known = {name: value for name, value in numbers.items() if value is not None}
    return Step("stage", stage["stage"], f"{stage['status']} on {stage.get('instance_type') or 'no machine'}", known)


def _outcome(run: Mapping[str, Any]) -> Step:
    status, error = run["status"], run.get("error") or {}
    if error:
        where = [f"stage {error['stage']}"] if error.get("stage") else []
        where += [f"{name} {error[name]}" for name in ("file", "line", "column") if error.get(name) is not None]
        told = f"{error.get('message')} ({', '.join(where)})" if where else str(error.get("message"))
        return Step("outcome", status, told + (f" {error['remedy']}" if error.get("remedy") else ""))
    if status == "reused":
        return Step("outcome", status, f"{run.get('reason')}")
    if status == "succeeded" and run.get("scored_uri"):
        return Step("outcome", status, f"scored by the model of {run.get('scored_by')}: {run['scored_uri']}")
    if status == "succeeded":
        served = (
            f"served by {run['endpoint_name']}" if run.get("deployed") else f"not deployed: {run.get('deploy_reason')}"
        )
        return Step("outcome", status, f"{run.get('chosen')}, {served}")
    return Step("outcome", status, str(run.get("reason") or ""))


def _footprint(used: Mapping[str, Any]) -> Step:
    told = []
    for name, unit in (("energy_kwh", "kWh"), ("carbon_g", "gCO2e"), ("cost_usd", "USD")):
        band = used[name]
        told.append(f"{_short(band['value'])} {unit} ({_short(band['low'])} to {_short(band['high'])})")
    text = (
        ", ".join(told)
        + "; estimated from billed time and CPU-seconds, image builds and failed attempts included, control plane not"
    )
    return Step("footprint", "footprint", text)


def _grams(run: Mapping[str, Any]) -> Iterator[Step]:
    """Give how the grams come of the energy: what the grid emits for it, and the rest, which is embodied."""
    region = names.region_of(run.get("execution_arn"))
    if region is None:
        return
    energy, carbon = (run["footprint"][name]["value"] for name in ("energy_kwh", "carbon_g"))
    grid = catalog.grid_g_per_kwh(region)
    operational = energy * grid.value
    yield Step(
        "grams",
        "grams",
        f"{figures.number(energy)} kWh x {grid.value:.0f} gCO2e/kWh in {region} = {figures.number(operational)} g "
        f"of the grid, and {figures.number(max(0.0, carbon - operational))} g embodied in the machines",
        {"grid low g/kWh": grid.low, "grid high g/kWh": grid.high},
    )


def _saved(entries: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    """Give what was booked for the run against what would have been done instead."""
    for entry in entries:
        other = entry.get("counterfactual")
        if not other:
            continue
        gained = entry.get("saved") or {}
        units = (("carbon_g", "gCO2e"), ("energy_kwh", "kWh"), ("water_l", "l"), ("cost_usd", "USD"))
        told = ", ".join(figures.band(gained[name], unit) for name, unit in units if gained.get(name))
        why = (entry.get("usage") or {}).get("why") or entry.get("stage") or entry.get("endpoint") or entry["kind"]
        yield Step("saved", f"saved by {why}", f"{told}; instead of: {other['what']}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
