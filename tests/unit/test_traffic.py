"""Traffic: what a project's calls say, from their number per day or from their hours."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from ebb import traffic

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def history(*calls: float, until: datetime = NOW) -> traffic.Traffic:
    """Traffic of as many hours as there are numbers, the last one just over."""
    points = [(until - HOUR * (len(calls) - place), count) for place, count in enumerate(calls)]
    return traffic.measured(points, since=until - HOUR * len(calls), until=until)


def test_nothing_known_says_so():
    assert not traffic.expected(None).known
    assert traffic.expected(None).confidence == "none"
    assert "nothing is known" in traffic.expected(None).reason


def test_an_expected_zero_is_known():
    nobody = traffic.expected(0)
    assert (nobody.known, nobody.per_day, nobody.awake_share(900), nobody.cold_share(900)) == (True, 0, 0, 0)


def test_hours_become_calls_per_day_the_busiest_hour_and_the_gaps():
    seen = history(*[0] * 8, 100, 300, *[0] * 10, 200, *[0] * 3)
    assert seen.per_day == 600
    assert seen.busiest_per_s == pytest.approx(300 / 3600)
    assert seen.busy_hours_share == pytest.approx(3 / 24)
    assert seen.longest_gap_h == 10
    assert seen.burst == pytest.approx(300 / 200)


def test_an_hour_without_a_datapoint_had_no_call():
    seen = traffic.measured([(NOW - HOUR, 60.0)], since=NOW - 4 * HOUR, until=NOW)
    assert seen.hours == (0, 0, 0, 60)


def test_more_than_a_fortnight_is_forgotten():
    seen = traffic.measured(
        [(NOW - timedelta(days=20), 1e9), (NOW - HOUR, 14.0)], since=NOW - timedelta(days=30), until=NOW
    )
    assert (len(seen.hours), seen.per_day) == (14 * 24, 1.0)


def test_an_endpoint_that_is_younger_than_an_hour_has_no_history():
    assert not traffic.measured([(NOW, 5.0)], since=NOW - timedelta(minutes=59), until=NOW).known


def test_a_sum_belongs_to_the_hour_that_holds_its_timestamp_and_older_ones_are_left_out():
    since = NOW - timedelta(hours=2, minutes=30)
    seen = traffic.measured([(NOW - 3 * HOUR, 7.0), (NOW - 1.5 * HOUR, 5.0)], since=since, until=NOW)
    assert seen.hours == (5, 0)


def test_requests_in_flight_are_rate_times_latency():
    # 7,200 calls an hour are 2 a second; each takes 1.5 s: 3 in flight; with 3 standard deviations 3 + 3 * 1.73 = 8.2
    seen = history(7200)
    assert seen.in_flight(1.5) == pytest.approx(3)
    assert seen.concurrency(1.5) == 9


def test_the_share_of_time_awake_is_that_of_independent_calls():
    # 96 calls a day are one in 15 minutes: none came in the last 15 minutes with a chance of 1/e
    assert traffic.expected(96).awake_share(900) == pytest.approx(1 - 1 / math.e)
    assert traffic.expected(96).cold_per_day(900) == pytest.approx(96 / math.e)


def test_measured_hours_agree_with_the_expected_number_when_every_hour_is_alike():
    even = history(*[4] * 48)
    assert even.awake_share(900) == pytest.approx(traffic.expected(96).awake_share(900), rel=1e-6)
    assert even.cold_per_day(900) == pytest.approx(traffic.expected(96).cold_per_day(900), rel=1e-6)


def test_calls_in_few_hours_keep_an_endpoint_awake_for_less_time_than_the_same_calls_spread_out():
    office = history(*([0] * 20 + [24] * 4) * 2)
    assert office.per_day == 96
    assert office.awake_share(900) < traffic.expected(96).awake_share(900) / 2
    assert office.cold_share(900) < traffic.expected(96).cold_share(900)


@pytest.mark.parametrize("window_s", [60, 900, 7200, 86400])
def test_a_longer_window_is_awake_for_longer_and_colder_less_often(window_s):
    seen = history(*[0, 3, 0, 40, 1, 0] * 8)
    assert seen.awake_share(window_s) <= seen.awake_share(window_s * 2)
    assert seen.cold_per_day(window_s) >= seen.cold_per_day(window_s * 2)
    assert 0 <= seen.awake_share(window_s) <= 1


def test_single_days_are_taken_from_the_end():
    seen = history(*[1] * 24, *[2] * 24, *[3] * 24, *[4] * 12)
    assert [day.per_day for day in seen.last_days(3)] == [1 * 12 + 2 * 12, 2 * 12 + 3 * 12, 3 * 12 + 4 * 12]
    assert seen.last_days(4) == []
    assert traffic.expected(100).last_days(1) == []


@pytest.mark.parametrize(
    ("hours", "asked", "taken"),
    [
        pytest.param(2, 500, "expected", id="two hours say less than the spec"),
        pytest.param(24, 500, "measured", id="a day says more than the spec"),
        pytest.param(2, None, "measured", id="two hours say more than nothing"),
        pytest.param(0, 500, "expected", id="no history"),
        pytest.param(0, None, "unknown", id="nothing at all"),
    ],
)
def test_what_is_surer_is_taken(hours, asked, taken):
    seen = history(*[5] * hours) if hours else None
    assert traffic.best(traffic.expected(asked), seen).source == taken


def test_a_week_of_history_is_surer_than_a_day_and_that_than_hours():
    assert [history(*[1] * hours).confidence for hours in (3, 24, 24 * 7)] == ["low", "medium", "high"]
