"""The network, which training and code/inference.py share."""

import torch
from torch import nn

INPUTS = ("year", "month", "sales", "volume", "listings", "inventory")


class Prices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(INPUTS)))
        self.register_buffer("scale", torch.ones(len(INPUTS)))
        self.layers = nn.Sequential(nn.Linear(len(INPUTS), 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return 150 + 50 * self.layers((rows - self.mean) / self.scale)
