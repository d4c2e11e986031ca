"""The runtimes that execute a network, opened alike for measuring and for serving. Travels in every bundle.

Every answer is computed by one thread: requests already run in threads of their own, and one thread spends the least
CPU time on an answer. Batches may be shared among threads, see `serve.Model`.
"""

from __future__ import annotations

import importlib.metadata
import os
import queue
from pathlib import Path
from typing import Any, Protocol

import numpy as np

RUNTIMES = ("onnxruntime", "openvino")
FILES = {"onnxruntime": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
"""Runtime -> its files in a bundle, the one to open first."""


class Executable(Protocol):
    """A network that a runtime has loaded."""

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs for some rows. May be called by several threads at once."""


def load(
    file: Path | str, runtime: str, *, optimise: bool = True, threads: int = 1, precision: str | None = None
) -> Executable:
    """Return the network of `file`, an ONNX or OpenVINO model, in that runtime on the CPU."""
    if runtime == "onnxruntime":
        return OnnxRuntime(file, optimise=optimise, threads=threads)
    if runtime == "openvino":
        return OpenVino(file, precision or "f32")
    raise ValueError(f"no such runtime: {runtime}")


def version(runtime: str) -> str:
    """Return the runtime's installed version."""
    return importlib.metadata.version(runtime)


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Tell whether this CPU has units for bfloat16: of others nothing is gained by it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class OnnxRuntime:
    """A session of ONNX Runtime."""

    def __init__(self, file: Path | str, *, optimise: bool = True, threads: int = 1) -> None:
        import onnxruntime  # the other runtime's endpoints need not load it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs for some rows."""
        return self._session.run(self._outputs, {self._input: np.ascontiguousarray(inputs)})[0]


class OpenVino:
    """A model compiled by OpenVINO, with a stream per CPU so that threads do not wait for each other.

    Computes in `precision` where the network is not quantized: left to itself OpenVINO takes bfloat16 on CPUs that have
    it, and the endpoint's CPU, which need not be the measuring one, would answer otherwise than was measured. Asked for
    bfloat16 where there is none, it computes in float32: slower, and no worse.
    """

    def __init__(self, file: Path | str, precision: str = "f32") -> None:
        import openvino  # the other runtime's endpoints need not load it

        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": cpus(),
            "NUM_STREAMS": cpus(),
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()  # requests of the runtime: one at a time each

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs for some rows."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            return request.infer({0: np.ascontiguousarray(inputs)}, share_inputs=True)[0].copy()
        finally:
            self._idle.put(request)
