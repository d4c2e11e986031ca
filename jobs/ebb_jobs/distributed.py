"""Training on several machines: torchrun starts a process on each, PyTorch averages their gradients.

SageMaker tells every container of a job its peers in resourceconfig.json. The processes share each batch, so that a
step is the step that one process would have made; the first one leads: it alone writes, looks at the validation rows
and decides, and the others follow what it decided. In a job of one process everything here is a matter of course.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html (files),
https://docs.pytorch.org/docs/stable/elastic/run.html (torchrun).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed as group
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ebb_jobs import paths
from ebb_jobs.errors import JobError, reason

PORT = 29_400
"""Where the leader is met; SageMaker lets the containers of one job talk to each other on any port."""
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: the leader looks at the validation rows while they do."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """The machines of a job, in the order in which all of them know each other."""

    hosts: tuple[str, ...]
    current: str
    interface: str | None

    @property
    def number(self) -> int:
        """Return the place of this machine."""
        return self.hosts.index(self.current)


def cluster() -> Cluster:
    """Return the machines of this job; this one alone where nothing says otherwise."""
    file = paths.base_dir() / "input/config/resourceconfig.json"
    told = json.loads(file.read_text()) if file.exists() else {}
    hosts = tuple(told.get("hosts") or ("localhost",))
    return Cluster(hosts, str(told.get("current_host") or hosts[0]), told.get("network_interface_name"))


def processes_per_machine() -> int:
    """Return how many processes work on a machine: one for each GPU, or one for all its processors."""
    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 1


def command(stage: str) -> tuple[list[str], dict[str, str]] | None:
    """Return what starts the stage on this machine's processes, and what it has to know; None where it runs as it is.

    That is so in a job of one process, and in a process that torchrun has started.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or len(cluster().hosts) * processes_per_machine() == 1:
        return None
    argv, environment = torchrun()
    return [*argv, sys.argv[0], stage], environment


def torchrun() -> tuple[list[str], dict[str, str]]:
    """Return the command that starts this machine's processes, a script and its arguments to follow, and variables."""
    machines, each = cluster(), processes_per_machine()
    argv = [sys.executable, "-m", "torch.distributed.run"]
    argv += [f"--nnodes={len(machines.hosts)}", f"--node-rank={machines.number}", f"--nproc-per-node={each}"]
    port = os.environ.get("MASTER_PORT", PORT)
    argv += [f"--master-addr={machines.hosts[0]}", f"--master-port={port}"]
    sockets = {"GLOO_SOCKET_IFNAME": machines.interface, "NCCL_SOCKET_IFNAME": machines.interface}
    return argv, {name: value for name, value in sockets.items() if value}


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun started, while the block runs; nothing where it started none."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    group.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        group.destroy_process_group()


@contextmanager
def kept(folder: Path, *, first: bool = True) -> Iterator[Path]:
    """Give the leader, on the `first` machine, its results' folder, and the others one that nobody reads."""
    if leads() and first:
        yield folder
        return
    with tempfile.TemporaryDirectory() as unread:
        yield Path(unread)


def world() -> int:
    """Return how many processes train together."""
    return group.get_world_size() if group.is_initialized() else 1


def leads() -> bool:
    """Tell whether this process writes and decides."""
    return not group.is_initialized() or group.get_rank() == 0


def seat() -> tuple[int, ...]:
    """Return what tells this process's chance from the others'; nothing for the one that would work alone."""
    return () if leads() else (group.get_rank(),)


def share(picked: np.ndarray) -> np.ndarray:
    """Return this process's rows of a batch; of one that is too small for all, a row that `weight` does not count."""
    mine = picked[group.get_rank() :: world()] if world() > 1 else picked
    return mine if len(mine) else picked[:1]


def weight(rows: int) -> float:
    """Return what this process's mean loss counts in a batch of so many rows, for the mean over all of them.

    weight = own rows * processes / rows: the mean of the weighted losses is the loss of the whole batch.
    """
    if world() == 1:
        return 1.0
    return len(range(group.get_rank(), rows, world())) * world() / rows


def wrapped(network: nn.Module) -> nn.Module:
    """Return what computes the network's outputs, and whose gradients are the mean of all processes'.

    It begins with the leader's weights. The network itself stays as it is, and learns.
    """
    if world() == 1:
        return network
    places = [torch.cuda.current_device()] if next(network.parameters()).is_cuda else None
    return DistributedDataParallel(network, device_ids=places)


def follow(network: nn.Module) -> None:
    """Give a network the leader's weights, running means included."""
    if world() == 1:
        return
    for value in network.state_dict().values():
        held = value.to(_place())
        group.broadcast(held, src=0)
        value.copy_(held)


def in_step(elapsed_s: float, told: bool) -> tuple[float, bool]:
    """Return the leader's time, and whether any process was told to stop: all of them end after the same step."""
    if world() == 1:
        return elapsed_s, told
    both = torch.tensor([elapsed_s if leads() else 0.0, float(told)], dtype=torch.float64, device=_place())
    group.all_reduce(both)
    return float(both[0]), bool(both[1])


def summed(value: float) -> float:
    """Return the sum over all processes."""
    return value if world() == 1 else float(_reduced(value, group.ReduceOp.SUM))


def most(value: float) -> float:
    """Return the largest of all processes."""
    return value if world() == 1 else float(_reduced(value, group.ReduceOp.MAX))


def everywhere(found: bool) -> bool:
    """Tell whether something holds in every process."""
    return found if world() == 1 else _reduced(float(found), group.ReduceOp.MIN) > 0


def from_leader(work: Callable[[], T]) -> T:
    """Return what the leader makes of some work, which no other process does.

    Raises: whatever the work raises, in the leader; JobError in the others, so that none waits for ever.
    """
    if world() == 1:
        return work()
    told: list[Any] = [None, None]
    raised: Exception | None = None
    if leads():
        try:
            told = [work(), None]
        except Exception as error:
            raised, told = error, [None, reason(error)]
    group.broadcast_object_list(told, src=0, device=_place())
    if raised is not None:
        raise raised
    if told[1] is not None:
        raise JobError(f"the leading process failed: {told[1]}")
    return told[0]


def _reduced(value: float, how: Any) -> float:
    held = torch.tensor([value], dtype=torch.float64, device=_place())
    group.all_reduce(held, op=how)
    return float(held[0])


def _place() -> torch.device:
    """Return where the processes exchange numbers: NCCL takes those of a GPU only."""
    return torch.device("cuda") if group.get_backend() == "nccl" else torch.device("cpu")
