"""Training as a ladder: the cheapest recipe first, a dearer one only while it pays.

A rung is climbed, judged on the validation rows and compared with the best below it by a paired bootstrap. Higher goes
on only while the target of the spec is not reached or, without a target, while the last rung's gain is beyond what
chance gives. Every rung is told with its CPU time, its quality with interval, and why the ladder went on or ended.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ebb_jobs import distributed, fitting, quality
from ebb_jobs.dataset import Split
from ebb_jobs.errors import JobError, StoppedError, reason
from ebb_jobs.kind import Codec, KindRecipe
from ebb_jobs.knobs import Knob, Turned
from ebb_jobs.levers import Levers
from ebb_jobs.report import Report, cpu_seconds, write_json

LINEAR, TREES, NETWORK = "linear", "trees", "network"
"""Families of models, from the cheapest to train to the dearest."""


Seen = Callable[[int, float], None]
"""(how far a fit is, its score there, more being better); equal steps of a recipe's fits can be compared."""


class Model(Protocol):
    """What a rung has learned."""

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities [rows, classes], or the scaled target [rows, 1]."""

    def save(self, stem: Path) -> Path:
        """Write the model as `stem` with the ending of its form; return the file."""

    def describe(self) -> str:
        """Return its shape in a few words."""

    def parameter_count(self) -> int:
        """Return how many numbers were learned."""


@dataclass(frozen=True)
class Lesson:
    """All that a rung learns from, and what it may use."""

    training: Split
    validation: Split
    codec: Codec
    classes: list[str]
    """Empty for a regression."""
    recipe: KindRecipe
    augment: fitting.Augment
    metric: str
    loss: fitting.Loss
    factors: np.ndarray | None
    """Weight of each class's rows, mean 1 over the rows; None where all rows count alike."""
    compare: Callable[[np.ndarray, Split], tuple[np.ndarray, np.ndarray]]
    """(outputs, rows) -> truth and prediction, as the metrics take them."""
    wanted: dict[str, Any]
    seed: int
    checkpoints: Path
    checkpoint_every_s: float
    fingerprint: str
    """Of the data as it is encoded: a checkpoint of other data is not taken up."""
    report: Report
    target: float | None = None
    budget_s: float | None = None
    """What is left of the time for fitting."""
    rival: float | None = None
    """The best quality so far: a rung that will not reach it may end early."""
    levers: Levers = field(default_factory=Levers)
    previous: Path | None = None
    """The folder of the model to start from, of the same columns and classes."""
    seen: Seen = field(default=lambda step, value: None)
    """Told of every look at the validation rows; a search ends a fit here that falls behind (see `tuning`)."""
    precision: str | None = None
    """Found out before: a fit need not time it again."""

    @property
    def outputs(self) -> int:
        """Return how many numbers a model answers per row."""
        return len(self.classes) or 1

    def score(self, outputs: np.ndarray) -> float:
        """Return the metric of outputs for the validation rows."""
        return quality.score(self.metric, *self.compare(outputs, self.validation))

    def row_weights(self) -> np.ndarray | None:
        """Return the weight of every training row, float32; None where all count alike."""
        return None if self.factors is None else self.factors[self.training.targets].astype(np.float32)


@dataclass(frozen=True)
class Fitted:
    """A model, and how its fitting went."""

    model: Model
    stop: str
    """One of `fitting.STOPS`."""
    stopped_because: str
    epochs: int
    kept_epoch: int
    best_epoch: int
    seconds: float
    precision: str = "float32"
    resumed_at_epoch: int | None = None
    warm: bool = False
    """It began with the weights of the model before it."""
    history: list[list[float]] = field(default_factory=list)
    """After each epoch: mean loss, quality on the validation rows, CPU seconds so far."""
    levers: list[dict[str, str]] = field(default_factory=list)
    """What made it cheaper, and what each gave; see `levers.told`."""


@dataclass(frozen=True)
class Rung:
    """One recipe: its name, its family, and what fits it. `load` reads what its model's `save` wrote.

    `knobs` are what a search may turn, `turned` what fits it with some of them turned; `fit` turns none. `sees` is for
    what reads the same rows otherwise than the rungs below it: an encoder with tokens of its own.
    """

    name: str
    family: str
    fit: Callable[[Lesson], Fitted]
    load: Callable[[Path], Model]
    knobs: tuple[Knob, ...] = ()
    turned: Callable[[Turned], Callable[[Lesson], Fitted]] | None = None
    sees: Callable[[Lesson], Lesson] | None = None


@dataclass
class Climbed:
    """A rung after it was tried."""

    rung: Rung
    fitted: Fitted | None
    fields: dict[str, Any] = field(default_factory=dict)
    answers: np.ndarray | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    """What `Lesson.seen` was told."""


