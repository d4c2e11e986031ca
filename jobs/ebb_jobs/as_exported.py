"""The original of a user's script as it would be served without Ebb: its ONNX file in ONNX Runtime, as exported.

Run as a module it opens the original in a fresh process, answers one example, and prints its largest resident size in
MiB; no PyTorch is loaded for it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import runtimes
from ebb_jobs.memory import peak_mib


class ExportedOriginal:
    """Answers with the exported file, with the codec that the candidates use too."""

    def __init__(self, original: Path, codec: Any, threads: int = 1) -> None:
        self.codec = codec
        self._network = runtimes.OnnxRuntime(original / "original.onnx", threads=threads)

    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Return the outputs for one small batch of encoded examples."""
        return self._network.run(encoded)

    def predict(self, raws: Any) -> list[dict[str, Any]]:
        """Return one prediction per example."""
        return self.codec.predictions(self.run(self.codec.encode(raws)))


if __name__ == "__main__":
    ExportedOriginal(Path(sys.argv[1]), None).run(np.load(sys.argv[2]))
    print(json.dumps({"peak_mib": round(peak_mib(), 1)}))
