"""Runs a user's training script as SageMaker's script mode does: a process of its own, told everything by SM_*.

Source of names and spellings: SageMaker Training Toolkit, ENVIRONMENT_VARIABLES.md. A script that runs there runs here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import torch

from ebb_jobs import distributed, paths, stopping
from ebb_jobs.errors import JobError, StoppedError
from ebb_jobs.report import cpu_count

CHANNEL = "training"
GRACE_S = 100.0
"""SageMaker kills a job 120 s after it told it to stop; what the script left behind must be closed before."""
POLL_S = 0.1
DRAIN_S = 5.0
"""For the last lines of a script that has ended; a worker in a session of its own may hold its output for ever."""
LINE_CHARACTERS = 4096
_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+)')
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(: (?P<text>.*))?$")
_TOLD_WHOLE = frozenset({"ModuleNotFoundError", "ImportError"})
"""Kinds whose text names a package. Every other text may quote a value, and stays in the log."""


@dataclass(frozen=True)
class Places:
    """The directories that a script is told of."""

    source: Path
    data: Path
    model: Path
    checkpoints: Path

    def channels(self) -> dict[str, Path]:
        """Return SageMaker's input channels: `training` holds everything, a folder of the data is one by its name."""
        folders = sorted(path for path in self.data.iterdir() if path.is_dir()) if self.data.is_dir() else []
        named = {folder.name: folder for folder in folders if re.fullmatch(r"[A-Za-z0-9._-]+", folder.name)}
        return {**named, CHANNEL: self.data}


def run(
    places: Places,
    entry_point: str,
    hyperparameters: Mapping[str, Any],
    *,
    together: bool = False,
    heard: Callable[[str], None] | None = None,
    grace_s: float = GRACE_S,
) -> float:
    """Run the script to its end, its output going to the log; return the seconds that it took.

    A script that works `together` with itself on other machines is started by torchrun, which tells each process its
    place: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. `heard` is told each line that it prints.

    Raises: JobError when it fails (exit status and kind of error, no text that may quote data), StoppedError when
    SIGTERM arrived: it is passed on, and the script has `grace_s` to write a checkpoint.
    """
    if not entry_point.endswith(".py") or not (places.source / entry_point).is_file():
        raise JobError(
            f"the source holds no script {entry_point}: put it at the top, or name another in train.entry_point"
        )
    begun = time.monotonic()
    # A copy: the script may write beside itself, and a channel is not its to change.
    with tempfile.TemporaryDirectory(prefix="ebb-source-") as folder:
        source = Path(folder) / "source"
        shutil.copytree(places.source, source)
        packages = install_wheels(source, Path(folder) / "packages")
        here = Places(source, places.data, places.model, places.checkpoints)
        environment = {**_inherited(packages), **sm_variables(here, entry_point, hyperparameters)}
        starter, more = distributed.torchrun() if together else ([sys.executable], {})
        environment |= more
        command = [*starter, entry_point, *arguments(hyperparameters)]
        print(f"runs: python {' '.join(command[1:])}", flush=True)
        _run(command, source, environment, entry_point, heard, grace_s)
    return time.monotonic() - begun


def arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Return the command line of the toolkit: `--name value`, `-n value` for one letter, `a=1,b=2` for an object."""
    given = []
    for name in sorted(hyperparameters):
        value = hyperparameters[name]
        given.append(f"--{name}" if len(name) > 1 else f"-{name}")
        given.append(",".join(f"{key}={value[key]}" for key in sorted(value)) if hasattr(value, "keys") else str(value))
    return given


def sm_variables(places: Places, entry_point: str, hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the SM_* variables that the toolkit sets, and SM_CHECKPOINT_DIR, which says what it leaves to custom."""
    base = paths.base_dir()
    channels = places.channels()
    cluster = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    cluster.update(_json_file(base / "input/config/resourceconfig.json"))
    group = cluster.get("current_group_name", "homogeneousCluster")
    values: dict[str, Any] = {
        "model_dir": places.model,
        "output_dir": base / "output",
        "output_data_dir": base / "output/data",
        "output_intermediate_dir": base / "output/intermediate",
        "input_dir": base / "input",
        "input_config_dir": base / "input/config",
        "checkpoint_dir": places.checkpoints,
        "channels": sorted(channels),
        "input_data_config": {name: {"TrainingInputMode": "File"} for name in channels},
        "resource_config": cluster,
        "current_host": cluster["current_host"],
        "hosts": cluster["hosts"],
        "master_hostname": sorted(cluster["hosts"])[0],
        "network_interface_name": cluster["network_interface_name"],
        "current_instance_type": cluster.get("current_instance_type", "local"),
        "current_instance_group": group,
        "current_instance_group_hosts": cluster["hosts"],
        "instance_groups": [group],
        "is_hetero": False,
        "num_cpus": cpu_count(),
        "num_gpus": torch.cuda.device_count(),
        "log_level": 20,
        "module_name": entry_point.removesuffix(".py"),
        "module_dir": places.source,
        "user_entry_point": entry_point,
        "user_args": arguments(hyperparameters),
        "framework_module": "",
        "framework_params": {},
        "hps": dict(hyperparameters),
    }
    for name in ("output_data_dir", "output_intermediate_dir"):
        values[name].mkdir(parents=True, exist_ok=True)
    training_env = {
        "channel_input_dirs": {name: str(path) for name, path in channels.items()},
        "hyperparameters": dict(hyperparameters),
        "job_name": os.environ.get("TRAINING_JOB_NAME", ""),
        "is_master": True,
        **{key: str(value) if isinstance(value, Path) else value for key, value in values.items() if key != "hps"},
    }
    values["training_env"] = training_env
    values |= {f"channel_{name}": path for name, path in channels.items()}
    values |= {f"hp_{name}": value for name, value in hyperparameters.items()}
    return {f"SM_{name.upper()}": _spelled(value) for name, value in values.items()}


