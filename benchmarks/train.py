"""How much less CPU time the product's training takes to be as accurate: python benchmarks/train.py.

    [--seeds 3] [--pictures 12000] [--no-levers] [--json FILE] [--picture PATH]

The product's own stage trains the product's own network on a part of Fashion-MNIST, with its defaults; beside it stand
the plain recipe (fp32, each channel as one, a constant rate, stopped at its own best validation epoch) and fp32
one-cycle of the product's length. What each of the two reaches on the validation rows is then given to the product as
its `target`, at which it stops. As many trainings run side by side as there are CPUs, each on its own, the recipes of a
seed next to each other. The test rows are looked at once by each; the accuracies are compared row by row. What was
trained is kept under .ebb/bench-train by the hash of its recipe, its data and the product's code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import inference_data
import numpy as np
import train_picture
import train_runs
from inference import machine
from inference_stages import ROOT, StageError
from train_runs import Recipe, Trained

PICTURES = 12_000
"""To learn and to validate: so many that all recipes of three seeds end within 25 minutes on two CPUs."""
RUNG = {"rungs": ["small-net"]}
"""The first network of the product's ladder for pictures: 3 residual blocks of 32, 64 and 128 channels."""
PLAIN_EPOCHS = 14
FP32 = {"bf16": False, "channels_last": False}
EBB = Recipe("ebb", RUNG)
TO_TARGET = "ebb to target"
TO_CYCLE = "ebb to one-cycle"
PLAIN = Recipe(
    "plain",
    {**RUNG, "epochs": PLAIN_EPOCHS},
    {**FP32, "one_cycle": False, "batch": 2.0, "rate": 0.25},
    at_best=True,
)
ONE_CYCLE = Recipe("fp32 one-cycle", RUNG, {**FP32, "batch": 2.0, "rate": 0.5})
WITHOUT = {
    "bf16": {"bf16": False},
    "channels last": {"channels_last": False},
    "one-cycle rate": {"one_cycle": False, "rate": 0.5},
    "small batch, high rate": {"batch": 2.0, "rate": 0.5},
    "varied pictures": {"augmented": False},
}
"""The levers that are on, and what switches each off."""
WITH = {
    "growing pictures": {"growing": [[0.0, 0.5], [0.3, 0.75], [0.6, 1.0]]},
    "label smoothing": {"smoothing": 0.1},
    "averaged weights": {"averaging": 0.99},
    "torch.compile": {"compiled": True},
}
"""The levers that are off, and what switches each on."""
TARGETS = (("plain", TO_TARGET, 1 / 3), ("fp32 one-cycle", TO_CYCLE, 1 / 2))
"""Which recipes are compared: whose accuracy is to be equalled, by which, at what share of its CPU-seconds."""
MOST_BEHIND = 0.005
"""How far below the other recipe's accuracy the interval of Ebb's may reach: chance moves either by as much."""
RESAMPLES = 2000


def main() -> int:
    """Run the benchmark; the exit status says whether every target was met."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3, help="how many seeds, from 7 on (default 3)")
    options.add_argument("--pictures", type=int, default=PICTURES, help="to learn and to validate, of 60,000")
    options.add_argument("--no-levers", action="store_true", help="leave out the table of the levers' shares")
    options.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/train.json")
    options.add_argument("--picture", type=Path, default=ROOT / "docs/training")
    given = options.parse_args()
    begun = time.monotonic()
    seeds = range(7, 7 + given.seeds)
    try:
        data = train_runs.curated(train_runs.pictures(given.pictures))
        jobs = [(recipe, seed) for seed in seeds for recipe in (PLAIN, EBB, ONE_CYCLE)]
        levers = [] if given.no_levers else [(recipe, seeds[0]) for recipe in lever_recipes()]
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
        found = train_runs.side_by_side(jobs, data, _tell, cpus)
        named = {PLAIN.name: TO_TARGET, ONE_CYCLE.name: TO_CYCLE}
        beside = [each for each in found if each.recipe.name in named]
        targets = [(to_target(each.validation, named[each.recipe.name]), each.seed) for each in beside]
        found += train_runs.side_by_side(targets, data, _tell, cpus)
        found += train_runs.side_by_side(levers, data, _tell, cpus, missing=lambda why: print(why, flush=True))
    except (StageError, inference_data.MissingDataError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    document = summed_up(found, given.pictures, time.monotonic() - begun)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join(lines(document)))
    print("written:", given.json, *train_picture.draw(document, given.picture))
    return 0 if all(each["met"] for each in document["compared"].values()) else 1


def summed_up(found: Sequence[Trained], pictures: int, took_s: float) -> dict[str, Any]:
    """Return everything that is reported of all trainings."""
    whole = next(each for each in found if each.recipe.name == EBB.name)
    return {
        "machine": machine(),
        "pictures": pictures,
        "network": "the product's rung small-net",
        "runs": [fields(each) for each in found],
        "compared": {its: compared(found, its, mine, most) for its, mine, most in TARGETS},
        "levers": shares(whole, [each for each in found if each.recipe.name.startswith(("with ", "without "))]),
        "kept_from_before": sum(each.kept for each in found),
        "cpu_s": round(sum(each.cpu_s for each in found), 1),
        "took_s": round(took_s, 1),
    }


def to_target(validation: float, name: str = TO_TARGET) -> Recipe:
    """Return the product's recipe for somebody who knows what quality is needed."""
    return Recipe(name, {**RUNG, "target": validation})


