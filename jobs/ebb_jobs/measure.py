"""Measures models against each other: in alternating rounds, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
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
RACE_S = 12.0
"""The race takes about so long at most: where networks are slow, every turn measures fewer answers."""
LEAST, LEAST_BATCHES = 5, 2
"""Answers of each sort in a turn, however slow, and of batches, each of which is many."""


class Answers(Protocol):
    """What is measured: a network behind its codec."""

    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Return outputs for encoded examples."""

    def predict(self, raws: Any) -> list[dict[str, Any]]:
        """Return predictions for a batch of examples as a request holds them."""


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
    rounds: dict[str, list[float]] = field(default_factory=lambda: {"p50_ms": [], "cpu_ms": [], "rows_per_s": []})
    """Of each round its own figure: two models are compared round by round, in which they met the same machine."""

    def figures(self) -> dict[str, Any]:
        """Return the measure of this model's speed.

        `latency_ms` and the throughput are the network's alone; the end-to-end figures and the CPU time begin with a
        raw example and end with the answer, without HTTP.
        """
        return {
            "latency_ms": _milliseconds(self.single_s),
            "end_to_end_latency_ms": _milliseconds(self.end_to_end_s),
            "throughput_rows_per_s": round(BATCH_ROWS / float(np.median(self.batch_s)), 1),
            "cpu_ms_per_prediction": round(float(np.median(self.end_to_end_cpu_s)) * 1000, 5),
            "rounds": {name: [round(each, 5) for each in values] for name, values in self.rounds.items()},
        }

    def take_turn(self, turn: Turn, singles: list[np.ndarray], batches: list[np.ndarray], raws: list[Any]) -> None:
        """Answer as often as `turn` says, and note the times."""
        self.before_turn()
        for index in range(turn.warm_up):
            self.model.run(singles[index % len(singles)])
        single_s = times(self.model.run, singles, turn.singles)
        batch_s = times(self.model.run, batches, turn.batches)
        self.model.predict(raws[0])
        begun = time.process_time()
        self.end_to_end_s += times(self.model.predict, raws, turn.end_to_end)
        cpu_s = (time.process_time() - begun) / turn.end_to_end
        self.single_s += single_s
        self.batch_s += batch_s
        self.end_to_end_cpu_s.append(cpu_s)
        self.rounds["p50_ms"].append(float(np.median(single_s)) * 1000)
        self.rounds["cpu_ms"].append(cpu_s * 1000)
        self.rounds["rows_per_s"].append(BATCH_ROWS / float(np.median(batch_s)))


@dataclass(frozen=True)
class Turn:
    """How many answers of each sort a contender gives in each of its turns."""

    warm_up: int = WARM_UP
    singles: int = SINGLE_ROWS
    batches: int = BATCHES
    end_to_end: int = END_TO_END_ROWS

    @classmethod
    def within(cls, budget_s: float, turn_s: float) -> Turn:
        """Return the full turn, or as much of it as `budget_s` holds when all contenders' full turns take `turn_s`."""
        share = min(1.0, budget_s / ROUNDS / max(turn_s, 1e-9))
        least = (LEAST, LEAST, LEAST_BATCHES, LEAST)
        every = zip(least, (WARM_UP, SINGLE_ROWS, BATCHES, END_TO_END_ROWS), strict=True)
        return cls(*(max(few, round(full * share)) for few, full in every))


def race(contenders: list[Contender], encoded: np.ndarray, raws: list[Any]) -> None:
    """Let every contender answer single examples and batches, in rounds, a different one beginning each.

    `raws` are batches of one example each, as a client sends them.
    """
    singles = [np.array(encoded[i : i + 1]) for i in range(min(len(encoded), SINGLE_ROWS))]
    batches = [
        np.array(encoded[np.arange(start, start + BATCH_ROWS) % len(encoded)])
        for start in range(0, min(len(encoded), BATCH_ROWS * BATCHES), BATCH_ROWS)
    ]
    turn = Turn.within(RACE_S, sum(_full_turn_s(one, singles[0], batches[0], raws[0]) for one in contenders))
    for number in range(ROUNDS):
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            contender.take_turn(turn, singles, batches, raws)


def _full_turn_s(contender: Contender, single: np.ndarray, batch: np.ndarray, raws: Any) -> float:
    """Return about how long a full turn takes."""
    contender.before_turn()
    contender.model.predict(raws)  # the first answer of a network takes longer than all others
    one, many, answer = (
        min(times(call, [given], 2))
        for call, given in (
            (contender.model.run, single),
            (contender.model.run, batch),
            (contender.model.predict, raws),
        )
    )
    return (WARM_UP + SINGLE_ROWS) * one + BATCHES * many + END_TO_END_ROWS * answer


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
        "rounds": {
            "p50_ms": figures[chosen["latency"]]["rounds"]["p50_ms"],
            "cpu_ms": figures[chosen["energy"]]["rounds"]["cpu_ms"],
            "rows_per_s": figures[chosen["throughput"]]["rounds"]["rows_per_s"],
        },
        "throughput_rows_per_s": figures[chosen["throughput"]]["throughput_rows_per_s"],
        "cpu_ms_per_prediction": figures[chosen["energy"]]["cpu_ms_per_prediction"],
    }
    return best, chosen


def fresh_memory_mib(module: str, original: Path, example: np.ndarray) -> float:
    """Return the largest resident size of a fresh process in which `module` answers one example with the original."""
    jobs = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "example.npy", example)
        told = subprocess.run(
            [sys.executable, "-m", module, str(original), str(Path(folder) / "example.npy")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": jobs},
            check=False,
        )
    if told.returncode:
        raise JobError(f"the original could not be opened in a fresh process (status {told.returncode})")
    return float(json.loads(told.stdout)["peak_mib"])


def median_single_s(run: Callable[[np.ndarray], Any], encoded: np.ndarray, count: int = 200) -> float:
    """Return the median seconds of answering one encoded example, of `count` answers or of about a second's."""
    row = np.array(encoded[:1])
    run(row)
    longest = max(times(run, [row], LEAST))
    count = min(count, max(LEAST, round(1 / max(longest, 1e-9))))
    times(run, [row], min(WARM_UP, count))
    return float(np.median(times(run, [row], count)))


def times(call: Callable[[Any], Any], arguments: list[Any], count: int, *, most_s: float = float("inf")) -> list[float]:
    """Return the seconds of so many calls, the arguments taken in turn; of fewer, one at least, past `most_s`."""
    seconds: list[float] = []
    first = time.perf_counter()
    for index in range(count):
        argument = arguments[index % len(arguments)]
        begun = time.perf_counter()
        if seconds and begun - first > most_s:
            break
        call(argument)
        seconds.append(time.perf_counter() - begun)
    return seconds


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    found: np.ndarray = np.quantile(seconds, [0.5, 0.99])
    p50, p99 = found
    return {"p50": round(float(p50) * 1000, 5), "p99": round(float(p99) * 1000, 5)}
