"""Stage `compile`: candidates in; bundles for the runtimes, each measured against the original, out."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebb_jobs import (
    bundle,
    capture,
    champion,
    dataset,
    elsewhere,
    export,
    heats,
    kinds,
    measure,
    paths,
    quality,
    reference,
    runtimes,
    serve,
)
from ebb_jobs import sample_payload as sample
from ebb_jobs.as_exported import ExportedOriginal
from ebb_jobs.eager import EagerOriginal
from ebb_jobs.errors import InputMissingError, JobError, reason
from ebb_jobs.judging import Judged, Rows
from ebb_jobs.kind import Codec, Kind
from ebb_jobs.report import Report, cpu_count, write_json

SAVED_MAY_BE_SLOWER = 1.05
PROOF_ROWS = 64
RACED_ROWS = 512
LANE_ROUNDS, LANE_BATCHES, LANE_S, LANES_MUST_GAIN = 3, 4, 0.3, 1.25
"""How often, and how long, a batch is answered to learn whether sharing it pays, and how much faster it must be."""
SINGLE_ROWS_JUDGED_S = 30.0
"""A network whose scales depend on the request is judged row by row up to this time, and otherwise in batches."""
MEASURED, FAILED, DROPPED = "measured", "failed", "dropped"
BFLOAT16 = "bf16"


@dataclass
class Candidate:
    """One candidate on its way from network to measured bundle."""

    made: dict[str, Any]
    runtime: str
    name: str
    folder: Path
    model: serve.Model | None = None
    fallback: str | None = None
    form: str = ""
    status: str = MEASURED
    worth_packing: bool = True
    reason: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    mistakes: dict[str, Any] | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    """For the validation rows, as `reference.json` tells them."""

    precision: str | None = None
    """Of the runtime's arithmetic, where it is not the network's own."""

    def fail(self, told: str, status: str = FAILED) -> None:
        """Take the candidate out of the race."""
        self.model, self.status, self.reason = None, status, told

    @property
    def is_original(self) -> bool:
        """Tell the forms of the network that was trained, which always compete, from those of other networks."""
        return set(self.made["chain"]) <= {"quantize"} and self.precision is None


@dataclass(frozen=True)
class Baseline:
    """The original as it would be served without Ebb, in the forms of which every use would take its best."""

    described: str
    file: Path
    module: str
    forms: dict[str, tuple[measure.Answers, Callable[[], None]]]
    """Name -> the model, and what is to be done before each of its turns."""

    @property
    def model(self) -> measure.Answers:
        """Return the form that is judged; all give the same answers."""
        return next(iter(self.forms.values()))[0]


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
    """Write a bundle per candidate and runtime and measure them all; what fails is listed with reason and fallback."""
    original, seed = channels["original"], int(settings.get("seed", 7))
    schema = dataset.read_schema(original)
    kind = kinds.of(schema)
    if kind.trains_itself and not (original / "original.onnx").exists():
        from ebb_jobs import custom  # only where a script trained and exported nothing

        custom.compile_as_is(channels, bundles, settings, report, work)
        elsewhere.refuse(
            settings, "the model is served by its own code, as it is: there is no network to compile", report
        )
        return
    trained = json.loads((original / "metrics.json").read_text())
    codec = kind.open_codec(original)
    held = original if kind.trains_itself else channels["curated"]  # a script exports its held-out rows
    rows = _rows(kind, held, codec, trained["metric"], seed, schema["target"].get("classes"))
    baseline = _baseline(original, codec)
    judged = rows.judge(baseline.model)
    _same_as_trained(trained, judged)
    max_drop = float(((settings.get("spec") or {}).get("compress") or {}).get("max_metric_drop", 0.01))
    floor, rule = quality.floor(trained["metric"], judged.validation, max_drop)
    report.decide(
        "floor",
        round(floor, 6),
        f"{trained['metric']} of the original may "
        f"{'fall by' if rule == 'absolute' else 'grow by the share'} {max_drop}",
        numbers={"original": judged.validation, "max_metric_drop": max_drop},
    )

    maker = _Maker(kind, codec, schema, settings, channels["candidates"], work, rows, report)
    candidates = maker.all()
    _heat(candidates, rows, report)
    figures = _race(baseline, [one for one in candidates if one.model], rows, report)
    known = _known(kind, codec, held, report)
    for one in candidates:
        if one.model:
            _judge(one, rows, judged, floor)
        if one.model and one.worth_packing:
            _pack(one, kind, codec, bundles, rows, known)
        told = one.reason or f"{one.fields['size_bytes'] / 1024:.0f} KiB, p50 {one.fields['latency_ms']['p50']:.4f} ms"
        print(f"{one.name}: {told}", flush=True)
    if all(one.status != MEASURED for one in candidates):
        told = "; ".join(f"{one.name}: {one.reason}" for one in candidates)
        raise JobError(f"no candidate could be compiled and served: {told}")
    elsewhere.make(settings, original, channels["candidates"], bundles, rows.validation.inputs, report)
    report.fields.update(
        metric=trained["metric"],
        greater_is_better=quality.greater_is_better(trained["metric"]),
        floor_rule=rule,
        floor=floor,
        original={
            **judged.fields,
            **figures,
            "described": baseline.described,
            "size_bytes": baseline.file.stat().st_size,
            "memory_mib": measure.fresh_memory_mib(baseline.module, original, rows.test.inputs[:1]),
            "parameters": trained["parameters"],
        },
        candidates=[_listed(one) for one in candidates],
        mistakes={"original": judged.mistakes, "of": {one.name: one.mistakes for one in candidates if one.mistakes}},
        skipped=maker.skipped(),
        champion=champion.judge(channels["champion"], held, trained["metric"], schema, work),
        sample_payload=sample.write(bundles, kind, codec, held),
        example={"features": [feature["name"] for feature in schema["features"]]},
    )


def _same_as_trained(trained: dict[str, Any], judged: Judged) -> None:
    """Raise JobError when the original is not what `train` measured: candidates would be judged by a wrong floor."""
    metric, then = trained["metric"], trained["quality"]["validation"]
    if quality.differs(metric, then, judged.validation, rows=len(judged.truth)):
        raise JobError(
            f"the original answers otherwise than when it was trained: validation {metric} {judged.validation:.4f}, "
            f"{then:.4f} then. The job code has another version, or the weights are damaged: run it anew with "
            "ebb drop --force"
        )


def _rows(kind: Kind, held: Path, codec: Codec, metric: str, seed: int, labels: list[Any] | None) -> Rows:
    splits = {split: kind.read_split(held, split, codec) for split in ("validation", "test")}
    singles = kind.singles(held, "test", codec, RACED_ROWS)
    return Rows(splits["validation"], splits["test"], singles, codec, metric, seed, labels)


def _baseline(original: Path, codec: Codec) -> Baseline:
    """Return the original with one and with two threads: a network of ours, or what a script exported."""
    counts = {f"{count} thread{'s' * (count > 1)}": count for count in sorted({1, min(2, cpu_count())})}
    forms: dict[str, tuple[measure.Answers, Callable[[], None]]]
    if (original / "original.safetensors").exists():
        eager = EagerOriginal(original, codec)
        forms = {name: (eager, partial(torch.set_num_threads, count)) for name, count in counts.items()}
        return Baseline("eager PyTorch fp32", original / "original.safetensors", "ebb_jobs.eager", forms)
    forms = {name: (ExportedOriginal(original, codec, count), lambda: None) for name, count in counts.items()}
    return Baseline("ONNX Runtime, as exported", original / "original.onnx", "ebb_jobs.as_exported", forms)


@dataclass(frozen=True)
class _Maker:
    """Turns what compress made into candidates, one per runtime."""

    kind: Kind
    codec: Codec
    schema: dict[str, Any]
    settings: dict[str, Any]
    source: Path
    work: Path
    rows: Rows
    report: Report

    def all(self) -> list[Candidate]:
        """Return every candidate, opened as the server will open it, or failed."""
        file = self.source / "metrics.json"
        if not file.exists():
            raise InputMissingError("the channel 'candidates' holds no metrics.json: did `compress` finish?")
        return [
            self._one(made, runtime, precision)
            for made in json.loads(file.read_text())["candidates"]
            for runtime, precision in self._runtimes(made)
        ]

    def skipped(self) -> list[dict[str, str]]:
        """Return what was not tried and why, compress's part included."""
        told = json.loads((self.source / "metrics.json").read_text()).get("skipped", [])
        return [
            *told,
            *({"what": what, "reason": why} for what, why in self.kind.skipped.items() if what == "openvino"),
        ]

    def _runtimes(self, made: dict[str, Any]) -> list[tuple[str, str | None]]:
        """Return the runtimes for one network: OpenVINO has no operators for scales that are found while running.

        It computes in bfloat16 as well, where this CPU has units for it and the network is not in 8 bits already.
        """
        alone = made["status"] != "finished" or made.get("dynamic")
        found: list[tuple[str, str | None]] = [(name, None) for name in self.kind.runtimes[: 1 if alone else None]]
        if "openvino" in dict(found) and made.get("precision") == "float32" and runtimes.has_bfloat16():
            found.append(("openvino", BFLOAT16))
        return found

    def _one(self, made: dict[str, Any], runtime: str, precision: str | None = None) -> Candidate:
        first = runtime == self.kind.runtimes[0]
        name = "-".join(filter(None, (made["name"], None if first else runtime, precision)))
        one = Candidate(made, runtime, name, self.work / name, precision=precision)
        if made["status"] != "finished":
            one.fallback = made.get("fallback")
            one.fail(f"not made by compress: {made['reason']}", DROPPED if made["status"] == DROPPED else FAILED)
            return one
        one.folder.mkdir()
        optimise = True
        try:
            if runtime == "openvino":
                export.to_openvino(self.source / made["name"] / "network.onnx", one.folder / "model.xml")
                one.form = f"compiled by OpenVINO {runtimes.version('openvino')}"
                one.form += f" for {precision}" if precision else ""
            else:
                optimise = self._optimise(one)
            for file, content in self.codec.files().items():
                (one.folder / file).parent.mkdir(exist_ok=True)  # code/, which a script's own codec may bring
                (one.folder / file).write_bytes(content)
            write_json(one.folder / "signature.json", self._signature(one, optimise))
            one.model = serve.Model(one.folder, self.kind.open_codec(one.folder))
            one.model.run(self.rows.validation.inputs[:1])
            self._share_batches(one)
        except Exception as error:
            traceback.print_exc()
            one.fallback = one.fallback if first else f"{made['name']}, on {self.kind.runtimes[0]}, stands in"
            one.fail(f"{runtime} cannot run it: {type(error).__name__}")
        return one

    def _share_batches(self, one: Candidate) -> None:
        """Let the CPUs share a batch where a batch is answered the faster for it; the signature says so."""
        model, lanes = one.model, runtimes.cpus()
        assert model is not None
        if lanes == 1 or one.runtime != "onnxruntime":  # OpenVINO has streams of its own
            return
        batch = np.array(self.rows.validation.inputs[np.arange(measure.BATCH_ROWS) % len(self.rows.validation)])
        alone: list[float] = []
        shared: list[float] = []
        for _ in range(LANE_ROUNDS):
            for count, taken in ((1, alone), (lanes, shared)):
                model.lanes = count
                taken.append(min(measure.times(model.run, [batch], LANE_BATCHES, most_s=LANE_S)))
        gain = float(np.median(alone) / np.median(shared))
        model.lanes = lanes if gain >= LANES_MUST_GAIN else 1
        model.signature["lanes"] = model.lanes
        write_json(one.folder / "signature.json", model.signature)
        one.form += f", batches shared by {lanes} CPUs ({gain:.1f} times as fast)" if model.lanes > 1 else ""

    def _signature(self, one: Candidate, optimise: bool) -> dict[str, Any]:
        inputs = self.rows.validation.inputs
        return {
            "version": 1,
            "candidate": one.name,
            "run_id": self.settings.get("run_id"),
            "kind": self.kind.name,
            "codec": self.kind.codec_module,
            "runtime": one.runtime,
            "runtime_version": runtimes.version(one.runtime),
            "runtime_precision": one.precision,
            "task": self.schema["task"],
            "target": self.schema["target"]["name"],
            "classes": self.schema["target"].get("classes"),
            "columns": self.schema["columns"],
            "features": [{key: feature[key] for key in ("name", "kind")} for feature in self.schema["features"]],
            "input": {"name": export.INPUT, "shape": list(inputs.shape[1:]), "dtype": str(inputs.dtype)},
            "optimise_when_loading": optimise,
        }

    def _optimise(self, one: Candidate) -> bool:
        """Put the faster form of the graph into model.onnx; return whether the server optimises it while loading."""
        network = self.source / one.made["name"] / "network.onnx"
        try:
            ahead = self._ahead_pays(one, network)
        except Exception as error:  # onnxruntime raises its own kinds; the unoptimised network always remains
            shutil.copyfile(network, one.folder / "model.onnx")
            one.form, one.fallback = "as exported", f"optimisation failed ({type(error).__name__}): served as exported"
            self.report.decide(f"compile {one.name}", one.form, one.fallback)
            return False
        return not ahead

    def _ahead_pays(self, one: Candidate, network: Path) -> bool:
        """Put the graph as saved after optimisation into model.onnx if it is as fast as one optimised while loading."""
        saved = one.folder / "saved.onnx"
        export.optimise(network, saved)
        opened = {}
        figures = {}
        for form, file, optimise in (("saved", saved, False), ("loading", network, True)):
            begun = time.perf_counter()
            opened[form] = export.session(file, optimise=optimise)
            figures[f"{form}_load_ms"] = round((time.perf_counter() - begun) * 1000, 3)
        for form, session in opened.items():
            seconds = measure.median_single_s(session.run, self.rows.validation.inputs)
            figures[f"{form}_p50_ms"] = round(seconds * 1000, 5)
        ahead = figures["saved_p50_ms"] <= figures["loading_p50_ms"] * SAVED_MAY_BE_SLOWER
        one.form = "optimised ahead of time" if ahead else "optimised while loading"
        shutil.copyfile(saved if ahead else network, one.folder / "model.onnx")
        self.report.decide(
            f"compile {one.name}",
            one.form,
            "saved graph against optimising at each start: "
            f"{figures['saved_p50_ms']:.4f} and {figures['loading_p50_ms']:.4f} ms per row, "
            f"{figures['saved_load_ms']:.1f} and {figures['loading_load_ms']:.1f} ms to load",
            numbers=figures,
            alternatives=["optimised ahead of time", "optimised while loading", "as exported"],
        )
        return ahead


