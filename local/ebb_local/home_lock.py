"""One server to a home: the server holds a lock on a file for its whole life, and the kernel frees it at any end.

The file says who holds it, and stays behind: after a crash it tells whose children may be left.
"""

import fcntl
import json
import os
import time
from dataclasses import dataclass
from typing import IO

from ebb_local import process_table
from ebb_local.settings import Home

# Whoever asks whether the lock is held takes it for an instant.
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock, or held it last."""

    pid: int
    born: str

    @property
    def lives(self) -> bool:
        """Whether this very process still runs."""
        return process_table.same(self.pid, self.born)


def take(home: Home) -> IO[str] | None:
    """Return the lock, held until the process ends or the file is closed; None when another process holds it."""
    home.root.mkdir(parents=True, exist_ok=True)
    file = home.lock_file.open("a+")
    deadline = time.monotonic() + _PATIENCE_S
    while not _locked(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            file.close()
            return None
        time.sleep(0.05)
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"pid": os.getpid(), "born": process_table.born(os.getpid())}))
    file.flush()
    return file


def is_held(home: Home) -> bool:
    """Return whether a server holds the home."""
    try:
        file = home.lock_file.open()
    except FileNotFoundError:
        return False
    with file:
        return not _locked(file, fcntl.LOCK_SH)


def last_holder(home: Home) -> Holder | None:
    """Return who holds the lock or, when nobody does, who held it last."""
    try:
        written = json.loads(home.lock_file.read_text())
        return Holder(int(written["pid"]), str(written["born"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
