"""Predict what a house costs in a city of Texas, and keep the weights only: code/inference.py says how to use them."""

import argparse
import csv
import os
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent / "code"))  # the network is shared with what serves it
from prices import INPUTS, Prices


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()

    with open(Path(os.environ["SM_CHANNEL_TRAINING"]) / "housing.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[name] not in ("", "NA") for name in (*INPUTS, "median"))]
    torch.manual_seed(5)
    inputs = torch.tensor([[float(row[name]) for name in INPUTS] for row in rows])
    prices = torch.tensor([[float(row["median"]) / 1000] for row in rows])

    network = Prices()
    network.mean, network.scale = inputs.mean(0), inputs.std(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(given.epochs):
        loss = nn.functional.smooth_l1_loss(network(inputs), prices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{given.epochs} epochs, off by {(network(inputs) - prices).abs().mean().item():.1f} thousand dollars")
    torch.save(network.state_dict(), Path(os.environ["SM_MODEL_DIR"]) / "weights.pt")


if __name__ == "__main__":
    main()
