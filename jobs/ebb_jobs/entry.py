"""Runs one stage and turns its end into what SageMaker understands: exit status and failure file."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from ebb_jobs import paths
from ebb_jobs.errors import reason

STAGES = ("process", "train", "compress", "compile", "features", "assess")


def main(arguments: list[str]) -> int:
    """Run the stage named by the only argument; return the exit status."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: run.py {'|'.join(STAGES)}", file=sys.stderr)
        return 2
    stage = arguments[0]
    # Read when PyTorch loads. Threads sleep while they wait for each other: on a busy machine spinning ones take the
    # CPU from the one that they wait for (training takes ten times as long), and in `compile` they double the CPU time
    # of what is measured, while a row takes as long either way.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Linear models multiply matrices of few columns, and their solver vectors of some hundred numbers: threads of
    # OpenBLAS took five times the CPU time for that. PyTorch brings a library of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        importlib.import_module(f"ebb_jobs.{stage}").main()
    except Exception as error:
        traceback.print_exc()
        paths.failure_file(stage).write_text(f"{stage} failed\n{reason(error)}\n", encoding="utf-8")
        return 1
    return 0
