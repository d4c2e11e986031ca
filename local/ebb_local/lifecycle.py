"""Start, find and stop the server of the embedded cloud."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ebb_local import home_lock, process_table
from ebb_local.settings import Home, default_home

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40
ANSWER_TIMEOUT_S = 5.0


class LifecycleError(Exception):
    """The server did not start, or left something running."""


class ServerBusy(LifecycleError):
    """A server holds the home, but does not answer."""

    def __init__(self, home: Path, holder: home_lock.Holder | None) -> None:
        who = f"process {holder.pid}" if holder else "a process that has just begun"
        super().__init__(f"The embedded cloud of {home} is busy: {who} holds it and does not answer.")


@dataclass(frozen=True)
class Server:
    """A running embedded cloud, and how to reach it."""

    endpoint_url: str
    pid: int
    port: int
    region: str
    account_id: str
    home: Path


def start(home: Path | None = None, port: int | None = None) -> Server:
    """Start the server of `home` unless it runs already; return once it answers.

    `port` is used when given; otherwise the server takes 4747, or any free one, and `Server` says which.
    Raises: ServerBusy when one holds the home and does not answer; LifecycleError when the new one does not start.
    """
    place = Home(Path(home).absolute()) if home else default_home()
    process: subprocess.Popen | None = None
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if found := running(place.root):
                return found
            busy = None
        except ServerBusy as problem:
            busy = problem  # it starts, it ends or it works: it may answer in a moment
        if process is None and busy is None:
            process = _spawn(place, port)
        elif process and process.poll() is not None and not home_lock.is_held(place):
            raise LifecycleError(f"the embedded cloud ended at its start:\n{_log_end(place)}")
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if process and process.poll() is None:
        process.terminate()
    elif busy:
        raise busy
    raise LifecycleError(f"the embedded cloud did not answer within {START_TIMEOUT_S} s:\n{_log_end(place)}")


def _spawn(place: Home, port: int | None) -> subprocess.Popen:
    place.create()
    wanted = [] if port is None else ["--port", str(port)]
    with place.log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ebb_local.server", "--home", str(place.root), *wanted],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives the terminal, and its children are found by their session
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])},
        )


def running(home: Path | None = None) -> Server | None:
    """Return the server of `home`, or None when none runs.

    Raises: ServerBusy when one holds the home and does not answer, now that it starts, ends or is overloaded.
    """
    place = Home(Path(home).absolute()) if home else default_home()
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while home_lock.is_held(place):
        server = _written(place)
        if server and _answers(server):
            return server
        if time.monotonic() > deadline:
            raise ServerBusy(place.root, home_lock.last_holder(place))
        time.sleep(0.1)
    return None


def _written(place: Home) -> Server | None:
    try:
        return Server(**json.loads(place.server_file.read_text()), home=place.root)
    except (OSError, ValueError, TypeError):
        return None


def stop(home: Path | None = None) -> list[int]:
    """End the server and everything that it started; return the children that had to be killed (normally none).

    The children of a server that was killed are ended as well: jobs and endpoints from the list that it kept, Lambda
    workers because they are in its session and run a file of its home.
    Raises: LifecycleError when the server or a child is still there afterwards.
    """
    place = Home(Path(home).absolute()) if home else default_home()
    holder = home_lock.last_holder(place)
    if holder is None:
        return []
    ended: list[int] = []
    family: set[int] = set()
    if home_lock.is_held(place) and holder.lives:
        ended, family = [holder.pid], process_table.family(holder.pid)
        os.kill(holder.pid, signal.SIGTERM)
        _wait_for_end(ended, STOP_TIMEOUT_S)
        if process_table.alive(holder.pid):
            family |= process_table.family(holder.pid)
            os.kill(holder.pid, signal.SIGKILL)
            _wait_for_end(ended, 5)
    if home_lock.is_held(place):
        raise LifecycleError(f"the server with pid {holder.pid} does not end")
    left = {child for child in family if process_table.alive(child)} | _workers_left(place, holder)
    for child in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    left |= set(process_table.end_written(place.children_file))
    _wait_for_end([*ended, *left], 5)
    if still := [child for child in [*ended, *left] if process_table.alive(child)]:
        raise LifecycleError(f"processes that do not end: {still}")
    place.server_file.unlink(missing_ok=True)
    return sorted(left)


def _workers_left(place: Home, holder: home_lock.Holder) -> set[int]:
    """Return the Lambda workers that survived their server: in its session, running a file of its home."""
    if process_table.alive(holder.pid) and not holder.lives:
        return set()  # the pid is a stranger's by now, and so is the session
    return {
        entry.pid
        for entry in process_table.entries()
        if str(place.scratch) in entry.command and process_table.session(entry.pid) == holder.pid != entry.pid
    }


def _wait_for_end(pids: list[int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(process_table.alive(pid) for pid in pids):
        time.sleep(0.05)


def _answers(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.endpoint_url}/_ministack/health", timeout=ANSWER_TIMEOUT_S) as reply:
            return reply.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _log_end(place: Home) -> str:
    return "\n".join(place.log_file.read_text(errors="replace").splitlines()[-20:])
