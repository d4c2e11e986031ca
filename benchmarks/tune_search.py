"""A grid and Ebb's search over the same box, on one table: tune_search.py CURATED SEEDS EPOCHS OUT [blind] [GRIDS].

Runs in the jobs environment. Both train the product's table network with the product's loop; a grid point is fitted to
its end, the search is the product's (`ebb_jobs.tuning_search`), with its limits. Every figure is of this process's CPU.
GRIDS is a result of before: of seeds that it holds the grid is not fitted again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

import numpy as np

from ebb_jobs import dataset, kinds, knobs, quality, train, tuning, tuning_search
from ebb_jobs.knobs import Turned
from ebb_jobs.ladder import Lesson, Model, Seen
from ebb_jobs.report import Report, cpu_seconds

RATES, WIDTHS, DEPTHS = (0.25, 1.0, 4.0), (0.25, 0.5, 1.0), (1, 2, 3)
"""The grid: multiples of the recipe's rate and width, and hidden layers. Three of each, 27 points."""
BOX = (
    dataclasses.replace(knobs.RATE, levels=RATES),
    dataclasses.replace(knobs.WIDTH, levels=WIDTHS),
    dataclasses.replace(knobs.DEPTH, levels=DEPTHS),
)
RUNG = "net"


def lesson_of(curated: Path, epochs: int, seed: int, folder: Path) -> tuple[Lesson, Any, Any]:
    """Return what the network learns from, as `train` makes it; the rung; and the test rows."""
    schema = dataset.read_schema(curated)
    kind, report = kinds.of(schema), Report("train")
    codec = kind.fit_codec(curated, schema, report)
    training, validation, test = (kind.read_split(curated, name, codec) for name in ("train", "validation", "test"))
    shares = train.class_shares(schema, training)
    metric = quality.choose(schema["task"], shares, None).value
    lesson = Lesson(
        training=training,
        validation=validation,
        codec=codec,
        classes=list(schema["target"].get("classes") or ()),
        recipe=kind.recipe,
        augment=kind.augment,
        metric=metric,
        loss=train.hard_loss(training, shares, metric),
        factors=train.class_factors(shares, metric),
        compare=lambda outputs, rows: train.comparable(outputs, rows, codec),
        wanted={"epochs": epochs},
        seed=seed,
        checkpoints=folder,
        checkpoint_every_s=3600.0,
        fingerprint=str(seed),
        report=report,
        precision="float32",
    )
    rung = next(each for each in kind.rungs(codec, training) if each.name == RUNG)
    return lesson, rung, test


def key_of(trial: tuning_search.Trial) -> str:
    """Return the name under which a trial's model is kept."""
    return json.dumps([trial.turned, trial.origin])


class Bench:
    """Fits of one seed; what each scored on the validation and the test rows."""

    def __init__(self, lesson: Lesson, rung: Any, test: Any) -> None:
        self.lesson, self.rung, self.test = lesson, rung, test
        self.tested: dict[str, float] = {}
        self.models: dict[str, Model] = {}

    def attempt(self, turned: Turned, seen: Seen) -> float:
        """Fit once; the test rows are looked at afterwards, and decide nothing."""
        return self._fitted(turned, seen, {})

    def go_on(self, best: tuning_search.Trial, turned: Turned, seen: Seen) -> float:
        """Go on from the best trial's weights, as the product does."""
        with tempfile.TemporaryDirectory() as folder:
            self.models[key_of(best)].save(Path(folder, "original"))
            wanted = tuning.gone_on(self.lesson.wanted)
            return self._fitted(turned, seen, {"previous": Path(folder), "wanted": wanted}, origin=best.number)

    def _fitted(self, turned: Turned, seen: Seen, other: dict[str, Any], origin: int | None = None) -> float:
        with tempfile.TemporaryDirectory() as folder:
            fingerprint = json.dumps([turned, origin])
            fitted = self.rung.turned(turned)(
                dataclasses.replace(self.lesson, seen=seen, checkpoints=Path(folder), fingerprint=fingerprint, **other)
            )
        found = self.lesson.score(fitted.model.predict(self.lesson.validation.inputs))
        self.models[fingerprint] = fitted.model
        self.tested[fingerprint] = quality.score(
            self.lesson.metric, *self.lesson.compare(fitted.model.predict(self.test.inputs), self.test)
        )
        return found

    def one(self, turned: Turned) -> dict[str, Any]:
        """Return a grid point, fitted to its end."""
        cpu = cpu_seconds()
        curve: list[tuple[int, float]] = []
        found = self.attempt(turned, lambda step, value: curve.append((step, value)))
        return {
            "knobs": turned,
            "validation": found,
            "test": self.tested[json.dumps([turned, None])],
            "cpu_seconds": round(cpu_seconds() - cpu, 3),
            "curve": [[step, round(value, 5)] for step, value in curve],
        }

    def chance(self, found: float) -> float:
        """Return the standard error of a share of these validation rows."""
        return float(np.sqrt(found * (1 - found) / len(self.lesson.validation)))

    def search(self, known: list[tuning_search.Trial], chance: float, **limits: Any) -> dict[str, Any]:
        """Return what the search found and took; the trials that it started from are counted like its own."""
        found = tuning_search.search(
            BOX, self.attempt, tuning_search.Limits(chance=chance, **limits), seed=self.lesson.seed, known=known,
            go_on=self.go_on,
        )  # fmt: skip
        best = found.best
        assert best is not None
        return {
            "validation": best.score,
            "test": self.tested[key_of(best)],
            "knobs": best.turned,
            "fits": len(found.trials),
            "pruned": sum(trial.status == tuning_search.PRUNED for trial in found.trials),
            "stop": found.stop,
            "why": found.why,
            "cpu_seconds": round(sum(trial.cpu_seconds for trial in found.trials), 3),
            "trials": [
                {
                    "knobs": trial.turned,
                    "status": trial.status,
                    "score": trial.score,
                    "looks": trial.looks,
                    "goes_on_from": trial.origin,
                    "cpu_seconds": trial.cpu_seconds,
                }
                for trial in found.trials
            ],
        }


