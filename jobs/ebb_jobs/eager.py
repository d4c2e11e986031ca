"""The original network as it would be served without Ebb: eager PyTorch in fp32. What every candidate is compared with.

Run as a module it opens the original in a fresh process, answers one example, and prints its largest resident size in
MiB.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebb_jobs import dataset, kinds, networks
from ebb_jobs.kind import Codec
from ebb_jobs.memory import peak_mib


class EagerOriginal:
    """Answers with PyTorch, with the codec that the candidates use too."""

    def __init__(self, original: Path, codec: Codec) -> None:
        self.codec = codec
        self._network = networks.load(original / "original.safetensors")

    @torch.inference_mode()
    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Return the outputs for one small batch of encoded examples."""
        return networks.probabilities(self._network(torch.from_numpy(encoded))).numpy()

    def predict(self, raws: Any) -> list[dict[str, Any]]:
        """Return one prediction per example."""
        return self.codec.predictions(self.run(self.codec.encode(raws)))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    EagerOriginal(folder, kinds.of(dataset.read_schema(folder)).open_codec(folder)).run(np.load(sys.argv[2]))
    print(json.dumps({"peak_mib": round(peak_mib(), 1)}))
