"""The system's processes: which live, whose children they are, and whether a written-down one is still the same.

A process id alone proves nothing: after a crash or a reboot it may be anybody's. Its moment of birth goes with it.
"""

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    pid: int
    parent: int
    command: str


def born(pid: int) -> str:
    """Return what tells this process from another one with the same id; empty when there is no such process."""
    try:
        # Clock ticks since boot, so the boot belongs to it.
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{_BOOT.read_text().strip()} {ticks}"
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]  # macOS: a date to the second
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout.strip()


def same(pid: int, written: str | None) -> bool:
    """Return whether the process lives that was written down with `born`."""
    return bool(written) and born(pid) == written


def alive(pid: int) -> bool:
    """Return whether the process runs; reap it first if it is a child of ours, otherwise a zombie would count."""
    try:
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


def entries() -> list[Entry]:
    """Return every process with its parent and its whole command line."""
    command = ["ps", "-axww", "-o", "pid=,ppid=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout
    split = (line.split(maxsplit=2) for line in listing.splitlines())
    return [Entry(int(pid), int(parent), " ".join(rest)) for pid, parent, *rest in split]


def session(pid: int) -> int:
    """Return the session of a process; -1 when it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def family(pid: int) -> set[int]:
    """Return the processes that descend from `pid` or share the session that it leads."""
    parents = {entry.pid: entry.parent for entry in entries()}
    found = {child for child in parents if session(child) == pid}
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in found | {pid}} - found
        found |= more
        grown = bool(more)
    return found - {pid}


def listens(leader: int, port: int) -> bool:
    """Return whether a process of the session that `leader` leads listens on a TCP port; True where no /proc tells.

    Source: proc(5), the states in include/net/tcp_states.h of Linux.
    """
    tables = [table for table in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if table.exists()]
    if not tables:
        return True  # macOS
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    wanted = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    pids = (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())
    return any(wanted & _open_files(pid) for pid in pids if session(pid) == leader) if wanted else False


def _open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(each))
    return found


def end_written(path: Path) -> list[int]:
    """Kill the process groups that a file lists with `born`, as far as their leaders are still the same; return them.

    The file goes with them.
    """
    try:
        written = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    left = [int(pid) for pid, moment in written.items() if same(int(pid), moment)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    path.unlink(missing_ok=True)
    return left
