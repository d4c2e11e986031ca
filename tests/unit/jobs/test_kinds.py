"""The stages over data that is no table: small pictures, two runtimes, every way to make a network smaller."""

import io
import json
import os
import signal
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ebb_jobs import (
    bundle,
    candidates,
    compress,
    entry,
    export,
    fitting,
    heats,
    image,
    kinds,
    measure,
    runtimes,
    search,
    serve,
)
from ebb_jobs import compile as compile_stage
from ebb_jobs.errors import JobError
from ebb_jobs.report import Report
from unit.jobs.stages import Ended, answered_samples, prepare, run_stage_here

SIDE = 12
SPEC = {"train": {"epochs": 6, "rungs": ["net"]}, "compress": {"max_metric_drop": 0.2}}
SETTINGS = {"spec": SPEC, "seed": 7, "run_id": "shapes-20261123000000-abcdef"}


def pictures() -> Iterator[tuple[str, bytes]]:
    """Lines that lie, stand or cross, on a noisy ground."""
    random = np.random.default_rng(5)
    for number in range(40):
        for label in ("cross", "lying", "standing"):
            pixels = random.integers(0, 90, (SIDE, SIDE), dtype=np.uint8)
            if label != "standing":
                pixels[random.integers(3, SIDE - 3), :] = 220
            if label != "lying":
                pixels[:, random.integers(3, SIDE - 3)] = 220
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            yield f"{label}/{number:03}.png", file.getvalue()


@dataclass(frozen=True)
class Shapes:
    """A run of all stages over the lines."""

    compress: Ended
    compile: Ended
    inputs: dict[str, Path]

    @property
    def bundles(self) -> Path:
        return self.compile.base / "processing/output/bundles"

    def candidate(self, name: str) -> dict[str, Any]:
        return next(one for one in self.compile.metrics()["candidates"] if one["name"] == name)


@pytest.fixture(scope="module", autouse=True)
def _hurried():
    """Lines are learned in few steps; how fast the networks are is nothing that these tests look at."""
    kind = kinds.of({"kind": "image"})
    with pytest.MonkeyPatch.context() as patch:
        hurried = replace(kind.recipe, student_steps=60, pruned_steps=20, min_epochs=3)
        patch.setattr(type(kind), "recipe", hurried)
        patch.setattr(measure, "RACE_S", 1.0)
        # Every form is looked at here, also what the search and the heat would drop.
        patch.setattr(search.Work, "loses_to", lambda *_: False)
        patch.setattr(heats, "dominated", lambda *_: {})
        patch.setattr(heats, "slower_in_8_bits", lambda *_: None)
        patch.setattr(runtimes, "has_bfloat16", lambda: False)
        # What a busy machine decides by its time must not differ between two runs that are compared.
        patch.setattr(compress, "MIN_BUDGET_S", 600.0)
        patch.setattr(fitting, "threads", lambda *_: 1)
        yield


@pytest.fixture(scope="module")
def shapes(_hurried, tmp_path_factory):
    base = tmp_path_factory.mktemp("shapes")
    (base / "data").mkdir()
    with zipfile.ZipFile(base / "data/lines.zip", "w") as archive:
        for name, data in pictures():
            archive.writestr(name, data)
    inputs = {"data": base / "data"}
    ended = {}
    for stage, gives, place in (
        ("process", "curated", "processing/output/curated"),
        ("train", "original", "model"),
        ("compress", "candidates", "model"),
        ("compile", "bundles", "processing/output/bundles"),
    ):
        ended[stage] = run_stage_here(base / stage, stage, inputs, SETTINGS)
        assert ended[stage].status == 0, ended[stage].failure
        inputs[gives] = base / stage / place
        inputs.pop("data", None)
    inputs.pop("bundles")
    return Shapes(ended["compress"], ended["compile"], inputs)