@dataclass(frozen=True)
class Climb:
    """The whole way up. `best` is the cheapest rung that no other beat beyond chance."""

    best: Climbed
    climbed: list[Climbed]
    ended: str


def choose(rungs: Sequence[Rung], wanted: Sequence[str] | None) -> list[Rung]:
    """Return the rungs that the spec names, in the ladder's order; all when it names none. Raises JobError."""
    if not wanted:
        return list(rungs)
    known = [rung.name for rung in rungs]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise JobError(
            f"train.rungs: there is no {unknown[0]!r} for this kind of data; write some of: {', '.join(known)}"
        )
    return [rung for rung in rungs if rung.name in wanted]


def shared(rungs: Sequence[Rung], report: Report) -> list[Rung]:
    """Return the rungs that several machines can train together. Raises: JobError when there is none."""
    networks = [rung for rung in rungs if rung.family == NETWORK]
    if not networks:
        raise JobError(
            "train.instances: none of these recipes is a network, which alone several machines train together; write "
            "instances: 1, or name a network in train.rungs"
        )
    left_out = [rung.name for rung in rungs if rung not in networks]
    why = "train.instances asks for several machines, which train networks together"
    report.decide("recipes", ", ".join(rung.name for rung in networks), why, alternatives=left_out)
    return networks


def seen_by(rung: Rung, lesson: Lesson) -> Lesson:
    """Return the lesson as a rung reads it."""
    return lesson if rung.sees is None else rung.sees(lesson)


def climb(rungs: Sequence[Rung], lesson: Lesson) -> Climb:
    """Fit rung after rung while it pays.

    Raises: StoppedError when the job is told to end; JobError when no rung could be fitted.
    """
    begun = time.monotonic()
    climbed: list[Climbed] = []
    best: Climbed | None = None
    ended = "it is the last rung"
    truth, _ = lesson.compare(_nothing(lesson), lesson.validation)
    for number, rung in enumerate(rungs):
        spent_s = distributed.from_leader(lambda: time.monotonic() - begun)
        left = None if lesson.budget_s is None else lesson.budget_s - spent_s
        if left is not None and best is not None and left <= 0:
            ended = f"the time budget of {lesson.budget_s:.0f} s is used"
            break
        rival = None if best is None else best.fields["quality"]["validation"]
        one = _try(rung, replace(lesson, budget_s=left, rival=rival))
        climbed.append(one)
        last = number == len(rungs) - 1
        if one.fitted is None:
            _tell(one, lesson, "it failed: the next rung is tried" if not last else "it failed", best)
            continue
        why, goes_on, better = distributed.from_leader(partial(_judge, one, best, truth, lesson))
        best = one if better else best
        if last and goes_on:
            why, goes_on = f"{why}; there is no higher rung", False
        _tell(one, lesson, why, best)
        if not goes_on:
            ended = why
            break
    if best is None:
        raise JobError(
            "no recipe could be fitted: " + "; ".join(f"{c.rung.name}: {c.fields['reason']}" for c in climbed)
        )
    lesson.report.decide(
        "ladder",
        best.rung.name,
        ended,
        numbers={one.rung.name: one.fields["quality"]["validation"] for one in climbed if one.fitted},
        alternatives=[one.rung.name for one in climbed if one is not best],
    )
    return Climb(best, climbed, ended)


def _judge(one: Climbed, best: Climbed | None, truth: np.ndarray, lesson: Lesson) -> tuple[str, bool, bool]:
    """Return why the ladder goes on or ends, whether it goes on, and whether this is the best rung so far."""
    assert one.answers is not None
    found = one.fields["quality"]["validation"]
    reached = lesson.target is not None and not quality.is_better(lesson.metric, lesson.target, found)
    if best is None:
        if reached:
            return f"the target {lesson.metric} {lesson.target} is reached", False, True
        room = quality.headroom(lesson.metric, truth, one.answers, seed=lesson.seed)
        if room is not None and room["low"] <= 0:
            told = f"a model without any mistake would gain {room['value']:.4f}, which {len(truth)} rows cannot show"
            return told, lesson.target is not None, True
        return ("the target is not reached" if lesson.target is not None else "it is the first rung"), True, True
    assert best.answers is not None
    gain = quality.gain(lesson.metric, truth, best.answers, one.answers, seed=lesson.seed)
    one.fields["gain"] = gain
    told = f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}) against {best.rung.name}"
    better = gain["low"] > 0
    if reached and (better or quality.is_better(lesson.metric, lesson.target or 0.0, _value(best))):
        return f"the target {lesson.metric} {lesson.target} is reached", False, True
    if lesson.target is not None:
        return f"{told}; the target is not reached", True, better
    if better:
        return f"{told}: a gain beyond chance", True, True
    return f"{told}: no gain beyond chance", False, False


