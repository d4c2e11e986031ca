"""Keep-alive: how long an endpoint waits for its next call before it sleeps, learned from its own calls.

Two steps, both pure. `learn` reads the complete days of an endpoint's history, at most 14, and answers with the habit
that would have cost least (`keep_alive_habits`, by `keep_alive_costs`); `window` says what the habit means now. A habit
is one of five, and its reason one sentence:

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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ebb.keep_alive_costs import BUSY, LATE_SHARE, LEARNED_DAYS, Costs, Spent, spent
from ebb.keep_alive_habits import ENOUGH_DAYS, ENOUGH_SILENCES, SHORTEST, ColdStart, Habit, Window, learn
from ebb.minutes import DAY_MIN, MINUTE, WEEK_MIN, minute_of, moment, part_of_week, told, whole_minutes

Calls = Mapping[datetime, float] | Iterable[datetime]
# To read: CloudWatch keeps minutes for 15 days, and an earlier start must not ask for minutes.
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html (Period)
HISTORY = timedelta(days=14, hours=23, minutes=50)


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
    at = minute_of(now)
    last = minutes[-1] if minutes else None
    if idle_after is not None:
        return given(idle_after)
    since = minute_of(observed_since) if observed_since else (minutes[0] if minutes else at)
    so_far = spent(minutes, counts, [minute_of(each) for each in cold_wakes], at=at, costs=costs)
    if cold_start == "avoid" and (over := exhausted(so_far)):
        return over
    until = at - at % DAY_MIN
    habit = learn(minutes, counts, since=since, until=until, cold_start=cold_start, costs=costs, so_far=so_far)
    return decide(habit, at=at, last=last, awake_since=minute_of(awake_since) if awake_since else None)


def given(idle_after: timedelta) -> KeepAlive:
    """Return the window that the user asked for."""
    return KeepAlive(idle_after, None, f"its spec says to sleep after {told(whole_minutes(idle_after))} without a call")


def history(calls: Calls, *, now: datetime) -> tuple[list[int], list[float]]:
    """Return the minutes with calls of the last days, HISTORY, up to `now`, sorted, and how many calls each had."""
    counted = calls.items() if isinstance(calls, Mapping) else ((called, 1.0) for called in calls)
    first, last = minute_of(now - HISTORY), minute_of(now)
    seen: dict[int, float] = {}
    for called, count in counted:
        minute = minute_of(called)
        if count > 0 and first <= minute <= last:
            seen[minute] = seen.get(minute, 0.0) + count
    return sorted(seen), [seen[minute] for minute in sorted(seen)]


def exhausted(so_far: Spent) -> KeepAlive | None:
    """Return why a busy endpoint whose SLA forbids cold starts stays awake: too many requests met one. Else None."""
    if so_far.requests < BUSY or so_far.late <= LATE_SHARE * so_far.requests:
        return None
    reason = (
        f"its SLA forbids cold starts, and {so_far.late:,.0f} of its {so_far.requests:,.0f} requests of "
        f"{LEARNED_DAYS} days met one: awake until they are less than {LATE_SHARE:.1%}"
    )
    return KeepAlive(None, None, reason, {"late": so_far.late, "requests": so_far.requests})


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


def _days(days: float) -> str:
    return "1 day" if round(days) == 1 else f"{days:.0f} days"


def _clock(minute: int) -> str:
    return f"{moment(minute):%A %H:%M} UTC"
