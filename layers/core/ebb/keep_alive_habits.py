"""The habit of an endpoint, learned from the complete days of its calls: which would have cost least.

The five habits, and what each costs: `ebb.keep_alive`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from ebb.keep_alive_costs import BUSY, LATE_SHARE, LEARNED_DAYS, Costs, Spent
from ebb.minutes import DAY_MIN, MINUTE, PARTS, WEEK_MIN, is_weekend, part_of_week

ColdStart = Literal["allowed", "avoid"]
# The bounds of a learned window. The shortest is the window of the idle alarm, which is what asks at all: an execution
# in each longer silence costs less than the minutes that a later alarm would keep awake (benchmarks/simulate.py).
SHORTEST, LONGEST = timedelta(minutes=2), timedelta(hours=2)

# Chosen on the tuning seeds of benchmarks/simulate.py, reported on others.
ENOUGH_SILENCES = 8  # fewer say nothing of the next one
LEFT_TIMES = 3.0  # of what is left of it may be expected to be late: less comes, and what comes is taken off again
PLANNED_SHARE = 0.01  # and never more than this
LATE_PRICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # of a late request of a busy one, in LATE_USD
UNSEEN = 0.5  # misses beside those seen: the expectation of a rare event under Jeffreys' prior
WORTH_SHARE = 0.05  # of the silent time of a busy one: less is not worth a risk that the SLA forbids
STEADY = 0.2  # of the middle one: silences whose middle four tenths are further apart are no timer's
SLOT_MIN = 30  # of the week, for `hours`
AROUND_SLOTS = (0, 1, 3)  # and so many slots before and after each, whichever costs least
SILENT_DAYS: Mapping[ColdStart, int] = {"allowed": 7, "avoid": 14}  # without a call: nobody uses it
ENOUGH_DAYS = 7  # to tell the hours of a week, and to risk a cold start that the SLA forbids
NOTHING_SPENT = Spent()


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


def learn(
    minutes: Sequence[int],
    counts: Sequence[float],
    *,
    since: int,
    until: int,
    cold_start: ColdStart,
    costs: Costs,
    so_far: Spent = NOTHING_SPENT,
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
        weekend = SLOTS * is_weekend(day)
        for slot in range(weekend, weekend + SLOTS):
            called[slot] += 1
    for start, end, _ in [(seen.since, seen.minutes[0] if seen.minutes else seen.until, 0), *seen.silences]:
        for slot in range(-(-start // SLOT_MIN) + around, end // SLOT_MIN - around):
            day = slot // SLOTS
            if first <= day < last:
                called[SLOTS * is_weekend(day) + slot % SLOTS] -= 1
    return called


def _stretches(called: Sequence[int], least: int, costs: Costs) -> tuple[tuple[int, int], ...]:
    """Return the stretches of the week with calls on `least` days, those joined between which no sleep pays."""
    apart = 2 * (costs.wake_min + costs.lag_min)
    joined: list[list[int]] = []
    for day in range(7):
        weekend = SLOTS * is_weekend(day)
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


def _told_part(part: int) -> str:
    return f"{'at the weekend' if part >= 6 else 'on weekdays'} from {part % 6 * 4} to {part % 6 * 4 + 4} h UTC"
