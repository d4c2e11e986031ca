"""How good predictions are: the metrics, which of them suits a task, and how far chance moves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ebb_jobs.errors import JobError
from ebb_jobs.infer import Inferred

IMBALANCED_BELOW = 0.2
ALIASES = {"f1": "f1_macro", "auc": "roc_auc", "logloss": "log_loss", "mse": "rmse"}
CLASSIFICATION_METRICS = ("accuracy", "balanced_accuracy", "f1_macro", "roc_auc", "log_loss")
REGRESSION_METRICS = ("rmse", "mae", "r2")
LESS_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
_COUNTS_DECISIONS = frozenset({"accuracy", "balanced_accuracy", "f1_macro"})
SAME_SCORE, SAME_ERROR_SHARE = 0.02, 0.05
BOOTSTRAP_ROUNDS = 200
BOOTSTRAP_ROWS = 20_000
# How sure a drop must be to count as small enough: four times in five.
CONFIDENCE = 0.8
CONFIDENCE_OF_GAIN = 0.9
"""Of the band around a gain: below its low end lie 5 % of what chance gives."""
SAME_WITHIN = 1e-3
"""Of a probability, or of the target's standard deviation."""


def choose(task: str, class_shares: np.ndarray | None, asked: str | None) -> Inferred:
    """Return the metric to judge by, and why. Without class shares the target is a number."""
    allowed = REGRESSION_METRICS if class_shares is None else CLASSIFICATION_METRICS
    if asked:
        name = ALIASES.get(asked.lower(), asked.lower())
        if name not in allowed:
            raise JobError(f"train.metric {asked!r} does not suit {task}; write one of: {', '.join(allowed)}")
        return Inferred(name, "named by train.metric in the spec")
    if class_shares is None:
        return Inferred("rmse", "root mean squared error, in the target's own unit")
    even = 1 / len(class_shares)
    if class_shares.min() < IMBALANCED_BELOW * even:
        return Inferred(
            "f1_macro",
            f"the rarest class has {class_shares.min():.1%} of the rows, far from {even:.1%}: "
            "accuracy would forgive never predicting it",
        )
    return Inferred("accuracy", f"the rarest class has {class_shares.min():.1%} of the rows, near enough to {even:.1%}")


def greater_is_better(metric: str) -> bool:
    """Tell the metric's direction."""
    return metric not in LESS_IS_BETTER


def is_better(metric: str, new: float, old: float) -> bool:
    """Tell whether `new` beats `old`."""
    return new > old if greater_is_better(metric) else new < old


def floor(metric: str, original: float, max_drop: float) -> tuple[float, str]:
    """Return the worst quality that may be shipped and the rule's kind.

    Scores within 0 to 1 may lose `max_drop` points (absolute); errors, whose unit is the target's, may grow by that
    share (relative).
    """
    if greater_is_better(metric):
        return original - max_drop, "absolute"
    return original * (1 + max_drop), "relative"


def differs(metric: str, one: float, other: float, *, rows: int) -> bool:
    """Tell whether two measurements of a model on the same rows are of different models.

    Machines round differently: that may move a score by 0.02, or by two of few rows, and an error by 5 % of it.
    """
    if greater_is_better(metric):
        return abs(one - other) > max(SAME_SCORE, 2 / rows) + 1e-9
    return abs(one - other) > SAME_ERROR_SHARE * max(abs(one), abs(other)) + 1e-6


