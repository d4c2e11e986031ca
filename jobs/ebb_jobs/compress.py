"""Stage `compress`: the original network in; smaller candidates out, as ONNX."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ebb_jobs import dataset, export, fitting, networks, paths, quality, train
from ebb_jobs.dataset import Split
from ebb_jobs.errors import InputMissingError, reason
from ebb_jobs.report import Report, cpu_count, write_json
from ebb_jobs.tabular import Preprocessor

STUDENT_STEPS = 4500
TEMPERATURE = 2.0
SOFT_SHARE = 0.7
MIN_BUDGET_S = 15.0
METHODS = ("distill", "quantize")
STUDENT_SHARES = (0.3, 0.5)
"""Widths to try, as shares of the original's: the wider one only when the narrow one may lose too much."""


def main() -> None:
    """Make the candidates of this run."""
    settings = paths.settings("compress")
    report = Report("compress")
    torch.set_num_threads(cpu_count())
    model = paths.output("compress", "model")
    compress(
        paths.channel("compress", "curated"),
        paths.channel("compress", "original"),
        model,
        paths.checkpoints(),
        settings,
        report,
    )
    report.write(model)


def compress(
    curated: Path, original: Path, model: Path, checkpoints: Path, settings: dict[str, Any], report: Report
) -> None:
    """Write one folder per candidate; a method that fails is listed with its reason and stops nothing else."""
    if not (original / "original.safetensors").exists():
        raise InputMissingError("the channel 'original' holds no original.safetensors: did `train` finish?")
    asked = ((settings.get("spec") or {}).get("compress") or {}).get("methods") or list(METHODS)
    preprocessor = Preprocessor(json.loads((original / "preprocess.json").read_text()))
    teacher = networks.load(original / "original.safetensors")
    trained = json.loads((original / "metrics.json").read_text())
    training, validation = (dataset.read_split(curated, split, preprocessor) for split in ("train", "validation"))
    calibration = training.inputs[
        np.random.default_rng(int(settings.get("seed", 7))).permutation(len(training))[: export.CALIBRATION_ROWS]
    ]
    bench = _Bench(model, validation, preprocessor, trained["metric"], report)

    makers: dict[str, tuple[networks.Mlp, list[str]] | None] = {"original": (teacher, [])}
    if "distill" in asked:
        teach = partial(
            make_student, teacher, training, validation, preprocessor, trained, checkpoints, settings, report
        )
        makers["student"] = bench.attempt("student", ["distill"], teach)
    for name, made in makers.items():
        if made is None:
            continue
        network, chain = made
        if bench.attempt(name, chain, partial(bench.export, name, network, chain)) and "quantize" in asked:
            quantized = [*chain, "quantize"]
            bench.attempt(f"{name}-int8", quantized, partial(bench.quantize, name, calibration, quantized))
    ignored = sorted(set(asked) - set(METHODS))
    if ignored:
        report.decide("methods", ", ".join(METHODS), f"{', '.join(ignored)} brings no speed to networks this small")
    report.fields.update(metric=trained["metric"], candidates=bench.candidates)


def make_student(
    teacher: networks.Mlp,
    training: Split,
    validation: Split,
    preprocessor: Preprocessor,
    trained: dict[str, Any],
    checkpoints: Path,
    settings: dict[str, Any],
    report: Report,
) -> tuple[networks.Mlp, list[str]]:
    """Train a small network twice, taught by the original and by the labels alone; return the better on validation.

    The control keeps distillation honest: it does not always help. When the better one may lose more than the spec
    allows (the bound that selection applies too), a wider student gets the same lesson. Each takes at most half as
    long as the original took.
    """
    metric, seed = trained["metric"], int(settings.get("seed", 7))
    max_drop = float(((settings.get("spec") or {}).get("compress") or {}).get("max_metric_drop", 0.01))
    hard = train.hard_loss(training, train.class_shares(preprocessor, training), metric)
    lessons = {
        "distilled": distillation_loss(networks.raw_outputs(teacher, training.inputs), hard),
        "labels only": hard,
    }

    def learn(lesson: str, share: float) -> tuple[float, networks.Mlp]:
        hidden = student_sizes(teacher, share)
        torch.manual_seed(seed)
        student = networks.Mlp(preprocessor.width, hidden, teacher.sizes[-1])
        size = fitting.batch_size(len(training))
        recipe = fitting.Recipe(
            metric=metric,
            epochs=fitting.epochs(len(training), size, STUDENT_STEPS),
            batch_size=size,
            peak_rate=4e-3,
            seed=seed,
            budget_s=max(MIN_BUDGET_S, 0.5 * float(trained.get("fit_seconds", 0))),
            name=f"student {hidden[0]} ({lesson})",
            fingerprint=f"{lesson} {hidden} {_digest(preprocessor.state)} {_digest(trained['quality'])}",
        )
        outcome = fitting.fit(
            student,
            training.inputs,
            lessons[lesson],
            lambda network: train.evaluate(network, validation, preprocessor, metric),
            recipe,
            checkpoint=checkpoints / f"student-{hidden[0]}-{lesson.split()[0]}.pt",
        )
        return outcome.quality, student

    made = {lesson: learn(lesson, STUDENT_SHARES[0]) for lesson in lessons}
    chosen = "labels only" if quality.is_better(metric, made["labels only"][0], made["distilled"][0]) else "distilled"
    report.decide(
        "student lesson",
        chosen,
        f"{metric} on validation: {made['distilled'][0]:.4f} taught by the original, "
        f"{made['labels only'][0]:.4f} by the labels alone, {trained['quality']['validation']:.4f} the original",
        numbers={lesson: found for lesson, (found, _) in made.items()},
        alternatives=list(lessons),
    )
    truth, taught = train.comparable(networks.predict(teacher, validation.inputs), validation, preprocessor)

    def may_lose(student: networks.Mlp) -> float:
        _, answers = train.comparable(networks.predict(student, validation.inputs), validation, preprocessor)
        return quality.drop_bound(metric, truth, taught, answers, seed=seed)

    tried = [(may_lose(made[chosen][1]), *made[chosen])]
    while tried[-1][0] > max_drop and len(tried) < len(STUDENT_SHARES):
        found, student = learn(chosen, STUDENT_SHARES[len(tried)])
        tried.append((may_lose(student), found, student))
    lost, _, best = min(tried, key=lambda one: one[0])
    report.decide(
        "student size",
        f"2 hidden layers of {best.sizes[1]}",
        "; ".join(
            f"width {student.sizes[1]} reaches {metric} {found:.4f} and may lose {bound:.4f}"
            for bound, found, student in tried
        )
        + f"; {max_drop} may be lost",
        numbers={
            "parameters": best.parameter_count(),
            "may_lose": lost,
            "original_parameters": teacher.parameter_count(),
        },
        alternatives=[f"width {student_sizes(teacher, share)[0]}" for share in STUDENT_SHARES],
    )
    return best, ["distill" if chosen == "distilled" else "shrink"]