def _heat(candidates: list[Candidate], rows: Rows, report: Report) -> None:
    """Take out of the race what another candidate clearly beats, by a short look at all of them."""
    running = {one.name: one for one in candidates if one.model}
    seconds = heats.times({name: one.model for name, one in running.items() if one.model}, rows.test.inputs)
    glances = {
        name: heats.Glance(
            float(one.made["quality"]["validation"]), *seconds[name], sum(file.stat().st_size for file in _files(one))
        )
        for name, one in running.items()
    }
    kept = frozenset(name for name, one in running.items() if one.is_original)
    out = heats.dominated(glances, kept, _full_precisions(running), rows.metric)
    for name, told in out.items():
        running[name].fail(told, DROPPED)
    report.decide(
        "heat",
        f"{len(running) - len(out)} of {len(running)} candidates race",
        "dropped by a short look: " + (", ".join(out) or "none"),
        numbers={name: round(single * 1000, 5) for name, (single, _) in seconds.items()},
    )


def _full_precisions(candidates: dict[str, Candidate]) -> dict[str, str]:
    """Return, for each candidate in 8 bits, the same network in float32 in the same runtime."""
    float32 = {
        (tuple(one.made["chain"]), one.runtime): name
        for name, one in candidates.items()
        if one.made.get("precision") == "float32" and one.precision is None
    }
    found = {
        name: float32.get((tuple(step for step in one.made["chain"] if step != "quantize"), one.runtime))
        for name, one in candidates.items()
        if one.made.get("precision") == "int8"
    }
    return {name: full for name, full in found.items() if full}


