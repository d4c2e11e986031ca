"""The simulation: traffic with the published statistics, a replay that can be followed by hand, a bound that holds."""

import importlib
import itertools
import json
import random
from datetime import UTC, datetime

import numpy as np
import pytest

from ebb import keep_alive, keep_alive_costs
from ebb.minutes import moment
from ebb_cli.problems import CommandError
from ebb_cli.simulation import clairvoyant, compare, informed, traffic
from ebb_cli.simulation.policies import Fixed, HybridHistogram, Learned
from ebb_cli.simulation.replay import LAG_MIN, Machine, Outcome, Verdict, replay
from ebb_cli.simulation.traffic import DAY, START, Endpoint
from infrastructure import project

MACHINE = Machine(wake_min=5)


def called(*minutes: int, counts: list[int] | None = None, **fields) -> Endpoint:
    at = np.array(minutes, dtype=np.int64) + START
    return Endpoint("one", at, np.array(counts or [1] * len(minutes), dtype=np.int64), **fields)


def outcome_of(endpoint: Endpoint, policy, length: int = 200) -> Outcome:
    return replay(endpoint, policy, MACHINE, start=START, end=START + length)


class At(Fixed):
    """Sleeps after so many silent minutes, without the lag of a real one; woken ahead after so many others."""

    def __init__(self, window_min: int, prewake_after: int | None = None) -> None:
        super().__init__(window_min)
        self.shortest_min, self.prewake_after = window_min, prewake_after

    def verdict(self, at: int, last: int | None, awake_since: int) -> Verdict:
        quiet_from = awake_since if last is None else max(last + 1, awake_since)
        sleep = quiet_from + self.window_min
        return Verdict(sleep, prewake_at=None if self.prewake_after is None else sleep + self.prewake_after)


# ---- the replay, by hand: a wake takes 5 minutes, the endpoint is awake from minute 0 ----


def test_a_silence_longer_than_the_window_is_slept_through_and_its_end_is_a_cold_start():
    # awake 0..19 (10 and ten more minutes), asleep 21..59, woken at 60, answers at 65, asleep again from 76
    found = outcome_of(called(10, 60), At(10), length=100)
    assert found.awake_min == 21 + (76 - 60)
    assert (found.wakes, found.cold_starts, found.late_requests, found.wrong, found.lost) == (1, 1, 1, 0, 0)
    assert found.longest_wait_min == 5


def test_a_silence_as_long_as_the_window_is_waited_for():
    found = outcome_of(called(10, 21), At(10), length=40)  # silent are the ten minutes 11..20
    assert (found.wakes, found.cold_starts) == (0, 0)
    assert found.awake_min == 32  # until 21 and ten more


def test_requests_that_come_during_a_wake_wait_for_it_and_none_is_lost():
    # asleep from 21; woken by 60, ready at 65: those of 60, 62 and 64 waited, that of 65 did not
    found = outcome_of(called(10, 60, 62, 64, 65, counts=[1, 2, 3, 4, 5]), At(10), length=70)
    assert (found.cold_starts, found.late_requests, found.lost) == (1, 2 + 3 + 4, 0)
    assert found.awake_min == 21 + 10


def test_a_wake_ahead_of_its_call_is_no_cold_start():
    # asleep from 21, woken ahead at 41, ready at 46, called at 50; the silent end is slept through from 61
    found = outcome_of(called(10, 50), At(10, prewake_after=20), length=62)
    assert (found.wakes, found.prewakes, found.cold_starts) == (1, 1, 0)
    assert found.awake_min == 21 + (61 - 41)


def test_a_call_during_a_wake_ahead_waits_for_the_rest_of_it():
    found = outcome_of(called(10, 43, counts=[1, 7]), At(10, prewake_after=20), length=50)
    assert (found.prewakes, found.cold_starts, found.late_requests, found.longest_wait_min) == (1, 1, 7, 3)


def test_a_sleep_shorter_than_its_wake_was_wrong():
    assert outcome_of(called(10, 25), At(10)).wrong == 1  # asleep from 21 to 25
    assert outcome_of(called(10, 26), At(10)).wrong == 0


