"""Stage `compile`: candidates in; ONNX Runtime bundles, each measured against the original, out."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from ebb_jobs import bundle, champion, dataset, export, measure, paths, quality, serve, train
from ebb_jobs.dataset import Split
from ebb_jobs.eager import EagerOriginal
from ebb_jobs.errors import InputMissingError, JobError, reason
from ebb_jobs.report import Report, cpu_count, write_json
from ebb_jobs.tabular import Preprocessor

SAVED_MAY_BE_SLOWER = 1.05
PROOF_ROWS = 64


@dataclass
class Candidate:
    """One candidate on its way from network to measured bundle."""

    made: dict[str, Any]
    folder: Path
    model: serve.Model | None = None
    fallback: str | None = None
    form: str = ""
    failure: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the candidate's name."""
        return self.made["name"]


@dataclass(frozen=True)
class Rows:
    """The rows that everything is measured on."""

    validation: Split
    test: Split
    raw: list[dict[str, Any]]
    preprocessor: Preprocessor
    metric: str
    seed: int

    def judge(self, model: measure.Answers) -> Judged:
        """Return quality and the band in which chance moves it."""
        truth, predicted = self._answers(model, self.validation)
        return Judged(
            truth,
            predicted,
            {
                "quality": {
                    "validation": quality.score(self.metric, truth, predicted),
                    "test": quality.score(self.metric, *self._answers(model, self.test)),
                },
                "quality_interval": quality.interval(self.metric, truth, predicted, seed=self.seed),
                "validation_rows": len(truth),
            },
        )

    def drop_bound(self, original: Judged, candidate: Judged) -> float:
        """Return how much worse than the original the candidate may be: see `quality.drop_bound`."""
        return quality.drop_bound(self.metric, original.truth, original.predicted, candidate.predicted, seed=self.seed)

    def _answers(self, model: measure.Answers, split: Split) -> tuple[np.ndarray, np.ndarray]:
        return train.comparable(_outputs(model, split.inputs), split, self.preprocessor)


@dataclass(frozen=True)
class Judged:
    """A model's answers on the validation rows, and what they are worth."""

    truth: np.ndarray
    predicted: np.ndarray
    fields: dict[str, Any]


def main() -> None:
    """Compile, measure and pack every candidate of this run."""
    settings = paths.settings("compile")
    report = Report("compile")
    torch.set_num_threads(cpu_count())
    with tempfile.TemporaryDirectory() as work:
        compile_candidates(
            {name: paths.channel("compile", name) for name in ("curated", "original", "candidates", "champion")},
            paths.output("compile", "bundles"),
            settings,
            report,
            Path(work),
        )
    report.write(paths.output("compile", "report"))


def compile_candidates(
    channels: dict[str, Path], bundles: Path, settings: dict[str, Any], report: Report, work: Path
) -> None:
    """Write a bundle per candidate and measure them all; what fails is listed with its reason and its fallback."""
    original, seed = channels["original"], int(settings.get("seed", 7))
    trained = json.loads((original / "metrics.json").read_text())
    schema = dataset.read_schema(original)
    eager = EagerOriginal(original)
    rows = _rows(channels["curated"], eager.preprocessor, trained["metric"], seed)
    candidates = [
        _compiled(made, channels["candidates"], work, eager.preprocessor, schema, settings, rows, report)
        for made in _made(channels["candidates"])
    ]

    figures = _race(eager, [one for one in candidates if one.model], rows, report)
    original_judged = rows.judge(eager)
    for one in candidates:
        if one.model:
            _finish(one, bundles, rows, original_judged)
    if all(one.failure for one in candidates):
        told = "; ".join(f"{one.name}: {one.failure}" for one in candidates)
        raise JobError(f"no candidate could be compiled and served: {told}")
    max_drop = float(((settings.get("spec") or {}).get("compress") or {}).get("max_metric_drop", 0.01))
    measured_original = {
        **original_judged.fields,
        **figures,
        "size_bytes": (original / "original.safetensors").stat().st_size,
        "memory_mib": measure.eager_memory_mib(original),
        "parameters": trained["parameters"],
    }
    floor, rule = quality.floor(trained["metric"], measured_original["quality"]["validation"], max_drop)
    report.decide(
        "floor",
        round(floor, 6),
        f"{trained['metric']} of the original may "
        f"{'fall by' if rule == 'absolute' else 'grow by the share'} {max_drop}",
        numbers={"original": measured_original["quality"]["validation"], "max_metric_drop": max_drop},
    )
    report.fields.update(
        metric=trained["metric"],
        greater_is_better=quality.greater_is_better(trained["metric"]),
        floor_rule=rule,
        floor=floor,
        original=measured_original,
        candidates=[_listed(one) for one in candidates],
        champion=champion.judge(channels["champion"], channels["curated"], trained["metric"], schema, work),
        example={"features": eager.preprocessor.columns},
    )


