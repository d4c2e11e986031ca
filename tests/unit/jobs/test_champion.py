"""The served model on this run's rows: whose quality it is."""

import json
import sys

import pytest

from ebb_jobs import bundle, champion, kinds
from ebb_jobs.tensors import TensorCodec
from unit.jobs.test_exported import WEIGHTS, linear, write

SERVED = {
    "run_id": "cancer-20261123093000-3f9a1c",
    "candidate": "student",
    "task": "tabular-regression",
    "classes": None,
    "features": [],
}
SCHEMA = {"task": "tabular-regression", "features": [], "target": {"name": "price"}}


@pytest.fixture
def channel(tmp_path, monkeypatch):
    (tmp_path / "model.tar.gz").write_bytes(b"")
    monkeypatch.setattr(champion.bundle, "unpack", lambda archive, folder: folder)
    monkeypatch.setattr(champion.serve, "read_signature", lambda folder: SERVED)
    monkeypatch.setattr(champion.serve, "Model", lambda folder, codec: None)
    monkeypatch.setattr(type(kinds.of(SCHEMA)), "open_codec", lambda self, folder: None)
    monkeypatch.setattr(champion, "_score", lambda *args: 0.5)
    return tmp_path


@pytest.mark.parametrize(
    ("schema", "quality"),
    [
        pytest.param(SCHEMA, {"validation": 0.5, "test": 0.5}, id="measured"),
        pytest.param(SCHEMA | {"task": "tabular-classification"}, None, id="not comparable"),
    ],
)
def test_the_run_whose_model_was_measured_is_named(channel, tmp_path, schema, quality):
    judged = champion.judge(channel, tmp_path, "rmse", schema, tmp_path)
    assert (judged["run_id"], judged["quality"]) == (SERVED["run_id"], quality)


ANSWERS = "module = 'served'\n"
"""A module beside inference.py: of a process's many models, each may bring one of this name."""


def served(folder, classes, weights):
    """Pack a script's network as it is served, with code of its own."""
    state = {"shape": [None, 3], "dtype": "float32", "classes": classes, "functions": ["input_fn"]}
    code = {"inference.py": b"import beside\ninput_fn = print\n", "beside.py": ANSWERS.encode()}
    codec = TensorCodec(state | {"code": sorted(code)}, code, {})
    model = linear(weights, names=("input", "output"), end=[("Softmax", {"axis": -1})])
    signature = {"task": "custom", "codec": "tensors", "runtime": "onnxruntime", "classes": classes, "candidate": "a"}
    files = {
        **codec.files(),
        "model.onnx": model.SerializeToString(),
        "signature.json": json.dumps(signature | {"input": {"shape": [3], "dtype": "float32"}}).encode(),
    }
    bundle.pack(folder / "model.tar.gz", files)
    return folder


@pytest.mark.parametrize(
    ("classes", "weights"),
    [
        pytest.param(["no", "yes"], WEIGHTS, id="the same order"),
        pytest.param(["yes", "no"], WEIGHTS[:, ::-1], id="the other order"),
    ],
)
def test_a_scripts_classes_may_come_in_another_order(tmp_path, monkeypatch, classes, weights):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "original/exported").mkdir(parents=True)
    write(tmp_path / "original/exported")
    schema = {
        "kind": "custom",
        "task": "custom",
        "features": [],
        "input": {"shape": [3], "dtype": "float32"},
        "target": {"name": "", "classes": ["no", "yes"]},
    }
    channel = served(tmp_path / "champion", classes, weights)
    judged = champion.judge(channel, tmp_path / "original", "accuracy", schema, tmp_path)
    assert judged["quality"] == {"validation": 1.0, "test": 1.0}
    assert "beside" not in sys.modules, "the served model's own code was loaded"
