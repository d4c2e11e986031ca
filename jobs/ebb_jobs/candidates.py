"""The candidates of `compress`: networks written as ONNX, proven equal, in 8 bits where that can be had, and listed."""

from __future__ import annotations

import dataclasses
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import export, fitting, heats, networks, search, train, trees
from ebb_jobs.dataset import Split
from ebb_jobs.errors import JobError, StoppedError, reason
from ebb_jobs.kind import Codec, Kind
from ebb_jobs.networks import Network
from ebb_jobs.report import Report, write_json

METHODS = ("distill", "prune", "quantize")
PROOF_ROWS, LEAST_ROWS, MOST_WORK = 512, 128, 1e11
"""Rows on which an export is proven equal; of these, and of those that calibrate, fewer where they would multiply more
numbers than MOST_WORK, which takes some seconds."""
WEIGHTS = "network.safetensors"
"""Of a smaller network, beside its ONNX file."""


def affordable(network: Network | Path, inputs: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, evenly picked; fewer where the network does much work for each."""
    if not isinstance(network, Path) and len(inputs):
        most = min(most, max(LEAST_ROWS, int(MOST_WORK / max(1, fitting.multiplications(network, inputs)))))
    if most >= len(inputs):
        return inputs
    return inputs[np.linspace(0, len(inputs) - 1, most).astype(np.intp)]


@dataclasses.dataclass
class Bench:
    """Makes candidates one after the other and keeps the list of what became of each."""

    model: Path
    training: Split
    validation: Split
    codec: Codec
    kind: Kind
    metric: str
    report: Report
    candidates: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What makes no sense for this kind of data, or for what won on the ladder, and why."""

    def attempt(self, name: str, chain: list[str], make: Callable[[], Any], *, fallback: str | None = None) -> Any:
        """Return what `make` returns; a failure is listed, with what stands in for it, and gives None."""
        begun = time.monotonic()
        try:
            return make()
        except StoppedError:
            raise  # no fault of the method: a retry goes on with it
        except search.DroppedError as dropped:
            self._leave_out(name, chain, "dropped", str(dropped), fallback)
            return None
        except Exception as error:
            traceback.print_exc()
            told = reason(error)
            print(f"{name} failed after {time.monotonic() - begun:.1f} s: {told}", flush=True)
            self._leave_out(name, chain, "failed", told, fallback)
            return None

    def _leave_out(self, name: str, chain: list[str], status: str, told: str, fallback: str | None) -> None:
        print(f"{name} {status}: {told}", flush=True)
        self.candidates.append(
            {
                "name": name,
                "chain": chain,
                "status": status,
                "reason": told,
                "fallback": fallback,
                "parameters": None,
                "size_bytes": None,
            }
        )

    def export(self, name: str, source: Network | Path, chain: list[str], told: str = "") -> bool:
        """Write a network as fp32 ONNX and prove it equal; take a file as it is."""
        file = self._file(name)
        if isinstance(source, Path):
            shutil.copyfile(source, file)
            count = trees.parameter_count(file) or export.parameter_count(file)
            self._list(name, count, told or ("as trained" if chain else "as the script exported it"), chain)
            return True
        export.to_onnx(source, file, self.training.inputs)
        if chain:  # what it answers in eager PyTorch is what the same small network takes without the runtime
            networks.save(source, file.with_name(WEIGHTS))
        difference = export.verify(source, file, affordable(source, self.validation.inputs, PROOF_ROWS))
        self._list(name, source.parameter_count(), f"ONNX differs from PyTorch by at most {difference:.1e}", chain)
        return True

    def quantize(self, name: str, calibration: np.ndarray, chain: list[str]) -> None:
        """Write the 8-bit forms of the candidate `name`.

        Static scales, learned from training rows, are faster to run. Dynamic ones, found for each request, are a
        candidate of their own where the kind gains by it, and stand in where static ones cannot be had.
        """
        dynamic = f"{name}-int8-dynamic"
        static = self.attempt(
            f"{name}-int8",
            chain,
            partial(self._quantize_static, name, calibration, chain),
            fallback=f"{dynamic} stands in",
        )
        if not static or "dynamic" not in self.kind.skipped:
            self.attempt(
                dynamic,
                chain,
                partial(self._quantize_dynamic, name, self.validation.inputs, chain, must_pay=bool(static)),
                fallback=f"{name}-int8 remains" if static else f"{name} remains in fp32",
            )

    def skipped(self, wanted: list[str]) -> dict[str, str]:
        """Return what was not tried and why: what the spec leaves out, and what the kind gains nothing by."""
        left_out = {method: "compress.methods does not name it" for method in METHODS if method not in wanted}
        skipped = self.left_out or self.kind.skipped
        return left_out | {what: why for what, why in skipped.items() if what != "openvino"}

    def _quantize_static(self, name: str, calibration: np.ndarray, chain: list[str]) -> bool:
        made = f"{name}-int8"
        if not len(calibration):
            raise JobError("evaluation.npz holds no array 'calibration', rows from which to learn scales")
        export.quantize(self._file(name), self._file(made), calibration, self.kind.quantized_operators)
        told = f"static quantization, calibrated on {len(calibration)} training rows"
        self._list(made, self._parameters(name), told, chain)
        return True

    def _quantize_dynamic(self, name: str, example: np.ndarray, chain: list[str], *, must_pay: bool) -> bool:
        """Write the form with dynamic scales; `must_pay`: drop it before it is judged when it is clearly slower."""
        made = f"{name}-int8-dynamic"
        export.quantize_while_running(self._file(name), self._file(made), example)
        if must_pay:
            opened = {each: export.session(self._file(each)) for each in (name, made)}
            full, small = (heats.Glance(0, *seconds, 0) for seconds in heats.times(opened, example).values())
            if told := heats.slower_in_8_bits(name, full, small):
                shutil.rmtree(self._file(made).parent)
                raise search.DroppedError(told)
        told = "dynamic quantization: scales are found for each request"
        self._list(made, self._parameters(name), told, chain, dynamic=True)
        return True

    def _parameters(self, name: str) -> int:
        return next(item["parameters"] for item in self.candidates if item["name"] == name)

    def _file(self, name: str) -> Path:
        folder = self.model / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "network.onnx"

    def _list(self, name: str, parameters: int, reason: str, chain: list[str], *, dynamic: bool = False) -> None:
        file = self._file(name)
        outputs = export.run(export.session(file), self.validation.inputs)
        found = train.judge(outputs, self.validation, self.codec, self.metric)
        candidate: dict[str, Any] = {
            "name": name,
            "chain": chain,
            "status": "finished",
            "reason": reason,
            "parameters": parameters,
            "size_bytes": file.stat().st_size,
            "precision": "int8" if "quantize" in chain else "float32",
            "dynamic": dynamic,
            "quality": {"validation": found},
        }
        write_json(file.parent / "candidate.json", candidate)
        self.candidates.append(candidate)
        print(
            f"{name}: {candidate['size_bytes'] / 1024:.0f} KiB, validation {self.metric} {found:.4f}; {reason}",
            flush=True,
        )
