"""Linear models over the codec's input: logistic or least-squares, fitted by L-BFGS, as strong as validation asks.

They are networks without hidden layers, so that everything after them (files, export, compression) is as for any other.
For a table the piecewise-linear bins of the encoding make them additive models, which curve where the data does; for
texts the features are TF-IDF of tokens and pairs (`text_networks.TfidfNet`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebb_jobs import networks, quality, stopping
from ebb_jobs.errors import DivergedError, StoppedError
from ebb_jobs.ladder import Fitted, Lesson
from ebb_jobs.networks import Mlp, Network

MOST_ROWS = 50_000
"""More rows move a linear model's few weights no more."""
FEW_ROWS = 6_000
"""Of them the penalty is chosen; the weights are then fitted on the rest as well, from where they stand."""
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse strength of the penalty, as scikit-learn's C: from a simple model to one that follows every row."""
ITERATIONS = 60


class NetworkModel:
    """A network of ours as a rung's model."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities [rows, classes], or the scaled target [rows, 1]."""
        return networks.predict(self.network, inputs)

    def save(self, stem: Path) -> Path:
        """Write weights and shape."""
        file = stem.with_suffix(".safetensors")
        networks.save(self.network, file)
        return file

    def describe(self) -> str:
        """Return the network's shape in words."""
        return self.network.describe()

    def parameter_count(self) -> int:
        """Return how many numbers the network learned."""
        return self.network.parameter_count()


def load(file: Path) -> NetworkModel:
    """Return the model that `save` wrote."""
    return NetworkModel(networks.load(file))


def fit_table(lesson: Lesson) -> Fitted:
    """Fit a linear layer on the encoded rows of a table."""
    picked = sample(len(lesson.training), MOST_ROWS)
    inputs = np.asarray(lesson.training.inputs[picked])

    def made(weights: np.ndarray, bias: np.ndarray) -> Network:
        network = Mlp(inputs.shape[1], [], lesson.outputs)
        with torch.no_grad():
            network.layers[0].weight.copy_(torch.from_numpy(weights.T.astype(np.float32)))
            network.layers[0].bias.copy_(torch.from_numpy(bias.astype(np.float32)))
        return network.eval()

    return fit(lesson, inputs, picked, made, STRENGTHS)


def sample(rows: int, most: int) -> np.ndarray:
    """Return the numbers of up to `most` rows, evenly spread: the splits are shuffled already."""
    return np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).astype(np.intp)


def fit(
    lesson: Lesson,
    features: Any,
    picked: np.ndarray,
    make: Callable[[np.ndarray, np.ndarray], Network],
    strengths: Sequence[float],
) -> Fitted:
    """Fit weights [features, outputs] with weaker and weaker penalties, each from the last one's; keep the best.

    `features` is an array or a sparse matrix of the rows `picked`. It ends when a weaker penalty is no better on the
    validation rows, at the target, or when the time is used. Raises: StoppedError, DivergedError.
    """
    begun = time.monotonic()
    few = sample(len(picked), FEW_ROWS)
    problem = _Problem.of(lesson, features[few], picked[few])
    best: tuple[float, Network, float, np.ndarray] | None = None
    point = np.zeros(problem.size)
    stop, why, tried = "completed", f"all {len(strengths)} penalties are tried", 0

    def look(point: np.ndarray, inverse: float) -> tuple[float, bool]:
        nonlocal best
        network = make(*problem.unpacked(point))
        found = lesson.score(networks.predict(network, lesson.validation.inputs))
        if not np.isfinite(found):
            raise DivergedError("the linear model's outputs are not finite")
        print(f"linear with C = {inverse:g}: validation {lesson.metric} {found:.4f}", flush=True)
        better = best is None or quality.is_better(lesson.metric, found, best[0])
        if better:
            best = (found, network, inverse, point)
        return found, better

    with stopping.told_to_stop() as told:
        for inverse in strengths:
            point = problem.solve(point, 1.0 / (inverse * len(few)), told)
            tried += 1
            found, better = look(point, inverse)
            assert best is not None
            if lesson.target is not None and not quality.is_better(lesson.metric, lesson.target, found):
                stop, why = "target", f"the target {lesson.metric} {lesson.target} is reached"
            elif not better:
                stop, why = "plateau", f"a penalty weaker than C = {best[2]:g} is no better"
            elif lesson.budget_s is not None and time.monotonic() - begun > lesson.budget_s:
                stop, why = "budget", f"the time budget of {lesson.budget_s:.0f} s is used"
            else:
                continue
            break
        assert best is not None
        if len(few) < len(picked) and stop in ("completed", "plateau"):
            problem = _Problem.of(lesson, features, picked)
            start = best[3]
            for inverse in (best[2], 10 * best[2]):  # more rows bear a weaker penalty
                start = problem.solve(start, 1.0 / (inverse * len(picked)), told)
                look(start, inverse)
    return Fitted(NetworkModel(best[1]), stop, why, tried, tried, tried, time.monotonic() - begun)


