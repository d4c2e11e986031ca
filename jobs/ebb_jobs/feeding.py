"""Feeding the training loop: its batches, made ready by workers where that pays, and how long it waited for them.

How many workers is a setting of the process, as its number of threads is: a job is told it by its plan, which knows
from the last run how long the loop waited. Equal batches come whatever their number: their chance hangs on the step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebb_jobs import distributed

AHEAD = 2
"""Batches that each worker makes before they are asked for."""

Key = tuple[int, int]


@dataclass
class Meter:
    """What all training loops of this process took, and how long they waited for their data; seconds."""

    loop_s: float = 0.0
    wait_s: float = 0.0
    workers: int = 0

    def told(self) -> dict[str, Any]:
        """Return the figures as a report holds them; their share is what makes a job input-bound."""
        share = self.wait_s / self.loop_s if self.loop_s else 0.0
        return {
            "loop_s": round(self.loop_s, 3),
            "wait_s": round(self.wait_s, 3),
            "wait_share": round(share, 4),
            "workers": self.workers,
        }


METER = Meter()


def use(workers: int) -> None:
    """Let so many threads make batches ready beside the loop from now on; 0 leaves it to the loop itself."""
    METER.workers = max(0, workers)


class Feed:
    """Gives a training loop its batches in order, step by step. Use as a context manager."""

    def __init__(
        self,
        inputs: np.ndarray,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None,
        seed: int,
        size: int,
        *,
        meter: Meter = METER,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._inputs, self._augment, self._seed, self._size = inputs, augment, seed, size
        self._meter, self._clock = meter, clock
        self._pool = ThreadPoolExecutor(meter.workers, "feed") if meter.workers else None
        self._ready: deque[tuple[Key, Future[tuple[np.ndarray, Tensor]]]] = deque()
        self._given_at: float | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, order: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, Tensor]:
        """Return the row numbers and the inputs of one step of an epoch whose rows come in `order`."""
        asked_at = self._clock()
        batch = self._made(order, epoch, step) if self._pool is None else self._fetched(order, epoch, step)
        given_at = self._clock()
        self._meter.wait_s += given_at - asked_at
        self._meter.loop_s += given_at - (asked_at if self._given_at is None else self._given_at)
        self._given_at = given_at
        return batch

    def _made(self, order: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, Tensor]:
        picked = distributed.share(order[step * self._size : (step + 1) * self._size])
        batch = torch.from_numpy(self._inputs[picked])
        if self._augment is not None:
            batch = self._augment(batch, chance(self._seed, epoch, step))
        return picked, batch

    def _fetched(self, order: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, Tensor]:
        assert self._pool is not None
        if self._ready and self._ready[0][0] != (epoch, step):  # a run that starts again, or an epoch cut short
            for _, made in self._ready:
                made.cancel()
            self._ready.clear()
        last = -(-len(order) // self._size)
        coming = self._ready[-1][0][1] + 1 if self._ready else step
        for number in range(coming, min(last, step + AHEAD * self._meter.workers + 1)):
            self._ready.append(((epoch, number), self._pool.submit(self._made, order, epoch, number)))
        return self._ready.popleft()[1].result()


def chance(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return the source of a step's chance, the same when the step is done again after an interruption."""
    words = np.random.SeedSequence((seed, epoch, step, *distributed.seat())).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