def test_an_endpoint_that_nobody_calls_sleeps_once():
    found = outcome_of(called(), At(10), length=1000)
    assert (found.awake_min, found.wakes) == (10, 0)


def test_the_fixed_rule_acts_after_its_window_and_the_lag():
    assert outcome_of(called(10), Fixed(15), length=1000).awake_min == 11 + 15 + LAG_MIN


def test_instance_hours_usd_and_gpu_hours_are_those_of_the_minutes(monkeypatch):
    monkeypatch.setattr(compare, "POLICIES", (lambda: Fixed(15), Learned))
    fleet = traffic.Fleet((called(10), called(10, machine="ml.g4dn.xlarge")), START, START + 600, "by hand")
    found = compare.compare(fleet, processes=1)
    assert found.rows[compare.ALWAYS].instance_hours == 20
    row = found.rows["15-minute rule"]
    each = (11 + 15 + LAG_MIN) / 60
    assert row.instance_hours == pytest.approx(2 * each)
    assert row.gpu_hours == pytest.approx(each)
    assert row.usd == pytest.approx(each * (0.115 + 0.7364))  # list prices: ml.m5.large and ml.g4dn.xlarge
    assert found.requests == 2
    assert found.rows[compare.NEVER_LATE].instance_hours == pytest.approx(
        (5 + 1 + 6 + 1) / 60
    )  # a GPU's image takes longer


# ---- the clairvoyant ----


def test_the_clairvoyant_pays_for_calls_and_for_the_cheaper_of_waiting_and_waking():
    # before the first call a wake (5), 3 calls, a silence of 2, a silence of 46 (a wake: 5), nothing at the end
    assert clairvoyant.never_late_min(called(10, 13, 60), MACHINE, start=START, end=START + 500) == 5 + 3 + 2 + 5


def cheapest_by_hand(minutes: list[int], length: int, wake: int) -> dict[int, int]:
    """Return for each number of cold starts the least billed minutes of all schedules, by trying every one."""
    best: dict[int, int] = {}

    def go(at: int, ready_at: int | None, paid: int, cold: int, queue: bool) -> None:
        """`ready_at`: when it answers (in the past: awake), None: asleep."""
        if at == length:
            if not queue:
                best[cold] = min(best.get(cold, 10**9), paid)
            return
        comes = at in minutes
        if ready_at is None:
            if comes:
                go(at + 1, at + wake, paid + 1, cold + 1, True)
            else:
                go(at + 1, None, paid, cold, False)
                go(at + 1, at + wake, paid + 1, cold, False)
            return
        late = queue or (comes and at < ready_at)
        here = cold + (1 if comes and at < ready_at and not queue else 0)
        if at >= ready_at:
            late = False
        go(at + 1, ready_at, paid + 1, here, late)
        if not comes and not queue and at >= ready_at:
            go(at + 1, None, paid, cold, False)

    go(0, 0, 0, 0, False)
    return best


@pytest.mark.parametrize("minutes", [[3], [2, 9], [0, 5, 6, 11], [4, 5, 12], [6, 13]])
def test_no_schedule_of_all_comes_below_the_clairvoyant_and_one_reaches_it(minutes):
    length, wake = 15, 3
    best = cheapest_by_hand(minutes, length, wake)
    machine = Machine(wake_min=wake)
    endpoint = called(*minutes)
    never = clairvoyant.never_late_min(endpoint, machine, start=START, end=START + length)
    assert best[0] == never
    for cold, paid in best.items():
        bound = clairvoyant.bound_min(endpoint, machine, start=START, end=START + length, cold_starts=cold)
        assert paid >= bound


@pytest.mark.parametrize("seed", range(12))
def test_no_policy_beats_the_clairvoyant_that_may_be_as_late(seed):
    chance = random.Random(seed)
    length = 20 * DAY
    mean = 10 ** chance.uniform(0.2, 2.8)
    at, minutes = 0.0, []
    while at < length - 1:
        at += chance.expovariate(1 / mean) if chance.random() < 0.8 else mean
        minutes.append(min(int(at), length - 1))
    endpoint = called(*sorted(set(minutes)), cold_start=chance.choice(["allowed", "avoid"]))
    policies = [Fixed(1), Fixed(), HybridHistogram(), Learned(), At(0), At(7, 30)]
    for policy in policies:
        found = replay(endpoint, policy, MACHINE, start=START, end=START + length)
        bound = clairvoyant.bound_min(endpoint, MACHINE, start=START, end=START + length, cold_starts=found.cold_starts)
        assert found.awake_min >= bound, policy.name
        assert found.lost == 0


