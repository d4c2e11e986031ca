"""The model that is served now, on this run's rows, so that a worse model never replaces a better one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import bundle, dataset, quality, serve
from ebb_jobs.infer import CLASSIFICATION


def judge(channel: Path, curated: Path, metric: str, schema: dict[str, Any], work: Path) -> dict[str, Any] | None:
    """Return the champion's quality, or why it cannot be told; None when nothing is served.

    Rows that the champion was trained on may stand in these splits, which flatters it; the reason says so.
    """
    archive = next(channel.rglob("model.tar.gz"), None) if channel.exists() else None
    if archive is None:
        return None
    try:
        served = serve.Model(bundle.unpack(archive, work / "champion"))
        run_id = served.signature.get("run_id")  # whoever selects must know whose quality this is
        reason = _misfit(served, schema)
        if reason:
            return {"run_id": run_id, "quality": None, "metric": metric, "comparable": False, "reason": reason}
        found = {split: _score(served, curated, split, metric, schema) for split in ("validation", "test")}
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
        "candidate": served.signature["candidate"],
        "reason": "measured on this run's rows, some of which it may have been trained on",
    }


def _misfit(served: serve.Model, schema: dict[str, Any]) -> str | None:
    mine = {feature["name"]: feature["kind"] for feature in schema["features"]}
    if served.signature["task"] != schema["task"]:
        return f"the served model answers another task: {served.signature['task']}"
    for feature in served.preprocessor.features:
        if mine.get(feature["name"]) != feature["kind"]:
            return f"the served model wants a {feature['kind']} column {feature['name']!r}: this data has none"
    if set(served.signature["classes"] or ()) != set(schema["target"].get("classes") or ()):
        return "the served model knows other classes"
    return None


def _score(served: serve.Model, curated: Path, split: str, metric: str, schema: dict[str, Any]) -> float:
    target = schema["target"]["name"]
    columns = dataset.read_columns(curated, split, [*served.preprocessor.columns, target])
    truth = np.asarray(columns.pop(target))
    outputs = served.run(dataset.encode(served.preprocessor, columns))
    if schema["task"] != CLASSIFICATION:
        return quality.score(metric, truth.astype(np.float64), served.preprocessor.decode_values(outputs))
    position = {label: index for index, label in enumerate(served.signature["classes"])}
    return quality.score(metric, np.array([position[label] for label in truth]), outputs)
