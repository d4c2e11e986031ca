"""The search of `ebb_jobs.tuning`: which fits are tried, which end early, and when there are enough.

Proposals come from optuna's TPE; ASHA (successive halving, asynchronous) ends a fit that is behind the others at equal
progress, so that most fits cost a twelfth of a whole one. The recipe as it is by itself is the first fit, so a search
never answers with less. It ends by what it sees of itself: the last fits together brought no gain beyond chance, or the
number of fits, the time or the target is reached. What a grid would find it does not know. Last, the best network goes
on from its own weights, at a rate as high as the knob has it and down to nothing once more.
Sources: Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011 (TPE); Li et al., A System for Massively
Parallel Hyperparameter Tuning, 2020 (ASHA); Loshchilov and Hutter, SGDR, 2017 (warm restarts).
"""

from __future__ import annotations

import math
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ebb_jobs import gradient, knobs
from ebb_jobs.errors import JobError, StoppedError, reason
from ebb_jobs.knobs import Knob, Turned
from ebb_jobs.ladder import Seen
from ebb_jobs.report import cpu_seconds

TRIALS = 30
"""Fits at most, where the spec names no number."""
PATIENCE = 6
"""So many fits that together bring no gain beyond chance end a search."""
FINISHED_COUNTS = 3
"""A fit that was not ended early counts as so many of them: it kept up with the best and still brought nothing."""
CHANCE = 0.5
"""What is no gain: this share of the standard error of the best quality. Fits are judged on the same rows, so that
their difference varies less than each of them."""
RANDOM_FITS = 4
"""Fits that are drawn blindly, after the usual one, before TPE has something to learn from."""
HALVING = 3
"""Of so many fits at equal progress ASHA lets the best one go on."""
PROPOSALS = 2
"""Of so many proposals the cheapest to fit is taken: what is learned of it holds for dearer ones too."""
LEAD_KEPT = 0.5
"""Of a lead that a fit had when it was ended, what is expected to be left at the end."""
GOOD = 0.15
"""Share of the fits that TPE takes for good ones."""
GOING_ON = gradient.WARM_SHARE
"""Of the best fit's way, and of the highest rate, that it goes on for in the end."""
LAST_CUT, OUTRUN = 6, 3
"""From half of a network's way on a fit is compared with the best one: behind it so many times in a row it ends."""
FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
STOPS = ("plateau", "trials", "budget", "target")


class PrunedError(JobError):
    """Nothing is wrong with the fit: it is behind the others and ends here."""


@dataclass(frozen=True)
class Trial:
    """One fit with its knobs. `score` is what the search maximises; of a pruned fit its last one, of a failed none."""

    number: int
    turned: dict[str, float]
    status: str
    score: float | None
    cpu_seconds: float
    seconds: float
    curve: list[tuple[int, float]] = field(default_factory=list)
    reason: str = ""
    origin: int | None = None
    """The number of the trial from whose weights it went on; None for a fit from the beginning."""

    @property
    def looks(self) -> int:
        """Return how far it came: the last step that it was looked at."""
        return self.curve[-1][0] if self.curve else 0


@dataclass(frozen=True)
class Limits:
    """What ends a search, whatever it finds. `chance` is the standard error of a quality on these rows."""

    trials: int = TRIALS
    patience: int = PATIENCE
    chance: float = 0.0
    budget_s: float | None = None
    target: float | None = None
    """In the search's own measure: more is better."""


@dataclass(frozen=True)
class Found:
    """A finished search: every trial, the best of those that were finished, and why it ended."""

    trials: list[Trial]
    stop: str
    why: str

    @property
    def best(self) -> Trial | None:
        """Return the best finished trial, None when all failed."""
        return best_of(self.trials)


