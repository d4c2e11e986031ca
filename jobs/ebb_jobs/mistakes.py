"""What a model gets wrong on the test rows, bounded: a confusion matrix of classes, or quantiles of residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_CLASSES = 20
OTHERS = "(others)"
LONGEST_LABEL = 40
QUANTILES = (1, 5, 25, 50, 75, 95, 99)


def of(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[Any] | None) -> dict[str, Any]:
    """Return what the report of a run shows of a model's mistakes.

    `truth` are class indices and `predicted` probabilities [rows, classes], or both are numbers [rows].
    """
    if predicted.ndim == 2:
        return _confusion(truth, predicted.argmax(1), _named(labels, predicted.shape[1]))
    return _residuals(predicted.astype(np.float64) - truth.astype(np.float64))


def _confusion(truth: np.ndarray, answers: np.ndarray, labels: list[str]) -> dict[str, Any]:
    """Count answers by truth: a row for each true class, a column for each answer; rare classes are taken together."""
    kept = np.sort(np.argsort(-np.bincount(truth, minlength=len(labels)), kind="stable")[:MOST_CLASSES])
    rare = len(labels) > MOST_CLASSES
    place = np.full(len(labels), len(kept))
    place[kept] = np.arange(len(kept))
    size = len(kept) + rare
    matrix = np.bincount(place[truth] * size + place[answers], minlength=size**2).reshape(size, size)
    return {
        "kind": "confusion",
        "rows": len(truth),
        "labels": [labels[each] for each in kept] + [OTHERS] * rare,
        "others": rare,  # then an answer in the last corner need not be right: it is rare as the truth is
        "matrix": matrix.tolist(),
    }


def _residuals(away: np.ndarray) -> dict[str, Any]:
    """Return quantiles of the answer less the truth, in the target's unit."""
    return {
        "kind": "residuals",
        "rows": len(away),
        "quantiles": {f"p{each}": float(np.percentile(away, each)) for each in QUANTILES},
        "mean": float(away.mean()),
        "mean_absolute": float(np.abs(away).mean()),
        "largest_absolute": float(np.abs(away).max()),
    }


def _named(labels: Sequence[Any] | None, count: int) -> list[str]:
    named = [str(each)[:LONGEST_LABEL] for each in labels or ()]
    return named if len(named) == count else [str(number) for number in range(count)]
