"""The networks for texts: a linear model over TF-IDF, and averages of embeddings of tokens and of pairs of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebb_jobs.networks import Network

PADDING = 0
_SPREAD = 40_503
"""Odd and near 2**16 over the golden ratio, whose multiples lie far apart; below it the hash of a pair of tokens stays
within 31 bits, in which OpenVINO computes."""
MAX_VOCABULARY = 2**15
READ = 256
"""Tokens of a text of which averages are taken: more cost time and blur them. A linear model reads all that come."""


class TextNet(Network):
    """Token numbers (int32 [texts, length], padded with 0) in, logits out."""

    def __init__(self, vocabulary: int, pairs: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        if vocabulary > MAX_VOCABULARY:
            raise ValueError(
                f"a vocabulary of {vocabulary}, more than {MAX_VOCABULARY}, would overflow the pairs' hash"
            )
        self.shape = {"vocabulary": vocabulary, "pairs": pairs, "width": width, "hidden": hidden, "classes": classes}
        self.tokens = _table(vocabulary, width)
        self.token_weights = _weights(vocabulary)
        self.pairs = _table(pairs, width)
        self.pair_weights = _weights(pairs)
        self.dropout = nn.Dropout(0.3)
        self.hidden = nn.Linear(2 * width, hidden)
        self.head = nn.Linear(hidden, classes)

    def config(self) -> dict[str, Any]:
        """Return the tables' sizes."""
        return {"architecture": "text", **self.shape}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TextNet:
        """Return an untrained network with tables of these sizes."""
        return cls(**{name: int(config[name]) for name in ("vocabulary", "pairs", "width", "hidden", "classes")})

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits [texts, classes]."""
        tokens = batch[:, :READ].long()
        pairs = paired(tokens, self.shape["pairs"])
        found = torch.cat([self.tokens(tokens), self.pairs(pairs)], 1)
        present = torch.cat([tokens, pairs], 1).ne(PADDING).unsqueeze(2)
        weights = torch.cat([self.token_weights(tokens), self.pair_weights(pairs)], 1).exp() * present
        mean = (found * weights).sum(1) / (weights.sum(1) + 1e-6)
        largest = found.masked_fill(~present, -10.0).amax(1)
        return self.head(self.dropout(torch.relu(self.hidden(self.dropout(torch.cat([mean, largest], 1))))))

    def describe(self) -> str:
        """Return the tables in words."""
        return f"{self.shape['vocabulary']} tokens and {self.shape['pairs']} pairs of them, {self.shape['width']} wide"


def paired(tokens: Tensor, size: int) -> Tensor:
    """Return the row of the pairs' table for every two neighbouring tokens, [texts, length - 1]; 0 beyond the text."""
    first, second = tokens[:, :-1], tokens[:, 1:]
    return torch.where(second != PADDING, (first * _SPREAD + second) & (size - 1), 0)


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, 0, 0.1)
    return table


def _weights(rows: int) -> nn.Embedding:
    table = nn.Embedding(rows, 1)
    nn.init.zeros_(table.weight)
    return table


class TfidfNet(Network):
    """Token numbers in, logits out: a linear model over TF-IDF of tokens and pairs, scaled to length 1 per text.

    A term's share is (1 + ln(count)) idf, as scikit-learn's TfidfVectorizer with `sublinear_tf`; how often a term comes
    is counted among the text's own terms, so that no table of all terms is filled. Only weights, idf and bias are held.
    """

    def __init__(self, vocabulary: int, pairs: int, classes: int) -> None:
        super().__init__()
        if vocabulary > MAX_VOCABULARY:
            raise ValueError(f"a vocabulary of {vocabulary} would overflow the pairs' hash")
        self.shape = {"vocabulary": vocabulary, "pairs": pairs, "classes": classes}
        self.idf = nn.Embedding(vocabulary + pairs, 1)
        self.terms = nn.Embedding(vocabulary + pairs, classes)
        self.bias = nn.Parameter(torch.zeros(classes))

    def config(self) -> dict[str, Any]:
        """Return the table's sizes."""
        return {"architecture": "tfidf", **self.shape}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TfidfNet:
        """Return an untrained network with a table of these sizes."""
        return cls(**{name: int(config[name]) for name in ("vocabulary", "pairs", "classes")})

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits [texts, classes]."""
        tokens = batch.long()
        pairs = paired(tokens, self.shape["pairs"])
        terms = torch.cat([tokens, torch.where(pairs != PADDING, pairs + self.shape["vocabulary"], 0)], 1)
        terms, count = _counted(terms)
        values = self.idf(terms)[:, :, 0] * torch.where(terms != PADDING, 1 + count.log(), 0.0)
        length = (values * values / count).sum(1, keepdim=True).clamp_min(1e-12).sqrt()
        return torch.einsum("nt,ntc->nc", values / count / length, self.terms(terms)) + self.bias

    def describe(self) -> str:
        """Return the tables in words."""
        return f"linear over TF-IDF of {self.shape['vocabulary']} tokens and {self.shape['pairs']} pairs of them"

    def parameter_count(self) -> int:
        """Return how many numbers are learned."""
        return sum(each.numel() for each in self.parameters())


def _counted(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Return each text's terms in order, and beside each how often its text holds it: work in proportion to length."""
    ordered = terms.sort(1).values
    begins = torch.cat([torch.ones_like(ordered[:, :1]), (ordered[:, 1:] != ordered[:, :-1]).long()], 1)
    group = begins.cumsum(1) - 1
    ones = torch.ones_like(ordered, dtype=torch.float32)
    return ordered, torch.zeros_like(ones).scatter_add(1, group, ones).gather(1, group)