# ---- the real decisions ----


def test_ebb_is_asked_as_on_aws_and_what_it_learned_is_what_window_says():
    hourly = called(*range(7, 20 * DAY, 60))
    policy = Learned()
    outcome_of(hourly, policy, length=20 * DAY)
    at = START + 18 * DAY + 10 * 60 + 30
    until = hourly.minutes[hourly.minutes <= at]
    said = keep_alive.window(
        [moment(int(minute)) for minute in until],
        now=moment(at),
        costs=policy.costs,
        observed_since=moment(START),
    )
    policy.begin(hourly, MACHINE, START)
    assert keep_alive.decide(policy._habit(at), at=at, last=int(until[-1])) == said
    assert said.prewake_at is not None
    assert policy.calls_of["refused"] == 0
    assert policy.calls_of["idle.decide"] > 0


def test_a_timer_is_woken_before_its_calls_once_it_is_known():
    hourly = called(*range(7, 30 * DAY, 60))
    found = outcome_of(hourly, Learned(), length=30 * DAY)
    fixed = outcome_of(hourly, Fixed(), length=30 * DAY)
    assert found.awake_min < fixed.awake_min
    assert found.cold_starts < 30 < fixed.cold_starts


def forbidding(draw, per_day: float, machine: Machine, days: int = 70, seed: int = 11) -> tuple[Endpoint, Outcome]:
    minutes, counts = draw(np.random.default_rng(seed), per_day, days * DAY)
    endpoint = Endpoint("one", minutes + START, counts, cold_start="avoid")
    return endpoint, replay(endpoint, Learned(), machine, start=START, end=START + days * DAY)


PATTERNS = pytest.mark.parametrize(
    "draw", [traffic._office, traffic._independent, traffic._bursty], ids=lambda draw: draw.__name__
)


@PATTERNS
@pytest.mark.parametrize("per_day", [1500.0, 3000.0])
def test_no_busy_endpoint_has_more_late_requests_than_its_own_allowance(draw, per_day):
    """0.5 % in any 14 days, and those of the wake that exceeded it: whatever the calls."""
    days = 70
    endpoint, found = forbidding(draw, per_day, MACHINE, days)
    minutes, counts = endpoint.minutes, endpoint.counts
    held_up = max(counts[(minutes >= at) & (minutes <= at + 6)].sum() for at in minutes[::5])  # by about the worst wake
    assert found.late_requests <= 0.005 * endpoint.requests + days / 14 * held_up


@PATTERNS
@pytest.mark.parametrize("per_day", [5.0, 60.0, 900.0])
@pytest.mark.parametrize("usd_per_hour", [0.115, 1.0])
def test_what_is_saved_where_cold_starts_are_forbidden_is_worth_the_late_requests(draw, per_day, usd_per_hour):
    """It was expected of the last two weeks, and holds of the next to three quarters, but for one in 14 days."""
    days = 70
    _, found = forbidding(draw, per_day, Machine(wake_min=5, usd_per_hour=usd_per_hour), days)
    saved_usd = (days * DAY - found.awake_min) / 60 * usd_per_hour
    assert saved_usd >= keep_alive_costs.LATE_USD * (0.75 * found.late_requests - days / 14)


def test_an_endpoint_called_every_few_minutes_of_the_day_sleeps_at_night_with_hardly_a_request_late():
    endpoint, found = forbidding(traffic._office, 1500.0, Machine(wake_min=5, usd_per_hour=0.115), seed=5)
    assert found.late_requests <= 0.002 * endpoint.requests
    assert found.awake_min < 70 * DAY


# ---- what can be known, and what is fair ----


def law_of(pattern: str, per_day: float, seed: int = 0) -> traffic.Law:
    return traffic.Law(pattern, per_day, 20 * DAY, np.random.default_rng(seed))


