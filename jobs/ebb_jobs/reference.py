"""`reference.json` of a bundle: what the training data looked like, and what this candidate answered to held-out rows.

A serving container that captures requests compares them with it (`sketch`), and so does the assessment of a retraining.
Examples are read by the very code that reads requests (`capture.observed`), so that both are spelt alike.
docs/retraining-data.md has the format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import capture, dataset
from ebb_jobs.kind import Codec, Kind

ROWS = 10_000
"""Of the training data: chance moves them a third as much as a window of samples."""
PIXEL_ROWS = 2_000
BINS, MOST_CATEGORIES = 10, 20
ROWS_OF_A_BIN, ROWS_OF_A_CATEGORY = 20, 5
"""At least, so that the shares of a small reference are more than chance."""
TRAIN, VALIDATION = "train", "validation"


def features(kind: Kind, codec: Codec, curated: Path) -> dict[str, Any]:
    """Return rows and features of the training data, of the validation rows where it is not at hand (a script's)."""
    split = VALIDATION if kind.trains_itself else TRAIN
    examples = _examples(kind, codec, curated, split)
    kinds = {each["name"]: each["kind"] for each in getattr(codec, "features", ())}
    names = list(dict.fromkeys(name for each in examples for name in each))
    found = {
        name: described([each.get(name) for each in examples], category=kinds.get(name) in ("categorical", "boolean"))
        for name in names
    }
    for name, each in found.items():
        each["kind"] = "date" if kinds.get(name) == "datetime" else each["kind"]
    return {"version": 1, "rows": len(examples), "features": found}


def answers(predicted: np.ndarray, classes: Sequence[Any] | None) -> dict[str, Any]:
    """Return what a candidate answered: `predicted` are probabilities [rows, classes], or values [rows]."""
    if classes is None:
        values = predicted.reshape(len(predicted), -1)[:, 0].tolist()
        return {"prediction": described(values) | {"rows": len(values)}}
    labels = [str(classes[int(best)]) for best in predicted.argmax(1)]
    sure = predicted.max(1).astype(np.float64).tolist()
    return {
        "prediction": described(labels, category=True) | {"rows": len(labels)},
        "confidence": described(sure) | {"rows": len(sure)},
    }


def write(reference: Mapping[str, Any]) -> bytes:
    """Return the file."""
    return (json.dumps(reference, ensure_ascii=False, allow_nan=False) + "\n").encode()


def described(values: Sequence[Any], *, category: bool = False) -> dict[str, Any]:
    """Return the bins of a column, and the share of each; None is missing."""
    present = [value for value in values if value is not None]
    missing = round(1 - len(present) / len(values), 6) if values else 0.0
    if category:
        counts = Counter(map(str, present))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CATEGORIES]
        kept = [each for each in ranked if each[1] >= ROWS_OF_A_CATEGORY] or ranked[:1]
        shares = {text: count / len(present) for text, count in kept}
        other = max(0.0, round(1 - sum(shares.values()), 6))
        return {"kind": "category", "categories": shares, "other": other, "missing": missing}
    numbers = np.array(present, dtype=np.float64)
    edges = _edges(numbers)
    counts_of = np.bincount(np.searchsorted(edges, numbers, side="right"), minlength=len(edges) + 1)
    shares_of = counts_of / max(1, len(numbers))
    return {"kind": "number", "edges": edges.tolist(), "shares": shares_of.tolist(), "missing": missing}


def _edges(numbers: np.ndarray) -> np.ndarray:
    """Return inner edges: of few values each from the second on, else deciles; fewer of few rows."""
    distinct = np.unique(numbers)
    bins = max(2, min(BINS, len(numbers) // ROWS_OF_A_BIN))
    if len(distinct) <= bins:
        return distinct[1:]
    points = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.unique(np.quantile(numbers, points, method="nearest"))
    return edges[edges > distinct[0]]


def _examples(kind: Kind, codec: Any, curated: Path, split: str) -> list[dict[str, Any]]:
    if hasattr(codec, "read_numbers"):
        return capture.observed(codec, sampled(curated, split, codec.columns), np.empty(0))
    if hasattr(codec, "column"):
        texts = sampled(curated, split, [codec.column])[codec.column]
        return capture.observed(codec, [text for text in texts if text and text.strip()], np.empty(0))
    inputs = kind.read_split(curated, split, codec).inputs
    picked = np.linspace(0, len(inputs) - 1, min(len(inputs), PIXEL_ROWS)).astype(np.intp)
    some = np.asarray(inputs[picked])
    return capture.of_tensors(some) if kind.trains_itself else capture.of_pixels(some)


def sampled(curated: Path, split: str, names: list[str]) -> dict[str, Any]:
    """Return columns of evenly spread rows of a split, ROWS of them at most."""
    every = max(1, -(-dataset.count_rows(curated, split) // ROWS))
    return dataset.read_columns(curated, split, names, every=every)
