"""The stages of a user's own training script: run it, believe its export, or serve what it left as it is."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ebb_jobs import (
    as_is,
    bundle,
    curves,
    dataset,
    distributed,
    export,
    exported,
    exported_rows,
    paths,
    quality,
    runtimes,
    script,
    serve,
    tensors,
    trials,
    user_code,
)
from ebb_jobs.errors import InputMissingError, JobError, StoppedError
from ebb_jobs.exported import Export
from ebb_jobs.exported_rows import ExportError
from ebb_jobs.kinds.custom import FOLDER
from ebb_jobs.report import Report, write_json
from ebb_jobs.tensors import TensorCodec

ENTRY_POINT = "train.py"
AS_IS = "as-is"
NETWORK = "original.onnx"
OUR_FILES = frozenset(f"{name}.py" for name in ("serve", "bad_request", "runtimes", "tensors", "user_code", "as_is"))
OUR_DOCUMENTS = frozenset({"signature.json", "preprocess.json"})
SERVE_PACKAGES = ("numpy", "onnxruntime", "openvino", "PIL", "tokenizers")
"""What the image of exported networks holds besides the standard library."""
WHAT_TO_WRITE = (
    "write model.onnx, evaluation.npz and evaluation.json into SM_MODEL_DIR to have the model made smaller, or bring "
    "code/inference.py with model_fn to have it served as it is"
)
_IMPORTS_ONLY = """
import importlib.abc, pathlib, sys
folder, allowed = sys.argv[1], {*sys.stdlib_module_names, *sys.argv[2:]}
class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and not any((pathlib.Path(folder) / (top + end)).exists() for end in ("", ".py")):
            raise ModuleNotFoundError("No module named " + repr(top), name=top)
sys.meta_path.insert(0, Guard())
sys.path.insert(0, folder)
try:
    import inference
except ModuleNotFoundError as error:
    sys.exit(f"imports {error.name}, which the image that serves exported networks does not hold")
except (Exception, SystemExit) as error:
    sys.exit(f"cannot be imported: {type(error).__name__}")
