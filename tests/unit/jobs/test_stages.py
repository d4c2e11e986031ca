"""The four stages over small real tables, each a process of its own."""

import json
import tarfile

import numpy as np
import onnx
import pytest

from ebb_jobs import bundle, compress, dataset, export, networks, tabular
from ebb_jobs import compile as compile_stage
from ebb_jobs.errors import JobError
from ebb_jobs.report import Report
from unit.jobs.stages import HERE, run_stage, run_stage_here

ALL = ["original", "original-int8", "student", "student-int8"]


@pytest.fixture(params=["penguins", "housing"])
def pipeline(request):
    return request.getfixturevalue(request.param)


def test_every_stage_reports_what_it_used(pipeline):
    for stage in ("process", "train", "compress", "compile"):
        metrics = getattr(pipeline, stage).metrics()
        assert metrics["stage"] == stage
        assert metrics["duration_s"] > 0
        assert metrics["cpu_seconds"] > 0
        assert 20 < metrics["peak_rss_mib"] < 2000
        for decision in metrics["decisions"]:
            assert set(decision) == {"what", "chosen", "reason", "numbers", "alternatives"}


@pytest.mark.parametrize("stage", ["process", "train", "compress", "compile"])
def test_the_published_example_reports_have_the_fields_of_real_ones(penguins, stage):
    published = json.loads((HERE / "reports" / f"{stage}.json").read_text())
    assert set(published) == set(getattr(penguins, stage).metrics())


def test_penguins_are_told_apart(penguins):
    metrics = penguins.train.metrics()
    assert penguins.process.metrics()["target"] == "species"
    assert metrics["metric"] == "accuracy"
    assert metrics["quality"]["test"] >= 0.9


def test_house_prices_are_predicted_far_better_than_by_their_mean(housing):
    metrics = housing.train.metrics()
    prices = np.array(dataset.read_columns(housing.curated, "test", ["median"])["median"])
    assert metrics["metric"] == "rmse"
    assert metrics["quality"]["test"] < 0.6 * prices.std()


def test_every_candidate_is_measured_and_packed(pipeline):
    metrics = pipeline.compile.metrics()
    assert [candidate["name"] for candidate in metrics["candidates"]] == ALL
    for measured in (metrics["original"], *metrics["candidates"]):
        assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p99"]
        assert measured["throughput_rows_per_s"] > 0
        assert measured["cpu_ms_per_prediction"] > 0
        assert measured["memory_mib"] > 10
        band = measured["quality_interval"]
        assert band["low"] <= measured["quality"]["validation"] <= band["high"]
    for candidate in metrics["candidates"]:
        assert candidate["status"] == "measured"
        assert (pipeline.bundles / candidate["bundle"]).stat().st_size == candidate["bundle_bytes"]


def test_compiling_alone_changes_no_answer(pipeline):
    metrics = pipeline.compile.metrics()
    compiled = metrics["candidates"][0]
    assert compiled["name"] == "original"
    assert compiled["quality"]["test"] == pytest.approx(metrics["original"]["quality"]["test"], rel=1e-4)


def test_quantized_networks_hold_8_bit_weights(pipeline):
    for name in ("original-int8", "student-int8"):
        network = onnx.load(pipeline.compress.base / "model" / name / "network.onnx")
        matrices = [weight for weight in network.graph.initializer if len(weight.dims) == 2]
        assert matrices
        assert {weight.data_type for weight in matrices} == {onnx.TensorProto.INT8}
    sizes = {candidate["name"]: candidate["size_bytes"] for candidate in pipeline.compress.metrics()["candidates"]}
    assert sizes["original-int8"] < sizes["original"] / 2


def test_the_student_is_smaller_and_distillation_had_a_control(pipeline):
    metrics = pipeline.compress.metrics()
    parameters = {candidate["name"]: candidate["parameters"] for candidate in metrics["candidates"]}
    assert parameters["student"] < parameters["original"] / 2
    lesson = next(decision for decision in metrics["decisions"] if decision["what"] == "student lesson")
    assert set(lesson["numbers"]) == {"distilled", "labels only"}


def test_bundles_hold_no_pickle_and_the_code_that_training_used(pipeline):
    with tarfile.open(pipeline.bundles / "student/model.tar.gz") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
    code = {"code/serve.py", "code/tabular.py", "code/spelling.py"}
    assert set(content) == {"model.onnx", "preprocess.json", "signature.json"} | code
    for file in bundle.CODE:
        assert content[f"code/{file.name}"] == file.read_bytes()
    for name, data in content.items():
        assert not data.startswith(b"\x80"), f"{name} begins like a pickle"
        assert b"pickle" not in data


def test_stages_pass_on_nothing_that_can_run_code(pipeline):
    passed = [
        *pipeline.curated.iterdir(),
        *pipeline.original.iterdir(),
        *(pipeline.compress.base / "model").rglob("*.*"),
    ]
    assert {file.suffix for file in passed} <= {".parquet", ".json", ".safetensors", ".onnx"}


def test_the_bundle_answers_as_the_original_does(pipeline):
    preprocessor = tabular.Preprocessor(json.loads((pipeline.original / "preprocess.json").read_text()))
    network = networks.load(pipeline.original / "original.safetensors")
    columns = dataset.read_columns(pipeline.curated, "test", preprocessor.columns)
    expected = preprocessor.predictions(networks.predict(network, preprocessor.encode(columns)))
    rows = dataset.rows_of(columns, 40)
    bundle.prove(pipeline.bundles / "original/model.tar.gz", rows, expected[: len(rows)])


