"""Errors that a job raises on purpose, and what may be told of any error outside the job's own log."""

from __future__ import annotations

import traceback
from pathlib import Path

MAX_CHARACTERS = 900


class JobError(Exception):
    """The job cannot go on; the message says why in one line and holds no value of the data."""


class InputMissingError(JobError):
    """A channel or file that the stage needs is not there. A retry does not help."""


class DivergedError(JobError):
    """Training produced no finite loss, even with a smaller learning rate."""


class StoppedError(JobError):
    """The job was told to end (spot capacity taken back, StopTrainingJob). A retry goes on from the checkpoint."""


class BundleError(JobError):
    """A finished bundle does not answer as the model that it was made from."""


SPEAKS_FOR_ITSELF = (JobError, OSError, MemoryError, ImportError)
"""Errors whose own text holds no value of the data: other texts stay in the log (a ValueError quotes the value)."""


def reason(error: Exception) -> str:
    """Return the failure in one line, without any value of the data."""
    if isinstance(error, SPEAKS_FOR_ITSELF):
        text = " ".join(str(error).split()) or "no message"
        return (text if isinstance(error, JobError) else f"{type(error).__name__}: {text}")[:MAX_CHARACTERS]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "ebb_jobs" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"
    return f"{type(error).__name__} at {where}; the job's log holds the traceback"