print("imported", flush=True)
"""
IMPORT_S = 60.0
OPEN_S = 600.0
"""For a model of some gigabytes from a cold disk."""
STOPPED_GRACE_S = 70.0
"""Of the 120 s that a stopped job has: the rest is for checking what the script left, and for the report."""


def train(curated: Path, model: Path, checkpoints: Path, settings: dict[str, Any], report: Report) -> None:
    """Run the script, then write either a checked network with its codec, or what serves the model as it is.

    Raises JobError when neither can be had, with what the script has to write.
    """
    wanted = (settings.get("spec") or {}).get("train") or {}
    schema = dataset.read_schema(curated)
    entry_point = schema.get("entry_point") or wanted.get("entry_point") or ENTRY_POINT
    trial = settings.get("trial")
    hyperparameters = (wanted.get("hyperparameters") or {}) | (trials.typed(paths.proposed()) if trial else {})
    left = model / FOLDER
    left.mkdir(parents=True, exist_ok=True)
    report.decide(
        "script",
        entry_point,
        f"script mode, with {len(hyperparameters)} hyperparameters",
        numbers={"hyperparameters": len(hyperparameters)},
    )
    places = script.Places(curated / "source", curated / "data", left, checkpoints)
    together = bool(wanted.get("distributed"))
    _run_watched(places, entry_point, hyperparameters, wanted.get("stop"), report, together=together)
    if together and distributed.cluster().number > 0:
        return  # what the script has made is on the first machine
    _bring_code(places.source, left)

    has_code = (left / user_code.FOLDER / user_code.FILE).is_file()
    try:
        found = _exported(left, entry_point, has_code)
    except ExportError as error:
        if not has_code:
            raise
        if trial and not trial.get("own_metric"):
            told = f"a search compares models: {error}; or say in train.tune.metric_regex what the log tells"
            raise JobError(told) from error
        script.install_wheels(places.source, left / user_code.FOLDER)  # what trained it may be needed to load it
        _keep_as_is(left, model, schema, str(error), report)
        return
    _keep_export(found, left, model, schema, report)
    if trial and not trial.get("own_metric"):
        trials.objective(report.fields["metric"], report.fields["quality"]["validation"])


def _run_watched(
    places: script.Places,
    entry_point: str,
    hyperparameters: dict[str, Any],
    stop: dict[str, Any] | None,
    report: Report,
    *,
    together: bool,
) -> None:
    """Run the script. One that is watched (train.stop) may end by being stopped: what it left is the model.

    Raises: JobError, and StoppedError where nobody watches or nothing was left.
    """
    curve, grace_s = curves.Curve.of(stop), STOPPED_GRACE_S if stop else script.GRACE_S
    heard = curve.hear if curve else None
    resumed = any(path.is_file() for path in places.checkpoints.rglob("*"))  # what it prints is the rest of a curve
    begun = time.monotonic()
    try:
        script.run(places, entry_point, hyperparameters, together=together, heard=heard, grace_s=grace_s)
    except StoppedError:
        if not stop:
            raise
        report.fields["stopped_early"] = True
        _take_checkpoint(places, report)
    report.fields["fit_seconds"] = round(time.monotonic() - begun, 3)
    if curve:
        report.fields["curve"] = curve.fields() | {"resumed": resumed}


def _take_checkpoint(places: script.Places, report: Report) -> None:
    """Bring what lies in SM_CHECKPOINT_DIR where the model is looked for, unless the script left a model there.

    Raises: StoppedError when there is neither.
    """
    if any(path.is_file() for path in places.model.rglob("*")):
        report.decide("model of the stopped script", "what lies in SM_MODEL_DIR", "the script had saved it before")
        return
    if not any(path.is_file() for path in places.checkpoints.rglob("*")):
        raise StoppedError(
            "the script was stopped and had saved nothing: save the best model to SM_MODEL_DIR whenever it gets better"
        )
    shutil.copytree(places.checkpoints, places.model, dirs_exist_ok=True)
    report.decide(
        "model of the stopped script", "its checkpoint", "SM_MODEL_DIR was empty, so SM_CHECKPOINT_DIR is the model"
    )


def compress(
    curated: Path, original: Path, model: Path, checkpoints: Path, settings: dict[str, Any], report: Report
) -> None:
    """Write no candidate for a model that is served as it is, and say why."""
    report.fields.update(metric=None, candidates=[], skipped=_trained(original)["skipped"])


def compile_as_is(
    channels: dict[str, Path], bundles: Path, settings: dict[str, Any], report: Report, work: Path
) -> None:
    """Pack what the script left, with the server, and let it prove that it loads and answers /ping.

    Nothing is known of its inputs, so no request is made and nothing is measured but size and memory.
    """
    left = channels["original"] / FOLDER
    trained = _trained(channels["original"])
    signature = {
        "version": 1,
        "kind": "custom",
        "codec": serve.AS_IS,
        "runtime": "python",
        "candidate": AS_IS,
        "run_id": settings.get("run_id"),
        "task": "custom",
    }
    files = {str(file.relative_to(left)): file for file in left.rglob("*") if file.is_file()}
    archive = bundles / AS_IS / "model.tar.gz"
    signed = (json.dumps(signature, indent=1) + "\n").encode()
    digest = bundle.pack(archive, {**files, "signature.json": signed, **bundle.code((as_is, tensors, user_code))})
    with bundle.served(archive) as running:
        memory = running.resident_mib()
    report.fields.update(
        as_is=True,
        metric=None,
        original=None,
        candidates=[
            {
                "name": AS_IS,
                "chain": [],
                "status": "measured",
                "reason": f"served by code/inference.py: {trained['as_is_because']}",
                "image": "jobs",
                "quality": None,
                "memory_mib": round(memory, 1),
                "size_bytes": sum(file.stat().st_size for file in files.values()),
                "bundle": str(archive.relative_to(bundles)),
                "bundle_bytes": archive.stat().st_size,
                "sha256": digest,
            }
        ],
        skipped=trained["skipped"],
    )
    print(f"{AS_IS}: {archive.stat().st_size / 1024:.0f} KiB, {memory:.0f} MiB in memory", flush=True)


def _exported(left: Path, entry_point: str, has_code: bool) -> Export:
    """Return the checked export. Raises ExportError."""
    if not (left / exported_rows.MODEL).exists():
        told = f"{entry_point} exported no {exported_rows.MODEL}"
        raise ExportError(told if has_code else f"{told} and there is no code/inference.py: {WHAT_TO_WRITE}")
    return exported.read(left)


def _keep_export(found: Export, left: Path, model: Path, schema: dict[str, Any], report: Report) -> None:
    evaluation = found.evaluation
    metric = evaluation.metric
    for what, chosen, why in found.notes:
        report.decide(what, chosen, why)
    report.decide("metric", metric.value, metric.reason)
    functions, names = _functions(left, report)
    state = {
        "shape": found.shape,
        "dtype": found.dtype.name,
        "classes": evaluation.classes,
        "functions": functions,
        "code": names,
    }
    codec = TensorCodec(state, user_code.read(left / user_code.FOLDER, names), {})
    for name, content in codec.files().items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    onnx.save(found.network, str(model / NETWORK))
    target = {"name": "", **({"classes": evaluation.classes} if evaluation.classes else {})}
    given = {"shape": found.shape[1:], "dtype": found.dtype.name}
    write_json(model / "schema.json", {**schema, "input": given, "target": target})

    network = runtimes.load(model / NETWORK, "onnxruntime")
    splits = {name: evaluation.split(name) for name in ("validation", "test")}
    outputs = {name: export.run(network, split.inputs) for name, split in splits.items()}
    scores = {
        name: quality.score(metric.value, split.targets, _comparable(outputs[name], evaluation.task))
        for name, split in splits.items()
    }
    report.decide(
        "held-out rows",
        f"{len(splits['validation'])} choose, {len(splits['test'])} judge",
        f"{exported_rows.EVALUATION} is halved, alike in classes or values",
        numbers={name: len(split) for name, split in splits.items()} | {"calibration": len(evaluation.calibration)},
    )
    report.fields.update(
        as_is=False,
        metric=metric.value,
        greater_is_better=quality.greater_is_better(metric.value),
        quality=scores,
        parameters=found.parameters,
    )
    print(f"test {metric.value} {scores['test']:.4f}", flush=True)


def _keep_as_is(left: Path, model: Path, schema: dict[str, Any], why: str, report: Report) -> None:
    taken = sorted(name for name in OUR_FILES if (left / user_code.FOLDER / name).exists())
    taken += sorted(name for name in OUR_DOCUMENTS if (left / name).exists())
    if taken:
        raise JobError(f"{taken[0]} has the name of a file that is put beside it to serve the model: rename it")
    _open_once(left)
    report.decide(AS_IS, "code/inference.py serves the model", why)
    skipped = [
        {"what": "compress", "reason": f"{why}: there is no network to make smaller"},
        {"what": "compile", "reason": f"{why}: the model is served by code/inference.py, as it is"},
        {"what": "quality", "reason": f"{why}: there are no held-out rows to judge by"},
    ]
    write_json(model / "schema.json", schema)
    report.fields.update(as_is=True, as_is_because=why, metric=None, quality=None, parameters=None, skipped=skipped)


def _open_once(left: Path) -> None:
    """Let code/inference.py load the model in a process of its own: better told now than two stages later."""
    jobs = str(Path(__file__).parents[1])
    command = [sys.executable, "-B", "-m", "ebb_jobs.as_is", str(left)]
    told = _failing(command, {**os.environ, "PYTHONPATH": jobs}, as_is.OPENED, OPEN_S)
    if told:
        raise JobError(f"code/inference.py cannot serve the model as it is: {told[:300]}")


def _failing(command: list[str], environment: dict[str, str] | None, last_words: str, limit_s: float) -> str | None:
    """Return why a process with the user's code in it did not come to its last words, None when it did."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, check=False, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return f"it has not ended after {limit_s:.0f} s, the time that your code has for this"
    print(done.stdout + done.stderr, end="", flush=True)
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2] or f"it ended with status {done.returncode}"
    return None if last_words in done.stdout.splitlines() else "it ends its process"


