"""How many threads a training step takes on a CPU, looked at again in every epoch by the steps themselves.

What else the machine does changes while a network learns: a second thread that only waited at the beginning, because
another job had the other CPU, halves the time of a step once that job is done. The steps that are looked at are steps
of the training, so that looking costs nothing but the slower half of them.
"""

from __future__ import annotations

import time

import numpy as np
import torch

MUST_GAIN = 1.2
"""How many times as long a step must take on one thread for all threads to be worth it."""
STEPS, TURNS = 4, 2
"""Steps in a row on each count, of which the first warms up, and how often each count has its turn."""
MOST_SHARE = 0.1
"""Of an epoch's steps; shorter epochs keep what was chosen."""


class StepThreads:
    """The count of threads, one or all."""

    def __init__(self, chosen: int, available: int) -> None:
        self.chosen, self.available = chosen, available
        self._left: list[int] = []
        self._seconds: dict[int, list[float]] = {}
        self._begun = 0.0

    def epoch(self, steps: int) -> None:
        """Begin an epoch of so many steps."""
        plan = [count for count in (1, self.available) for _ in range(STEPS)] * TURNS
        self._left = plan if self.available > 1 and len(plan) <= MOST_SHARE * steps else []
        self._seconds = {1: [], self.available: []}

    def begin(self) -> None:
        """Set the count for the step that begins."""
        torch.set_num_threads(self._left[0] if self._left else self.chosen)
        self._begun = time.perf_counter()

    def end(self) -> None:
        """Note the step that has ended; choose when every count had its turns."""
        if not self._left:
            return
        self._seconds[self._left.pop(0)].append(time.perf_counter() - self._begun)
        if not self._left:
            alone, together = (_typical(self._seconds[count]) for count in (1, self.available))
            self.chosen = self.available if alone >= MUST_GAIN * together else 1


def _typical(seconds: list[float]) -> float:
    """Return the median of the steps that had no other count before them."""
    return float(np.median([each for number, each in enumerate(seconds) if number % STEPS]))
