"""`make bench-tune`: Ebb's search over a recipe's knobs against a grid of 27 points, on real data.

LetterRecognition (20,000 drawn capitals, from a Debian package, by hash) goes through the product's processing; grid
and search train the product's table network in the same box of rate, width and depth, for as many epochs. The grid
fits every point to its end. The search starts with the recipe as it is, draws from TPE, ends by ASHA what falls behind,
and stops by its own rule, which knows nothing of the grid. Both choose on the validation rows; the test rows are
reported. Every figure is CPU time of one thread, which the two have for themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import inference_data
import quality as stages

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".ebb/bench-tune"
RESULT = ROOT / "benchmarks/results/tune.json"
LOOKS = 12
"""Into so many parts a fit's way is divided, as `ebb_jobs.gradient` has it."""
GOING_ON = 0.4
"""Of a fit's epochs, where it goes on from another one's weights, as `ebb_jobs.tuning_search` has it."""
MOST_SHARE, MOST_BEHIND = 0.20, 0.002
"""Of the grid's CPU time; of its best validation accuracy."""


def curated() -> Path:
    """Return the processed rows, made once."""
    done = WORK / "process/processing/output/curated"
    if not (WORK / "whole").exists():
        (WORK / "data").mkdir(parents=True, exist_ok=True)
        inference_data.letters(stages.CACHE, WORK / "data")
        stages.run_stage("process", {"data": WORK / "data"}, WORK / "process", "letter")
        (WORK / "whole").touch()
    return done


