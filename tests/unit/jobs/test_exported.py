"""What a script exported: taken in the many forms that exporters write, refused in words that name file and remedy."""

import json
import zipfile

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ebb_jobs import exported, exported_rows
from ebb_jobs.exported_rows import ExportError

RANDOM = np.random.default_rng(1)
INPUTS = RANDOM.normal(size=(120, 3)).astype(np.float32)
WEIGHTS = np.array([[2.0, -1.0], [0.5, 1.0], [-1.0, 1.5]], dtype=np.float32)
LOGITS = INPUTS @ WEIGHTS
TARGETS = LOGITS.argmax(1)
SHEET = {"task": "classification", "classes": ["no", "yes"]}


def linear(weights=WEIGHTS, rows="n", names=("x", "y"), end=(), kind=TensorProto.FLOAT, opset=18):
    """Return the ONNX of inputs @ weights, then the operators `end` one after the other."""
    given, answer = names
    flow, nodes = "product", [helper.make_node("MatMul", [given, "w"], ["product"])]
    for number, (operator, attributes) in enumerate(end):
        nodes.append(helper.make_node(operator, [flow], [f"step{number}"], **attributes))
        flow = f"step{number}"
    nodes.append(helper.make_node("Identity", [flow], [answer]))
    ends = [None] * (1 if any(operator == "Squeeze" for operator, _ in end) else 2)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(given, kind, [rows, 3])],
        [helper.make_tensor_value_info(answer, kind, ends)],
        [numpy_helper.from_array(weights.astype(helper.tensor_dtype_to_np_dtype(kind)), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def write(folder, model=None, sheet=SHEET, **arrays):
    if not isinstance(model, bytes):
        model = (linear() if model is None else model).SerializeToString()
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "evaluation.npz", **{"inputs": INPUTS, "targets": TARGETS, **arrays})
    (folder / "evaluation.json").write_text(sheet if isinstance(sheet, str) else json.dumps(sheet))
    return folder


def answers(found, inputs=INPUTS):
    session = onnxruntime.InferenceSession(found.network.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": inputs})[0]


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(linear(), id="logits"),
        pytest.param(linear(end=[("Softmax", {"axis": -1})]), id="probabilities"),
        pytest.param(linear(end=[("LogSoftmax", {"axis": -1})]), id="logarithms of probabilities"),
        pytest.param(linear(rows=1), id="one row at a time"),
        pytest.param(linear(rows=None), id="rows without a name"),
        pytest.param(linear(names=("input", "output")), id="our own names"),
        pytest.param(linear(names=("output", "input")), id="our own names the other way round"),
        pytest.param(linear(opset=11), id="an old set of operators"),
    ],
)
def test_every_form_of_a_classifier_becomes_probabilities_of_named_classes(tmp_path, model):
    found = exported.read(write(tmp_path, model))
    assert np.allclose(answers(found), softmax(LOGITS), atol=1e-5)
    assert answers(found, INPUTS[:1]).shape == (1, 2)
    assert found.shape == [None, 3]
    assert found.evaluation.classes == ["no", "yes"]


@pytest.mark.parametrize("end", [(), (("Sigmoid", {}),), (("Squeeze", {}),)], ids=["logit", "probability", "flat"])
def test_one_output_tells_two_classes_apart(tmp_path, end):
    weights = WEIGHTS[:, 1:] - WEIGHTS[:, :1]
    opset = 12 if end == (("Squeeze", {}),) else 18
    end = (("Squeeze", {"axes": [1]}),) if opset == 12 else end
    found = exported.read(write(tmp_path, linear(weights, end=end, opset=opset)))
    assert np.allclose(answers(found), softmax(LOGITS), atol=1e-5)


def test_double_precision_is_answered_in_single(tmp_path):
    found = exported.read(write(tmp_path, linear(kind=TensorProto.DOUBLE)))
    assert found.dtype == np.float64
    assert answers(found, INPUTS.astype(np.float64)).dtype == np.float32


