"""Traffic of a fleet of endpoints: generated with published statistics, or read from a user's file.

The generator is seeded and draws, endpoint by endpoint:

1.  How often it is called, from the distribution that Shahrad et al. measured for all applications of Azure Functions
    in July 2019: 45 % at most once an hour on average, 81 % at most once a minute, the 18.6 % above that make 99.6 % of
    the calls. Between those points the rates are log-uniform; the highest follows from the 99.6 %.
    Source: Serverless in the Wild, USENIX ATC 2020, section 3.3, figure 5.
    https://www.usenix.org/conference/atc20/presentation/shahrad
2.  Its pattern (assumed shares, PATTERNS): timers (13 % of the paper's applications have timers only, section 3.2),
    office hours with weekends, holidays and a drift of their hours, around-the-clock with a diurnal wave (the paper's
    constant base of about half of the calls, figure 4), bursts, independent calls, and dead endpoints.
3.  Its machine, and whether its owner forbids cold starts (assumed shares, MACHINES and FORBIDS): who is called often
    forbids them more often. `forbids="evenly"` draws the latter without regard to the rate, for comparison.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ebb.keep_alive_habits import ColdStart
from ebb_cli.problems import USAGE, CommandError

DAY, WEEK, YEAR = 24 * 60, 7 * 24 * 60, 365 * 24 * 60  # minutes
START = 29_378_880 - 29_378_880 % DAY  # 2025-11-10 00:00 UTC, a Monday, in minutes from 1970

RARE_SHARE, SELDOM_SHARE, BUSY_CALLS_SHARE = 0.45, 0.81, 0.996
LOWEST_PER_DAY, HOURLY_PER_DAY, MINUTELY_PER_DAY = 0.05, 24.0, 1440.0
Rate = Literal["rare", "seldom", "busy"]

# Assumed, but for the timers: together they are 13 % of all, as in the paper.
PATTERNS: dict[Rate, dict[str, float]] = {
    "rare": {"timer": 0.18, "dead": 0.22, "bursty": 0.25, "independent": 0.20, "office": 0.15},
    "seldom": {"timer": 0.14, "office": 0.38, "bursty": 0.28, "independent": 0.10, "around-the-clock": 0.10},
    "busy": {"office": 0.30, "around-the-clock": 0.70},
}
# Assumed: small endpoints, a quarter on GPUs.
MACHINES = {
    "ml.m5.large": 0.40,
    "ml.m5.xlarge": 0.20,
    "ml.c5.xlarge": 0.15,
    "ml.g4dn.xlarge": 0.15,
    "ml.g5.xlarge": 0.10,
}
FORBIDS: dict[Rate, float] = {"rare": 0.05, "seldom": 0.20, "busy": 0.60}  # assumed
FORBIDS_EVENLY = 0.20
PERIODS_MIN = (5, 10, 15, 20, 30, 60, 120, 240, 360, 720, DAY, WEEK)  # of timers
DEFAULT_MACHINE = "ml.m5.large"

Minutes = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Law:
    """By what an endpoint's calls were drawn: what `informed` knows, and no policy does."""

    pattern: str
    per_day: float  # calls
    length: int  # minutes
    chance: np.random.Generator  # as it was before the calls were drawn

    def starts_per_minute(self) -> np.ndarray[Any, Any]:
        """Return how many calls are expected in each minute: of bursts, how many sessions."""
        return _RATES[self.pattern](deepcopy(self.chance), self.per_day, self.length)

    def per_session(self) -> float:
        """Return the calls a minute while a session of bursts lasts."""
        return _in_session(deepcopy(self.chance))

    def period_min(self) -> int:
        """Return the distance of a timer's calls."""
        return _period(self.per_day)


