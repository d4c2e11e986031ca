"""Comparison: the model as it was trained against the model that is shipped, on the same measurements."""

from collections.abc import Mapping
from typing import Any

from ebb import footprint

# What `compile` measures of every model, alternately on one machine, so that ratios mean something.
MEASURED = (
    "quality",
    "quality_interval",
    "latency_ms",
    "end_to_end_latency_ms",
    "throughput_rows_per_s",
    "cpu_ms_per_prediction",
    "size_bytes",
    "memory_mib",
)


def compare(
    original: Mapping[str, Any] | None, shipped: Mapping[str, Any], *, region: str, memory_mb: int | None = None
) -> dict[str, Any] | None:
    """Return both models' measurements, what a million predictions of each take, and how many times less that is.

    None when a model is served as it is: then nothing was measured.
    """
    if original is None or not footprint.is_timed(shipped):
        return None
    sides = {}
    for name, measure in (("original", original), ("shipped", shipped)):
        cost = footprint.per_million_predictions(measure, region=region, memory_mb=memory_mb)
        sides[name] = {key: measure[key] for key in MEASURED if key in measure} | {"per_million": cost.as_dict()}
    return sides | {"times_less": _times_less(sides["original"], sides["shipped"])}


def with_mistakes(compared: dict[str, Any] | None, report: Mapping[str, Any], chosen: str) -> dict[str, Any] | None:
    """Return the comparison with what both models get wrong on the test rows, as far as compile's report tells."""
    told = report.get("mistakes") or {}
    found = {"original": told.get("original"), "shipped": (told.get("of") or {}).get(chosen)}
    if compared is None or not any(found.values()):
        return compared
    return compared | {side: compared[side] | {"mistakes": mistakes} for side, mistakes in found.items() if mistakes}


def _times_less(original: Mapping[str, Any], shipped: Mapping[str, Any]) -> dict[str, float]:
    before_ms, after_ms = footprint.answering_ms(original), footprint.answering_ms(shipped)
    pairs = {
        "latency_p50": (before_ms["p50"], after_ms["p50"]),
        "latency_p99": (before_ms["p99"], after_ms["p99"]),
        "size": (original["size_bytes"], shipped["size_bytes"]),
        "cpu": (original["cpu_ms_per_prediction"], shipped["cpu_ms_per_prediction"]),
    } | {
        quantity: (original["per_million"][quantity]["value"], shipped["per_million"][quantity]["value"])
        for quantity in ("energy_kwh", "carbon_g", "cost_usd")
    }
    return {name: round(before / after, 2) for name, (before, after) in pairs.items() if after}