def test_a_regression_keeps_its_own_unit(tmp_path):
    prices = 1000 * INPUTS @ WEIGHTS[:, :1] + 5
    found = exported.read(write(tmp_path, linear(1000 * WEIGHTS[:, :1]), {"task": "regression"}, targets=prices))
    assert np.allclose(answers(found)[:, 0], 1000 * INPUTS @ WEIGHTS[:, 0], rtol=1e-4)
    assert found.evaluation.metric.value == "rmse"
    assert found.evaluation.targets.shape == (120,)


def test_a_class_without_a_name_is_its_number(tmp_path):
    assert exported.read(write(tmp_path, sheet={"task": "classification"})).evaluation.classes == ["0", "1"]


def test_the_halves_are_alike_and_always_the_same(tmp_path):
    targets = np.array([0] * 100 + [1] * 20)
    evaluation = exported.read(write(tmp_path, targets=targets)).evaluation
    halves = [evaluation.split(name) for name in ("validation", "test")]
    assert [np.bincount(half.targets).tolist() for half in halves] == [[50, 10], [50, 10]]
    together = np.concatenate([half.inputs for half in halves])
    assert np.array_equal(np.sort(together, axis=0), np.sort(INPUTS, axis=0))
    assert np.array_equal(exported_rows.choosing(targets), exported_rows.choosing(targets))


def test_calibration_rows_are_the_training_rows_that_are_known(tmp_path):
    assert len(exported.read(write(tmp_path)).evaluation.split("train")) == 0
    assert len(exported.read(write(tmp_path, calibration=INPUTS[:7])).evaluation.split("train")) == 7


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, pictures):
        return self.layers(pictures)


@pytest.fixture(scope="module")
def pictures():
    torch.manual_seed(0)
    network = Convolution().eval()
    rows = torch.randn(60, 1, 8, 8)
    with torch.no_grad():
        return network, rows.numpy(), softmax(network(rows).numpy())


@pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")  # PyTorch's exporter of its own classes
@pytest.mark.parametrize("external", [True, False], ids=["weights beside", "weights inside"])
@pytest.mark.parametrize("rows", [1, 2], ids=["one row at a time", "any number of rows"])
def test_what_pytorch_exports_by_itself_is_taken(tmp_path, pictures, rows, external):
    network, inputs, expected = pictures
    torch.onnx.export(
        network,
        (torch.from_numpy(inputs[:rows]),),
        str(tmp_path / "model.onnx"),
        dynamo=True,
        external_data=external,
        dynamic_shapes=({0: torch.export.Dim("rows")},) if rows > 1 else None,
        verbose=False,
    )
    model = (tmp_path / "model.onnx").read_bytes()
    assert (tmp_path / "model.onnx.data").exists() == external
    found = exported.read(write(tmp_path, model, {"task": "classification"}, inputs=inputs, targets=expected.argmax(1)))
    assert np.allclose(answers(found, inputs), expected, atol=1e-5)
    assert found.parameters > 400
    assert b"test_exported" not in found.network.SerializeToString()  # no path of the machine that exported it


def in_two_files(name="weights.bin"):
    model = linear()
    [weights] = model.graph.initializer
    raw = numpy_helper.to_array(weights).tobytes()
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", name), ("length", str(len(raw)))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    return model, raw


@pytest.mark.parametrize("name", ["/etc/hostname", "../weights.bin", "folder/weights.bin", "missing.bin", ""])
def test_weights_anywhere_but_beside_the_model_are_refused(tmp_path, name):
    model, raw = in_two_files(name)
    (tmp_path / "export/folder").mkdir(parents=True)
    for place in ("weights.bin", "export/folder/weights.bin"):
        (tmp_path / place).write_bytes(raw)
    with pytest.raises(ExportError, match=r"model.onnx keeps weights .* external_data=False"):
        exported.read(write(tmp_path / "export", model))


def test_a_link_beside_the_model_is_refused(tmp_path):
    model, raw = in_two_files()
    (tmp_path / "elsewhere").write_bytes(raw)
    (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="does not lie beside it"):
        exported.read(write(tmp_path, model))


def two_inputs():
    model = linear()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n", 3]))
    return model


def custom_operator():
    model = linear()
    model.graph.node[0].domain, model.graph.node[0].op_type = "my.company", "Magic"
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    return model


