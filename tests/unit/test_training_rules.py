"""When a training job is stopped from outside: each rule stops what it is for, and leaves alone what still improves."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ebb import training_rules
from ebb.training_rules import BUDGET, DIVERGED, LOSER, PLATEAU, TARGET, Point, Rules, Seen, decide

BEGUN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ACCURACY = Rules(goal="maximize", plateau_s=600)
LOSS = Rules(goal="minimize", plateau_s=600)


def seen(values: list[float], *, later_s: float = 30, nan_minute: int | None = None, per_minute: int = 1) -> Seen:
    """One value a minute; looked at half a minute after the last one."""
    points = [Point(BEGUN + timedelta(minutes=n), each, each, per_minute) for n, each in enumerate(values)]
    now = BEGUN + timedelta(minutes=max(len(values) - 1, nan_minute or 0), seconds=later_s)
    at = BEGUN + timedelta(minutes=nan_minute) if nan_minute is not None else None
    return Seen(now, points, (now - BEGUN).total_seconds(), at)


def learning(minutes: int, *, end: float = 0.9, start: float = 0.1, time: float = 10, noise: float = 0, seed: int = 0):
    """A curve that comes down to, or up to, its end as e^(-t/time)."""
    drawn = random.Random(seed)
    return [end + (start - end) * math.exp(-n / time) + drawn.gauss(0, noise) for n in range(minutes)]


def first_stop(curve: list[float], rules: Rules) -> tuple[int, training_rules.Verdict] | None:
    """The first minute in which a job with this curve is stopped, looked at in every minute."""
    for minute in range(1, len(curve) + 1):
        verdict = decide(seen(curve[:minute]), rules)
        if verdict.action == "stop":
            return minute, verdict
    return None


# ---- plateau ----


def test_a_curve_that_has_become_flat_is_stopped_one_window_after_its_last_gain():
    curve = [0.1 * n for n in range(9)] + [0.8] * 30
    minute, verdict = first_stop(curve, ACCURACY)
    assert verdict.rule == PLATEAU
    assert 18 <= minute <= 20, "the last gain is in minute 9, the window is 10 minutes"
    assert verdict.numbers["best"] == pytest.approx(0.8)
    assert "no gain above" in verdict.reason


@pytest.mark.parametrize("rate", [0.001, 0.01], ids=["slow", "fast"])
def test_a_job_that_gains_steadily_is_never_stopped(rate: float):
    assert first_stop([0.1 + rate * n for n in range(90)], ACCURACY) is None
    assert first_stop([2.0 - rate * n for n in range(90)], LOSS) is None


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_stop_a_job_that_still_improves(seed: int):
    """The gain within a window is 0.02, the noise of each minute 0.01."""
    drawn = random.Random(seed)
    assert first_stop([0.5 + 0.002 * n + drawn.gauss(0, 0.01) for n in range(100)], ACCURACY) is None
    assert first_stop([0.9 - 0.002 * n + drawn.gauss(0, 0.01) for n in range(100)], LOSS) is None


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_keep_a_flat_job_running(seed: int):
    """Records go on being broken by chance for ever; that is no gain."""
    stopped = first_stop(learning(120, time=4, noise=0.01, seed=seed), ACCURACY)
    assert stopped is not None
    minute, verdict = stopped
    assert verdict.rule == PLATEAU
    assert 20 <= minute <= 80


def test_a_gain_of_two_promille_of_what_was_gained_is_none():
    """Else a curve that comes closer to its end for ever would never be at it."""
    minute, _ = first_stop(learning(200, time=10), ACCURACY)
    assert 50 < minute < 90, "e^-6 of the way is left within a window"


def seldom(values: list[float], minutes: int) -> Seen:
    """One value in so many minutes; looked at a minute after the last one."""
    points = [Point(BEGUN + timedelta(minutes=minutes * n), each, each) for n, each in enumerate(values)]
    now = points[-1].at + timedelta(minutes=1)
    return Seen(now, points, (now - BEGUN).total_seconds())


@pytest.mark.parametrize("minutes", [5, 10, 70])
def test_a_job_that_reports_seldom_is_judged_by_its_last_four_values(minutes: int):
    """Not by those in the window of ten minutes, which never holds four."""
    curve = [0.1, 0.4, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8]
    verdicts = [decide(seldom(curve[:count], minutes), ACCURACY) for count in range(1, 10)]
    assert [each.action for each in verdicts] == ["wait"] * 8 + ["stop"]
    assert (verdicts[-1].rule, verdicts[-1].numbers["best"]) == (PLATEAU, 0.8)


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_stop_a_job_that_reports_seldom_and_still_improves(seed: int):
    """The gain within the last four values is twice their noise."""
    drawn = random.Random(seed)
    curve = [0.1 + 0.005 * n + drawn.gauss(0, 0.0075) for n in range(100)]
    assert not [n for n in range(1, 101) if decide(seldom(curve[:n], 10), ACCURACY).action == "stop"]


def test_it_is_looked_at_again_when_nothing_could_have_been_gained_for_a_window():
    verdict = decide(seen([0.1 * n for n in range(9)] + [0.8] * 6), ACCURACY)
    assert verdict.action == "wait"
    assert verdict.wait_s == 600 - 6.5 * 60


def test_a_metric_that_is_late_is_not_a_plateau():
    """An evaluation that takes its time prints nothing: silence is not judged."""
    verdict = decide(seen([0.1 * n for n in range(9)] + [0.8] * 12, later_s=1200), ACCURACY)
    assert verdict.action == "wait"


# ---- target ----


@pytest.mark.parametrize(("rules", "curve"), [
    (Rules(goal="maximize", target=0.85), [0.2, 0.6, 0.86]),
    (Rules(goal="minimize", target=0.3), [2.0, 0.9, 0.29]),
])  # fmt: skip
def test_a_job_at_its_target_is_stopped_and_not_before(rules: Rules, curve: list[float]):
    minute, verdict = first_stop(curve, rules)
    assert (minute, verdict.rule) == (3, TARGET)
    assert verdict.numbers["best"] == curve[-1]
    assert verdict.numbers["target"] == rules.target


# ---- divergence ----


def test_a_loss_that_is_no_number_any_more_stops_the_job():
    verdict = decide(seen([2.0, 1.5, 1.2], nan_minute=3, later_s=120), LOSS)
    assert (verdict.action, verdict.rule) == ("stop", DIVERGED)
    assert "NaN" in verdict.reason


def test_a_single_value_that_is_no_number_is_forgiven_once_numbers_come_again():
    assert decide(seen([2.0, 1.5, 1.2, 1.1], nan_minute=2), LOSS).action == "wait"


@pytest.mark.parametrize("later_s", [30, 120, 600])
def test_a_value_that_is_no_number_among_others_of_its_minute_stops_nothing(later_s: float):
    """Sixty values a minute, one of them NaN: nobody knows whether it was the last one."""
    verdict = decide(seen([2.0, 1.5, 1.2], nan_minute=2, per_minute=60, later_s=later_s), LOSS)
    assert (verdict.action, verdict.wait_s) == ("wait", 60)


def test_a_minute_that_is_not_over_may_still_bring_a_number():
    verdict = decide(seen([2.0, 1.5, 1.2], nan_minute=3, later_s=30), LOSS)
    assert (verdict.action, verdict.wait_s) == ("wait", 60)


def test_a_loss_that_explodes_stops_the_job_after_three_minutes():
    curve = learning(12, start=2.0, end=0.3)
    minute, verdict = first_stop([*curve, 3.0, 8.0, 40.0, 300.0], LOSS)
    assert (minute, verdict.rule) == (15, DIVERGED)
    assert verdict.numbers["now"] == 40.0


def test_a_loss_that_explodes_before_it_learned_anything_stops_the_job():
    assert first_stop([2.3, 2.3, 2.4, 2.3, 9.0, 30.0, 90.0], LOSS)[1].rule == DIVERGED


def test_an_accuracy_that_falls_back_to_where_it_began_stops_the_job():
    assert first_stop([*learning(20), 0.11, 0.1, 0.1], ACCURACY)[1].rule == DIVERGED


@pytest.mark.parametrize("spike", [[5.0], [5.0, 4.0]])
def test_a_spike_that_passes_stops_nothing(spike: list[float]):
    curve = learning(10, start=2.0, end=0.3)
    assert first_stop([*curve, *spike, *learning(8, start=0.9, end=0.2)], LOSS) is None


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_divergence(seed: int):
    curve = learning(60, start=2.0, end=0.5, time=30, noise=0.05, seed=seed)
    assert first_stop(curve, Rules(goal="minimize")) is None


def test_who_does_not_want_it_is_not_stopped_for_it():
    assert decide(seen([2.0, 1.5], nan_minute=3), Rules(goal="minimize", divergence=False)).action == "leave"


# ---- budget ----


def test_a_job_is_stopped_when_its_budget_is_used_and_looked_at_when_it_will_be():
    rules = Rules(budget="2 USD", budget_s=3600)
    used: Callable[[float], Seen] = lambda seconds: Seen(BEGUN, [], seconds)  # noqa: E731
    early = decide(used(3000), rules)
    assert (early.action, early.wait_s) == ("wait", 600)
    verdict = decide(used(3601), rules)
    assert (verdict.action, verdict.rule) == ("stop", BUDGET)
    assert "2 USD" in verdict.reason


# ---- predicted loser ----

CHAMPION = training_rules.best_so_far(learning(40, end=0.95, time=8), "maximize")


def test_a_job_far_below_the_earlier_runs_curve_is_stopped_before_its_end():
    rules = Rules(reference=CHAMPION)
    minute, verdict = first_stop(learning(40, end=0.7, time=8), rules)
    assert verdict.rule == LOSER
    assert minute < 30, "the earlier run took 40 values"
    assert verdict.numbers["predicted"] < verdict.numbers["earlier_run_at_its_end"]
    assert "predicted to end" in verdict.reason


def test_a_loss_above_the_earlier_runs_is_stopped_too():
    reference = training_rules.best_so_far(learning(40, start=2.0, end=0.2, time=8), "minimize")
    stopped = first_stop(learning(40, start=2.0, end=0.9, time=8), Rules(goal="minimize", reference=reference))
    assert stopped[1].rule == LOSER
    assert "above its" in stopped[1].reason


def test_a_late_starter_whose_own_pace_still_reaches_the_earlier_run_is_left_alone():
    assert first_stop([0.1 + 0.02 * n for n in range(40)], Rules(reference=[*CHAMPION[:-1], 0.85])) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_job_that_is_as_good_as_the_earlier_run_is_left_alone(seed: int):
    noisy = training_rules.best_so_far(learning(40, end=0.9, time=8, noise=0.01, seed=seed), "maximize")
    again = learning(40, end=0.9, time=8, noise=0.01, seed=seed + 100)
    assert first_stop(again, Rules(reference=noisy)) is None


def test_nothing_is_predicted_before_a_quarter_of_the_earlier_runs_values():
    verdict = decide(seen(learning(9, end=0.3)), Rules(reference=CHAMPION))
    assert verdict.action == "wait"
    assert "9 values" in verdict.reason


@pytest.mark.parametrize("per_minute", [50, 200, 5000])
def test_a_run_that_prints_every_step_is_no_loser_beside_an_identical_one(per_minute: int):
    """100,000 values, of which 64 places are remembered."""
    learned: Callable[[float], float] = lambda step: 1 - math.exp(-step / 20_000)  # noqa: E731
    kept = [learned(round((place + 1) * 100_000 / 64)) for place in range(64)]
    rules = Rules(reference=kept, reference_values=100_000)
    curve = [learned((minute + 1) * per_minute) for minute in range(100_000 // per_minute)]
    for minute in range(6, len(curve), 7):
        assert decide(seen(curve[:minute], per_minute=per_minute), rules).action != "stop"
    half = [0.5 * value for value in curve]
    verdict = decide(seen(half[: len(half) * 9 // 10], per_minute=per_minute), rules)
    assert verdict.rule == LOSER
    assert verdict.numbers["earlier_run_values"] == 100_000
    assert verdict.numbers["earlier_run_here"] == pytest.approx(learned(90_000), rel=0.01)


def test_faster_machines_are_compared_by_values_not_by_minutes():
    """Four values a minute: as far after ten minutes as the earlier run after forty."""
    curve = learning(40, end=0.95, time=8)[3::4]
    assert decide(seen(curve, per_minute=4), Rules(reference=CHAMPION)).action == "leave"


# ---- looking again ----


def test_a_job_is_looked_at_so_seldom_that_two_weeks_of_it_fit_into_one_execution():
    """Nine events of 25,000 each; a rule asks for a look every minute."""
    few, rules, looks, age_s = seen([0.1, 0.2, 0.3]), Rules(reference=CHAMPION), 0, 600.0
    assert decide(replace(few, age_s=3600), rules).wait_s == 60
    while age_s < 14 * 86_400:
        verdict = decide(replace(few, age_s=age_s), rules)
        assert verdict.action == "wait"
        age_s, looks = age_s + verdict.wait_s, looks + 1
    assert looks * 9 < 10_000


# ---- what is estimated ----


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_told_apart_from_a_slope(seed: int):
    drawn = random.Random(seed)
    points = seen([0.05 * n + drawn.gauss(0, 0.02) for n in range(100)]).points
    assert training_rules.noise(points) == pytest.approx(0.02, rel=0.5)
    assert training_rules.noise(seen([0.05 * n for n in range(100)]).points) == pytest.approx(0, abs=1e-9)


def test_the_record_tells_rule_reason_and_numbers():
    told = training_rules.decision({"rule": TARGET, "reason": "it reached 0.9", "numbers": {"best": 0.9}})
    assert (told["chosen"], told["numbers"]) == (TARGET, {"best": 0.9})
