"""The clairvoyant: the least that any policy can be billed for the same calls, when it knows them all beforehand.

It obeys the same physics as the others: a minute with a call is billed, a wake takes `wake` billed minutes, a call to a
sleeping endpoint wakes it at once. It has no lag: it sleeps the minute that it decides to. Two of them:

never late   no cold start at all. Each silence of `g` minutes costs min(g, wake): it stays awake, or sleeps and is
             woken just in time; a silence at the end costs nothing, nor does one before the first call beyond a wake.
as late      the least for as many cold starts as another policy had. A cold start saves at most `wake` minutes: who
             has a schedule with k of them may start each of those wakes `wake` minutes earlier and is never late.
             So never late <= that schedule + k * wake, and the bound is never late - k * wake, at least the minutes
             that no one avoids. It is a bound: no policy beats it, and it may itself not be reachable.
"""

from __future__ import annotations

import numpy as np

from ebb_cli.simulation.replay import Machine
from ebb_cli.simulation.traffic import Endpoint


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
    return max(0, never_late_min(endpoint, machine, start=start, end=end) - cold_starts * machine.wake_min)
