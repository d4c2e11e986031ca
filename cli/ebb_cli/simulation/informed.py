"""Informed online: what a policy can expect to save that knows each endpoint's law, but not what will come of it.

It knows the rate of every minute of the year, when a session of bursts has ended, a timer's beat, and when an endpoint
dies. It does not know the next call. It obeys the physics of Ebb: `lag` minutes pass before a sleep (metrics, grace), a
wake takes `wake`, a sleep with its wake costs `cycle` minutes awake. Calls at the rate `r` a minute, so that:

    slept of a minute    s(r) = (1 - cycle * r) / (exp(r * lag) + r * wake)         staying awake saves nothing
    late of a minute     l(r) = r * (1 + r * wake) / (exp(r * lag) + r * wake)      staying awake has none late
Derived: a cycle waits until `lag` minutes were silent, (exp(r * lag) - 1) / r on average, sleeps for 1 / r and wakes.
Who may have only so many requests late, the share and the wakes that Ebb may, sleeps in the minutes in which that
saves most for each late request (a fractional knapsack). Switching from minute to minute costs nothing. So it is a
bound in expectation, close to which a policy could come that had learned all there is to learn; what lies between it
and the clairvoyant is chance.
Source of s and l: renewal-reward theorem; calls see time averages, Wolff, Operations Research 30 (1982).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ebb_cli.simulation.replay import LAG_MIN, Machine
from ebb_cli.simulation.traffic import SESSION_MIN, SESSION_SPREAD, Endpoint

STEP_MIN = 5  # at which rates are looked at: they change over an hour

Rates = np.ndarray[Any, Any]


def offers(endpoint: Endpoint, machine: Machine, *, minutes: int, cycle_min: float) -> tuple[Rates, Rates]:
    """Return what can be slept in pieces of the year, in minutes saved and requests late; sums are over all pieces.

    Raises: ValueError for an endpoint without a law: a recorded one.
    """
    law, wake = endpoint.law, machine.wake_min
    if law is None:
        raise ValueError(f"{endpoint.name} was recorded: nobody knows its law")
    if law.pattern == "timer":
        awake = LAG_MIN + wake + 1.5 + cycle_min  # the call's minute, and half a minute of jitter on average
        slept = minutes - len(endpoint.minutes) * min(float(law.period_min()), awake)
        return np.array([max(0.0, slept)]), np.zeros(1)
    rate = law.starts_per_minute()[::STEP_MIN]
    if law.pattern == "bursty":
        saved, late = _between_sessions(rate, law.per_session(), wake, cycle_min)
    else:
        below = np.exp(np.minimum(rate * LAG_MIN, 500.0)) + rate * wake
        saved, late = (1 - cycle_min * rate) / below, rate * (1 + rate * wake) / below
    worth = saved > 0
    return saved[worth] * STEP_MIN, late[worth] * STEP_MIN


def _between_sessions(rate: Rates, per_session: float, wake: int, cycle_min: float) -> tuple[Rates, Rates]:
    """Return the same where calls come in sessions that begin at `rate`: a wake is not lost, its session goes on.

    Sessions overlap: the time with at least one lasts (exp(r * mean) - 1) / r (M/G/infinity), that with none 1 / r.
    """
    mean = SESSION_MIN * math.exp(SESSION_SPREAD**2 / 2)
    reached = np.exp(-rate * LAG_MIN)
    whole = np.exp(np.minimum(rate * mean, 500.0))  # of both, in units of 1 / r
    return (1 - cycle_min * rate) * reached / whole, rate * (1 + per_session * wake) * reached / whole


def late_each(endpoint: Endpoint, machine: Machine) -> float:
    """Return the requests that one cold start of an endpoint is expected to hold up."""
    assert endpoint.law is not None
    each = endpoint.law.per_session() if endpoint.law.pattern == "bursty" else 0.0
    return 1 + each * machine.wake_min


def saved_min(offered: tuple[Rates, Rates], *, most_late: float | None) -> float:
    """Return the minutes that can be saved with so many requests late (None: any number)."""
    saved, late = offered
    if most_late is None:
        return float(saved.sum())
    order = np.argsort(late / saved)
    saved, until = saved[order], np.cumsum(late[order])
    whole = int(np.searchsorted(until, most_late, side="right"))
    found = float(saved[:whole].sum())
    if whole < len(saved):
        left = most_late - (float(until[whole - 1]) if whole else 0.0)
        found += float(saved[whole]) * left / float(until[whole] - (until[whole - 1] if whole else 0.0))
    return found
