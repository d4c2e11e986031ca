"""Keep-alive: how long an endpoint waits for its next call before it sleeps, learned from its own calls.

Two steps, both pure. `learn` reads the complete days of an endpoint's history, at most 14, and answers with the habit
that would have cost least; `window` says what the habit means now. A habit is one of five, and its reason one sentence:

    awake     the SLA forbids cold starts, and what a habit below saves is not worth the requests that it makes late
    window    it sleeps after as long a silence as would have cost least (the histogram of its silences), or, with
              little history, after the break-even time, which never costs more than twice the best choice
    timer     its calls come at steady distances: it sleeps after each and is woken just before the next is due
    hours     it is called at certain hours of the week: awake then, asleep otherwise, woken before they begin
    silent    it was not called for a week, or for two where the SLA forbids cold starts

What a silence of `g` minutes costs, in minutes awake, for a window of `w` minutes (ski rental: to rent is to stay
awake, to buy is to sleep and wake again):

    g                      when g <= w + lag
    w + lag + wake + cycle + wait
                           otherwise: it slept; `wake` is billed, `cycle` is what Ebb itself takes for a sleep with its
                           wake, `wait` is what the waiting of a caller is worth
Source of the competitive bound: Karlin et al., Competitive Snoopy Caching, Algorithmica 3 (1988).

Where the SLA forbids cold starts a late request has a price, LATE_USD: the habit is taken that costs least with those
that it makes late. Of all ways to save as much on all endpoints together, one price for all of them makes fewest late
(it is the multiplier of a constraint on their sum): an endpoint whose few calls cost tens of USD each when it waits for
them sleeps, one that is called all day does not.

Who is called often, BUSY times in the last 14 days, has an allowance besides: LATE_SHARE of these requests, earned by
those that were on time, and one wake. `spent` counts what became of it. A habit is taken only if no more requests are
expected to be late than are left; and where more were late, whatever was expected, `exhausted` keeps it awake until
they are fewer. So no such endpoint has more late in any 14 days than its share and those of the wake that exceeded it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

ColdStart = Literal["allowed", "avoid"]
Calls = Mapping[datetime, float] | Iterable[datetime]

MINUTE = timedelta(minutes=1)
DAY_MIN = 24 * 60
WEEK_MIN = 7 * DAY_MIN
# To read: CloudWatch keeps minutes for 15 days, and an earlier start must not ask for minutes.
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html (Period)
HISTORY = timedelta(days=14, hours=23, minutes=50)
LEARNED_DAYS = 14  # complete ones
# The bounds of a learned window. The shortest is the window of the idle alarm, which is what asks at all: an execution
# in each longer silence costs less than the minutes that a later alarm would keep awake (benchmarks/simulate.py).
SHORTEST, LONGEST = timedelta(minutes=2), timedelta(hours=2)

# Chosen on the tuning seeds of benchmarks/simulate.py, reported on others.
ENOUGH_SILENCES = 8  # fewer say nothing of the next one
PATIENCE = 0.5  # what one allowed cold start is worth, in wakes: a caller who waits counts half of what the wake costs
LATE_USD = 0.1  # the price of a request that meets a cold start which the SLA forbids
BUSY = 14_000  # requests in 14 days, a thousand a day: from here on a share of them is a promise, beside the price
LATE_SHARE = 0.005  # of the requests of a busy one in 14 days that may have met a cold start which the SLA forbids
LEFT_TIMES = 3.0  # of what is left of it may be expected to be late: less comes, and what comes is taken off again
PLANNED_SHARE = 0.01  # and never more than this
LATE_PRICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # of a late request of a busy one, in LATE_USD
MOST_WAKES = 300  # to remember: 2 KB of an item, and more in 14 days than any endpoint of the simulation has
UNSEEN = 0.5  # misses beside those seen: the expectation of a rare event under Jeffreys' prior
WORTH_SHARE = 0.05  # of the silent time of a busy one: less is not worth a risk that the SLA forbids
STEADY = 0.2  # of the middle one: silences whose middle four tenths are further apart are no timer's
SLOT_MIN = 30  # of the week, for `hours`
AROUND_SLOTS = (0, 1, 3)  # and so many slots before and after each, whichever costs least
SILENT_DAYS: Mapping[ColdStart, int] = {"allowed": 7, "avoid": 14}  # without a call: nobody uses it
ENOUGH_DAYS = 7  # to tell the hours of a week, and to risk a cold start that the SLA forbids


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
class KeepAlive:
    """When to sleep and when to wake again.

    `idle_after` counts from the last call, or from when it came into service if that is later; None: it stays awake.
    `prewake_at` is when to start waking it, so that it answers in time; None: its next call wakes it.
    """

    idle_after: timedelta | None
    prewake_at: datetime | None
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """A window and the silences that it was chosen on."""

    minutes: int
    silences: int  # of these
    longer: int  # so many lasted longer than the window
    part: str = ""  # of the week, empty for all of it


@dataclass(frozen=True)
class Habit:
    """What the complete days of a history say. Minutes are counted from 1970, UTC."""

    kind: Literal["awake", "window", "timer", "hours", "silent"]
    days: float
    windows: tuple[Window, ...] = ()  # one for each part of the week, or one for all
    head_min: int = 0  # timer: the next call is due from here
    tail_min: int = 0  # timer: to here, counted from the last call
    hours: tuple[tuple[int, int], ...] = ()  # hours: stretches [start, end) of the week's minutes
    wake_min: int = 5
    lag_min: int = 5
    numbers: Mapping[str, float] = field(default_factory=dict)


def window(
    calls: Calls,
    *,
    now: datetime,
    costs: Costs,
    cold_start: ColdStart = "allowed",
    idle_after: timedelta | None = None,
    observed_since: datetime | None = None,
    awake_since: datetime | None = None,
    cold_wakes: Iterable[datetime] = (),
) -> KeepAlive:
    """Return how long to keep an endpoint awake, from its own calls up to `now`.

    `calls` are the minutes in which it was called, with or without how often, as far back as HISTORY; `observed_since`
    is when it began to be watched (None: with its first call); `awake_since` when it last came into service;
    `cold_wakes` when it was woken by a call. A window that the user gave wins over everything learned.
    """
    minutes, counts = history(calls, now=now)
    at = _minute(now)
    last = minutes[-1] if minutes else None
    if idle_after is not None:
        return given(idle_after)
    since = _minute(observed_since) if observed_since else (minutes[0] if minutes else at)
    so_far = spent(minutes, counts, [_minute(each) for each in cold_wakes], at=at, costs=costs)
    if cold_start == "avoid" and (over := exhausted(so_far)):
        return over
    until = at - at % DAY_MIN
    habit = learn(minutes, counts, since=since, until=until, cold_start=cold_start, costs=costs, so_far=so_far)
    return decide(habit, at=at, last=last, awake_since=_minute(awake_since) if awake_since else None)


def given(idle_after: timedelta) -> KeepAlive:
    """Return the window that the user asked for."""
    return KeepAlive(idle_after, None, f"its spec says to sleep after {told(_whole(idle_after))} without a call")


def history(calls: Calls, *, now: datetime) -> tuple[list[int], list[float]]:
    """Return the minutes with calls of the last days, HISTORY, up to `now`, sorted, and how many calls each had."""
    counted = calls.items() if isinstance(calls, Mapping) else ((moment, 1.0) for moment in calls)
    first, last = _minute(now - HISTORY), _minute(now)
    seen: dict[int, float] = {}
    for moment, count in counted:
        minute = _minute(moment)
        if count > 0 and first <= minute <= last:
            seen[minute] = seen.get(minute, 0.0) + count
    return sorted(seen), [seen[minute] for minute in sorted(seen)]


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
    woken = _minute(now)
    since = woken - LEARNED_DAYS * DAY_MIN
    return [*(each for each in earlier if since <= each < woken), woken][-MOST_WAKES:]


def exhausted(so_far: Spent) -> KeepAlive | None:
    """Return why a busy endpoint whose SLA forbids cold starts stays awake: too many requests met one. Else None."""
    if so_far.requests < BUSY or so_far.late <= LATE_SHARE * so_far.requests:
        return None
    reason = (
        f"its SLA forbids cold starts, and {so_far.late:,.0f} of its {so_far.requests:,.0f} requests of "
        f"{LEARNED_DAYS} days met one: awake until they are less than {LATE_SHARE:.1%}"
    )
    return KeepAlive(None, None, reason, {"late": so_far.late, "requests": so_far.requests})


def learn(
    minutes: Sequence[int],
    counts: Sequence[float],
    *,
    since: int,
    until: int,
    cold_start: ColdStart,
    costs: Costs,
    so_far: Spent = Spent(),
) -> Habit:
    """Return the habit that would have cost least in the complete days [since, until) of a history.

    `minutes` are sorted and hold each minute with calls once. Where the SLA forbids cold starts, late requests have
    their price; and of a busy endpoint only habits count by which no more are expected to be late than LEFT_TIMES what
    LATE_SHARE leaves after those that were late already, `so_far`, but no more than PLANNED_SHARE; and those of one
    wake in 14 days.
    """
    since = max(since, until - LEARNED_DAYS * DAY_MIN)
    low, high = bisect_left(minutes, since), bisect_left(minutes, until)
    days = max(0.0, (until - since) / DAY_MIN)
    last_before = minutes[high - 1] if high else None
    silent_since = since if high == low else minutes[high - 1]
    if until - silent_since >= SILENT_DAYS[cold_start] * DAY_MIN:
        return Habit("silent", SILENT_DAYS[cold_start], (Window(SHORTEST // MINUTE, 0, 0),), wake_min=costs.wake_min)
    seen = _Seen.of(minutes[low:high], counts[low:high], since=since, until=until, costs=costs)
    forbidden = cold_start == "avoid"
    if forbidden and (days < ENOUGH_DAYS or last_before is None):
        return Habit("awake", days, wake_min=costs.wake_min)
    if len(seen.silences) < ENOUGH_SILENCES and not forbidden:
        return Habit(
            "window",
            days,
            (Window(max(SHORTEST // MINUTE, costs.wake_min), len(seen.silences), 0),),
            wake_min=costs.wake_min,
        )
    most_late = None
    if forbidden and seen.requests < BUSY:
        most_late = math.inf
    elif forbidden:
        left = max(0.0, LATE_SHARE * seen.requests - so_far.late)
        one_wake = 0.0 if so_far.wakes else seen.late_each * min(1.0, days / LEARNED_DAYS)
        most_late = min(PLANNED_SHARE * seen.requests, LEFT_TIMES * left) + one_wake - UNSEEN * seen.late_each
    found = [_window_habit(seen, days, most_late), _timer_habit(seen, days, most_late)]
    if forbidden:  # otherwise windows for the parts of the week do as well
        found += _hours_habits(seen, days)
    offers = [offer for offer in found if offer]
    if most_late is None:
        best = min(offers, key=lambda offer: offer.cost_min(costs, forbidden=False))
        bargain: dict[str, float] = {}
    else:
        awake = float(sum(length for *_, length in seen.silences))
        worth = awake if math.isinf(most_late) else (1 - WORTH_SHARE) * awake
        unseen = UNSEEN * seen.late_each * costs.late_min
        best = min(
            (
                offer
                for offer in offers
                if offer.late <= most_late
                and offer.awake_min <= worth
                and offer.cost_min(costs, forbidden=True) + unseen < awake
            ),
            key=lambda offer: offer.cost_min(costs, forbidden=True),
            default=_Offer(Habit("awake", days), awake, 0, 0),
        )
        bargain = _bargain(best, offers, awake, costs)
    numbers = {"cold_starts": best.cold, "silences": len(seen.silences), "requests": seen.requests} | bargain
    return replace(best.habit, wake_min=costs.wake_min, lag_min=costs.lag_min, numbers=numbers)


@dataclass(frozen=True)
class _Offer:
    """A habit and what it would have cost: idle minutes awake and of waking, cold starts, requests that met them."""

    habit: Habit
    awake_min: float
    cold: float
    late: float

    def cost_min(self, costs: Costs, *, forbidden: bool) -> float:
        """Return what it costs in minutes awake: with the waiting of callers, or where that is forbidden its price."""
        return self.awake_min + (self.late * costs.late_min if forbidden else self.cold * costs.wait_min)


def _bargain(best: _Offer, offers: Iterable[_Offer], awake_min: float, costs: Costs) -> dict[str, float]:
    """Return what sleeping saves and how many requests it makes late: by the best habit, or by what awake beats."""

    def each_min(offer: _Offer) -> float:
        return (awake_min - offer.awake_min) / offer.late

    other = best
    if best.habit.kind == "awake":
        other = max((offer for offer in offers if offer.late), key=each_min, default=best)
    saved_usd = (awake_min - other.awake_min) / 60 * costs.awake_per_hour
    return {"late": other.late, "saved_usd": saved_usd, "late_usd": costs.late}


@dataclass(frozen=True)
class _Seen:
    """The silences of a history that are long enough for a choice: (first silent minute, next call, silent minutes)."""

    since: int
    until: int
    minutes: Sequence[int]
    silences: list[tuple[int, int, int]]
    late: list[float]  # for each, the requests that come before it is awake if its end is a cold start
    requests: float
    costs: Costs

    @classmethod
    def of(cls, minutes: Sequence[int], counts: Sequence[float], *, since: int, until: int, costs: Costs) -> _Seen:
        # silences that no window reaches cost the same whatever is chosen
        least = SHORTEST // MINUTE + costs.lag_min + 1
        found = [(a + 1, b, b - a - 1) for a, b in pairwise(minutes) if b - a > least]
        total = [0.0, *accumulate(counts)]
        wake = costs.wake_min
        late = []
        for _, end, _ in found:
            first = bisect_left(minutes, end)
            late.append(total[bisect_left(minutes, end + wake, first)] - total[first])
        if minutes and until - minutes[-1] > LONGEST // MINUTE:  # still silent: long enough to be told from the others
            found.append((minutes[-1] + 1, until, until - minutes[-1] - 1))
            late.append(1.0)
        return cls(since, until, minutes, found, late, total[-1], costs)

    @cached_property
    def in_slots(self) -> tuple[int, list[tuple[int, int, int, int, int, float]]]:
        """Return the minutes of all silences too short to sleep in, and the others by the slots of the week.

        Of each: weeks that it reaches over, the slot in which it begins, minutes into that, the slot of the call that
        ends it, minutes into that, the requests which that call would have held up.
        """
        effective = self.costs.wake_min + self.costs.lag_min
        short, long = 0, []
        for (start, end, length), held_up in zip(self.silences, self.late, strict=True):
            if length <= effective:
                short += length
                continue
            weeks, at = divmod(start, WEEK_MIN)
            weeks_then, then = divmod(end, WEEK_MIN)
            slot, slot_then = at // SLOT_MIN, then // SLOT_MIN
            long.append((weeks_then - weeks, slot, at % SLOT_MIN, slot_then, then % SLOT_MIN, held_up))
        return short, long

    @cached_property
    def late_each(self) -> float:
        """Requests that one cold start holds up, on average; at least one."""
        return max(1.0, sum(self.late) / len(self.late)) if self.late else 1.0


def _window_habit(seen: _Seen, days: float, most_late: float | None) -> _Offer:
    """Return the windows that would have cost least, one for each part of the week with enough silences.

    Without `most_late` a cold start has the price that is put on its caller's waiting. With it late requests have
    theirs, or the lowest above it at which there are no more of them than that.
    """
    parts: list[list[int]] = [[] for _ in range(PARTS)]
    for number, (start, _, _) in enumerate(seen.silences):
        parts[part_of_week(start)].append(number)
    few = [number for members in parts if len(members) < ENOUGH_SILENCES for number in members]
    groups = {part: members for part, members in enumerate(parts) if len(members) >= ENOUGH_SILENCES} | {PARTS: few}
    curves = {part: _windows(seen, members) for part, members in groups.items()}
    wait, late_min = seen.costs.wait_min, seen.costs.late_min
    offer = None
    for price in (None,) if most_late is None else LATE_PRICES:
        priced = price and price * late_min
        chosen = {part: _cheapest(curve, wait=wait, late_min=priced) for part, curve in curves.items()}
        windows = {
            part: Window(each.minutes, len(groups[part]), each.cold, _told_part(part) if part < PARTS else "")
            for part, each in chosen.items()
        }
        awake, cold, late = (sum(column) for column in zip(*(each[1:] for each in chosen.values()), strict=True))
        habit = Habit("window", days, tuple(windows.get(part, windows[PARTS]) for part in range(PARTS)))
        offer = _Offer(habit, awake, cold, late)
        if most_late is None or late <= most_late:
            break
    assert offer is not None
    return offer


class _Choice(NamedTuple):
    """A window and what it would have cost: minutes awake, cold starts, late requests."""

    minutes: int
    awake: float
    cold: int
    late: float


def _windows(seen: _Seen, members: Sequence[int]) -> list[_Choice]:
    """Return the windows that are worth a try, shortest first.

    The cost only changes where a window reaches one more silence.
    """
    lag, asleep = seen.costs.lag_min, seen.costs.lag_min + seen.costs.wake_min + seen.costs.cycle_min
    shortest, longest = SHORTEST // MINUTE, LONGEST // MINUTE
    ordered = sorted((seen.silences[member][2], seen.late[member]) for member in members)
    late = sum(held_up for _, held_up in ordered)
    kept, longer = 0.0, len(ordered)
    found = []
    minutes = shortest
    for length, held_up in ordered:
        reaches = length - lag
        if reaches >= longest:
            break
        if reaches > minutes:
            found.append(_Choice(minutes, kept + longer * (minutes + asleep), longer, late))
            minutes = reaches
        kept, late, longer = kept + length, late - held_up, longer - 1
    found.append(_Choice(minutes, kept + longer * (minutes + asleep), longer, late))
    if minutes < longest:
        found.append(_Choice(longest, kept + longer * (longest + asleep), longer, late))
    return found


def _cheapest(choices: Sequence[_Choice], *, wait: float, late_min: float | None) -> _Choice:
    """Return the cheapest: a cold start costs its caller's waiting, or each late request `late_min`.

    Of equals the shortest, or the longest where late requests have a price.
    """
    if late_min is None:
        return min(choices, key=lambda each: each.awake + each.cold * wait)
    return min(reversed(choices), key=lambda each: each.awake + each.late * late_min)


def _timer_habit(seen: _Seen, days: float, most_late: float | None) -> _Offer | None:
    """Return the best habit of sleeping after each call and waking before the next is due.

    With `most_late` the best of those by which no more requests are late.
    """
    costs = seen.costs
    effective, wake = SHORTEST // MINUTE + costs.lag_min, costs.wake_min
    woken = wake + costs.cycle_min
    lengths = sorted(length for *_, length in seen.silences if length > effective + wake)
    if len(lengths) < ENOUGH_SILENCES // 2 or _spread(lengths) > STEADY * _middle(lengths):
        return None
    best: _Offer | None = None
    for share in (0.0, 0.02, 0.05, 0.1, 0.25):  # of the silences that are shorter, and that are longer
        head = lengths[int(share * (len(lengths) - 1))] - 1
        tail = lengths[math.ceil((1 - share) * (len(lengths) - 1))] + 1
        if head - wake <= effective or (best and (head, tail) == (best.habit.head_min, best.habit.tail_min)):
            continue
        awake = cold = late = 0.0
        for (_, _, length), held_up in zip(seen.silences, seen.late, strict=True):
            if length <= effective:
                awake += length
            elif head <= length <= tail:
                awake += effective + woken + length - head
            else:
                awake += effective + woken + (tail - head + wake if length > tail else 0)
                cold += 1
                late += held_up
        habit = Habit("timer", days, (Window(SHORTEST // MINUTE, len(lengths), 0),), head, tail)
        offer = _Offer(habit, awake, cold, late)
        if most_late is not None and late > most_late:
            continue
        forbidden = most_late is not None
        if best is None or offer.cost_min(costs, forbidden=forbidden) < best.cost_min(costs, forbidden=forbidden):
            best = offer
    return best


def _spread(ordered: Sequence[int]) -> int:
    """Return how far apart the third and the seventh tenth of some lengths are."""
    last = len(ordered) - 1
    return ordered[7 * last // 10] - ordered[3 * last // 10]


def _middle(ordered: Sequence[int]) -> int:
    return ordered[(len(ordered) - 1) // 2]


def _hours_habits(seen: _Seen, days: float) -> list[_Offer]:
    """Return the habits of being awake at the hours of the week at which it was called on at least one or two days.

    A call at an hour that no other day shares would have been missed had its own day not been seen: so often a miss is
    expected (leave one day out).
    """
    if days < ENOUGH_DAYS:
        return []
    offers: list[_Offer] = []
    for around in AROUND_SLOTS:
        called = _days_of_slots(seen, around)
        if min(called) > 2:
            break
        levels = [_stretches(called, least, seen.costs) for least in (1, 2, 3)]
        if levels[-1] == ((0, WEEK_MIN),):  # with more slots around them as well
            break
        of_levels = [_cost_of_hours(seen, hours) for hours in levels]
        for number, (hours, sure) in enumerate(pairwise(levels)):
            if not sure or hours == ((0, WEEK_MIN),):
                continue
            awake, (_, cold, late) = of_levels[number][0], of_levels[number + 1]
            unexpected = Window(max(SHORTEST // MINUTE, seen.costs.wake_min), len(seen.silences), 0)
            offers.append(_Offer(Habit("hours", days, (unexpected,), hours=hours), awake, cold, late))
    return offers


SLOTS = DAY_MIN // SLOT_MIN
WEEK_SLOTS = 7 * SLOTS


def _days_of_slots(seen: _Seen, around: int) -> list[int]:
    """Return for each slot of a weekday, then of a day of the weekend, on how many days it or one beside it had a call.

    A slot had none where a silence reaches over it and those beside it.
    """
    first, last = seen.since // DAY_MIN, seen.until // DAY_MIN
    called = [0] * (2 * SLOTS)
    for day in range(first, last):
        weekend = SLOTS * _weekend(day)
        for slot in range(weekend, weekend + SLOTS):
            called[slot] += 1
    for start, end, _ in [(seen.since, seen.minutes[0] if seen.minutes else seen.until, 0), *seen.silences]:
        for slot in range(-(-start // SLOT_MIN) + around, end // SLOT_MIN - around):
            day = slot // SLOTS
            if first <= day < last:
                called[SLOTS * _weekend(day) + slot % SLOTS] -= 1
    return called


def _stretches(called: Sequence[int], least: int, costs: Costs) -> tuple[tuple[int, int], ...]:
    """Return the stretches of the week with calls on `least` days, those joined between which no sleep pays."""
    apart = 2 * (costs.wake_min + costs.lag_min)
    joined: list[list[int]] = []
    for day in range(7):
        weekend = SLOTS * _weekend(day)
        for slot in range(SLOTS):
            if called[weekend + slot] < least:
                continue
            start = day * DAY_MIN + slot * SLOT_MIN
            if joined and start - joined[-1][1] <= apart:
                joined[-1][1] = start + SLOT_MIN
            else:
                joined.append([start, start + SLOT_MIN])
    return tuple((start, end) for start, end in joined)


def _cost_of_hours(seen: _Seen, hours: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    costs = seen.costs
    effective, woken = costs.wake_min + costs.lag_min, costs.wake_min + costs.cycle_min
    inside, begins = bytearray(WEEK_SLOTS), bytearray(WEEK_SLOTS)
    for start, end in hours:
        begins[start // SLOT_MIN] = 1
        inside[start // SLOT_MIN : end // SLOT_MIN] = b"\1" * ((end - start) // SLOT_MIN)
    # before each slot of the week: minutes in stretches; a stretch has begun in the slot that it begins with
    minutes = [0, *accumulate(SLOT_MIN * each for each in inside)]
    begun = list(accumulate(begins))

    short, long = seen.in_slots
    awake, cold, late = float(short), 0, 0.0
    for weeks, slot, into, slot_then, into_then, held_up in long:
        if weeks:
            awake += weeks * (minutes[-1] + begun[-1] * (woken + costs.lag_min))
        awake += minutes[slot_then] - minutes[slot] + (begun[slot_then] - begun[slot]) * (woken + costs.lag_min)
        awake += -into if inside[slot] else effective
        if inside[slot_then]:
            awake += into_then
        else:
            awake += woken
            cold += 1
            late += held_up
    return awake, cold, late


def decide(habit: Habit, *, at: int, last: int | None, awake_since: int | None = None) -> KeepAlive:
    """Return what a habit means at the minute `at`, when the last call was in minute `last` (None: there was none).

    `awake_since` is the minute in which it came into service, after a wake ahead of a call for instance.
    """
    quiet_from = max(-1 if last is None else last + 1, -1 if awake_since is None else awake_since)
    if quiet_from < 0:
        quiet_from = at
    match habit.kind:
        case "awake":
            return KeepAlive(None, None, _told_awake(habit), habit.numbers)
        case "timer" if last is not None:
            return _on_timer(habit, at=at, last=last, quiet_from=quiet_from)
        case "hours":
            return _by_hours(habit, at=at, quiet_from=quiet_from)
        case "silent":
            return KeepAlive(SHORTEST, None, f"no call in the last {_days(habit.days)}: the next one wakes it")
    best = habit.windows[part_of_week(quiet_from) if len(habit.windows) > 1 else 0]
    return KeepAlive(best.minutes * MINUTE, None, _told_window(best, habit), habit.numbers)


def _on_timer(habit: Habit, *, at: int, last: int, quiet_from: int) -> KeepAlive:
    due, over = last + 1 + habit.head_min, last + 1 + habit.tail_min
    called = f"its calls come {told(habit.head_min)} to {told(habit.tail_min)} after one another"
    if at >= over:
        return KeepAlive(SHORTEST, None, f"{called} and none came in time: the next one wakes it", habit.numbers)
    prewake = due - habit.wake_min
    if at < prewake:
        known = f"{habit.windows[0].silences} silences in {_days(habit.days)}{_told_saving(habit)}"
        reason = f"{called} ({known}): asleep until the next is due"
        return KeepAlive(SHORTEST, moment(prewake), reason, habit.numbers)
    return KeepAlive((over - quiet_from) * MINUTE, None, f"{called}: the next is due now", habit.numbers)


def _by_hours(habit: Habit, *, at: int, quiet_from: int) -> KeepAlive:
    week, of_week = divmod(at, WEEK_MIN)
    opens, closes = _stretch(habit.hours, of_week)
    opens, closes = opens + week * WEEK_MIN, closes + week * WEEK_MIN
    days = _days(habit.days)
    if opens - 2 * habit.wake_min - habit.lag_min <= at:  # what is left before them is not worth a sleep
        reason = f"at this hour of the week it was called in the last {days}: awake until {_clock(closes)}"
        return KeepAlive(max(SHORTEST, (closes - quiet_from) * MINUTE), None, reason, habit.numbers)
    reason = f"at this hour of the week it was not called in the last {days}{_told_saving(habit)}"
    reason += f": asleep until {_clock(opens)}"
    return KeepAlive(habit.windows[0].minutes * MINUTE, moment(opens - habit.wake_min), reason, habit.numbers)


def _stretch(hours: Sequence[tuple[int, int]], of_week: int) -> tuple[int, int]:
    """Return the stretch that holds a minute of the week, or the next one; over the end of the week if need be."""
    for start, end in hours:
        if of_week < end:
            if end == WEEK_MIN and hours[0][0] == 0 and len(hours) > 1:
                return start, WEEK_MIN + hours[0][1]
            return start, end
    return WEEK_MIN + hours[0][0], WEEK_MIN + hours[0][1]


PARTS = 12  # of the week: weekdays and weekend, four hours each


def part_of_week(minute: int) -> int:
    """Return the part of the week of a minute: 0 to 5 on weekdays, 6 to 11 on the weekend, four hours each (UTC)."""
    return 6 * _weekend(minute // DAY_MIN) + minute % DAY_MIN // 240


def _told_part(part: int) -> str:
    return f"{'at the weekend' if part >= 6 else 'on weekdays'} from {part % 6 * 4} to {part % 6 * 4 + 4} h UTC"


def _weekend(day: int) -> bool:
    return (day + 3) % 7 >= 5  # day 0 of 1970 was a Thursday


def _told_awake(habit: Habit) -> str:
    if habit.days < ENOUGH_DAYS:
        return (
            f"its SLA forbids cold starts, and {_days(habit.days)} of history are too few to tell when it is not called"
        )
    return "its SLA forbids cold starts, and " + (
        _told_bargain(habit) or f"its calls of {_days(habit.days)} do not tell when none will come"
    )


def _told_bargain(habit: Habit) -> str:
    """Return what a habit saves for each request that it makes late, beside the price of one; or nothing."""
    late, price = habit.numbers.get("late"), habit.numbers.get("late_usd")
    if not late or price is None:
        return ""
    each = habit.numbers["saved_usd"] / late
    if habit.kind == "awake" and not 0 < each < price:  # it is not the price that keeps it awake, but its allowance
        return ""
    if habit.kind == "awake":
        return f"sleeping would save {_usd(each)} USD per request it makes late, less than {_usd(price)}"
    return f"awake all the time costs {_usd(each)} USD per request it makes late, more than {_usd(price)}"


def _told_saving(habit: Habit) -> str:
    """Return what a habit saves for each request that it makes late, where that is forbidden and there are any."""
    late = habit.numbers.get("late")
    return f", {_usd(habit.numbers['saved_usd'] / late)} USD saved per late request" if late else ""


def _usd(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.2g}"


def _told_window(best: Window, habit: Habit) -> str:
    if not best.longer and best.silences < ENOUGH_SILENCES:
        known = "only one silence" if best.silences == 1 else f"only {best.silences} silences"
        so_far = f"{known} in {_days(habit.days)}" if best.silences else "no history yet"
        return f"{so_far}, so it sleeps when staying awake has cost as much as one wake"
    where = f" {best.part}" if best.part else ""
    if bargain := _told_bargain(habit):
        return (
            f"{best.longer} of {best.silences} silences{where} in {_days(habit.days)} outlasted "
            f"{told(best.minutes)}: {bargain}"
        )
    return (
        f"of {best.silences} silences{where} in {_days(habit.days)}, {best.longer} outlasted {told(best.minutes)}: "
        f"sleeping then would have cost least"
    )


def told(minutes: int) -> str:
    """Return a number of minutes in words: `45 min`, `1 h 30 min`."""
    hours, rest = divmod(minutes, 60)
    return f"{rest} min" if not hours else f"{hours} h {rest:02d} min" if rest else f"{hours} h"


def moment(minute: int) -> datetime:
    """Return the moment at which a minute, counted from 1970, begins."""
    return datetime.fromtimestamp(minute * 60, UTC)


def _days(days: float) -> str:
    return "1 day" if round(days) == 1 else f"{days:.0f} days"


def _clock(minute: int) -> str:
    return f"{moment(minute):%A %H:%M} UTC"


def _minute(at: datetime) -> int:
    return int(at.timestamp() // 60)


def _whole(duration: timedelta) -> int:
    return math.ceil(duration / MINUTE)
