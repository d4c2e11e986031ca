"""Runs one stage and turns its end into what SageMaker understands: exit status and failure file."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from ebb_jobs import paths
from ebb_jobs.errors import JobError

STAGES = ("process", "train", "compress", "compile")
TRAINING = ("train", "compress")
"""Stages whose threads sleep while they wait for each other: on a busy machine spinning threads take the CPU from the
one that they wait for, and training takes ten times as long. `compile` measures latencies and lets them spin."""
SPEAKS_FOR_ITSELF = (JobError, OSError, MemoryError, ImportError)
"""Errors whose own text holds no value of the data: other texts stay in the log (a ValueError quotes the value)."""


def main(arguments: list[str]) -> int:
    """Run the stage named by the only argument; return the exit status."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: run.py {'|'.join(STAGES)}", file=sys.stderr)
        return 2
    stage = arguments[0]
    if stage in TRAINING:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch loads
    try:
        importlib.import_module(f"ebb_jobs.{stage}").main()
    except Exception as error:
        traceback.print_exc()
        paths.failure_file(stage).write_text(f"{stage} failed\n{reason(error)}\n", encoding="utf-8")
        return 1
    return 0


def reason(error: Exception) -> str:
    """Return the failure in one line, without any value of the data."""
    if isinstance(error, SPEAKS_FOR_ITSELF):
        text = " ".join(str(error).split()) or "no message"
        return text[:900] if isinstance(error, JobError) else f"{type(error).__name__}: {text}"[:900]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "ebb_jobs" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"
    return f"{type(error).__name__} at {where}; the job's log holds the traceback"
