"""Stage `train`: curated data in, the original network out."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ebb_jobs import (
    dataset,
    distributed,
    durations,
    encoders,
    feeding,
    fingerprints,
    fitting,
    gpu,
    kinds,
    ladder,
    levers,
    networks,
    paths,
    quality,
    trials,
    usage,
    warm,
)
from ebb_jobs.dataset import Split
from ebb_jobs.errors import StoppedError
from ebb_jobs.kind import Codec
from ebb_jobs.networks import Network
from ebb_jobs.report import Report, cpu_count, write_json

BUDGET_SHARE = 0.85
"""The rest of `max_runtime` is for reading, checking and writing."""

RUNGS = "rungs"
"""Folder of the rungs that are candidates beside the original, one file each."""


def main() -> None:
    """Train the network of this run and write it with its codec."""
    settings = paths.settings("train")
    scripted = bool(((settings.get("spec") or {}).get("train") or {}).get("distributed"))  # its script shares the work
    if not scripted and (started := distributed.command("train")) is not None:
        argv, environment = started
        os.execve(argv[0], argv, {**os.environ, **environment})  # torchrun starts this stage again, on each machine
    report = Report("train")
    feeding.use(int(settings.get("workers") or 0))
    first, output = not scripted or distributed.cluster().number == 0, paths.output("train", "model")
    with distributed.joined(), gpu.Watch() as watched, distributed.kept(output, first=first) as model:
        torch.set_num_threads(cpu_count())
        train(paths.channel("train", "curated"), model, paths.checkpoints(), settings, report)
        report.fields.update(usage.fields(watched))
        report.write(model)
    if report.fields.get("stopped_early"):  # as a job that was told to end ends, whatever it has left
        raise StoppedError("the script was stopped by SIGTERM; what it had saved is the model")


def train(curated: Path, model: Path, checkpoints: Path, settings: dict[str, Any], report: Report) -> None:
    """Climb the ladder on the training rows, choose on the validation rows, look at the test rows once."""
    wanted = (settings.get("spec") or {}).get("train") or {}
    schema = dataset.read_schema(curated)
    kind = kinds.of(schema)
    if kind.trains_itself:
        from ebb_jobs import custom  # only where a script trains

        custom.train(curated, model, checkpoints, settings, report)
        return
    previous = warm.found(paths.channel("train", "previous"), schema, report)
    warm_codec = previous if previous and warm.rung(previous) != encoders.NAME else None  # whose tokens are its own
    codec = kind.open_codec(warm_codec) if warm_codec else kind.fit_codec(curated, schema, report)
    training, validation = (kind.read_split(curated, split, codec) for split in ("train", "validation"))
    shares = class_shares(schema, training)
    metric = quality.choose(schema["task"], shares, wanted.get("metric"))
    report.decide("metric", metric.value, metric.reason)

    use = levers.chosen(kind.recipe.levers, settings.get("levers") or {})
    factors = class_factors(shares, metric.value)
    budget = durations.seconds(wanted.get("max_runtime"))
    lesson = ladder.Lesson(
        training=training,
        validation=validation,
        codec=codec,
        classes=list(schema["target"].get("classes") or ()),
        recipe=kind.recipe,
        augment=kind.augment,
        metric=metric.value,
        loss=hard_loss(training, shares, metric.value, smoothing=use.smoothing),
        levers=use,
        factors=factors,
        compare=lambda outputs, rows: comparable(outputs, rows, codec),
        wanted=wanted,
        seed=int(settings.get("seed", 7)),
        checkpoints=checkpoints,
        checkpoint_every_s=float(settings.get("checkpoint_every_s", 20)),
        fingerprint=fingerprint(codec_fingerprint(codec), metric.value, len(training), wanted, asdict(use)),
        report=report,
        target=wanted.get("target"),
        budget_s=budget * BUDGET_SHARE if budget else None,
        previous=previous,
    )
    given = encoders.rungs(kind, curated, schema, settings, report)
    rungs = ladder.choose([*kind.rungs(codec, training), *given], wanted.get("rungs"))
    if distributed.world() > 1:
        rungs = ladder.shared(rungs, report)
    proposed = paths.proposed() if settings.get("trial") else None
    if proposed is not None:
        rungs = trials.choose(rungs, proposed)
        lesson = replace(lesson, seen=trials.watching(rungs))
        report.decide(
            "knobs", proposed.get(trials.RUNG, "every recipe"), "proposed by the tuning job", numbers=proposed
        )
    begun = time.monotonic()
    climbed = ladder.climb(warm.first(rungs, previous, report), lesson)
    if proposed is not None:
        trials.tell(climbed, proposed, metric.value)
    if wanted.get("tune") and distributed.world() > 1:
        report.decide("tuning", "left out", "it runs in one process; train.tune.jobs above 1 searches on many machines")
    elif wanted.get("tune"):
        from ebb_jobs import tuning  # only where a spec asks for a search

        left = None if lesson.budget_s is None else max(0.0, lesson.budget_s - (time.monotonic() - begun))
        climbed = tuning.tune(climbed, replace(lesson, budget_s=left), wanted["tune"])
    best = climbed.best.fitted
    assert best is not None
    report.decide(
        "stop",
        f"{climbed.best.rung.name}, {best.stop}",
        best.stopped_because,
        numbers={"kept_epoch": best.kept_epoch, "best_epoch": best.best_epoch, "seconds": round(best.seconds, 2)},
    )

    codec = ladder.seen_by(climbed.best.rung, lesson).codec
    test = kind.read_split(curated, "test", codec)
    found = {
        "validation": climbed.best.fields["quality"]["validation"],
        "test": judge(best.model.predict(test.inputs), test, codec, metric.value),
    }
    best.model.save(model / "original")
    _keep_others(climbed, found["validation"], metric.value, settings, model)
    for name, content in codec.files().items():
        (model / name).write_bytes(content)
    write_json(model / "schema.json", schema)
    report.fields.update(
        metric=metric.value,
        greater_is_better=quality.greater_is_better(metric.value),
        quality=found,
        rung=climbed.best.rung.name,
        family=climbed.best.rung.family,
        described=best.model.describe(),
        rungs=[one.fields for one in climbed.climbed],
        rungs_untried=[rung.name for rung in rungs if rung.name not in {one.rung.name for one in climbed.climbed}],
        ladder_ended=climbed.ended,
        epochs=best.epochs,
        best_epoch=best.best_epoch,
        kept_epoch=best.kept_epoch,
        stop=best.stop,
        stopped_because=best.stopped_because,
        parameters=best.model.parameter_count(),
        resumed_at_epoch=best.resumed_at_epoch,
        precision=best.precision,
        device=fitting.device().type,
        fit_seconds=round(best.seconds, 3),
        started_from=warm.told(previous) if best.warm else None,
    )
    print(f"test {metric.value} {found['test']:.4f}", flush=True)


def _keep_others(climbed: ladder.Climb, best: float, metric: str, settings: dict[str, Any], model: Path) -> None:
    """Write the other rungs that hold the user's floor: one may be the cheapest to serve, which `compile` measures.

    A higher rung of the best one's family was no better and is larger: it is left out. So is one that reads the rows
    otherwise than the best one: a model is stored with one codec.
    """
    max_drop = float(((settings.get("spec") or {}).get("compress") or {}).get("max_metric_drop", 0.01))
    floor, _ = quality.floor(metric, best, max_drop)
    above = False
    for one in climbed.climbed:
        if one is climbed.best:
            above = True
        elif one.fitted is not None:
            larger = above and one.rung.family == climbed.best.rung.family
            alike = one.rung.sees is climbed.best.rung.sees
            passed = alike and not larger and not quality.is_better(metric, floor, one.fields["quality"]["validation"])
            one.fields["candidate"] = passed
            if passed:
                (model / RUNGS).mkdir(exist_ok=True)
                one.fitted.model.save(model / RUNGS / one.rung.name)


def class_shares(schema: dict[str, Any], training: Split) -> np.ndarray | None:
    """Return each class's share of the training rows, None for regression."""
    if not training.is_classified:
        return None
    return np.bincount(training.targets, minlength=len(schema["target"]["classes"])) / len(training)


