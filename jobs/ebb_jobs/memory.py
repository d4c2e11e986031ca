"""How much memory a process holds."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_mib() -> float:
    """Return this process's largest resident size; ru_maxrss would also count the parent before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
