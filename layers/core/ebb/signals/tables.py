"""Signals that need nobody: the yearly table, the hour-of-day profile, and a forecast that somebody wrote down."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ebb import catalog
from ebb.errors import SignalUnavailableError
from ebb.signals import HOUR, Span, hourly, intensity, moment

YEARLY, PROFILE, FILE = "yearly table", "hour-of-day profile", "forecast file"
AVERAGE, MARGINAL = "average", "marginal"
LONGEST_POINT = timedelta(hours=6)  # between two points of a file; what is further apart leaves a gap
MOST_POINTS = 5_000
HOURS_OF_DAY = 24


class Yearly:
    """One number for the whole year: it says how much, and that no hour is known to be better than another."""

    name = YEARLY

    def spans(self, region: str, now: datetime, until: datetime) -> Sequence[Span]:
        """Return one span over the whole time, with the band of the yearly average."""
        value = catalog.grid_g_per_kwh(region)
        return [Span(now, until, value.value, value.high / value.value - 1, self.name)]


class Profile:
    """The yearly table times how the hours of a day differ: by the operator's own file, else where the catalog has it.

    The file is `{"source": "...", "factors": [24 numbers, in UTC, 1 on average]}`.
    """

    name = PROFILE

    def __init__(self, document: Mapping[str, Any] | None = None):
        self._document = document

    def spans(self, region: str, now: datetime, until: datetime) -> Sequence[Span]:
        """Return one span for each hour. Raises: SignalUnavailableError where no profile is known."""
        known = catalog.hours_of_day(region) if self._document is None else _factors(self._document)
        if known is None:
            raise SignalUnavailableError(f"no profile of {region} is in the catalog")
        value, at = catalog.grid_g_per_kwh(region).value, now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        count = int((until - at) / HOUR) + 1
        hours = [at + HOUR * number for number in range(count)]
        error = catalog.signal_error(PROFILE)
        points = [(hour, hour + HOUR, value * known[hour.hour]) for hour in hours]
        return hourly(points, source=self.name, error=error, now=now)


class ForecastFile:
    """A forecast that an operator, or a job of theirs, has put into the artifact bucket.

    `{"signal": "average", "source": "...", "error": 0.1, "points": [{"from": ..., "to": ..., "g_per_kwh": 120}]}`;
    `error` is the share by which the truth may differ, `to` is the next point's `from` unless it is there.
    """

    name = FILE

    def __init__(self, document: Mapping[str, Any] | None, signal: str = AVERAGE):
        self._document, self._signal = document, signal

    def spans(self, region: str, now: datetime, until: datetime) -> Sequence[Span]:
        """Return what the file says. Raises: SignalUnavailableError when there is none, or it is of no use."""
        given = self._document
        if given is None:
            raise SignalUnavailableError("there is no such file")
        if given.get("signal", AVERAGE) != self._signal:
            raise SignalUnavailableError(f"it is of the {given['signal']} signal, and {self._signal} was asked for")
        points = given.get("points")
        if not isinstance(points, list) or not points or len(points) > MOST_POINTS:
            raise SignalUnavailableError(f"it has no points, or more than {MOST_POINTS}")
        read = [_point(each) for each in points]
        ends = [end or (read[place + 1][0] if place + 1 < len(read) else begin + HOUR)
                for place, (begin, end, _) in enumerate(read)]  # fmt: skip
        stated = given.get("error")
        error = catalog.signal_error(FILE) if stated is None else (lambda hours: _share(stated))
        timed = [
            (begin, min(end, begin + LONGEST_POINT), value)
            for (begin, _, value), end in zip(read, ends, strict=True)
            if end > begin
        ]
        return hourly(timed, source=f"{self.name} ({given.get('source', 'no source told')})", error=error, now=now)


def _point(given: Any) -> tuple[datetime, datetime | None, float]:
    if not isinstance(given, Mapping) or "from" not in given:
        raise SignalUnavailableError("a point needs from and g_per_kwh")
    end = given.get("to")
    return moment(given["from"]), moment(end) if end else None, intensity(given.get("g_per_kwh"))


def _factors(document: Mapping[str, Any]) -> tuple[float, ...]:
    given = document.get("factors")
    if not isinstance(given, list) or len(given) != HOURS_OF_DAY:
        raise SignalUnavailableError(f"its factors are not {HOURS_OF_DAY} numbers")
    factors = [intensity(each) for each in given]
    mean = sum(factors) / HOURS_OF_DAY
    if not mean:
        raise SignalUnavailableError("its factors are all 0")
    return tuple(each / mean for each in factors)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise SignalUnavailableError(f"{value!r} is no error, which is a share from 0 to below 1")
    return float(value)
