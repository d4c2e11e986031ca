"""When a running training job is stopped from outside: what its metric says so far in, a verdict with its numbers out.

An alarm only says that it may be time; it is decided here, on the metric's whole history, just before anything is done.
CloudWatch holds one point a minute, so that no rule judges what is shorter. Every rule errs on the side of training on:
a job that still gains, within noise, is left alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any

BUDGET, TARGET, DIVERGED, PLATEAU, LOSER = "budget", "target", "divergence", "plateau", "predicted loser"
STOP, WAIT, LEAVE = "stop", "wait", "leave"
LEAST_POINTS = 6  # minutes with a value, below which no curve is judged
LEAST_RECENT = 4  # of them within the window in which nothing was gained; where values come seldom it is widened
LOST = 3  # minutes in a row that a diverged job stays lost
NOISY_WINDOWS = 3  # that are looked back where the values vary more than what counts as a gain
LEAST_SHARE = 0.002  # of everything gained so far: a smaller gain within the window is none
LOSER_AFTER = 0.25  # of the earlier run's values; before, its beginning is compared with a beginning
SHORTEST_WAIT_S, LONGEST_WAIT_S = 60, 3600
# Of the time since the job was made. A look is nine events of an execution, which ends at 25,000; two weeks have less
# than 1000 looks. https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
WAIT_SHARE = 0.01
WHOLE_MINUTE = timedelta(seconds=120)  # after a minute's beginning all its values are known; assumed
MOST_SLOPES = 120  # points between which slopes are taken: their number grows with the square


@dataclass(frozen=True)
class Rules:
    """What stops a job.

    `reference` is the best value that an earlier run had at evenly spaced places up to its end, or nothing, and
    `reference_values` how many values it had printed by then.
    """

    goal: str = "maximize"
    plateau_s: float | None = None
    target: float | None = None
    divergence: bool = True
    budget: str | None = None  # as it was asked for
    budget_s: float | None = None  # what that is on the job's machine
    reference: Sequence[float] = ()
    reference_values: int = 0

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.goal == "maximize" else -1


@dataclass(frozen=True)
class Point:
    """One minute of the metric: its best and its mean value, and how many there were."""

    at: datetime
    best: float
    mean: float
    count: int = 1


@dataclass(frozen=True)
class Seen:
    """What is known of a job: its metric since it last began to train, oldest first, what it has run, and more.

    `not_a_number_at` is the minute in which it last printed what is no number, `age_s` the time since it was made.
    """

    now: datetime
    points: Sequence[Point]
    used_s: float
    not_a_number_at: datetime | None = None
    age_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """`stop`, by which rule and why; `wait`, for how long until it is looked at again; or `leave`."""

    action: str
    reason: str
    rule: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    wait_s: int = 0


def decide(seen: Seen, rules: Rules) -> Verdict:
    """Return what becomes of a running job."""
    verdicts = [judge(seen, rules) for judge in (_budget, _target, _divergence, _plateau, _loser)]
    stopping = next((each for each in verdicts if each and each.action == STOP), None)
    if stopping:
        return stopping
    waiting = [each for each in verdicts if each and each.action == WAIT]
    if waiting:
        soonest = min(waiting, key=lambda each: each.wait_s)
        return replace(soonest, wait_s=spaced(soonest.wait_s, seen.age_s))
    return Verdict(LEAVE, "no rule asks for anything that could come by itself")


def spaced(seconds: float, age_s: float) -> int:
    """Return how long is waited until a job of this age is looked at again: no execution may look too often."""
    return _bounded(max(seconds, WAIT_SHARE * age_s))


def best_so_far(values: Sequence[float], goal: str) -> list[float]:
    """Return the best of all values up to each one."""
    best, found = None, []
    choose = max if goal == "maximize" else min
    for value in values:
        best = value if best is None else choose(best, value)
        found.append(best)
    return found


def noise(points: Sequence[Point]) -> float:
    """Return how far a minute's value lies from the curve, as one standard deviation.

        sigma = 1.4826 * MAD(v[i] - 2 v[i-1] + v[i-2]) / sqrt(6)
    Of second differences, in which a slope cancels: a steady gain is no noise. 1.4826 turns the median absolute
    deviation of a normal distribution into its standard deviation; a second difference has 1 + 4 + 1 variances.
    """
    values = [point.mean for point in points]
    if len(values) < LEAST_POINTS:
        return 0.0
    second = [
        later - 2 * middle + earlier for earlier, middle, later in zip(values, values[1:], values[2:], strict=False)
    ]
    middle = median(second)
    return 1.4826 * median([abs(each - middle) for each in second]) / math.sqrt(6)


def _budget(seen: Seen, rules: Rules) -> Verdict | None:
    if rules.budget_s is None:
        return None
    if seen.used_s < rules.budget_s:
        left = rules.budget_s - seen.used_s
        return _wait(f"{seen.used_s:.0f} s of the budget's {rules.budget_s:.0f} s are used", left)
    numbers = {"used_s": seen.used_s, "budget_s": rules.budget_s}
    return _stop(BUDGET, f"the job has run {seen.used_s:.0f} s; train.stop.budget allows {rules.budget}", numbers, seen)


def _target(seen: Seen, rules: Rules) -> Verdict | None:
    if rules.target is None or not seen.points:
        return None
    best = _best(seen, rules)
    if rules.sign * (best - rules.target) < 0:
        return None
    words = "reached" if rules.sign > 0 else "came down to"
    numbers = {"best": best, "target": rules.target}
    return _stop(TARGET, f"the metric {words} {best:g}; train.stop.target is {rules.target:g}", numbers, seen)


def _divergence(seen: Seen, rules: Rules) -> Verdict | None:
    """Stop where the last values are no numbers, or so bad that everything gained is lost again.

    A bad value among others is none: a scaler of mixed precision skips a step, a rate warms up. So a minute with
    numbers in it says nothing, nor one that is not over yet.
    """
    points = seen.points
    if not rules.divergence:
        return None
    if seen.not_a_number_at and (not points or points[-1].at <= seen.not_a_number_at):
        if (points and points[-1].at == seen.not_a_number_at) or seen.now < seen.not_a_number_at + WHOLE_MINUTE:
            return _wait("the metric was no number just now, and may be one again", SHORTEST_WAIT_S)
        return _stop(DIVERGED, "the metric's last value is no number (NaN or infinite)", {}, seen)
    if len(points) < LEAST_POINTS:
        return None
    before, last = points[:-LOST], points[-LOST:]
    first = rules.sign * before[0].mean
    gained = max(rules.sign * point.best for point in before) - first
    sigma = noise(before)
    # Else nothing is known to be learned that could be lost, and only an explosion tells.
    kept = len(before) >= LEAST_POINTS and gained > 5 * sigma
    floor = first + 0.1 * gained if kept else first - max(abs(first), 10 * sigma)
    if (gained <= 0 and not first) or any(rules.sign * point.best > floor for point in last):
        return None
    worst = rules.sign * min(rules.sign * point.mean for point in last)
    numbers = {"first": before[0].mean, "best": _best(seen, rules), "now": worst}
    lost = f"from {numbers['best']:g} back to {worst:g}, and it began at {numbers['first']:g}"
    return _stop(DIVERGED, f"the metric went {lost}; {LOST} minutes in a row", numbers, seen)


def _plateau(seen: Seen, rules: Rules) -> Verdict | None:
    """Stop where a window has brought no gain: neither a better best value, nor a trend that rises beyond noise."""
    if rules.plateau_s is None:
        return None
    if not seen.points:
        return _wait("the metric has no value yet", rules.plateau_s)
    begun, window_s = _window(seen, rules.plateau_s)
    if (seen.now - seen.points[-1].at).total_seconds() > window_s:
        return _wait(f"no value for {window_s:.0f} s: an evaluation may take its time", SHORTEST_WAIT_S)
    before = [point for point in seen.points if point.at < begun]
    recent = [point for point in seen.points if point.at >= begun]
    if not before or len(seen.points) < LEAST_POINTS:
        first = (seen.points[0].at - begun).total_seconds()
        return _wait(f"{len(recent)} values in the last {window_s:.0f} s: too few to judge", first)
    sigma = noise(seen.points)
    earlier = max(rules.sign * point.best for point in before)
    gain = max(rules.sign * point.best for point in recent) - earlier
    small = LEAST_SHARE * (max(earlier, earlier + gain) - rules.sign * seen.points[0].mean)
    least = max(small, sigma)
    # Ten noisy values show no slope of one sigma; over three windows its error is a fifth of that.
    windows = NOISY_WINDOWS if sigma > small else 1
    looked_back = begun - timedelta(seconds=window_s * (windows - 1))
    if seen.points[0].at >= looked_back:
        first = (seen.points[0].at - looked_back).total_seconds()
        return _wait(f"the values vary by {sigma:.3g}: more are needed to tell a slope from that", first)
    looked_at = [point for point in seen.points if point.at >= looked_back]
    trend = rules.sign * _slope(looked_at) * window_s
    doubt = 2 * sigma * math.sqrt(12 / len(looked_at)) / windows  # twice the standard error of a straight line's rise
    numbers = {"best": _best(seen, rules), "gain": gain, "least_gain": least, "trend": trend, "noise": sigma}
    if gain > least:
        return _wait(f"it gained {gain:.3g} within {window_s:.0f} s", _until(seen, rules, least, window_s))
    if trend > max(small, doubt):
        return _wait(f"it still gains {trend:.3g} in {window_s:.0f} s, by its trend", SHORTEST_WAIT_S)
    told = f"no gain above {least:.3g} in {window_s:.0f} s; the best value is {numbers['best']:g}"
    return _stop(PLATEAU, told, numbers, seen)


def _window(seen: Seen, plateau_s: float) -> tuple[datetime, float]:
    """Return when the time began in which something must have been gained, and its seconds.

    Where too few values have come in it, it ends at the last one and goes back until it holds enough of them.
    """
    begun, points = seen.now - timedelta(seconds=plateau_s), seen.points
    if sum(point.at >= begun for point in points) >= LEAST_RECENT:
        return begun, plateau_s
    last = points[-1].at
    begun = min(last - timedelta(seconds=plateau_s), points[-min(LEAST_RECENT, len(points))].at)
    return begun, (last - begun).total_seconds()


def _loser(seen: Seen, rules: Rules) -> Verdict | None:
    """Stop what will end below the project's earlier run, even if from here on it gains as much as that one did.

    Compared by the number of values, not by time: another machine is faster or slower. That the metric has one sample
    for each line in which the log shows it is assumed. The better of two guesses counts, the earlier run's further gain
    and this job's own pace.
    """
    reference, points = [rules.sign * value for value in rules.reference], seen.points
    done = sum(point.count for point in points)
    if len(reference) < LEAST_POINTS or len(points) < LEAST_POINTS:
        return _wait("too few values to compare", SHORTEST_WAIT_S) if len(reference) >= LEAST_POINTS else None
    pace_s = max(SHORTEST_WAIT_S, seen.used_s / done)
    count = rules.reference_values or len(reference)
    if done >= count:  # it is past what the other one took: plateau and budget say more
        return None
    if done < LOSER_AFTER * count:
        return _wait(f"{done} values, the earlier run had {count}", pace_s)
    here = reference[max(0, done * len(reference) // count - 1)]  # the last place that it had come to by then
    best = rules.sign * _best(seen, rules)
    left = count - done
    half = max(1, len(points) // 2)
    later = best - max(rules.sign * point.best for point in points[:half])
    pace = later / max(1, sum(point.count for point in points[half:]))
    predicted = best + max(reference[-1] - here, pace * left)
    margin = max(2 * noise(points), 0.02 * (reference[-1] - reference[0]))
    numbers = {
        "best": rules.sign * best,
        "earlier_run_here": rules.sign * here,
        "predicted": rules.sign * predicted,
        "earlier_run_at_its_end": rules.sign * reference[-1],
        "values": float(done),
        "earlier_run_values": float(count),
    }
    if predicted >= reference[-1] - margin:
        return _wait(f"it may still end at {rules.sign * predicted:g}", max(LONGEST_WAIT_S / 12, pace_s))
    told = (
        f"{rules.sign * best:g} after {done} values, where the earlier run had {rules.sign * here:g}: "
        f"predicted to end at {rules.sign * predicted:g}, below its {rules.sign * reference[-1]:g}"
        if rules.sign > 0
        else f"{-best:g} after {done} values, where the earlier run had {-here:g}: "
        f"predicted to end at {-predicted:g}, above its {-reference[-1]:g}"
    )
    return _stop(LOSER, told, numbers, seen)


def _best(seen: Seen, rules: Rules) -> float:
    return rules.sign * max(rules.sign * point.best for point in seen.points)


def _until(seen: Seen, rules: Rules, least: float, window_s: float) -> float:
    """Return after how many seconds nothing will have been gained within the window, if nothing is from now on."""
    best = last = None
    for point in seen.points:
        if best is None or rules.sign * point.best > best + least:
            best, last = rules.sign * point.best, point.at
    assert last is not None
    return window_s - (seen.now - last).total_seconds()


def _slope(points: Sequence[Point]) -> float:
    """Return the median of the slopes between all pairs of points, in units a second; outliers do not bend it."""
    step = -(-len(points) // MOST_SLOPES)
    used = points[::step]
    slopes = [
        (later.mean - earlier.mean) / (later.at - earlier.at).total_seconds()
        for number, earlier in enumerate(used)
        for later in used[number + 1 :]
        if later.at > earlier.at
    ]
    return median(slopes) if slopes else 0.0


def _stop(rule: str, reason: str, numbers: dict[str, float], seen: Seen) -> Verdict:
    values = {"values": float(sum(point.count for point in seen.points)), "run_s": round(seen.used_s, 1)}
    return Verdict(STOP, reason, rule, {name: round(value, 6) for name, value in (values | numbers).items()})


def _wait(reason: str, seconds: float) -> Verdict:
    return Verdict(WAIT, reason, wait_s=_bounded(seconds))


def _bounded(seconds: float) -> int:
    return math.ceil(min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, seconds)))


def decision(note: dict[str, Any]) -> dict[str, Any]:
    """Return how the record of a run tells that its training was stopped."""
    return {
        "what": "training stopped from outside",
        "chosen": note["rule"],
        "reason": note["reason"],
        "numbers": note.get("numbers") or {},
        "alternatives": ["training on until train.max_runtime"],
        "source": "ebb/training_rules.py",
    }
