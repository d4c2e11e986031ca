"""The product's stage `train` with the network that the benchmark starts from: python inference_train.py TASK ENCODER.

Everything else is the product's: data, loop, schedule, precision, early stop, report. The table's network is the wide
one of the usual comparison; texts start from the public encoder in the folder ENCODER; pictures are learned by the
product's own network, with what pays in a longer training of clothes.
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
PICTURES = {"peak_rate": 3e-3, "weight_decay": 0.1}
PICTURE_LEVERS: dict[str, Any] = {"averaging": 0.998, "growing": ((0.0, 0.5), (0.3, 0.75), (0.6, 1.0))}


def main() -> int:
    """Run the stage; return its exit status."""
    task, encoder = sys.argv[1], Path(sys.argv[2])
    kind = _kind(task, encoder)
    kinds.of = lambda schema: kind
    return entry.main(["train"])


def _kind(task: str, encoder: Path) -> Any:
    """Return the kind whose original is the benchmark's."""
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
    return _clothes()


def _clothes() -> Any:
    """Return pictures as clothes are best learned; chosen by seed 8's validation rows."""
    import torch

    from ebb_jobs.kinds.image import ImageKind
    from ebb_jobs.levers import Levers

    class Clothes(ImageKind):
        """The product's network for 10,000 pictures or more."""

        recipe = dataclasses.replace(ImageKind.recipe, **PICTURES, levers=Levers(**PICTURE_LEVERS))

        def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            """Return the pictures moved, half of them mirrored: a mirrored shoe is a shoe, which no digit is."""
            moved = super().augment(inputs, generator)
            mirrored = torch.rand(len(moved), generator=generator) < 0.5
            return torch.where(mirrored[:, None, None, None], moved.flip(2), moved)

    return Clothes()


if __name__ == "__main__":
    sys.exit(main())
