"""The replay: one endpoint's calls, a policy that sees only the past, and what came of it, minute by minute.

The endpoint is awake when the time begins. A minute in which it is awake, waking or falling asleep is billed; one in
which it sleeps is not. A call to a sleeping endpoint is queued, starts the wake, and is answered when the wake ends,
with those that came meanwhile. A call between the decision to sleep and the act calls the sleep off.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ebb import idle
from ebb.addresses import IdlePolicy
from ebb.minutes import MINUTE
from ebb_cli.simulation.traffic import Endpoint, Minutes

# From the end of the window until nothing is billed: metrics that may be late, the grace before it is decided again.
LAG_MIN = math.ceil((idle.PUBLISHING_LAG + idle.GRACE) / MINUTE)
QUEUE_MIN = IdlePolicy().queue_for_s // 60  # a request that waits longer is lost


@dataclass(frozen=True)
class Machine:
    """What one endpoint's machine takes: minutes to wake, USD, kWh and gCO2e for an hour awake."""

    wake_min: int
    usd_per_hour: float = 1.0
    kwh_per_hour: float = 1.0
    g_per_hour: float = 1.0
    gpu: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a policy says at a minute of silence: asleep from `sleep_at` on, or nothing yet, and asked again then."""

    sleep_at: int | None
    ask_again_at: int | None = None
    prewake_at: int | None = None


class Policy(Protocol):
    """Who decides. It is asked in silences only and learns of calls by `endpoint` up to the minute `at`."""

    name: str
    shortest_min: int  # silences up to this never lead to a sleep: it need not be asked

    def begin(self, endpoint: Endpoint, machine: Machine, start: int) -> None:
        """Take up an endpoint that comes into service at `start`."""

    def verdict(self, at: int, last: int | None, awake_since: int) -> Verdict:
        """Say what to do in the silence since the call in minute `last`, or since it came into service."""

    def confirms(self, at: int, last: int | None, awake_since: int) -> bool:
        """Say whether it really sleeps at `at`, when no call has come meanwhile."""


@dataclass
class Outcome:
    """What came of one endpoint under one policy. Minutes are billed minutes."""

    awake_min: int = 0
    wakes: int = 0
    prewakes: int = 0
    cold_starts: int = 0
    late_requests: int = 0
    wrong: int = 0  # slept for less than one wake takes: it cost more than staying awake
    lost: int = 0
    longest_wait_min: int = 0
    bands: list[tuple[int, int, str]] = field(default_factory=list)


def replay(
    endpoint: Endpoint,
    policy: Policy,
    machine: Machine,
    *,
    start: int,
    end: int,
    keep_bands: bool = False,
) -> Outcome:
    """Return what came of one endpoint's calls in [start, end) under a policy."""
    policy.begin(endpoint, machine, start)
    minutes: list[int] = endpoint.minutes.tolist()
    total = np.concatenate(([0], np.cumsum(endpoint.counts)))
    wake = machine.wake_min
    # the calls after which there is a silence worth asking about
    ends: Minutes = np.append(endpoint.minutes, end)
    worth: list[int] = np.flatnonzero(np.diff(ends) - 1 > policy.shortest_min).tolist()
    outcome = Outcome()
    state = _State(outcome, keep_bands, billed_from=start)
    ready, last, following, looked = start, -1, 0, 0  # `following`: index of the next call, `last`: of the last one
    count = len(minutes)
    while True:
        came = minutes[following] if following < count else end
        said = _in_silence(policy, minutes[last] if last >= 0 else None, ready, came)
        if said is None:  # awake until the next call: go on to the next silence worth asking about
            if following >= count:
                break
            looked = bisect_left(worth, following, looked)
            if looked >= len(worth):
                break
            last, following = worth[looked], worth[looked] + 1
            continue
        slept, prewake = said
        state.sleep(slept)
        if prewake is not None and slept <= prewake < came:
            outcome.prewakes += 1
            woken = prewake
        elif following >= count:
            break
        else:
            woken = came
        outcome.wakes += 1
        outcome.wrong += woken - slept < wake
        state.wake(woken)
        ready = woken + wake
        if following < count and came < ready:  # queued until it is ready, with those that come meanwhile
            answered = bisect_left(minutes, ready, following)
            late = int(total[answered] - total[following])
            outcome.late_requests += late
            outcome.cold_starts += 1
            outcome.longest_wait_min = max(outcome.longest_wait_min, ready - came)
            outcome.lost += late if ready - came > QUEUE_MIN else 0
            state.queued(came, ready)
            last, following = answered - 1, answered
            ready += 1  # the minute in which they are answered
    state.close(end)
    return outcome


def _in_silence(policy: Policy, last: int | None, ready: int, came: int) -> tuple[int, int | None] | None:
    """Return when it sleeps before the next call, and when it is woken; None: it is awake when the call comes."""
    quiet_from = ready if last is None or last + 1 < ready else last + 1
    if came - quiet_from <= policy.shortest_min:
        return None
    at = quiet_from
    while True:
        verdict = policy.verdict(at, last, ready)
        if verdict.sleep_at is not None:
            if verdict.sleep_at >= came:
                return None
            if policy.confirms(verdict.sleep_at, last, ready):
                return verdict.sleep_at, verdict.prewake_at
            at = verdict.sleep_at + 1
            continue
        if verdict.ask_again_at is None or verdict.ask_again_at >= came:
            return None
        at = max(at + 1, verdict.ask_again_at)


class _State:
    """Adds up billed minutes, and keeps the bands of a picture."""

    def __init__(self, outcome: Outcome, keep: bool, billed_from: int) -> None:
        self.outcome, self.keep, self.since = outcome, keep, billed_from
        self.awake = True

    def sleep(self, at: int) -> None:
        self.outcome.awake_min += at - self.since
        self._band(at, "awake")
        self.awake = False

    def wake(self, at: int) -> None:
        self._band(at, "asleep")
        self.awake = True

    def queued(self, at: int, ready: int) -> None:
        if self.keep:
            self.outcome.bands.append((at, ready, "waiting"))

    def close(self, end: int) -> None:
        if self.awake:
            self.outcome.awake_min += max(0, end - self.since)
        self._band(end, "awake" if self.awake else "asleep")

    def _band(self, at: int, kind: str) -> None:
        if self.keep and at > self.since:
            self.outcome.bands.append((self.since, at, kind))
        self.since = at
