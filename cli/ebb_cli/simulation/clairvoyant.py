"""The clairvoyant: the least that any policy can be billed for the same calls, when it knows them all beforehand.

It obeys the same physics as the others: a minute with a call is billed, a wake takes `wake` billed minutes, a call to a
sleeping endpoint wakes it at once. It has no lag: it sleeps the minute that it decides to. Two of them:

never late   no cold start at all. Each silence of `g` minutes costs min(g, wake): it stays awake, or sleeps and is
             woken just in time; a silence at the end costs nothing, nor does one before the first call beyond a wake.
as late      a bound on what any schedule with `k` cold starts is billed: never late, less the `k` largest gains. The
             gain of a cold start at a call is at most what never late is billed in the `wake` minutes after that call,
             which the waiting callers let pass. Why: take a schedule and leave those minutes after each of its cold
             starts out of never late. What is left of never late are minutes with calls, in which the schedule is
             awake as well, and for each silence the shorter of its length and a wake; for that the schedule was awake
             through it, or was billed a wake at its end, ahead of the call or after it. No policy beats the bound;
             whether a schedule reaches it is not said.
"""

from __future__ import annotations

import numpy as np

from ebb_cli.simulation.replay import Machine
from ebb_cli.simulation.traffic import Endpoint, Minutes


def never_late_min(endpoint: Endpoint, machine: Machine, *, start: int, end: int) -> int:
    """Return the least billed minutes in [start, end) without a single cold start, awake at `start`."""
    if not len(endpoint.minutes):
        return 0
    silences = np.diff(endpoint.minutes) - 1
    between = int(np.minimum(silences, machine.wake_min).sum())
    first = min(int(endpoint.minutes[0]) - start, machine.wake_min)
    return len(endpoint.minutes) + between + first


def bound_min(endpoint: Endpoint, machine: Machine, *, start: int, end: int, cold_starts: int) -> int:
    """Return a bound below which no schedule with so many cold starts comes, in billed minutes."""
    never = never_late_min(endpoint, machine, start=start, end=end)
    if not cold_starts:
        return never
    gains = _gains(endpoint, machine, end)
    if cold_starts < len(gains):
        gains = np.partition(gains, len(gains) - cold_starts)[len(gains) - cold_starts :]
    return never - int(gains.sum())


def _gains(endpoint: Endpoint, machine: Machine, end: int) -> Minutes:
    """Return for each call after a silence what never late is billed in the minutes of a wake that follow it.

    A wake that the end cuts off is billed up to there only: so near to it the gain is the whole wake.
    """
    at, wake = endpoint.minutes, machine.wake_min
    silences = np.diff(at) - 1
    billed = np.concatenate(([0], np.cumsum(1 + np.minimum(silences, wake))))  # at each call, since the first
    until: Minutes = at + wake
    last = np.searchsorted(at, until, side="right") - 1  # the last call in those minutes
    following = np.append(at, at[-1] + 10**9)[last + 1]
    # of the silence behind it: all when it stays awake, else the wake just before the next call; none at the end
    length = following - at[last] - 1
    awake = np.where(length <= wake, until - at[last], np.maximum(0, until - (following - wake) + 1))
    gains = np.where(until >= end, wake, billed[last] - billed + awake)
    return gains[np.concatenate(([True], silences > 0))]
