"""Child processes: every one is in a process group of its own, written down, and ended when the server ends.

The list is also kept in a file. A server that was killed could not end its children; the next one does, after
checking that the process with that id is still the one that was started.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from ebb_local import process_table
from ebb_local.sagemaker import settings
from ebb_local.settings import Home

_GONE_TIMEOUT_S = 2.0  # grandchildren are reaped by init, a moment after they were killed

_lock = threading.Lock()
_children: dict[int, subprocess.Popen] = {}
_born: dict[int, str] = {}
_closing = threading.Event()


def start(argv: list[str], *, env: dict[str, str], cwd: Path) -> subprocess.Popen:
    """Start a process in a group of its own, its output in one pipe, nothing on its input."""
    with _lock:
        if _closing.is_set():
            raise RuntimeError("the embedded cloud is shutting down")
        process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _children[process.pid] = process
        _born[process.pid] = process_table.born(process.pid)
        _write_down()
    return process


def end(process: subprocess.Popen, grace_s: float) -> None:
    """Ask the whole group to end, wait, then end it. Returns when nothing of it is left."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    forget(process)


def forget(process: subprocess.Popen) -> None:
    """End what a finished process left in its group, and take it off the list."""
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + _GONE_TIMEOUT_S
    while _group_exists(process.pid) and time.monotonic() < until:
        time.sleep(0.01)
    with _lock:
        _born.pop(process.pid, None)
        if _children.pop(process.pid, None) is not None:
            _write_down()


def shutdown(grace_s: float = 2.0) -> None:
    """End every child. Called by the server when it stops, and at interpreter exit in any case."""
    _closing.set()
    with _lock:
        running = list(_children.values())
    for process in running:
        _signal_group(process.pid, signal.SIGTERM)
    until = time.monotonic() + grace_s
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        forget(process)


def end_leftovers() -> None:
    """End the children of a server that did not get to it, from the file that it kept."""
    _closing.clear()
    process_table.end_written(_list_path())


def closing() -> bool:
    """Return whether the server is ending: containers end now for no reason of their own."""
    return _closing.is_set()


def alive() -> list[int]:
    """Return the ids of the children that run."""
    with _lock:
        return [pid for pid, process in _children.items() if process.poll() is None]


def _write_down() -> None:
    path = _list_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_born))


def _list_path() -> Path:
    return Home(settings.current().home).children_file


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


atexit.register(shutdown)
