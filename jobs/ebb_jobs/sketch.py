"""How far what a model is asked has moved from what it was trained on: counts in the bins of `reference.json`.

Standard library only: every bundle carries this file, and a serving container that captures nothing never imports it.
docs/retraining-data.md has the format of the reference.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

SMOOTHING = 0.5
"""Added to each bin's count on both sides, so that an empty one does not make the index infinite (Jeffreys' prior)."""
NORMAL_999 = 3.0902
"""The quantile of the normal distribution that one value in a thousand exceeds."""
WINDOW = 1000
"""Samples after which all counts are halved: what was asked long ago fades."""

Feature = Mapping[str, Any]


def place(feature: Feature, value: Any) -> int:
    """Return the bin of a value; the last one is that of what is missing, and of categories the one before of others.

    A number that is not finite is missing, and so is what is no number in the place of one.
    """
    if feature["kind"] == "category":
        known = feature["categories"]
        if value is None or value == "":
            return len(known) + 1
        if str(value) not in known:
            return len(known)
        return next(number for number, text in enumerate(known) if text == str(value))
    if not isinstance(value, int | float) or not math.isfinite(value):
        return len(feature["shares"])
    return bisect_right(feature["edges"], value)


def shares(feature: Feature) -> list[float]:
    """Return the share of each bin in the reference, those of what is missing last; they add up to 1."""
    missing = float(feature["missing"])
    if feature["kind"] == "category":
        present = [*feature["categories"].values(), feature.get("other", 0.0)]
    else:
        present = list(feature["shares"])
    return [*(share * (1 - missing) for share in present), missing]


def psi(counts: Sequence[float], expected: Sequence[float], rows: int) -> float:
    """Return the population stability index beyond what chance alone gives once in a thousand times.

        psi = sum over bins of (a - e) ln(a / e) - chance, at least 0
        chance = (1 / n + 1 / rows) chi2(bins - 1, 0.999)
    `counts` are those of the n samples, `expected` the shares of the reference's `rows` rows, a and e the shares of the
    two. Without any change the sum is about (1/n + 1/rows) times a chi-square of bins - 1 degrees of freedom: of many
    features the highest would soon pass any limit by chance, and of few rows again and again. 0.1 is usually read as
    little and 0.25 as much. Returns 0 without samples.
    Source: Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University, 2018; the
    quantile: Wilson and Hilferty, The Distribution of Chi-square, 1931.
    """
    total, known = sum(counts), max(1, rows)
    bins = [(count, share * known) for count, share in zip(counts, expected, strict=True) if count or share]
    if not total or len(bins) < 2:
        return 0.0
    added = SMOOTHING * len(bins)
    summed = 0.0
    for count, wanted in bins:
        a, e = (count + SMOOTHING) / (total + added), (wanted + SMOOTHING) / (known + added)
        summed += (a - e) * math.log(a / e)
    return max(0.0, summed - _chi_square(len(bins) - 1) * (1 / total + 1 / known))


def _chi_square(freedom: int) -> float:
    """Return what a chi-square exceeds once in a thousand times."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + NORMAL_999 * math.sqrt(spread)) ** 3


class Counts:
    """The bins of one feature, filled."""

    def __init__(self, feature: Feature, rows: int) -> None:
        self.feature, self.rows = feature, int(feature.get("rows", rows))
        self.expected = shares(feature)
        self.counts = [0.0] * len(self.expected)
        # a dictionary of places: a category is looked up for every sample
        known = feature["categories"] if feature["kind"] == "category" else {}
        self._places = {text: number for number, text in enumerate(known)}

    def add(self, value: Any) -> None:
        """Count a value."""
        found = self._places.get(value) if isinstance(value, str) and self._places else None
        self.counts[place(self.feature, value) if found is None else found] += 1

    def halve(self) -> None:
        """Let what was counted count half."""
        self.counts = [count / 2 for count in self.counts]

    @property
    def psi(self) -> float:
        """Return the index; see `psi`."""
        return psi(self.counts, self.expected, self.rows)

    @property
    def missing(self) -> float:
        """Return the share of what is missing."""
        return self.counts[-1] / max(1.0, sum(self.counts))

    @property
    def new(self) -> float:
        """Return by how much the share of categories that are not among the known ones has grown."""
        if self.feature["kind"] != "category":
            return 0.0
        return max(0.0, self.counts[-2] / max(1.0, sum(self.counts)) - self.expected[-2])


class Sketch:
    """The running counts of a serving process against the reference of its bundle."""

    def __init__(self, reference: Mapping[str, Any], window: int = WINDOW) -> None:
        rows = int(reference["rows"])
        self.features = {name: Counts(each, rows) for name, each in reference["features"].items()}
        self.answers = {
            name: Counts(reference[name], rows) for name in ("prediction", "confidence") if reference.get(name)
        }
        self.samples, self._window = 0.0, window

    def add(self, features: Mapping[str, Any], prediction: Mapping[str, Any]) -> None:
        """Count an example and its answer; features that the reference does not know are left out."""
        for name, counts in self.features.items():
            counts.add(features.get(name))
        answers = {"prediction": prediction.get("label", prediction.get("value")), "confidence": confidence(prediction)}
        for name, counts in self.answers.items():
            value = answers[name]
            counts.add(str(value) if counts.feature["kind"] == "category" and value is not None else value)
        self.samples += 1
        if self.samples >= self._window:
            for counts in (*self.features.values(), *self.answers.values()):
                counts.halve()
            self.samples /= 2

    def told(self, most: int) -> dict[str, Any]:
        """Return the indices, of the `most` features that have moved furthest."""
        found = {name: counts.psi for name, counts in self.features.items()}
        ranked = sorted(found, key=lambda name: -found[name])
        answers = {name: round(counts.psi, 4) for name, counts in self.answers.items()}
        everything = {**found, **answers}
        highest = max(everything, key=lambda name: everything[name], default=None)
        return {
            "samples": int(self.samples),
            "psi": round(max(everything.values(), default=0.0), 4),
            "of": highest,
            "features": {name: round(found[name], 4) for name in ranked[:most]},
            **answers,
            "missing": {
                name: round(counts.missing, 4)
                for name in ranked[:most]
                if (counts := self.features[name]).missing > counts.expected[-1] + 0.05
            },
            "new": {name: round(grown, 4) for name in ranked[:most] if (grown := self.features[name].new) > 0.01},
        }


def confidence(prediction: Mapping[str, Any]) -> float | None:
    """Return the probability of the label that was answered, None where there is none."""
    if "probability" in prediction:
        return float(prediction["probability"])
    probabilities = prediction.get("probabilities")
    if not isinstance(probabilities, Mapping) or "label" not in prediction:
        return None
    found = probabilities.get(prediction["label"])
    return None if found is None else float(found)
