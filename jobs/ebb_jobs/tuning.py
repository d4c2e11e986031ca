"""Tuning: a search over the knobs of one recipe, inside the training job.

What is tried, and when it ends, is `ebb_jobs.tuning_search`; here are the fits of a real lesson, what is kept of them
for a job that is interrupted, and what the report tells.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import durations, fingerprints, ladder, quality
from ebb_jobs.errors import JobError
from ebb_jobs.knobs import Turned
from ebb_jobs.ladder import Climb, Climbed, Lesson, Seen
from ebb_jobs.report import cpu_seconds, write_json
from ebb_jobs.tuning_search import FAILED, FINISHED, GOING_ON, PRUNED, TRIALS, Found, Limits, Trial, best_of, search

STUDY = "tuning.json"


def tune(climb: Climb, lesson: Lesson, wanted: Mapping[str, Any]) -> Climb:
    """Search over the knobs of the best rung that has any, and return the climb with what it found.

    The tuned model takes its own rung's place when it is better on the validation rows; the place of another rung only
    when it is better beyond chance, as in the ladder. Raises: StoppedError.
    """
    one = _tunable(climb, lesson)
    if one is None:
        lesson.report.decide("tuning", "nothing to tune", "no rung that was climbed has knobs that a search could turn")
        return climb
    lesson = ladder.seen_by(one.rung, lesson)
    limits = _limits(one, lesson, wanted)
    places = _Places(one, lesson, limits)
    cpu, begun = cpu_seconds(), time.monotonic()
    network = one.rung.family == ladder.NETWORK
    found = search(
        one.rung.knobs, places.attempt, places.limits, seed=lesson.seed, known=places.known(), done=places.note,
        go_on=places.go_on if network else None,
    )  # fmt: skip
    best = found.best
    assert best is not None  # the first one is the rung as it was climbed
    taken, why = (climb, "no fit was better than the recipe's own") if best.number == 0 else places.taken(climb, best)
    pruned = sum(trial.status == PRUNED for trial in found.trials)
    lesson.report.decide(
        "tuning",
        ", ".join(f"{name} {value:.3g}" for name, value in best.turned.items()) if taken is not climb else "as it was",
        f"{why}; {len(found.trials)} fits of {one.rung.name}, {pruned} ended early; {found.why}",
        numbers={
            "fits": len(found.trials),
            "pruned": pruned,
            "cpu_seconds": round(cpu_seconds() - cpu, 3),
            "gain": round(_gain(found), 6),
        },
        alternatives=["grid search", "a SageMaker tuning job (train.tune.jobs above 1)"],
    )
    lesson.report.fields["tuning"] = {
        "where": "in the training job",
        "rung": one.rung.name,
        "taken": taken is not climb,
        "best": {"trial": best.number, "knobs": _rounded(best.turned), "validation": _shown(best.score, lesson)},
        "usual": _shown(found.trials[0].score, lesson),
        "stop": found.stop,
        "stopped_because": found.why,
        "cpu_seconds": round(cpu_seconds() - cpu, 3),
        "seconds": round(time.monotonic() - begun, 3),
        "trials": [
            {
                "number": trial.number,
                "knobs": _rounded(trial.turned),
                "status": trial.status,
                "validation": _shown(trial.score, lesson) if trial.status == FINISHED else None,
                "looks": trial.looks,
                "cpu_seconds": trial.cpu_seconds,
                **({"reason": trial.reason} if trial.status == FAILED else {}),
                **({} if trial.origin is None else {"goes_on_from": trial.origin}),
            }
            for trial in found.trials
        ],
    }
    return taken


def _tunable(climb: Climb, lesson: Lesson) -> Climbed | None:
    """Return the rung to tune: the one that was taken, or else the best of those with knobs."""
    ready = [one for one in climb.climbed if one.fitted is not None and one.rung.turned is not None]
    if climb.best in ready:
        return climb.best
    return max(ready, key=lambda one: _score(one.fields["quality"]["validation"], lesson), default=None)


def gone_on(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what is wanted of a fit that goes on; `gradient` shortens by itself what the recipe decides."""
    epochs = wanted.get("epochs")
    return wanted | ({"epochs": max(1, round(int(epochs) * GOING_ON))} if epochs else {})


