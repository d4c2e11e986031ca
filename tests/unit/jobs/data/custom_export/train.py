"""Tell three species of penguins apart by four measurements: a small network, exported as ONNX with held-out rows."""

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

MEASURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    with open(folder / "penguins.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[name] not in ("", "NA") for name in MEASURES)]
    species = sorted({row["species"] for row in rows})
    inputs = np.array([[float(row[name]) for name in MEASURES] for row in rows], dtype=np.float32)
    return inputs, np.array([species.index(row["species"]) for row in rows]), species


class Network(nn.Module):
    """Scaling is part of the network, so that whoever asks it sends millimetres and grams."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.layers = nn.Sequential(
            nn.Linear(len(mean), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
        )

    def forward(self, measures: torch.Tensor) -> torch.Tensor:
        return self.layers((measures - self.mean) / self.scale)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--model-dir", type=Path, default=os.environ["SM_MODEL_DIR"])
    parser.add_argument("--data", type=Path, default=os.environ["SM_CHANNEL_TRAINING"])
    given = parser.parse_args()

    torch.manual_seed(3)
    inputs, targets, species = read(given.data)
    order = np.random.default_rng(3).permutation(len(inputs))
    held_out, used = np.split(order, [120])
    rows, labels = torch.from_numpy(inputs[used]), torch.from_numpy(targets[used])

    network = Network(rows.mean(0), rows.std(0), given.width, len(species))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for epoch in range(given.epochs):
        for batch in torch.randperm(len(rows)).split(32):
            loss = nn.functional.cross_entropy(network(rows[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 20 == 19:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)

    network.eval()
    torch.onnx.export(
        network,
        (rows[:2],),
        str(given.model_dir / "model.onnx"),
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("rows")},),
    )
    np.savez(
        given.model_dir / "evaluation.npz",
        inputs=inputs[held_out],
        targets=targets[held_out],
        calibration=inputs[used],
    )
    (given.model_dir / "evaluation.json").write_text(
        json.dumps({"task": "classification", "metric": "accuracy", "classes": species})
    )


if __name__ == "__main__":
    main()
