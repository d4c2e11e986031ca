"""Stage `train`: curated data in, the original network out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ebb_jobs import dataset, durations, fitting, networks, paths, quality
from ebb_jobs.dataset import Split
from ebb_jobs.infer import CLASSIFICATION
from ebb_jobs.report import Report, cpu_count, write_json
from ebb_jobs.tabular import Preprocessor

STEPS = 5000
BUDGET_SHARE = 0.85
"""The rest of `max_runtime` is for reading, checking and writing."""


def main() -> None:
    """Train the network of this run and write it with its preprocessing."""
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
    preprocessor = _fit_preprocessor(curated, schema, report)
    training, validation = (dataset.read_split(curated, split, preprocessor) for split in ("train", "validation"))
    shares = class_shares(preprocessor, training)
    metric = quality.choose(schema["task"], shares, wanted.get("metric"))
    report.decide("metric", metric.value, metric.reason)

    torch.manual_seed(seed)
    network = networks.Mlp(preprocessor.width, networks.hidden_sizes(len(training)), outputs(preprocessor))
    report.decide(
        "network",
        f"{len(network.sizes) - 2} hidden layers of {network.sizes[1]}",
        f"{len(training)} training rows; {preprocessor.width} inputs after encoding",
        numbers={"parameters": network.parameter_count(), "inputs": preprocessor.width},
    )
    recipe = _recipe(network, training, metric.value, wanted, seed, preprocessor, report)
    outcome = fitting.fit(
        network,
        training.inputs,
        hard_loss(training, shares, metric.value),
        lambda current: evaluate(current, validation, preprocessor, metric.value),
        recipe,
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
        split: evaluate(network, rows, preprocessor, metric.value)
        for split, rows in (("validation", validation), ("test", dataset.read_split(curated, "test", preprocessor)))
    }
    networks.save(network, model / "original.safetensors")
    write_json(model / "preprocess.json", preprocessor.state)
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
        fit_seconds=round(outcome.elapsed_s, 3),
    )
    print(f"test {metric.value} {found['test']:.4f}", flush=True)


def outputs(preprocessor: Preprocessor) -> int:
    """Return the width of the network's output: one per class, or one."""
    return len(preprocessor.state["target"].get("classes", [0]))


def class_shares(preprocessor: Preprocessor, training: Split) -> np.ndarray | None:
    """Return each class's share of the training rows, None for regression."""
    if preprocessor.state["task"] != CLASSIFICATION:
        return None
    return np.bincount(training.targets, minlength=outputs(preprocessor)) / len(training)


def hard_loss(training: Split, shares: np.ndarray | None, metric: str) -> fitting.Loss:
    """Return the loss against the labels; rare classes weigh more when the metric counts classes alike."""
    targets = torch.from_numpy(training.targets)
    if shares is None:
        return lambda predicted, rows: functional.smooth_l1_loss(predicted[:, 0], targets[rows], beta=1.0)
    weights = None
    if metric in ("f1_macro", "balanced_accuracy"):
        power = 1.0 if metric == "balanced_accuracy" else 0.5  # F1 also counts false alarms: half-way is best for it
        factors = np.maximum(shares, 1e-9) ** -power
        weights = torch.tensor(factors / (factors * shares).sum(), dtype=torch.float32)
    return lambda predicted, rows: functional.cross_entropy(predicted, targets[rows], weight=weights)


def evaluate(network: networks.Mlp, rows: Split, preprocessor: Preprocessor, metric: str) -> float:
    """Return the metric of a network in eager fp32."""
    return judge(networks.predict(network, rows.inputs), rows, preprocessor, metric)


def judge(predicted: np.ndarray, rows: Split, preprocessor: Preprocessor, metric: str) -> float:
    """Return the metric of outputs, in the target's own unit."""
    return quality.score(metric, *comparable(predicted, rows, preprocessor))


def comparable(predicted: np.ndarray, rows: Split, preprocessor: Preprocessor) -> tuple[np.ndarray, np.ndarray]:
    """Return truth and prediction as the metrics take them."""
    if preprocessor.state["task"] == CLASSIFICATION:
        return rows.targets, predicted
    return rows.raw_targets.astype(np.float64), preprocessor.decode_values(predicted)


def _fit_preprocessor(curated: Path, schema: dict[str, Any], report: Report) -> Preprocessor:
    target = schema["target"]["name"]
    columns = dataset.read_columns(curated, "train", [*(feature["name"] for feature in schema["features"]), target])
    preprocessor = Preprocessor.fit(schema, columns, columns.pop(target))
    fitted = preprocessor.state["target"]
    if "classes" not in fitted:
        report.decide(
            "target scale",
            "logarithm" if fitted["log"] else "plain",
            "the target is standardised" + (" after a logarithm, which halves its skew" if fitted["log"] else ""),
            numbers={"skew": fitted["skew"], "skew_of_log": fitted["skew_of_log"]},
        )
    return preprocessor


def _recipe(
    network: networks.Mlp,
    training: Split,
    metric: str,
    wanted: dict[str, Any],
    seed: int,
    preprocessor: Preprocessor,
    report: Report,
) -> fitting.Recipe:
    size = fitting.batch_size(len(training))
    budget = durations.seconds(wanted.get("max_runtime"))
    torch.set_num_threads(fitting.threads(network, size, cpu_count()))
    pays, why = fitting.bf16_pays(network, training.inputs, size)
    report.decide("precision", "bfloat16" if pays else "float32", why)
    described = json.dumps([preprocessor.state, network.sizes, len(training)], sort_keys=True)
    recipe = fitting.Recipe(
        metric=metric,
        epochs=int(wanted.get("epochs") or fitting.epochs(len(training), size, STEPS)),
        batch_size=size,
        seed=seed,
        target=wanted.get("target"),
        budget_s=budget * BUDGET_SHARE if budget else None,
        name="original",
        fingerprint=hashlib.sha256(described.encode()).hexdigest()[:16],
    )
    return replace(recipe, precision="bfloat16" if pays else "float32")
