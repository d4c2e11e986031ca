"""The product's stage `train` with the network that the benchmark starts from: python inference_train.py TASK ENCODER.

Everything else is the product's: data, loop, schedule, precision, early stop, report. The table's network is the wide
one of the usual comparison; texts start from the public encoder in the folder ENCODER; pictures are the product's own
choice, trained to convergence.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("EBB_JOBS") or str(Path(__file__).resolve().parents[1] / "jobs"))

from ebb_jobs import entry, kinds
from ebb_jobs.dataset import Split
from ebb_jobs.networks import Mlp

WIDE = (1024,) * 4


def main() -> int:
    """Run the stage; return its exit status."""
    task, encoder = sys.argv[1], Path(sys.argv[2])
    kind = _kind(task, encoder)
    if kind is not None:
        kinds.of = lambda schema: kind
    return entry.main(["train"])


def _kind(task: str, encoder: Path) -> Any:
    """Return the kind whose original is the benchmark's; None for the product's own."""
    if task == "tabular":
        from ebb_jobs.kinds.tabular import TabularKind

        class WideTable(TabularKind):
            """Four hidden layers of 1,024: what an unhurried tabular network looks like."""

            recipe = dataclasses.replace(TabularKind.recipe, steps=3000, peak_rate=1e-3)

            def original(self, codec: Any, training: Split) -> Mlp:
                """Return the wide network."""
                return Mlp(codec.width, WIDE, len(codec.state["target"]["classes"]))

        return WideTable()
    if task == "text":
        from ebb_jobs.kinds.text import PretrainedTextKind

        return PretrainedTextKind(encoder)
    return None


if __name__ == "__main__":
    sys.exit(main())