def hidden_custom_operator():
    model = custom_operator()
    inner = helper.make_graph(list(model.graph.node[:1]), "inner", [], [model.graph.output[0]])
    del model.graph.node[0]
    model.graph.node.insert(0, helper.make_node("If", ["x"], ["product"], then_branch=inner, else_branch=inner))
    return model


def two_outputs(second="other"):
    model = linear()
    model.graph.node.append(helper.make_node("Identity", ["x"], [second]))
    model.graph.output.append(helper.make_tensor_value_info(second, TensorProto.FLOAT, ["n", 3]))
    return model


def broken():
    model = linear()
    model.graph.node[0].op_type = "NoSuchOperator"
    return model


def text_input():
    model = linear()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        pytest.param(b"", "model.onnx", id="nothing in it"),
        pytest.param(b"PK\x03\x04 not an ONNX file at all", "is no ONNX file: torch.onnx.export", id="another file"),
        pytest.param(broken(), "is not valid ONNX", id="an operator that does not exist"),
        pytest.param(custom_operator(), "uses the operator my.company::Magic", id="a custom operator"),
        pytest.param(hidden_custom_operator(), "uses the operator my.company::Magic", id="one within a branch"),
        pytest.param(two_inputs(), "has 2 inputs, expected one", id="two inputs"),
        pytest.param(text_input(), "model.onnx", id="text in"),
        pytest.param(linear(rows=8), "takes 8 rows at once and no other number", id="a fixed batch"),
        pytest.param(two_outputs(), "has 2 outputs: name the one that answers 'output'", id="two outputs"),
        pytest.param(
            linear(end=[("Softmax", {"axis": 0})]), "answers a row otherwise when others are beside it", id="mixes rows"
        ),
        pytest.param(
            linear(end=[("ReduceSum", {"keepdims": 1})]), "several rows at once", id="one answer for all rows"
        ),
        pytest.param(linear(end=[("Cast", {"to": TensorProto.INT64})]), "model.onnx", id="whole numbers out"),
        pytest.param(linear(WEIGHTS * np.nan), "NaN or infinity", id="weights that are no numbers"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_words(tmp_path, model, words):
    with pytest.raises(ExportError) as refused:
        exported.read(write(tmp_path, model))
    assert words in str(refused.value)
    assert "model.onnx" in str(refused.value)


def test_the_answering_output_may_be_named(tmp_path):
    model = two_outputs()
    model.graph.output[0].name = model.graph.node[1].output[0] = "output"
    assert np.allclose(answers(exported.read(write(tmp_path, model))), softmax(LOGITS), atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        pytest.param({"inputs": INPUTS[:, :2]}, "array 'inputs', has the shape [120, 2]", id="another width"),
        pytest.param({"inputs": INPUTS[:50]}, "differ in their number of rows", id="fewer inputs than targets"),
        pytest.param({"inputs": INPUTS[:10], "targets": TARGETS[:10]}, "holds 10 rows", id="too few rows"),
        pytest.param({"inputs": INPUTS * np.nan}, "array 'inputs', holds NaN", id="no numbers"),
        pytest.param({"inputs": INPUTS.astype(str)}, "holds <U", id="text"),
        pytest.param({"inputs": INPUTS.astype(object)}, "no .npz file of plain arrays", id="a pickle"),
        pytest.param({"calibration": INPUTS[:, :1]}, "array 'calibration', has the shape", id="another calibration"),
        pytest.param({"targets": TARGETS * 0}, "one class only", id="one class"),
        pytest.param({"targets": TARGETS + 1}, "beyond the 2 classes", id="classes from one on"),
        pytest.param({"targets": TARGETS - 1}, "must hold class indices", id="classes from minus one on"),
        pytest.param({"targets": TARGETS + 0.5}, "must hold class indices", id="fractions of classes"),
        pytest.param({"targets": softmax(LOGITS)}, "must hold class indices", id="one-hot"),
        pytest.param({"targets": np.array(["Smith"] * 120)}, "must hold class indices", id="names"),
    ],
)
def test_held_out_rows_that_cannot_be_used_are_refused_in_words(tmp_path, arrays, words):
    with pytest.raises(ExportError) as refused:
        exported.read(write(tmp_path, **arrays))
    assert words in str(refused.value)
    assert "evaluation.npz" in str(refused.value)
    assert "Smith" not in str(refused.value)


