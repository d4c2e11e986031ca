"""What jobs of every kind share: a thread that takes one job from start to end, and how it is stopped."""

import json
import logging
import shutil
import threading
import time
from abc import ABC, abstractmethod
from enum import Enum, auto
from pathlib import Path
from typing import Any

from ebb_local.sagemaker import events, processes, settings, state, threads
from ebb_local.sagemaker.containers import Container
from ebb_local.sagemaker.errors import JobFailure, validation_exception
from ebb_local.sagemaker.logs import LogStream
from ebb_local.sagemaker.roles import Credentials, credentials
from ebb_local.sagemaker.storage import Bucket, TreeSync

logger = logging.getLogger("ebb.sagemaker.jobs")

HOST = "algo-1"
MAX_TEXT = 1024  # FailureReason and ExitMessage hold no more
_TICK_S = 0.1
_SYNC_EVERY_S = 2.0
_FINAL = ("Completed", "Failed", "Stopped")
INTERRUPTED_TEXT = "InternalServerError: the embedded cloud was stopped while the job ran (interrupted)"

_runs: dict[str, "JobRun"] = {}


class Ending(Enum):
    """Why a container is no longer running."""

    EXITED = auto()
    STOPPED = auto()
    TIMED_OUT = auto()
    INTERRUPTED = auto()


class JobRun(ABC):
    """One job. Subclasses say what happens (`work`); this class says what happens when it goes wrong."""

    kind = ""  # "Training Job", as in the detail-type of its events
    prefix = ""  # "Training", as in TrainingJobStatus
    log_group = ""

    def __init__(self, record: state.Record) -> None:
        self.record = record
        self.name: str = record[f"{self.prefix}JobName"]
        self.arn: str = record[f"{self.prefix}JobArn"]
        self.base: Path = settings.current().jobs / self.name
        self.stop_asked = threading.Event()
        self.interrupt_asked = threading.Event()
        limit_s = (record.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", 86_400)
        role_arn = record.get("RoleArn") or record["_role"]
        self.credentials: Credentials = credentials(role_arn, valid_s=limit_s + 3_600)
        self.bucket = Bucket(self.credentials)
        self._deadline = float("inf")
        self._limit_s = float(limit_s)

    def start(self) -> None:
        """Begin in the background."""
        _runs[self.arn] = self
        threads.start(f"job-{self.name}", self._run)

    @abstractmethod
    def work(self) -> None:
        """Take the job to one of its ends."""

    @abstractmethod
    def finish(self, status: str, **members: Any) -> None:
        """Set the final status."""

    def start_clock(self) -> None:
        """Let MaxRuntimeInSeconds begin, once."""
        if self._deadline == float("inf"):
            self._deadline = time.monotonic() + self._limit_s

    def publish(self) -> None:
        """Tell EventBridge about the record as it is now."""
        events.state_changed(self.kind, self.arn, self.record)

    def fresh_base(self, *directories: str) -> None:
        """Make an empty base directory: what `/opt/ml` is when a container starts."""
        shutil.rmtree(self.base, ignore_errors=True)
        for name in directories:
            (self.base / name).mkdir(parents=True)

    def open_log(self, host: str = HOST) -> LogStream:
        """Open the job's log stream, named as AWS names it; of several machines each has its own."""
        return LogStream(self.log_group, f"{self.name}/{host}-{int(time.time())}", self.credentials.principal)

    def watch(self, container: Container, syncs: list[TreeSync]) -> Ending:
        """Wait until the container ends or has to; copy out what changes meanwhile."""
        next_sync = time.monotonic() + _SYNC_EVERY_S
        while container.wait(_TICK_S) is None:
            if self.stop_asked.is_set() or time.monotonic() > self._deadline or self.interrupt_asked.is_set():
                ending = Ending.STOPPED if self.stop_asked.is_set() else Ending.TIMED_OUT
                if self.interrupt_asked.is_set() and ending is Ending.TIMED_OUT:
                    ending = Ending.INTERRUPTED
                container.end()
                return ending
            if time.monotonic() > next_sync:
                for sync in syncs:
                    sync.send(settled_only=True)
                next_sync = time.monotonic() + _SYNC_EVERY_S
        container.finish()
        return Ending.EXITED

    def _run(self) -> None:
        try:
            self.work()
        except JobFailure as failure:
            self._fail(str(failure))
        except Exception as error:
            logger.exception("job %s", self.name)
            self._fail(f"InternalServerError: {error}")
        finally:
            _runs.pop(self.arn, None)
            if not settings.current().keep_job_files:
                shutil.rmtree(self.base, ignore_errors=True)

    def _fail(self, reason: str) -> None:
        if (
            not processes.closing()
        ):  # otherwise the container ended because the server does: service.load_persisted_state tells
            self.finish("Failed", FailureReason=reason[:MAX_TEXT])


def ask_to_stop(record: state.Record, prefix: str) -> None:
    """Stop a job: Stopping now, Stopped when its container has ended.

    Source of the text: https://github.com/aws/sagemaker-python-sdk (`stop` of a finished job).
    """
    status, run = record[f"{prefix}JobStatus"], _runs.get(record[f"{prefix}JobArn"])
    if status != "InProgress" or run is None:
        raise validation_exception(f"The request was rejected because the {prefix.lower()} job is in status {status}.")
    state.update(record, **{f"{prefix}JobStatus": "Stopping", "LastModifiedTime": state.now()})
    run.stop_asked.set()


def interrupt(record: state.Record) -> None:
    """Take the machine away from a spot job; it starts again from its checkpoints."""
    run = _runs.get(record["TrainingJobArn"])
    if run is None or not record.get("EnableManagedSpotTraining"):
        raise validation_exception(f"{record['TrainingJobName']} is not a managed spot training job that runs")
    run.interrupt_asked.set()


def ended(record: state.Record, prefix: str) -> bool:
    """Return whether the job has reached its final status."""
    return record[f"{prefix}JobStatus"] in _FINAL


def text_of(path: Path) -> str:
    """Return what a job left in one of its message files, at most as much as AWS keeps."""
    try:
        return path.read_text(errors="replace").strip()[:MAX_TEXT]
    except OSError:
        return ""


def write_json(path: Path, value: Any) -> None:
    """Write one of the files that a container reads its configuration from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
