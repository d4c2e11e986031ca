"""Windows: when a run's costliest stage emits least before its deadline. Pure: forecast and now in, decision out.

Only the costliest stage waits, not the whole run: what comes before it is small, and the data stand ready. The stages
after it follow at once, so that their grams are counted in the window too. Carbon of making the hardware is the same at
any hour and is left out of the comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ebb import names, signals
from ebb.carbon import Band
from ebb.footprint import NOTHING, Footprint
from ebb.signals import HOUR, Forecast

RUN, WAIT = "run", "wait"
SHORTEST_WAIT = timedelta(minutes=5)  # what a shorter one saves is not worth another look
LEAST_GAIN = 0.01  # of the grams; below it a wait is not begun
MOST_LOOKS = 400  # of one run; each is a handful of events, and an execution has 25,000
TOLD = 4  # other windows that the record tells
DECISION_PLACE = 99  # among the decisions of the stage that waits: the last look is the one that stands


@dataclass(frozen=True)
class Load:
    """One stage that the window holds: how long, in s, and how much energy, in kWh."""

    stage: str
    duration_s: Band
    energy_kwh: float


@dataclass(frozen=True)
class Asked:
    """What waits, until when it must be done, and which signal counts. `looks` counts the decisions before this one."""

    loads: tuple[Load, ...]
    deadline: datetime
    looks: int = 0

    @property
    def latest(self) -> datetime:
        """The latest moment to begin, when every stage takes as long as predicted at most."""
        return self.deadline - timedelta(seconds=sum(load.duration_s.high for load in self.loads))


@dataclass(frozen=True)
class Window:
    """A time to begin, the grams that beginning then emits, and the share by which that may be wrong."""

    begins: datetime
    grams: float
    error: float


@dataclass(frozen=True)
class Decision:
    """Whether to run or to wait until `until`, and what that was judged on."""

    action: str
    until: datetime | None
    reason: str
    now: Window | None
    best: Window | None
    others: tuple[Window, ...] = ()
    source: str = ""


def planned(
    predicted: Mapping[str, Mapping[str, Any]], *, created: datetime, within: timedelta | None, signal: str
) -> dict[str, Any] | None:
    """Return what of a run may wait, as its plan holds it; None when the spec names no deadline or nothing is left.

    `predicted` is the plan's, by stage; the costliest is that of most grams, the first among equals.
    """
    stages = [stage for stage in names.STAGES if stage in predicted]
    if within is None or not stages:
        return None
    costliest = max(stages, key=lambda stage: float(predicted[stage]["carbon_g"]["value"]))
    held = stages[stages.index(costliest) :]
    return {
        "stage": costliest,
        "deadline": _iso(created + within),
        "signal": signal,
        "loads": [
            {
                "stage": stage,
                "duration_s": dict(predicted[stage]["duration_s"]),
                "energy_kwh": float(predicted[stage]["energy_kwh"]["value"]),
            }
            for stage in held
        ],
    }


def plan_decision(window: Mapping[str, Any] | None, predicted: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return which stage may wait, and why that one; nothing for a run without a deadline."""
    if window is None:
        return []
    stage, asked = window["stage"], read(window)
    return [
        {
            "what": "what waits for a low-carbon window",
            "chosen": f"{stage}, which begins at {_clock(asked.latest)} at the latest",
            "reason": "carbon.deadline in the spec; it is predicted to emit most of what is to do; the rest follows it",
            "numbers": {
                "deadline": window["deadline"],
                **{f"{name}_g": round(float(each["carbon_g"]["value"]), 4) for name, each in predicted.items()},
            },
            "alternatives": ["the whole run", "nothing, without carbon.deadline"],
            "source": "ebb/windows.py",
        }
    ]


def read(window: Mapping[str, Any], looks: int = 0) -> Asked:
    """Return what a plan's window asks for."""
    loads = tuple(
        Load(each["stage"], Band.of(each["duration_s"]), float(each["energy_kwh"])) for each in window["loads"]
    )
    return Asked(loads, datetime.fromisoformat(window["deadline"].replace("Z", "+00:00")), looks)


def needed_until(asked: Asked, now: datetime) -> datetime:
    """Return until when intensities matter: the end of what begins at the latest moment, or now."""
    begins = max(asked.latest, now)
    return begins + timedelta(seconds=sum(load.duration_s.value for load in asked.loads))


def grams(forecast: Forecast, begins: datetime, loads: Sequence[Load]) -> Window:
    """Return what beginning at a moment emits, operational carbon alone.

        grams = sum over the stages, one after the other, of energy_kwh * mean intensity while it runs
    The error is the grams' mean of the errors that the signal states.
    Raises: ValueError when the forecast does not reach that far.
    """
    at, total, wrong = begins, 0.0, 0.0
    for load in loads:
        ends = at + timedelta(seconds=max(load.duration_s.value, 1.0))
        mean, error = signals.mean(forecast.spans, at, ends)
        total += load.energy_kwh * mean
        wrong += load.energy_kwh * mean * error
        at = ends
    return Window(begins, total, wrong / total if total else 0.0)


def windows(forecast: Forecast, asked: Asked, now: datetime) -> list[Window]:
    """Return the windows that may be chosen: now, and each change of the intensity until the latest beginning."""
    begins = [now, *sorted({span.begins for span in forecast.spans if now < span.begins <= asked.latest})]
    if asked.latest > now and asked.latest not in begins:
        begins.append(asked.latest)
    found = []
    for moment in begins:
        try:
            found.append(grams(forecast, moment, asked.loads))
        except ValueError:  # beyond what is known
            break
    return found


