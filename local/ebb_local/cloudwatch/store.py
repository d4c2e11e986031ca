"""What was published: one series for each namespace, name and set of dimensions, coarser as it gets older.

Kept as CloudWatch keeps it: single seconds for 3 hours, minutes for 15 days, 5 minutes for 63 days, hours for 455 days.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html (Metrics retention).
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ministack.core.responses import get_account_id, get_region

HOUR_S = 3600
DAY_S = 86_400
TIERS = ((1, 3 * HOUR_S), (60, 15 * DAY_S), (300, 63 * DAY_S), (3600, 455 * DAY_S))  # (seconds of one, kept for)
_KEPT_VALUES = 500  # distinct values of one sample; beyond, they are told apart by two digits only

Dimensions = tuple[tuple[str, str], ...]
Key = tuple[str, str, Dimensions]  # namespace, name, dimensions
lock = threading.RLock()


@dataclass(slots=True)
class Sample:
    """What was published in one second, minute or hour. `values` (value -> count) is None when it is not known."""

    count: float
    total: float
    low: float
    high: float
    values: dict[float, float] | None

    @staticmethod
    def of(value: float, count: float = 1.0) -> "Sample":
        """Return the sample of one value that was seen `count` times."""
        return Sample(count, value * count, value, value, {value: count})

    @staticmethod
    def of_set(members: Mapping[str, Any]) -> "Sample":
        """Return the sample of a published statistic set."""
        count, total = float(members["SampleCount"]), float(members["Sum"])
        low, high = float(members["Minimum"]), float(members["Maximum"])
        # Percentiles of a set are known only where all its values are equal.
        same = low == high and abs(total - low * count) < 1e-9 * max(1.0, abs(total))
        return Sample(count, total, low, high, {low: count} if same else None)

    def add(self, other: "Sample") -> None:
        """Take another sample in."""
        self.count += other.count
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if self.values is None or other.values is None:
            self.values = None
            return
        for value, count in other.values.items():
            self.values[value] = self.values.get(value, 0.0) + count
        if len(self.values) > _KEPT_VALUES:
            coarse: dict[float, float] = {}
            for value, count in self.values.items():
                near = float(f"{value:.2g}")
                coarse[near] = coarse.get(near, 0.0) + count
            self.values = coarse


def merged(samples: Iterable[Sample]) -> Sample | None:
    """Return several samples as one; None for none."""
    whole: Sample | None = None
    for sample in samples:
        if whole is None:
            values = None if sample.values is None else dict(sample.values)
            whole = Sample(sample.count, sample.total, sample.low, sample.high, values)
        else:
            whole.add(sample)
    return whole


class _Tier:
    """Samples of one resolution, in order of time."""

    __slots__ = ("samples", "seconds", "times")

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.times: list[int] = []
        self.samples: list[Sample] = []

    def add(self, moment: int, sample: Sample) -> None:
        start = moment // self.seconds * self.seconds
        place = bisect_left(self.times, start)
        if place < len(self.times) and self.times[place] == start:
            self.samples[place].add(sample)
            return
        copied = merged([sample])
        assert copied is not None
        self.times.insert(place, start)
        self.samples.insert(place, copied)

    def between(self, start: float, end: float) -> Iterator[tuple[int, Sample]]:
        first, last = bisect_left(self.times, start), bisect_left(self.times, end)
        return zip(self.times[first:last], self.samples[first:last], strict=True)

    def take_before(self, moment: float) -> list[tuple[int, Sample]]:
        place = bisect_left(self.times, moment)
        taken = list(zip(self.times[:place], self.samples[:place], strict=True))
        del self.times[:place], self.samples[:place]
        return taken


@dataclass
class Series:
    """One metric."""

    namespace: str
    name: str
    dimensions: Dimensions
    unit: str = "None"
    version: int = 0  # how often something was published
    tiers: list[_Tier] = field(default_factory=lambda: [_Tier(seconds) for seconds, _ in TIERS])

    def add(self, moment: float, sample: Sample, now_s: float) -> None:
        """Take in what was published at a moment."""
        self.version += 1
        for tier, (_, kept_s) in zip(self.tiers, TIERS, strict=True):
            if moment >= now_s - kept_s:
                tier.add(int(moment), sample)
                break
        self.age(now_s)

    def age(self, now_s: float) -> None:
        """Make what is too old for its resolution coarser, and drop what is too old for any."""
        for number, (_, kept_s) in enumerate(TIERS):
            tier = self.tiers[number]
            if not tier.times or tier.times[0] >= now_s - kept_s:
                continue
            coarser = self.tiers[number + 1] if number + 1 < len(TIERS) else None
            # Whole parts of the next tier only: a minute must not be half here and half there.
            limit = (now_s - kept_s) // 60 * 60 if coarser is None else (now_s - kept_s) // coarser.seconds
            limit *= 1 if coarser is None else coarser.seconds
            for moment, sample in tier.take_before(limit):
                if coarser is not None:
                    coarser.add(moment, sample)

    def between(self, start: float, end: float, period_s: int = HOUR_S) -> list[tuple[int, Sample]]:
        """Return the samples of [start, end) that are fine enough for the period, in order of time."""
        found: list[tuple[int, Sample]] = []
        for tier in reversed(self.tiers):
            if tier.seconds <= max(period_s, 1) and tier.times and tier.times[-1] >= start:
                found += tier.between(start, end)
        return found

    def last(self) -> float:
        """Return when something was published last; 0 when nothing is known any more."""
        return max((tier.times[-1] + tier.seconds - 1 for tier in self.tiers if tier.times), default=0)

    @property
    def dimension_list(self) -> list[dict[str, str]]:
        """The dimensions as requests and answers write them."""
        return [{"Name": name, "Value": value} for name, value in self.dimensions]


_series: dict[tuple[str, str], dict[Key, Series]] = {}


def dimensions_of(given: Any) -> Dimensions:
    """Return dimensions in their canonical form, from a list of Name and Value or from a map."""
    if not given:
        return ()
    pairs = given.items() if isinstance(given, Mapping) else ((each["Name"], each["Value"]) for each in given)
    return tuple(sorted((str(name), str(value)) for name, value in pairs))


def put(
    namespace: str, name: str, dimensions: Any, sample: Sample, *, at: float, now_s: float, unit: str = "None"
) -> None:
    """Publish a sample in the current account and Region."""
    key = (namespace, name, dimensions_of(dimensions))
    with lock:
        known = _series.setdefault((get_account_id(), get_region()), {})
        series = known.get(key)
        if series is None:
            series = known[key] = Series(*key)
        series.unit = unit
        series.add(at, sample, now_s)


def find(namespace: str, name: str, dimensions: Any) -> Series | None:
    """Return the metric with exactly these dimensions."""
    known = _series.get((get_account_id(), get_region()), {})
    return known.get((namespace, name, dimensions_of(dimensions)))


def version(key: Key) -> int:
    """Return how often a metric was published, 0 for one that never was."""
    found = _series.get((get_account_id(), get_region()), {}).get(key)
    return found.version if found else 0


def every(namespace: str | None = None, name: str | None = None) -> list[Series]:
    """Return the metrics of the current account and Region, in the order in which they were first published."""
    with lock:
        known = list(_series.get((get_account_id(), get_region()), {}).values())
    return [each for each in known if namespace in (None, each.namespace) and name in (None, each.name)]


def forget_old(now_s: float) -> None:
    """Age every series, and forget those of which nothing is left."""
    with lock:
        for known in _series.values():
            for key, series in list(known.items()):
                series.age(now_s)
                if not series.last():
                    del known[key]


def clear() -> None:
    """Forget everything."""
    with lock:
        _series.clear()


def save() -> list[Any]:
    """Return everything as plain JSON."""
    with lock:
        return [
            [*scope, each.namespace, each.name, [list(pair) for pair in each.dimensions], each.unit, _packed(each)]
            for scope, known in _series.items()
            for each in known.values()
        ]


def load(saved: list[Any]) -> None:
    """Put back what was saved."""
    with lock:
        for account, region, namespace, name, pairs, unit, packed in saved:
            key = (namespace, name, tuple((first, second) for first, second in pairs))
            series = Series(*key, unit=unit, version=1)
            for tier, rows in zip(series.tiers, packed, strict=True):
                for moment, *row in rows:
                    tier.times.append(moment)
                    tier.samples.append(_unpacked(row))
            _series.setdefault((account, region), {})[key] = series


def _packed(series: Series) -> list[list[list[Any]]]:
    return [
        [[moment, *_row(sample)] for moment, sample in zip(tier.times, tier.samples, strict=True)]
        for tier in series.tiers
    ]


def _row(sample: Sample) -> list[Any]:
    if sample.values is not None and len(sample.values) == 1:
        return [sample.low, sample.count] if sample.count != 1 else [sample.low]
    values = None if sample.values is None else [list(pair) for pair in sample.values.items()]
    return [sample.count, sample.total, sample.low, sample.high, values]


def _unpacked(row: list[Any]) -> Sample:
    if len(row) <= 2:
        return Sample.of(*row)
    count, total, low, high, values = row
    return Sample(count, total, low, high, None if values is None else dict(values))
