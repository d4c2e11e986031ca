"""Pictures that grow while a network learns: coarse shapes first, which cost a quarter of the work, fine ones last.

A network that averages its places away takes pictures of any size, so that its early steps can see smaller ones (Tan
and Le, EfficientNetV2, 2021). The last steps are of the full size, at which the network is judged and served.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

Growth = Sequence[tuple[float, float]]
"""(share of the plan that is done, share of the side from there on), in order; empty: full size from the start."""
LEAST_SIDE = 12
"""Pixels below which there is nothing left to see after three stages."""


def share(growth: Growth, done: float) -> float:
    """Return the share of the side that pictures have when this share of the plan is done."""
    return next((side for begins, side in reversed(growth) if done >= begins), 1.0)


def smaller(batch: Tensor, side: float) -> Tensor:
    """Return pictures [rows, height, width, channels], averaged to this share of their sides; as they are at 1."""
    _, height, width, _ = batch.shape
    size = max(LEAST_SIDE, round(height * side)), max(LEAST_SIDE, round(width * side))
    if side >= 1 or size[0] >= height or size[1] >= width:
        return batch
    maps = batch.permute(0, 3, 1, 2).float()
    found = functional.interpolate(maps, size, mode="bilinear", antialias=True, align_corners=False)
    return found.permute(0, 2, 3, 1)


def saved(growth: Growth) -> float:
    """Return the share of the arithmetic that is saved: the work falls with the square of the side."""
    begins = [*(begin for begin, _ in growth), 1.0]
    spans = zip(growth, begins[1:], strict=True)
    return float(sum((end - begin) * (1 - min(1.0, side) ** 2) for (begin, side), end in spans))
