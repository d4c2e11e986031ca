"""A transformer encoder for texts that starts from public weights, and the shallower ones that it teaches.

The weights are BERT's by name and meaning (Devlin et al., BERT, 2019), as `all-MiniLM-L6-v2` ships them; loading needs
safetensors only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from ebb_jobs.networks import Network
from ebb_jobs.pretrained import LAYER, SHEET, WEIGHTS

PADDING = 0


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each followed by its norm."""

    def __init__(self, width: int, inner: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.joined = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.wide, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, epsilon)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states [texts, tokens, width]; `mask` is added to the scores and hides padding."""
        length, width = states.shape[1], states.shape[2]

        def split(flat: Tensor) -> Tensor:
            return flat.reshape(-1, length, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(states)), split(self.key(states)), split(self.value(states))
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5 + mask
        found = (scores.softmax(3) @ value).transpose(1, 2).reshape(-1, length, width)
        states = self.attention_norm(states + self.joined(found))
        return self.norm(states + self.narrow(functional.gelu(self.wide(states))))


class EncoderNet(Network):
    """Token numbers (int32 [texts, length], raised by one, padded with 0) in, logits out: the tokens' mean is read."""

    def __init__(
        self, vocabulary: int, positions: int, width: int, inner: int, heads: int, layers: int, classes: int,
        epsilon: float = 1e-12,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape = {
            "vocabulary": vocabulary, "positions": positions, "width": width, "inner": inner, "heads": heads,
            "layers": layers, "classes": classes,
        }  # fmt: skip
        self.epsilon = epsilon
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, epsilon)
        self.layers = nn.ModuleList(Layer(width, inner, heads, epsilon) for _ in range(layers))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, classes)

    def config(self) -> dict[str, Any]:
        """Return the encoder's sizes."""
        return {"architecture": "encoder", "epsilon": self.epsilon, **self.shape}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EncoderNet:
        """Return an untrained encoder of these sizes."""
        return cls(**{name: value for name, value in config.items() if name != "architecture"})

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits [texts, classes]."""
        tokens = batch.long()
        present = tokens.ne(PADDING)
        states = self.words((tokens - 1).clamp_min(0)) + self.places.weight[: tokens.shape[1]]
        states = self.dropout(self.norm(states))
        mask = (~present)[:, None, None, :] * -1e4
        for layer in self.layers:
            states = layer(states, mask)
        weights = present.unsqueeze(2).to(states.dtype)
        return self.head(self.dropout((states * weights).sum(1) / weights.sum(1).clamp_min(1.0)))

    def describe(self) -> str:
        """Return the layers in words."""
        return f"an encoder of {self.shape['layers']} layers, {self.shape['width']} wide"


def pretrained(folder: Path, classes: int, length: int) -> EncoderNet:
    """Return the encoder whose public weights lie in `folder`, with a head that has learned nothing yet.

    Only `length` positions are kept: no longer text is read.
    """
    sheet = json.loads((folder / SHEET).read_text(encoding="utf-8"))
    network = EncoderNet(
        sheet["vocab_size"], length, sheet["hidden_size"], sheet["intermediate_size"], sheet["num_attention_heads"],
        sheet["num_hidden_layers"], classes, sheet["layer_norm_eps"],
    )  # fmt: skip
    with safe_open(folder / WEIGHTS, framework="pt") as stored:
        kind = stored.get_tensor("embeddings.token_type_embeddings.weight")[0]  # every token is of the one text
        weights = {
            "words.weight": stored.get_tensor("embeddings.word_embeddings.weight"),
            "places.weight": stored.get_tensor("embeddings.position_embeddings.weight")[:length] + kind,
            "norm.weight": stored.get_tensor("embeddings.LayerNorm.weight"),
            "norm.bias": stored.get_tensor("embeddings.LayerNorm.bias"),
            "head.weight": network.head.weight.detach(),
            "head.bias": network.head.bias.detach(),
        }
        for number in range(sheet["num_hidden_layers"]):
            for name, public in LAYER.items():
                for part in ("weight", "bias"):
                    weights[f"layers.{number}.{name}.{part}"] = stored.get_tensor(
                        f"encoder.layer.{number}.{public}.{part}"
                    )
    network.load_state_dict(weights)
    return network


def shallower(teacher: EncoderNet, layers: int) -> EncoderNet:
    """Return a student that begins as evenly picked layers of its teacher, the last among them (DistilBERT, 2019)."""
    student = EncoderNet.from_config({**teacher.config(), "layers": layers})
    deep = teacher.shape["layers"]
    picked = [round((number + 1) * deep / layers) - 1 for number in range(layers)]
    for name in ("words", "places", "norm", "head"):
        getattr(student, name).load_state_dict(getattr(teacher, name).state_dict())
    for mine, its in zip(student.layers, (teacher.layers[number] for number in picked), strict=True):
        mine.load_state_dict(its.state_dict())
    return student