def lever_recipes() -> list[Recipe]:
    """Return Ebb's recipe without each lever that is on, and with each that is off."""
    return [
        *(Recipe(f"without {name}", EBB.train, levers) for name, levers in WITHOUT.items()),
        *(Recipe(f"with {name}", EBB.train, levers) for name, levers in WITH.items()),
    ]


def compared(runs: Sequence[Trained], its: str, mine: str, most: float) -> dict[str, Any]:
    """Return how a recipe of Ebb's stands against another: CPU time and accuracy, seed by seed and of all seeds.

    The interval of the difference in accuracy is a paired bootstrap over the test rows, the seeds' mean in each: the
    same rows are told by both. Met is a share of CPU of at most `most` at an accuracy that is not lower beyond chance.
    """
    by_seed = [
        {each.recipe.name: each for each in runs if each.seed == seed} for seed in sorted({r.seed for r in runs})
    ]
    pairs = [(each[mine], each[its]) for each in by_seed]
    by_row = np.mean([one.right.astype(float) - other.right for one, other in pairs], axis=0)
    drawn = np.random.default_rng(0).integers(0, len(by_row), (RESAMPLES, len(by_row)))
    low, high = np.quantile(by_row[drawn].mean(1), [0.025, 0.975])
    cpu = [one.cpu_s / other.cpu_s for one, other in pairs]
    mean = sum(one.cpu_s for one, _ in pairs) / sum(other.cpu_s for _, other in pairs)
    return {
        "by": mine,
        "share_of_cpu": mean,
        "share_of_cpu_by_seed": cpu,
        "target_share": most,
        "gain": float(by_row.mean()),
        "gain_low": float(low),
        "gain_high": float(high),
        "gain_by_seed": [one.test - other.test for one, other in pairs],
        "met": bool(mean <= most and low >= -MOST_BEHIND),
    }


def shares(whole: Trained, others: Sequence[Trained]) -> list[dict[str, Any]]:
    """Return what each lever gives: CPU time and test accuracy with it against without it, all others as they are."""
    found = []
    for each in others:
        how, _, lever = each.recipe.name.partition(" ")
        on, off = (whole, each) if how == "without" else (each, whole)
        found.append(
            {
                "lever": lever,
                "used": how == "without",
                "cpu_s": each.cpu_s,
                "test": each.test,
                "share_of_cpu": on.cpu_s / off.cpu_s,
                "gain": on.test - off.test,
            }
        )
    return found


def fields(each: Trained) -> dict[str, Any]:
    """Return a training as JSON."""
    return {
        "recipe": each.recipe.name,
        "train": each.recipe.train,
        "levers_set": each.recipe.levers,
        "seed": each.seed,
        "cpu_s": each.cpu_s,
        "epochs": each.epochs,
        "stop": each.stop,
        "validation": each.validation,
        "test": each.test,
        "precision": each.precision,
        "curve": each.curve,
        "levers": each.levers,
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Give the tables."""
    about = found["machine"]
    yield f"\n{about['processor']}, {about['cpus']} CPUs ({', '.join(about['features'])}), {about['date']}"
    yield f"{'recipe':26}{'seed':>5}{'CPU s':>9}{'epochs':>8}{'validation':>12}{'test':>9}  ended by"
    for run in found["runs"]:
        yield (
            f"{run['recipe']:26}{run['seed']:>5}{run['cpu_s']:>9.1f}{run['epochs']:>8}{run['validation']:>12.4f}"
            f"{run['test']:>9.4f}  {run['stop']}, {run['precision']}"
        )
    for name, one in found["compared"].items():
        by_seed = ", ".join(f"{share:.0%}" for share in one["share_of_cpu_by_seed"])
        yield (
            f"{'met   ' if one['met'] else 'MISSED'} {one['by']} against {name}: {one['share_of_cpu']:.0%} of its "
            f"CPU-seconds ({by_seed}; at most {one['target_share']:.0%}), test accuracy {100 * one['gain']:+.2f} "
            f"points ({100 * one['gain_low']:+.2f} to {100 * one['gain_high']:+.2f})"
        )
    if found["levers"]:
        yield f"\n{'lever (one seed)':26}{'default':>9}{'CPU with it':>13}{'test accuracy with it':>24}"
    for one in found["levers"]:
        yield (
            f"{one['lever']:26}{'on' if one['used'] else 'off':>9}{one['share_of_cpu']:>13.0%}"
            f"{100 * one['gain']:>+17.2f} points"
        )


def _tell(each: Trained) -> None:
    kept = ", kept from before" if each.kept else ""
    print(f"{each.recipe.name}, seed {each.seed}: {each.cpu_s:.1f} CPU-s, test {each.test:.4f}{kept}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
