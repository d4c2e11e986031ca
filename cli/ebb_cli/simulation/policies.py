"""The policies that are compared: none sees the future, except the clairvoyant, which is in `clairvoyant`."""

from __future__ import annotations

import math

import numpy as np

from ebb import control_plane, idle, keep_alive, keep_alive_costs, keep_alive_habits
from ebb.addresses import IdlePolicy
from ebb.keep_alive_costs import Costs, Spent
from ebb.keep_alive_habits import ColdStart, Habit
from ebb.minutes import MINUTE, moment
from ebb_cli.simulation.replay import LAG_MIN, Machine, Verdict
from ebb_cli.simulation.traffic import DAY, Endpoint

LOOK_MIN = keep_alive_habits.SHORTEST // MINUTE  # the window of the idle alarm
SWEEP_MIN = 60  # the sweep lists metrics in the first of four runs only: so often it looks at an endpoint that is awake
NOTHING_SPENT = Spent()
LONGEST_WAIT_MIN = idle.LONGEST_WAIT // MINUTE


class Fixed:
    """Sleep after so many minutes without a call: what a rule in the console does."""

    def __init__(self, window_min: int = 15) -> None:
        self.name = f"{window_min}-minute rule"
        self.window_min = window_min
        self.shortest_min = window_min + LAG_MIN

    def begin(self, endpoint: Endpoint, machine: Machine, start: int) -> None:
        """Nothing is learned."""

    def verdict(self, at: int, last: int | None, awake_since: int) -> Verdict:
        """Sleep when the window is over."""
        return Verdict(_quiet_from(last, awake_since) + self.window_min + LAG_MIN)

    def confirms(self, at: int, last: int | None, awake_since: int) -> bool:
        """Nothing is decided twice."""
        return True


class HybridHistogram:
    """The policy of Shahrad et al., USENIX ATC 2020, section 4.2, for each endpoint by itself.

    A histogram of idle times in bins of a minute up to four hours. Prewarming window: its 5th percentile, rounded down,
    less 10 %; kept alive until its 99th, rounded up, plus 10 %. While the histogram is not representative (coefficient
    of variation of its bin counts below 2), or most idle times lie beyond its range: nothing is unloaded for four
    hours. For the latter the paper fits an ARIMA model; that fallback stands for it here. A prewarm is started one wake
    earlier, so that the endpoint is ready at the percentile. Percentiles are taken afresh when the idle times seen have
    grown by a hundredth, at each of the first hundred.
    """

    RANGE_MIN, HEAD, TAIL, MARGIN, LEAST_CV = 240, 0.05, 0.99, 0.10, 2.0

    def __init__(self) -> None:
        self.name = "hybrid histogram"
        self.shortest_min = LAG_MIN

    def begin(self, endpoint: Endpoint, machine: Machine, start: int) -> None:
        """Start with an empty histogram."""
        self.wake_min = machine.wake_min
        self.minutes = endpoint.minutes
        self.calls = np.concatenate(([0], np.cumsum(endpoint.counts)))
        self.idle = np.diff(endpoint.minutes) - 1
        self.bins = np.zeros(self.RANGE_MIN)
        self.beyond = 0
        self.taken = 0  # calls whose idle times are in the histogram
        self.of_windows = 0.0
        self.windows = (0, self.RANGE_MIN)

    def verdict(self, at: int, last: int | None, awake_since: int) -> Verdict:
        """Unload after the execution until the prewarming window is over, or keep until the keep-alive window is."""
        self._learn(at)
        since = awake_since if last is None else last + 1
        head, tail = self.windows
        quiet_from = _quiet_from(last, awake_since)
        prewake = since + head - self.wake_min
        if head and at < prewake and prewake > quiet_from + LAG_MIN:
            return Verdict(quiet_from + LAG_MIN, prewake_at=prewake)
        return Verdict(max(quiet_from, since + tail) + LAG_MIN)

    def confirms(self, at: int, last: int | None, awake_since: int) -> bool:
        """Nothing is decided twice."""
        return True

    def _learn(self, at: int) -> None:
        called = int(np.searchsorted(self.minutes, at))
        if called > max(1, self.taken):
            first = max(0, self.taken - 1)
            idle = self.idle[first : called - 1]
            inside = idle[idle < self.RANGE_MIN]
            self.bins += np.bincount(inside, minlength=self.RANGE_MIN)
            self.beyond += len(idle) - len(inside)
            # several calls in a minute follow one another without an idle minute
            self.bins[0] += int(self.calls[called] - self.calls[self.taken]) - (called - self.taken)
        self.taken = max(self.taken, called)
        seen = float(self.bins.sum()) + self.beyond
        if seen < 100 or seen > self.of_windows * 1.01:
            self.of_windows = seen
            self.windows = self._windows()

    def _windows(self) -> tuple[int, int]:
        inside = float(self.bins.sum())
        if not inside or self.beyond > inside:
            return 0, self.RANGE_MIN
        if float(self.bins.std()) / float(self.bins.mean()) < self.LEAST_CV:
            return 0, self.RANGE_MIN
        until = np.cumsum(self.bins)
        head = int(np.searchsorted(until, self.HEAD * inside))
        tail = int(np.searchsorted(until, self.TAIL * inside)) + 1
        return int(head * (1 - self.MARGIN)), math.ceil(tail * (1 + self.MARGIN))