def student_sizes(teacher: networks.Mlp, share: float) -> list[int]:
    """Return the student's layers: two instead of three, and a share of the width, in multiples of 16."""
    width = max(32, round(teacher.sizes[1] * share / 16) * 16)
    return [width, width]


def distillation_loss(taught: torch.Tensor, hard: fitting.Loss) -> fitting.Loss:
    """Return the loss against the teacher's outputs, softened, mixed with the labels'."""

    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if outputs.shape[1] == 1:
            soft = functional.smooth_l1_loss(outputs, taught[rows])
        else:
            soft = (
                functional.kl_div(
                    functional.log_softmax(outputs / TEMPERATURE, 1),
                    functional.softmax(taught[rows] / TEMPERATURE, 1),
                    reduction="batchmean",
                )
                * TEMPERATURE**2
            )
        return SOFT_SHARE * soft + (1 - SOFT_SHARE) * hard(outputs, rows)

    return loss


@dataclasses.dataclass
class _Bench:
    """Makes candidates one after the other and keeps the list of what became of each."""

    model: Path
    validation: Split
    preprocessor: Preprocessor
    metric: str
    report: Report
    candidates: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def attempt(self, name: str, chain: list[str], make: Callable[[], Any]) -> Any:
        """Return what `make` returns; a failure is listed and gives None."""
        begun = time.monotonic()
        try:
            return make()
        except Exception as error:
            traceback.print_exc()
            told = reason(error)
            print(f"{name} failed after {time.monotonic() - begun:.1f} s: {told}", flush=True)
            self.candidates.append(
                {
                    "name": name,
                    "chain": chain,
                    "status": "failed",
                    "reason": told,
                    "parameters": None,
                    "size_bytes": None,
                }
            )
            return None

    def export(self, name: str, network: networks.Mlp, chain: list[str]) -> bool:
        """Write the network as fp32 ONNX and prove it equal."""
        file = self._file(name)
        export.to_onnx(network, file)
        difference = export.verify(network, file, self.validation.inputs[:512])
        self._list(name, network.parameter_count(), f"ONNX differs from PyTorch by at most {difference:.1e}", chain)
        return True

    def quantize(self, name: str, calibration: np.ndarray, chain: list[str]) -> bool:
        """Write the 8-bit form of the candidate `name`."""
        file = self._file(f"{name}-int8")
        kind = export.quantize(self._file(name), file, calibration)
        parameters = next(item["parameters"] for item in self.candidates if item["name"] == name)
        self._list(
            f"{name}-int8", parameters, f"{kind} quantization, calibrated on {len(calibration)} training rows", chain
        )
        return True

    def _file(self, name: str) -> Path:
        folder = self.model / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "network.onnx"

    def _list(self, name: str, parameters: int, reason: str, chain: list[str]) -> None:
        file = self._file(name)
        found = train.judge(
            export.run(export.session(file), self.validation.inputs), self.validation, self.preprocessor, self.metric
        )
        candidate: dict[str, Any] = {
            "name": name,
            "chain": chain,
            "status": "finished",
            "reason": reason,
            "parameters": parameters,
            "size_bytes": file.stat().st_size,
            "precision": "int8" if "quantize" in chain else "float32",
            "quality": {"validation": found},
        }
        write_json(file.parent / "candidate.json", candidate)
        self.candidates.append(candidate)
        print(
            f"{name}: {candidate['size_bytes'] / 1024:.0f} KiB, validation {self.metric} {found:.4f}; {reason}",
            flush=True,
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
