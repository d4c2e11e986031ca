"""Runs the product's stages for `make bench-train`, each training on a CPU of its own, and reads what they tell."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inference_data
import numpy as np
from inference_stages import JOBS, JOBS_PYTHON, ROOT, StageError

CACHE = ROOT / ".ebb/bench-inference"
"""Packages and what they hold are shared with `make bench-inference`."""
WORK = ROOT / ".ebb/bench-train"


@dataclass(frozen=True)
class Recipe:
    """A way to train: the section `train` of its specification, and levers that are set otherwise than the product's.

    `at_best` counts the CPU until its best epoch on validation, as if it had been known when to stop.
    """

    name: str
    train: dict[str, Any]
    levers: dict[str, Any] = field(default_factory=dict)
    at_best: bool = False


@dataclass(frozen=True)
class Trained:
    """What came out of a training."""

    recipe: Recipe
    seed: int
    cpu_s: float
    """Until its own stop, the choice of precision and threads and the looks at the validation rows included."""
    epochs: int
    stop: str
    validation: float
    test: float
    precision: str
    curve: tuple[tuple[float, float], ...]
    """(CPU seconds, quality on the validation rows) after each epoch."""
    levers: list[dict[str, str]]
    right: np.ndarray
    """Of each test row, whether it was told rightly."""
    kept: bool
    """It was trained before, by the same code."""


def pictures(count: int) -> Path:
    """Return the folder of a drop: `count` training pictures of Fashion-MNIST, evenly taken, and all test pictures."""
    folder = CACHE / "drops" / f"image-{count}"
    made = folder / "fashion.zip"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(inference_data.drop("image", CACHE) / "fashion.zip") as whole:
            names = sorted(whole.namelist(), key=lambda name: name.rpartition("/")[2])
            learned = [name for name in names if name.startswith("train/")]
            kept = [learned[number * len(learned) // count] for number in range(min(count, len(learned)))]
            kept += [name for name in names if name.startswith("test/")]
            partial = made.with_suffix(".partial")
            with zipfile.ZipFile(partial, "w") as some:
                for name in kept:
                    some.writestr(name, whole.read(name))
        os.replace(partial, made)
    return folder


def curated(drop: Path) -> Path:
    """Return what the product's stage `process` makes of a drop; it is kept."""
    base = WORK / f"process-{drop.name}"
    if not (base / "whole").exists():
        _run(base, "process", {"data": drop}, {}, [str(JOBS / "run.py"), "process"])
        (base / "whole").touch()
    return base / "processing/output/curated"


def trained(recipe: Recipe, seed: int, data: Path, cpu: int) -> Trained:
    """Train on one CPU and return what came out. Raises StageError."""
    settings = {"spec": {"train": recipe.train}, "levers": recipe.levers, "seed": seed}
    base = WORK / f"{recipe.name.replace(' ', '-')}-{seed}-{_hash(settings, data)}"
    kept = (base / "whole").exists()
    if not kept:
        _run(base, "train", {"curated": data}, settings, [str(ROOT / "benchmarks/train_stage.py"), str(cpu)])
        (base / "whole").touch()
    report = json.loads((base / "model/metrics.json").read_text())
    rung = next(each for each in report["rungs"] if each["name"] == report["rung"])
    history = rung["history"]
    best = max(range(len(history)), key=lambda epoch: history[epoch][1])
    return Trained(
        recipe,
        seed,
        # the rung's own count lacks what it took before an interruption; its epochs' has that
        history[best][2] if recipe.at_best else max(rung["cpu_seconds"], history[-1][2]),
        best + 1 if recipe.at_best else len(history),
        "its best epoch" if recipe.at_best else rung["stop"],
        report["quality"]["validation"],
        report["quality"]["test"],
        report["precision"],
        tuple((cpu_s, found) for _, found, cpu_s in history),
        rung["levers"],
        np.load(base / "model/right.npy"),
        kept,
    )


def _hash(settings: dict[str, Any], data: Path) -> str:
    """Name what decides a training: its settings, its pixels and the product's code."""
    told = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in [data / "train.pixels.npy", *sorted((JOBS / "ebb_jobs").rglob("*.py"))]:
        told.update(hashlib.sha256(file.read_bytes()).digest())
    return told.hexdigest()[:12]


def side_by_side(
    jobs: Sequence[tuple[Recipe, int]],
    data: Path,
    told: Callable[[Trained], None],
    cpus: Iterable[int],
    *,
    missing: Callable[[str], None] | None = None,
) -> list[Trained]:
    """Train all, as many at a time as there are CPUs, each on its own; in the order in which they were asked for.

    With `missing` a training that fails is told and left out. Raises StageError without it.
    """
    free: queue.Queue[int] = queue.Queue()
    for cpu in cpus:
        free.put(cpu)

    def one(job: tuple[Recipe, int]) -> Trained | None:
        cpu = free.get()
        try:
            found = trained(*job, data, cpu)
        except StageError as error:
            if missing is None:
                raise
            missing(f"{job[0].name}, seed {job[1]}: {error}")
            return None
        finally:
            free.put(cpu)
        told(found)
        return found

    with ThreadPoolExecutor(free.qsize()) as pool:
        return [found for found in pool.map(one, jobs) if found is not None]


def _run(base: Path, stage: str, inputs: dict[str, Path], settings: dict[str, Any], arguments: list[str]) -> None:
    """Run a stage as SageMaker runs it; a checkpoint of the same training, which was interrupted, is taken up."""
    for each in ("input", "processing", "output", "model"):
        shutil.rmtree(base / each, ignore_errors=True)
    channels = base / ("processing/input" if stage == "process" else "input/data")
    channels.mkdir(parents=True)
    for name, source in inputs.items():
        (channels / name).symlink_to(source)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EBB_SETTINGS")}
    environment.update(SAGEMAKER_BASE_DIR=str(base), OMP_WAIT_POLICY="PASSIVE", EBB_JOBS=str(JOBS))
    text = json.dumps({"run_id": f"bench-train-{base.name}", **settings})
    if stage == "process":
        environment["EBB_SETTINGS"] = text
    else:
        (base / "input/config").mkdir(parents=True)
        (base / "input/config/hyperparameters.json").write_text(json.dumps({"settings": text}))
    with (base / "log").open("w") as log:
        command = [str(JOBS_PYTHON), *arguments]
        status = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if status.returncode:
        raise StageError(f"{base.name} failed: {(base / 'log').read_text()[-600:]}")