class _Problem:
    """The loss of a linear model and its gradient, as L-BFGS takes them."""

    def __init__(self, features: Any, targets: np.ndarray, weights: np.ndarray | None, outputs: int) -> None:
        self._features, self._outputs = features, outputs
        self._rows, self._width = features.shape
        share = np.ones(self._rows) if weights is None else weights.astype(np.float64)
        self._share = (share / share.sum()).astype(np.float32)[:, None]
        self._targets = targets
        self.size = (self._width + 1) * outputs

    @classmethod
    def of(cls, lesson: Lesson, features: Any, picked: np.ndarray) -> _Problem:
        """Return the problem of these training rows."""
        targets = lesson.training.targets[picked]
        weights = None if lesson.factors is None else lesson.factors[targets]
        return cls(features, targets, weights, lesson.outputs)

    def unpacked(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights [features, outputs] and bias [outputs]."""
        matrix = point.reshape(self._width + 1, self._outputs)
        return matrix[:-1], matrix[-1]

    def solve(self, start: np.ndarray, penalty: float, told: Any) -> np.ndarray:
        """Return the point of least loss with this L2 penalty, from `start` on."""
        from scipy.optimize import minimize

        def each_step(_: np.ndarray) -> None:
            if told.is_set():  # seconds of work at most: nothing is kept but the rungs below
                raise StoppedError("stopped by SIGTERM while a linear model was fitted")

        found = minimize(
            self._loss, start, args=(penalty,), jac=True, method="L-BFGS-B", callback=each_step,
            options={"maxiter": ITERATIONS, "maxcor": 12, "ftol": 1e-7, "gtol": 1e-6},
        )  # fmt: skip
        return found.x

    def _loss(self, point: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        weights, bias = self.unpacked(point)
        outputs = self._features @ weights.astype(np.float32) + bias.astype(np.float32)
        if self._outputs == 1:
            error = outputs[:, 0] - self._targets
            loss = 0.5 * float((self._share[:, 0] * error**2).sum(dtype=np.float64))
            slope = (self._share[:, 0] * error)[:, None]
        else:
            shifted = outputs - outputs.max(1, keepdims=True)
            powers = np.exp(shifted)
            sums = powers.sum(1, keepdims=True)
            rows = np.arange(self._rows)
            likelihood = np.log(sums[:, 0]) - shifted[rows, self._targets]
            loss = float((self._share[:, 0] * likelihood).sum(dtype=np.float64))
            slope = powers / sums
            slope[rows, self._targets] -= 1
            slope *= self._share
        gradient = np.empty((self._width + 1, self._outputs))
        gradient[:-1] = self._features.T @ slope.astype(np.float32) + penalty * weights
        gradient[-1] = slope.sum(0)
        return loss + 0.5 * penalty * float((weights**2).sum()), gradient.reshape(-1)
