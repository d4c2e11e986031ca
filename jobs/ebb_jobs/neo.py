"""The original as SageMaker Neo takes it: an ONNX file of 2020, packed alone, its answers compared with today's.

Neo reads ONNX 1.7 or earlier: operators of set 12, file format 7. Our files are written in a later set. Many operators
mean the same in both; whether all of a network's do is found out, not assumed: the checker reads the relabelled file by
the old definitions, and ONNX Runtime answers by them. onnx's own version converter goes no lower than what it has
adapters for, and has none from 14 to 13 for Relu (tried with 1.23).
Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/neo-supported-cloud.html,
https://github.com/onnx/onnx/blob/main/docs/Versioning.md (ONNX 1.7: set 12, format 7).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ebb_jobs import bundle, export
from ebb_jobs.errors import JobError

VERSION, OPSET, IR_VERSION = "1.7", 12, 7
FILE = "neo/model.tar.gz"
NETWORK = "network.onnx"


def pack(network: Path, folder: Path, examples: np.ndarray) -> dict[str, Any]:
    """Write `network`, an ONNX file, into `folder`/FILE for Neo and return what a compilation job has to know of it.

    `examples` are rows of the network's input on which both files must answer alike.
    Raises: JobError with the reason where the network cannot be told in ONNX 1.7.
    """
    model = _relabelled(onnx.load(str(network)))
    archive = folder / FILE
    archive.parent.mkdir(parents=True, exist_ok=True)
    old = archive.with_name(NETWORK)
    try:
        onnx.save(model, str(old))
        difference = _difference(network, old, examples)
        bundle.pack(archive, {NETWORK: old})
    finally:
        old.unlink(missing_ok=True)
    return {
        "framework": "ONNX",
        "version": VERSION,
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "archive": FILE,
        "input": {"name": model.graph.input[0].name, "shape": [1, *examples.shape[1:]]},
        "difference": difference,
    }


def _relabelled(model: onnx.ModelProto) -> onnx.ModelProto:
    foreign = sorted({each.domain for each in model.opset_import} - {"", "ai.onnx"})
    if foreign:
        raise JobError(f"operators of {', '.join(foreign)} are not among those that Neo reads")
    for each in model.opset_import:
        each.version = min(each.version, OPSET)
    model.ir_version = min(model.ir_version, IR_VERSION)
    _forget_later_notes(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # its texts quote the graph, never the data
        told = " ".join(str(error).split())[:200]
        raise JobError(f"not to be told in ONNX {VERSION} (operators of set {OPSET}): {told}") from error
    return model


def _forget_later_notes(model: onnx.ModelProto) -> None:
    """Remove the notes that formats after 7 added; they change no answer."""
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]


def _difference(network: Path, old: Path, examples: np.ndarray) -> float:
    try:
        answers = export.run(export.session(old), examples)
    except Exception as error:
        raise JobError(f"ONNX Runtime cannot read it as ONNX {VERSION}: {type(error).__name__}") from error
    difference = float(np.abs(answers - export.run(export.session(network), examples)).max())
    if not difference <= export.TOLERANCE:
        raise JobError(f"as ONNX {VERSION} it answers otherwise, by up to {difference:.2g}")
    return difference