def searched(rows: Path, seeds: list[int], epochs: int, *, blind: bool, grids: Path | None) -> dict[str, Any]:
    """Return what the grid and the search did, from a process of one thread that has PyTorch and optuna."""
    out = WORK / "found.json"
    script = ROOT / "benchmarks/tune_search.py"
    command = [str(stages.JOBS_PYTHON), str(script), str(rows), ",".join(map(str, seeds)), str(epochs), str(out)]
    command += [*(["blind"] if blind else []), *([str(grids)] if grids else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("seed "):
                print(line, end="", flush=True)
    if running.returncode:
        raise RuntimeError(f"the search failed with status {running.returncode}")
    return json.loads(out.read_text())


def grid_seconds(points: list[dict[str, Any]]) -> float:
    """Return the CPU seconds of a grid. A fit takes as long at any rate: of each shape the least counts for all.

    So fits that something else disturbed make no grid dearer than it is, and no search cheaper.
    """
    shapes: dict[tuple[float, float], list[float]] = {}
    for point in points:
        shapes.setdefault((point["knobs"]["width"], point["knobs"]["depth"]), []).append(point["cpu_seconds"])
    return sum(len(taken) * min(taken) for taken in shapes.values())


def least_seconds(points: list[dict[str, Any]]) -> dict[tuple[float, float], float]:
    """Return the CPU seconds of each shape's least disturbed fit of a grid."""
    least: dict[tuple[float, float], float] = {}
    for point in points:
        shape = (point["knobs"]["width"], point["knobs"]["depth"])
        least[shape] = min(least.get(shape, math.inf), point["cpu_seconds"])
    return least


def undisturbed_seconds(trials: list[dict[str, Any]], points: list[dict[str, Any]]) -> float:
    """Return the CPU seconds of a search counted as the grid's are: of each fit its way, at its shape's least time."""
    least = least_seconds(points)
    return sum(
        least[trial["knobs"]["width"], trial["knobs"]["depth"]]
        * (GOING_ON if trial.get("goes_on_from") is not None else 1.0)
        * (1.0 if trial["status"] == "finished" else trial["looks"] / LOOKS)
        for trial in trials
    )


SHARES = (0.16, 0.18, 0.20, 0.22, 0.25, 0.30)


def best_for(one: dict[str, Any], share: float) -> tuple[float, float]:
    """Return how far behind its best a grid's points stay, and the share used, for who knows all and wastes nothing.

    The recipe's own fit is paid, as the ladder pays it; then one whole fit, if it still goes into `share` of the grid's
    CPU. No search that finishes whole fits of this box does better for as much.
    """
    whole, best = grid_seconds(one["grid"]), max(point["validation"] for point in one["grid"])
    paid = one["usual_cpu_seconds"]
    least = least_seconds(one["grid"])
    dearer = [
        (point["validation"], -(paid + least[point["knobs"]["width"], point["knobs"]["depth"]]))
        for point in one["grid"]
    ]
    found, used = max([(one["usual"], -paid), *(each for each in dearer if -each[1] <= share * whole)])
    return best - found, -used / whole


def clairvoyant(seeds: dict[str, Any]) -> list[dict[str, float]]:
    """Return the frontier of cost against gap, means over the seeds; see `best_for`."""
    each = {share: [best_for(one, share) for one in seeds.values()] for share in SHARES}
    return [
        {
            "allowed": share,
            "used": statistics.fmean(used for _, used in found),
            "behind": statistics.fmean(behind for behind, _ in found),
        }
        for share, found in each.items()
    ]


def compared(one: dict[str, Any], way: str) -> dict[str, Any]:
    """Return one seed's search against its grid; points are shares of 1."""
    grid_s = grid_seconds(one["grid"])
    best = max(one["grid"], key=lambda point: point["validation"])
    found = one[way]
    return {
        "share": found["cpu_seconds"] / grid_s,
        "share_undisturbed": undisturbed_seconds(found["trials"], one["grid"]) / grid_s,
        "share_beyond_recipe": (found["cpu_seconds"] - one["usual_cpu_seconds"]) / (grid_s - one["usual_cpu_seconds"])
        if way == "search"
        else None,
        "grid_cpu_seconds": grid_s,
        "validation": found["validation"],
        "grid_validation": best["validation"],
        "behind": best["validation"] - found["validation"],
        "test": found["test"],
        "grid_test": best["test"],
        "test_behind": best["test"] - found["test"],
        "usual_behind": best["validation"] - one["usual"],
        "fits": found["fits"],
        "pruned": found["pruned"],
        "stop": found["stop"],
    }


def summary(measured: dict[str, Any], way: str) -> dict[str, Any]:
    """Return the means over the seeds, their spread, and whether the targets are met."""
    each = {seed: compared(one, way) for seed, one in measured["seeds"].items()}
    means = {
        name: statistics.fmean(one[name] for one in each.values())
        for name in ("share", "share_undisturbed", "behind", "test_behind")
    }
    return {
        "seeds": each,
        "mean": means,
        "share_spread": [min(one["share"] for one in each.values()), max(one["share"] for one in each.values())],
        "behind_spread": [min(one["behind"] for one in each.values()), max(one["behind"] for one in each.values())],
        # both counted alike: what disturbed a fit is neither the search's cost nor the grid's
        "met": means["share_undisturbed"] <= MOST_SHARE and means["behind"] <= MOST_BEHIND,
    }


def without_curves(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a grid's points without their looks, which only a replay needs."""
    return [{name: told for name, told in point.items() if name != "curve"} for point in points]


def lines(document: dict[str, Any]) -> Iterator[str]:
    """Give the table of the results."""
    head = (
        "seed",
        "start",
        "share of CPU",
        "as measured",
        "validation",
        "grid",
        "behind",
        "test",
        "grid",
        "fits",
        "ended early",
        "stop",
    )
    form = "{:<5} {:<7} {:>12} {:>11} {:>11} {:>8} {:>9} {:>8} {:>8} {:>5} {:>12}  {}"
    yield form.format(*head)
    for start, way in (("recipe", "search"), *((("blind", "blind"),) if document["blind"] else ())):
        for seed, one in document[way]["seeds"].items():
            yield form.format(
                seed, start, f"{one['share_undisturbed']:.1%}", f"{one['share']:.1%}", f"{one['validation']:.2%}",
                f"{one['grid_validation']:.2%}", f"{one['behind'] * 100:+.2f} pt", f"{one['test']:.2%}",
                f"{one['grid_test']:.2%}", one["fits"], one["pruned"], one["stop"],
            )  # fmt: skip
        mean = document[way]["mean"]
        cost = f"{mean['share_undisturbed']:>12.1%} {mean['share']:>11.1%}"
        told = "met" if document[way]["met"] else "missed"
        yield (
            f"mean  {start:<7} {cost} {'':>20} {mean['behind'] * 100:>+6.2f} pt   "
            f"on the test rows {mean['test_behind'] * 100:+.2f} pt"
            + (f"; {told}: at most 20 % of the CPU at the grid's best less 0.2 pt" if way == "search" else "")
        )


def frontier_lines(points: list[dict[str, float]]) -> Iterator[str]:
    """Give what nobody could better: for so much CPU, so far behind."""
    yield "who knows every outcome, and fits the recipe and one more point to their ends:"
    for point in points:
        told = f"{point['behind'] * 100:+.2f} pt behind, {point['used']:.1%} used"
        yield f"  for {point['allowed']:.0%} of the grid's CPU: {told}"


def main() -> int:
    """Run the comparison, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="about ten minutes each, one core alone")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--blind", action="store_true", help="search once more from a point drawn blindly")
    parser.add_argument("--grids", type=Path, help="a result whose grids are not fitted again")
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    begun = time.monotonic()
    measured = searched(curated(), list(range(1, asked.seeds + 1)), asked.epochs, blind=asked.blind, grids=asked.grids)
    document = {
        "measured": datetime.now(UTC).date().isoformat(),
        "data": "LetterRecognition",
        **{name: measured[name] for name in ("metric", "rows", "epochs")},
        "processor": next(
            (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown"
        ),
        "features": sorted({"avx2", "avx512f", "avx512_bf16", "amx_bf16"} & set(_flags())),
        "precision": "float32",
        "seconds": round(time.monotonic() - begun, 1),
        "search": summary(measured, "search"),
        "clairvoyant": clairvoyant(measured["seeds"]),
        "blind": summary(measured, "blind") if asked.blind else None,
        "fits": {seed: one | {"grid": without_curves(one["grid"])} for seed, one in measured["seeds"].items()},
    }
    asked.output.write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join([*lines(document), *frontier_lines(document["clairvoyant"])]))
    return 0 if document["search"]["met"] else 1


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return list(itertools.islice(file.read_text().splitlines(), 40)) if file.exists() else []


def _flags() -> list[str]:
    return next((line.partition(":")[2].split() for line in _cpuinfo() if line.startswith("flags")), [])


if __name__ == "__main__":
    sys.exit(main())
