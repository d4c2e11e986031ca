"""The networks: plain multilayer perceptrons over the encoded row, their files and their outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

EVALUATION_ROWS = 4096


class Mlp(nn.Module):
    """Linear layers with ReLU between them; the encoding of the row has done the rest.

    Piecewise-linear bins of the numbers give a plain network nearly the accuracy of boosted trees (Gorishniy et al.,
    On Embeddings for Numerical Features in Tabular Deep Learning, 2022), and plain matrices are what every runtime
    quantizes and compiles well. No dropout: on our tables it cost half of the training time and brought nothing.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(self.sizes, self.sizes[1:], strict=False))

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits, or the scaled target."""
        for layer in self.layers[:-1]:
            rows = torch.relu(layer(rows))
        return self.layers[-1](rows)

    def parameter_count(self) -> int:
        """Return how many numbers the network holds."""
        return sum(parameter.numel() for parameter in self.parameters())


def hidden_sizes(rows: int) -> list[int]:
    """Return the original network's layers for that many training rows: wider where there is more to learn from."""
    width = 128 if rows < 1000 else 256 if rows < 8000 else 512
    return [width] * 3


def save(network: Mlp, file: Path) -> None:
    """Write weights and layer sizes as safetensors, which can hold no code."""
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        file,
        metadata={"sizes": json.dumps(network.sizes)},
    )


def load(file: Path) -> Mlp:
    """Return the network that `save` wrote, ready to predict."""
    with safe_open(file, framework="pt") as stored:
        sizes = json.loads(stored.metadata()["sizes"])
        network = Mlp(sizes[0], sizes[1:-1], sizes[-1])
        network.load_state_dict({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
    return network.eval()


@torch.inference_mode()
def raw_outputs(network: Mlp, inputs: np.ndarray) -> Tensor:
    """Return the outputs of the network for all rows, in eager fp32."""
    network.eval()
    return torch.cat(
        [
            network(torch.from_numpy(np.ascontiguousarray(inputs[start : start + EVALUATION_ROWS])))
            for start in range(0, len(inputs), EVALUATION_ROWS)
        ]
    )


def predict(network: Mlp, inputs: np.ndarray) -> np.ndarray:
    """Return probabilities [rows, classes], or the scaled target [rows, 1]."""
    outputs = raw_outputs(network, inputs)
    return (torch.softmax(outputs, 1) if outputs.shape[1] > 1 else outputs).numpy()