def decide(forecast: Forecast, asked: Asked, now: datetime) -> Decision:
    """Return whether to run now, or until when to wait, and why.

    Never later than the deadline: no window begins after the latest beginning, and none is chosen that the forecast
    does not hold. A window is chosen only when it promises less than running now, so that where the signal keeps the
    error that it states, waiting ends at most that much dearer. A wait is looked at again at each full hour, with what
    is known then: it ends as soon as nothing later promises less; a gain below `LEAST_GAIN` is no reason to begin one.
    """
    source = forecast.source
    choices = windows(forecast, asked, now)
    if not choices:
        return Decision(RUN, None, "what is known does not reach to the end of the stages", None, None, (), source)
    first = choices[0]
    best = min(choices, key=lambda each: (each.grams, each.begins))
    others = tuple(sorted((each for each in choices[1:] if each != best), key=lambda each: each.grams)[:TOLD])

    def run(reason: str) -> Decision:
        return Decision(RUN, None, reason, first, best, others, source)

    if asked.latest - now < SHORTEST_WAIT:
        return run(f"the deadline leaves no time: {_clock(asked.latest)} is the latest beginning")
    if best.begins == now:
        return run("no later window before the deadline emits less")
    gain = 1 - best.grams / first.grams if first.grams else 0.0
    if gain < LEAST_GAIN and not asked.looks:
        return run(f"the best window promises {gain:.1%} less, which is not worth waiting for")
    if best.begins - now < SHORTEST_WAIT and not asked.looks:
        return run("the best window begins in a moment")
    if asked.looks >= MOST_LOOKS:
        return run("it has been looked at often enough")
    until = min(best.begins, _next_boundary(now))
    return Decision(
        WAIT, until, f"from {_clock(best.begins)} on it emits {gain:.0%} less than now", first, best, others, source
    )


def first_look(decision: Decision) -> dict[str, Any] | None:
    """Return what running at the first look would have emitted, which every later look is measured by."""
    now = decision.now
    return {"at": _iso(now.begins), "grams": now.grams, "error": now.error} if now else None


def saving(decision: Decision, asked: Asked, first: Mapping[str, Any] | None) -> Footprint | None:
    """Return what a wait that ends now has saved, for the footprint ledger; None when nothing has waited.

        saved_g = grams of beginning at the first look - grams of beginning now
    Both as the signal tells them at the time, give or take its stated errors; below zero where waiting was dearer.
    """
    now = decision.now
    if decision.action != RUN or not asked.looks or now is None or not first:
        return None
    before, error = float(first["grams"]), float(first.get("error", now.error))
    low = before * (1 - error) - now.grams * (1 + now.error)
    high = before * (1 + error) - now.grams * (1 - now.error)
    return replace(NOTHING, carbon_g=Band(low, before - now.grams, high))


def until(decision: Decision) -> dict[str, str]:
    """Return the moment of the next look, in whole seconds, as a Wait state reads it."""
    if decision.until is None:
        return {}
    return {"until": _iso(decision.until.replace(microsecond=0) + timedelta(seconds=bool(decision.until.microsecond)))}


def noted(decision: Decision, told: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return what the run's own item keeps of it: what waits, for when, and what that is predicted to save."""
    best = decision.best
    waits = decision.action == WAIT and best is not None
    return {
        "stage": stage,
        "state": "waiting" if waits else "begun",
        "begins": _iso(best.begins) if waits and best else None,
        "source": decision.source,
        "saved_g": told["numbers"].get("saved_g"),
    }


def record(
    decision: Decision, asked: Asked, forecast: Forecast, stage: str, first: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the decision as the ledger keeps it. `first` is what the first look found: savings count from there."""
    now, best = decision.now, decision.best
    waits = decision.action == WAIT
    before = float(first["grams"]) if first else (now.grams if now else 0.0)
    numbers: dict[str, Any] = {
        "deadline": _iso(asked.deadline),
        "latest_begin": _iso(asked.latest),
        "looks": asked.looks + 1,
    }
    if now and best:
        chosen = best if waits else now
        numbers |= {
            "grams": round(chosen.grams, 4),
            "grams_at_the_first_look": round(before, 4),
            "saved_g": round(before - chosen.grams, 4),
            "stated_error": round(chosen.error, 3),
        }
    told = [f"now: {_told(now)}"] if waits and now else []
    told += [f"{_clock(each.begins)}: {_told(each)}" for each in decision.others]
    told += [f"{each['signal']}: {each['outcome']}" for each in forecast.tried if each["outcome"] != "decided"]
    when = f"waits for {_clock(best.begins)}" if waits and best else "runs now"
    return {
        "what": f"when {stage} runs",
        "chosen": when,
        "reason": f"{decision.reason}; {decision.source} decided",
        "numbers": numbers,
        "alternatives": told,
        "source": "ebb/windows.py",
    }


def _next_boundary(now: datetime) -> datetime:
    """Return the next full hour: forecasts are of hours, are renewed hourly, and are better the closer the hour."""
    whole = now.replace(minute=0, second=0, microsecond=0) + HOUR
    return whole if whole - now >= SHORTEST_WAIT else whole + HOUR


def _told(window: Window | None) -> str:
    return f"{window.grams:.3g} g (give or take {window.error:.0%})" if window else "not known"


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
