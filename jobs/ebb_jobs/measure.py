"""Measures models against each other: in alternating rounds, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ebb_jobs.errors import JobError

ROUNDS = 6
SINGLE_ROWS = 150
BATCHES = 25
BATCH_ROWS = 32
END_TO_END_ROWS = 80
WARM_UP = 15


class Answers(Protocol):
    """What is measured: a network behind its preprocessing."""

    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Return outputs for encoded rows."""

    def predict(self, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """Return predictions for raw rows."""


@dataclass
class Contender:
    """One model in the race, with what it is given before each of its turns (a thread count, say)."""

    name: str
    model: Answers
    before_turn: Callable[[], None] = lambda: None
    single_s: list[float] = field(default_factory=list)
    batch_s: list[float] = field(default_factory=list)
    end_to_end_s: list[float] = field(default_factory=list)
    end_to_end_cpu_s: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return the measure of this model's speed.

        `latency_ms` and the throughput are the network's alone; the end-to-end figures and the CPU time begin with a
        raw row and end with the answer, without HTTP.
        """
        return {
            "latency_ms": _milliseconds(self.single_s),
            "end_to_end_latency_ms": _milliseconds(self.end_to_end_s),
            "throughput_rows_per_s": round(BATCH_ROWS / float(np.median(self.batch_s)), 1),
            "cpu_ms_per_prediction": round(float(np.median(self.end_to_end_cpu_s)) * 1000, 5),
        }


def race(contenders: list[Contender], encoded: np.ndarray, rows: list[dict[str, Any]]) -> None:
    """Let every contender answer single rows and batches, in rounds, a different one beginning each."""
    singles = [np.ascontiguousarray(encoded[i : i + 1]) for i in range(min(len(encoded), SINGLE_ROWS))]
    batches = [
        np.ascontiguousarray(np.resize(encoded[i : i + BATCH_ROWS], (BATCH_ROWS, encoded.shape[1])))
        for i in range(0, min(len(encoded), BATCH_ROWS * BATCHES), BATCH_ROWS)
    ]
    raw = [{name: [value] for name, value in row.items()} for row in rows]
    for turn in range(ROUNDS):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            contender.before_turn()
            for index in range(WARM_UP):
                contender.model.run(singles[index % len(singles)])
            contender.single_s += _times(contender.model.run, singles, SINGLE_ROWS)
            contender.batch_s += _times(contender.model.run, batches, BATCHES)
            contender.model.predict(raw[0])
            begun = time.process_time()
            contender.end_to_end_s += _times(contender.model.predict, raw, END_TO_END_ROWS)
            contender.end_to_end_cpu_s.append((time.process_time() - begun) / END_TO_END_ROWS)


def best_figures(contenders: list[Contender]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the best of each figure, and whose it is: the forms of one model, of which each use would take its best.

    The fewest CPU seconds need not come with the least latency: a second thread saves little time and doubles them.
    """
    figures = {one.name: one.figures() for one in contenders}
    chosen = {
        "latency": min(figures, key=lambda name: figures[name]["latency_ms"]["p50"]),
        "throughput": max(figures, key=lambda name: figures[name]["throughput_rows_per_s"]),
        "energy": min(figures, key=lambda name: figures[name]["cpu_ms_per_prediction"]),
    }
    best = {
        **figures[chosen["latency"]],
        "throughput_rows_per_s": figures[chosen["throughput"]]["throughput_rows_per_s"],
        "cpu_ms_per_prediction": figures[chosen["energy"]]["cpu_ms_per_prediction"],
    }
    return best, chosen


def eager_memory_mib(original: Path) -> float:
    """Return the largest resident size of a fresh process that answers one row with eager PyTorch."""
    jobs = str(Path(__file__).parents[1])
    told = subprocess.run(
        [sys.executable, "-m", "ebb_jobs.eager", str(original)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": jobs},
        check=False,
    )
    if told.returncode:
        raise JobError(f"the original could not be opened in a fresh process (status {told.returncode})")
    return float(json.loads(told.stdout)["peak_mib"])


def median_single_s(run: Callable[[np.ndarray], Any], encoded: np.ndarray, count: int = 200) -> float:
    """Return the median seconds of answering one encoded row."""
    row = np.ascontiguousarray(encoded[:1])
    _times(run, [row], WARM_UP)
    return float(np.median(_times(run, [row], count)))


def _times(call: Callable[[Any], Any], arguments: list[Any], count: int) -> list[float]:
    seconds = []
    for index in range(count):
        argument = arguments[index % len(arguments)]
        begun = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - begun)
    return seconds


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"p50": round(float(p50) * 1000, 5), "p99": round(float(p99) * 1000, 5)}
