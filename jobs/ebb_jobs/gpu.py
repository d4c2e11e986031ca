"""NVIDIA's GPUs while a stage runs: how busy they were, what they held, and the joules that they took.

NVML counts energy itself on GPUs from Volta on; utilisation is a share of the last moments and is sampled. Without a
GPU, its driver or `nvidia-ml-py`, there is nothing to tell.
Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

EVERY_S = 2.0
MIB = 2**20


class Watch:
    """Looks at the GPUs now and then while its block runs. Use as a context manager."""

    def __init__(self, nvml: Any | None = None, *, every_s: float = EVERY_S) -> None:
        self._nvml, self._every_s = nvml, every_s
        self._handles: list[Any] = []
        self._busy: list[float] = []
        self._peak_mib: float = 0.0
        self._joules_before: list[float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        try:
            self._nvml = self._nvml or importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        except Exception:  # no such package, no driver, no permission: NVML has an error of its own for each
            self._handles = []
            return self
        self._joules_before = self._counted()
        if self._handles:
            self._thread = threading.Thread(target=self._look_on, name="gpu-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def told(self) -> dict[str, Any] | None:
        """Return the GPUs' mean utilisation (a share), peak memory (of one, MiB) and energy (of all, J) so far."""
        if not self._handles:
            return None
        self._look()
        assert self._nvml is not None
        counted = self._counted()
        spent = (
            sum(counted) - sum(self._joules_before) if counted is not None and self._joules_before is not None else None
        )
        return {
            "name": str(self._nvml.nvmlDeviceGetName(self._handles[0])),
            "count": len(self._handles),
            "utilisation": round(sum(self._busy) / max(1, len(self._busy)), 4),
            "peak_memory_mib": round(self._peak_mib, 1),
            "memory_mib": round(self._nvml.nvmlDeviceGetMemoryInfo(self._handles[0]).total / MIB, 1),
            "joules": None if spent is None else round(spent, 3),
        }

    def _look_on(self) -> None:
        while not self._over.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        assert self._nvml is not None
        for handle in self._handles:
            self._busy.append(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            self._peak_mib = max(self._peak_mib, self._nvml.nvmlDeviceGetMemoryInfo(handle).used / MIB)

    def _counted(self) -> list[float] | None:
        """Return the joules of each GPU since its driver was loaded; None where it does not count them."""
        assert self._nvml is not None
        try:
            return [self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000 for handle in self._handles]
        except Exception:  # NVML's own error for a GPU before Volta
            return None
