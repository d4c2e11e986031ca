"""Start, find and stop the server of the embedded cloud."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ebb_local.settings import PREFERRED_PORT, Home, default_home

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40


class LifecycleError(Exception):
    """The server did not start, or left something running."""


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

    `port` is used when given; otherwise 4747, or any free one.
    """
    place = Home(Path(home).absolute()) if home else default_home()
    found = running(place.root)
    if found:
        return found
    place.create()
    place.server_file.unlink(missing_ok=True)
    chosen = port or _free_port()
    with place.log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ebb_local.server", "--home", str(place.root), "--port", str(chosen)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives the terminal, and its children are found by their session
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])},
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LifecycleError(f"the embedded cloud ended at its start:\n{_log_end(place)}")
        if found := running(place.root):
            return found
        time.sleep(0.1)
    process.terminate()
    raise LifecycleError(f"the embedded cloud did not answer within {START_TIMEOUT_S} s:\n{_log_end(place)}")


def running(home: Path | None = None) -> Server | None:
    """Return the server of `home` if its process lives and answers."""
    place = Home(Path(home).absolute()) if home else default_home()
    try:
        facts = json.loads(place.server_file.read_text())
    except (OSError, ValueError):
        return None
    server = Server(**facts, home=place.root)
    return server if _alive(server.pid) and _answers(server) else None


def stop(home: Path | None = None) -> list[int]:
    """End the server and everything that it started; return the children that had to be killed (normally none).

    Raises: LifecycleError when the server or a child is still there afterwards.
    """
    place = Home(Path(home).absolute()) if home else default_home()
    try:
        pid = json.loads(place.server_file.read_text())["pid"]
    except (OSError, ValueError):
        return []
    family = _family(pid)
    if _alive(pid):
        os.kill(pid, signal.SIGTERM)
    _wait_for_end([pid], STOP_TIMEOUT_S)
    if _alive(pid):
        os.kill(pid, signal.SIGKILL)
    left = [child for child in sorted(family | _family(pid)) if child != pid and _alive(child)]
    for child in left:
        os.kill(child, signal.SIGKILL)
    _wait_for_end([pid, *left], 5)
    if still := [child for child in [pid, *left] if _alive(child)]:
        raise LifecycleError(f"processes that do not end: {still}")
    place.server_file.unlink(missing_ok=True)
    return left


def _family(pid: int) -> set[int]:
    """Return the processes that descend from `pid` or share its session."""
    listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listing.splitlines())}
    family = {child for child in parents if _session(child) == pid}
    grown = True
    while grown:
        born = {child for child, parent in parents.items() if parent in family | {pid}} - family
        family |= born
        grown = bool(born)
    return family - {pid}


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _alive(pid: int) -> bool:
    try:
        # Reap it if it is a child of ours, otherwise a zombie would count as alive.
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wait_for_end(pids: list[int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.05)


def _answers(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.endpoint_url}/_ministack/health", timeout=5) as reply:
            return reply.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _free_port() -> int:
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise LifecycleError("no free port on 127.0.0.1")


def _log_end(place: Home) -> str:
    return "\n".join(place.log_file.read_text(errors="replace").splitlines()[-20:])
