"""What a model's answers on held-out rows are worth: how `compile` judges the original and its candidates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebb_jobs import export, measure, mistakes, quality, train
from ebb_jobs.dataset import Split
from ebb_jobs.kind import Codec

SINGLE_ROWS_JUDGED = 5000
"""Up to so many rows a network whose scales depend on the request is judged as it mostly serves, row by row; of more in
batches, which give nearly the same answers."""
PART_ROWS = 500
"""Rows that one of several threads takes at a time while a candidate is judged."""


@dataclass(frozen=True)
class Rows:
    """The rows that everything is measured on."""

    validation: Split
    test: Split
    singles: list[Any]
    """Held-out examples as a client sends them, a batch of one each."""
    codec: Codec
    metric: str
    seed: int
    labels: list[Any] | None = None
    """The classes by their index, None where the target is a number or a script named none."""

    def judge(self, model: measure.Answers, *, alone: bool = False, at_once: int = 1) -> Judged:
        """Return quality and the band in which chance moves it; `alone`: every row is a request of its own.

        `at_once` threads ask for parts of the rows: nothing is timed here, and candidates answer on one thread.
        """
        truth, predicted = self._answers(model, self.validation, alone, at_once)
        test = self._answers(model, self.test, alone, at_once)
        return Judged(
            truth,
            predicted,
            {
                "quality": {
                    "validation": quality.score(self.metric, truth, predicted),
                    "test": quality.score(self.metric, *test),
                },
                "quality_interval": quality.interval(self.metric, truth, predicted, seed=self.seed),
                "validation_rows": len(truth),
            },
            mistakes.of(*test, self.labels),
        )

    def drop_bound(self, original: Judged, candidate: Judged) -> float:
        """Return how much worse than the original the candidate may be: see `quality.drop_bound`."""
        return quality.drop_bound(self.metric, original.truth, original.predicted, candidate.predicted, seed=self.seed)

    def _answers(
        self, model: measure.Answers, split: Split, alone: bool, at_once: int
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = 1 if alone and len(split) <= SINGLE_ROWS_JUDGED else None
        parts = [split.inputs[start : start + PART_ROWS] for start in range(0, len(split.inputs), PART_ROWS)]
        with ThreadPoolExecutor(at_once) if at_once > 1 else nullcontext() as pool:  # PyTorch has threads of its own
            outputs = list((pool.map if pool else map)(lambda part: export.run(model, part, rows), parts))
        return train.comparable(np.concatenate(outputs), split, self.codec)


@dataclass(frozen=True)
class Judged:
    """A model's answers on the validation rows, and what they are worth."""

    truth: np.ndarray
    predicted: np.ndarray
    fields: dict[str, Any]
    mistakes: dict[str, Any]
    """On the test rows; see `mistakes.of`."""

    @property
    def validation(self) -> float:
        """Return the quality that selection looks at."""
        return self.fields["quality"]["validation"]