def informed_share(law: traffic.Law, most_late: float | None) -> float:
    endpoint = called(*range(0, 20 * DAY, 100), law=law)
    offered = informed.offers(endpoint, MACHINE, minutes=law.length, cycle_min=0.0)
    return informed.saved_min(offered, most_late=most_late) / law.length


def test_of_calls_at_random_as_much_time_can_be_slept_as_calls_may_be_late():
    # calls see time averages: who sleeps half a hundredth of the time is late with as many of them, and with those
    # that come in the five minutes of the wakes: each holds up 1 + 5 * 40 / 1440
    per_day = 40.0
    found = informed_share(law_of("independent", per_day), 0.005 * per_day * 20)
    assert found * (1 + 5 * per_day / 1440) == pytest.approx(0.005, rel=0.01)
    assert informed_share(law_of("independent", per_day), 0.0) == 0.0


def test_who_knows_the_rates_and_may_be_late_saves_what_renewal_theory_says():
    # by hand, 14.4 calls a day: 0.01 a minute; slept of a cycle: 100 of 105.13 - 100 + 100 + 5 minutes
    assert informed_share(law_of("independent", 14.4), None) == pytest.approx(100 / (5.127 + 100 + 5), rel=1e-3)


def test_an_office_can_be_slept_in_at_night_and_no_law_is_known_of_recorded_calls():
    assert informed_share(law_of("office", 2000.0, seed=3), 0.005 * 40_000) > 0.3
    with pytest.raises(ValueError, match="recorded"):
        informed.offers(called(10), MACHINE, minutes=100, cycle_min=0.0)