def _comparable(outputs: np.ndarray, task: str) -> np.ndarray:
    return outputs if task == exported_rows.CLASSIFICATION else outputs[:, 0].astype(np.float64)


def _trained(original: Path) -> dict[str, Any]:
    file = original / "metrics.json"
    if not file.exists():
        raise InputMissingError("the channel 'original' holds no metrics.json: did `train` finish?")
    return json.loads(file.read_text())


def _bring_code(source: Path, left: Path) -> None:
    """Take the code that serves from beside the script, unless the script wrote it: all are SageMaker's customs.

    A folder `code`, or everything beside the script when inference.py lies there too.
    """
    into = left / user_code.FOLDER
    if (into / user_code.FILE).exists():
        return
    ignored = shutil.ignore_patterns("__pycache__", "wheels")
    for beside in (source / user_code.FOLDER, source):
        if (beside / user_code.FILE).is_file():
            shutil.copytree(beside, into, dirs_exist_ok=True, ignore=ignored)
            return


def _functions(left: Path, report: Report) -> tuple[list[str], list[str]]:
    """Return which functions of code/inference.py wrap the exported network, and the files that they need.

    They are served on the small image, without PyTorch: code that imports more than that holds stays out.
    """
    folder = left / user_code.FOLDER
    if not (folder / user_code.FILE).is_file():
        return [], []
    defined = _defined(folder / user_code.FILE)
    functions: list[str] = [name for name in ("input_fn", "output_fn") if name in defined]
    ignored = [name for name in ("model_fn", "predict_fn", "transform_fn") if name in defined]
    skipped = report.fields.setdefault("skipped", [])
    if ignored:
        why = f"the exported network is run by ONNX Runtime or OpenVINO: {', '.join(ignored)} is not called"
        skipped.append({"what": "code/inference.py", "reason": why})
    if not functions:
        return [], []
    names = sorted(
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )
    if taken := sorted(OUR_FILES.intersection(names)):
        raise JobError(f"code/{taken[0]} has the name of a file that is put beside it to serve the model: rename it")
    told = _failing(
        [sys.executable, "-B", "-c", _IMPORTS_ONLY, str(folder), *SERVE_PACKAGES], None, "imported", IMPORT_S
    )
    if told:
        why = f"code/inference.py {told}: requests are plain tensors"
        skipped.append({"what": "input_fn and output_fn", "reason": why})
        report.decide("code/inference.py", "left out", why)
        return [], []
    report.decide("code/inference.py", " and ".join(functions), "called around the exported network")
    return functions, names


def _defined(file: Path) -> set[str]:
    """Return the names of the module's functions, without running it. Raises JobError."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError) as error:
        raise JobError(f"code/{file.name} is no Python that this image reads: {type(error).__name__}") from error
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}
