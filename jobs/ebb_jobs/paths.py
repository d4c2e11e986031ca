"""Where a job finds its inputs, settings and outputs: SageMaker's `/opt/ml`, its root movable by one variable.

A container started with `ContainerEntrypoint` gets none of the `SM_*` variables, so nothing here reads them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PROCESSING_STAGES = frozenset({"process", "compile", "features", "assess"})


def base_dir() -> Path:
    """Return the root of the SageMaker file layout."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def channel(stage: str, name: str) -> Path:
    """Return the directory in which SageMaker puts the input `name` of `stage`."""
    inputs = "processing/input" if stage in PROCESSING_STAGES else "input/data"
    return base_dir() / inputs / name


def output(stage: str, name: str) -> Path:
    """Return the (created) directory from which SageMaker uploads the output `name` of `stage`."""
    root = base_dir() / "processing/output" / name if stage in PROCESSING_STAGES else base_dir() / "model"
    root.mkdir(parents=True, exist_ok=True)
    return root


def checkpoints() -> Path:
    """Return the (created) directory that SageMaker keeps in step with S3 while a training job runs."""
    path = base_dir() / "checkpoints"
    path.mkdir(parents=True, exist_ok=True)
    return path


def failure_file(stage: str) -> Path:
    """Return the file that becomes the job's ExitMessage (Processing) or FailureReason (Training)."""
    path = base_dir() / "output" / ("message" if stage in PROCESSING_STAGES else "failure")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def proposed() -> dict[str, str]:
    """Return what a tuning job proposes to this training job: its hyperparameters beside the settings.

    SageMaker adds the objective's name with an underscore before it.
    """
    file = base_dir() / "input/config/hyperparameters.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    return {name: str(value) for name, value in found.items() if name != "settings" and not name.startswith("_")}


def settings(stage: str) -> dict[str, Any]:
    """Return the job's settings.

    Processing passes environment variables of at most 256 characters each, so that longer settings come in
    numbered pieces; Training passes strings in `hyperparameters.json`.
    """
    if stage in PROCESSING_STAGES:
        text = os.environ.get("EBB_SETTINGS", "")
        if not text:
            pieces: list[str] = []
            while (piece := os.environ.get(f"EBB_SETTINGS_{len(pieces)}")) is not None:
                pieces.append(piece)
            text = "".join(pieces)
    else:
        file = base_dir() / "input/config/hyperparameters.json"
        text = json.loads(file.read_text()).get("settings", "") if file.exists() else ""
    return json.loads(text) if text else {}
