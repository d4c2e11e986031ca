"""What a stage used of its machines, over all of its processes: what the next run's machine is chosen by."""

from __future__ import annotations

from typing import Any

from ebb_jobs import device, distributed, gpu
from ebb_jobs.feeding import METER
from ebb_jobs.report import cpu_count, cpu_seconds, peak_rss_mib


def fields(watched: gpu.Watch) -> dict[str, Any]:
    """Return the report's fields: the loop's waiting, the hardware, and in a cluster the sums over its processes.

    Memory is that of the process that held most, times the processes of a machine.
    """
    told: dict[str, Any] = {"feed": METER.told(), "hardware": device.found().told()}
    if (found := watched.told()) is not None:
        told["gpu"] = found
    machines, each = len(distributed.cluster().hosts), distributed.processes_per_machine()
    if distributed.world() == 1 and machines > 1:  # a script's own machines: the others are taken to do as much
        used = {"cpu_seconds": round(cpu_seconds() * machines, 3), "vcpu": cpu_count() * machines}
        return told | {"instances": machines, **used}
    if distributed.world() == 1:
        return told
    return told | {
        "instances": machines,
        "processes": distributed.world(),
        "cpu_seconds": round(distributed.summed(cpu_seconds()), 3),
        "vcpu": round(distributed.summed(cpu_count() / each)),
        "peak_rss_mib": round(distributed.most(peak_rss_mib()) * each, 1),
    }