Attempt = Callable[[Turned, Seen], float]
"""(knobs, what is to be told of each look) -> score of the finished fit. What `Seen` raises must not be caught."""
GoOn = Callable[[Trial, Turned, Seen], float]
"""(the trial from whose weights to go on, knobs, what is to be told of each look) -> score of the finished fit."""


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the best finished trial, the earliest of equal ones."""
    finished = [trial for trial in trials if trial.status == FINISHED and trial.score is not None]
    return max(finished, key=lambda trial: (trial.score, -trial.number), default=None)


def search(
    space: Sequence[Knob],
    attempt: Attempt,
    limits: Limits,
    *,
    seed: int,
    known: Sequence[Trial] = (),
    done: Callable[[Trial], None] = lambda trial: None,
    go_on: GoOn | None = None,
) -> Found:
    """Fit with one proposal after the other until nothing more is to be gained; then `go_on` once, where there is time.

    `known` are trials of before (the recipe as it is, and those of an interrupted job): they cost nothing again. `done`
    is told of each new one. Raises: StoppedError when the job is told to end.
    """
    import optuna  # only where a spec asks for a search

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `gamma` goes with optuna 6; the image pins 5
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=RANDOM_FITS + 1, gamma=lambda count: math.ceil(GOOD * count)
        )
    study = optuna.create_study(
        direction="maximize",
        sampler=sampler,
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING),
    )
    if go_on is not None:
        limits = replace(limits, trials=limits.trials - 1)  # the last one is kept for it
    trials: list[Trial] = []
    begun, random = time.monotonic(), np.random.default_rng(seed)
    for old in known:
        old = replace(old, curve=_first_looks(old.curve))
        trials.append(old)
        if old.origin is None:
            _replay(optuna, study, space, old, trials[0])
    if not trials:
        study.enqueue_trial(_places({}, space))
    while True:
        if ended := _ended(trials, limits, time.monotonic() - begun):
            break
        asked, turned = _asked(optuna, study, space, trials, random)
        if asked is None:
            ended = "trials", "every combination of the knobs is tried"
            break
        trial = _tried(asked, turned, attempt, trials)
        trials.append(trial)
        _tell(optuna, study, asked, trial, trials[0])
        done(trial)
    best = best_of(trials)
    if go_on is not None and best is not None and _may_go_on(best, trials, limits, ended[0], time.monotonic() - begun):
        trials.append(_gone_on(best, space, go_on, len(trials)))
        done(trials[-1])
    return Found(trials, *ended)


def _may_go_on(best: Trial, trials: Sequence[Trial], limits: Limits, stop: str, elapsed_s: float) -> bool:
    """Tell whether there is a reason, and the time, to go on from the best trial's weights; once in a search."""
    gone_on = any(trial.origin is not None for trial in trials)
    enough = limits.budget_s is None or elapsed_s + GOING_ON * best.seconds < limits.budget_s
    return stop in ("plateau", "trials") and not gone_on and enough


def _gone_on(best: Trial, space: Sequence[Knob], go_on: GoOn, number: int) -> Trial:
    """Return the trial that goes on from the best one. Its looks are compared with no other's."""
    rates = {knob.name: max(knob.levels) for knob in space if knob.name == knobs.RATE.name}
    turned = {**best.turned, **rates}
    return _timed(number, turned, lambda seen: go_on(best, turned, seen), lambda step, value: None, best.number)