def test_a_bundle_that_answers_otherwise_is_refused(penguins):
    rows = [{"island": "Biscoe", "bill_length_mm": 50.0, "bill_depth_mm": 15.0, "flipper_length_mm": 220.0,
             "body_mass_g": 5500.0, "sex": "male", "year": 2008.0}]  # fmt: skip
    wrong = [{"label": "Adelie", "probabilities": {"Adelie": 1.0, "Chinstrap": 0.0, "Gentoo": 0.0}}]
    with pytest.raises(bundle.BundleError, match="row 1"):
        bundle.prove(penguins.bundles / "original/model.tar.gz", rows, wrong)


def test_the_served_champion_is_measured_on_the_same_rows(penguins, tmp_path):
    inputs = {
        "curated": penguins.curated,
        "original": penguins.original,
        "candidates": penguins.compress.base / "model",
    }
    ended = run_stage(
        tmp_path, "compile", {**inputs, "champion": penguins.bundles / "original"}, {"spec": {}, "champion": {}}
    )
    assert ended.status == 0, ended.log
    metrics = ended.metrics()
    assert metrics["champion"]["quality"] == pytest.approx(metrics["candidates"][0]["quality"])


def test_a_champion_of_other_columns_is_not_compared(penguins, housing, tmp_path):
    inputs = {
        "curated": penguins.curated,
        "original": penguins.original,
        "candidates": penguins.compress.base / "model",
    }
    ended = run_stage(tmp_path, "compile", {**inputs, "champion": housing.bundles / "student"}, {"spec": {}})
    assert ended.status == 0, ended.log
    assert ended.metrics()["champion"]["quality"] is None
    assert "another task" in ended.metrics()["champion"]["reason"]


def test_a_candidate_that_cannot_be_opened_is_listed_and_stops_nothing(penguins, tmp_path):
    candidates = tmp_path / "candidates"
    for file in (penguins.compress.base / "model").rglob("*"):
        if file.is_file():
            copy = candidates / file.relative_to(penguins.compress.base / "model")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    (candidates / "student-int8/network.onnx").write_bytes(b"not an ONNX file")
    inputs = {"curated": penguins.curated, "original": penguins.original, "candidates": candidates}
    ended = run_stage(tmp_path / "job", "compile", inputs, {"spec": {}})
    assert ended.status == 0, ended.log
    states = {candidate["name"]: candidate for candidate in ended.metrics()["candidates"]}
    assert states["student-int8"]["status"] == "failed"
    assert "optimisation failed" in states["student-int8"]["fallback"]
    assert states["student"]["status"] == "measured"


def test_static_quantization_falls_back_to_dynamic(penguins, tmp_path, monkeypatch):
    def refuse(*_args, **_more):
        raise RuntimeError("no scales")

    monkeypatch.setattr(export, "quantize_static", refuse)
    source = penguins.compress.base / "model/original/network.onnx"
    width = onnx.load(source).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    assert export.quantize(source, tmp_path / "int8.onnx", np.zeros((4, width), np.float32)) == "dynamic"
    assert export.session(tmp_path / "int8.onnx").run(None, {"features": np.zeros((1, width), np.float32)})


def test_a_stage_without_its_input_says_which_stage_to_look_at(tmp_path):
    (tmp_path / "nothing").mkdir()
    ended = run_stage(tmp_path / "job", "train", {"curated": tmp_path / "nothing"}, {})
    assert ended.status == 1
    assert ended.failure.splitlines()[-1] == "the curated channel holds no schema.json: did `process` finish?"


def test_a_metric_that_does_not_suit_the_task_fails_in_words(penguins, tmp_path):
    ended = run_stage(tmp_path, "train", {"curated": penguins.curated}, {"spec": {"train": {"metric": "rmse"}}})
    assert ended.status == 1
    assert "train.metric 'rmse' does not suit tabular-classification" in ended.failure.splitlines()[-1]


def test_a_candidate_that_fails_is_told_without_a_value_of_the_data(tmp_path):
    bench = compress._Bench(tmp_path, None, None, "accuracy", Report("compress"))

    def quote():
        raise ValueError("could not convert string to float: 'Mary Smith'")

    def explain():
        raise JobError("the ONNX file differs")

    assert bench.attempt("student", ["distill"], quote) is None
    assert bench.attempt("original", [], explain) is None
    quoted, explained = (candidate["reason"] for candidate in bench.candidates)
    assert "Smith" not in quoted
    assert quoted.startswith("ValueError at ")
    assert explained == "the ONNX file differs"


def test_a_bundle_that_cannot_be_proven_is_told_without_a_value_of_the_data(penguins, tmp_path, monkeypatch):
    def quote(*_):
        raise KeyError("Mary Smith")

    monkeypatch.setattr(compile_stage.bundle, "prove", quote)
    inputs = {
        "curated": penguins.curated,
        "original": penguins.original,
        "candidates": penguins.compress.base / "model",
    }
    ended = run_stage_here(tmp_path, "compile", inputs, {"spec": {}})
    assert ended.status == 1
    assert "KeyError at " in ended.failure
    assert "Smith" not in ended.failure