def _rows(curated: Path, preprocessor: Preprocessor, metric: str, seed: int) -> Rows:
    splits = {split: dataset.read_split(curated, split, preprocessor) for split in ("validation", "test")}
    raw = dataset.rows_of(dataset.read_columns(curated, "test", preprocessor.columns, limit=512), 512)
    return Rows(splits["validation"], splits["test"], raw, preprocessor, metric, seed)


def _made(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.json"
    if not file.exists():
        raise InputMissingError("the channel 'candidates' holds no metrics.json: did `compress` finish?")
    return json.loads(file.read_text())["candidates"]


def _compiled(
    made: dict[str, Any],
    candidates: Path,
    work: Path,
    preprocessor: Preprocessor,
    schema: dict[str, Any],
    settings: dict[str, Any],
    rows: Rows,
    report: Report,
) -> Candidate:
    """Prepare model.onnx and signature.json in a folder of their own, and open them as the server will."""
    one = Candidate(made, work / made["name"])
    if made["status"] != "finished":
        one.failure = f"not made by compress: {made['reason']}"
        return one
    one.folder.mkdir()
    network = candidates / made["name"] / "network.onnx"
    write_json(one.folder / "preprocess.json", preprocessor.state)
    signature = {
        "version": 1,
        "candidate": one.name,
        "run_id": settings.get("run_id"),
        "task": schema["task"],
        "target": schema["target"]["name"],
        "classes": schema["target"].get("classes"),
        "columns": schema["columns"],
        "features": [{key: feature[key] for key in ("name", "kind")} for feature in schema["features"]],
        "input": {"name": "features", "width": preprocessor.width},
        "optimise_when_loading": True,
    }
    try:
        signature["optimise_when_loading"] = _optimise(one, network, rows.validation.inputs, report)
    except Exception as error:  # onnxruntime raises its own kinds; the unoptimised network always remains
        shutil.copyfile(network, one.folder / "model.onnx")
        signature["optimise_when_loading"] = False
        one.form, one.fallback = "as exported", f"optimisation failed ({type(error).__name__}): served as exported"
        report.decide(f"compile {one.name}", one.form, one.fallback)
    write_json(one.folder / "signature.json", signature)
    try:
        one.model = serve.Model(one.folder)
        one.model.run(rows.validation.inputs[:1])
    except Exception as error:
        one.model, one.failure = None, f"ONNX Runtime cannot run it: {type(error).__name__}"
    return one


def _optimise(one: Candidate, network: Path, inputs: np.ndarray, report: Report) -> bool:
    """Put the faster form into model.onnx; return whether the server optimises it while loading."""
    saved = one.folder / "saved.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # tied to no one CPU
    options.optimized_model_filepath = str(saved)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    opened = {}
    figures = {}
    for form, file, optimise in (("saved", saved, False), ("loading", network, True)):
        begun = time.perf_counter()
        opened[form] = export.session(file, optimise=optimise)
        figures[f"{form}_load_ms"] = round((time.perf_counter() - begun) * 1000, 3)
    for form, session in opened.items():
        seconds = measure.median_single_s(partial(export.run, session), inputs)
        figures[f"{form}_p50_ms"] = round(seconds * 1000, 5)
    ahead = figures["saved_p50_ms"] <= figures["loading_p50_ms"] * SAVED_MAY_BE_SLOWER
    one.form = "optimised ahead of time" if ahead else "optimised while loading"
    shutil.copyfile(saved if ahead else network, one.folder / "model.onnx")
    report.decide(
        f"compile {one.name}",
        one.form,
        "saved graph against optimising at each start: "
        f"{figures['saved_p50_ms']:.4f} and {figures['loading_p50_ms']:.4f} ms per row, "
        f"{figures['saved_load_ms']:.1f} and {figures['loading_load_ms']:.1f} ms to load",
        numbers=figures,
        alternatives=["optimised ahead of time", "optimised while loading", "as exported"],
    )
    return not ahead


def _race(eager: EagerOriginal, candidates: list[Candidate], rows: Rows, report: Report) -> dict[str, Any]:
    """Measure all against the original with one and with two threads; return the original's best figures."""
    cpus = cpu_count()
    originals = [
        measure.Contender(f"{count} thread{'s' * (count > 1)}", eager, partial(torch.set_num_threads, count))
        for count in sorted({1, min(2, cpus)})
    ]
    contenders = {one.name: measure.Contender(one.name, one.model) for one in candidates if one.model}
    measure.race([*originals, *contenders.values()], rows.test.inputs, rows.raw)
    torch.set_num_threads(cpus)
    for one in candidates:
        one.fields.update(contenders[one.name].figures())
    best, chosen = measure.best_figures(originals)
    for what, figure, unit in (
        ("latency", lambda found: found["latency_ms"]["p50"], "least latency"),
        ("throughput", lambda found: found["throughput_rows_per_s"], "most rows per second"),
        ("energy", lambda found: found["cpu_ms_per_prediction"], "least CPU time per prediction"),
    ):
        report.decide(
            f"{what} baseline",
            f"eager PyTorch fp32, {chosen[what]}",
            f"the {unit} of the original's thread counts is what candidates are compared with",
            numbers={contender.name: figure(contender.figures()) for contender in originals},
        )
    return best


def _finish(one: Candidate, bundles: Path, rows: Rows, original: Judged) -> None:
    """Judge the candidate, pack it, and let the packed bundle prove over HTTP that it answers as measured."""
    assert one.model is not None
    archive = bundles / one.name / "model.tar.gz"
    try:
        digest = bundle.write(archive, one.folder / "model.onnx", rows.preprocessor.state, one.model.signature)
        asked = rows.raw[:PROOF_ROWS]
        expected = one.model.predict({name: [row[name] for row in asked] for name in asked[0]})
        memory = bundle.prove(archive, asked, expected)
        judged = rows.judge(one.model)
        one.fields.update(
            judged.fields,
            drop_bound=rows.drop_bound(original, judged),
            memory_mib=round(memory, 1),
            size_bytes=(one.folder / "model.onnx").stat().st_size,
            bundle_bytes=archive.stat().st_size,
            bundle=str(archive.relative_to(bundles)),
            sha256=digest,
        )
    except Exception as error:
        shutil.rmtree(archive.parent, ignore_errors=True)
        traceback.print_exc()
        one.failure = reason(error)
    told = one.failure or f"{one.fields['size_bytes'] / 1024:.0f} KiB, p50 {one.fields['latency_ms']['p50']:.4f} ms"
    print(f"{one.name}: {told}", flush=True)


def _listed(one: Candidate) -> dict[str, Any]:
    common = {
        "name": one.name,
        "chain": [*one.made["chain"], "compile"],
        "parameters": one.made.get("parameters"),
        "precision": one.made.get("precision"),
        "form": one.form,
        "fallback": one.fallback,
    }
    if one.failure:
        return {**common, "status": "failed", "reason": one.failure}
    return {**common, "status": "measured", "reason": f"{one.made['reason']}; {one.form}", **one.fields}


def _outputs(model: measure.Answers, inputs: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            model.run(np.ascontiguousarray(inputs[start : start + dataset.CHUNK_ROWS]))
            for start in range(0, len(inputs), dataset.CHUNK_ROWS)
        ]
    )
