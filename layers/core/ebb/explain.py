"""The chain from the upload to the grams: what happened to a run, each step with its reason and numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebb import catalog, names

_ORDER = ("identify", "plan", *names.RECORDED_STAGES, "select", "deploy")


@dataclass(frozen=True)
class Step:
    """One link of the chain."""

    kind: str  # drop | decision | stage | skipped | outcome | footprint | source
    title: str
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    source: str | None = None


def steps(run: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Return the whole chain of a run, as the ledger tells it."""
    return list(_steps(run, decisions))


def lines(run: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the chain as text, one line per step and an indented one for its numbers."""
    told = []
    for step in steps(run, decisions):
        told.append(f"{step.title}: {step.text}" if step.text else step.title)
        if step.numbers:
            told.append("    " + ", ".join(f"{name} {_short(value)}" for name, value in step.numbers.items()))
        if step.alternatives:
            told.append("    not taken: " + "; ".join(step.alternatives))
        if step.source:
            told.append(f"    source: {step.source}")
    return told


def _steps(run: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    drop = run.get("drop") or {}
    if drop:
        place = f"s3://{drop['bucket']}/{drop['key']}"
        yield Step("drop", "dropped", f"{place} at {drop['uploaded_at']}", {"bytes": drop["size_bytes"]})
    stages = {stage["stage"]: stage for stage in run.get("stages") or ()}
    for part in _ORDER:
        yield from (_decision(each) for each in decisions if each.get("stage") == part)
        if part in stages:
            yield _stage(stages[part])
        if part == _last_to_skip(stages):
            yield from (
                Step("skipped", f"skipped: {each['what']}", str(each["reason"])) for each in _skipped(stages[part])
            )
    yield _outcome(run)
    if run.get("footprint"):
        yield _footprint(run["footprint"])
        for entry in catalog.sources():
            text = f"{entry['source']}, {entry['year']}, confidence {entry['confidence']}"
            yield Step("source", entry["what"], text)


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
    )


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


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
