"""Grids to replay, and forecasts of them: two recorded traces, one made up from published figures.

A grid is `actual`, hourly gCO2/kWh, and `forecast`, of shape (hours, HORIZON): row t is what was known at hour t of the
hours t, t + 1, ... Forecasts of the recorded grids are learned from their own past, so that their errors are real ones:
no weather is known to them. The third has both from the record of the British operator's forecasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HORIZON = 56  # hours: the longest deadline and the longest stage's end
TRACES = Path(__file__).with_name("traces")
# Great Britain, from the operator's forecasts as they were published 2023 to 2026, 0 to 48 h ahead: mean absolute error
# of 1,305,616 of them 24.24 gCO2/kWh, its deviation 19.51 (https://github.com/nmpowell/carbon-intensity-forecast-tracking,
# README, "All data"; data NESO, CC BY 4.0). sqrt(24.24^2 + 19.51^2) = 31.1 is the deviation of the error itself.
GB_ERROR_G = 31.1
GB_MEAN_G = 140.0  # 24.24 g is 17 % of it, as in the daily tables of the same page
GB_SPREAD_G = 62.0  # of the hours around the mean; assumed
GB_HOURS = 3 * 8760
LEADS = (1, 3, 6, 12, 24, 48)  # hours ahead from which on a part of the weather is known


@dataclass(frozen=True)
class Grid:
    """A grid's hours, what was forecast of them, and where both are from."""

    name: str
    about: str
    actual: Any
    forecast: Any
    stated: Any  # by lead: within which share of the forecast 95 % of the hours of the past lay

    def scaled(self, share: float) -> Any:
        """Return the forecasts with their errors taken by a share: 0 is the truth, 1 what was forecast."""
        truth = ahead(self.actual, len(self.forecast))
        return truth + share * (self.forecast - truth)


def ahead(actual: Any, count: int) -> Any:
    """Return the truth of the next HORIZON hours, for each of the first `count` hours."""
    return np.lib.stride_tricks.sliding_window_view(actual, HORIZON)[:count]


def recorded(name: str, about: str) -> Grid:
    """Return a recorded grid: the first half of the record teaches the forecaster, the second is replayed."""
    whole = np.loadtxt(TRACES / f"{name}.csv", comments="#")
    known = whole > 0
    whole = np.interp(np.arange(len(whole)), np.flatnonzero(known), whole[known])
    middle = len(whole) // 2
    weights = [_learned(whole, lead, middle) for lead in range(HORIZON)]
    of_past = _forecasts(whole, weights, 400, middle - HORIZON)
    replayed = _forecasts(whole, weights, middle, len(whole) - HORIZON)
    error = np.abs(ahead(whole[400:], len(of_past)) / np.maximum(of_past, 1) - 1)
    return Grid(name, about, whole[middle:], np.maximum(replayed, 1), np.quantile(error, 0.95, axis=0))


def _features(whole: Any, hours: Any, lead: int) -> Any:
    """Return what is known at each hour of the one `lead` later: the last day, the same hour before, the season."""
    sums, then, days = np.concatenate([[0], np.cumsum(whole)]), hours + lead, lead // 24 + 1
    day, year = 2 * np.pi * (then % 24) / 24, 2 * np.pi * then / 8760
    recent = [whole[hours - back] for back in (1, 2, 3, 4, 6, 8, 12, 18, 24)]
    means = [(sums[hours] - sums[hours - span]) / span for span in (24, 168)]
    same = [whole[then - 24 * days], whole[then - 24 * (days + 1)], whole[then - 168]]
    season = [np.sin(day), np.cos(day), np.sin(2 * day), np.cos(2 * day), np.sin(year), np.cos(year)]
    both = [one * other for one in season[:2] for other in season[4:]]
    return np.stack([*recent, *means, *same, *season, *both, np.ones(len(hours))], axis=1)


def _learned(whole: Any, lead: int, until: int) -> Any:
    hours = np.arange(400, until - lead)
    seen = _features(whole, hours, lead)
    return np.linalg.solve(seen.T @ seen + 1e-3 * len(hours) * np.eye(seen.shape[1]), seen.T @ whole[hours + lead])


def _forecasts(whole: Any, weights: list[Any], first: int, last: int) -> Any:
    hours = np.arange(first, last)
    return np.stack([_features(whole, hours, lead) @ weight for lead, weight in enumerate(weights)], axis=1)


def great_britain(seed: int = 7) -> Grid:
    """Return hours like those of Great Britain, and forecasts whose errors are as large as its operator's.

    The intensity is a daily wave plus a sum of slow random parts, each known from so many hours ahead on and unknown
    before: so forecasts get better as the hour comes, never contradict themselves, and are right on average.
    """
    rng, hours = np.random.default_rng(seed), np.arange(GB_HOURS)
    # low at night, high in the evening, as the forecasts of that record are; the depth is assumed
    wave = 14 * np.sin(2 * np.pi * (hours - 11) / 24) + 10 * np.sin(4 * np.pi * (hours - 15) / 24)
    shares = np.diff(np.sqrt(np.array([0, *LEADS]) / LEADS[-1]))  # of the error's variance, learned within each step
    within = np.array([np.mean(np.arange(1, 49) > lead) for lead in (0, *LEADS[:-1])])  # leads at which it is unknown
    scale = GB_ERROR_G**2 / float(shares @ within)
    parts = [_slow(rng, 12.0, np.sqrt(scale * share)) for share in shares]
    rest = max(GB_SPREAD_G**2 - float(np.var(wave)) - scale, 0.0)
    known = GB_MEAN_G + wave + _slow(rng, 36.0, np.sqrt(rest))
    actual = np.maximum(known + sum(parts), 15.0)
    count = GB_HOURS - HORIZON
    forecast = ahead(known, count).copy()
    for first, part in zip((0, *LEADS[:-1]), parts, strict=True):
        # the part that makes up the error from `first` hours on is known nearer than that
        if first:
            forecast[:, :first] += ahead(part, count)[:, :first]
    forecast = np.maximum(forecast, 15.0)
    error = np.abs(ahead(actual, count) / forecast - 1)
    return Grid(
        "like Great Britain", "made up: mean and error of the forecast as in NESO's record, 2023 to 2026", actual,
        forecast, np.quantile(error[: count // 2], 0.95, axis=0),
    )  # fmt: skip


def _slow(rng: Any, hours: float, spread: float) -> Any:
    """Return a random course that forgets itself within so many hours."""
    keep = float(np.exp(-1 / hours))
    steps = rng.normal(size=GB_HOURS) * spread * np.sqrt(1 - keep**2)
    course = np.empty(GB_HOURS)
    course[0] = rng.normal() * spread
    for place in range(1, GB_HOURS):
        course[place] = keep * course[place - 1] + steps[place]
    return course


def grids() -> list[Grid]:
    """Return all grids."""
    return [
        recorded("california", "recorded: CityLearn Challenge 2022; forecast learned from its own past, no weather"),
        recorded("texas", "recorded: CityLearn Challenge 2021; forecast learned from its own past, no weather"),
        great_britain(),
    ]