def _try(rung: Rung, lesson: Lesson) -> Climbed:
    """Fit one rung, or take it as it was finished before the job was interrupted."""
    cpu, begun = cpu_seconds(), time.monotonic()
    print(f"rung {rung.name}", flush=True)
    one = Climbed(rung, None, {"name": rung.name, "family": rung.family})
    kept = lesson.checkpoints / f"{rung.name}.json"
    try:
        lesson = seen_by(rung, lesson)
        fitted = _finished(rung, lesson, kept)
        if not distributed.everywhere(fitted is not None):
            fitted = None
        if fitted is None:
            fitted = rung.fit(replace(lesson, seen=lambda step, value: _look(one, lesson, step, value)))
            _keep(fitted, lesson, kept, cpu_seconds() - cpu)
        outputs = fitted.model.predict(lesson.validation.inputs)
        truth, one.answers = lesson.compare(outputs, lesson.validation)
        found = quality.score(lesson.metric, truth, one.answers)
        interval = quality.interval(lesson.metric, truth, one.answers, seed=lesson.seed)
    except StoppedError:
        raise
    except Exception as error:  # a dearer recipe may still do: the cheaper one's failure is told
        traceback.print_exc()
        one.fields.update(reason=reason(error), status="failed", stop="divergence" if _diverged(error) else "error")
        one.fields.update(cpu_seconds=round(cpu_seconds() - cpu, 3), seconds=round(time.monotonic() - begun, 3))
        return one
    one.fitted = fitted
    one.fields.update(
        status="finished",
        described=fitted.model.describe(),
        parameters=fitted.model.parameter_count(),
        quality={"validation": found},
        quality_interval=interval,
        epochs=fitted.epochs,
        stop=fitted.stop,
        stopped_because=fitted.stopped_because,
        warm=fitted.warm,
        history=fitted.history,
        levers=fitted.levers,
        cpu_seconds=round(cpu_seconds() - cpu, 3),
        seconds=round(time.monotonic() - begun, 3),
    )
    return one


def _look(one: Climbed, lesson: Lesson, step: int, value: float) -> None:
    one.curve.append((step, value))
    lesson.seen(step, value)


def _diverged(error: Exception) -> bool:
    return type(error).__name__ == "DivergedError"


def _tell(one: Climbed, lesson: Lesson, why: str, best: Climbed | None) -> None:
    one.fields.setdefault("reason", why)
    if one.fitted is None:
        lesson.report.decide(f"rung {one.rung.name}", "failed", f"{one.fields['reason']}; {why}")
        return
    quality_now = one.fields["quality"]["validation"]
    lesson.report.decide(
        f"rung {one.rung.name}",
        f"{lesson.metric} {quality_now:.4f}" + (", taken" if one is best else ", not taken"),
        why,
        numbers={
            "low": round(one.fields["quality_interval"]["low"], 6),
            "high": round(one.fields["quality_interval"]["high"], 6),
            "cpu_seconds": one.fields["cpu_seconds"],
            "parameters": one.fields["parameters"],
        },
    )


def _keep(fitted: Fitted, lesson: Lesson, kept: Path, cpu_s: float) -> None:
    """Write a finished rung beside the checkpoints: a job that is killed on a higher one does not fit it again."""
    if not distributed.leads():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    file = fitted.model.save(kept.with_suffix(""))
    told = {key: value for key, value in vars(fitted).items() if key != "model"}
    write_json(kept, {"fingerprint": lesson.fingerprint, "file": file.name, "cpu_seconds": cpu_s, "fitted": told})


def _finished(rung: Rung, lesson: Lesson, kept: Path) -> Fitted | None:
    if not kept.exists():
        return None
    try:
        stored = json.loads(kept.read_text())
        if stored["fingerprint"] != lesson.fingerprint:
            return None
        print(f"rung {rung.name} was finished before the job was interrupted", flush=True)
        return Fitted(rung.load(kept.with_name(stored["file"])), **stored["fitted"])
    except Exception as error:  # whatever a damaged checkpoint raises
        print(f"rung {rung.name} starts afresh: what was kept cannot be read ({type(error).__name__})", flush=True)
        return None


def _nothing(lesson: Lesson) -> np.ndarray:
    return np.zeros((len(lesson.validation), lesson.outputs), dtype=np.float32)


def _value(one: Climbed) -> float:
    return float(one.fields["quality"]["validation"])
