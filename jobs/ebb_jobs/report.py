"""metrics.json: what a stage did, decided and used. The control plane reads it; no value of the data goes in."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Report:
    """Collects one stage's decisions and figures and writes them with the resources that the stage used."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.decisions: list[dict[str, Any]] = []
        self.fields: dict[str, Any] = {}
        self._started = time.monotonic()

    def decide(
        self,
        what: str,
        chosen: Any,
        reason: str,
        *,
        numbers: dict[str, Any] | None = None,
        alternatives: Sequence[Any] = (),
    ) -> None:
        """Record one decision with the numbers it was judged on, and print it to the log."""
        self.decisions.append(
            {
                "what": what,
                "chosen": chosen,
                "reason": reason,
                "numbers": numbers or {},
                "alternatives": list(alternatives),
            }
        )
        print(f"{what}: {chosen} ({reason})", flush=True)

    def elapsed_s(self) -> float:
        """Return the wall time since the stage began."""
        return time.monotonic() - self._started

    def as_dict(self) -> dict[str, Any]:
        """Return the whole report, resources included."""
        return {
            "stage": self.stage,
            "duration_s": round(self.elapsed_s(), 3),
            "cpu_seconds": round(cpu_seconds(), 3),
            "vcpu": cpu_count(),
            "peak_rss_mib": round(peak_rss_mib(), 1),
            "decisions": self.decisions,
            **self.fields,
        }

    def write(self, folder: Path) -> None:
        """Write metrics.json into `folder`; NaN is refused, because JSON readers elsewhere refuse it."""
        write_json(folder / "metrics.json", self.as_dict())


def write_json(path: Path, document: Any) -> None:
    """Write `document` at once or not at all, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def cpu_seconds() -> float:
    """Return user and system seconds of this process and of its finished children."""
    return sum(
        use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def peak_rss_mib() -> float:
    """Return the largest resident size of this process or of one of its children."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return largest * unit / 2**20


def cpu_count() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