def _files(one: Candidate) -> list[Path]:
    return [one.folder / name for name in runtimes.FILES[one.runtime]]


def _race(baseline: Baseline, candidates: list[Candidate], rows: Rows, report: Report) -> dict[str, Any]:
    """Measure all against the original with one and with two threads; return the original's best figures."""
    originals = [measure.Contender(name, model, before) for name, (model, before) in baseline.forms.items()]
    contenders = {one.name: measure.Contender(one.name, one.model) for one in candidates if one.model}
    measure.race([*originals, *contenders.values()], rows.test.inputs, rows.singles)
    torch.set_num_threads(cpu_count())
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
            f"{baseline.described}, {chosen[what]}",
            f"the {unit} of the original's thread counts is what candidates are compared with",
            numbers={contender.name: figure(contender.figures()) for contender in originals},
        )
    return best


def _judge(one: Candidate, rows: Rows, original: Judged, floor: float) -> None:
    """Tell what the candidate is worth, and whether that is enough for a bundle."""
    assert one.model is not None
    try:
        alone = bool(one.made.get("dynamic")) and _quickly(one, rows)
        judged = rows.judge(one.model, alone=alone, at_once=runtimes.cpus())
    except Exception as error:
        traceback.print_exc()
        one.fail(reason(error))
        return
    one.fields.update(
        judged.fields,
        drop_bound=rows.drop_bound(original, judged),
        size_bytes=sum(file.stat().st_size for file in _files(one)),
    )
    one.mistakes = judged.mistakes
    one.answers = reference.answers(judged.predicted, rows.labels)
    if quality.is_better(rows.metric, floor, judged.validation):
        one.worth_packing = False
        found = f"validation {rows.metric} {judged.validation:.4f}"
        one.reason = f"{found} is worse than the floor {floor:.4f}: measured, not packed"


