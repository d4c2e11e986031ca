"""Signals: what the electricity of a Region will emit, hour by hour, from whichever source answers first.

One port, `Provider`: a name, and a forecast from a moment on. `gather` asks the providers in order, takes the first
that answers for the moment, lets the later ones fill what lies beyond its horizon, and tells who decided and why others
did not. Pure but for the providers that ask somebody (`web`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ebb.errors import SignalUnavailableError

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Span:
    """A stretch of time with one intensity, in gCO2e/kWh, and the share of it by which the truth may differ."""

    begins: datetime
    ends: datetime
    g_per_kwh: float
    error: float
    source: str


@dataclass(frozen=True)
class Forecast:
    """Spans without gaps, in order. `tried` says of every provider that was asked what came of it."""

    spans: tuple[Span, ...]
    tried: tuple[dict[str, str], ...] = ()

    @property
    def source(self) -> str:
        """Who decided: the provider of the present moment."""
        return self.spans[0].source

    @property
    def ends(self) -> datetime:
        """Until when anything is known."""
        return self.spans[-1].ends


class Provider(Protocol):
    """Who knows, or claims to know, what electricity will emit."""

    name: str

    def spans(self, region: str, now: datetime, until: datetime) -> Sequence[Span]:
        """Return the spans from `now` on, as far as they are known. Raises: SignalUnavailableError, saying why."""


def gather(providers: Iterable[Provider], region: str, now: datetime, until: datetime) -> Forecast:
    """Return what is known of a Region from `now` until `until`, from the first provider that answers and those after.

    What a later provider fills in is scaled so that both say the same of the time that they share: a yearly average
    goes on at the level that the forecast has, not at its own.
    Raises: SignalUnavailableError when nobody knows the present moment.
    """
    found: list[Span] = []
    tried: list[dict[str, str]] = []
    for provider in providers:
        try:
            spans = whole(provider.spans(region, now, until), now, until)
        except SignalUnavailableError as error:
            tried.append({"signal": provider.name, "outcome": str(error)})
            continue
        if not found:
            found = list(spans)
            tried.append({"signal": provider.name, "outcome": "decided"})
        elif found[-1].ends < spans[-1].ends:
            found += _beyond(found, spans)
            tried.append({"signal": provider.name, "outcome": "fills in what lies beyond"})
        if found[-1].ends >= until:
            break
    if not found:
        told = "; ".join(f"{each['signal']}: {each['outcome']}" for each in tried)
        raise SignalUnavailableError(f"no signal says what electricity in {region} emits ({told})")
    return Forecast(tuple(found), tuple(tried))


def whole(spans: Sequence[Span], now: datetime, until: datetime) -> list[Span]:
    """Return the spans of [now, until), cut to it, as far as they follow each other without a gap.

    Raises: SignalUnavailableError when none holds the present moment.
    """
    kept: list[Span] = []
    for span in sorted(spans, key=lambda each: each.begins):
        if span.ends <= now or span.begins >= until:
            continue
        at = kept[-1].ends if kept else now
        if span.begins > at:
            break
        kept.append(replace(span, begins=at, ends=min(span.ends, until)))
    if not kept:
        raise SignalUnavailableError("it says nothing of the present hour")
    return [span for span in kept if span.begins < span.ends]


def _beyond(found: Sequence[Span], later: Sequence[Span]) -> list[Span]:
    """Return what later spans say after the end of the known ones, at the level of those."""
    end = found[-1].ends
    scale = mean(found, found[0].begins, end)[0] / mean(later, found[0].begins, end)[0]
    return [
        replace(span, begins=max(span.begins, end), g_per_kwh=span.g_per_kwh * scale)
        for span in later
        if span.ends > end
    ]


def mean(spans: Sequence[Span], begins: datetime, ends: datetime) -> tuple[float, float]:
    """Return the mean intensity over a time, in gCO2e/kWh, and the mean of its stated errors, as a share.

        mean = sum(g_per_kwh * seconds of the span within the time) / seconds of the time
    Raises: ValueError when the spans do not hold the whole time.
    """
    total = weighted = spread = 0.0
    for span in spans:
        seconds = (min(span.ends, ends) - max(span.begins, begins)).total_seconds()
        if seconds > 0:
            total += seconds
            weighted += seconds * span.g_per_kwh
            spread += seconds * span.g_per_kwh * span.error
    if total < (ends - begins).total_seconds() - 1 or not total:
        raise ValueError(f"nothing is known of {begins:%d %B %H:%M} to {ends:%d %B %H:%M}")
    return weighted / total, spread / weighted if weighted else 0.0


def hourly(
    points: Iterable[tuple[datetime, datetime, float]], *, source: str, error: Callable[[float], float], now: datetime
) -> list[Span]:
    """Return spans from (begin, end, gCO2e/kWh). `error(hours)` is the stated error so many hours ahead."""
    return [Span(begins, ends, value, error(max(0.0, (begins - now) / HOUR)), source) for begins, ends, value in points]


def moment(text: Any) -> datetime:
    """Return a moment that a signal wrote. Raises: SignalUnavailableError when it is none, or says no time zone."""
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError as error:
        raise SignalUnavailableError(f"{text!r} is no moment") from error
    if found.tzinfo is None:
        raise SignalUnavailableError(f"{text!r} names no time zone")
    return found.astimezone(UTC)


def intensity(value: Any) -> float:
    """Return an intensity that a signal wrote. Raises: SignalUnavailableError when it can be none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 5000:
        raise SignalUnavailableError(f"{value!r} is no intensity in gCO2e/kWh")
    return float(value)