def _limits(one: Climbed, lesson: Lesson, wanted: Mapping[str, Any]) -> Limits:
    asked, trials = durations.seconds(wanted.get("budget")), wanted.get("trials")
    band = one.fields["quality_interval"]
    left = [each for each in (asked, lesson.budget_s) if each is not None]
    return Limits(
        trials=TRIALS if trials in (None, "auto") else int(trials),
        chance=(band["high"] - band["low"]) / (2 * 1.96),
        budget_s=min(left, default=None),
        target=None if lesson.target is None else _score(lesson.target, lesson),
    )


class _Places:
    """The fits of one search: one folder for the one under way, the best one's model and the study beside it."""

    def __init__(self, one: Climbed, lesson: Lesson, limits: Limits) -> None:
        self.one, self.lesson, self.limits = one, lesson, limits
        self._folder = lesson.checkpoints / "tuning"
        self._file = self._folder / STUDY
        self._fingerprint = fingerprints.of(
            lesson.fingerprint, one.rung.name, [asdict(knob) for knob in one.rung.knobs]
        )
        self._trials: list[Trial] = []
        self._latest: Climbed | None = None
        self.best: Climbed | None = None

    def known(self) -> list[Trial]:
        """Return the rung as it was climbed, and what an interrupted job has tried already."""
        one = self.one
        usual = {knob.name: knob.usual for knob in one.rung.knobs}
        score = _score(one.fields["quality"]["validation"], self.lesson)
        self._trials = [Trial(0, usual, FINISHED, score, one.fields["cpu_seconds"], one.fields["seconds"], one.curve)]
        try:
            stored = json.loads(self._file.read_text())
            if stored["fingerprint"] == self._fingerprint:
                self._trials += [
                    Trial(**{**each, "curve": [tuple(p) for p in each["curve"]]}) for each in stored["trials"]
                ]
                self.best = self._restored(stored.get("best"))
                print(f"tuning goes on after {len(self._trials)} fits", flush=True)
        except FileNotFoundError:
            pass
        except Exception as error:  # whatever a damaged file raises
            print(f"tuning starts afresh: what was kept cannot be read ({type(error).__name__})", flush=True)
            self._trials = self._trials[:1]
        return list(self._trials)

    def attempt(self, turned: Turned, seen: Seen) -> float:
        """Fit with these knobs; return the score on the validation rows."""
        return self._fitted(turned, seen, self.lesson.wanted, None)

    def go_on(self, best: Trial, turned: Turned, seen: Seen) -> float:
        """Fit with these knobs from the weights of the best trial, for a part of its way; return the score."""
        before = self.one if self.best is None or best.number == 0 else self.best
        assert before.fitted is not None
        folder = self._folder / "before"
        folder.mkdir(parents=True, exist_ok=True)
        before.fitted.model.save(folder / "original")
        return self._fitted(turned, seen, gone_on(self.lesson.wanted), folder)

    def _fitted(self, turned: Turned, seen: Seen, wanted: dict[str, Any], previous: Path | None) -> float:
        lesson, rung = self.lesson, self.one.rung
        assert rung.turned is not None
        folder = self._folder / "fit"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        assert self.one.fitted is not None
        fitted = rung.turned(turned)(
            replace(
                lesson, checkpoints=folder, rival=None, previous=previous, seen=seen, wanted=wanted,
                precision=self.one.fitted.precision, fingerprint=self._fingerprint,
            )
        )  # fmt: skip
        outputs = fitted.model.predict(lesson.validation.inputs)
        truth, answers = lesson.compare(outputs, lesson.validation)
        found = quality.score(lesson.metric, truth, answers)
        if not math.isfinite(found):
            raise JobError("the validation quality is not finite")
        self._latest = Climbed(rung, fitted, {"quality": {"validation": found}}, answers)
        return _score(found, lesson)

    def note(self, trial: Trial) -> None:
        """Keep a trial, and the model of the best one, for the case that the job is interrupted."""
        self._trials.append(trial)
        shown = "-" if trial.score is None else f"{_shown(trial.score, self.lesson):.4f}"
        print(f"tuning fit {trial.number} {trial.status}: validation {self.lesson.metric} {shown}, "
              f"{trial.cpu_seconds:.1f} CPU s, {_rounded(trial.turned)}", flush=True)  # fmt: skip
        if trial.status == FINISHED and best_of(self._trials) is trial:
            assert self._latest is not None
            self._latest.fields.update(cpu_seconds=trial.cpu_seconds, seconds=trial.seconds)
            self.best = self._latest
        self._latest = None
        self._keep()

    def taken(self, climb: Climb, best: Trial) -> tuple[Climb, str]:
        """Return the climb with the tuned model where it is better, and why."""
        tuned, lesson = self.best, self.lesson
        assert tuned is not None
        assert tuned.answers is not None
        assert climb.best.answers is not None
        truth, _ = lesson.compare(np.zeros((len(lesson.validation), lesson.outputs), np.float32), lesson.validation)
        gain = quality.gain(lesson.metric, truth, climb.best.answers, tuned.answers, seed=lesson.seed)
        told = (
            f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}) against {climb.best.rung.name} as it was"
        )
        if climb.best is not self.one and gain["low"] <= 0:
            return climb, f"{told}: no gain beyond chance for another rung"
        fitted = tuned.fitted
        assert fitted is not None
        tuned.fields = {
            **self.one.fields,
            **tuned.fields,
            "described": fitted.model.describe(),
            "parameters": fitted.model.parameter_count(),
            "quality_interval": quality.interval(lesson.metric, truth, tuned.answers, seed=lesson.seed),
            "epochs": fitted.epochs,
            "stop": fitted.stop,
            "stopped_because": fitted.stopped_because,
            "warm": False,
            "tuned": _rounded(best.turned),
        }
        climbed = [tuned if one is self.one else one for one in climb.climbed]
        return Climb(tuned, climbed, climb.ended), told

    def _keep(self) -> None:
        best = None
        if self.best is not None and self.best.fitted is not None:
            file = self.best.fitted.model.save(self._folder / "best")
            told = {key: value for key, value in vars(self.best.fitted).items() if key != "model"}
            best = {"file": file.name, "fitted": told, "fields": self.best.fields}
        self._folder.mkdir(parents=True, exist_ok=True)
        document = {
            "fingerprint": self._fingerprint,
            "trials": [asdict(trial) for trial in self._trials[1:]],
            "best": best,
        }
        write_json(self._file, document)

    def _restored(self, stored: dict[str, Any] | None) -> Climbed | None:
        if stored is None:
            return None
        fitted = ladder.Fitted(self.one.rung.load(self._folder / stored["file"]), **stored["fitted"])
        outputs = fitted.model.predict(self.lesson.validation.inputs)
        _, answers = self.lesson.compare(outputs, self.lesson.validation)
        return Climbed(self.one.rung, fitted, stored["fields"], answers)


def _score(value: float, lesson: Lesson) -> float:
    return float(value) if quality.greater_is_better(lesson.metric) else -float(value)


def _shown(score: float | None, lesson: Lesson) -> float | None:
    return None if score is None else round(_score(score, lesson), 6)


def _gain(found: Found) -> float:
    best, usual = found.best, found.trials[0]
    return 0.0 if best is None or best.score is None or usual.score is None else best.score - usual.score


def _rounded(turned: Turned) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in turned.items()}
