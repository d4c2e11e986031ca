"""What endpoints took by the hour and what sleeping saved, against examples worked by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from ebb import footprint, serving_hours
from ebb.addresses import Address
from ebb.carbon import Band
from ebb.serving_hours import Due, Hour

REGION = "us-east-1"
NOW = datetime(2026, 11, 24, 0, 7, tzinfo=UTC)
UNTIL = datetime(2026, 11, 23, 23, tzinfo=UTC)
SINCE = UNTIL - timedelta(days=1)
DAY = Due(since=SINCE, until=UNTIL, left=("ebb-iris",))
NINE = datetime(2026, 11, 23, 9, tzinfo=UTC)


def address(**changed) -> Address:
    fields = {
        "address": "ebb-iris",
        "project": "iris",
        "kind": "async",
        "endpoint_name": "ebb-iris",
        "instance_type": "ml.m5.large",
        "run_id": "iris-20261101093000-3f9a1c07be",
        "in_service_since": SINCE - timedelta(days=9),
    }
    return Address.model_validate(fields | changed)


def booked(at: Address, *hours: Hour, happened=(), due: Due = DAY) -> list:
    return serving_hours.entries(at, hours, list(happened), due, region=REGION)


def event(what: str, at: datetime, **more) -> dict:
    return {"what": what, "at": at.isoformat().replace("+00:00", "Z")} | more


def test_a_day_is_booked_an_hour_after_it_has_ended_so_that_its_last_minute_is_known():
    found = serving_hours.due(None, [address()], NOW)
    assert (found.since, found.until, found.left) == (SINCE, UNTIL, ("ebb-iris",))


def test_a_day_is_booked_once_and_the_next_one_begins_where_it_ended():
    done = Due(since=SINCE, until=UNTIL)
    assert serving_hours.due(done, [address()], NOW + timedelta(hours=20)) == done
    after = serving_hours.due(done, [address()], NOW + timedelta(days=1))
    assert (after.since, after.until) == (UNTIL, UNTIL + timedelta(days=1))


def test_after_days_without_a_sweep_all_of_them_are_booked():
    after = serving_hours.due(Due(since=SINCE, until=UNTIL), [address()], NOW + timedelta(days=3))
    assert (after.since, after.until) == (UNTIL, UNTIL + timedelta(days=3))


def test_what_was_left_of_a_day_is_booked_with_the_next_and_no_further_back_than_cloudwatch_remembers():
    after = serving_hours.due(DAY, [address()], NOW + timedelta(days=1))
    assert after.since == SINCE
    late = serving_hours.due(DAY, [address()], NOW + timedelta(days=30))
    assert late.until - late.since == timedelta(days=14)


@pytest.mark.parametrize("other", [{"origin": "foreign"}, {"project": None}, {"kind": "batch", "endpoint_name": None}])
def test_only_ebbs_own_endpoints_are_booked(other):
    assert serving_hours.due(None, [address(**other)], NOW).left == ()


def test_an_instance_hour_is_counted_with_its_measured_load():
    # one sample a minute; 60 of 200 (two cores): 0.3
    (entry,) = booked(address(), Hour(NINE, 60, 60.0))
    hour = footprint.of_job("ml.m5.large", duration_s=3600, billable_s=3600, load=Band.exact(0.3), region=REGION)
    assert entry.footprint == hour
    assert entry.key()["sk"] == "serving#ebb-iris#2026-11-23T09"
    assert (entry.usage["duration_s"], entry.usage["utilization"]) == (3600, pytest.approx(0.3))
    assert entry.run_id == "iris-20261101093000-3f9a1c07be"


def test_two_instances_publish_twice_as_often_and_half_an_hour_half_as_often():
    whole, half = booked(address(), Hour(NINE, 120, 0.0), Hour(NINE + timedelta(hours=1), 30, 0.0))
    assert whole.footprint.cost_usd.value == pytest.approx(4 * half.footprint.cost_usd.value)


def test_an_hour_without_a_sample_took_nothing_and_is_no_entry():
    assert booked(address(), Hour(NINE, 0, 0.0)) == []


def test_a_serverless_hour_is_the_time_of_its_requests_in_their_memory():
    # 1000 requests of 3.6 s together 3600 s in 2 GiB: 2 GiB-hours at 0.00002 USD per GiB-second = 0.144 USD
    at = address(kind="serverless", instance_type=None, memory_mb=2048)
    (entry,) = booked(at, Hour(NINE, 1000, 3.6e9))
    assert entry.footprint.cost_usd.value == pytest.approx(0.144)
    assert entry.usage["requests"] == 1000
    assert "utilization" not in entry.usage
    assert entry.footprint.energy_kwh.low < entry.footprint.energy_kwh.value < entry.footprint.energy_kwh.high


def test_a_serverless_endpoint_whose_size_was_never_noted_says_what_is_assumed():
    (entry,) = booked(address(kind="serverless", instance_type=None), Hour(NINE, 1, 1e6))
    assert "memory assumed: 3072 MB" in entry.usage["basis"]


def test_a_component_of_a_shared_endpoint_has_its_part_of_the_instance():
    # 2 of 8 GiB: a quarter
    at = address(kind="shared", component="ebb-iris-c", endpoint_name="ebb-shared", memory_mb=2048)
    (entry,) = booked(at, Hour(NINE, 60, 40.0))
    whole = footprint.of_job("ml.m5.large", duration_s=3600, billable_s=3600, load=Band.exact(0.4), region=REGION)
    assert entry.footprint.cost_usd.value == pytest.approx(whole.cost_usd.value / 4)
    assert entry.usage["utilization"] == pytest.approx(0.4)


def test_what_slept_saves_what_waiting_for_calls_would_have_taken():
    slept = event("slept", NINE)
    woke = event("woke", NINE + timedelta(hours=2), asleep_s=7200)
    (entry,) = booked(address(copies=2), happened=[slept, woke])
    waiting = footprint.of_job(
        "ml.m5.large", duration_s=4 * 3600, billable_s=4 * 3600, load=footprint.WAITING_UTILIZATION, region=REGION
    )
    assert entry.key()["sk"] == "avoided#slept#ebb-iris#2026-11-22T23"
    assert entry.saved["cost_usd"].value == pytest.approx(waiting.cost_usd.value)
    assert entry.footprint == footprint.NOTHING
    assert entry.usage["duration_s"] == 7200


def test_a_sleep_that_began_before_the_day_counts_from_the_days_beginning():
    (entry,) = booked(address(), happened=[event("woke", NINE, asleep_s=86_400)])
    assert entry.usage["duration_s"] == 10 * 3600


def test_one_that_slept_all_day_and_still_does_saved_the_whole_day():
    at = address(state="asleep", asleep_since=SINCE - timedelta(days=3))
    (entry,) = booked(at)
    assert entry.usage["duration_s"] == 86_400


def test_days_that_are_booked_together_stay_entries_of_their_own():
    """So that a sweep that was cut short and comes again counts none of them twice."""
    at = address(state="asleep", asleep_since=SINCE - timedelta(days=3))
    due = DAY.model_copy(update={"since": SINCE - timedelta(days=1)})
    assert [each.id for each in booked(at, due=due)] == [
        "slept#ebb-iris#2026-11-21T23",
        "slept#ebb-iris#2026-11-22T23",
    ]


def test_what_a_deployment_made_serve_again_slept_until_then():
    at = address(in_service_since=NINE + timedelta(hours=1))
    (entry,) = booked(at, happened=[event("slept", NINE)])
    assert entry.usage["duration_s"] == 3600


@pytest.mark.parametrize("other", [{}, {"kind": "serverless", "instance_type": None, "state": "asleep"}])
def test_what_did_not_sleep_saved_nothing(other):
    assert booked(address(**other), happened=[event("kept though idle", NINE)]) == []