def class_factors(shares: np.ndarray | None, metric: str) -> np.ndarray | None:
    """Return the weight of each class's rows, mean 1 over the rows; None where the metric counts all rows alike."""
    if shares is None or metric not in ("f1_macro", "balanced_accuracy"):
        return None
    power = 1.0 if metric == "balanced_accuracy" else 0.5  # F1 also counts false alarms: half-way is best for it
    factors = np.maximum(shares, 1e-9) ** -power
    return factors / (factors * shares).sum()


def hard_loss(training: Split, shares: np.ndarray | None, metric: str, *, smoothing: float = 0.0) -> fitting.Loss:
    """Return the loss against the labels; rare classes weigh more when the metric counts classes alike."""
    targets = torch.from_numpy(training.targets)
    if shares is None:
        return lambda predicted, rows: functional.smooth_l1_loss(
            predicted[:, 0], targets[rows].to(predicted.device), beta=1.0
        )
    factors = class_factors(shares, metric)
    weights = None if factors is None else torch.tensor(factors, dtype=torch.float32)

    def loss(predicted: Tensor, rows: Tensor) -> Tensor:
        weight = None if weights is None else weights.to(predicted.device)
        truth = targets[rows].to(predicted.device)
        return functional.cross_entropy(predicted, truth, weight=weight, label_smoothing=smoothing)

    return loss


def evaluate(network: Network, rows: Split, codec: Codec, metric: str) -> float:
    """Return the metric of a network in eager fp32."""
    return judge(networks.predict(network, rows.inputs), rows, codec, metric)


def judge(predicted: np.ndarray, rows: Split, codec: Codec, metric: str) -> float:
    """Return the metric of outputs, in the target's own unit."""
    return quality.score(metric, *comparable(predicted, rows, codec))


def comparable(predicted: np.ndarray, rows: Split, codec: Codec) -> tuple[np.ndarray, np.ndarray]:
    """Return truth and prediction as the metrics take them."""
    if rows.is_classified:
        return rows.targets, predicted
    answers = codec.predictions(predicted)
    return rows.raw_targets.astype(np.float64), np.array([answer["value"] for answer in answers], dtype=np.float64)


fingerprint, codec_fingerprint = fingerprints.of, fingerprints.of_codec
