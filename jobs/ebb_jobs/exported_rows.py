"""The held-out rows that a user's script left beside its network: `evaluation.npz` and `evaluation.json`, checked.

Everything wrong with them is told by an ExportError that names the file and what to write instead.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import quality
from ebb_jobs.dataset import Split
from ebb_jobs.errors import JobError
from ebb_jobs.infer import CLASSIFICATION as TABULAR_CLASSIFICATION
from ebb_jobs.infer import Inferred

MODEL, EVALUATION, SHEET = "model.onnx", "evaluation.npz", "evaluation.json"
ARRAYS = ("inputs", "targets", "calibration")
CLASSIFICATION, REGRESSION = "classification", "regression"
MAX_EVALUATION_BYTES = 2**31
MAX_CLASSES = 10_000
MIN_ROWS = 40
"""Half of them choose, half of them judge what was chosen."""
SEED = 7
"""Fixed: the same held-out rows fall into the same halves in every run, so that models of two runs can be compared."""
_SHEET_EXAMPLE = '{"task": "classification", "metric": "accuracy", "classes": ["no", "yes"]}'


class ExportError(JobError):
    """The export cannot be used; the message names the file and what to write, and holds no value of the data."""


@dataclass(frozen=True)
class Evaluation:
    """Held-out rows as the network takes them, what they are, and by what they are judged."""

    task: str
    metric: Inferred
    classes: list[str] | None
    """Names of the outputs; None for a regression."""
    inputs: np.ndarray
    targets: np.ndarray
    calibration: np.ndarray

    def split(self, name: str) -> Split:
        """Return the rows that choose (`validation`), those that judge what was chosen (`test`), or `train`.

        The last are the calibration rows, perhaps none; a script keeps the targets of its training rows to itself.
        """
        if name == "train":
            return Split(self.calibration, *(np.zeros(len(self.calibration), dtype=self.targets.dtype),) * 2)
        rows = np.flatnonzero(choosing(self.targets) == (name == "validation"))
        return Split(self.inputs[rows], self.targets[rows], self.targets[rows])


def choosing(targets: np.ndarray) -> np.ndarray:
    """Return which rows choose: of every two rows that are neighbours by target one, at random."""
    random = np.random.default_rng(SEED)
    order = np.lexsort((random.random(len(targets)), targets))
    chosen: np.ndarray = np.zeros(len(targets), dtype=bool)
    for start in range(0, len(order), 2):
        pair = order[start : start + 2]
        chosen[pair[random.integers(len(pair))]] = True
    return chosen


def read_evaluation(folder: Path, shape: list[int | None], dtype: np.dtype) -> Evaluation:
    """Return the held-out rows. Raises ExportError."""
    sheet = _read_sheet(folder / SHEET)
    arrays = _read_arrays(folder / EVALUATION)
    for name in ("inputs", "targets"):
        if name not in arrays:
            raise ExportError(
                f"{EVALUATION} holds no array {name!r}: np.savez(path, inputs=held_out_rows, targets=their_targets)"
            )
    inputs = _fitting("inputs", arrays["inputs"], shape, dtype)
    calibration = _fitting("calibration", arrays.get("calibration", inputs[:0]), shape, dtype)
    if len(inputs) < MIN_ROWS:
        raise ExportError(f"{EVALUATION} holds {len(inputs)} rows: hold out {MIN_ROWS} at least, better hundreds")
    task, classes = sheet["task"], sheet.get("classes")
    targets = _targets(arrays["targets"], len(inputs), task, classes)
    shares = None
    if task == CLASSIFICATION:
        shares = np.bincount(targets, minlength=len(classes) if classes else 0) / len(targets)
    return Evaluation(task, _metric(task, shares, sheet.get("metric")), classes, inputs, targets, calibration)


def _read_sheet(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ExportError(f"{file.name} is missing beside {MODEL}: write {_SHEET_EXAMPLE}")
    try:
        sheet = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{file.name} is not JSON: write {_SHEET_EXAMPLE}") from error
    if not isinstance(sheet, dict) or sheet.get("task") not in (CLASSIFICATION, REGRESSION):
        raise ExportError(f"{file.name} names no task, {CLASSIFICATION} or {REGRESSION}: write {_SHEET_EXAMPLE}")
    if unknown := sorted(set(sheet) - {"task", "metric", "classes"}):
        raise ExportError(f"{file.name} has a field {unknown[0]!r}: it takes task, metric and classes")
    classes = sheet.get("classes")
    if classes is not None:
        if sheet["task"] == REGRESSION:
            raise ExportError(f"{file.name} names classes for a regression: leave them out")
        named = isinstance(classes, list) and all(isinstance(name, str) and name for name in classes)
        if not named or len(set(classes)) != len(classes) or len(classes) < 2:
            raise ExportError(f"{file.name}: classes must be a list of two or more different names, in quotes")
    return sheet


def _metric(task: str, shares: np.ndarray | None, asked: Any) -> Inferred:
    allowed = quality.CLASSIFICATION_METRICS if task == CLASSIFICATION else quality.REGRESSION_METRICS
    if asked is not None:
        name = quality.ALIASES.get(str(asked).lower(), str(asked).lower())
        if name not in allowed:
            raise ExportError(f"{SHEET}: the metric does not suit {task}; write one of: {', '.join(allowed)}")
        return Inferred(name, f"named by {SHEET}")
    return quality.choose(TABULAR_CLASSIFICATION if task == CLASSIFICATION else task, shares, None)


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file without ever running what a pickle says."""
    if not file.is_file():
        raise ExportError(
            f"{file.name} is missing beside {MODEL}: np.savez(path, inputs=held_out_rows, targets=their_targets)"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_EVALUATION_BYTES:
                raise ExportError(f"{file.name} unpacks to {size / 2**30:.1f} GiB: hold out fewer rows, 2 GiB at most")
            for member in archive.infolist():
                if member.filename.removesuffix(".npy") in ARRAYS:
                    _check_head(archive, member)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ARRAYS if name in arrays.files}
    except MemoryError as error:
        raise ExportError(f"{file.name} does not fit into the memory: hold out fewer rows") from error
    except (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{file.name} is no .npz file of plain arrays ({type(error).__name__}): write it with np.savez, "
            "numbers only"
        ) from error