def test_the_sample_payload_holds_pictures_that_the_served_model_answers(shapes):
    assert shapes.compile.metrics()["sample_payload"]["content_type"] == "image/png"
    answers = answered_samples(shapes.compile, "original")
    assert {each["label"] for (each,) in answers} == {"cross", "lying", "standing"}


def test_each_network_is_tried_in_each_form_and_runtime_that_suits_it(shapes):
    metrics = shapes.compile.metrics()
    assert metrics["skipped"] == []
    expected = set()
    for network in ("original", "student", "pruned"):
        expected |= {network, f"{network}-int8", f"{network}-openvino", f"{network}-int8-openvino"}
        expected.add(f"{network}-int8-dynamic")  # slower for pictures, which the race has to find
    assert {one["name"] for one in metrics["candidates"]} == expected
    for one in metrics["candidates"]:
        assert one["runtime"] == ("openvino" if one["name"].endswith("-openvino") else "onnxruntime")
        assert one["status"] == "measured", one["reason"]
        assert one["latency_ms"]["p50"] > 0
        assert one["chain"][-1] == "compile"


def test_a_pruned_network_has_fewer_numbers_and_learned_again(shapes):
    pruned = next(one for one in shapes.compress.metrics()["candidates"] if one["name"] == "pruned")
    original = next(one for one in shapes.compress.metrics()["candidates"] if one["name"] == "original")
    assert pruned["chain"] == ["prune"]
    assert pruned["parameters"] < 0.7 * original["parameters"]
    assert pruned["quality"]["validation"] >= original["quality"]["validation"] - 0.2


@pytest.mark.parametrize(
    ("checkpoint", "method", "name"),
    [
        pytest.param("student-1-distilled", "distill", "student", id="while a student learns"),
        pytest.param("pruned-50", "prune", "pruned", id="while a pruned network learns again"),
    ],
)
def test_a_run_that_is_stopped_makes_the_network_of_one_that_is_not(
    shapes, tmp_path, monkeypatch, checkpoint, method, name
):
    """Its averages (batch norm), its optimizer and the moves of its pictures go on where they were."""
    spec = {**SPEC, "compress": {**SPEC["compress"], "methods": [method]}}
    inputs = {name: shapes.inputs[name] for name in ("curated", "original")}
    for key, value in prepare(tmp_path, "compress", inputs, {**SETTINGS, "spec": spec}).items():
        monkeypatch.setenv(key, value)
    fit = fitting.fit

    def stopped(*arguments, **options):
        if options["checkpoint"].stem != checkpoint:
            return fit(*arguments, **options)
        steps, move = iter(range(100)), options.pop("augment")

        def moved(*batch):
            if next(steps) == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return move(*batch)

        return fit(*arguments, augment=moved, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", stopped)
        assert entry.main(["compress"]) == 1
    assert "stopped by SIGTERM at epoch 2" in (tmp_path / "output/failure").read_text()
    assert (tmp_path / f"checkpoints/{checkpoint}.pt").exists()
    assert entry.main(["compress"]) == 0
    whole = shapes.compress.base / "model" / name / "network.onnx"
    assert (tmp_path / "model" / name / "network.onnx").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["original-openvino", "original-int8-openvino", "original-int8"])
def test_a_bundle_answers_over_http_as_the_measured_model(shapes, name, tmp_path):
    """Asked here with other pictures than when it was packed."""
    archive = shapes.bundles / shapes.candidate(name)["bundle"]
    folder = bundle.unpack(archive, tmp_path)
    model = serve.Model(folder)
    kind = kinds.of({"kind": "image"})
    singles = kind.singles(shapes.inputs["curated"], "validation", model.codec, 12)
    assert bundle.prove(archive, kind, model.codec, singles, model) > 10


def test_an_openvino_bundle_holds_its_network_and_codec_and_no_onnx(shapes, tmp_path):
    folder = bundle.unpack(shapes.bundles / "original-openvino/model.tar.gz", tmp_path)
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {"model.xml", "model.bin", "signature.json", "code/image.py", "code/runtimes.py"} <= names
    assert "model.onnx" not in names
    signature = json.loads((folder / "signature.json").read_text())
    assert (signature["kind"], signature["codec"], signature["runtime"]) == ("image", "image", "openvino")
    assert signature["input"] == {"name": "input", "shape": [SIDE, SIDE, 1], "dtype": "uint8"}


