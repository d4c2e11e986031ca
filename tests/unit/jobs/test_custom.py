"""Scripts as users write them, from their source to the answer over HTTP: exported, served as they are, or refused."""

import http.client
import io
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebb_jobs import bundle, custom, heats, runtimes
from ebb_jobs.errors import JobError
from ebb_jobs.report import Report
from unit.jobs.stages import DATA, HERE, RUN, answered_samples, prepare, run_stage, run_stage_here
from unit.jobs.wheels import wheel

GENTOO = [50.0, 15.0, 220.0, 5500.0]
HOUSE = {"year": 2010, "month": 6, "sales": 2200, "volume": 5.5e8, "listings": 11000, "inventory": 6.7}
SPEC = {"train": {"hyperparameters": {"epochs": 30}}}


def curate(folder, case, table):
    """Lay out what `process` makes of a drop with a script."""
    (folder / "data").mkdir(parents=True)
    shutil.copytree(DATA / case, folder / "source")
    if table:
        shutil.copy(DATA / table, folder / "data")
    schema = {"kind": "custom", "task": "custom", "entry_point": "train.py", "target": {"name": ""}}
    (folder / "schema.json").write_text(json.dumps({**schema, "columns": [], "features": []}))
    return folder


class Stages:
    """The stages over one script; compress and compile in this process, which saves the seconds of their start."""

    def __init__(self, base, case, table, spec, train=run_stage):
        self.base = base
        settings = {"spec": spec, "seed": 7, "run_id": "demo-1"}
        channels = {"curated": curate(base / "curated", case, table)}
        self.train = train(base / "train", "train", channels, settings)
        assert self.train.status == 0, self.train.log + self.train.failure
        channels["original"] = base / "train/model"
        self.compress = run_stage_here(base / "compress", "compress", channels, settings)
        assert self.compress.status == 0, self.compress.failure
        channels["candidates"] = base / "compress/model"
        self.compile = run_stage_here(base / "compile", "compile", channels, settings)
        assert self.compile.status == 0, self.compile.failure

    def bundle(self, name):
        return self.base / "compile/processing/output/bundles" / name / "model.tar.gz"


