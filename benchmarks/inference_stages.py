"""The product's four stages, run as SageMaker runs them, and what they made kept under the hash of its recipe."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
JOBS_PYTHON = ROOT / ".venvs/jobs/bin/python"
JOBS = Path(os.environ.get("EBB_JOBS") or ROOT / "jobs")
PROCESSING = ("process", "compile")
CODE = {
    "process": ("process*", "sql", "tables", "typing_rules", "image", "text"),
    "train": ("train", "fitting", "step_threads", "gradient", "ladder", "linear", "networks", "*_networks", "kinds/*"),
    "compress": (
        "compress",
        "candidates",
        "search",
        "fitting",
        "step_threads",
        "export",
        "networks",
        "*_networks",
        "quality",
        "kinds/*",
    ),
}
"""Stage -> the modules of `ebb_jobs` that decide what it makes."""
CODE_IN_KEY = ("compress",)
"""Stages that run anew when their code has changed. What took long to learn stays: that other code made it is told."""


@dataclass(frozen=True)
class Task:
    """One of the benchmark's models."""

    name: str
    title: str
    spec: dict[str, Any]
    recipe: dict[str, Any]
    """What decides the trained network besides data, specification and seed; a change makes it anew."""


class StageError(Exception):
    """A stage ended badly; the message is its failure file's."""


class Runs:
    """The stages of one task and seed."""

    def __init__(
        self, task: Task, drop: Path, encoder: Path, seed: int, cache: Path, fresh: frozenset[str] = frozenset()
    ) -> None:
        self.task, self.seed, self.encoder, self.cache, self.fresh = task, seed, encoder, cache, set(fresh)
        self.made_by: dict[str, dict[str, str]] = {}
        """Stage -> the hash of the code that made what is used, and of that code as it is now."""
        self.settings = {"spec": task.spec, "seed": seed, "run_id": f"bench-{task.name}-{seed}"}
        self.data = drop
        files = sorted((each.name, hashlib.sha256(each.read_bytes()).hexdigest()) for each in drop.iterdir())
        self._recipe = [task.name, task.recipe, task.spec, files, seed]

    def process(self) -> Path:
        """Return the curated data."""
        base = self._kept("process", {"data": self.data}, {}) / "processing/output"
        if rejection := report(base / "report").get("rejection"):
            raise StageError(f"{self.task.name}: process rejected the data: {rejection['message']}")
        return base / "curated"

    def train(self) -> Path:
        """Return the original network with its report."""
        return self._kept("train", {"curated": self.process()}, {}) / "model"

    def compress(self) -> Path:
        """Return the candidates with their report."""
        inputs = {"curated": self.process(), "original": self.train()}
        return self._kept("compress", inputs, self.task.recipe.get("compress", {})) / "model"

    def compile(self, folder: Path) -> Path:
        """Return the base directory of a fresh measurement: it is never taken from the cache."""
        inputs = {"curated": self.process(), "original": self.train(), "candidates": self.compress()}
        self._run("compile", inputs, folder)
        return folder

    def _kept(self, stage: str, inputs: dict[str, Path], more: dict[str, Any]) -> Path:
        now = code(stage)
        if stage in CODE_IN_KEY:
            more = {**more, "code": now}
        told = json.dumps([stage, self._recipe, more], sort_keys=True)
        folder = self.cache / "runs" / f"{self.task.name}-{stage}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        whole = folder / "whole"
        if stage in self.fresh:
            shutil.rmtree(folder, ignore_errors=True)
            self.fresh.remove(stage)  # it is asked for again by the stages that follow
        if not whole.exists():
            self._run(stage, inputs, folder)
            whole.write_text(json.dumps({"code": now}))
        self.made_by[stage] = {"code": json.loads(whole.read_text() or "{}").get("code", "not recorded"), "now": now}
        return folder

    def _run(self, stage: str, inputs: dict[str, Path], base: Path) -> None:
        """Run a stage in a process of its own; a checkpoint of an earlier, interrupted run is taken up."""
        for each in ("input", "processing", "output", "model"):
            shutil.rmtree(base / each, ignore_errors=True)
        channels = base / ("processing/input" if stage in PROCESSING else "input/data")
        channels.mkdir(parents=True)
        for name, source in inputs.items():
            (channels / name).symlink_to(source)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EBB_SETTINGS")}
        environment.update(SAGEMAKER_BASE_DIR=str(base), OMP_WAIT_POLICY="PASSIVE", EBB_JOBS=str(JOBS))
        text = json.dumps(self.settings)
        if stage in PROCESSING:
            environment["EBB_SETTINGS"] = text
        else:
            (base / "input/config").mkdir(parents=True)
            (base / "input/config/hyperparameters.json").write_text(json.dumps({"settings": text}))
        command = [str(JOBS_PYTHON), str(JOBS / "run.py"), stage]
        if stage == "train":
            command = [str(JOBS_PYTHON), str(ROOT / "benchmarks/inference_train.py"), self.task.name, str(self.encoder)]
        begun = time.monotonic()
        print(f"{self.task.name} {self.seed}: {stage} ...", flush=True)
        with (base / "log").open("w") as log:
            status = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        if status.returncode:
            failure = next((file for file in (base / "output").glob("*") if file.is_file()), base / "log")
            raise StageError(f"{self.task.name}: {stage} failed: {failure.read_text()[-600:]}")
        print(f"{self.task.name} {self.seed}: {stage} took {time.monotonic() - begun:.0f} s", flush=True)


TASKS = {
    each.name: each
    for each in (
        Task(
            "image",
            "Fashion-MNIST, residual convolutions",
            {"train": {"epochs": 14, "rungs": ["net"]}},
            {"network": "the product's for 10,000 pictures or more, its recipe for clothes", "version": 2},
        ),
        Task(
            "tabular",
            "LetterRecognition, multilayer perceptron",
            {"train": {"rungs": ["net"]}},
            {"network": "4 hidden layers of 1024", "steps": 3000, "peak_rate": 1e-3, "version": 1},
        ),
        Task(
            "text",
            "SpamAssassin, from MiniLM",
            {"train": {"rungs": ["encoder"]}},
            {"network": "all-MiniLM-L6-v2", "epochs": 2, "tokens": 64, "version": 1},
        ),
    )
}


@functools.cache
def code(stage: str) -> str:
    """Return a hash of the modules that decide what a stage makes, as they are when they are first asked for."""
    hashed = hashlib.sha256()
    files = {file for name in CODE[stage] for file in (JOBS / "ebb_jobs").glob(f"{name}.py")}
    for file in sorted(files):
        hashed.update(file.relative_to(JOBS).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return hashed.hexdigest()[:16]


def report(base: Path) -> dict[str, Any]:
    """Return a stage's report."""
    found: dict[str, Any] = json.loads((base / "metrics.json").read_text())
    return found


def only(names: list[str], call: Callable[[str], Any]) -> dict[str, Any]:
    """Return what `call` makes of each name; a task that fails is told and stops no other."""
    made = {}
    for name in names:
        try:
            made[name] = call(name)
        except StageError as error:
            print(error, file=sys.stderr, flush=True)
    return made