class Learned:
    """Ebb: the real `keep_alive`, asked when an alarm may fire, and the real `idle.decide` before it sleeps.

    The habit is learned once a day, from the complete days before: `keep_alive.window` uses no more than those. Whether
    more requests were late than an SLA allows is asked once a day and after each cold start. `cold_start` is taken
    instead of what the endpoint's owner says, if it is given.
    """

    def __init__(self, name: str = "Ebb", cold_start: ColdStart | None = None) -> None:
        self.name, self.instead = name, cold_start
        self.shortest_min = LOOK_MIN + LAG_MIN
        self.calls_of = {"keep_alive.learn": 0, "keep_alive.decide": 0, "idle.decide": 0, "refused": 0}
        self.habits: dict[str, int] = {}

    def begin(self, endpoint: Endpoint, machine: Machine, start: int) -> None:
        """Forget what was learned."""
        self.endpoint, self.start = endpoint, start
        self.costs = Costs(
            wake_s=machine.wake_min * 60,
            lag_s=LAG_MIN * 60,
            awake_per_hour=machine.usd_per_hour,
            cycle=control_plane.total_usd(control_plane.cycle(machine.wake_min * 60)),
        )
        self.cold_start = self.instead or endpoint.cold_start
        self.day = -1
        self.cold_wakes: list[int] = []
        self.so_far = Spent()
        self.spent_day = self.awake_since = -1
        self.said = keep_alive.given(keep_alive_habits.SHORTEST)

    def _habit(self, at: int, so_far: Spent = NOTHING_SPENT) -> Habit:
        day = at // DAY
        if day != self.day:
            until = day * DAY
            first = int(np.searchsorted(self.endpoint.minutes, until - keep_alive_costs.LEARNED_DAYS * DAY))
            end = int(np.searchsorted(self.endpoint.minutes, until))
            self.habit = keep_alive_habits.learn(
                self.endpoint.minutes[first:end].tolist(),
                self.endpoint.counts[first:end].tolist(),
                since=self.start,
                until=until,
                cold_start=self.cold_start,
                costs=self.costs,
                so_far=so_far,
            )
            self.day = day
            self.calls_of["keep_alive.learn"] += 1
            self.habits[self.habit.kind] = self.habits.get(self.habit.kind, 0) + 1
        return self.habit

    def _spent(self, at: int, awake_since: int) -> Spent:
        """Ask the real code how many requests met a cold start."""
        day, called = at // DAY, self.endpoint.minutes
        cold = False
        if awake_since != self.awake_since:
            self.awake_since = awake_since
            woken = awake_since - self.costs.wake_min - 1  # if by a call: answered in the minute before `awake_since`
            first = int(np.searchsorted(called, woken))
            cold = first < len(called) and called[first] < awake_since
            if cold:
                self.cold_wakes.append(woken)
        if cold or day != self.spent_day:
            self.spent_day = day
            since = at - keep_alive_costs.LEARNED_DAYS * DAY
            self.cold_wakes = [each for each in self.cold_wakes if each >= since]
            first, end = int(np.searchsorted(called, since)), int(np.searchsorted(called, at))
            minutes, counts = called[first:end].tolist(), self.endpoint.counts[first:end].tolist()
            self.so_far = keep_alive_costs.spent(minutes, counts, self.cold_wakes, at=at, costs=self.costs)
        return self.so_far

    def verdict(self, at: int, last: int | None, awake_since: int) -> Verdict:
        """Ask the real code what it would do now, from the moment on at which the idle alarm asks it."""
        quiet_from = _quiet_from(last, awake_since)
        if at < quiet_from + LOOK_MIN:
            return Verdict(None, quiet_from + LOOK_MIN)
        so_far = self._spent(at, awake_since) if self.cold_start == "avoid" else Spent()
        habit = self._habit(at, so_far)
        self.calls_of["keep_alive.decide"] += 1
        said = keep_alive.exhausted(so_far) or keep_alive.decide(habit, at=at, last=last, awake_since=awake_since)
        midnight = (at // DAY + 1) * DAY
        if said.idle_after is None:
            return Verdict(None, midnight)
        until = quiet_from + said.idle_after // MINUTE
        if until > at:  # decided again by then, with what is known by then
            if until - at > LONGEST_WAIT_MIN:  # no execution waits so long: the sweep asks again
                until = -(-until // SWEEP_MIN) * SWEEP_MIN
            return Verdict(None, min(until, midnight))
        self.said = said
        prewake = None if said.prewake_at is None else int(said.prewake_at.timestamp() // 60)
        return Verdict(at + LAG_MIN, prewake_at=prewake)

    def confirms(self, at: int, last: int | None, awake_since: int) -> bool:
        """Ask the real `idle.decide` when the alarm's metrics are in, and once more just before it acts."""
        assert self.said.idle_after is not None
        act = moment(at)
        window = idle.Window(idle_after=self.said.idle_after, reason=self.said.reason, prewake_at=self.said.prewake_at)
        heard_from = at - LAG_MIN - self.said.idle_after // MINUTE - 1
        # every minute since then has a heartbeat: it was awake, else it would not be asked
        beats = tuple(moment(minute) for minute in range(max(heard_from, awake_since), at))
        called = () if last is None or last < heard_from else (moment(last),)
        for now in (act - idle.GRACE, act):
            # as it would be made of what AWS answers; the fields are right, and validated a million times for nothing
            seen = idle.EndpointSnapshot.model_construct(
                name=self.endpoint.name,
                kind="realtime",
                status=idle.AT_REST,
                in_service_since=moment(awake_since),
                seen_from=moment(min(heard_from, awake_since)),
                calls=called,
                heartbeats=tuple(beat for beat in beats if beat <= now - idle.PUBLISHING_LAG),
            )
            self.calls_of["idle.decide"] += 1
            if idle.decide(seen, IdlePolicy(), window, now=now).action is not idle.Action.SLEEP:
                self.calls_of["refused"] += 1
                return False
        return True


def _quiet_from(last: int | None, awake_since: int) -> int:
    return awake_since if last is None else max(last + 1, awake_since)
