"""Networks: what they have in common, their files and outputs, and the multilayer perceptron for tables."""

from __future__ import annotations

import importlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

ARCHITECTURES = {
    "mlp": "ebb_jobs.networks:Mlp",
    "convnet": "ebb_jobs.image_networks:ConvNet",
    "plainnet": "ebb_jobs.image_networks:PlainNet",
    "text": "ebb_jobs.text_networks:TextNet",
    "tfidf": "ebb_jobs.text_networks:TfidfNet",
    "encoder": "ebb_jobs.encoder_networks:EncoderNet",
}
"""Name in a network's config -> its class, which is imported when it is needed."""
EVALUATION_ROWS = 4096
EVALUATION_VALUES = 2**17
"""Numbers of the inputs that are evaluated at once: fewer rows where a row is an image."""


class Network(nn.Module):
    """A network that can be written, read again, exported and compared with others."""

    any_size = False
    """It takes pictures of any size, not only of the one that it is served."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what builds an equal network, as JSON: its name in ARCHITECTURES as "architecture", and its shape."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Network:
        """Return an untrained network of that shape."""

    @abstractmethod
    def forward(self, batch: Tensor) -> Tensor:
        """Return logits [rows, classes], or the scaled target [rows, 1]."""

    def deployed(self) -> Network:
        """Return the form to run once training is over: itself, unless it learns in another one."""
        return self

    def describe(self) -> str:
        """Return the network's shape in a few words."""
        return f"{self.config()['architecture']} of {self.parameter_count()} parameters"

    def parameter_count(self) -> int:
        """Return how many numbers the network learns."""
        return sum(parameter.numel() for parameter in self.parameters())


class Mlp(Network):
    """Linear layers with ReLU between them; the encoding of the row has done the rest.

    Piecewise-linear bins of the numbers give a plain network nearly the accuracy of boosted trees (Gorishniy et al.,
    On Embeddings for Numerical Features in Tabular Deep Learning, 2022), and plain matrices are what every runtime
    quantizes and compiles well. No dropout: on our tables it cost half of the training time and brought nothing.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(self.sizes, self.sizes[1:], strict=False))

    def config(self) -> dict[str, Any]:
        """Return the layers' sizes."""
        return {"architecture": "mlp", "sizes": self.sizes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Mlp:
        """Return an untrained network with these layers."""
        sizes = config["sizes"]
        return cls(sizes[0], sizes[1:-1], sizes[-1])

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits, or the scaled target."""
        for layer in self.layers[:-1]:
            batch = torch.relu(layer(batch))
        return self.layers[-1](batch)

    def describe(self) -> str:
        """Return the layers in words."""
        return f"{len(self.sizes) - 2} hidden layers of {self.sizes[1]}"


def hidden_sizes(rows: int) -> list[int]:
    """Return the original network's layers for that many training rows: wider where there is more to learn from."""
    width = 128 if rows < 1000 else 256 if rows < 8000 else 512
    return [width] * 3


def save(network: Network, file: Path) -> None:
    """Write weights and shape as safetensors, which can hold no code."""
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()},
        file,
        metadata={"config": json.dumps(network.config())},
    )


def load(file: Path) -> Network:
    """Return the network that `save` wrote, on the CPU, ready to predict."""
    with safe_open(file, framework="pt") as stored:
        config = json.loads(stored.metadata()["config"])
        module, _, name = ARCHITECTURES[config["architecture"]].partition(":")
        network = getattr(importlib.import_module(module), name).from_config(config)
        network.load_state_dict({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
    return network.eval()


def tensor(inputs: np.ndarray) -> Tensor:
    """Return a copy as a tensor: the array may be a view of a file that is only read."""
    return torch.from_numpy(np.array(inputs))


@torch.inference_mode()
def raw_outputs(network: Network, inputs: np.ndarray) -> Tensor:
    """Return the outputs of the network for all rows, in fp32 on the CPU; it computes where its weights are."""
    network.eval()
    device = next(network.parameters()).device
    rows = max(1, min(EVALUATION_ROWS, EVALUATION_VALUES // max(1, int(np.prod(inputs.shape[1:])))))
    return torch.cat(
        [network(tensor(inputs[start : start + rows]).to(device)).cpu() for start in range(0, len(inputs), rows)]
    )


def predict(network: Network, inputs: np.ndarray) -> np.ndarray:
    """Return probabilities [rows, classes], or the scaled target [rows, 1]."""
    return probabilities(raw_outputs(network, inputs)).numpy()


def probabilities(outputs: Tensor) -> Tensor:
    """Return what a client is told of logits; a single output is the scaled target and stays."""
    return torch.softmax(outputs, 1) if outputs.shape[1] > 1 else outputs
