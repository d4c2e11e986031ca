"""The search replayed over recorded fits, for many of its seeds at once: python tune_replay.py [HALVINGS] [SEARCHES].

Runs in the jobs environment, in seconds: nothing is fitted. `results/tune-curves.json` holds the looks and the CPU
seconds of each grid point, of data and of a seed that `make bench-tune` does not report. So settings of the search are
judged by what they do on average, not by one search's luck; a fit that no grid point is cannot be replayed.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

import tune_search

from ebb_jobs import tuning_search
from ebb_jobs.ladder import Seen

CURVES = Path(__file__).resolve().parent / "results/tune-curves.json"
Shape = tuple[float, float]


def shape_of(knobs: Mapping[str, float]) -> Shape:
    """Return what decides how long an epoch takes."""
    return knobs["width"], knobs["depth"]


class Recorded:
    """The fits of one grid, played back; an epoch of a shape costs what its least disturbed fit took."""

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        self.grid, self.chance = recorded["grid"], recorded["chance"]
        self._epochs = recorded["planned_epochs"]
        self._epoch_s: dict[Shape, float] = {}
        for fit in self.grid:
            shape, took = shape_of(fit["knobs"]), fit["cpu_seconds"] / fit["epochs"]
            self._epoch_s[shape] = min(took, self._epoch_s.get(shape, took))
        self.seconds = sum(fit["epochs"] * self._epoch_s[shape_of(fit["knobs"])] for fit in self.grid)
        self.best = max(self.grid, key=lambda fit: fit["validation"])
        self.spent = 0.0

    def fit_of(self, turned: Mapping[str, float]) -> dict[str, Any]:
        """Return the grid point with these knobs."""
        return next(fit for fit in self.grid if all(fit["knobs"][name] == value for name, value in turned.items()))

    def attempt(self, turned: Mapping[str, float], seen: Seen) -> float:
        """Play a fit back to its end, or until `seen` ends it."""
        fit = self.fit_of(turned)
        each_s, done = self._epoch_s[shape_of(turned)], 0
        for step, value in fit["curve"]:
            come = min(fit["epochs"], max(done + 1, -(-step * self._epochs // 12)))
            self.spent += (come - done) * each_s
            done = come
            seen(step, value)
        self.spent += (fit["epochs"] - done) * each_s
        return fit["validation"]

    def searched(self, seed: int) -> tuple[float, float]:
        """Return the share of the grid's CPU that a search used, and how far behind its best it stayed."""
        self.spent = 0.0
        limits = tuning_search.Limits(chance=self.chance)
        found = tuning_search.search(tune_search.BOX, self.attempt, limits, seed=seed).best
        assert found is not None
        return self.spent / self.seconds, self.best["validation"] - (found.score or 0.0)


def main() -> int:
    """Print what each setting does."""
    halvings = [int(one) for one in (sys.argv[1] if len(sys.argv) > 1 else "2,3,4").split(",")]
    searches = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    print(f"{searches} searches each, mean; the share of the grid's CPU counts the recipe's own fit")
    for name, recorded in json.loads(CURVES.read_text()).items():
        played = Recorded(recorded)
        for tuning_search.HALVING in halvings:
            shares, gaps = zip(*(played.searched(seed) for seed in range(searches)), strict=True)
            print(
                f"{name}, one of {tuning_search.HALVING} goes on: {statistics.fmean(shares):.1%} of the CPU, "
                f"{statistics.fmean(gaps) * 100:.2f} points behind",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
