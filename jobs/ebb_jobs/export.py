"""Networks as ONNX, exported and proven equal, and the same quantized to 8 bits."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from ebb_jobs import runtimes
from ebb_jobs.errors import JobError
from ebb_jobs.networks import EVALUATION_VALUES, Mlp, Network, predict, probabilities, tensor

OPSET = 20
IR_VERSION = 10
INPUT, OUTPUT, ROWS = "input", "output", "rows"
TOLERANCE = 1e-4
CALIBRATION_BATCH = 128
DYNAMIC_OPERATORS = ("Conv", "MatMul", "Gemm", "Gather")
"""What dynamic quantization turns to 8 bits; Gather is a text's table of embeddings."""


def to_onnx(network: Network, file: Path, example: np.ndarray) -> None:
    """Write `network` as ONNX; classification ends in probabilities, regression in the scaled target.

    `example` holds at least two rows of inputs (of one row the exporter would think that it is always one).
    """
    if isinstance(network, Mlp):
        _write_mlp(network, file)
    else:
        _trace(network, file, example)


def _trace(network: Network, file: Path, example: np.ndarray) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # it warns of torchvision, which nothing here uses
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own deprecated calls
            program = torch.onnx.export(
                _Answer(network).eval(),
                (tensor(example[:2]),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(ROWS)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    model = program.model_proto
    _forget_sources(model.graph)
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "ebb", ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


class _Answer(nn.Module):
    """A network that ends in what a client is told."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        return probabilities(self.network(batch))


def _forget_sources(graph: onnx.GraphProto) -> None:
    """Remove the exporter's notes, which quote source lines and the paths of this machine."""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _write_mlp(network: Mlp, file: Path) -> None:
    """Write a multilayer perceptron node by node: PyTorch's exporter takes 4 s for a table's two, this a hundredth."""
    nodes, weights, flow = [], [], INPUT
    for index, layer in enumerate(network.layers):
        last = index == len(network.layers) - 1
        matrix, bias, after = f"weight_{index}", f"bias_{index}", f"linear_{index}"
        weights += [
            numpy_helper.from_array(layer.weight.detach().numpy().T.copy(), matrix),
            numpy_helper.from_array(layer.bias.detach().numpy(), bias),
        ]
        outcome = OUTPUT if last and network.sizes[-1] == 1 else after
        nodes.append(helper.make_node("Gemm", [flow, matrix, bias], [outcome], name=f"gemm_{index}"))
        flow = outcome
        if not last:
            nodes.append(helper.make_node("Relu", [flow], [f"relu_{index}"], name=f"relu_{index}"))
            flow = f"relu_{index}"
    if network.sizes[-1] > 1:
        nodes.append(helper.make_node("Softmax", [flow], [OUTPUT], name="softmax", axis=-1))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [ROWS, network.sizes[0]])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [ROWS, network.sizes[-1]])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ebb"
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


def verify(network: Network, file: Path, inputs: np.ndarray) -> float:
    """Return the largest difference between the ONNX file and the network; raise JobError above the tolerance."""
    difference = float(np.abs(run(session(file), inputs) - predict(network, inputs)).max())
    if not difference <= TOLERANCE:
        raise JobError(f"the ONNX file differs from the network by {difference:.2g}, more than {TOLERANCE}")
    return difference


def session(file: Path | str, *, threads: int = 1, optimise: bool = True) -> runtimes.OnnxRuntime:
    """Return an ONNX file in ONNX Runtime on the CPU."""
    return runtimes.OnnxRuntime(file, threads=threads, optimise=optimise)


