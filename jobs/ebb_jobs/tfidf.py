"""TF-IDF of token numbers as a sparse matrix, and the linear rung for texts that is fitted on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ebb_jobs import linear
from ebb_jobs.ladder import Fitted, Lesson
from ebb_jobs.networks import Network
from ebb_jobs.text_networks import TfidfNet, paired

PAIRS = 2**16
MOST_TERMS = 40_000_000
"""Of all texts that are fitted on: 12 bytes each, and in tens of millions a linear model has seen its terms."""
CHUNK = 1024


def pairs_for(classes: int) -> int:
    """Return the size of the pairs' table: smaller where each term has many classes' weights."""
    return max(2**12, PAIRS >> max(0, (max(classes, 2) - 1).bit_length() - 3))


def fit(lesson: Lesson, vocabulary: int) -> Fitted:
    """Fit a linear model on the training texts. Raises: StoppedError, DivergedError."""
    pairs = pairs_for(lesson.outputs)
    rows = len(lesson.training)
    some = np.asarray(lesson.training.inputs[linear.sample(rows, CHUNK)])
    each = 2 * max(1, int((some != 0).sum() / max(1, len(some))))
    picked = linear.sample(rows, min(linear.MOST_ROWS, max(1000, MOST_TERMS // each)))
    counts = _counts(lesson.training.inputs, picked, vocabulary, pairs)
    seen = np.bincount(counts.indices, minlength=vocabulary + pairs)
    idf = np.log((1 + len(picked)) / (1 + seen)) + 1  # as scikit-learn's smooth_idf
    features = _scaled(counts, idf)

    def made(weights: np.ndarray, bias: np.ndarray) -> Network:
        network = TfidfNet(vocabulary, pairs, lesson.outputs)
        with torch.no_grad():
            network.idf.weight.copy_(torch.from_numpy(idf[:, None].astype(np.float32)))
            network.terms.weight.copy_(torch.from_numpy(weights.astype(np.float32)))
            network.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
        return network.eval()

    return linear.fit(lesson, features, picked, made, STRENGTHS)


STRENGTHS = (1.0, 10.0, 100.0, 1000.0)


def _counts(inputs: np.ndarray, picked: np.ndarray, vocabulary: int, pairs: int) -> Any:
    """Return how often each term comes in each text, a sparse matrix [texts, terms]."""
    from scipy import sparse

    parts = []
    for start in range(0, len(picked), CHUNK):
        tokens = torch.from_numpy(np.array(inputs[picked[start : start + CHUNK]])).long()
        together = paired(tokens, pairs)
        terms = torch.cat([tokens, torch.where(together != 0, together + vocabulary, 0)], 1).numpy()
        row, place = np.nonzero(terms)
        ones: np.ndarray = np.ones(len(row), dtype=np.float32)
        part = sparse.coo_array((ones, (row, terms[row, place])), shape=(len(terms), vocabulary + pairs))
        parts.append(part.tocsr())  # equal places are summed
    return sparse.vstack(parts, format="csr")


def _scaled(counts: Any, idf: np.ndarray) -> Any:
    """Return (1 + ln count) idf, each text's values scaled to length 1."""
    features = counts.copy()
    features.data = ((1 + np.log(features.data)) * idf[features.indices]).astype(np.float32)
    lengths = np.sqrt(np.asarray(features.multiply(features).sum(1)).reshape(-1))
    features.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(features.indptr)).astype(np.float32)
    return features
