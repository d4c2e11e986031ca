"""Incremental training: when data grew, the model before is where the next one starts.

The channel `previous` holds what `train` wrote in the run whose model is served. Its columns and classes must be those
of the new data, and rows find their sides in the same way: then its codec is kept, so that its weights mean the same,
and its own rung is fitted first, from them.
Otherwise the whole ladder is climbed, and the reason is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebb_jobs.ladder import Rung
from ebb_jobs.report import Report

ORIGINALS = ("original.safetensors", "original.onnx")


def found(channel: Path, schema: dict[str, Any], report: Report) -> Path | None:
    """Return the folder of the model to start from, None when there is none or it does not fit; the report says why."""
    if not channel.exists():
        return None
    why = _misfit(channel, schema)
    if why is None:
        report.decide("start", "the weights of the served model", "the data grew, its columns and classes are the same")
        return channel
    report.decide("start", "afresh", f"the model before this one is not taken up: {why}")
    return None


def first(rungs: Sequence[Rung], previous: Path | None, report: Report) -> list[Rung]:
    """Return the ladder from the previous model's rung on: what it beat then is not fitted again."""
    if previous is None:
        return list(rungs)
    name = rung(previous)
    names = [rung.name for rung in rungs]
    if name not in names:
        return list(rungs)
    left_out = names[: names.index(name)]
    if left_out:
        report.decide("first rung", str(name), f"the model before stands on it; below: {', '.join(left_out)}")
    return list(rungs[names.index(name) :])


def rung(previous: Path) -> str | None:
    """Return the name of the rung that the previous model stands on."""
    return _metrics(previous).get("rung")


def told(previous: Path | None) -> str | None:
    """Return the name of the run whose model was the start."""
    return None if previous is None else str(_metrics(previous).get("run_id") or "the served model")


def _misfit(folder: Path, schema: dict[str, Any]) -> str | None:
    if not any((folder / name).exists() for name in ORIGINALS) or not (folder / "schema.json").exists():
        return "it holds no network that was trained here"
    before = json.loads((folder / "schema.json").read_text())
    if before.get("task") != schema.get("task"):
        return f"its task was {before.get('task')}"
    if _classes(before) != _classes(schema):
        return "the classes have changed"
    if _columns(before) != _columns(schema):
        return "the columns have changed"
    if before.get("split_by") != schema.get("split_by"):  # what is older than this field was dealt by another hash
        return f"rows that it learned may stand in test now: they are dealt by the hash of the {schema.get('split_by')}"
    means = [each["name"] for each in _codec(folder).get("means") or ()]
    if means:  # of rows that have changed since: a category that came later would be served as one that is unknown
        return f"it knows categories by the mean of the target over its own rows ({', '.join(means)})"
    return None


def _classes(schema: dict[str, Any]) -> list[str]:
    return list((schema.get("target") or {}).get("classes") or ())


def _columns(schema: dict[str, Any]) -> Any:
    """Return what the codec reads: a table's columns with their kinds, or an input's shape."""
    features = [(each["name"], each["kind"], each.get("date_order")) for each in schema.get("features") or ()]
    return features, schema.get("input"), (schema.get("target") or {}).get("name")


def _codec(folder: Path) -> dict[str, Any]:
    """Return what a table's codec has learned; nothing of other kinds."""
    file = folder / "preprocess.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _metrics(folder: Path) -> dict[str, Any]:
    file = folder / "metrics.json"
    return json.loads(file.read_text()) if file.exists() else {}
