"""The four stages over small real tables, each a process of its own."""

import json
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ebb_jobs import bundle, candidates, dataset, export, heats, networks, quality, serve, tabular
from ebb_jobs import compile as compile_stage
from ebb_jobs.errors import JobError
from ebb_jobs.kinds.tabular import KIND
from ebb_jobs.report import Report
from unit.jobs.stages import HERE, answered_samples, run_stage, run_stage_here

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


def test_what_each_model_gets_wrong_is_counted_on_all_test_rows(pipeline):
    metrics = pipeline.compile.metrics()
    told = metrics["mistakes"]
    assert set(told["of"]) == {each["name"] for each in metrics["candidates"] if each["status"] == "measured"}
    for found in (told["original"], *told["of"].values()):
        if found["kind"] == "confusion":
            assert np.array(found["matrix"]).sum() == found["rows"]
            assert len(found["labels"]) == len(found["matrix"])
        else:
            assert found["quantiles"]["p5"] <= found["quantiles"]["p50"] <= found["quantiles"]["p95"]


def test_house_prices_are_predicted_far_better_than_by_their_mean(housing):
    metrics = housing.train.metrics()
    prices = np.array(dataset.read_columns(housing.curated, "test", ["median"])["median"])
    assert metrics["metric"] == "rmse"
    assert metrics["quality"]["test"] < 0.6 * prices.std()


def test_every_candidate_is_measured_and_packed_if_it_is_good_enough(pipeline):
    metrics = pipeline.compile.metrics()
    assert [candidate["name"] for candidate in metrics["candidates"]] == ALL
    raced = [candidate for candidate in metrics["candidates"] if candidate["status"] != "dropped"]
    for measured in (metrics["original"], *raced):
        assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p99"]
        assert measured["throughput_rows_per_s"] > 0
        assert measured["cpu_ms_per_prediction"] > 0
        band = measured["quality_interval"]
        assert band["low"] <= measured["quality"]["validation"] <= band["high"]
    for candidate in raced:
        assert (candidate["status"], candidate["runtime"]) == ("measured", "onnxruntime")
        if quality.is_better(metrics["metric"], metrics["floor"], candidate["quality"]["validation"]):
            assert "not packed" in candidate["reason"]
            assert "bundle" not in candidate
            assert not (pipeline.bundles / candidate["name"]).exists()
        else:
            assert candidate["memory_mib"] > 10
            assert (pipeline.bundles / candidate["bundle"]).stat().st_size == candidate["bundle_bytes"]


def test_a_candidate_below_the_floor_is_measured_and_not_packed(housing, tmp_path):
    """A floor just above the worst candidate: that needs no bundle to be known."""
    before = housing.compile.metrics()
    worst = max(before["candidates"], key=lambda one: one["quality"]["validation"])
    drop = worst["quality"]["validation"] / before["original"]["quality"]["validation"] - 1
    assert drop > 0
    inputs = {
        "curated": housing.curated,
        "original": housing.original,
        "candidates": housing.compress.base / "model",
    }
    spec = {"compress": {"max_metric_drop": 0.9 * drop}}
    ended = run_stage_here(tmp_path, "compile", inputs, {"spec": spec})
    assert ended.status == 0, ended.failure
    found = {one["name"]: one for one in ended.metrics()["candidates"]}
    assert "not packed" in found[worst["name"]]["reason"]
    assert "bundle" not in found[worst["name"]]
    assert found[worst["name"]]["latency_ms"]["p50"] > 0
    assert any("bundle" in one for one in found.values())


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
    with tarfile.open(pipeline.bundles / "original/model.tar.gz") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
    code = {
        f"code/{name}.py"
        for name in ("serve", "bad_request", "runtimes", "scored", "capture", "sketch", "tabular", "spelling")
    }
    assert set(content) == {"model.onnx", "preprocess.json", "signature.json", "reference.json"} | code
    for module in (*bundle.CODE, *KIND.code):
        file = Path(module.__file__)
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


class Answering:
    """A model that gives known answers, in the place of the measured one."""

    def __init__(self, answers):
        self.answers = answers

    def predict(self, raws):
        return self.answers


def test_the_bundle_answers_as_the_original_does(pipeline):
    preprocessor = tabular.open_codec(pipeline.original)
    network = networks.load(pipeline.original / "original.safetensors")
    singles = KIND.singles(pipeline.curated, "test", preprocessor, 40)
    expected = networks.predict(network, preprocessor.encode(KIND.join(singles)))
    model = Answering(preprocessor.predictions(expected))
    bundle.prove(pipeline.bundles / "original/model.tar.gz", KIND, preprocessor, singles, model)


def test_the_sample_payload_holds_single_rows_that_the_served_model_answers(pipeline):
    answers = answered_samples(pipeline.compile, "original")
    assert len(answers) == 32
    assert all(len(each) == 1 for each in answers)
    assert len({json.dumps(each) for each in answers}) > 1, "the rows differ"


def test_a_bundle_that_answers_otherwise_is_refused(penguins):
    row = {"island": "Biscoe", "bill_length_mm": 50.0, "bill_depth_mm": 15.0, "flipper_length_mm": 220.0,
           "body_mass_g": 5500.0, "sex": "male", "year": 2008.0}  # fmt: skip
    singles = [{name: [value] for name, value in row.items()}]
    wrong = Answering([{"label": "Adelie", "probabilities": {"Adelie": 1.0, "Chinstrap": 0.0, "Gentoo": 0.0}}])
    with pytest.raises(bundle.BundleError, match="row 1"):
        bundle.prove(
            penguins.bundles / "original/model.tar.gz", KIND, tabular.open_codec(penguins.original), singles, wrong
        )


