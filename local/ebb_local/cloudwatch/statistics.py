"""Statistics of samples: the five basic ones and percentiles. Others are refused by name.

Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html
"""

import re

from ebb_local.cloudwatch.store import Sample, Series, merged

BASIC = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,10})?|100)", re.IGNORECASE)


def is_known(statistic: str) -> bool:
    """Return whether the statistic is one that is computed here."""
    return statistic in BASIC or bool(_PERCENTILE.fullmatch(statistic))


def value(sample: Sample | None, statistic: str) -> float | None:
    """Return a statistic of a sample; None where there is no sample, or where its values are not known."""
    if sample is None or sample.count <= 0:
        return None
    if statistic == "Average":
        return sample.total / sample.count
    basic = {"SampleCount": sample.count, "Sum": sample.total, "Minimum": sample.low, "Maximum": sample.high}
    return basic[statistic] if statistic in basic else _percentile(sample, float(statistic[1:]))


def series_values(
    series: Series | None, statistic: str, *, start: float, end: float, period_s: int
) -> dict[int, float]:
    """Return a statistic for each period from `start` on in which something was published, by the period's start."""
    if series is None:
        return {}
    parts: dict[int, list[Sample]] = {}
    for moment, sample in series.between(start, end, period_s):
        parts.setdefault(int(start + (moment - start) // period_s * period_s), []).append(sample)
    found = ((moment, value(merged(samples), statistic)) for moment, samples in sorted(parts.items()))
    return {moment: number for moment, number in found if number is not None}


def _percentile(sample: Sample, percent: float) -> float | None:
    """Return the interpolated percentile; none where the values are not known or one is negative."""
    if sample.values is None or sample.low < 0:
        return None
    ordered = sorted(sample.values.items())
    rank = percent / 100 * max(0.0, sample.count - 1)
    lower, upper = _at(ordered, int(rank)), _at(ordered, int(rank) + 1)
    return lower + (rank - int(rank)) * (upper - lower)


def _at(ordered: list[tuple[float, float]], index: int) -> float:
    seen = 0.0
    for number, count in ordered:
        seen += count
        if index < seen:
            return number
    return ordered[-1][0]
