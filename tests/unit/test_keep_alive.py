"""Keep-alive: what an endpoint's own calls say of when it may sleep, one sentence for each habit."""

import random
import re
from datetime import UTC, datetime, timedelta

import pytest

from ebb import keep_alive, keep_alive_costs, keep_alive_habits
from ebb.keep_alive import window
from ebb.keep_alive_costs import Costs
from ebb.keep_alive_habits import LONGEST, SHORTEST
from ebb.minutes import part_of_week

NOW = datetime(2026, 11, 23, 12, 3, tzinfo=UTC)  # a Monday
COSTS = Costs(wake_s=300, lag_s=270)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def every(distance: timedelta, days: float = 16, until: datetime = NOW) -> list[datetime]:
    return [until - number * distance for number in range(int(days * DAY / distance))]


def at_office_hours(until: datetime = NOW, days: int = 16) -> list[datetime]:
    minutes = every(2 * MINUTE, days, until)
    return [moment for moment in minutes if moment.weekday() < 5 and 8 <= moment.hour < 18]


def test_what_the_user_asked_for_wins_over_everything_learned():
    said = window(every(HOUR), now=NOW, costs=COSTS, cold_start="avoid", idle_after=17 * MINUTE)
    assert (said.idle_after, said.prewake_at) == (17 * MINUTE, None)
    assert said.reason == "its spec says to sleep after 17 min without a call"


@pytest.mark.parametrize(
    ("calls", "days"),
    [
        pytest.param([], 0, id="no call and no history"),
        pytest.param([NOW - 3 * HOUR], 1, id="one call"),
        pytest.param([NOW - 4 * DAY, NOW - 2 * DAY, NOW - DAY], 5, id="three calls"),
    ],
)
def test_with_little_history_it_waits_as_long_as_one_wake_takes(calls, days):
    said = window(calls, now=NOW, costs=COSTS, observed_since=NOW - days * DAY)
    assert said.idle_after == 5 * MINUTE
    assert said.reason.endswith(", so it sleeps when staying awake has cost as much as one wake")
    assert said.reason.startswith("only" if len(calls) > 1 else "no history yet")


@pytest.mark.parametrize("calls", [[], every(30 * MINUTE, days=6)], ids=["no call", "six days of calls"])
def test_where_the_sla_forbids_cold_starts_little_history_keeps_it_awake(calls):
    said = window(calls, now=NOW, costs=COSTS, cold_start="avoid", observed_since=NOW - 6 * DAY)
    assert said.idle_after is None
    assert "too few to tell" in said.reason


def test_calls_far_apart_and_at_random_put_it_to_sleep_at_once():
    chance = random.Random(7)
    moment, calls = NOW, []
    while moment > NOW - 14 * DAY:
        calls.append(moment)
        moment -= MINUTE * chance.uniform(60, 600)
    said = window(calls, now=NOW, costs=COSTS)
    assert (said.idle_after, said.prewake_at) == (SHORTEST, None)
    assert said.reason.startswith("of ")
    assert "silences" in said.reason


def test_short_silences_are_waited_for_where_long_ones_are_rare():
    # five days with 48 silences of 11 minutes each, and the nights: one minute more awake is cheaper than 48 wakes
    mornings = every(DAY, 5, NOW.replace(hour=0, minute=0) - 16 * HOUR)
    calls = [start + number * 12 * MINUTE for start in mornings for number in range(49)]
    said = window(calls, now=NOW, costs=COSTS, observed_since=min(calls))
    assert said.idle_after == 6 * MINUTE  # and the 5 that pass before it acts make 11
    assert "outlasted 6 min: sleeping then would have cost least" in said.reason


def test_a_timer_is_asleep_between_its_calls_and_woken_before_the_next_is_due():
    said = window(every(HOUR), now=NOW + 10 * MINUTE, costs=COSTS)
    assert said.idle_after == SHORTEST
    # the next call comes at 13:03 and a wake takes 5 minutes; a minute of jitter is allowed for
    assert NOW + HOUR - 8 * MINUTE <= said.prewake_at <= NOW + HOUR - 5 * MINUTE
    assert said.reason.startswith("its calls come 58 min to 1 h after one another")


