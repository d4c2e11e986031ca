"""What a user's script exported: `model.onnx`, `evaluation.npz`, `evaluation.json`; believed only as far as checked.

Everything wrong with them is told by an ExportError that names the file and what to write instead. What is right
becomes a network like those that Ebb trains itself: input `input` with any number of rows, output `output` float32
[rows, classes] of probabilities, or [rows, 1] in the target's own unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import external_data_helper
from onnxscript import ir

from ebb_jobs import export
from ebb_jobs.exported_rows import (
    CLASSIFICATION,
    EVALUATION,
    MODEL,
    REGRESSION,
    SHEET,
    Evaluation,
    ExportError,
    read_evaluation,
)

MAX_MODEL_BYTES = 2**30
PROBE_ROWS = 32
ALONE_TOLERANCE = 1e-3
"""Of the outputs' size: by how much a row's answer may differ from its answer among others."""
INPUT_TYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operator sets that ONNX Runtime brings along."""
NAMED_OUTPUTS = ("output", "probabilities")
_EXPORT = (
    "torch.onnx.export(model.eval(), (rows,), path, dynamo=True, external_data=False, "
    'dynamic_shapes=({0: torch.export.Dim("rows")},))'
)


@dataclass(frozen=True)
class Export:
    """A checked export."""

    network: onnx.ModelProto
    evaluation: Evaluation
    shape: list[int | None]
    """Of the input, None where any size fits; the first axis is the rows."""
    dtype: np.dtype
    notes: list[tuple[str, str, str]]
    """What was changed: subject, choice, reason."""

    @property
    def parameters(self) -> int:
        """Return how many numbers the network holds."""
        return sum(int(np.prod(tensor.dims)) for tensor in self.network.graph.initializer)


def read(folder: Path) -> Export:
    """Return what the script wrote into `folder`, checked by running it. Raises ExportError."""
    model, shape, dtype, notes = read_model(folder)
    evaluation = read_evaluation(folder, shape, dtype)
    model, more = _any_rows(model, shape, evaluation.inputs)
    outputs = _run(model, evaluation.inputs)
    if evaluation.task == CLASSIFICATION:
        evaluation = _with_classes(evaluation, 2 if outputs.ndim == 1 else max(2, outputs.shape[1]))
    model, told = _in_ebbs_terms(model, outputs, evaluation)
    return Export(model, evaluation, [None, *shape[1:]], dtype, [*notes, *more, *told])


def read_model(folder: Path) -> tuple[onnx.ModelProto, list[int | None], np.dtype, list[tuple[str, str, str]]]:
    """Return the model with its weights in it, its input's shape and type, and what was changed. Raises ExportError."""
    file = folder / MODEL
    if not file.is_file():
        raise ExportError(f"{MODEL} is missing: {_EXPORT}")
    _limit(file.stat().st_size)
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's own kinds
        raise ExportError(f"{MODEL} is no ONNX file: {_EXPORT}") from error
    notes = _inline(model, folder)
    _refuse_unknown_operators(model)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and protobuf's own kinds
        print(f"onnx.checker: {error}", flush=True)
        raise ExportError(f"{MODEL} is not valid ONNX (the log holds what onnx.checker says): {_EXPORT}") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ExportError(
            f"{MODEL} has {len(inputs)} inputs, expected one: export a module whose forward takes one tensor"
        )
    kind = inputs[0].type.tensor_type
    if not inputs[0].type.HasField("tensor_type") or not kind.HasField("shape") or not kind.shape.dim:
        raise ExportError(f"{MODEL}: its input is no tensor with a known number of axes, rows first")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    if dtype.name not in INPUT_TYPES:
        raise ExportError(f"{MODEL} takes {dtype.name}: export it with an input of {', '.join(INPUT_TYPES[:4])} ...")
    shape = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    return model, shape, dtype, notes


def _limit(size: int) -> None:
    if size > MAX_MODEL_BYTES:
        raise ExportError(f"{MODEL} has {size / 2**30:.1f} GiB of at most {MAX_MODEL_BYTES / 2**30:.0f}")


