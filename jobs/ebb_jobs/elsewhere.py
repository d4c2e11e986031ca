"""What `compile` makes beside the candidates for a compiler that is not its own: for SageMaker Neo, or by neuronx-cc.

    settings["elsewhere"] = {"engine": "neo" | "neuron", "target": ...}   as the plan decided; absent: nothing is made

Neither is a candidate: nobody can measure it here, and Ebb's images do not serve it. It is kept beside the bundles;
where it cannot be made the candidates remain, and the report says why.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import neo
from ebb_jobs.errors import JobError
from ebb_jobs.report import Report

NEO, NEURON = "neo", "neuron"
PROVEN_ROWS = 32


def make(
    settings: dict[str, Any], original: Path, candidates: Path, bundles: Path, inputs: np.ndarray, report: Report
) -> None:
    """Make what the settings ask for, below `bundles`, and report it as `elsewhere`."""
    asked = settings.get("elsewhere")
    if not asked:
        return
    engine, target = asked["engine"], asked["target"]
    try:
        made = _made(engine, target, original, candidates, bundles, np.array(inputs[:PROVEN_ROWS]))
    except JobError as error:
        refuse(settings, str(error), report)
        return
    except Exception as error:  # of a converter or a toolchain: what was measured must not be lost by it
        traceback.print_exc()
        refuse(settings, f"it cannot be made ({type(error).__name__}; the job's log has the rest)", report)
        return
    report.fields["elsewhere"] = {"engine": engine, "target": target, "status": "made", **made}
    chosen = f"packed as {made['framework']} {made['version']}" if engine == NEO else f"compiled by {made['compiler']}"
    numbers = {key: made[key] for key in ("difference", "size_bytes") if made.get(key) is not None}
    report.decide(f"for {engine} on {target}", chosen, "compile.engine; kept beside the candidates", numbers=numbers)


def refuse(settings: dict[str, Any], why: str, report: Report) -> None:
    """Report that nothing is made of what the settings ask for, and why."""
    asked = settings.get("elsewhere")
    if asked:
        report.fields["elsewhere"] = {**asked, "status": "failed", "reason": why}
        report.decide(f"for {asked['engine']} on {asked['target']}", "nothing: the job's own candidates remain", why)


def _made(
    engine: str, target: str, original: Path, candidates: Path, bundles: Path, examples: np.ndarray
) -> dict[str, Any]:
    if engine == NEO:
        return neo.pack(_exported(candidates), bundles, examples)
    from ebb_jobs import neuron  # only in the image that may hold its toolchain

    return neuron.compile_for(target, original / "original.safetensors", bundles, examples)


def _exported(candidates: Path) -> Path:
    """Return the ONNX file of the original as it was trained: full precision, no step of compression."""
    listed = json.loads((candidates / "metrics.json").read_text())["candidates"]
    for made in listed:
        if not made["chain"] and made["status"] == "finished" and made.get("precision", "float32") == "float32":
            return candidates / made["name"] / "network.onnx"
    raise JobError("the original could not be exported to ONNX")
