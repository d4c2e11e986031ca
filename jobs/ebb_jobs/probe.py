"""What could be learned from the newest rows: by a new calibration of the served model, and by small models beside it.

A training is dear, and whether it can help is cheap to find out: a ridge-regularised linear model of the encoded rows
and of random features of them, added to what the served model answers, is fitted on four fifths of the rows and judged
on the last one, five times over. What it gains is a lower bound of what training would; where it gains nothing, the
rows have become harder and not different. Random features: Rahimi and Recht, Random Features for Large-Scale Kernel
Machines, NIPS 2007. The calibration (a scale, and a shift for each class): Guo et al., On Calibration of Modern Neural
Networks, ICML 2017.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from ebb_jobs import quality

FOLDS = 5
MOST_ROWS = 5_000
MOST_COLUMNS, RANDOM_COLUMNS = 512, 192
RIDGES = (0.3, 3.0, 30.0)
MOST_CATEGORIES = 20
LEAST_ROWS = 60
"""Fewer leave a dozen to judge by."""
_TINY = 1e-6


def gains(
    metric: str,
    truth: np.ndarray,
    predicted: np.ndarray,
    encoded: np.ndarray,
    observed: Sequence[Mapping[str, Any]] = (),
    *,
    seed: int,
) -> dict[str, dict[str, float] | None]:
    """Return what a new calibration, what learning, and what learning beyond it would gain on rows like these.

    `truth` are class indices or numbers, `predicted` the served model's probabilities [rows, classes] or numbers. Each
    gain is one of `quality.gain`: points of a score, a share of an error; None for too few rows. `observed` are the
    features of the rows as they came (`capture.observed`): the model's encoding may not tell new values apart.
    """
    if len(truth) < LEAST_ROWS:
        return {"recalibrated": None, "learned": None, "beyond_calibration": None}
    random = np.random.default_rng(seed)
    order = random.permutation(len(truth))[:MOST_ROWS]
    truth, predicted = truth[order], predicted[order]
    shifted = _cross_fitted(truth, predicted, None, 0.0)
    columns = _columns(encoded[order], _scored([observed[place] for place in order] if observed else []), random)
    learned = min(
        (_cross_fitted(truth, predicted, columns, ridge) for ridge in RIDGES), key=lambda each: _loss(truth, each)
    )
    return {
        "recalibrated": quality.gain(metric, truth, predicted, shifted, seed=seed),
        "learned": quality.gain(metric, truth, predicted, learned, seed=seed),
        "beyond_calibration": quality.gain(metric, truth, shifted, learned, seed=seed),
    }


def calibration(truth: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Return the calibration of all rows, as `calibrate` applies it."""
    if predicted.ndim == 1:
        slope, shift = _line(truth, predicted)
        return {"scale": slope, "shift": [shift]}
    weights = _fit(truth, predicted, np.empty((len(truth), 0)), 0.0)
    return {"scale": float(weights[0]), "shift": weights[1:].tolist()}


def calibrate(predicted: np.ndarray, found: dict[str, Any]) -> np.ndarray:
    """Return predictions under a calibration."""
    shift = np.array(found["shift"])
    if predicted.ndim == 1:
        return predicted * found["scale"] + shift[0]
    return special.softmax(np.log(np.clip(predicted, _TINY, 1.0)) * found["scale"] + shift, axis=1)


def _cross_fitted(truth: np.ndarray, predicted: np.ndarray, columns: np.ndarray | None, ridge: float) -> np.ndarray:
    """Return predictions for each row by what was fitted without its fold."""
    fold: np.ndarray = np.arange(len(truth)) % FOLDS
    result = np.array(predicted, dtype=np.float64)
    for number in range(FOLDS):
        held = fold == number
        if predicted.ndim == 1:
            result[held] = _numbers(truth, predicted, columns, held, ridge)
        else:
            used = np.empty((len(truth), 0)) if columns is None else columns
            weights = _fit(truth[~held], predicted[~held], used[~held], ridge)
            result[held] = _probabilities(weights, predicted[held], used[held])
    return result


def _numbers(
    truth: np.ndarray, predicted: np.ndarray, columns: np.ndarray | None, held: np.ndarray, ridge: float
) -> np.ndarray:
    """Return held numbers by a line of the served model's, or by a ridge regression of what it leaves."""
    slope, shift = _line(truth[~held], predicted[~held])
    lined = predicted * slope + shift
    if columns is None:
        return lined[held]
    rest, used = (truth - lined)[~held], columns[~held]
    squares = used.T @ used + ridge * len(used) / 100 * np.eye(used.shape[1])
    return lined[held] + columns[held] @ np.linalg.solve(squares, used.T @ rest)