def test_both_runtimes_give_the_same_answers_to_one_and_to_many(shapes, tmp_path):
    answers = {}
    pixels = np.random.default_rng(0).integers(0, 255, (9, SIDE, SIDE, 1), dtype=np.uint8)
    for name in ("original", "original-openvino"):
        model = serve.Model(bundle.unpack(shapes.bundles / name / "model.tar.gz", tmp_path / name))
        answers[name] = model.run(pixels)
        np.testing.assert_allclose(
            np.concatenate([model.run(pixels[i : i + 1]) for i in range(9)]), answers[name], atol=1e-6
        )
    np.testing.assert_allclose(answers["original"], answers["original-openvino"], atol=1e-5)


@pytest.mark.parametrize("name", ["original", "original-openvino"])
def test_requests_at_the_same_time_do_not_mix(shapes, tmp_path, name):
    model = serve.Model(bundle.unpack(shapes.bundles / name / "model.tar.gz", tmp_path))
    pixels = np.random.default_rng(1).integers(0, 255, (64, SIDE, SIDE, 1), dtype=np.uint8)
    alone = [model.run(one[None]) for one in pixels]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: model.run(one[None]), pixels))
    np.testing.assert_array_equal(np.concatenate(together), np.concatenate(alone))


def test_an_exported_network_tells_nothing_of_the_machine_that_made_it(shapes):
    network = (shapes.inputs["candidates"] / "original/network.onnx").read_bytes()
    assert b"ebb_jobs" not in network
    assert str(Path(image.__file__).parent).encode() not in network


def test_what_openvino_cannot_convert_is_listed_and_onnx_runtime_stands_in(shapes, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(export, "to_openvino", refuse)
    ended = run_stage_here(tmp_path, "compile", shapes.inputs, SETTINGS)
    assert ended.status == 0, ended.failure
    found = {one["name"]: one for one in ended.metrics()["candidates"]}
    assert found["student-openvino"]["status"] == "failed"
    assert found["student-openvino"]["reason"] == "openvino cannot run it: RuntimeError"
    assert found["student-openvino"]["fallback"] == "student, on onnxruntime, stands in"
    assert found["student"]["status"] == "measured"


def test_a_network_that_cannot_be_pruned_is_listed_with_the_reason(tmp_path):
    bench = candidates.Bench(tmp_path, None, None, None, kinds.of({"kind": "image"}), "accuracy", Report("compress"))

    def refuse():
        raise JobError("this network has no channels that can be taken away")

    assert bench.attempt("pruned", ["prune"], refuse, fallback="original remains") is None
    [listed] = bench.candidates
    assert (listed["status"], listed["fallback"]) == ("failed", "original remains")
    assert "no channels" in listed["reason"]


def test_the_served_model_is_measured_on_new_pictures(shapes, tmp_path):
    inputs = {**shapes.inputs, "champion": shapes.bundles / "original-openvino"}
    schema = json.loads((shapes.inputs["original"] / "schema.json").read_text())
    judged = compile_stage.champion.judge(inputs["champion"], inputs["curated"], "accuracy", schema, tmp_path)
    assert judged["quality"] == pytest.approx(shapes.candidate("original-openvino")["quality"])
    table = {"kind": "tabular", "task": "tabular-classification", "features": [], "target": schema["target"]}
    judged = compile_stage.champion.judge(inputs["champion"], inputs["curated"], "accuracy", table, tmp_path / "other")
    assert judged["quality"] is None
    assert "another task" in judged["reason"]


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(JobError, match="'video'"):
        kinds.of({"kind": "video"})


def test_an_unknown_runtime_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tensorrt"):
        runtimes.load(tmp_path / "model", "tensorrt")