def score(metric: str, truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the metric. Classification: class indices and probabilities [rows, classes]; regression: numbers."""
    return float(_SCORES[metric](truth, predicted))


def interval(metric: str, truth: np.ndarray, predicted: np.ndarray, *, seed: int) -> dict[str, float]:
    """Return the band in which chance moves the metric: 95 % of bootstrap resamples of these rows."""
    random = np.random.default_rng(seed)
    count = len(truth)
    size = min(count, BOOTSTRAP_ROWS)
    scores = []
    for _ in range(BOOTSTRAP_ROUNDS):
        rows = random.integers(0, count, size)
        scores.append(score(metric, truth[rows], predicted[rows]))
    spread: np.ndarray = np.quantile(scores, [0.025, 0.975]) - np.median(scores)
    centre = score(metric, truth, predicted)
    return {"low": centre + float(spread[0]), "high": centre + float(spread[1])}


def drop_bound(metric: str, truth: np.ndarray, original: np.ndarray, candidate: np.ndarray, *, seed: int) -> float:
    """Return how much worse than the original the candidate may be, at CONFIDENCE, on rows like these.

    In the floor's own measure: points of a score, a share of an error. 0 where both give the same outputs but for
    rounding. Otherwise the quantile of the paired bootstrap; and, for metrics that count decisions, -ln(1 - CONFIDENCE)
    / rows on top: rows that show no new mistake leave a rate of that size possible (the "rule of three", at 80 %).
    Source: Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249 (1983).
    """
    if _same(metric, truth, original, candidate):
        return 0.0
    random = np.random.default_rng(seed)
    size = min(len(truth), BOOTSTRAP_ROWS)
    drops = []
    for _ in range(BOOTSTRAP_ROUNDS):
        rows = random.integers(0, len(truth), size)
        before, after = (score(metric, truth[rows], predicted[rows]) for predicted in (original, candidate))
        drops.append(before - after if greater_is_better(metric) else after / max(before, 1e-12) - 1)
    unseen = -np.log(1 - CONFIDENCE) / len(truth) if metric in _COUNTS_DECISIONS else 0.0
    return max(0.0, float(np.quantile(drops, CONFIDENCE)) + float(unseen))


def gain(metric: str, truth: np.ndarray, before: np.ndarray, after: np.ndarray, *, seed: int) -> dict[str, float]:
    """Return how much better `after` is than `before` on rows like these, with the band that chance leaves.

    In the floor's own measure: points of a score, a share of an error; positive is better. `low` and `high` are the
    quantiles of a paired bootstrap: a gain is beyond chance, at CONFIDENCE_OF_GAIN, when `low` is above 0.
    """
    random = np.random.default_rng(seed)
    size = min(len(truth), BOOTSTRAP_ROWS)

    def difference(rows: Any) -> float:
        old, new = (score(metric, truth[rows], predicted[rows]) for predicted in (before, after))
        return new - old if greater_is_better(metric) else 1 - new / max(old, 1e-12)

    found = [difference(random.integers(0, len(truth), size)) for _ in range(BOOTSTRAP_ROUNDS)]
    tail = (1 - CONFIDENCE_OF_GAIN) / 2
    band: np.ndarray = np.quantile(found, [tail, 1 - tail])
    return {"low": float(band[0]), "value": difference(slice(None)), "high": float(band[1])}


def headroom(metric: str, truth: np.ndarray, predicted: np.ndarray, *, seed: int) -> dict[str, float] | None:
    """Return what a model without any mistake would gain; None for a number, which nobody predicts exactly."""
    if metric in REGRESSION_METRICS:
        return None
    perfect = np.zeros_like(predicted)
    perfect[np.arange(len(truth)), truth] = 1.0
    return gain(metric, truth, predicted, perfect, seed=seed)


def _same(metric: str, truth: np.ndarray, original: np.ndarray, candidate: np.ndarray) -> bool:
    """Tell whether two models' outputs differ by rounding alone, in what the metric looks at."""
    if metric in REGRESSION_METRICS:
        return bool(np.allclose(original, candidate, rtol=0, atol=SAME_WITHIN * float(truth.std())))
    if metric in _COUNTS_DECISIONS:
        return bool((original.argmax(1) == candidate.argmax(1)).all()) and np.allclose(
            original, candidate, rtol=0, atol=SAME_WITHIN
        )
    # Logarithms and ranks look at small probabilities too: there only a share is small.
    return np.allclose(original, candidate, rtol=SAME_WITHIN, atol=1e-6)


def _accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float((predicted.argmax(1) == truth).mean())


def _confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    classes = predicted.shape[1]
    return np.bincount(truth * classes + predicted.argmax(1), minlength=classes**2).reshape(classes, classes)


def _balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    matrix = _confusion(truth, predicted)
    present = matrix.sum(1) > 0
    return float((matrix.diagonal()[present] / matrix.sum(1)[present]).mean())


def _f1_macro(truth: np.ndarray, predicted: np.ndarray) -> float:
    matrix = _confusion(truth, predicted)
    found, total = matrix.diagonal(), matrix.sum(0) + matrix.sum(1)
    return float((2 * found[total > 0] / total[total > 0]).mean())


def _log_loss(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(-np.log(np.clip(predicted[np.arange(len(truth)), truth].astype(np.float64), 1e-7, 1.0)).mean())


def _roc_auc(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over classes of the probability that a row of the class outranks one of another (ties half)."""
    areas = []
    for label in range(1 if predicted.shape[1] == 2 else 0, predicted.shape[1]):
        positive = truth == label
        if not positive.any() or positive.all():
            continue
        _, ranks, counts = np.unique(predicted[:, label], return_inverse=True, return_counts=True)
        middle = np.cumsum(counts) - (counts - 1) / 2
        wins = middle[ranks][positive].sum() - positive.sum() * (positive.sum() + 1) / 2
        areas.append(wins / (positive.sum() * (~positive).sum()))
    return float(np.mean(areas)) if areas else 0.5


def _r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    variance = float(truth.var())
    return 1 - float(((truth - predicted) ** 2).mean()) / variance if variance else 0.0


_SCORES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1_macro": _f1_macro,
    "log_loss": _log_loss,
    "roc_auc": _roc_auc,
    "r2": _r2,
    "rmse": lambda truth, predicted: np.sqrt(((truth - predicted) ** 2).mean()),
    "mae": lambda truth, predicted: np.abs(truth - predicted).mean(),
}