def _line(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return slope and shift of the least squares; only a shift where all predictions are equal."""
    spread = float(predicted.var())
    slope = float(np.cov(predicted, truth, bias=True)[0, 1] / spread) if spread > _TINY**2 else 1.0
    return slope, float(truth.mean() - slope * predicted.mean())


def _fit(truth: np.ndarray, predicted: np.ndarray, columns: np.ndarray, ridge: float) -> np.ndarray:
    """Return [scale, shift of each class, weights of the columns] of the least cross-entropy."""
    rows, classes = predicted.shape
    logits = np.log(np.clip(predicted, _TINY, 1.0))
    hot = np.zeros((rows, classes))
    hot[np.arange(rows), truth] = 1.0

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = weights[0] * logits + weights[1 : classes + 1]
        body = weights[classes + 1 :].reshape(columns.shape[1], classes)
        scores = scores + columns @ body
        ahead = special.log_softmax(scores, axis=1)
        slope = (np.exp(ahead) - hot) / rows
        shifts = weights[1 : classes + 1]
        penalty = ridge * float((body**2).sum()) + 0.5 * float((shifts**2).sum()) + 5 * (weights[0] - 1) ** 2
        gradient = np.concatenate(
            [
                [float((slope * logits).sum()) + 10 * (weights[0] - 1) / rows],
                slope.sum(0) + shifts / rows,
                (columns.T @ slope + 2 * ridge * body / rows).ravel(),
            ]
        )
        return -float((ahead * hot).sum()) / rows + penalty / rows, gradient

    start = np.zeros(1 + classes + columns.shape[1] * classes)
    start[0] = 1.0
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 150})
    return found.x


def _probabilities(weights: np.ndarray, predicted: np.ndarray, columns: np.ndarray) -> np.ndarray:
    classes = predicted.shape[1]
    scores = weights[0] * np.log(np.clip(predicted, _TINY, 1.0)) + weights[1 : classes + 1]
    return special.softmax(scores + columns @ weights[classes + 1 :].reshape(columns.shape[1], classes), axis=1)


def _loss(truth: np.ndarray, predicted: np.ndarray) -> float:
    return quality.score("rmse" if predicted.ndim == 1 else "log_loss", truth, predicted)


def _scored(observed: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the rows' own numbers as normal scores of their ranks, and their most frequent categories as columns."""
    found = []
    for name in observed[0] if observed else ():
        values = [row.get(name) for row in observed]
        if any(isinstance(value, str) for value in values):
            frequent = Counter(map(str, values)).most_common(MOST_CATEGORIES)
            found += [np.array([str(value) == text for value in values], dtype=np.float64) for text, _ in frequent]
            continue
        numbers = np.array([np.nan if value is None else float(value) for value in values])
        ranks = stats.rankdata(numbers, nan_policy="omit") / (1 + np.isfinite(numbers).sum())
        scores = np.nan_to_num(special.ndtri(ranks))
        found += [scores, scores**2, np.isnan(numbers).astype(np.float64)]
    return np.stack(found, axis=1) if found else np.empty((len(observed), 0))


def _columns(encoded: np.ndarray, scored: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return encoded rows as standardised columns, few enough, and random features of them beside."""
    if encoded.dtype == np.int32:  # tokens: how often each comes, by its remainder
        flat = np.zeros((len(encoded), MOST_COLUMNS))
        for row, tokens in enumerate(encoded):
            flat[row] = np.bincount(tokens[tokens > 0] % MOST_COLUMNS, minlength=MOST_COLUMNS)
        flat = np.log1p(flat)
    else:
        flat = encoded.reshape(len(encoded), -1).astype(np.float64)
    flat = np.concatenate([flat, scored], axis=1) if scored.size else flat
    spread = flat.std(0)
    flat = (flat[:, spread > _TINY] - flat[:, spread > _TINY].mean(0)) / spread[spread > _TINY]
    if flat.shape[1] > MOST_COLUMNS:  # pictures: as many mixtures of the pixels
        mixed = random.normal(size=(flat.shape[1], MOST_COLUMNS)) / np.sqrt(flat.shape[1])
        flat = flat @ mixed
    if not flat.shape[1]:
        return np.zeros((len(encoded), 1))
    bent = flat @ random.normal(size=(flat.shape[1], RANDOM_COLUMNS)) / np.sqrt(flat.shape[1])
    bent = np.maximum(bent + random.normal(size=RANDOM_COLUMNS), 0.0)
    deviation = bent.std(0)
    bent = (bent - bent.mean(0)) / np.where(deviation > _TINY, deviation, 1.0)
    return np.concatenate([flat, bent], axis=1)
