"""Payback: what making a model smaller took, and after how many predictions that has paid for itself."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ebb import carbon, footprint

# The stages that exist because the trained model is not served as it is: the search, and measuring what it found.
STAGES = ("compress", "compile")


def payback(stages: Iterable[Mapping[str, Any]], comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return energy and CPU time of the compression, and the predictions after which it is even.

        predictions = energy_kwh of compress and compile / (kWh per prediction of the original - of the shipped model)
    `predictions` is None when the shipped model saves nothing. Energy is the middle of its band, attempts that failed
    included. None when no original was measured, or neither stage has a footprint.
    """
    if not comparison or not comparison.get("original") or not comparison.get("shipped"):
        return None
    parts = [
        part
        for stage in stages
        if stage["stage"] in STAGES
        for part in (stage, *stage.get("earlier_attempts", ()))
        if part.get("footprint")
    ]
    if not parts:
        return None
    spent = footprint.sum_of(part["footprint"] for part in parts).energy_kwh
    before, after = (
        carbon.Band.of(comparison[side]["per_million"]["energy_kwh"]).value / footprint.PREDICTIONS
        for side in ("original", "shipped")
    )
    saved = before - after
    return {
        "energy_kwh": spent.as_dict(),
        "cpu_seconds": round(sum(float(part.get("cpu_seconds") or 0) for part in parts), 3),
        "saved_kwh_per_million": saved * footprint.PREDICTIONS,
        "predictions": math.ceil(spent.value / saved) if saved > 0 else None,
    }


def told(found: Mapping[str, Any]) -> str:
    """Return the payback in one sentence."""
    cost = f"Compression took {found['energy_kwh']['value']:.3g} kWh and {found['cpu_seconds']:.0f} CPU seconds"
    if found["predictions"] is None:
        return f"{cost}; the shipped model saves no energy, so nothing pays for it"
    return f"{cost}; it has paid for itself after {found['predictions']:,} predictions"