def test_a_timer_that_was_woken_ahead_waits_until_its_call_is_overdue_and_then_sleeps():
    woken = NOW + HOUR - 6 * MINUTE
    due = window(every(HOUR), now=woken + 5 * MINUTE, costs=COSTS, awake_since=woken)
    assert due.idle_after is not None
    assert woken + due.idle_after >= NOW + HOUR
    overdue = window(every(HOUR), now=NOW + HOUR + 5 * MINUTE, costs=COSTS, awake_since=woken)
    assert (overdue.idle_after, overdue.prewake_at) == (SHORTEST, None)
    assert "none came in time" in overdue.reason


def test_office_hours_that_forbid_cold_starts_are_slept_through_at_night_and_begun_awake():
    friday = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
    by_day = window(at_office_hours(friday), now=friday, costs=COSTS, cold_start="avoid")
    assert friday - MINUTE + by_day.idle_after >= friday.replace(hour=18) - 2 * MINUTE
    assert by_day.reason == "at this hour of the week it was called in the last 14 days: awake until Friday 18:00 UTC"
    night = friday.replace(hour=19)
    by_night = window(at_office_hours(night), now=night, costs=COSTS, cold_start="avoid")
    assert by_night.idle_after <= 10 * MINUTE
    assert by_night.prewake_at == datetime(2026, 11, 30, 8, 0, tzinfo=UTC) - 5 * MINUTE  # Monday
    assert "asleep until Monday 08:00 UTC" in by_night.reason


def test_random_calls_that_forbid_cold_starts_keep_it_awake_as_long_as_that_costs_less_than_they_are_worth():
    chance = random.Random(3)
    calls = [NOW - DAY * 16 * chance.random() for _ in range(300)]  # 19 a day

    def said(usd_per_hour: float):
        costs = Costs(usd_per_hour, wake_s=300, lag_s=270)
        return window(calls, now=NOW, costs=costs, cold_start="avoid", observed_since=NOW - 16 * DAY)

    cheap, dear = said(0.05), said(1.0)  # a day awake is 1.2 and 24 USD: 0.06 and 1.3 for each call
    assert cheap.idle_after is None
    assert re.fullmatch(
        r"its SLA forbids cold starts, and sleeping would save 0\.0\d+ USD per request it makes late, less than 0\.1",
        cheap.reason,
    )
    assert dear.idle_after == SHORTEST
    assert re.search(r"awake all the time costs 1\.\d USD per request it makes late, more than 0\.1$", dear.reason)
    assert dear.numbers["saved_usd"] / dear.numbers["late"] > dear.numbers["late_usd"] == keep_alive_costs.LATE_USD
    assert window(calls, now=NOW, costs=Costs(1.0, late=2.0), cold_start="avoid").idle_after is None


def test_six_calls_in_a_year_do_not_keep_an_endpoint_awake_that_forbids_cold_starts():
    said = window([NOW - 3 * DAY], now=NOW, costs=Costs(0.115), cold_start="avoid", observed_since=NOW - 200 * DAY)
    assert said.idle_after == SHORTEST
    assert "per request it makes late, more than 0.1" in said.reason


@pytest.mark.parametrize(("cold_start", "days"), [("allowed", 7), ("avoid", 14)])
def test_what_nobody_called_for_a_week_or_two_sleeps_whatever_its_sla(cold_start, days):
    def said(last: timedelta):
        calls = [NOW - last - number * HOUR for number in range(3)]
        return window(calls, now=NOW, costs=COSTS, cold_start=cold_start, observed_since=NOW - 40 * DAY)

    assert said((days + 0.8) * DAY).idle_after == SHORTEST
    assert said((days + 0.8) * DAY).reason == f"no call in the last {days} days: the next one wakes it"
    assert "no call" not in said((days - 1) * DAY).reason


