"""What is made beside the candidates: an older ONNX for SageMaker Neo, a program for Neuron cores, or a reason."""

import json
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ebb_jobs import device, elsewhere, export, networks, neuron
from ebb_jobs.report import Report

ROWS = np.random.default_rng(4).normal(size=(40, 7)).astype(np.float32)
NEO = {"elsewhere": {"engine": "neo", "target": "ml_c5"}}
NEURON = {"elsewhere": {"engine": "neuron", "target": "inf2"}}


@pytest.fixture
def trained(tmp_path):
    """An original as `train` leaves it and as `compress` exports it."""
    torch.manual_seed(5)
    network = networks.Mlp(7, [16, 16], 3).eval()
    places = SimpleNamespace(original=tmp_path / "original", candidates=tmp_path / "candidates", bundles=tmp_path / "b")
    (places.candidates / "original").mkdir(parents=True)
    places.original.mkdir()
    networks.save(network, places.original / "original.safetensors")
    export.to_onnx(network, places.candidates / "original/network.onnx", ROWS)
    listed(places, chain=[])
    return places


def listed(places, **fields) -> None:
    made = {"name": "original", "chain": [], "status": "finished", "precision": "float32"} | fields
    (places.candidates / "metrics.json").write_text(json.dumps({"candidates": [made]}))


def made(places, settings) -> dict:
    report = Report("compile")
    elsewhere.make(settings, places.original, places.candidates, places.bundles, ROWS, report)
    return report.fields.get("elsewhere", {}) | {"decisions": report.decisions}


def test_whatever_goes_wrong_leaves_what_was_measured(trained, monkeypatch):
    monkeypatch.setattr(onnx, "load", lambda *_, **__: (_ for _ in ()).throw(OSError("no room for digits of a user")))
    told = made(trained, NEO)
    assert (told["status"], told["engine"]) == ("failed", "neo")
    assert "OSError" in told["reason"]
    assert "digits of a user" not in json.dumps(told)


def test_nothing_is_made_unasked(trained):
    assert made(trained, {}) == {"decisions": []}
    assert not trained.bundles.exists()


def test_the_original_is_packed_alone_as_the_onnx_that_neo_reads(trained, tmp_path):
    told = made(trained, NEO)
    assert (told["status"], told["framework"], told["version"]) == ("made", "ONNX", "1.7")
    assert told["input"] == {"name": "input", "shape": [1, 7]}
    with tarfile.open(trained.bundles / told["archive"]) as archive:
        assert archive.getnames() == ["network.onnx"]
        archive.extractall(tmp_path, filter="data")
    old = onnx.load(str(tmp_path / "network.onnx"))
    assert [each.version for each in old.opset_import] == [12]
    assert old.ir_version == 7
    today = export.run(export.session(trained.candidates / "original/network.onnx"), ROWS)
    assert np.abs(export.run(export.session(tmp_path / "network.onnx"), ROWS) - today).max() < 1e-6
    assert [path.name for path in (trained.bundles / "neo").iterdir()] == ["model.tar.gz"]


def model(nodes, *, domain="", version=20):
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 7])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", "values"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    sets = [helper.make_opsetid("", version), *([helper.make_opsetid(domain, 3)] if domain else [])]
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        pytest.param(
            model([helper.make_node("ReduceMean", ["input", "axes"], ["output"])]),
            "not to be told in ONNX 1.7",
            id="axes were no input then",
        ),
        pytest.param(
            model([helper.make_node("Gelu", ["input"], ["output"])]),
            "not to be told in ONNX 1.7",
            id="no such operator",
        ),
        pytest.param(
            model([helper.make_node("Relu", ["input"], ["output"])], domain="ai.onnx.ml"),
            "ai.onnx.ml are not among those that Neo reads",
            id="trees",
        ),
    ],
)
def test_what_cannot_be_told_in_the_older_onnx_leaves_a_reason_and_nothing_else(trained, network, reason):
    onnx.save(network, str(trained.candidates / "original/network.onnx"))
    told = made(trained, NEO)
    assert told["status"] == "failed"
    assert reason in told["reason"]
    assert told["decisions"][0]["reason"] == told["reason"]
    assert not list(trained.bundles.rglob("*.gz"))


