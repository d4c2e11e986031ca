"""Stages run as SageMaker runs them: a process of their own, under a base directory, with settings as they travel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb_jobs import bundle, entry

HERE = Path(__file__).parent
RUN = HERE.parents[2] / "jobs/run.py"
DATA = HERE / "data"
PROCESSING = ("process", "compile")


@dataclass(frozen=True)
class Ended:
    """A stage's process after its end."""

    base: Path
    status: int
    log: str

    @property
    def failure(self) -> str:
        for name in ("message", "failure"):
            if (file := self.base / "output" / name).exists():
                return file.read_text()
        return ""

    def metrics(self) -> dict[str, Any]:
        folder = self.base / "processing/output/report"
        return json.loads(((folder if folder.exists() else self.base / "model") / "metrics.json").read_text())


def prepare(base: Path, stage: str, inputs: dict[str, Path], settings: dict[str, Any]) -> dict[str, str]:
    """Lay out the base directory and return the environment of the stage's process."""
    channels = base / ("processing/input" if stage in PROCESSING else "input/data")
    channels.mkdir(parents=True)
    for name, folder in inputs.items():
        (channels / name).symlink_to(folder)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EBB_")}
    environment.update(SAGEMAKER_BASE_DIR=str(base), OMP_NUM_THREADS="2")
    text = json.dumps(settings)
    if stage in PROCESSING:
        pieces = [text[start : start + 200] for start in range(0, len(text), 200)]
        environment.update({f"EBB_SETTINGS_{number}": piece for number, piece in enumerate(pieces)})
    else:
        (base / "input/config").mkdir(parents=True)
        (base / "input/config/hyperparameters.json").write_text(json.dumps({"settings": text}))
    return environment


def run_stage(base: Path, stage: str, inputs: dict[str, Path], settings: dict[str, Any]) -> Ended:
    environment = prepare(base, stage, inputs, settings)
    done = subprocess.run(
        [sys.executable, str(RUN), stage], env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    return Ended(base, done.returncode, done.stdout + done.stderr)


def run_stage_here(base: Path, stage: str, inputs: dict[str, Path], settings: dict[str, Any]) -> Ended:
    """Run a stage in this process: the same entry, without the seconds that starting Python takes."""
    before = dict(os.environ)
    try:
        os.environ.update(prepare(base, stage, inputs, settings))
        return Ended(base, entry.main([stage]), "see the captured output")
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class Pipeline:
    """The four stages over one table."""

    process: Ended
    train: Ended
    compress: Ended
    compile: Ended

    @property
    def curated(self) -> Path:
        return self.process.base / "processing/output/curated"

    @property
    def original(self) -> Path:
        return self.train.base / "model"

    @property
    def bundles(self) -> Path:
        return self.compile.base / "processing/output/bundles"


def run_pipeline(base: Path, table: Path, spec: dict[str, Any]) -> Pipeline:
    settings = {"spec": spec, "seed": 7, "run_id": "demo-20261123000000-abcdef"}
    (base / "data").mkdir(parents=True)
    (base / "data" / table.name).write_bytes(table.read_bytes())
    process = run_stage(base / "process", "process", {"data": base / "data"}, settings)
    assert process.status == 0, process.log
    curated = {"curated": base / "process/processing/output/curated"}
    train = run_stage(base / "train", "train", curated, settings)
    assert train.status == 0, train.log
    original = {**curated, "original": base / "train/model"}
    compress = run_stage(base / "compress", "compress", original, settings)
    assert compress.status == 0, compress.log
    compiled = run_stage(base / "compile", "compile", {**original, "candidates": base / "compress/model"}, settings)
    assert compiled.status == 0, compiled.log
    return Pipeline(process, train, compress, compiled)


def answered_samples(compiled: Ended, candidate: str) -> list[list[dict[str, Any]]]:
    """Ask a candidate's own server all that the sample payload holds, as a load test does, and return the answers."""
    bundles = compiled.base / "processing/output/bundles"
    told = compiled.metrics()["sample_payload"]
    with tarfile.open(bundles / told["file"]) as archive:
        members = [member for member in archive if member.isfile()]
        requests = [archive.extractfile(member).read() for member in members]
    assert len(requests) == told["requests"]
    with bundle.served(bundles / candidate / "model.tar.gz") as running:
        return [running.invoke(body, told["content_type"])["predictions"] for body in requests]


def curated_penguins(base: Path) -> Path:
    """Run the stage `process` on the penguins below `base`; return the folder with its curated rows."""
    (base / "data").mkdir()
    (base / "data/penguins.csv").write_bytes((DATA / "penguins.csv").read_bytes())
    ended = run_stage_here(base / "job", "process", {"data": base / "data"}, {"spec": {}, "seed": 7})
    assert ended.status == 0, ended.failure
    return base / "job/processing/output/curated"
