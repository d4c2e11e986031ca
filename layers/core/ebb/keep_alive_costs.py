"""What keep-alive weighs: what staying awake, waking and a late request cost, and how many were late already."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from ebb.minutes import DAY_MIN, minute_of

LEARNED_DAYS = 14  # complete ones

# Chosen on the tuning seeds of benchmarks/simulate.py, reported on others.
PATIENCE = 0.5  # what one allowed cold start is worth, in wakes: a caller who waits counts half of what the wake costs
LATE_USD = 0.1  # the price of a request that meets a cold start which the SLA forbids
BUSY = 14_000  # requests in 14 days, a thousand a day: from here on a share of them is a promise, beside the price
LATE_SHARE = 0.005  # of the requests of a busy one in 14 days that may have met a cold start which the SLA forbids
MOST_WAKES = 300  # to remember: 2 KB of an item, and more in 14 days than any endpoint of the simulation has


@dataclass(frozen=True)
class Costs:
    """What staying awake and waking cost. Only ratios matter: watts do as well as USD, with a `late` in watt-hours."""

    awake_per_hour: float = 1.0  # USD or watts
    wake_s: float = 300.0  # from the wake call until it answers; billed
    lag_s: float = 270.0  # from the end of the window until nothing is billed: late metrics, the grace before it acts
    cold_start_allowed: float | None = None  # USD or watt-hours that one is worth; default: PATIENCE wakes
    cycle: float = 0.0  # USD or watt-hours that Ebb itself takes for a sleep with its wake
    late: float = LATE_USD  # USD or watt-hours that a late request is worth where the SLA forbids cold starts

    @cached_property
    def wake_min(self) -> int:
        """Whole minutes that one wake takes."""
        return max(1, math.ceil(self.wake_s / 60))

    @cached_property
    def lag_min(self) -> int:
        """Whole minutes from the decision until nothing is billed."""
        return math.ceil(self.lag_s / 60)

    @cached_property
    def cycle_min(self) -> float:
        """Minutes awake that Ebb's own work for a sleep with its wake is worth."""
        return self.cycle / self.awake_per_hour * 60 if self.awake_per_hour else 0.0

    @cached_property
    def late_min(self) -> float:
        """Minutes awake that a request is worth which meets a cold start that the SLA forbids."""
        return self.late / max(self.awake_per_hour, 1e-9) * 60

    @cached_property
    def wait_min(self) -> float:
        """Minutes awake that an allowed cold start is worth."""
        if self.cold_start_allowed is None:
            return PATIENCE * self.wake_min
        return self.cold_start_allowed / self.awake_per_hour * 60 if self.awake_per_hour else 0.0


@dataclass(frozen=True)
class Spent:
    """What became of an allowance: requests of the last 14 days, those of them that met a cold start, such wakes."""

    requests: float = 0.0
    late: float = 0.0
    wakes: int = 0


def spent(
    minutes: Sequence[int], counts: Sequence[float], cold_wakes: Iterable[int], *, at: int, costs: Costs
) -> Spent:
    """Return how many requests were late: those from the minute of a cold wake until it answers."""
    since = at - LEARNED_DAYS * DAY_MIN
    recent = [woken for woken in cold_wakes if since <= woken < at]
    first = bisect_left(minutes, since)
    late = 0.0
    for woken in recent:
        begin = bisect_left(minutes, woken, first)
        late += sum(counts[begin : bisect_right(minutes, woken + costs.wake_min, begin)])
    return Spent(sum(counts[first:]), late, len(recent))


def with_cold_wake(earlier: Iterable[int], now: datetime) -> list[int]:
    """Return the cold wakes that are to be remembered, in minutes from 1970, once there was one now."""
    woken = minute_of(now)
    since = woken - LEARNED_DAYS * DAY_MIN
    return [*(each for each in earlier if since <= each < woken), woken][-MOST_WAKES:]
