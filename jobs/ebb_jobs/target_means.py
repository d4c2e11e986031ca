"""Columns of many categories: what the target was, on average, in the rows of each category.

Beyond the 64 most frequent texts of a column, which have inputs of their own, a text is known by the mean of the target
over its training rows, shrunk towards the mean of all rows by how few they are. A training row is never part of its own
mean: it gets that of the other folds (out-of-fold), or the model would learn to read its answer there. A served row
gets the mean of all training rows, from the table in the codec's state (`tabular.Preprocessor`).
Sources: Micci-Barreca, A Preprocessing Scheme for High-Cardinality Categorical Attributes, 2001; Pargent et al.,
Regularized target encoding outperforms traditional methods, 2022; the shrinkage is that of one-way random effects,
Searle et al., Variance Components, 1992.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebb_jobs.tabular import MAX_CATEGORIES, Preprocessor

FOLDS = 5
MOST_CLASSES = 20
"""Every class is a number more for each such column."""
MOST_NUMBERS = 40_000
"""Of one column's table, in the state of the codec: about a megabyte."""
LEAST_ROWS = 2
"""A text of one row was never learned from: out of its fold nothing is known of it."""
LEAST_GAIN = 0.01
"""Share of the target's variance that the rarer texts must explain, in rows that had no part in their means.

Of 14 real tables, boosted trees became better in the 8 that have such a column; in the 6 whose columns explain less
than 0.006 they gained nothing or became worse: means that are mostly noise are learned as if they told something.
"""

LARGE = 1e9
"""Shrinks to the mean of all rows: the texts do not differ."""


class Judged(NamedTuple):
    """What the rarer texts of a column tell, as shares of the target's variance."""

    name: str
    texts: int
    """How many different ones the training rows hold."""
    gain: float
    """In training rows, out of their folds: beyond what the most frequent texts tell."""
    validation: float | None
    """The same in the validation rows; None where the training rows settle it."""
    shrink: float
    """Rows of the mean of all that each text's mean is mixed with."""

    @property
    def pays(self) -> bool:
        """Tell whether both are enough: groups, or time, may make the rows of a split more alike than new rows are."""
        return self.validation is not None and min(self.gain, self.validation) >= LEAST_GAIN


class _Codes(NamedTuple):
    """The texts of some rows as numbers; -1 where the text is missing."""

    texts: list[str]
    codes: np.ndarray
    few: np.ndarray
    """As `codes`, all but the most frequent texts under one number."""