@dataclass(frozen=True)
class Endpoint:
    """One endpoint with its calls: the minutes in which it was called, from 1970, sorted, and how often in each."""

    name: str
    minutes: Minutes
    counts: Minutes
    machine: str = DEFAULT_MACHINE
    cold_start: ColdStart = "allowed"
    pattern: str = "recorded"
    law: Law | None = None  # by which it was generated

    @property
    def requests(self) -> int:
        """Return how often it was called."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class Fleet:
    """Endpoints and the time [start, end) in which they exist, in minutes from 1970."""

    endpoints: tuple[Endpoint, ...]
    start: int
    end: int
    name: str

    @property
    def minutes(self) -> int:
        """Return how long they exist."""
        return self.end - self.start


def generate(
    seed: int, *, endpoints: int = 200, days: int = 365, forbids: Literal["by rate", "evenly"] = "by rate"
) -> Fleet:
    """Return a fleet drawn with a seed: the same for the same arguments, whatever was drawn before."""
    drawn = [
        _endpoint(np.random.default_rng([seed, number]), number, rate, days * DAY, forbids)
        for number, rate in enumerate(rates_per_day(seed, endpoints))
    ]
    return Fleet(tuple(drawn), START, START + days * DAY, f"generated with seed {seed}")


def rates_per_day(seed: int, endpoints: int) -> list[float]:
    """Return how often each endpoint is called a day, drawn in equal steps of the distribution, so that shares hold."""
    chance = np.random.default_rng([seed, 1_000_003])
    highest = _highest_per_day()
    points = [0.0, RARE_SHARE, SELDOM_SHARE, 1.0]
    logs = np.log([LOWEST_PER_DAY, HOURLY_PER_DAY, MINUTELY_PER_DAY, highest])
    quantiles = (np.arange(endpoints) + chance.random(endpoints)) / endpoints
    return [float(rate) for rate in np.exp(np.interp(quantiles, points, logs))]


def _highest_per_day() -> float:
    """Return the rate at which the busy endpoints make BUSY_CALLS_SHARE of the calls.

    Log-uniform rates from a to b have the mean (b - a) / ln(b / a).
    """

    def mean(low: float, high: float) -> float:
        return (high - low) / math.log(high / low)

    others = RARE_SHARE * mean(LOWEST_PER_DAY, HOURLY_PER_DAY)
    others += (SELDOM_SHARE - RARE_SHARE) * mean(HOURLY_PER_DAY, MINUTELY_PER_DAY)
    wanted = others * BUSY_CALLS_SHARE / (1 - BUSY_CALLS_SHARE) / (1 - SELDOM_SHARE)
    low, high = 2 * MINUTELY_PER_DAY, 1e9
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean(MINUTELY_PER_DAY, middle) < wanted else (low, middle)
    return high


def _endpoint(chance: np.random.Generator, number: int, per_day: float, length: int, forbids: str) -> Endpoint:
    rate: Rate = "rare" if per_day <= HOURLY_PER_DAY else "seldom" if per_day <= MINUTELY_PER_DAY else "busy"
    pattern = _draw(chance, PATTERNS[rate])
    machine = _draw(chance, MACHINES)
    avoid = chance.random() < (FORBIDS[rate] if forbids == "by rate" else FORBIDS_EVENLY)
    law = Law(pattern, per_day, length, deepcopy(chance))
    minutes, counts = _DRAWN[pattern](chance, per_day, length)
    return Endpoint(
        f"{pattern}-{number:03d}",
        minutes + START,
        counts,
        machine,
        "avoid" if avoid else "allowed",
        pattern,
        law,
    )


def _draw(chance: np.random.Generator, shares: dict[Any, float]) -> Any:
    names = list(shares)
    return names[int(chance.choice(len(names), p=np.array(list(shares.values()))))]


def _poisson(chance: np.random.Generator, per_minute: np.ndarray[Any, Any]) -> tuple[Minutes, Minutes]:
    """Return independent calls at a rate that changes from minute to minute."""
    expected = float(per_minute.sum())
    if expected > len(per_minute) / 4:
        counts = np.asarray(chance.poisson(per_minute))
        minutes = np.flatnonzero(counts)
        return minutes.astype(np.int64), counts[minutes].astype(np.int64)
    until = np.cumsum(per_minute)
    calls = chance.poisson(expected)
    at = np.searchsorted(until, chance.random(calls) * until[-1], side="right")
    return _counted(np.minimum(at, len(per_minute) - 1))


def _counted(calls: np.ndarray[Any, Any]) -> tuple[Minutes, Minutes]:
    minutes, counts = np.unique(calls.astype(np.int64), return_counts=True)
    return minutes, counts.astype(np.int64)


def _independent_rate(chance: np.random.Generator, per_day: float, length: int) -> np.ndarray[Any, Any]:
    return np.full(length, per_day / DAY)


def _independent(chance: np.random.Generator, per_day: float, length: int) -> tuple[Minutes, Minutes]:
    return _poisson(chance, _independent_rate(chance, per_day, length))


def _office_rate(chance: np.random.Generator, per_day: float, length: int) -> np.ndarray[Any, Any]:
    return _scaled(_office_weights(chance, length), per_day * (length / DAY))


def _scaled(weights: np.ndarray[Any, Any], total: float) -> np.ndarray[Any, Any]:
    scaled: np.ndarray[Any, Any] = weights * (total / weights.sum())
    return scaled


def _office(chance: np.random.Generator, per_day: float, length: int) -> tuple[Minutes, Minutes]:
    return _poisson(chance, _office_rate(chance, per_day, length))


def _office_weights(chance: np.random.Generator, length: int) -> np.ndarray[Any, Any]:
    """Return how busy each minute is: the hours and weekends of one office, two holidays, hours that move once."""
    opens = chance.uniform(0, DAY)  # offices are in every time zone
    lasts = chance.uniform(7, 12) * 60
    night = chance.choice([0.0, 0.0, 0.01, 0.05])  # of the busiest rate
    weekend = chance.choice([0.0, 0.05, 0.3])
    minute = np.arange(length)
    moves_at = chance.integers(length) if chance.random() < 0.5 else length
    opening = opens + np.where(minute >= moves_at, chance.uniform(-90, 90), 0.0)
    hour = (minute - opening) % DAY
    edge = 45.0  # minutes in which people come and go
    open_now = np.clip(np.minimum(hour, lasts - hour) / edge, 0, 1)
    lunch = 1 - 0.4 * np.exp(-(((hour - lasts / 2) / 40) ** 2))
    weekday = ((minute - opening) // DAY) % 7
    level = np.maximum(night, open_now * lunch * np.where(weekday >= 5, weekend, 1.0))
    for first in chance.integers(0, length, 2):
        level[first : first + 7 * DAY] *= 0.1
    return np.maximum(level, 0.0) + 1e-12


def _around_the_clock_rate(chance: np.random.Generator, per_day: float, length: int) -> np.ndarray[Any, Any]:
    minute = np.arange(length)
    depth = chance.uniform(0.2, 0.5)  # half of the paper's calls do not vary with the hour
    wave = 1 + depth * np.sin(2 * np.pi * (minute / DAY + chance.random()))
    week = np.where((minute // DAY) % 7 >= 5, chance.uniform(0.6, 1.0), 1.0)
    return _scaled(wave * week, per_day * (length / DAY))


def _around_the_clock(chance: np.random.Generator, per_day: float, length: int) -> tuple[Minutes, Minutes]:
    return _poisson(chance, _around_the_clock_rate(chance, per_day, length))


def _bursty(chance: np.random.Generator, per_day: float, length: int) -> tuple[Minutes, Minutes]:
    """Return sessions of 20 minutes in the median, in which calls come often; half of the endpoints at office hours."""
    in_session = _in_session(chance)
    sessions = max(1, int(chance.poisson(_sessions(in_session, per_day, length))))
    until = np.cumsum(_session_weights(chance, length))
    starts = np.searchsorted(until, chance.random(sessions) * until[-1], side="right")
    lasts = chance.lognormal(math.log(SESSION_MIN), SESSION_SPREAD, sessions)
    calls = np.asarray(chance.poisson(in_session * lasts))
    at = np.repeat(starts, calls) + (chance.random(int(calls.sum())) * np.repeat(lasts, calls)).astype(np.int64)
    return _counted(at[at < length])


SESSION_MIN, SESSION_SPREAD = 20.0, 0.8  # median and spread of a log-normal length


def _in_session(chance: np.random.Generator) -> float:
    return float(np.exp(chance.uniform(np.log(0.5), np.log(6.0))))  # calls a minute


def _sessions(in_session: float, per_day: float, length: int) -> float:
    return per_day * length / DAY / (in_session * SESSION_MIN * math.exp(SESSION_SPREAD**2 / 2))


def _session_weights(chance: np.random.Generator, length: int) -> np.ndarray[Any, Any]:
    return _office_weights(chance, length) if chance.random() < 0.5 else np.ones(length)


def _session_rate(chance: np.random.Generator, per_day: float, length: int) -> np.ndarray[Any, Any]:
    sessions = _sessions(_in_session(chance), per_day, length)
    chance.poisson(sessions)  # drawn before the weights
    return _scaled(_session_weights(chance, length), sessions)


def _period(per_day: float) -> int:
    return min(PERIODS_MIN, key=lambda period: abs(math.log(per_day * period / DAY)))


def _timer(chance: np.random.Generator, per_day: float, length: int) -> tuple[Minutes, Minutes]:
    """Return calls at a steady distance, a minute of jitter, one in a thousand left out; a few on weekdays only."""
    period = _period(per_day)
    at = np.arange(chance.integers(period), length, period)
    at = at[chance.random(len(at)) >= 0.001]
    at = at + chance.integers(0, 2, len(at))
    if period >= 60 and chance.random() < 0.25:
        at = at[(at // DAY) % 7 < 5]
    return _counted(at[at < length])


def _dead(chance: np.random.Generator, per_day: float, length: int) -> tuple[Minutes, Minutes]:
    """Return calls until nobody needs it any more, a day to four months after its birth; a third had none."""
    alive = _alive(chance, length)
    return _independent(chance, per_day, alive) if alive else _counted(np.array([], dtype=np.int64))


def _alive(chance: np.random.Generator, length: int) -> int:
    if chance.random() < 1 / 3:
        return 0
    return min(int(np.exp(chance.uniform(np.log(DAY), np.log(120 * DAY)))), length)


def _dead_rate(chance: np.random.Generator, per_day: float, length: int) -> np.ndarray[Any, Any]:
    return np.where(np.arange(length) < _alive(chance, length), per_day / DAY, 0.0)


_DRAWN = {
    "independent": _independent,
    "office": _office,
    "around-the-clock": _around_the_clock,
    "bursty": _bursty,
    "timer": _timer,
    "dead": _dead,
}
_RATES = {
    "independent": _independent_rate,
    "office": _office_rate,
    "around-the-clock": _around_the_clock_rate,
    "bursty": _session_rate,
    "dead": _dead_rate,
}


COLUMNS = ("timestamp", "endpoint", "count")


def read(path: Path, *, machine: str = DEFAULT_MACHINE, cold_start: ColdStart = "allowed") -> Fleet:
    """Return the fleet of a user's file: CSV with a header of timestamp, endpoint and count, in any order.

    `timestamp` is ISO 8601 (UTC without an offset) or seconds from 1970; `count` a whole number. Two more columns are
    optional: instance_type and cold_start (allowed or avoid), which otherwise hold for all as given.
    Raises: CommandError that names the line and the column of what cannot be read.
    """
    calls: dict[str, dict[int, int]] = {}
    told: dict[str, tuple[str, ColdStart]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, row in _rows(path, csv.reader(file)):
                minute = _timestamp(path, line, row["timestamp"])
                name = row["endpoint"].strip()
                if not name:
                    raise _wrong(path, line, "endpoint", "is empty")
                count = _count(path, line, row["count"])
                minutes = calls.setdefault(name, {})
                minutes[minute] = minutes.get(minute, 0) + count
                kept = told.get(name, (machine, cold_start))
                told[name] = (
                    row.get("instance_type", "").strip() or kept[0],
                    _cold_start(path, line, row.get("cold_start", ""), kept[1]),
                )
    except UnicodeDecodeError as problem:
        raise CommandError(
            f"{path}: byte {problem.start}: not UTF-8", "Save it as CSV in UTF-8.", status=USAGE
        ) from None
    if not calls:
        raise CommandError(f"{path}: line 2: no data", "Give at least one line below the header.", status=USAGE)
    first = min(minute for minutes in calls.values() for minute in minutes)
    last = max(minute for minutes in calls.values() for minute in minutes)
    start = first - first % DAY
    return Fleet(tuple(_recorded(name, calls[name], *told[name]) for name in sorted(calls)), start, last + 1, path.name)


def _recorded(name: str, calls: dict[int, int], machine: str, cold_start: ColdStart) -> Endpoint:
    minutes = np.array(sorted(minute for minute, count in calls.items() if count), dtype=np.int64)
    counts = np.array([calls[minute] for minute in minutes.tolist()], dtype=np.int64)
    return Endpoint(name, minutes, counts, machine, cold_start)


def _rows(path: Path, reader: Any) -> Iterator[tuple[int, dict[str, str]]]:
    header: Sequence[str] = next(reader, [])
    names = [name.strip().lower() for name in header]
    for column in COLUMNS:
        if column not in names:
            found = ", ".join(header) or "nothing"
            raise _wrong(path, 1, column, f"is missing; the header holds {found}")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            short = names[len(cells)] if len(cells) < len(names) else names[-1]
            raise _wrong(path, reader.line_num, short, f"{len(cells)} cells where the header has {len(names)}")
        yield reader.line_num, dict(zip(names, cells, strict=True))


def _timestamp(path: Path, line: int, text: str) -> int:
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            told = f"{text!r} is no moment: write 2026-11-23T10:15:00Z or seconds from 1970"
            raise _wrong(path, line, "timestamp", told) from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < 4_102_444_800:  # 2100: milliseconds, most likely
        raise _wrong(path, line, "timestamp", f"{text!r} is not between 1970 and 2100: seconds, not milliseconds")
    return int(seconds // 60)


def _count(path: Path, line: int, text: str) -> int:
    try:
        count = float(text)
    except ValueError:
        count = -1.0
    if not (0 <= count < 1e15) or count != int(count):
        raise _wrong(path, line, "count", f"{text.strip()!r} is no whole number from 0")
    return int(count)


def _cold_start(path: Path, line: int, text: str, otherwise: ColdStart) -> ColdStart:
    match text.strip().lower():
        case "":
            return otherwise
        case "allowed":
            return "allowed"
        case "avoid":
            return "avoid"
    raise _wrong(path, line, "cold_start", f"{text.strip()!r} is neither allowed nor avoid")


def _wrong(path: Path, line: int, column: str, what: str) -> CommandError:
    return CommandError(
        f"{path}: line {line}, column {column}: {what}",
        "The columns are timestamp, endpoint, count; optional: instance_type, cold_start.",
        status=USAGE,
    )
