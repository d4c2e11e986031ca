"""The ladder of a training job in the ledger: what each recipe took of the job's energy, what made it cheaper."""

from collections.abc import Mapping, Sequence
from typing import Any

from ebb.carbon import Band


def with_energy(report: Mapping[str, Any], energy_kwh: Band | None) -> dict[str, Any]:
    """Return a training report whose rungs tell their energy.

        energy_kwh of a rung = energy_kwh of the job * cpu_seconds of the rung / cpu_seconds of the job
    The job's idle draw is shared out with it: a rung that computed half of the time is charged half of everything.
    """
    rungs, cpu_s = report.get("rungs") or [], float(report.get("cpu_seconds") or 0)
    if not rungs or energy_kwh is None or cpu_s <= 0:
        return dict(report)
    told = [
        {**rung, "energy_kwh": (energy_kwh * min(1.0, float(rung.get("cpu_seconds") or 0) / cpu_s)).as_dict()}
        for rung in rungs
    ]
    return {**report, "rungs": told}


def of(run: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """Return the rungs that a run's training tried, and the name of the one that was taken; none when a script did."""
    for stage in run.get("stages") or ():
        report = stage.get("report") or {}
        if stage["stage"] == "train" and report.get("rungs"):
            return report["rungs"], report.get("rung")
    return (), None


def levers(run: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return what made the training of the recipe that was taken cheaper, each with `name`, `gave` and `from`.

    None where a script trained, and in a run of an earlier version.
    """
    tried, taken = of(run)
    return next((rung.get("levers") or () for rung in tried if rung["name"] == taken), ())