@pytest.fixture(scope="module", autouse=True)
def _on_any_cpu():
    """The candidates must not depend on the CPU that tests run on: neither on what it knows nor on how busy it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "has_bfloat16", lambda: False)
        patch.setattr(heats, "dominated", lambda *_: {})
        patch.setattr(heats, "slower_in_8_bits", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory, _on_any_cpu):
    return Stages(tmp_path_factory.mktemp("export"), "custom_export", "penguins.csv", SPEC)


@pytest.fixture(scope="module")
def as_is(tmp_path_factory):
    return Stages(tmp_path_factory.mktemp("as-is"), "custom_as_is", "housing.csv", SPEC)


def trial(base, case, table):
    """Run a script as one trial of a tuning job that proposes how many epochs; return status, log and failure."""
    channels = {"curated": curate(base / "curated", case, table)}
    settings = {"spec": {}, "seed": 7, "trial": {"own_metric": False}}
    environment = prepare(base / "train", "train", channels, settings)
    file = base / "train/input/config/hyperparameters.json"
    proposed = {"epochs": "12", "_tuning_objective_metric": "objective"}
    file.write_text(json.dumps(json.loads(file.read_text()) | proposed))
    command = [sys.executable, str(RUN), "train"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    failure = base / "train/output/failure"
    return done.returncode, done.stdout, failure.read_text() if failure.exists() else ""


def test_a_script_that_is_a_trial_gets_what_is_proposed_and_tells_its_objective(tmp_path):
    status, log, failure = trial(tmp_path, "custom_export", "penguins.csv")
    assert status == 0, failure
    report = json.loads((tmp_path / "train/model/metrics.json").read_text())
    assert log.count("ebb objective") == 1
    objective = float(log.split("ebb objective ")[1].split()[0])
    assert objective == pytest.approx(report["quality"]["validation"], rel=1e-6)
    assert next(each for each in report["decisions"] if each["what"] == "script")["numbers"] == {"hyperparameters": 1}


def test_a_trial_that_nothing_can_be_compared_of_says_what_to_write(tmp_path):
    status, _, failure = trial(tmp_path, "custom_as_is", "housing.csv")
    assert status == 1
    assert "train.tune.metric_regex" in failure


def ask(server, body, kind="application/json", accept="*/*"):
    """Return status, content type and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        given = body if isinstance(body, bytes | str) else json.dumps(body)
        connection.request("POST", "/invocations", given, {"Content-Type": kind, "Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


# ---- A script that exports its network ----


def test_the_exported_network_is_judged_on_its_held_out_rows(exported):
    metrics = exported.train.metrics()
    assert metrics["metric"] == "accuracy"
    assert metrics["quality"]["test"] >= 0.9
    assert metrics["as_is"] is False
    assert "runs: python train.py --epochs 30" in exported.train.log
    assert [d["chosen"] for d in metrics["decisions"] if d["what"] == "probabilities"] == ["softmax appended"]


def test_the_sample_payload_holds_the_scripts_own_rows(exported):
    answers = answered_samples(exported.compile, "original")
    assert len(answers) == exported.compile.metrics()["sample_payload"]["requests"] > 1
    assert all({"label", "probabilities"} <= set(one) for (one,) in answers)


def test_it_is_quantized_and_what_is_not_tried_is_told(exported):
    metrics = exported.compress.metrics()
    states = {one["name"]: one["status"] for one in metrics["candidates"]}
    assert states == dict.fromkeys(("original", "original-int8", "original-int8-dynamic"), "finished")
    reasons = {one["what"]: one["reason"] for one in metrics["skipped"]}
    assert set(reasons) == {"distill", "prune"}
    assert all("the script" in reason for reason in reasons.values())


def test_every_candidate_is_measured_against_the_network_as_it_came(exported):
    metrics = exported.compile.metrics()
    names = {one["name"]: one for one in metrics["candidates"]}
    assert set(names) == {
        "original", "original-openvino", "original-int8", "original-int8-openvino", "original-int8-dynamic",
    }  # fmt: skip
    assert metrics["original"]["described"] == "ONNX Runtime, as exported"
    assert names["original"]["drop_bound"] == 0
    assert {one["runtime"] for one in names.values()} == {"onnxruntime", "openvino"}
    for one in names.values():
        assert one["status"] == "measured", one["reason"]
        assert one["quality"]["test"] >= 0.9
    assert names["original-int8"]["size_bytes"] < names["original"]["size_bytes"] < 40_000


def test_its_report_has_the_fields_that_all_kinds_have(exported):
    published = json.loads((HERE / "reports/compile.json").read_text())
    assert set(published) <= set(exported.compile.metrics())
    fields = set(published["candidates"][0])
    assert all(fields <= set(one) for one in exported.compile.metrics()["candidates"])


@pytest.mark.parametrize("name", ["original", "original-openvino", "original-int8-dynamic"])
def test_the_served_network_answers_tensors_with_labels(exported, name):
    stream = io.BytesIO()
    np.save(stream, np.array([GENTOO], dtype=np.float32))
    table = ",".join(map(str, GENTOO))
    with bundle.served(exported.bundle(name)) as server:
        for body, kind in (
            ({"instances": [GENTOO]}, "application/json"),
            (table, "text/csv"),
            (stream.getvalue(), "application/x-npy"),
        ):
            status, _, answer = ask(server, body, kind)
            assert status == 200, answer
            [prediction] = json.loads(answer)["predictions"]
            assert prediction["label"] == "Gentoo"
            assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_served_network_refuses_other_shapes_in_words(exported):
    with bundle.served(exported.bundle("original")) as server:
        status, _, answer = ask(server, {"instances": [[1, 2]]})
    assert status == 400
    assert json.loads(answer)["error"] == "the input has the shape [1, 2], expected [rows, 4]"
    assert "each of the shape [4], of float32" in json.loads(answer)["remedy"]


def test_a_served_network_is_judged_on_the_rows_of_its_successor(exported, tmp_path):
    champion = tmp_path / "champion"
    champion.mkdir()
    shutil.copy(exported.bundle("original-int8"), champion)
    inputs = {
        "curated": exported.base / "curated",
        "original": exported.base / "train/model",
        "candidates": exported.base / "compress/model",
        "champion": champion,
    }
    ended = run_stage_here(tmp_path / "job", "compile", inputs, {"spec": {}})
    assert ended.metrics()["champion"]["candidate"] == "original-int8"
    assert ended.metrics()["champion"]["quality"]["validation"] >= 0.9


# ---- A script whose model is served as it is ----


def test_a_model_without_an_export_is_served_as_it_is(as_is):
    [candidate] = as_is.compile.metrics()["candidates"]
    assert as_is.compile.metrics()["as_is"] is True
    assert "sample_payload" not in as_is.compile.metrics(), "nothing is known of its inputs"
    assert (candidate["name"], candidate["image"], candidate["status"]) == ("as-is", "jobs", "measured")
    assert candidate["reason"] == "served by code/inference.py: train.py exported no model.onnx"
    assert candidate["quality"] is None
    assert 100 < candidate["memory_mib"] < 1500
    assert as_is.compile.metrics()["metric"] is as_is.compile.metrics()["original"] is None


@pytest.mark.parametrize("stage", ["train", "compress", "compile"])
def test_every_stage_tells_what_was_skipped_and_why(as_is, stage):
    skipped = getattr(as_is, stage).metrics()["skipped"]
    assert [one["what"] for one in skipped] == ["compress", "compile", "quality"]
    assert all(one["reason"].startswith("train.py exported no model.onnx: ") for one in skipped)


def test_the_users_own_functions_answer(as_is):
    with bundle.served(as_is.bundle("as-is")) as server:
        status, kind, answer = ask(server, {"instances": [HOUSE, {**HOUSE, "year": 2000}]})
        assert (status, kind) == (200, "application/json")
        prices = [one["value"] for one in json.loads(answer)["predictions"]]
        assert all(80_000 < price < 300_000 for price in prices)
        assert prices[0] != prices[1]


def test_what_the_users_functions_do_not_take_is_refused_without_a_value(as_is):
    with bundle.served(as_is.bundle("as-is")) as server:
        for body, kind in (({"instances": [{"year": "Smith"}]}, "application/json"), ("Smith", "text/csv")):
            status, _, answer = ask(server, body, kind)
            assert status == 400
            assert "input_fn of code/inference.py refused the request" in json.loads(answer)["error"]
            assert b"Smith" not in answer


# ---- Scripts that leave something else: their own process copies prepared files to where a model belongs ----

COPY = """
import os, shutil
shutil.copytree(os.environ["SM_CHANNEL_TRAINING"], os.environ["SM_MODEL_DIR"], dirs_exist_ok=True)
"""


def leave(folder, files):
    """Lay out a drop whose script leaves these files; text, bytes, an ONNX model, or a dict of arrays."""
    curated = curate(folder / "curated", "custom_nothing", None)
    (curated / "source/train.py").write_text(COPY)
    for name, content in files.items():
        file = curated / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            np.savez(file, **content)
        elif isinstance(content, onnx.ModelProto):
            onnx.save(content, str(file))
        else:
            file.write_text(content)
    return curated


def train(folder, files):
    report = Report("train")
    (folder / "model").mkdir()
    (folder / "checkpoints").mkdir()
    custom.train(leave(folder, files), folder / "model", folder / "checkpoints", {"spec": {}}, report)
    return report


@pytest.mark.parametrize("resumed", [False, True])
def test_a_curve_tells_whether_it_is_the_rest_of_one(tmp_path, resumed: bool):
    curated, checkpoints, report = leave(tmp_path, EXPORT), tmp_path / "checkpoints", Report("train")
    checkpoints.mkdir()
    (tmp_path / "model").mkdir()
    if resumed:
        (checkpoints / "epoch").write_text("3")
    stop = {"metric_regex": "loss=(.+)", "goal": "minimize"}
    custom.train(curated, tmp_path / "model", checkpoints, {"spec": {"train": {"stop": stop}}}, report)
    assert report.fields["curve"]["resumed"] is resumed


def line():
    """Return the ONNX of 3 * x + 2."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "three"], ["m"]), helper.make_node("Add", ["m", "two"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.float32([number]), name) for number, name in ((3, "three"), (2, "two"))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


ROWS = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]
EXPORT = {
    "model.onnx": line(),
    "evaluation.npz": {"inputs": ROWS, "targets": 3 * ROWS + 2 + 0.1 * np.sin(40 * ROWS)},
    "evaluation.json": '{"task": "regression", "metric": "mae"}',
}
SERVES = "def model_fn(model_dir):\n    return None\n"


def test_a_script_that_leaves_nothing_is_told_what_to_write(tmp_path):
    channels = {"curated": curate(tmp_path / "curated", "custom_nothing", "penguins.csv")}
    ended = run_stage(tmp_path / "train", "train", channels, {"spec": {}})
    assert ended.status == 1
    assert ended.failure.splitlines()[-1] == (
        "train.py exported no model.onnx and there is no code/inference.py: write model.onnx, evaluation.npz and "
        "evaluation.json into SM_MODEL_DIR to have the model made smaller, or bring code/inference.py with model_fn to "
        "have it served as it is"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"model.onnx": "no model"}, "model.onnx is no ONNX file", id="another file"),
        pytest.param({"evaluation.npz": None}, "evaluation.npz is missing", id="no held-out rows"),
        pytest.param({"evaluation.json": "{}"}, "evaluation.json names no task", id="no task"),
    ],
)
def test_a_wrong_export_fails_unless_it_can_be_served_as_it_is(tmp_path, changed, words):
    files = {name: content for name, content in {**EXPORT, **changed}.items() if content is not None}
    (tmp_path / "without").mkdir()
    with pytest.raises(JobError, match=words):
        train(tmp_path / "without", files)
    (tmp_path / "with").mkdir()
    report = train(tmp_path / "with", {**files, "code/inference.py": SERVES})
    assert report.fields["as_is"] is True
    assert all(words in one["reason"] for one in report.fields["skipped"])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param(
            "import of_mine", "cannot be imported: ModuleNotFoundError (No module named 'of_mine')", id="import"
        ),
        pytest.param("def model_fn(d):\n    return {}['Smith']", "model_fn failed: KeyError", id="a failing model_fn"),
        pytest.param("x = 1", "model_fn failed: FileNotFoundError", id="no model_fn and no model.pt"),
    ],
)
def test_a_model_that_cannot_be_loaded_fails_before_it_is_served(tmp_path, code, words):
    with pytest.raises(JobError) as failed:
        train(tmp_path, {"code/inference.py": code})
    assert words in str(failed.value)
    assert "Smith" not in str(failed.value)


def test_what_the_wheels_brought_for_training_is_there_when_it_is_served(tmp_path):
    curated = leave(tmp_path, {})
    wheel(curated / "source/wheels", "answer_of_mine", "ANSWER = 42\n")
    (curated / "source/train.py").write_text("import answer_of_mine")
    (curated / "source/code").mkdir()
    (curated / "source/code/inference.py").write_text("import answer_of_mine\n" + SERVES)
    (tmp_path / "model").mkdir()
    custom.train(curated, tmp_path / "model", tmp_path, {"spec": {}}, Report("train"))
    assert (tmp_path / "model/exported/code/answer_of_mine.py").exists()


def test_inference_may_lie_beside_the_script(tmp_path):
    curated = leave(tmp_path, {})
    (curated / "source/inference.py").write_text("import network_of_mine\n" + SERVES)
    (curated / "source/network_of_mine.py").write_text("")
    (tmp_path / "model").mkdir()
    custom.train(curated, tmp_path / "model", tmp_path, {"spec": {}}, Report("train"))
    assert (tmp_path / "model/exported/code/network_of_mine.py").exists()


@pytest.mark.parametrize("name", ["code/serve.py", "code/tensors.py", "signature.json"])
def test_files_that_would_be_overwritten_are_named(tmp_path, name):
    with pytest.raises(JobError, match=f"{name.rpartition('/')[2]} has the name of a file"):
        train(tmp_path, {"code/inference.py": SERVES, name: "{}"})


def test_without_calibration_rows_static_int8_says_why_and_the_rest_goes_on(tmp_path):
    curated = leave(tmp_path / "drop", EXPORT)
    shutil.copytree(curated, tmp_path / "case")
    channels = {"curated": curated}
    for stage in ("train", "compress"):
        ended = run_stage_here(tmp_path / stage, stage, channels, {"spec": {}})
        assert ended.status == 0, ended.failure
        channels["original"] = tmp_path / "train/model"
    failed = {one["name"]: one["reason"] for one in ended.metrics()["candidates"] if one["status"] == "failed"}
    assert "evaluation.npz holds no array 'calibration'" in failed["original-int8"]
    assert ended.metrics()["candidates"][0]["quality"]["validation"] == pytest.approx(0.063, abs=0.01)  # 0.1 * 2 / pi


WRAPS = """
import json

def input_fn(body, content_type):
    return [[float(number)] for number in json.loads(body)["numbers"]]

def output_fn(prediction, accept):
    return " ".join(f"{value:.1f}" for value in prediction[:, 0]), "text/plain"
"""


def test_input_fn_and_output_fn_speak_around_an_exported_network(tmp_path):
    curated = leave(tmp_path / "drop", {**EXPORT, "code/inference.py": WRAPS + "def predict_fn(data, model): ..."})
    channels = {"curated": curated}
    settings = {"spec": {"compress": {"methods": ["distill"]}}}
    for stage, name in (("train", "original"), ("compress", "candidates"), ("compile", "")):
        ended = run_stage_here(tmp_path / stage, stage, channels, settings)
        assert ended.status == 0, ended.failure
        if stage == "train":
            assert "predict_fn is not called" in ended.metrics()["skipped"][0]["reason"]
        channels[name] = tmp_path / stage / "model"
    with bundle.served(tmp_path / "compile/processing/output/bundles/original/model.tar.gz") as server:
        assert ask(server, {"numbers": [0, 1]}) == (200, "text/plain", b"2.0 5.0")
        status, _, answer = ask(server, {"Smith": [0, 1]})
    assert status == 400
    assert b"Smith" not in answer


def test_code_that_needs_more_than_the_small_image_holds_stays_out(tmp_path):
    report = train(tmp_path, {**EXPORT, "code/inference.py": "import torch\n" + WRAPS})
    [told] = report.fields["skipped"]
    assert told["reason"].startswith("code/inference.py imports torch, which the image that serves exported networks")
    assert not (tmp_path / "model/code").exists()


def test_a_stage_that_is_stopped_says_so_and_keeps_checkpoints(tmp_path):
    curated = curate(tmp_path / "curated", "custom_nothing", None)
    (curated / "source/train.py").write_text(
        "import os, pathlib, time\n"
        "(pathlib.Path(os.environ['SM_CHECKPOINT_DIR']) / 'epoch').write_text('1')\n"
        "time.sleep(60)\n"
    )
    environment = prepare(tmp_path / "job", "train", {"curated": curated}, {"spec": {}})
    process = subprocess.Popen([sys.executable, str(RUN), "train"], env=environment)
    checkpoint = tmp_path / "job/checkpoints/epoch"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 1
    assert "train.py was stopped by SIGTERM" in (tmp_path / "job/output/failure").read_text()
    assert checkpoint.read_text() == "1"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param("import sys; sys.exit(0)", "cannot be imported: SystemExit", id="ends with success"),
        pytest.param("import os; os._exit(0)", "it ends its process", id="ends without a word"),
        pytest.param("import time; time.sleep(30)", "not ended after 3 s", id="never ends"),
    ],
)
def test_code_that_does_not_load_stays_out_or_is_told(tmp_path, monkeypatch, code, words):
    monkeypatch.setattr(custom, "IMPORT_S", 3.0)
    monkeypatch.setattr(custom, "OPEN_S", 3.0)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text(f"{code}\ndef input_fn(body, kind): pass\ndef model_fn(folder): pass\n")
    report = Report("train")
    assert custom._functions(tmp_path, report) == ([], [])
    assert any(words in one["reason"] for one in report.fields["skipped"])
    with pytest.raises(JobError, match=words):
        custom._open_once(tmp_path)


def test_code_that_ends_its_process_while_it_loads_the_model_is_told(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text("import sys\ndef model_fn(folder): sys.exit(0)\n")
    with pytest.raises(JobError, match="model_fn failed: SystemExit"):
        custom._open_once(tmp_path)
