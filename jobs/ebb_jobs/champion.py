"""The model that is served now, on this run's rows, so that a worse model never replaces a better one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import bundle, export, kinds, serve, train
from ebb_jobs.kind import Kind


def judge(channel: Path, curated: Path, metric: str, schema: dict[str, Any], work: Path) -> dict[str, Any] | None:
    """Return the champion's quality, or why it cannot be told; None when nothing is served.

    Rows that the champion was trained on may stand in these splits, which flatters it; the reason says so.
    """
    archive = next(channel.rglob("model.tar.gz"), None) if channel.exists() else None
    if archive is None:
        return None
    try:
        folder = bundle.unpack(archive, work / "champion")
        signature = serve.read_signature(folder)
        run_id = signature.get("run_id")  # whoever selects must know whose quality this is
        kind = kinds.of(schema)
        reason = _misfit(signature, schema, kind)
        if reason:
            return {"run_id": run_id, "quality": None, "metric": metric, "comparable": False, "reason": reason}
        served = serve.Model(folder, kind.open_codec(folder))
        classes = schema["target"].get("classes")
        found = {split: _score(served, kind, curated, split, metric, classes) for split in ("validation", "test")}
    except Exception as error:  # a champion that cannot be read must not stop its successor
        return {
            "quality": None,
            "metric": metric,
            "reason": f"the served bundle cannot be measured: {type(error).__name__}",
        }
    return {
        "run_id": run_id,
        "quality": found,
        "metric": metric,
        "candidate": signature["candidate"],
        "reason": "measured on this run's rows, some of which it may have been trained on",
    }


def _misfit(signature: dict[str, Any], schema: dict[str, Any], kind: Kind) -> str | None:
    if signature["task"] != schema["task"]:
        return f"the served model answers another task: {signature['task']}"
    if signature.get("codec") == serve.AS_IS:
        return "the served model is a script's own, which only its script can judge"
    if set(signature["classes"] or ()) != set(schema["target"].get("classes") or ()):
        return "the served model knows other classes"
    return kind.misfit(signature, schema)


def _score(served: serve.Model, kind: Kind, curated: Path, split: str, metric: str, classes: list[str] | None) -> float:
    """Return the metric on rows that the served model's own codec has encoded."""
    rows = kind.read_split(curated, split, served.codec)
    if kind.trains_itself and classes:  # a script's targets are places among the classes of this run, in its order
        places = np.array([served.codec.classes.index(name) for name in classes], dtype=rows.targets.dtype)
        rows = dataclasses.replace(rows, targets=places[rows.targets])
    return train.judge(export.run(served, rows.inputs), rows, served.codec, metric)