def _inline(model: onnx.ModelProto, folder: Path) -> list[tuple[str, str, str]]:
    """Take the weights of a file beside model.onnx into it: what PyTorch's exporter does when not told otherwise.

    A plain name within the folder, never a path: an ONNX file must not be able to name any other file.
    """
    files = set()
    for tensor in _tensors(model):
        if external_data_helper.uses_external_data(tensor):
            name = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            beside = folder / name
            if not name or Path(name).name != name or beside.is_symlink() or not beside.is_file():
                raise ExportError(
                    f"{MODEL} keeps weights in a file that does not lie beside it: export with external_data=False"
                )
            files.add(beside)
    if not files:
        return []
    _limit(sum(file.stat().st_size for file in files))
    try:
        external_data_helper.load_external_data_for_model(model, str(folder))
    except Exception as error:  # offsets and lengths beyond the file
        raise ExportError(f"{MODEL}: the weights beside it cannot be read: export with external_data=False") from error
    return [("weights", "inside the model", f"{', '.join(sorted(file.name for file in files))} was merged into it")]


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        yield from _constants(graph.node)
    for function in model.functions:
        yield from _constants(function.node)


def _constants(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)


def _refuse_unknown_operators(model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    nodes = [node for graph in _graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    for node in nodes:
        if node.domain not in KNOWN_DOMAINS and (node.domain, node.op_type) not in own:
            raise ExportError(
                f"{MODEL} uses the operator {node.domain}::{node.op_type}, which needs a library of its own: "
                "export with the standard operators only"
            )


def _any_rows(
    model: onnx.ModelProto, shape: list[int | None], inputs: np.ndarray
) -> tuple[onnx.ModelProto, list[tuple[str, str, str]]]:
    """Return the model taking any number of rows, proven: a row must be answered alike alone and among others."""
    if shape[0] not in (None, 1):
        raise ExportError(f"{MODEL} takes {shape[0]} rows at once and no other number: {_EXPORT}")
    alone = _run(model, inputs[:PROBE_ROWS], rows=1)
    notes = []
    if shape[0] == 1:
        model = _with_free_rows(model)
        notes.append(("rows", "any number", f"{MODEL} was exported for one row at a time; its first axis was freed"))
    try:
        together = _run(model, inputs[:PROBE_ROWS])
    except ExportError as error:
        raise ExportError(f"{MODEL} cannot answer several rows at once: {_EXPORT}") from error
    size = ALONE_TOLERANCE * max(float(np.abs(alone).max()), 1e-6)
    if together.shape != alone.shape or not np.allclose(together, alone, rtol=ALONE_TOLERANCE, atol=size):
        raise ExportError(
            f"{MODEL} answers a row otherwise when others are beside it: export in evaluation mode. {_EXPORT}"
        )
    return model, notes


def _with_free_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a symbolic first axis, and without what was inferred from the fixed one."""
    graph = ir.from_proto(model)
    for node in graph.graph:
        for value in node.outputs:
            value.shape = None
    for value in [*graph.graph.inputs, *graph.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([export.ROWS, *list(value.shape)[1:]])
    for node in graph.graph:
        if node.op_type == "Reshape" and node.domain in KNOWN_DOMAINS[:2]:
            _free_reshape(graph.graph, node)
    return ir.to_proto(graph)


def _free_reshape(graph: Any, node: Any) -> None:
    """Let a reshape to [1, ...] keep as many rows as came, which is what 0 says in ONNX."""
    shape = ir.convenience.get_const_tensor(node.inputs[1])
    wanted = [1] if shape is None else shape.numpy().tolist()
    if wanted[:1] != [1] or 0 in wanted or len(wanted) < 2:
        return
    name = f"{node.outputs[0].name}_rows"
    freed = ir.Value(name=name, const_value=ir.tensor(np.array([0, *wanted[1:]], dtype=np.int64), name=name))
    graph.register_initializer(freed)
    node.replace_input_with(1, freed)
    node.attributes.pop("allowzero", None)


def _run(model: onnx.ModelProto, inputs: np.ndarray, rows: int = 1024) -> np.ndarray:
    """Return the answering output for all rows. Raises ExportError."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        wanted = [_output_name([value.name for value in session.get_outputs()])]
        found = [
            np.asarray(session.run(wanted, {name: inputs[start : start + rows]})[0])
            for start in range(0, len(inputs), rows)
        ]
        outputs = np.concatenate(found)
    except ExportError:
        raise
    except Exception as error:  # onnxruntime raises its own kinds
        print(f"ONNX Runtime: {error}", flush=True)
        raise ExportError(
            f"{MODEL} does not run in ONNX Runtime {onnxruntime.__version__} (the log holds its words): {_EXPORT}"
        ) from error
    if outputs.dtype.kind != "f":
        raise ExportError(f"{MODEL} answers with {outputs.dtype}: export logits, probabilities or values as float32")
    if len(outputs) != len(inputs) or outputs.ndim > 2 or outputs.ndim == 0:
        raise ExportError(
            f"{MODEL} answers {len(inputs)} rows with the shape {list(outputs.shape)}: its output must be [rows] or "
            "[rows, classes or values]"
        )
    if not np.isfinite(outputs).all():
        raise ExportError(f"{MODEL} answers held-out rows with NaN or infinity")
    return outputs


def _output_name(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    for name in NAMED_OUTPUTS:
        if name in names:
            return name
    raise ExportError(f"{MODEL} has {len(names)} outputs: name the one that answers 'output', or leave out the others")


def _with_classes(evaluation: Evaluation, width: int) -> Evaluation:
    """Return the evaluation with every output named; without names in evaluation.json a class is its number."""
    if evaluation.classes and len(evaluation.classes) != width:
        raise ExportError(f"{MODEL} tells {width} classes apart, {SHEET} names {len(evaluation.classes)}")
    if evaluation.targets.max() >= width:
        raise ExportError(f"{EVALUATION}, array 'targets', holds a class index beyond the {width} classes of {MODEL}")
    return dataclasses.replace(evaluation, classes=evaluation.classes or [str(number) for number in range(width)])


def _in_ebbs_terms(
    model: onnx.ModelProto, outputs: np.ndarray, evaluation: Evaluation
) -> tuple[onnx.ModelProto, list[tuple[str, str, str]]]:
    """Return the model with input `input` and output `output`, float32 [rows, ...], logits made probabilities."""
    notes = []
    loaded = ir.from_proto(model)
    graph = loaded.graph
    flow = next(value for value in graph.outputs if value.name == _output_name([one.name for one in graph.outputs]))
    [given] = [value for value in graph.inputs if value.name not in graph.initializers]
    for value in _values(graph):  # the names that Ebb wants are taken from whoever has them
        if value.name in (export.INPUT, export.OUTPUT):
            value.name = f"{value.name}_of_script"

    def then(op: str, *inputs: Any, **attributes: Any) -> Any:
        node = ir.node(op, inputs=list(inputs), attributes=attributes or None)
        node.outputs[0].name = f"ebb_{op.lower()}"
        graph.append(node)
        return node.outputs[0]

    def constant(name: str, array: np.ndarray) -> Any:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        graph.register_initializer(value)
        return value

    if outputs.dtype != np.float32:
        flow = then("Cast", flow, to=onnx.TensorProto.FLOAT)
    if outputs.ndim == 1:
        flow = then("Reshape", flow, constant("ebb_column", np.array([-1, 1], dtype=np.int64)))
    width = 1 if outputs.ndim == 1 else outputs.shape[1]
    if evaluation.task == REGRESSION and width != 1:
        raise ExportError(f"{MODEL} has {width} outputs per row, a regression has one: export the predicted value only")
    if evaluation.task == CLASSIFICATION and width == 1:
        if outputs.min() < 0 or outputs.max() > 1:
            flow = then("Sigmoid", flow)
            notes.append(("probabilities", "sigmoid appended", f"the outputs of {MODEL} are logits"))
        rest = then("Sub", constant("ebb_one", np.array([1], dtype=np.float32)), flow)
        flow = then("Concat", rest, flow, axis=1)
        notes.append(("classes", "two", f"the one output of {MODEL} is taken for the probability of the second"))
    elif evaluation.task == CLASSIFICATION and not _are_probabilities(outputs):
        flow = then("Softmax", flow, axis=1)
        notes.append(("probabilities", "softmax appended", f"the outputs of {MODEL} are no probabilities"))
    for node in graph:  # the exporter's notes, which quote source lines and paths, need not be served
        node.doc_string = None
        node.metadata_props.clear()
    flow = then("Identity", flow)
    given.name, flow.name = export.INPUT, export.OUTPUT
    flow.dtype, flow.shape = ir.DataType.FLOAT, ir.Shape([export.ROWS, len(evaluation.classes or [0])])
    del graph.outputs[:]
    graph.outputs.append(flow)
    made = ir.to_proto(loaded)
    onnx.checker.check_model(made)
    return made, notes


def _are_probabilities(outputs: np.ndarray) -> bool:
    return bool(outputs.min() >= -1e-6 and np.abs(outputs.astype(np.float64).sum(1) - 1).max() <= 1e-3)


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
