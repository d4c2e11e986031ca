"""The product's stage `train` on one CPU, and which test rows its model tells rightly: python train_stage.py CPU.

Everything is the product's; the folder is that of a SageMaker job, as for the stage itself.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ.get("EBB_JOBS") or str(Path(__file__).resolve().parents[1] / "jobs"))
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})

import numpy as np

from ebb_jobs import dataset, entry, kinds, networks, paths


def main() -> int:
    """Run the stage, then judge its model row by row; return the exit status."""
    status = entry.main(["train"])
    if status == 0:
        curated, model = paths.channel("train", "curated"), paths.output("train", "model")
        kind = kinds.of(dataset.read_schema(curated))
        rows = kind.read_split(curated, "test", kind.open_codec(model))
        answers = networks.predict(networks.load(model / "original.safetensors"), rows.inputs).argmax(1)
        np.save(model / "right.npy", answers == rows.targets)
    return status


if __name__ == "__main__":
    sys.exit(main())