def _first_looks(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the first look at each step: a fit of many epochs is looked at more often than fits are compared."""
    first: dict[int, float] = {}
    for step, value in curve:
        first.setdefault(step, value)
    return list(first.items())


def _asked(
    optuna: Any, study: Any, space: Sequence[Knob], trials: Sequence[Trial], random: np.random.Generator
) -> tuple[Any, dict[str, float]]:
    """Return the cheapest of some proposals, in place of one that was tried already a fresh one a step away.

    None where nothing is left to try. What is passed over is told as failed, of which TPE learns nothing.
    """
    tried = [one.turned for one in trials]
    fresh: list[dict[str, float]] = []
    for _ in range(PROPOSALS if trials else 1):
        asked = study.ask()
        turned: dict[str, float] | None = _proposed(asked, space)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
        if turned in tried or turned in fresh:
            turned = _beside(turned, space, [*tried, *fresh], random)
        if turned is not None:
            fresh.append(turned)
    if not fresh:
        return None, {}
    turned = min(fresh, key=lambda one: knobs.cost(one, space))
    study.enqueue_trial(_places(turned, space))
    asked = study.ask()
    return asked, _proposed(asked, space)


def _beside(
    turned: Turned, space: Sequence[Knob], tried: Sequence[Turned], random: np.random.Generator
) -> dict[str, float] | None:
    """Return knobs that were not tried as few steps away as can be, None when all were."""
    here, seen = [dict(turned)], [dict(turned)]
    while here:
        steps = [
            {**one, knob.name: knob.levels[place]}
            for one in here
            for knob in space
            for place in (knob.levels.index(one[knob.name]) - 1, knob.levels.index(one[knob.name]) + 1)
            if 0 <= place < len(knob.levels)
        ]
        here = [one for number, one in enumerate(steps) if one not in seen and one not in steps[:number]]
        seen += here
        fresh = [one for one in here if one not in tried]
        if fresh:
            return fresh[random.integers(len(fresh))]
    return None


def _tried(asked: Any, turned: dict[str, float], attempt: Attempt, trials: Sequence[Trial]) -> Trial:
    curve: list[tuple[int, float]] = []
    best = best_of([trial for trial in trials if trial.origin is None])

    def look(step: int, value: float) -> None:
        curve.append((step, value))
        asked.report(value, step)
        if asked.should_prune() if step <= LAST_CUT else best is not None and _outrun(curve, best.curve):
            raise PrunedError(f"behind the others at step {step}")

    return _timed(len(trials), turned, lambda seen: attempt(turned, seen), look)


def _timed(
    number: int, turned: dict[str, float], fit: Callable[[Seen], float], look: Seen, origin: int | None = None
) -> Trial:
    """Return what a fit came to and what it took; `look` is told of the first look at each step, and may end it."""
    curve: list[tuple[int, float]] = []
    cpu, begun = cpu_seconds(), time.monotonic()

    def seen(step: int, value: float) -> None:
        if curve and step <= curve[-1][0]:
            return
        curve.append((step, value))
        look(step, value)

    def trial(status: str, score: float | None, why: str) -> Trial:
        used, took = round(cpu_seconds() - cpu, 3), round(time.monotonic() - begun, 3)
        return Trial(number, turned, status, score, used, took, curve, why, origin)

    try:
        return trial(FINISHED, fit(seen), "")
    except PrunedError as pruned:
        return trial(PRUNED, curve[-1][1], str(pruned))
    except StoppedError:
        raise
    except Exception as error:  # knobs may be turned too far: a search goes on without them
        traceback.print_exc()
        return trial(FAILED, None, reason(error))


def _outrun(curve: Sequence[tuple[int, float]], best: Sequence[tuple[int, float]]) -> bool:
    """Tell whether a fit was behind the best one at each of its last looks: plans are alike, and so their rates."""
    there = dict(best)
    pairs = [(value, there[step]) for step, value in curve[-OUTRUN:] if step in there]
    return len(pairs) == OUTRUN and all(mine < its for mine, its in pairs)


def _proposed(asked: Any, space: Sequence[Knob]) -> dict[str, float]:
    return {knob.name: knob.levels[asked.suggest_int(knob.name, 0, len(knob.levels) - 1)] for knob in space}


def _places(turned: Turned, space: Sequence[Knob]) -> dict[str, int]:
    """Return the level of each knob, as optuna knows it."""
    return {knob.name: knob.levels.index(turned.get(knob.name, knob.usual)) for knob in space}


def _replay(optuna: Any, study: Any, space: Sequence[Knob], old: Trial, first: Trial) -> None:
    """Let the study know a trial as if it had made it, its looks included: later ones are compared with them."""
    study.enqueue_trial(_places(old.turned, space))
    asked = study.ask()
    _proposed(asked, space)
    for step, value in old.curve:
        asked.report(value, step)
        if step <= LAST_CUT:
            asked.should_prune()  # counts this trial among those that came so far
    _tell(optuna, study, asked, old, first)


def _tell(optuna: Any, study: Any, asked: Any, trial: Trial, first: Trial) -> None:
    """Tell TPE what a fit came to; of one that was ended early, what it would have come to.

    optuna by itself ranks whatever was ended early below everything that was finished, so that with few fits TPE would
    hardly leave the recipe as it is. Instead a fit is taken to keep a share of the lead, or of the arrears, that it had
    on the first one at the same step.
    """
    if trial.status == FAILED:
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(asked, trial.score if trial.status == FINISHED else _expected(trial, first))


def _expected(trial: Trial, first: Trial) -> float:
    step, score = trial.curve[-1]
    there = [value for at, value in first.curve if at <= step]
    if first.score is None or not there:
        return score
    return first.score + LEAD_KEPT * (score - there[-1])


def _ended(trials: Sequence[Trial], limits: Limits, elapsed_s: float) -> tuple[str, str] | None:
    """Return why a search ends after these trials, in a word and a sentence; None to go on."""
    best = best_of(trials)
    if best is not None and limits.target is not None and best.score is not None and best.score >= limits.target:
        return "target", "the target is reached"
    if len(trials) >= limits.trials:
        return "trials", "all fits that it may take are done"
    if limits.budget_s is not None and elapsed_s >= limits.budget_s:
        return "budget", f"the time of {limits.budget_s:.0f} s is used"
    if best is None or best.score is None:
        return None
    chance = CHANCE * limits.chance
    enough = best.score - chance
    good = next(
        place for place, one in enumerate(trials) if one.status == FINISHED and (one.score or -math.inf) >= enough
    )
    idle = trials[good + 1 :]
    waited = sum(FINISHED_COUNTS if one.status == FINISHED else one.status == PRUNED for one in idle)
    if waited >= limits.patience:
        gained = best.score - (trials[good].score or 0.0)
        told = f"the last {len(idle)} fits gained {gained:.4f}"
        return "plateau", told + (f", within the {chance:.4f} of chance" if gained else "")
    return None
