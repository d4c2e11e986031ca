"""Traffic: what is known of the calls to a project's model, and how sure that is.

Known are at most the calls of each hour. Within an hour they are taken as random and independent (a Poisson process),
so the chance that none came in the last `w` seconds is exp(-calls expected in them); Little's law turns rate and
latency into requests in flight. Calls that come in lumps within an hour leave longer gaps than this says.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

Source = Literal["unknown", "expected", "measured"]

DAY_S = 86_400.0
HOUR_S = 3_600.0
MOST_HISTORY = timedelta(days=14)
RECENT_HOURS = 7 * 24
# Of a day's calls in its busiest hour, where only their number is known. Assumed: 2.4 times the mean hour.
BUSIEST_HOUR_SHARE = 0.10
# With nothing known the kinds are compared at this many calls a day, which is said beside them. Assumed.
ILLUSTRATION_PER_DAY = 1_000.0
# Standard deviations above the mean number in flight that there is room for: with independent calls it is
# exceeded in one second of a thousand.
SPREAD = 3.0
_SLOTS_PER_HOUR = 6  # at which the time since the last call is looked at


@dataclass(frozen=True)
class Traffic:
    """The calls of one project: `hours` are sums per hour, oldest first; none when only their number is expected."""

    source: Source
    per_day: float
    hours: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        """Return whether anything is known of the calls."""
        return self.source != "unknown"

    @property
    def days(self) -> float:
        """Return how many days were measured."""
        return len(self.hours) / 24

    @property
    def confidence(self) -> str:
        """Return how sure this is: none, low, medium (some days) or high (a week)."""
        if self.source != "measured":
            return "low" if self.known else "none"
        return "high" if self.days >= 7 else "medium" if self.days >= 1 else "low"

    @property
    def busiest_per_s(self) -> float:
        """Return the rate of the busiest hour, in calls per second."""
        busiest = max(self.hours) if self.hours else self.per_day * BUSIEST_HOUR_SHARE
        return busiest / HOUR_S

    @property
    def busy_hours_share(self) -> float:
        """Return the share of hours in which anybody called."""
        if self.hours:
            return sum(calls > 0 for calls in self.hours) / len(self.hours)
        return 1 - math.exp(-self.per_day / 24)

    @property
    def burst(self) -> float:
        """Return how many times busier the busiest hour is than the mean of those with calls."""
        busy = [calls for calls in self.hours if calls > 0]
        if busy:
            return max(busy) / (sum(busy) / len(busy))
        return 24 * BUSIEST_HOUR_SHARE if self.per_day and not self.hours else 1.0

    @property
    def longest_gap_h(self) -> int:
        """Return the longest run of whole hours without a call."""
        longest = run = 0
        for calls in self.hours:
            run = 0 if calls > 0 else run + 1
            longest = max(longest, run)
        return longest

    @property
    def reason(self) -> str:
        """Return in words what is known and how sure that is."""
        if self.source == "unknown":
            return f"nothing is known of its traffic; compared at {ILLUSTRATION_PER_DAY:,.0f} requests a day"
        if self.source == "expected":
            return f"{self.per_day:,.0f} requests a day, as serve.requests_per_day expects"
        return (
            f"{self.per_day:,.0f} requests a day measured over {self.days:.3g} days, calls in "
            f"{self.busy_hours_share:.0%} of the hours, {self.busiest_per_s * HOUR_S:,.0f} in the busiest"
        )

    def in_flight(self, latency_s: float) -> float:
        """Return the mean number of requests in flight in the busiest hour.

            in_flight = rate * latency_s
        Source: Little's law, L = lambda * W.
        """
        return self.busiest_per_s * latency_s

    def concurrency(self, latency_s: float) -> int:
        """Return for how many requests at once there must be room in the busiest hour, chance included; at least 1."""
        mean = self.in_flight(latency_s)
        return max(1, math.ceil(mean + SPREAD * math.sqrt(mean)))

    def awake_share(self, window_s: float) -> float:
        """Return the share of time in which the last call is no longer ago than the window."""
        if not self.hours:
            return 1 - math.exp(-self.per_day * window_s / DAY_S)
        return self._seen(window_s)[0]

    def cold_per_day(self, window_s: float) -> float:
        """Return how many calls a day come when the last one is longer ago than the window."""
        if not self.hours:
            return self.per_day * math.exp(-self.per_day * window_s / DAY_S)
        return self._seen(window_s)[1]

    def cold_share(self, window_s: float) -> float:
        """Return the share of calls that come when the last one is longer ago than the window."""
        return self.cold_per_day(window_s) / self.per_day if self.per_day else 0.0

    @property
    def recent(self) -> "Traffic":
        """Return the traffic of the last week, which holds each day of the week once."""
        return self if len(self.hours) <= RECENT_HOURS else _of_hours(self.hours[-RECENT_HOURS:])

    def last_days(self, count: int) -> list["Traffic"]:
        """Return the traffic of each of the last days by itself, oldest first; none when fewer were measured."""
        if self.source != "measured" or len(self.hours) < 24 * count:
            return []
        recent = self.hours[-24 * count :]
        return [_of_hours(recent[first : first + 24]) for first in range(0, 24 * count, 24)]

    def as_dict(self) -> dict[str, Any]:
        """Return what is known as it stands in the ledger."""
        return {
            "source": self.source,
            "confidence": self.confidence,
            "requests_per_day": round(self.per_day, 2),
            "busiest_hour": round(self.busiest_per_s * HOUR_S, 2),
            "busy_hours_share": round(self.busy_hours_share, 4),
            "burst": round(self.burst, 2),
            "days": round(self.days, 2),
            "longest_gap_h": self.longest_gap_h,
        }

    def _seen(self, window_s: float) -> tuple[float, float]:
        """Return the share of time awake and the cold calls a day, from looking at moments of every hour."""
        if window_s not in self._known_windows:
            awake = cold = 0.0
            for slot in range(len(self.hours) * _SLOTS_PER_HOUR):
                silent = math.exp(-self._expected_before((slot + 0.5) * HOUR_S / _SLOTS_PER_HOUR, window_s))
                awake += 1 - silent
                cold += silent * self.hours[slot // _SLOTS_PER_HOUR] / _SLOTS_PER_HOUR
            self._known_windows[window_s] = (awake / (len(self.hours) * _SLOTS_PER_HOUR), cold / self.days)
        return self._known_windows[window_s]

    @cached_property
    def _known_windows(self) -> dict[float, tuple[float, float]]:
        return {}

    @cached_property
    def _until(self) -> list[float]:
        """Return how many calls came before each full hour."""
        return [0.0, *accumulate(self.hours)]

    def _expected_before(self, moment_s: float, window_s: float) -> float:
        """Return the calls expected in the window before a moment.

        What came before the first hour is not known: the mean rate stands for it, so that a window longer than the
        history does not look like silence.
        """
        begin_s = moment_s - window_s
        unseen = max(0.0, -begin_s) * self.per_day / DAY_S
        return self._calls_until(moment_s) - self._calls_until(max(0.0, begin_s)) + unseen

    def _calls_until(self, moment_s: float) -> float:
        hour = min(int(moment_s // HOUR_S), len(self.hours) - 1)
        return self._until[hour] + self.hours[hour] * (moment_s / HOUR_S - hour)


UNKNOWN = Traffic("unknown", ILLUSTRATION_PER_DAY)


def expected(requests_per_day: float | None) -> Traffic:
    """Return what a spec says of the calls: a number per day, or nothing."""
    return UNKNOWN if requests_per_day is None else Traffic("expected", float(requests_per_day))


def measured(datapoints: Iterable[tuple[datetime, float]], *, since: datetime, until: datetime) -> Traffic:
    """Return what an endpoint's own calls say: sums of Invocations from `since`, when it was in service, to `until`.

    An hour without a datapoint had no call: Invocations is not published as 0. Whoever asks makes sure that the
    metrics were read. At most the last 14 days count, in whole hours back from `until`, and a sum belongs to the hour
    that holds its timestamp, which CloudWatch sets to its beginning. Less than an hour is unknown.
    """
    begin = max(since, until - MOST_HISTORY)
    count = int((until - begin) / timedelta(hours=1))
    if count < 1:
        return UNKNOWN
    edges = [until - timedelta(hours=count - hour) for hour in range(count + 1)]
    hours = [0.0] * count
    for moment, calls in datapoints:
        place = bisect_right(edges, moment) - 1
        if 0 <= place < count:
            hours[place] += float(calls)
    return _of_hours(hours)


def best(asked: Traffic, seen: Traffic | None) -> Traffic:
    """Return what is surer: a day of measured calls, else what the spec expects, else the hours that there are."""
    if seen is None or not seen.known:
        return asked
    return seen if seen.days >= 1 or not asked.known else asked


def scaled(traffic: Traffic, factor: float) -> Traffic:
    """Return the same traffic with so many times the calls."""
    return replace(traffic, per_day=traffic.per_day * factor, hours=tuple(calls * factor for calls in traffic.hours))


def _of_hours(hours: Sequence[float]) -> Traffic:
    return Traffic("measured", sum(hours) / len(hours) * 24, tuple(hours))
