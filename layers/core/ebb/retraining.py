"""Retraining: whether a served model is left alone, calibrated anew, trained on or trained afresh. Pure.

What `assess` found (drift, the loss it implies, what could be learned from the newest rows) is weighed against what a
training is predicted to take (`ebb.price`). The rules, in order; the first that applies decides, and says so:

1. No label is newer than the model: skip. The same rows give the same model, whatever the drift.
2. Classes that the model does not know, beyond chance: full.
3. Too few labelled rows, or neither a loss beyond chance nor anything to learn: skip.
4. A loss, but nothing to learn from the rows beyond chance: skip. They have become harder, not different.
5. A new calibration brings nearly all that learning would: recalibrate.
6. The gain, over the calls that are expected while the next model holds, is dearer than `retrain.worth`: skip, or
   recalibrate where that gains beyond chance.
7. The weights of the served model are no start, or more than half of what it knew is lost: full; else incremental.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ebb import figures
from ebb.footprint import Footprint

Outcome = Literal["skip", "recalibrate", "incremental", "full"]
SKIP: Final = "skip"
RECALIBRATE: Final = "recalibrate"
INCREMENTAL: Final = "incremental"
FULL: Final = "full"

LEAST_ROWS = 60
"""Labelled rows below which nothing is learned from them; as `ebb_jobs.probe.LEAST_ROWS`."""
NEARLY_ALL = 0.8
"""Of the gain of learning: a calibration that brings as much is enough. It costs no training."""
LOST = 0.5
"""Of what the model was better than guessing: where more is lost, its weights know another world."""
UNKNOWN_SHARE = 0.01
LEAST_UNKNOWN = 10
"""Rows of unknown classes, and their share, from which on they are no slips of the keyboard."""
HOLDS_DAYS = (7.0, 30.0, 90.0)
"""Days that a model is expected to hold: at least, where it is not known, at most. As long as the one before held."""
NO_CLASSES = ("rmse", "mae", "r2")


@dataclass(frozen=True)
class Price:
    """What a training is predicted to take, and what that rests on."""

    footprint: Footprint
    basis: str


@dataclass(frozen=True)
class Evidence:
    """Everything that is weighed."""

    found: Mapping[str, Any]
    """The report of `assess`: drift, implied, labels, warm, why."""
    new_rows: bool
    """Whether sources were accepted that the served model has not learned from."""
    prices: Mapping[str, Price]
    """Of `incremental` and `full`."""
    calls_per_day: float
    calls_basis: str
    held_days: float | None
    """Days that the served model has been served."""
    worth_g: float
    """gCO2e that one wrong answer less may take (for numbers: one answer's error less)."""
    classes: int | None = None


@dataclass(frozen=True)
class Decision:
    """What is done, why, and on which numbers."""

    outcome: Outcome
    reason: str
    numbers: Mapping[str, Any]
    alternatives: tuple[str, ...] = ()
    changes: str = ""
    """What would have changed it."""

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as the ledger and the events hold it."""
        return {
            "what": "retraining",
            "chosen": self.outcome,
            "reason": self.reason,
            "numbers": dict(self.numbers),
            "alternatives": list(self.alternatives),
            "changes": self.changes,
        }


@dataclass(frozen=True)
class _Gain:
    """What a remedy gains, in points of a score or as a share of an error."""

    low: float = 0.0
    value: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> "_Gain":
        return cls(**{name: float(found[name]) for name in ("low", "value", "high")}) if found else cls()

    @property
    def beyond_chance(self) -> bool:
        return self.low > 0


@dataclass(frozen=True)
class _Weighed:
    """A training's price against the answers it mends."""

    mode: Outcome
    gain: _Gain
    mended: float
    price: Price
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def per_answer_g(self) -> float:
        return self.price.footprint.carbon_g.value / self.mended if self.mended > 0 else float("inf")


def decide(seen: Evidence) -> Decision:
    """Return the outcome with its reason in words that an operator can read; see the module for the rules."""
    labels = seen.found.get("labels")
    drifted = _drift_told(seen.found)
    numbers = _numbers(seen)
    if not seen.new_rows or not labels:
        why = "no row was labelled since the served model learned" if not seen.new_rows else _why(seen, "labels")
        return Decision(
            SKIP,
            f"{why}, and the same rows give the same model; {drifted}",
            numbers,
            changes="labelled rows, dropped below data/ with retrain.drops: assess"
            + (f"; {_implied_told(seen.found)}" if seen.found.get("implied") else ""),
        )
    rows, unknown = int(labels["rows"]), int(labels["unknown"])
    full = _weighed(seen, FULL, _Gain.of((labels.get("gains") or {}).get("learned")))
    if unknown >= LEAST_UNKNOWN and unknown >= UNKNOWN_SHARE * rows:
        share = unknown / rows
        new = _weighed(seen, FULL, _Gain(share, share, share))
        told = (
            f"{unknown} of {rows} newest rows ({share:.1%}) are of classes that the served model cannot answer: "
            f"{', '.join(labels['unknown_classes'][:5])}"
        )
        if new.per_answer_g > seen.worth_g:
            return _too_dear(seen, new, told, _Gain(), numbers)
        return Decision(
            FULL,
            f"{told}; {_price_told(new)}",
            numbers,
            (f"{INCREMENTAL}: its weights have no place for them",),
            changes=f"fewer than {LEAST_UNKNOWN} such rows, or than {UNKNOWN_SHARE:.0%} of all",
        )
    gains = labels.get("gains") or {}
    learned, recalibrated = _Gain.of(gains.get("learned")), _Gain.of(gains.get("recalibrated"))
    loss = _Gain.of(labels.get("loss"))
    worse = _loss_told(labels)
    if rows < LEAST_ROWS or gains.get("learned") is None:
        return Decision(
            SKIP,
            f"{rows} newest labelled rows are too few to tell chance from change ({LEAST_ROWS} are needed); {drifted}",
            numbers,
            changes=f"{max(1, LEAST_ROWS - rows)} more labelled rows",
        )
    if not learned.beyond_chance and not recalibrated.beyond_chance:
        if loss.beyond_chance:
            return Decision(
                SKIP,
                f"{worse}, beyond chance, but models fitted to the newest {rows} rows gain nothing beyond chance "
                f"({_band(learned)}): the rows have become harder, not different; {drifted}",
                numbers,
                changes="more labelled rows, or columns that tell the hard rows apart",
            )
        return Decision(
            SKIP,
            f"{worse}, within chance, and nothing is there to learn beyond chance ({_band(learned)}); {drifted}",
            numbers,
            changes="a loss, or something to learn, that is beyond chance",
        )
    beyond = _Gain.of(gains.get("beyond_calibration")).beyond_chance
    if recalibrated.beyond_chance and not beyond and recalibrated.value >= NEARLY_ALL * learned.value:
        return Decision(
            RECALIBRATE,
            f"{worse}; a new calibration gains {_band(recalibrated)} of the {_band(learned)} that learning would, "
            "without any training",
            numbers,
            (f"{FULL}: {_price_told(full)}",),
            changes=f"a calibration that gains less than {NEARLY_ALL:.0%} of what learning does",
        )
    if not learned.beyond_chance:
        return Decision(
            RECALIBRATE,
            f"{worse}; a new calibration gains {_band(recalibrated)}, learning nothing beyond chance",
            numbers,
            (f"{FULL}: {_price_told(full)}",),
            changes="something to learn beyond chance",
        )
    mode, why_mode = _mode(seen, labels, loss)
    weighed = _weighed(seen, mode, learned)
    told = f"{worse}; learning from the newest {rows} rows gains {_band(learned)}"
    if weighed.per_answer_g > seen.worth_g:
        return _too_dear(seen, weighed, told, recalibrated, numbers)
    other: Outcome = FULL if mode == INCREMENTAL else INCREMENTAL
    return Decision(
        mode,
        f"{told}; {_price_told(weighed)}; {why_mode}; {drifted}",
        {**numbers, **weighed.numbers},
        (
            f"{SKIP}: at most {seen.worth_g:g} gCO2e may be spent for a wrong answer less (retrain.worth)",
            *((f"{other}: {_price_told(_weighed(seen, other, learned))}",) if other in seen.prices else ()),
        ),
        changes=f"fewer than {_number(weighed.mended * weighed.per_answer_g / max(seen.worth_g, 1e-12))} "
        "answers mended, or a price above retrain.worth",
    )


def holds_days(held_days: float | None) -> float:
    """Return how long the next model is expected to be served: as long as the one before, within bounds."""
    least, unknown, most = HOLDS_DAYS
    return unknown if held_days is None else min(most, max(least, held_days))


def _mode(seen: Evidence, labels: Mapping[str, Any], loss: _Gain) -> tuple[Outcome, str]:
    """Return whether training goes on or begins afresh, and why."""
    cannot = seen.found.get("warm")
    if cannot or INCREMENTAL not in seen.prices:
        return FULL, f"afresh: {cannot or 'the recipe that won is not known'}"
    above = _above_guessing(labels, seen.classes)
    if above is not None and loss.value > LOST * above:
        return FULL, f"afresh: {loss.value / above:.0%} of what it was better than guessing is lost"
    moved = (seen.found.get("drift") or {}).get("features") or {}
    new = {name: each["new"] for name, each in moved.items() if each.get("moved") and each["new"] >= 0.1}
    if new:
        name = max(new, key=lambda each: new[each])
        return FULL, f"afresh: {new[name]:.0%} of {name} are values that its encoding does not tell apart"
    return INCREMENTAL, "from the weights of the served model, by the recipe that won"


def _above_guessing(labels: Mapping[str, Any], classes: int | None) -> float | None:
    """Return by how much the model was better than guessing; None where the metric does not tell."""
    metric, then = labels["metric"], labels.get("quality_then")
    if not then or metric in NO_CLASSES or metric == "log_loss" or not classes:
        return None
    was = (float(then["validation"]) + float(then["test"])) / 2
    return max(0.0, was - (0.5 if metric == "roc_auc" else 1 / classes)) or None


def _weighed(seen: Evidence, mode: Outcome, gain: _Gain) -> _Weighed:
    days = holds_days(seen.held_days)
    mended = max(0.0, gain.value) * seen.calls_per_day * days
    price = seen.prices.get(mode) or seen.prices[FULL]
    carbon_g = price.footprint.carbon_g.value
    told = {"answers_mended": round(mended, 1), "days": days, "price_carbon_g": carbon_g}
    if mended > 0:
        told["carbon_g_per_answer"] = carbon_g / mended
    return _Weighed(mode, gain, mended, price, told)


def _too_dear(
    seen: Evidence, weighed: _Weighed, told: str, recalibrated: _Gain, numbers: Mapping[str, Any]
) -> Decision:
    """Return what is done where a training would help and takes too much for it."""
    why = f"{told}; {_price_told(weighed)}, more than the {seen.worth_g:g} g of retrain.worth"
    needed = weighed.price.footprint.carbon_g.value / max(seen.worth_g, 1e-12) / max(weighed.gain.value, 1e-12)
    changes = f"more than {_number(needed / holds_days(seen.held_days))} calls a day, or a higher retrain.worth"
    alternatives = (f"{weighed.mode}: {_price_told(weighed)}",)
    if recalibrated.beyond_chance:
        reason = f"{why}; a new calibration gains {_band(recalibrated)} without any training"
        return Decision(RECALIBRATE, reason, {**numbers, **weighed.numbers}, alternatives, changes)
    return Decision(SKIP, why, {**numbers, **weighed.numbers}, alternatives, changes)


def _price_told(weighed: _Weighed) -> str:
    carbon_g = figures.band(weighed.price.footprint.carbon_g.as_dict(), "gCO2e")
    energy = figures.band(weighed.price.footprint.energy_kwh.as_dict(), "kWh")
    if weighed.mended <= 0:
        return f"it is predicted to take {energy}, {carbon_g}, and nobody asks, so that it mends no answer"
    return (
        f"it is predicted to take {energy}, {carbon_g}: {figures.number(weighed.per_answer_g)} g for each of "
        f"{_number(weighed.mended)} answers mended in {_number(weighed.numbers['days'])} days"
    )


def _loss_told(labels: Mapping[str, Any]) -> str:
    loss, value = labels["loss"], labels["quality"]["value"]
    then = labels["quality_then"]
    was = (float(then["validation"]) + float(then["test"])) / 2
    return f"{labels['metric']} {value:.4g} on the newest {labels['rows']} labelled rows, {was:.4g} then: " + (
        f"{loss['value']:+.3f} lost ({loss['low']:+.3f} to {loss['high']:+.3f})"
    )


def _drift_told(found: Mapping[str, Any]) -> str:
    """Return in words what has moved."""
    drift = found.get("drift")
    if not drift:
        return f"drift is not known: {_reason(found, 'drift')}"
    of = f"{drift['samples']} {drift.get('of', 'samples')}"
    if not drift["moved"] and not drift["answers_moved"]:
        return f"no feature moved beyond PSI {drift['threshold']:g} and chance, by {of}"
    told = [f"{name} ({drift['features'][name]['why']})" for name in drift["moved"][:3]]
    more = len(drift["moved"]) - 3
    moved = ", ".join(told) + (f" and {more} more" if more > 0 else "")
    answers = "the answers moved" if drift["answers_moved"] else ""
    return f"moved by {of}: {'; '.join(filter(None, (moved, answers)))}"


def _implied_told(found: Mapping[str, Any]) -> str:
    implied = found["implied"]
    return (
        f"its confidence implies accuracy {implied['value']:.3f} ({implied['low']:.3f} to {implied['high']:.3f}), "
        f"{implied['then']:.3f} then"
    )


def _numbers(seen: Evidence) -> dict[str, Any]:
    """Return what is judged on, as it is kept."""
    found, labels = seen.found, seen.found.get("labels") or {}
    drift = found.get("drift") or {}
    highest = next(iter((drift.get("features") or {}).items()), None)
    return {
        "samples": drift.get("samples", 0),
        "highest_psi": highest[1]["psi"] if highest else None,
        "highest_psi_of": highest[0] if highest else None,
        "features_moved": len(drift.get("moved") or ()),
        "implied": found.get("implied"),
        "labelled_rows": labels.get("rows", 0),
        "unknown_rows": labels.get("unknown", 0),
        "loss": labels.get("loss"),
        "gain_learned": (labels.get("gains") or {}).get("learned"),
        "gain_recalibrated": (labels.get("gains") or {}).get("recalibrated"),
        "calls_per_day": round(seen.calls_per_day, 3),
        "calls_basis": seen.calls_basis,
        "worth_g": seen.worth_g,
        "prices": {mode: {"basis": price.basis, **price.footprint.as_dict()} for mode, price in seen.prices.items()},
    }


def _why(seen: Evidence, what: str) -> str:
    return _reason(seen.found, what)


def _reason(found: Mapping[str, Any], what: str) -> str:
    return str((found.get("why") or {}).get(what) or "nothing tells")


def _band(gain: _Gain) -> str:
    return f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def _number(value: float) -> str:
    return figures.number(value)
