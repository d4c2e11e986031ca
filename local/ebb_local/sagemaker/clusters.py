"""Training jobs on several instances: one container for each, in one network, each with its own /opt/ml.

Every machine gets the same input and its own resourceconfig.json, as a fully replicated channel gives it on AWS. Two
differences: hosts are addresses of the loopback interface instead of algo-1, algo-2, because no process here can give
a name to the others, and what another machine than the first leaves in /opt/ml/model is not uploaded.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebb_local.sagemaker import jobs
from ebb_local.sagemaker.containers import Container
from ebb_local.sagemaker.errors import not_implemented

MOST = 4  # processes of one job, which share this machine
_OTHERS = ".machines"
_NETWORK_WITHIN_S = 10.0


def require_size(resources: dict[str, Any]) -> None:
    """Raise for what needs more machines than this one can stand in for."""
    if not resources.get("InstanceType") or not resources.get("InstanceCount"):
        raise not_implemented("A cluster without InstanceType and InstanceCount")
    if resources["InstanceCount"] > MOST:
        raise not_implemented(f"A job on more than {MOST} instances")


def resource_config(resources: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """Return resourceconfig.json of one of a job's machines."""
    instance_type, group, count = resources["InstanceType"], "homogeneousCluster", resources["InstanceCount"]
    hosts = [jobs.HOST] if count == 1 else [f"127.0.0.{host + 1}" for host in range(count)]
    return {
        "current_host": hosts[number],
        "current_instance_type": instance_type,
        "current_group_name": group,
        "hosts": hosts,
        "instance_groups": [{"instance_group_name": group, "instance_type": instance_type, "hosts": hosts}],
        "network_interface_name": "eth0" if count == 1 else "lo",
    }


def start(first: Path, resources: dict[str, Any], start_one: Callable[[Path, str, int | None], Container]) -> Container:
    """Start a job's containers: `start_one(base, log name, process whose network it shares)`; return them as one."""
    leader = start_one(first, jobs.HOST, None)
    if resources["InstanceCount"] == 1:
        return leader
    started = [leader]
    for number, base in enumerate(_bases(first, resources), start=1):
        for folder in ("input", "checkpoints"):
            shutil.copytree(first / folder, base / folder, symlinks=True)
        for folder in ("model", "output/data"):
            (base / folder).mkdir(parents=True)
        jobs.write_json(base / "input/config/resourceconfig.json", resource_config(resources, number))
        _wait_for_network(leader)
        started.append(start_one(base, f"algo-{number + 1}", leader.pid))
    return Together(started)


def failure(first: Path, resources: dict[str, Any]) -> str:
    """Return what a failed job's machines said, of the first that said anything."""
    told = [jobs.text_of(base / "output/failure") for base in (first, *_bases(first, resources))]
    return next(filter(None, told), "")


def _bases(first: Path, resources: dict[str, Any]) -> list[Path]:
    return [first / _OTHERS / f"algo-{number + 1}" for number in range(1, resources["InstanceCount"])]


def _wait_for_network(leader: Container) -> None:
    """Wait until the first container is in its own network, where it has one: who joins sooner joins ours."""
    until = time.monotonic() + _NETWORK_WITHIN_S
    while leader.isolated and leader.poll() is None and time.monotonic() < until:
        if os.readlink(f"/proc/{leader.pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return
        time.sleep(0.02)


class Together(Container):
    """The containers of one job: they end when all have ended, or with the first that fails."""

    def __init__(self, started: list[Container]) -> None:
        self._started = started
        self._failed: int | None = None
        self.isolated = started[0].isolated

    @property
    def pid(self) -> int:
        """The id of the first one's process."""
        return self._started[0].pid

    def poll(self) -> int | None:
        """Return the exit code of one that failed, 0 when all have ended well, None while they run."""
        codes = [each.poll() for each in self._started]
        self._failed = self._failed or next(filter(None, codes), None)  # the first: the others are ended after it
        if self._failed:
            return self._failed
        return None if None in codes else 0

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end at most so long; return the exit code, or None while one runs."""
        until = time.monotonic() + timeout_s
        while (code := self.poll()) is None and time.monotonic() < until:
            next(each for each in self._started if each.poll() is None).wait(max(0.0, until - time.monotonic()))
        return code

    def end(self, grace_s: float | None = None) -> int | None:
        """End all of them."""
        for each in self._started:
            each.end(grace_s)
        return self.poll()

    def finish(self) -> None:
        """Clear up after all, and end those that still wait for one that failed."""
        for each in self._started:
            if each.poll() is None:
                each.end()
            else:
                each.finish()