def run(loaded: runtimes.Executable, inputs: np.ndarray, rows: int | None = None) -> np.ndarray:
    """Return the outputs for all rows, that many at a time."""
    step = rows or max(1, EVALUATION_VALUES // max(1, int(np.prod(inputs.shape[1:]))))
    return np.concatenate([loaded.run(inputs[start : start + step]) for start in range(0, len(inputs), step)])


def optimise(source: Path, file: Path) -> None:
    """Write the graph as ONNX Runtime rewrites it for any CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # tied to no one CPU
    options.optimized_model_filepath = str(file)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def to_openvino(source: Path, file: Path) -> None:
    """Write an ONNX file as OpenVINO's: `file`, which ends in .xml, and its weights beside it, in full precision."""
    import openvino  # only kinds that are compiled for it load it

    openvino.save_model(openvino.convert_model(str(source)), str(file), compress_to_fp16=False)


def quantize(source: Path, file: Path, calibration: np.ndarray, operators: Sequence[str]) -> None:
    """Write `source` with 8-bit weights and activations, whose scales are learned from training rows."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            _Calibration(calibration, input_name(prepared)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(operators),
        )
    _take_pixels_as_they_are(file)
    session(file).run(calibration[:1])


def _take_pixels_as_they_are(file: Path) -> None:
    """Let the first layer read 8-bit pixels, where the graph scales them to floats and quantizes these again.

    (pixel - center) * scale with a whole center and one scale is what DequantizeLinear computes: four operators become
    a part of the first convolution, and the values are exact.
    """
    model = onnx.load(str(file))
    graph = model.graph
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    cast = next((node for node in graph.node if node.op_type == "Cast" and _is_pixels(graph, node.input[0])), None)
    chain: list[onnx.NodeProto] = []
    while cast is not None and len(chain) < 4:
        following = users.get((chain[-1] if chain else cast).output[0], [])
        if (
            len(following) != 1
            or following[0].op_type != ("Sub", "Mul", "QuantizeLinear", "DequantizeLinear")[len(chain)]
        ):
            return
        chain.append(following[0])
    if cast is None:
        return
    center, scale = (values.get(node.input[1]) for node in chain[:2])
    if center is None or scale is None or center.size != 1 or scale.size != 1 or not 0 <= center.item() <= 255:
        return
    if center.item() != round(center.item()):
        return
    last = chain[-1]
    graph.initializer.append(numpy_helper.from_array(np.array(scale.item(), np.float32), "pixel_scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(round(center.item()), np.uint8), "pixel_center"))
    last.input[:] = [cast.input[0], "pixel_scale", "pixel_center"]
    for node in (cast, *chain[:-1]):
        graph.node.remove(node)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _is_pixels(graph: onnx.GraphProto, name: str) -> bool:
    """Tell whether a value is the graph's 8-bit input, perhaps with its channels first."""
    given = {each.name for each in graph.input if each.type.tensor_type.elem_type == TensorProto.UINT8}
    if name in given:
        return True
    maker = next((node for node in graph.node if name in node.output), None)
    return maker is not None and maker.op_type in ("Transpose", "Reshape") and maker.input[0] in given


def quantize_while_running(source: Path, file: Path, example: np.ndarray) -> None:
    """Write `source` with 8-bit weights and activations, whose scales are found for each request while it runs."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared),
            str(file),
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
        )
    session(file).run(example[:1])


def input_name(file: Path) -> str:
    """Return the name of the one input that the ONNX file has."""
    graph = onnx.load(file, load_external_data=False).graph
    fixed = {weight.name for weight in graph.initializer}
    return next(given.name for given in graph.input if given.name not in fixed)


def parameter_count(file: Path) -> int:
    """Return how many floating-point numbers the ONNX file's graph holds."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    weights = onnx.load(file, load_external_data=False).graph.initializer
    return sum(int(np.prod(weight.dims)) for weight in weights if weight.data_type in floats)


class _Calibration(CalibrationDataReader):
    """Hands training rows to the calibrator, in batches."""

    def __init__(self, rows: np.ndarray, name: str) -> None:
        self._name = name
        self._batches: Iterator[np.ndarray] = iter(np.array_split(rows, max(1, len(rows) // CALIBRATION_BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: np.ascontiguousarray(batch)}
