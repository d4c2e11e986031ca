"""The original compiled for AWS's Inferentia2 and Trainium by neuronx-cc, where the image holds that toolchain.

Guarded by what is present: without torch_neuronx, or where it fails, JobError says so and the CPU's candidates remain.
Where there is no Neuron core, which is so in every processing job, the graph is traced on the CPU for a named target,
in full precision, because nobody can compare its answers here. Where there is one, matrices are multiplied in bfloat16,
and the compiled network has to answer as the original does. Nothing here was run with the toolchain: assumed from
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/frameworks/torch/torch-neuronx/api-reference-guide/inference/api-torch-neuronx-trace.html
and https://awsdocs-neuron.readthedocs-hosted.com/en/latest/compiler/neuronx-cc/api-reference-guide/neuron-compiler-cli-reference-guide.html
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebb_jobs import device, networks
from ebb_jobs.errors import JobError
from ebb_jobs.networks import Network

TOOLCHAIN = "torch_neuronx"
FILE = "neuron/model.pt"
MAY_DIFFER = 0.02
"""By how much a probability may differ in bfloat16, whose mantissa has 8 bits; of a scaled target as well. Assumed."""


def compile_for(target: str, network: Path, folder: Path, examples: np.ndarray) -> dict[str, Any]:
    """Write the network of a safetensors file, compiled for `target` (inf2, trn1, trn2), into `folder`/FILE.

    Compiled is one row's shape: a Neuron program has fixed shapes. Returns what the record tells of it.
    Raises: JobError with the reason where there is no toolchain, no network of PyTorch, or it cannot be compiled.
    """
    if importlib.util.find_spec(TOOLCHAIN) is None:
        raise JobError(f"the image holds no {TOOLCHAIN}")
    if not network.exists():
        raise JobError("neuronx-cc compiles networks of PyTorch, and this model is none")
    original = networks.load(network)
    present = device.found().kind == device.NEURON
    precision = "bfloat16" if present else "float32"
    example = networks.tensor(examples[:1])
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        compiled = importlib.import_module(TOOLCHAIN).trace(
            original, (example,), compiler_args=_arguments(target, precision), cpu_backend=not present
        )
        difference = _difference(original, compiled, examples) if present else None
        torch.jit.save(compiled, str(file))
    except JobError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise JobError(f"neuronx-cc does not compile it: {type(error).__name__}, told in the job's log") from error
    return {
        "compiler": "neuronx-cc",
        "toolchain": _version(),
        "target": target,
        "precision": precision,
        "device_present": present,
        "difference": difference,
        "file": FILE,
        "size_bytes": file.stat().st_size,
        "input_shape": [1, *examples.shape[1:]],
    }


def _arguments(target: str, precision: str) -> list[str]:
    cast = (
        ["--auto-cast", "matmult", "--auto-cast-type", "bf16"] if precision == "bfloat16" else ["--auto-cast", "none"]
    )
    return ["--target", target, *cast]


def _difference(original: Network, compiled: Any, examples: np.ndarray) -> float:
    with torch.inference_mode():
        rows = [compiled(networks.tensor(examples[at : at + 1])) for at in range(len(examples))]
    answers = networks.probabilities(torch.cat(rows).float().cpu()).numpy()
    difference = float(np.abs(answers - networks.predict(original, examples)).max())
    if not difference <= MAY_DIFFER:
        raise JobError(f"compiled it answers otherwise, by up to {difference:.2g}")
    return difference


def _version() -> str | None:
    try:
        return importlib.metadata.version("torch-neuronx")
    except importlib.metadata.PackageNotFoundError:
        return None