@pytest.mark.parametrize(
    ("metric", "then", "now", "rows", "differs"),
    [
        pytest.param("accuracy", 0.97, 0.955, 1000, False, id="machines round differently"),
        pytest.param("accuracy", 0.97, 0.94, 1000, True, id="three points are another model"),
        pytest.param("accuracy", 0.94, 0.97, 1000, True, id="better is another model too"),
        pytest.param("accuracy", 0.90, 0.95, 40, False, id="two of forty rows"),
        pytest.param("accuracy", 0.90, 0.975, 40, True, id="three of forty rows"),
        pytest.param("rmse", 50_000, 52_000, 1000, False, id="an error 4 % larger"),
        pytest.param("rmse", 50_000, 53_000, 1000, True, id="an error 6 % larger"),
    ],
)
def test_two_measurements_of_one_model_are_told_from_those_of_two(metric, then, now, rows, differs):
    assert quality.differs(metric, then, now, rows=rows) is differs


def test_a_bundle_from_before_there_were_kinds_is_a_table_on_onnx_runtime(penguins, tmp_path):
    model = bundle.unpack(penguins.bundles / "student/model.tar.gz", tmp_path)
    signature = json.loads((model / "signature.json").read_text())
    for field in ("kind", "codec", "runtime", "runtime_version"):
        del signature[field]
    (model / "signature.json").write_text(json.dumps(signature))
    assert serve.Model(model).predict(KIND.singles(penguins.curated, "test", tabular.open_codec(model), 1)[0])


@pytest.mark.parametrize("name", ["os", "../tabular", "serve"])
def test_only_codecs_of_the_server_are_loaded(tmp_path, name):
    (tmp_path / "signature.json").write_text(json.dumps({"codec": name}))
    with pytest.raises(ValueError, match="no codec of this server"):
        serve.open_model(tmp_path)


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
    ended = run_stage(tmp_path, "compile", {**inputs, "champion": housing.bundles / "original"}, {"spec": {}})
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


@pytest.mark.parametrize("name", ["penguins", "housing"])
def test_an_original_that_answers_otherwise_than_when_it_was_trained_is_refused(request, tmp_path, name):
    pipeline = request.getfixturevalue(name)
    original = tmp_path / "original"
    shutil.copytree(pipeline.original, original)
    network = networks.load(original / "original.safetensors")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-0.5)
    networks.save(network, original / "original.safetensors")
    inputs = {"curated": pipeline.curated, "original": original, "candidates": pipeline.compress.base / "model"}
    ended = run_stage(tmp_path / "job", "compile", inputs, {"spec": {}})
    assert ended.status == 1
    assert "the original answers otherwise than when it was trained" in ended.failure
    assert "damaged" in ended.failure


@pytest.fixture
def bench(penguins, tmp_path):
    """The penguins' original as exported, ready to be quantized."""
    preprocessor = tabular.open_codec(penguins.original)
    splits = [KIND.read_split(penguins.curated, split, preprocessor) for split in ("train", "validation")]
    bench = candidates.Bench(tmp_path, *splits, preprocessor, KIND, "accuracy", Report("compress"))
    bench.export("original", networks.load(penguins.original / "original.safetensors"), [])
    return bench


def test_dynamic_quantization_stands_in_where_static_fails(bench, monkeypatch):
    def refuse(*_args, **_more):
        raise RuntimeError("no scales")

    monkeypatch.setattr(export, "quantize_static", refuse)
    bench.quantize("original", bench.training.inputs, ["quantize"])
    static, dynamic = bench.candidates[1:]
    assert (static["name"], static["status"]) == ("original-int8", "failed")
    assert static["fallback"] == "original-int8-dynamic stands in"
    assert (dynamic["name"], dynamic["status"], dynamic["dynamic"]) == ("original-int8-dynamic", "finished", True)
    assert dynamic["size_bytes"] < bench.candidates[0]["size_bytes"] / 2


@pytest.mark.parametrize(("slow_s", "status"), [(1e-3, "dropped"), (1e-5, "finished")])
def test_a_dynamic_form_that_is_clearly_slower_is_dropped_before_it_is_judged(bench, monkeypatch, slow_s, status):
    monkeypatch.setattr(
        heats, "times", lambda models, _: dict(zip(models, [(1e-5, 1e-5), (slow_s, slow_s)], strict=True))
    )
    quantize = partial(bench._quantize_dynamic, "original", bench.training.inputs, ["quantize"], must_pay=True)
    bench.attempt("original-int8-dynamic", ["quantize"], quantize)
    made = bench.candidates[-1]
    assert made["status"] == status
    assert ("slower in 8 bits than original" in made["reason"]) is (status == "dropped")
    assert (bench.model / "original-int8-dynamic").exists() is (status == "finished")


def test_what_is_not_tried_for_tables_is_recorded_with_its_reason(penguins):
    skipped = {one["what"]: one["reason"] for one in penguins.compile.metrics()["skipped"]}
    assert set(skipped) == {"prune", "dynamic", "openvino"}
    assert all(skipped.values())


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
    bench = candidates.Bench(tmp_path, None, None, None, KIND, "accuracy", Report("compress"))

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