@pytest.mark.parametrize("seed", range(30))
def test_a_learned_window_stays_within_its_bounds_whatever_the_calls(seed):
    chance = random.Random(seed)
    moment, calls = NOW, []
    mean = 10 ** chance.uniform(-0.5, 3.5)
    while moment > NOW - chance.choice([2, 9, 20]) * DAY:
        calls.append(moment)
        moment -= MINUTE * chance.choice([chance.expovariate(1 / mean), mean, 1.0])
    said = window(calls, now=NOW + chance.choice([0, 7, 90]) * MINUTE, costs=COSTS)
    assert SHORTEST <= said.idle_after <= LONGEST
    assert said.prewake_at is None or said.prewake_at > NOW


def test_a_dearer_cold_start_never_shortens_the_window():
    chance = random.Random(11)
    moment, calls = NOW, []
    while moment > NOW - 14 * DAY:
        calls.append(moment)
        moment -= MINUTE * chance.expovariate(1 / 25)
    windows = [
        window(calls, now=NOW, costs=Costs(awake_per_hour=1.0, cold_start_allowed=dear)).idle_after
        for dear in (0.0, 0.1, 0.5, 5.0)
    ]
    assert windows == sorted(windows)
    assert windows[0] < windows[-1]


def test_calls_of_today_and_of_more_than_two_weeks_ago_do_not_change_what_was_learned():
    learned = window(every(HOUR), now=NOW, costs=COSTS)
    today = [NOW.replace(hour=3, minute=17), NOW.replace(hour=3, minute=44)]
    long_ago = [NOW - 20 * DAY - number * 7 * MINUTE for number in range(50)]
    assert window([*every(HOUR), *today, *long_ago], now=NOW, costs=COSTS) == learned


def test_watts_and_usd_lead_to_the_same_window():
    calls = every(25 * MINUTE)
    assert window(calls, now=NOW, costs=Costs(awake_per_hour=0.115)).idle_after == (
        window(calls, now=NOW, costs=Costs(awake_per_hour=31.0)).idle_after
    )


def test_counts_may_come_with_their_minutes():
    calls = {moment: 3.0 for moment in every(HOUR)} | {NOW - 90 * MINUTE: 0.0}  # no call: CloudWatch may publish a 0
    assert window(calls, now=NOW, costs=COSTS) == (
        window([moment for moment in calls if calls[moment]] * 3, now=NOW, costs=COSTS)
    )


def test_every_habit_says_why_in_one_sentence():
    reasons = {
        window(calls, now=NOW, costs=COSTS, cold_start=sla).reason
        for calls in ([], every(HOUR), at_office_hours(), [NOW - 9 * DAY], every(2 * MINUTE))
        for sla in ("allowed", "avoid")
    }
    assert len(reasons) >= 5
    for reason in reasons:
        assert "\n" not in reason
        assert ". " not in reason
        assert len(reason) < 160, reason


