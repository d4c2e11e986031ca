"""Stage `train`: curated data in, the original network out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ebb_jobs import dataset, durations, fitting, kinds, networks, paths, quality
from ebb_jobs.dataset import Split
from ebb_jobs.kind import Codec, Kind
from ebb_jobs.networks import Network
from ebb_jobs.report import Report, cpu_count, write_json

BUDGET_SHARE = 0.85
"""The rest of `max_runtime` is for reading, checking and writing."""


def main() -> None:
    """Train the network of this run and write it with its codec."""
    settings = paths.settings("train")
    report = Report("train")
    torch.set_num_threads(cpu_count())
    train(paths.channel("train", "curated"), paths.output("train", "model"), paths.checkpoints(), settings, report)
    report.write(paths.output("train", "model"))


def train(curated: Path, model: Path, checkpoints: Path, settings: dict[str, Any], report: Report) -> None:
    """Fit on the training rows, choose the epoch on the validation rows, look at the test rows once."""
    wanted = (settings.get("spec") or {}).get("train") or {}
    seed = int(settings.get("seed", 7))
    schema = dataset.read_schema(curated)
    kind = kinds.of(schema)
    if kind.trains_itself:
        from ebb_jobs import custom  # only where a script trains

        custom.train(curated, model, checkpoints, settings, report)
        return
    codec = kind.fit_codec(curated, schema, report)
    training, validation = (kind.read_split(curated, split, codec) for split in ("train", "validation"))
    shares = class_shares(schema, training)
    metric = quality.choose(schema["task"], shares, wanted.get("metric"))
    report.decide("metric", metric.value, metric.reason)

    torch.manual_seed(seed)
    network = kind.original(codec, training)
    per_row = int(np.prod(training.inputs.shape[1:]))
    report.decide(
        "network",
        network.describe(),
        f"{len(training)} training rows; {per_row} inputs after encoding",
        numbers={"parameters": network.parameter_count(), "inputs": per_row},
    )
    recipe = _recipe(network, training, metric.value, wanted, seed, kind, codec, report)
    outcome = fitting.fit(
        network,
        training.inputs,
        hard_loss(training, shares, metric.value),
        lambda current: evaluate(current, validation, codec, metric.value),
        recipe,
        augment=kind.augment,
        checkpoint=checkpoints / "original.pt",
        checkpoint_every_s=float(settings.get("checkpoint_every_s", 20)),
    )
    report.decide(
        "stop",
        f"epoch {outcome.epochs}",
        outcome.stopped_because,
        numbers={
            "kept_epoch": outcome.kept_epoch,
            "best_epoch": outcome.best_epoch,
            "seconds": round(outcome.elapsed_s, 2),
        },
    )

    found = {
        split: evaluate(network, rows, codec, metric.value)
        for split, rows in (("validation", validation), ("test", kind.read_split(curated, "test", codec)))
    }
    networks.save(network, model / "original.safetensors")
    for name, content in codec.files().items():
        (model / name).write_bytes(content)
    write_json(model / "schema.json", schema)
    report.fields.update(
        metric=metric.value,
        greater_is_better=quality.greater_is_better(metric.value),
        quality=found,
        epochs=outcome.epochs,
        best_epoch=outcome.best_epoch,
        kept_epoch=outcome.kept_epoch,
        stopped_because=outcome.stopped_because,
        parameters=network.parameter_count(),
        resumed_at_epoch=outcome.resumed_at_epoch,
        precision=recipe.precision,
        device=fitting.device().type,
        fit_seconds=round(outcome.elapsed_s, 3),
    )
    print(f"test {metric.value} {found['test']:.4f}", flush=True)


def class_shares(schema: dict[str, Any], training: Split) -> np.ndarray | None:
    """Return each class's share of the training rows, None for regression."""
    if not training.is_classified:
        return None
    return np.bincount(training.targets, minlength=len(schema["target"]["classes"])) / len(training)


def hard_loss(training: Split, shares: np.ndarray | None, metric: str) -> fitting.Loss:
    """Return the loss against the labels; rare classes weigh more when the metric counts classes alike."""
    targets = torch.from_numpy(training.targets)
    if shares is None:
        return lambda predicted, rows: functional.smooth_l1_loss(
            predicted[:, 0], targets[rows].to(predicted.device), beta=1.0
        )
    weights = None
    if metric in ("f1_macro", "balanced_accuracy"):
        power = 1.0 if metric == "balanced_accuracy" else 0.5  # F1 also counts false alarms: half-way is best for it
        factors = np.maximum(shares, 1e-9) ** -power
        weights = torch.tensor(factors / (factors * shares).sum(), dtype=torch.float32)

    def loss(predicted: Tensor, rows: Tensor) -> Tensor:
        weight = None if weights is None else weights.to(predicted.device)
        return functional.cross_entropy(predicted, targets[rows].to(predicted.device), weight=weight)

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


def fingerprint(*parts: Any) -> str:
    """Return a short name of what decides a training run."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def codec_fingerprint(codec: Codec) -> str:
    """Return a short name of everything that the codec has learned."""
    return fingerprint({name: hashlib.sha256(content).hexdigest() for name, content in codec.files().items()})


def _recipe(
    network: Network,
    training: Split,
    metric: str,
    wanted: dict[str, Any],
    seed: int,
    kind: Kind,
    codec: Codec,
    report: Report,
) -> fitting.Recipe:
    size = kind.recipe.batch_size(len(training))
    budget = durations.seconds(wanted.get("max_runtime"))
    pays, why = fitting.bf16_pays(network, training.inputs, size)
    report.decide("precision", "bfloat16" if pays else "float32", why)
    planned = fitting.epochs(
        len(training), size, kind.recipe.steps, at_least=kind.recipe.min_epochs, at_most=kind.recipe.max_epochs
    )
    return fitting.Recipe(
        metric=metric,
        epochs=int(wanted.get("epochs") or planned),
        batch_size=size,
        peak_rate=kind.recipe.peak_rate,
        weight_decay=kind.recipe.weight_decay,
        seed=seed,
        target=wanted.get("target"),
        budget_s=budget * BUDGET_SHARE if budget else None,
        precision="bfloat16" if pays else "float32",
        name="original",
        fingerprint=fingerprint(codec_fingerprint(codec), network.config(), len(training)),
    )
