"""Rungs that are networks trained by gradient steps: `fitting` with the recipe of the kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import numpy as np
import torch

from ebb_jobs import device, fingerprints, fitting, knobs, ladder, levers, linear, networks, quality
from ebb_jobs.knobs import Knob, Turned
from ebb_jobs.ladder import Fitted, Lesson, Rung
from ebb_jobs.linear import NetworkModel
from ebb_jobs.networks import Network

WARM_SHARE = 0.4
"""Of the steps and of the peak rate, where a network starts from the weights of the one before it."""


LOOKS = 12
"""Into so many parts a fit is divided where fits are compared with each other half-way."""


def rung(
    name: str,
    make: Callable[[Turned], Network],
    turnable: tuple[Knob, ...],
    *,
    steps: float = 1.0,
    peak_rate: float | None = None,
    batch: float = 1.0,
) -> Rung:
    """Return the rung of a network; `make` builds it, with its knobs turned; the rest is as `fit` has it."""

    def turned(these: Turned) -> Callable[[Lesson], Fitted]:
        made = partial(make, these)
        return partial(fit, make=made, name=name, steps=steps, peak_rate=peak_rate, batch=batch, turned=these)

    return Rung(name, ladder.NETWORK, turned({}), linear.load, turnable, turned)


def fit(
    lesson: Lesson,
    make: Callable[[], Network],
    name: str,
    *,
    steps: float = 1.0,
    peak_rate: float | None = None,
    batch: float = 1.0,
    turned: Turned = MappingProxyType({}),
) -> Fitted:
    """Train a network; `steps` and `batch` are shares of the kind's. Raises: StoppedError, DivergedError."""
    torch.manual_seed(lesson.seed)
    network = make()
    warm = _started_from(network, lesson)
    plan, rows = lesson.recipe, len(lesson.training)
    use = lesson.levers
    size = max(1, round(plan.batch_size(rows) * batch * use.batch))
    precision, gain = lesson.precision or (None if use.bf16 else "float32"), None
    if precision is None:
        pays, why, gain = fitting.bf16_pays(network, lesson.training.inputs, size)
        precision = "bfloat16" if pays else device.found().without_bfloat16
        lesson.report.decide("precision", precision, why)
    share = steps * (WARM_SHARE if warm else 1.0)
    planned = fitting.epochs(
        rows,
        size,
        round(plan.steps * share),
        at_least=min(plan.min_epochs, 3) if warm else plan.min_epochs,
        at_most=max(3, round(plan.max_epochs * WARM_SHARE)) if warm else plan.max_epochs,
    )
    epochs = int(lesson.wanted.get("epochs") or planned)
    rate = (peak_rate or plan.peak_rate) * use.rate * knobs.of(turned, knobs.RATE)
    recipe = fitting.Recipe(
        metric=lesson.metric,
        epochs=epochs,
        batch_size=max(1, round(size * knobs.of(turned, knobs.BATCH))),
        peak_rate=rate * WARM_SHARE if warm else rate,
        weight_decay=plan.weight_decay * knobs.of(turned, knobs.DECAY),
        seed=lesson.seed,
        target=lesson.target,
        rival=lesson.rival,
        budget_s=lesson.budget_s,
        precision=precision,
        one_cycle=use.one_cycle,
        channels_last=use.channels_last,
        growth=use.growing if network.any_size else (),
        averaging=use.averaging,
        compiled=use.compiled,
        name=name,
        fingerprint=fingerprints.of(
            lesson.fingerprint, network.config(), rows, warm, *([dict(turned)] if turned else [])
        ),
    )
    sign, looks = 1 if quality.greater_is_better(lesson.metric) else -1, 0

    def look(current: Network) -> float:
        nonlocal looks
        found = lesson.score(networks.predict(current, lesson.validation.inputs))
        looks += 1
        lesson.seen(LOOKS * looks // epochs, sign * found)
        return found

    outcome = fitting.fit(
        network,
        lesson.training.inputs,
        lesson.loss,
        look,
        recipe,
        augment=lesson.augment if use.augmented else None,
        checkpoint=lesson.checkpoints / f"{name}.pt",
        checkpoint_every_s=lesson.checkpoint_every_s,
    )
    facts = levers.Facts(
        image=lesson.training.inputs.ndim == 4,
        mapped_bytes=lesson.training.inputs.nbytes if lesson.training.inputs.dtype == np.uint8 else None,
        small_batch=batch < 1,
        bf16_gain=gain,
        precision=precision,
        growth=recipe.growth,
        planned=recipe.epochs,
        done=outcome.epochs,
        stop=outcome.stop,
        cpu_s=outcome.spent[-1],
        warm_share=WARM_SHARE if warm else None,
    )
    return Fitted(
        NetworkModel(network),
        outcome.stop,
        outcome.stopped_because,
        outcome.epochs,
        outcome.kept_epoch,
        outcome.best_epoch,
        outcome.elapsed_s,
        precision,
        outcome.resumed_at_epoch,
        warm,
        [[*seen, spent] for seen, spent in zip(outcome.history, outcome.spent, strict=True)],
        levers.told(use, facts),
    )


def _started_from(network: Network, lesson: Lesson) -> bool:
    """Give a network the weights of the model before it, where that has the very same shape."""
    file = lesson.previous / "original.safetensors" if lesson.previous else None
    if file is None or not file.exists():
        return False
    before = networks.load(file)
    if before.config() != network.config():
        return False
    network.load_state_dict(before.state_dict())
    return True