def test_the_law_of_a_generated_endpoint_is_the_one_that_its_calls_follow():
    fleet = traffic.generate(7, endpoints=60, days=91)
    for endpoint in fleet.endpoints:
        assert endpoint.law
        if endpoint.pattern in {"office", "around-the-clock", "independent"} and endpoint.requests > 500:
            expected = endpoint.law.starts_per_minute()
            assert expected.sum() == pytest.approx(endpoint.requests, rel=0.2)
            of_day = np.bincount((endpoint.minutes - START) // DAY, weights=endpoint.counts, minlength=91)
            by_day = expected.reshape(91, DAY).sum(axis=1)
            assert by_day.std() < 1e-6 or np.corrcoef(of_day, by_day)[0, 1] > 0.3


def test_the_rule_is_compared_at_as_many_late_requests():
    rule = Outcome(awake_min=400, wakes=10, cold_starts=10, late_requests=20)
    forbids, allows = called(10, cold_start="avoid"), called(10)
    fair = compare._no_later(forbids, rule, Outcome(awake_min=700, late_requests=5), 1000)
    assert (fair.awake_min, fair.late_requests) == (850, 5)  # a quarter of the year: 150 of 600 saved
    assert compare._no_later(allows, rule, Outcome(late_requests=5), 1000) == rule
    assert compare._no_later(forbids, rule, Outcome(late_requests=30), 1000) == rule


# ---- the paper's policy ----


def learned_histogram(idle_times: list[int]) -> tuple[int, int]:
    policy = HybridHistogram()
    endpoint = called(*itertools.accumulate(idle + 1 for idle in [0, *idle_times]))
    policy.begin(endpoint, MACHINE, START)
    policy.verdict(int(endpoint.minutes[-1]) + 1, int(endpoint.minutes[-1]), START)
    return policy.windows


def test_the_hybrid_histogram_takes_the_5th_and_the_99th_percentile_with_their_margins():
    # 100 idle times: 10 of 30 minutes, 88 of 40, 2 of 50; the head bin is 30, the tail bin 50, rounded up 51
    assert learned_histogram([30] * 10 + [40] * 88 + [50] * 2) == (27, 57)  # 30 - 10 %, 51 + 10 % = 56.1


@pytest.mark.parametrize(
    "idle_times",
    [
        pytest.param([], id="nothing seen"),
        pytest.param(list(range(0, 240, 3)), id="spread evenly: not representative"),
        pytest.param([300] * 20 + [10] * 5, id="mostly out of range"),
    ],
)
def test_the_hybrid_histogram_keeps_for_four_hours_what_it_cannot_tell(idle_times):
    assert learned_histogram(idle_times) == (0, 240)


# ---- the generator ----


@pytest.fixture(scope="module", params=[3, 104])
def fleet(request):
    return traffic.generate(request.param, days=91)


def test_the_generated_year_has_the_statistics_of_the_paper(fleet):
    requests = np.array([endpoint.requests for endpoint in fleet.endpoints])
    hours, minutes = fleet.minutes / 60, fleet.minutes
    assert len(requests) == 200
    assert np.mean(requests <= hours) == pytest.approx(0.45, abs=0.02)
    assert np.mean(requests <= minutes) == pytest.approx(0.81, abs=0.02)
    often = requests > minutes
    assert np.mean(often) < 0.20
    assert requests[often].sum() / requests.sum() == pytest.approx(0.996, abs=0.0015)


def test_the_generated_year_has_timers_bursts_offices_and_dead_endpoints(fleet):
    patterns = [endpoint.pattern for endpoint in fleet.endpoints]
    assert {"timer", "bursty", "office", "dead", "independent", "around-the-clock"} == set(patterns)
    assert 0.07 < patterns.count("timer") / 200 < 0.20  # the paper: 13 % of the applications have timers only
    dead = [endpoint for endpoint in fleet.endpoints if endpoint.pattern == "dead"]
    last = [each.minutes[-1] if len(each.minutes) else fleet.start for each in dead]
    assert np.median(last) < fleet.start + 30 * DAY
    assert min(last) == fleet.start


def test_offices_are_quiet_at_the_weekend_and_at_night(fleet):
    office = max((each for each in fleet.endpoints if each.pattern == "office"), key=lambda each: each.requests)
    by_day = np.bincount((office.minutes // DAY) % 7, weights=office.counts, minlength=7)
    assert np.sort(by_day)[1] < 0.5 * np.median(by_day)
    by_hour = np.bincount(office.minutes % DAY // 60, weights=office.counts, minlength=24)
    assert np.sort(by_hour)[:6].sum() < 0.3 * np.sort(by_hour)[-6:].sum()


def test_a_seed_means_one_fleet():
    once, again, other = (traffic.generate(seed, endpoints=12, days=9) for seed in (5, 5, 6))
    assert all(np.array_equal(a.minutes, b.minutes) for a, b in zip(once.endpoints, again.endpoints, strict=True))
    assert any(not np.array_equal(a.minutes, b.minutes) for a, b in zip(once.endpoints, other.endpoints, strict=True))


# ---- a user's file ----


def test_a_users_file_is_read_in_any_order_with_any_columns(tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text(
        "count,endpoint,timestamp,cold_start\n"
        "2,b,2026-11-23T10:15:59Z,avoid\n"
        "3,b,2026-11-23T11:15:01+01:00,\n"
        "1,a,1795428000,\n"
        "\n"
        "0,a,2026-11-23 23:59:00,\n"
    )
    found = traffic.read(path)
    a, b = found.endpoints
    noon = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp()) // 60
    assert (a.name, b.name, b.cold_start, a.cold_start) == ("a", "b", "avoid", "allowed")
    assert (b.minutes.tolist(), b.counts.tolist()) == ([noon + 615], [5])
    assert a.requests == 1
    assert (found.start, found.end) == (noon, noon + DAY)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("time,endpoint,count\n", "line 1, column timestamp: is missing; the header holds time, endpoint, count"),
        ("", "line 1, column timestamp: is missing; the header holds nothing"),
        ("timestamp,endpoint,count\n", "line 2: no data"),
        ("timestamp,endpoint,count\n2026-11-23,a,1\nnow,a,1\n", "line 3, column timestamp: 'now' is no moment"),
        ("timestamp,endpoint,count\n1795428000000,a,1\n", "line 2, column timestamp: '1795428000000' is not between"),
        ("timestamp,endpoint,count\n2026-11-23,,1\n", "line 2, column endpoint: is empty"),
        ("timestamp,endpoint,count\n2026-11-23,a,-1\n", "line 2, column count: '-1' is no whole number"),
        ("timestamp,endpoint,count\n2026-11-23,a,1.5\n", "line 2, column count: '1.5' is no whole number"),
        ("timestamp,endpoint,count\n2026-11-23,a,nan\n", "line 2, column count: 'nan' is no whole number"),
        ("timestamp,endpoint,count\n2026-11-23,a\n", "line 2, column count: 2 cells where the header has 3"),
        ("timestamp,endpoint,count\n2026-11-23,a,1,2\n", "line 2, column count: 4 cells where the header has 3"),
        ("timestamp,endpoint,count,cold_start\n2026-11-23,a,1,no\n", "line 2, column cold_start: 'no' is neither"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_users_file_is_told_with_line_and_column(tmp_path, text, told):
    path = tmp_path / "calls.csv"
    path.write_text(text)
    with pytest.raises(CommandError) as raised:
        traffic.read(path)
    assert told in raised.value.message
    assert raised.value.status == 2


# ---- the command ----


def test_ebb_simulate_runs_a_users_file_and_writes_its_result_and_picture(ebb, tmp_path):
    path = tmp_path / "calls.csv"
    rows = [f"{(START + day * DAY + 600 + 9 * call) * 60},shop,{call + 1}" for day in range(9) for call in range(20)]
    path.write_text("\n".join(["timestamp,endpoint,count", *rows]) + "\n")
    told = ebb("simulate", "--traffic", path, "--json", tmp_path / "out.json", "--picture", tmp_path / "out")
    assert told.exit_code == 0, told.stderr
    for name in (
        "always on",
        "15-minute rule",
        "hybrid histogram",
        "Ebb",
        "clairvoyant, never late",
        "0 requests lost",
    ):
        assert name in told.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["requests"] == 9 * 210
    rows_by_name = {row["policy"]: row for row in document["rows"]}
    assert rows_by_name["Ebb"]["usd"] < rows_by_name["always on"]["usd"]
    assert rows_by_name["Ebb"]["lost"] == 0
    svg = (tmp_path / "out.svg").read_text()
    assert "Ebb" in svg
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_ebb_simulate_names_an_instance_type_that_it_does_not_know(ebb, tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text("timestamp,endpoint,count,instance_type\n2026-11-23,a,1,ml.m5.huge\n")
    told = ebb("simulate", "--traffic", path)
    assert told.exit_code == 2
    assert "instance type ml.m5.huge is not in the catalog" in told.stderr
    assert len(told.stderr.splitlines()) <= 4, "the nearest names, not all of them"


def test_the_table_of_the_docs_is_that_of_the_stored_results(monkeypatch):
    monkeypatch.syspath_prepend(str(project.ROOT / "benchmarks"))
    benchmark = importlib.import_module("simulate")
    stored = json.loads(benchmark.RESULTS.read_text())
    assert benchmark.table(stored) in benchmark.DOCS.read_text()
    assert [run["seed"] for run in stored["runs"]] == [*range(300, 305)]


def test_what_nobody_forbids_and_what_nothing_saves_is_no_share(ebb, tmp_path):
    path = tmp_path / "calls.csv"
    rows = [f"{(START + minute) * 60},busy,1" for minute in range(DAY)]
    path.write_text("\n".join(["timestamp,endpoint,count", *rows]) + "\n")
    told = ebb("simulate", "--traffic", path)
    assert told.exit_code == 0, told.stderr
    assert "- Ebb saves - of what the clairvoyant saves" in told.stdout
    assert "together - met one" in told.stdout
    assert "✓" not in told.stdout
    assert "2.76" in told.stdout, "a day of an ml.m5.large is not rounded away"


def test_what_ebb_costs_itself_is_taken_off_where_it_is_spent(monkeypatch):
    monkeypatch.setattr(compare, "POLICIES", (lambda: Fixed(15), Learned))
    calls = range(10, 20 * DAY, 300)
    fleet = traffic.Fleet((called(*calls), called(*calls, cold_start="avoid")), START, START + 20 * DAY, "by hand")
    found = compare.compare(fleet, processes=1)
    row, always, bound = found.rows[compare.EBB], found.rows[compare.ALWAYS], found.rows[compare.AS_LATE]
    assert 0 < row.forbidding_control_usd < row.control_usd
    net = always.forbidding_usd - row.forbidding_usd - row.forbidding_control_usd
    assert found.of_clairvoyant_where(forbidden=True) == pytest.approx(
        net / (always.forbidding_usd - bound.forbidding_usd)
    )
