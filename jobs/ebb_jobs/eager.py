"""The original network as it would be served without Ebb: eager PyTorch in fp32. What every candidate is compared with.

Run as a module it opens the original in a fresh process, answers one row, and prints its largest resident size in MiB.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebb_jobs import networks
from ebb_jobs.tabular import Preprocessor


class EagerOriginal:
    """Answers raw rows with PyTorch, with the preprocessing that the candidates use too."""

    def __init__(self, original: Path) -> None:
        self.preprocessor = Preprocessor(json.loads((original / "preprocess.json").read_text(encoding="utf-8")))
        self._network = networks.load(original / "original.safetensors")

    @torch.inference_mode()
    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Return the outputs for one small batch of encoded rows."""
        outputs = self._network(torch.from_numpy(encoded))
        return (torch.softmax(outputs, 1) if outputs.shape[1] > 1 else outputs).numpy()

    def predict(self, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """Return one prediction per row of raw values."""
        return self.preprocessor.predictions(self.run(self.preprocessor.encode(columns)))


def peak_mib() -> float:
    """Return this process's largest resident size; ru_maxrss would also count the parent before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


if __name__ == "__main__":
    original = EagerOriginal(Path(sys.argv[1]))
    original.predict({name: [None] for name in original.preprocessor.columns})
    print(json.dumps({"peak_mib": round(peak_mib(), 1)}))