def _check_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ValueError when an array's head claims more than follows it: NumPy would take memory for all of it."""
    with archive.open(member) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        except Exception as error:  # a wrong head gives errors of Python's own tokenizer too
            raise ValueError("no head of an array") from error
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - stream.tell():
            raise ValueError("the head does not describe what follows")


def _fitting(name: str, found: np.ndarray, shape: list[int | None], dtype: np.dtype) -> np.ndarray:
    """Return rows in the network's own type. Raises ExportError."""
    where = f"{EVALUATION}, array {name!r}"
    fits = found.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape[1:], found.shape[1:], strict=True)
    )
    if not fits:
        wanted = ", ".join(["rows", *("any" if size is None else str(size) for size in shape[1:])])
        raise ExportError(f"{where}, has the shape {list(found.shape)}: the input of {MODEL} is [{wanted}]")
    if found.dtype != dtype and not (found.dtype.kind in "biuf" and np.can_cast(found.dtype, dtype, "same_kind")):
        raise ExportError(f"{where}, holds {found.dtype}: the input of {MODEL} is {dtype}")
    found = np.ascontiguousarray(found.astype(dtype, copy=False))
    if dtype.kind == "f" and not np.isfinite(found).all():
        raise ExportError(f"{where}, holds NaN or infinity: fill missing values before the network sees them")
    return found


def _targets(found: np.ndarray, rows: int, task: str, classes: list[str] | None) -> np.ndarray:
    where = f"{EVALUATION}, array 'targets',"
    if len(found.shape) == 0 or len(found) != rows:
        raise ExportError(f"{where} and array 'inputs' differ in their number of rows")
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if task == CLASSIFICATION:
        whole = found.dtype.kind in "iub" or (found.dtype.kind == "f" and bool((found == np.floor(found)).all()))
        if found.ndim != 1 or not whole or not np.isfinite(found).all() or found.min() < 0:
            raise ExportError(f"{where} must hold class indices [rows]: 0 for the first output of {MODEL}, and so on")
        if found.max() >= MAX_CLASSES:
            raise ExportError(f"{where} holds a class index of {MAX_CLASSES:,} or more: number the classes from 0")
        found = found.astype(np.int64)
        if classes and found.max() >= len(classes):
            raise ExportError(f"{where} holds a class index beyond the {len(classes)} classes of {SHEET}")
        if len(np.unique(found)) < 2:
            raise ExportError(f"{where} holds one class only: hold out rows of every class")
        return found
    if found.dtype.kind not in "iuf" or found.ndim != 1:
        raise ExportError(
            f"{where} must hold one number per row: models of several are served as they are, with code/inference.py"
        )
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise ExportError(f"{where} holds NaN or infinity")
    if not found.std() > 0:
        raise ExportError(f"{where} holds one value only: nothing can be judged by it")
    return found