def test_the_part_of_the_week_is_that_of_the_calendar():
    def minute(moment: datetime) -> int:
        return int(moment.timestamp() // 60)

    assert part_of_week(minute(datetime(2026, 11, 23, 0, 0, tzinfo=UTC))) == 0  # Monday
    assert part_of_week(minute(datetime(2026, 11, 27, 23, 59, tzinfo=UTC))) == 5  # Friday
    assert part_of_week(minute(datetime(2026, 11, 28, 4, 0, tzinfo=UTC))) == 7  # Saturday


# ---- what an SLA that forbids cold starts allows ----


def at_random(per_day: float, seed: int = 5, days: int = 16) -> list[datetime]:
    chance = random.Random(seed)
    return sorted(NOW - days * DAY * chance.random() for _ in range(int(per_day * days)))


def test_who_is_busy_and_had_too_many_late_requests_stays_awake_until_they_are_fewer():
    calls = at_office_hours()  # 300 minutes with calls a day, ten days in 14, six in each: 0.5 % of 18,000 are 90
    nightly = [NOW.replace(hour=3, minute=0) - number * DAY for number in range(1, 6)]
    late = {moment + number * MINUTE: 6.0 for moment in nightly for number in range(4)}  # 24 wait for each wake: 120
    counted = {moment: 6.0 for moment in calls} | late
    over = window(counted, now=NOW, costs=COSTS, cold_start="avoid", cold_wakes=nightly)
    assert over.idle_after is None
    assert "and 120 of its 18," in over.reason
    assert over.reason.endswith("requests of 14 days met one: awake until they are less than 0.5%")
    few = window(counted, now=NOW, costs=COSTS, cold_start="avoid", cold_wakes=nightly[:1])
    assert few.idle_after is not None
    allowed = window(counted, now=NOW, costs=COSTS, cold_wakes=nightly)
    assert allowed.idle_after is not None
    less_called = {moment: count / 6 for moment, count in counted.items()}  # 0.5 % of 3,000: a share of few says little
    assert window(less_called, now=NOW, costs=COSTS, cold_start="avoid", cold_wakes=nightly).idle_after is not None


def test_late_requests_of_more_than_two_weeks_ago_are_forgotten():
    calls = dict.fromkeys(every(7 * MINUTE), 1.0)
    long_ago = [NOW - 14 * DAY - number * HOUR for number in range(1, 9)]
    woken = [minute_of(each) for each in long_ago]
    so_far = keep_alive_costs.spent(*keep_alive.history(calls, now=NOW), woken, at=minute_of(NOW), costs=COSTS)
    assert (so_far.late, so_far.wakes) == (0, 0)


def minute_of(moment: datetime) -> int:
    return int(moment.timestamp() // 60)


def test_the_less_is_left_of_the_allowance_the_less_it_sleeps():
    # nights with one call now and then, on which an allowance can be spent
    calls = {moment: 6.0 for moment in at_office_hours()} | {moment: 1.0 for moment in at_random(2)}
    minutes, counts = keep_alive.history(calls, now=NOW)
    until = minute_of(NOW.replace(hour=0, minute=0))

    def expected_late(late: float, wakes: int) -> float:
        so_far = keep_alive_costs.Spent(18_000, late, wakes)
        habit = keep_alive_habits.learn(
            minutes, counts, since=minutes[0], until=until, cold_start="avoid", costs=COSTS, so_far=so_far
        )
        return habit.numbers["cold_starts"]

    found = [expected_late(late, wakes) for late, wakes in ((0, 0), (50, 3), (85, 9), (90, 9))]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_only_the_cold_wakes_of_two_weeks_are_remembered_and_not_too_many():
    now = minute_of(NOW)
    assert keep_alive_costs.with_cold_wake([now - 15 * 1440, now - 1440], NOW) == [now - 1440, now]
    assert len(keep_alive_costs.with_cold_wake(range(now - 5000, now), NOW)) == keep_alive_costs.MOST_WAKES


def test_what_a_sleep_costs_ebb_itself_is_weighed_against_what_it_saves():
    # silences of 16 minutes: 7 pass before a sleep and 5 are a wake, so that 4 are saved
    calls = every(17 * MINUTE)
    chance = random.Random(1)
    calls = [moment + MINUTE * chance.choice((-2, 0, 2)) for moment in calls]
    dear = window(calls, now=NOW, costs=Costs(awake_per_hour=0.06, cycle=0.02, cold_start_allowed=0))  # 20 minutes
    cheap = window(calls, now=NOW, costs=Costs(awake_per_hour=0.06, cold_start_allowed=0))
    assert cheap.idle_after < dear.idle_after


def test_a_timer_whose_sla_forbids_cold_starts_is_woken_before_the_earliest_of_its_calls():
    # every two hours to the minute, but five of 168 come six minutes early: too many to be late where that is forbidden
    early = {30, 60, 90, 120, 150}
    moments = every(2 * HOUR)
    calls = [moment - 6 * MINUTE if number in early else moment for number, moment in enumerate(moments)]
    asked = NOW + 10 * MINUTE
    costs = Costs(0.05, wake_s=300, lag_s=270)
    forbids = window(calls, now=asked, costs=costs, cold_start="avoid")
    allows = window(calls, now=asked, costs=costs)
    assert forbids.prewake_at <= NOW + 2 * HOUR - 11 * MINUTE  # a wake takes five
    assert allows.prewake_at > forbids.prewake_at