@pytest.mark.parametrize(
    ("sheet", "words"),
    [
        pytest.param("{", "is not JSON", id="broken"),
        pytest.param("[]", "names no task", id="a list"),
        pytest.param({"task": "segmentation"}, "names no task", id="another task"),
        pytest.param({"task": "classification", "metric": "rmse"}, "the metric does not suit", id="another's metric"),
        pytest.param({"task": "classification", "classes": ["a"]}, "two or more", id="one class"),
        pytest.param({"task": "classification", "classes": [0, 1]}, "two or more different names", id="numbers"),
        pytest.param(
            {"task": "classification", "classes": list("abc")}, "evaluation.json names 3", id="another number"
        ),
        pytest.param({"task": "regression", "classes": ["a", "b"]}, "leave them out", id="classes of a regression"),
        pytest.param({"task": "classification", "labels": []}, "has a field 'labels'", id="a field we do not know"),
    ],
)
def test_a_sheet_that_cannot_be_used_is_refused_in_words(tmp_path, sheet, words):
    with pytest.raises(ExportError) as refused:
        exported.read(write(tmp_path, sheet=sheet))
    assert words in str(refused.value)
    assert "evaluation.json" in str(refused.value)


@pytest.mark.parametrize("name", ["model.onnx", "evaluation.npz", "evaluation.json"])
def test_a_missing_file_is_named_with_what_writes_it(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ExportError, match=f"{name} is missing"):
        exported.read(tmp_path)


def test_an_evaluation_that_unpacks_without_end_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(exported_rows, "MAX_EVALUATION_BYTES", 2**20)
    write(tmp_path)
    np.savez_compressed(tmp_path / "evaluation.npz", inputs=np.zeros(2**21, dtype=np.uint8), targets=TARGETS)
    assert (tmp_path / "evaluation.npz").stat().st_size < 2**14
    with pytest.raises(ExportError, match=r"evaluation.npz unpacks to"):
        exported.read(tmp_path)


def test_a_model_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "MAX_MODEL_BYTES", 100)
    with pytest.raises(ExportError, match="GiB of at most"):
        exported.read(write(tmp_path))


def test_a_regression_of_one_value_only_is_not_judged(tmp_path):
    with pytest.raises(ExportError, match="one value only"):
        exported.read(write(tmp_path, linear(WEIGHTS[:, :1]), {"task": "regression"}, targets=np.ones(120)))


def test_a_regression_of_two_values_is_refused(tmp_path):
    with pytest.raises(ExportError, match="2 outputs per row"):
        exported.read(write(tmp_path, linear(), {"task": "regression"}, targets=LOGITS[:, 0]))


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(np.where(TARGETS == 1, 10**11, 0), id="a class index that would take all memory"),
        pytest.param(np.where(TARGETS == 1, np.inf, 0.0), id="infinity for a class"),
    ],
)
@pytest.mark.parametrize("sheet", [SHEET, {"task": "classification"}])
def test_targets_that_are_no_class_indices_are_told(tmp_path, targets, sheet):
    with pytest.raises(ExportError, match="class ind"):
        exported.read(write(tmp_path, sheet=sheet, targets=targets))


@pytest.mark.parametrize("name", ["inputs", "targets"])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }", id="10^12 rows"),
        pytest.param("{'descr': '<f4', 'fortran_order': False, 'shape': (((", id="no end"),
    ],
)
def test_an_array_whose_head_lies_is_not_read(tmp_path, name, head):
    folder = write(tmp_path)
    text = head.ljust(117).encode() + b"\n"
    lying = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(1440)
    with zipfile.ZipFile(folder / "evaluation.npz") as archive:
        arrays = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(folder / "evaluation.npz", "w") as archive:
        for member, content in {**arrays, f"{name}.npy": lying}.items():
            archive.writestr(member, content)
    with pytest.raises(ExportError, match=r"no \.npz file of plain arrays"):
        exported.read(folder)