def usual_trial(bench: Bench) -> tuning_search.Trial:
    """Return the recipe as it is, as the ladder climbs it before a search."""
    turned = {knob.name: knob.usual for knob in BOX}
    curve: list[tuple[int, float]] = []
    cpu = cpu_seconds()
    score = bench.attempt(turned, lambda step, value: curve.append((step, value)))
    return tuning_search.Trial(0, turned, tuning_search.FINISHED, score, round(cpu_seconds() - cpu, 3), 0.0, curve)


def blind_trial(bench: Bench, seed: int) -> tuning_search.Trial:
    """Return a first fit drawn blindly from the box: what a search is worth where the recipe is a bad one."""
    random = np.random.default_rng(seed)
    turned = {knob.name: knob.levels[random.integers(len(knob.levels))] for knob in BOX}
    curve: list[tuple[int, float]] = []
    cpu = cpu_seconds()
    score = bench.attempt(turned, lambda step, value: curve.append((step, value)))
    return tuning_search.Trial(0, turned, tuning_search.FINISHED, score, round(cpu_seconds() - cpu, 3), 0.0, curve)


def main() -> int:
    """Measure; write one JSON document with every fit."""
    curated, seeds, epochs, out = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[4])
    blind = "blind" in sys.argv[5:]
    files = [Path(each) for each in sys.argv[5:] if each != "blind"]
    before = json.loads(files[0].read_text()) if files else {"epochs": None, "fits": {}}
    grids = {seed: one["grid"] for seed, one in before["fits"].items() if before["epochs"] == epochs}
    document: dict[str, Any] = {"seeds": {}}
    for number, seed in enumerate(map(int, seeds)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(*lesson_of(curated, epochs, seed, Path(folder)))
            parts = {"train": bench.lesson.training, "validation": bench.lesson.validation, "test": bench.test}
            rows = {name: len(split) for name, split in parts.items()}
            if number == 0:
                usual_trial(bench)  # what PyTorch does once in a process is nobody's cost
            first = usual_trial(bench)
            assert first.score is not None
            chance = bench.chance(first.score)
            searched = bench.search([first], chance)
            unaided = bench.search([blind_trial(bench, seed)], chance) if blind else None
            points = grids.get(str(seed)) or [
                bench.one({knobs.RATE.name: rate, knobs.WIDTH.name: width, knobs.DEPTH.name: depth})
                for rate, width, depth in itertools.product(RATES, WIDTHS, DEPTHS)
            ]
            document |= {"metric": bench.lesson.metric, "rows": rows, "epochs": epochs}
            document["seeds"][str(seed)] = {
                "grid": points, "search": searched, "blind": unaided, "usual": first.score, "chance": chance,
                "usual_cpu_seconds": first.cpu_seconds,
                "usual_test": bench.tested[key_of(first)],
            }  # fmt: skip
            out.write_text(json.dumps(document) + "\n")
            total = sum(point["cpu_seconds"] for point in points)
            best = max(points, key=lambda point: point["validation"])
            print(
                f"seed {seed}: grid {best['validation']:.4f} in {total:.1f} CPU s, search {searched['validation']:.4f} "
                f"in {searched['cpu_seconds'] / total:.1%} ({searched['fits']} fits, {searched['why']}), the recipe as "
                f"it is {first.score:.4f} in {first.cpu_seconds / total:.1%}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