def outputs(codec: Preprocessor, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return what is averaged, float64 [rows, outputs]: the scaled target, or 1 for the class and 0 for all others."""
    numbers = codec.encode_target(values)
    classes = codec.state["target"].get("classes")
    if classes is None:
        return numbers.astype(np.float64)[:, None]
    wanted = [1] if len(classes) == 2 else range(len(classes))
    return np.stack([numbers == each for each in wanted], axis=1).astype(np.float64)


def fit(
    codec: Preprocessor,
    training: Mapping[str, Sequence[Any] | np.ndarray],
    target: Sequence[Any] | np.ndarray,
    validation: Mapping[str, Sequence[Any] | np.ndarray],
    held_target: Sequence[Any] | np.ndarray,
) -> tuple[Preprocessor, list[Judged]]:
    """Return the codec with the means of the columns that they pay for, and how each column of many was judged."""
    classes = codec.state["target"].get("classes") or []
    if len(classes) > MOST_CLASSES:
        return codec, []
    means, learned, judged = [], [], []
    wanted, held = outputs(codec, target), outputs(codec, held_target)
    for feature in codec.features:
        if feature["kind"] != "categorical" or len(set(training[feature["name"]])) <= MAX_CATEGORIES:
            continue
        found = _codes(codec.read_texts(feature, training[feature["name"]]))
        table = _table(found, wanted)
        own = out_of_fold(found.codes, wanted, table.shrink)
        gain = _explained(wanted, own) - _explained(wanted, out_of_fold(found.few, wanted, table.shrink))
        told = None
        if gain >= LEAST_GAIN:
            texts = codec.read_texts(feature, validation[feature["name"]])
            told = _told_of_others(
                texts, held, found, table, _means(found.few, wanted, MAX_CATEGORIES + 1, table.shrink)
            )
        judged.append(Judged(feature["name"], len(found.texts), gain, told, table.shrink))
        if judged[-1].pays:
            means.append(_stated(feature["name"], found, table))
            learned.append(own)
    return (codec.with_means(means, learned) if means else codec), judged


def for_training(
    codec: Preprocessor, columns: Mapping[str, Sequence[Any] | np.ndarray], target: Sequence[Any] | np.ndarray
) -> dict[str, np.ndarray]:
    """Return each training row's means, out of its fold, by column: float64 [rows, outputs]."""
    if not codec.means:
        return {}
    wanted = outputs(codec, target)
    features = {feature["name"]: feature for feature in codec.features}
    return {
        name: out_of_fold(_codes(codec.read_texts(features[name], columns[name])).codes, wanted, item["shrink"])
        for name, item in codec.means.items()
    }


def out_of_fold(codes: np.ndarray, wanted: np.ndarray, shrink: float) -> np.ndarray:
    """Return the mean of each row's text over the rows of the other folds; rows are dealt in turn."""
    means: np.ndarray = np.empty_like(wanted)
    folds: np.ndarray = np.arange(len(codes)) % FOLDS
    for fold in range(FOLDS):
        mine = folds == fold
        table = _means(codes[~mine], wanted[~mine], int(codes.max(initial=-1)) + 1, shrink)
        means[mine] = table[codes[mine]]  # what is missing, -1, is the last row: the mean of all
    return means


class _Table(NamedTuple):
    means: np.ndarray
    """[texts + 1, outputs]; the last is the mean of all rows."""
    shrink: float


def _table(found: _Codes, wanted: np.ndarray) -> _Table:
    shrink = _shrink(found.codes, wanted, len(found.texts))
    return _Table(_means(found.codes, wanted, len(found.texts), shrink), shrink)


def _means(codes: np.ndarray, wanted: np.ndarray, texts: int, shrink: float) -> np.ndarray:
    """Return the shrunk mean of each text, and after them that of all rows."""
    overall = wanted.mean(axis=0) if len(wanted) else np.zeros(wanted.shape[1])
    there = codes >= 0
    counts = np.bincount(codes[there], minlength=texts)[:, None]
    sums = np.stack([np.bincount(codes[there], column[there], texts) for column in wanted.T], axis=1)
    return np.concatenate([(sums + shrink * overall) / (counts + shrink), overall[None]])


def _shrink(codes: np.ndarray, wanted: np.ndarray, texts: int) -> float:
    """Return the variance within texts by that between them, of all outputs together (method of moments)."""
    there = codes >= 0
    counts = np.bincount(codes[there], minlength=texts).astype(np.float64)
    more = counts > 1
    if more.sum() < 2:
        return LARGE
    within = between = 0.0
    rows, groups = counts[more].sum(), more.sum()
    effective = (rows - (counts[more] ** 2).sum() / rows) / (groups - 1)
    for column in wanted.T:
        sums = np.bincount(codes[there], column[there], texts)[more]
        squares = np.bincount(codes[there], column[there] ** 2, texts)[more]
        means = sums / counts[more]
        inside = max(0.0, float((squares - sums * means).sum() / max(1.0, rows - groups)))
        outside = float((counts[more] * (means - sums.sum() / rows) ** 2).sum() / (groups - 1))
        within += inside
        between += max(0.0, (outside - inside) / effective)
    return float(min(max(within / between, 1e-6), LARGE)) if between else LARGE


def _codes(texts: Sequence[str]) -> _Codes:
    """Return the texts, the most frequent first, and each row's; equal counts by the text."""
    counts = Counter(text for text in texts if text)
    ranked = sorted(counts, key=lambda text: (-counts[text], text))
    known = {text: number for number, text in enumerate(ranked)}
    codes = np.array([known.get(text, -1) for text in texts], dtype=np.intp)
    return _Codes(ranked, codes, np.minimum(codes, MAX_CATEGORIES))


def _explained(wanted: np.ndarray, means: np.ndarray) -> float:
    """Return the share of the variance that means explain; negative when they mislead."""
    total = float(((wanted - wanted.mean(axis=0)) ** 2).sum())
    return 1.0 - float(((wanted - means) ** 2).sum()) / total if total else 0.0


def _told_of_others(
    texts: Sequence[str], held: np.ndarray, found: _Codes, table: _Table, frequent: np.ndarray
) -> float:
    """Return what the rarer texts explain in rows of another split, beyond the means of the frequent ones.

    Of a text that is new there, both know the mean of all rows only.
    """
    known = {text: number for number, text in enumerate(found.texts)}
    codes = np.array([known.get(text, -1) for text in texts], dtype=np.intp)
    return _explained(held, table.means[codes]) - _explained(held, frequent[np.minimum(codes, MAX_CATEGORIES)])


def _stated(name: str, found: _Codes, table: _Table) -> dict[str, Any]:
    """Return what the codec's state holds of one column."""
    counts = np.bincount(found.codes[found.codes >= 0], minlength=len(found.texts))
    most = MOST_NUMBERS // table.means.shape[1]
    kept = [number for number in range(min(most, len(found.texts))) if counts[number] >= LEAST_ROWS]
    return {
        "name": name,
        "shrink": table.shrink,
        "overall": [round(float(value), 6) for value in table.means[-1]],
        "texts": {found.texts[number]: [round(float(value), 6) for value in table.means[number]] for number in kept},
    }