def test_an_operator_that_means_something_else_in_the_older_set_is_found_out_by_its_answers(trained):
    """Softmax took the product of all later axes until set 12, and one axis since."""
    nodes = [helper.make_node("Softmax", ["input"], ["output"], axis=0)]
    onnx.save(model(nodes), str(trained.candidates / "original/network.onnx"))
    told = made(trained, NEO)
    assert told["status"] == "failed"
    assert "answers otherwise" in told["reason"]


def test_a_network_that_was_not_exported_cannot_be_handed_over(trained):
    listed(trained, status="failed")
    assert "could not be exported" in made(trained, NEO)["reason"]


def test_a_model_that_is_served_by_its_own_code_has_nothing_to_compile():
    report = Report("compile")
    elsewhere.refuse(NEO, "it is served as it is", report)
    assert report.fields["elsewhere"] == {**NEO["elsewhere"], "status": "failed", "reason": "it is served as it is"}


# ---- Neuron: the toolchain is a fake at its boundary; nothing here says how the real one behaves ----


class Toolchain:
    """torch_neuronx as its guide describes it: `trace` answers with a ScriptModule."""

    __spec__ = SimpleNamespace()  # what find_spec looks for

    def __init__(self, *, fails: Exception | None = None, off: float = 0.0):
        self.calls: list[dict] = []
        self._fails, self._off = fails, off

    def trace(self, func, example_inputs, *, compiler_args, cpu_backend):
        self.calls.append({"arguments": compiler_args, "cpu": cpu_backend, "shape": list(example_inputs[0].shape)})
        if self._fails:
            raise self._fails
        off = self._off

        class Compiled(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = func

            def forward(self, batch):
                return self.inner(batch) * (1.0 + off)

        return torch.jit.trace(Compiled().eval(), example_inputs)


def with_toolchain(monkeypatch, toolchain, *, core: bool) -> None:
    monkeypatch.setitem(sys.modules, neuron.TOOLCHAIN, toolchain)
    kind = device.NEURON if core else device.CPU
    monkeypatch.setattr(neuron.device, "found", lambda: SimpleNamespace(kind=kind))


def test_without_the_toolchain_the_reason_says_so(trained):
    told = made(trained, NEURON)
    assert (told["status"], told["reason"]) == ("failed", "the image holds no torch_neuronx")


def test_on_a_cpu_the_graph_is_compiled_for_the_target_in_full_precision(trained, monkeypatch):
    toolchain = Toolchain()
    with_toolchain(monkeypatch, toolchain, core=False)
    told = made(trained, NEURON)
    assert toolchain.calls == [{"arguments": ["--target", "inf2", "--auto-cast", "none"], "cpu": True, "shape": [1, 7]}]
    assert (told["status"], told["precision"], told["difference"]) == ("made", "float32", None)
    assert told["size_bytes"] == (trained.bundles / told["file"]).stat().st_size > 0


def test_on_a_neuron_core_it_is_compiled_in_bfloat16_and_must_answer_alike(trained, monkeypatch):
    toolchain = Toolchain()
    with_toolchain(monkeypatch, toolchain, core=True)
    told = made(trained, NEURON)
    assert toolchain.calls[0]["arguments"][-1] == "bf16"
    assert not toolchain.calls[0]["cpu"]
    assert (told["precision"], told["difference"]) == ("bfloat16", pytest.approx(0, abs=1e-5))
    with_toolchain(monkeypatch, Toolchain(off=20.0), core=True)
    assert "answers otherwise" in made(trained, NEURON)["reason"]


def test_a_compiler_that_fails_leaves_the_candidates_and_a_reason(trained, monkeypatch):
    with_toolchain(monkeypatch, Toolchain(fails=RuntimeError("unsupported operator")), core=False)
    told = made(trained, NEURON)
    assert told["status"] == "failed"
    assert "neuronx-cc does not compile it: RuntimeError" in told["reason"]


def test_what_is_no_network_of_pytorch_is_not_for_neuron(trained, monkeypatch):
    with_toolchain(monkeypatch, Toolchain(), core=False)
    (trained.original / "original.safetensors").unlink()
    assert "this model is none" in made(trained, NEURON)["reason"]
