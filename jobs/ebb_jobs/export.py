"""Networks as ONNX: built node by node, because a multilayer perceptron needs no tracing, and quantized to 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from ebb_jobs.errors import JobError
from ebb_jobs.networks import Mlp, predict

OPSET = 21
IR_VERSION = 10
CALIBRATION_ROWS = 1024
TOLERANCE = 1e-4


def to_onnx(network: Mlp, file: Path) -> None:
    """Write `network` as ONNX; classification ends in probabilities, regression in the scaled target."""
    nodes, weights, flow = [], [], "features"
    for index, layer in enumerate(network.layers):
        last = index == len(network.layers) - 1
        matrix, bias, after = f"weight_{index}", f"bias_{index}", f"linear_{index}"
        weights += [
            numpy_helper.from_array(layer.weight.detach().numpy().T.copy(), matrix),
            numpy_helper.from_array(layer.bias.detach().numpy(), bias),
        ]
        outcome = "output" if last and network.sizes[-1] == 1 else after
        nodes.append(helper.make_node("Gemm", [flow, matrix, bias], [outcome], name=f"gemm_{index}"))
        flow = outcome
        if not last:
            nodes.append(helper.make_node("Relu", [flow], [f"relu_{index}"], name=f"relu_{index}"))
            flow = f"relu_{index}"
    if network.sizes[-1] > 1:
        nodes.append(helper.make_node("Softmax", [flow], ["output"], name="softmax", axis=-1))
    graph = helper.make_graph(
        nodes,
        "tabular",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", network.sizes[0]])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", network.sizes[-1]])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ebb"
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


def verify(network: Mlp, file: Path, inputs: np.ndarray) -> float:
    """Return the largest difference between the ONNX file and the network; raise JobError above the tolerance."""
    difference = float(np.abs(run(session(file), inputs) - predict(network, inputs)).max())
    if not difference <= TOLERANCE:
        raise JobError(f"the ONNX file differs from the network by {difference:.2g}, more than {TOLERANCE}")
    return difference


def session(file: Path | str, *, threads: int = 1, optimise: bool = True) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(loaded: onnxruntime.InferenceSession, inputs: np.ndarray, rows: int = 4096) -> np.ndarray:
    """Return the outputs for all rows."""
    return np.concatenate(
        [
            loaded.run(None, {"features": np.ascontiguousarray(inputs[start : start + rows])})[0]
            for start in range(0, len(inputs), rows)
        ]
    )


def quantize(source: Path, file: Path, calibration: np.ndarray) -> str:
    """Write `source` with 8-bit weights and activations; return `static` or `dynamic`.

    Static quantization (scales learned from training rows) is faster to run; where it cannot be built the dynamic
    kind, which measures activations while running, stands in.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(file),
                _Calibration(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Gemm", "MatMul", "Relu"],
            )
            session(file)
        except Exception as error:  # onnxruntime raises bare Exceptions here
            print(f"static quantization failed ({type(error).__name__}); dynamic quantization instead", flush=True)
            quantize_dynamic(str(source), str(file), per_channel=True, weight_type=QuantType.QInt8)
            return "dynamic"
    return "static"


class _Calibration(CalibrationDataReader):
    """Hands training rows to the calibrator, in batches."""

    def __init__(self, rows: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(np.array_split(rows, max(1, len(rows) // 128)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"features": np.ascontiguousarray(batch)}
