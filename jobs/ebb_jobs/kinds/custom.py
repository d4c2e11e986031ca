"""Tensors of a user's own network: what a training script exported, or a model that is served as the script left it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebb_jobs import exported_rows, tensors, user_code
from ebb_jobs.bodies import Body, filled
from ebb_jobs.dataset import Split
from ebb_jobs.errors import JobError
from ebb_jobs.kind import KindRecipe
from ebb_jobs.networks import Network
from ebb_jobs.report import Report
from ebb_jobs.tensors import TensorCodec

FOLDER = "exported"
"""Where, within the original, lies what the script wrote into SM_MODEL_DIR."""
_OURS = "the script trains: of its network only what it exported is known"


class CustomKind:
    """A network that came as ONNX: quantized and compiled like every other, never trained or taken apart.

    What the stages call `curated` is here the original's own folder: the held-out rows are exported with the network.
    """

    name = "custom"
    codec_module = "tensors"
    code = (tensors, user_code)
    recipe = KindRecipe(steps=0, student_steps=0, peak_rate=0.0, student_peak_rate=0.0, batch_size=lambda rows: rows)
    runtimes = ("onnxruntime", "openvino")
    quantized_operators = (
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Relu",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Add",
        "Concat",
    )
    skipped = {  # noqa: RUF012 - read only
        "distill": "a student learns from the training rows, which stay with the script",
        "prune": "a network is trained on after channels were taken away, and only the script can train it",
    }
    trains_itself = True

    def fit_codec(self, curated: Path, schema: dict[str, Any], report: Report) -> TensorCodec:
        """Raise: the codec follows from the export, see `custom.train`."""
        raise JobError(_OURS)

    def open_codec(self, folder: Path) -> TensorCodec:
        """Return the codec of a folder, without the user's functions.

        Nothing that the stages do needs them, and a process can hold the modules of one model only: the champion's
        would be taken for this run's.
        """
        state = json.loads((folder / tensors.STATE).read_text(encoding="utf-8"))
        return TensorCodec(state, user_code.read(folder / user_code.FOLDER, state["code"]), {})

    def read_split(self, curated: Path, split: str, codec: TensorCodec) -> Split:
        """Return held-out rows as they were exported; `train` are the calibration rows, perhaps none."""
        files = [curated / FOLDER / name for name in (exported_rows.EVALUATION, exported_rows.SHEET)]
        stamps = tuple((file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None for file in files)
        return _splits(curated / FOLDER, stamps, codec.shape, codec.dtype.name)[split]

    def singles(self, curated: Path, split: str, codec: TensorCodec, count: int) -> list[np.ndarray]:
        """Return the first rows, each an array [1, ...]."""
        return [row[None] for row in self.read_split(curated, split, codec).inputs[:count]]

    def join(self, singles: list[np.ndarray]) -> np.ndarray:
        """Return the rows in one array."""
        return np.concatenate(singles)

    def bodies(self, codec: TensorCodec, singles: list[np.ndarray]) -> list[Body]:
        """Return all rows as JSON, as .npy and, where they are rows of a table, as CSV."""
        return [body for kind, write in tensors.writers(codec).items() for body in filled(kind, write, singles)]

    def original(self, codec: TensorCodec, training: Split) -> Network:
        """Raise: see `skipped`."""
        raise JobError(_OURS)

    def students(self, teacher: Network, codec: TensorCodec, training: Split) -> Sequence[Callable[[], Network]]:
        """Return none: see `skipped`."""
        return []

    def prune(self, network: Network, share: float, example: Tensor) -> None:
        """Prune nothing: see `skipped`."""

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the rows as they are."""
        return inputs

    def misfit(self, signature: dict[str, Any], schema: dict[str, Any]) -> str | None:
        """Return why the served model cannot answer these held-out rows: another input, or other classes."""
        mine, theirs = schema["input"], signature["input"]
        sizes = zip(mine["shape"], theirs["shape"], strict=False)
        if len(mine["shape"]) != len(theirs["shape"]) or any(want not in (None, have) for want, have in sizes):
            return "the served model takes inputs of another shape"
        if mine["dtype"] != theirs["dtype"]:
            return f"the served model takes {theirs['dtype']}, this one {mine['dtype']}"
        return None


@functools.lru_cache(maxsize=1)
def _splits(folder: Path, stamps: tuple[Any, ...], shape: tuple[int | None, ...], dtype: str) -> dict[str, Split]:
    """Return all splits of an export; they may be gigabytes, and every stage asks for each of them in turn."""
    evaluation = exported_rows.read_evaluation(folder, list(shape), np.dtype(dtype))
    return {name: evaluation.split(name) for name in ("train", "validation", "test")}


KIND = CustomKind()
