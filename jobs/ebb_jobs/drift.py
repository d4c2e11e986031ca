"""How far what a model is asked has moved from what it learned from, by feature and by answer, and what that implies.

`reference` is the bundle's `reference.json`, `samples` what the container noted (docs/retraining-data.md), or labelled
rows read by the same code. Tests are scipy's; of the reference only the shares of bins are known, so that the distance
of Kolmogorov and Smirnov is taken at the edges of those: at most the true one, its p-value at least the true one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ebb_jobs import sketch

FALSE_ALARMS = 0.01
"""Of all features that are called moved, the share for which it may be chance (Benjamini and Hochberg, 1995)."""
MISSING_BY = 0.05
NEW_BY = 0.02
"""Points by which the share of missing values, and of categories that the model never saw, may grow."""
LEAST_SAMPLES = 100
"""Fewer say nothing about shares of a tenth."""

Sample = Mapping[str, Any]


def measure(reference: Mapping[str, Any], samples: Sequence[Sample], *, psi: float) -> dict[str, Any]:
    """Return the drift of each feature and of the answers; `moved` names what moved beyond `psi` and beyond chance."""
    seen = sketch.Sketch(reference, window=len(samples) + 1)  # nothing fades: the samples were chosen by their time
    for sample in samples:
        seen.add(sample["features"], sample["prediction"])
    found = {name: _drift(counts) for name, counts in seen.features.items()}
    answers = {name: _drift(counts) for name, counts in seen.answers.items()}
    everything = [*found.values(), *answers.values()]
    if everything:
        adjusted = stats.false_discovery_control([each["p_value"] for each in everything])
        for each, p_value in zip(everything, adjusted, strict=True):
            each["p_value"] = float(p_value)
            each["moved"] = bool(len(samples) >= LEAST_SAMPLES and p_value < FALSE_ALARMS and _why(each, psi))
            each["why"] = _why(each, psi) if each["moved"] else ""
    ranked = sorted(found, key=lambda name: (-found[name]["psi"], name))
    return {
        "samples": len(samples),
        "threshold": psi,
        "features": {name: found[name] for name in ranked},
        "answers": answers,
        "moved": [name for name in ranked if found[name]["moved"]],
        "answers_moved": any(each["moved"] for each in answers.values()),
    }


def implied_accuracy(reference: Mapping[str, Any], accuracy: float, samples: Sequence[Sample]) -> dict[str, float]:
    """Return what accuracy the model's own confidence in these samples implies, nobody having labelled them.

    The confidence above which the share `accuracy` of the reference's answers lies is looked up; the share of the
    samples above it is the estimate. `low` and `high`: 95 % of what chance gives for so many samples (Wilson's
    interval). It is blind to a change of what the label means; nan without confidences.
    Source: Garg et al., Leveraging Unlabeled Data to Predict Out-of-Distribution Performance, ICLR 2022.
    """
    sure = [value for each in samples if (value := sketch.confidence(each["prediction"])) is not None]
    known = reference.get("confidence")
    if not sure or not known or not known["edges"]:
        return {"value": math.nan, "low": math.nan, "high": math.nan}
    above = _threshold(known, 1 - accuracy)
    # what lies exactly at the threshold counts by the share that it counts for in the reference
    hits = sum(value > above for value in sure)
    # the two curves are compared by the same steps, so that equal data gives the same accuracy
    then = 1 - _below(known, above)
    value = min(1.0, max(0.0, hits / len(sure) + (accuracy - then)))
    band = stats.binomtest(round(value * len(sure)), len(sure)).proportion_ci(0.95, method="wilson")
    return {"value": value, "low": float(band.low), "high": float(band.high)}


def _drift(counts: sketch.Counts) -> dict[str, Any]:
    """Return index, test and rates of one feature."""
    statistic, p_value, test = _tested(counts)
    return {
        "psi": round(counts.psi, 4),
        "test": test,
        "statistic": round(statistic, 4),
        "p_value": p_value,
        "missing": round(counts.missing, 4),
        "missing_then": round(counts.expected[-1], 4),
        "new": round(counts.new, 4),
    }


def _tested(counts: sketch.Counts) -> tuple[float, float, str]:
    """Return the statistic, the p-value and the name of the test that fits the feature."""
    now, then = np.array(counts.counts), np.array(counts.expected) * counts.rows
    if counts.feature["kind"] == "category":
        used = (now + then) > 0
        if now.sum() == 0 or used.sum() < 2:
            return 0.0, 1.0, "chi-square"
        found = stats.chi2_contingency(np.array([now[used], then[used]]), correction=False)
        return float(found.statistic), float(found.pvalue), "chi-square"
    now, then = now[:-1], then[:-1]  # what is missing has its own rate
    if now.sum() == 0 or then.sum() == 0:
        gone = counts.missing - counts.expected[-1]
        return (0.0, 0.0 if gone > MISSING_BY else 1.0, "Kolmogorov-Smirnov")
    distance = float(np.abs(np.cumsum(now / now.sum()) - np.cumsum(then / then.sum())).max())
    size = now.sum() * then.sum() / (now.sum() + then.sum())
    shape = float(stats.kstwobign.sf(distance * math.sqrt(size)))
    absent = _rates_differ(counts)
    return distance, min(1.0, 2 * min(shape, absent)), "Kolmogorov-Smirnov"  # two looks at one feature: Bonferroni


def _rates_differ(counts: sketch.Counts) -> float:
    """Return the p-value of missing values having become as frequent as they are by chance."""
    now, total = counts.counts[-1], sum(counts.counts)
    then = counts.expected[-1] * counts.rows
    table = np.array([[now, total - now], [then, counts.rows - then]])
    if (table.sum(0) == 0).any():
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def _why(found: Mapping[str, Any], psi: float) -> str:
    """Return in words how a feature moved; nothing where it did not by enough to matter."""
    told = [f"PSI {found['psi']:.2f}"] if found["psi"] > psi else []
    if found["missing"] - found["missing_then"] > MISSING_BY:
        told.append(f"{found['missing']:.0%} missing, {found['missing_then']:.0%} in training")
    if found["new"] > NEW_BY:
        told.append(f"{found['new']:.0%} more values that training did not know")
    return "; ".join(told)


def _threshold(known: Mapping[str, Any], share: float) -> float:
    """Return the edge of the reference's confidences below which about `share` of them lie: the nearest one."""
    below = np.cumsum(known["shares"])[:-1]
    return float(known["edges"][int(np.abs(below - share).argmin())])


def _below(known: Mapping[str, Any], edge: float) -> float:
    """Return the share of the reference's confidences below one of its edges."""
    return float(sum(known["shares"][: known["edges"].index(edge) + 1]))