def _quickly(one: Candidate, rows: Rows) -> bool:
    """Tell whether the candidate can be judged row by row: by its speed in the race."""
    count = len(rows.validation) + len(rows.test)
    return bool(one.fields["latency_ms"]["p50"] * count <= SINGLE_ROWS_JUDGED_S * 1000)


def _known(kind: Kind, codec: Codec, held: Path, report: Report) -> dict[str, Any] | None:
    """Return what the training data looked like, None where that cannot be told: a model serves without it as well."""
    try:
        return reference.features(kind, codec, held)
    except Exception as error:
        traceback.print_exc()
        report.decide("reference", "none", f"drift of requests cannot be judged: {reason(error)}")
        return None


def _pack(
    one: Candidate, kind: Kind, codec: Codec, bundles: Path, rows: Rows, known: dict[str, Any] | None = None
) -> None:
    """Pack the candidate and let the packed bundle prove over HTTP that it answers as measured."""
    assert one.model is not None
    archive = bundles / one.name / "model.tar.gz"
    try:
        digest = bundle.write(
            archive,
            _files(one),
            codec.files() | ({capture.REFERENCE: reference.write(known | one.answers)} if known else {}),
            one.model.signature,
            kind.code,
        )
        memory = bundle.prove(archive, kind, codec, rows.singles[:PROOF_ROWS], one.model)
        one.fields.update(
            memory_mib=round(memory, 1),
            bundle_bytes=archive.stat().st_size,
            bundle=str(archive.relative_to(bundles)),
            sha256=digest,
        )
    except Exception as error:
        shutil.rmtree(archive.parent, ignore_errors=True)
        traceback.print_exc()
        one.fail(reason(error))


def _listed(one: Candidate) -> dict[str, Any]:
    common = {
        "name": one.name,
        "chain": [*one.made["chain"], "compile"],
        "runtime": one.runtime,
        "parameters": one.made.get("parameters"),
        "precision": {BFLOAT16: "bfloat16"}.get(one.precision or "", one.made.get("precision")),
        "form": one.form,
        "fallback": one.fallback,
        "status": one.status,
    }
    if one.status != MEASURED:
        return {**common, "reason": one.reason}
    return {**common, "reason": one.reason or f"{one.made['reason']}; {one.form}", **one.fields}