def install_wheels(source: Path, target: Path) -> Path | None:
    """Install all of `source`/wheels into `target`, without network; return it, or None when there are none."""
    wheels = sorted((source / "wheels").glob("*.whl"))
    if not wheels:
        return None
    command = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
    with _pip() as pip:
        done = subprocess.run(
            [*pip, *command, *map(str, wheels)], capture_output=True, text=True, errors="replace", check=False
        )
    if done.returncode:
        print(done.stderr, file=sys.stderr, flush=True)
        told = next((line for line in done.stderr.splitlines() if line.startswith("ERROR: ")), "ERROR: no reason given")
        raise JobError(
            f"wheels/ cannot be installed here ({told.removeprefix('ERROR: ')}): put wheels for Python "
            f"{sys.version_info.major}.{sys.version_info.minor} on {sys.platform} into it"
        )
    print(f"installed {len(wheels)} wheels from wheels/, offline", flush=True)
    return target


@contextlib.contextmanager
def _pip() -> Iterator[list[str]]:
    """Give the command of a pip: the environment's, or the one that Python brings for new environments."""
    # -I: what the environment variables of this job say is not meant for pip.
    if (
        subprocess.run([sys.executable, "-I", "-m", "pip", "--version"], capture_output=True, check=False).returncode
        == 0
    ):
        yield [sys.executable, "-I", "-m", "pip"]
        return
    try:
        bundled = resources.files("ensurepip") / "_bundled"
        [wheel] = [file for file in bundled.iterdir() if file.name.startswith("pip-")]
    except (ModuleNotFoundError, OSError, ValueError) as error:
        raise JobError("wheels/ cannot be installed: this image holds no pip; leave wheels/ out") from error
    with resources.as_file(wheel) as file:
        yield [sys.executable, "-I", str(file / "pip")]


def _run(
    command: list[str],
    source: Path,
    environment: dict[str, str],
    entry_point: str,
    heard: Callable[[str], None] | None,
    grace_s: float,
) -> None:
    with stopping.told_to_stop() as told:
        process = subprocess.Popen(
            command,
            cwd=source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,  # a carriage return ends a line too, so that a progress bar is seen while it moves
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # what the script starts ends with it
        )
        assert process.stdout is not None
        watched = _Watched(process.stdout, source, heard)
        deadline = math.inf
        while process.poll() is None and time.monotonic() < deadline:
            if told.is_set() and deadline == math.inf:
                print(f"SIGTERM: passed on to {entry_point}, which has {grace_s:.0f} s to end", flush=True)
                process.terminate()  # not its workers: it may want to end them in order
                deadline = time.monotonic() + grace_s
            time.sleep(POLL_S)
        with contextlib.suppress(ProcessLookupError):  # the script past its time, or workers that outlived it
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    watched.join(DRAIN_S)
    if watched.is_alive():
        print(
            f"{entry_point} has ended, and a process that it started still holds its output: not waited for", flush=True
        )
    if told.is_set():
        raise StoppedError(f"{entry_point} was stopped by SIGTERM and ended with status {status}; checkpoints are kept")
    if status:
        raise JobError(_failure(entry_point, status, watched))


class _Watched(threading.Thread):
    """Copies a script's output to the log line by line and remembers the kind and place of the last traceback."""

    def __init__(self, stream: IO[str], source: Path, heard: Callable[[str], None] | None = None) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._source = source.resolve()
        self._heard = heard
        self._in_traceback = False
        self._place = ""
        self.raised = ""
        self.start()

    def run(self) -> None:
        for line in self._stream:
            text = line.rstrip("\n")
            print(text[:LINE_CHARACTERS], flush=True)
            self._look(text)
            if self._heard:
                self._heard(text[:LINE_CHARACTERS])
        self._stream.close()

    def _look(self, line: str) -> None:
        if line.startswith("Traceback (most recent call last)"):
            self._in_traceback, self._place = True, ""
        elif self._in_traceback and (frame := _FRAME.match(line)):
            file = Path(frame["file"])
            if file.resolve().is_relative_to(self._source):  # the user's own lines; a library's say less
                self._place = f"{file.name}:{frame['line']}"
        elif self._in_traceback and (raised := _RAISED.match(line)):
            self._in_traceback = False
            self.raised = raised["kind"].rpartition(".")[2] + (f" at {self._place}" if self._place else "")
            if raised["kind"] in _TOLD_WHOLE and raised["text"]:
                self.raised += f" ({raised['text'][:200]})"


def _failure(entry_point: str, status: int, watched: _Watched) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in signal.valid_signals() else str(-status)
        more = ": probably out of memory, name a larger train.instance" if -status == signal.SIGKILL else ""
        return f"{entry_point} was ended by {name}{more}; the job's log holds its output"
    told = f": {watched.raised}" if watched.raised else ""
    return f"{entry_point} ended with status {status}{told}; the job's log holds its output"


def _inherited(packages: Path | None) -> dict[str, str]:
    """Return this process's environment without what concerns its own code and settings."""
    dropped = ("EBB_", "SM_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment["PYTHONUNBUFFERED"] = "1"
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    return environment


def _spelled(value: Any) -> str:
    if isinstance(value, str | int | float | Path):  # bool among them: True, as the toolkit spells it
        return str(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _json_file(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
