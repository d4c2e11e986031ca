"""The search over smaller networks: what is cheapest to run is tried first, and only what can still win is trained.

What a network costs to run follows from its shape, before it is trained: multiplications per row, and layers that are
run one after the other. Networks are trained from the cheapest on, until one holds the user's floor; whatever is dearer
than one that holds it can no longer win and is dropped untrained. A budget of compute bounds the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from ebb_jobs import fitting
from ebb_jobs.errors import JobError
from ebb_jobs.networks import Network
from ebb_jobs.report import cpu_seconds

CLEARLY_MORE = 1.15
"""Networks whose multiplications differ by less are not told apart before they are timed."""
BUDGET_SHARE = 4.0
LEAST_BUDGET_S = 60.0
"""Without one in the spec, the search may take as many CPU seconds as this many trainings of the original."""


class DroppedError(JobError):
    """Nothing is wrong with the step: what was measured shows that it cannot win, or the budget does not hold it."""


@dataclass(frozen=True)
class Work:
    """What a network does to answer one row, whatever its weights are."""

    multiplications: int
    layers: int

    @classmethod
    def of(cls, network: Network, inputs: np.ndarray) -> Work:
        """Count; layers are those that hold weights, in the form to run."""
        network = network.eval().deployed()
        layers = sum(isinstance(part, nn.Conv2d | nn.Linear | nn.Embedding) for part in network.modules())
        return cls(fitting.multiplications(network, inputs), layers)

    def loses_to(self, other: Work) -> bool:
        """Tell whether this is clearly more work, in no fewer layers: it cannot be faster than the other."""
        return self.multiplications > CLEARLY_MORE * other.multiplications and self.layers >= other.layers

    def as_dict(self) -> dict[str, int]:
        """Return the work as the report tells it."""
        return {"multiplications": self.multiplications, "layers": self.layers}


@dataclass
class Budget:
    """CPU seconds that the search may take, counted from now."""

    cpu_s: float
    begun: float = field(default_factory=cpu_seconds)

    @classmethod
    def of(cls, asked_s: float | None, fit_s: float) -> Budget:
        """Return what the spec allows, or a share of what training the original took."""
        return cls(asked_s if asked_s else max(LEAST_BUDGET_S, BUDGET_SHARE * fit_s))

    @property
    def left_s(self) -> float:
        """Return what is left of it."""
        return self.cpu_s - (cpu_seconds() - self.begun)

    def spend(self, what: str) -> float:
        """Return the CPU seconds left for a step. Raises DroppedError when nothing is."""
        if self.left_s <= 0:
            raise DroppedError(f"the search's budget of {self.cpu_s:.0f} CPU seconds is used: {what} is not tried")
        return self.left_s


@dataclass
class Option:
    """One network that may be trained: where it stands in the search and what became of it."""

    name: str
    method: str
    make: Callable[[], Network]
    described: str
    work: Work
    status: str = "waiting"
    reason: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the option as the report tells it."""
        return {
            "name": self.name,
            "method": self.method,
            "network": self.described,
            "status": self.status,
            "reason": self.reason,
            **self.work.as_dict(),
            **self.numbers,
        }


class Search:
    """All options of one run; `holder` is the leanest that was shown to hold the floor."""

    def __init__(self, budget: Budget, original: Network, inputs: np.ndarray) -> None:
        self.budget = budget
        self.options: list[Option] = []
        work = Work.of(original, inputs)
        self.holder = Option("original", "none", lambda: original, f"the original ({original.describe()})", work)
        """Nothing that works more than the original can win: it holds its own floor."""

    def add(
        self, method: str, names: Sequence[str], makers: Sequence[Callable[[], Network]], inputs: np.ndarray
    ) -> list[Option]:
        """Return networks as options, the least work first."""
        made = []
        for name, make in zip(names, makers, strict=True):
            network = make()
            made.append(Option(name, method, make, network.describe(), Work.of(network, inputs)))
        made.sort(key=lambda option: option.work.multiplications)
        self.options += made
        return made

    def admit(self, option: Option) -> None:
        """Raise DroppedError when the option cannot win any more or the budget is used."""
        try:
            if option.work.loses_to(self.holder.work):
                mine, its = option.work, self.holder.work
                raise DroppedError(
                    f"{option.described} multiplies {mine.multiplications:,} numbers per row in {mine.layers} layers, "
                    f"{self.holder.described} {its.multiplications:,} in {its.layers}, and that one holds the floor"
                )
            self.budget.spend(option.described)
        except DroppedError as dropped:
            option.status, option.reason = "dropped", str(dropped)
            raise

    def holds(self, cpu_s: float) -> bool:
        """Tell whether the budget holds another step of that size."""
        return self.budget.left_s >= cpu_s

    def trained(self, option: Option, *, may_lose: float, most: float, numbers: dict[str, Any]) -> bool:
        """Note what training brought; return whether the option was shown to hold the floor."""
        holds = may_lose <= most
        option.status = "holds the floor" if holds else "trained"
        option.reason = f"may lose {may_lose:.4f} of the {most:g} that may be lost"
        option.numbers = numbers
        if holds and not option.work.loses_to(self.holder.work):
            self.holder = option
        return holds

    def stopwatch(self) -> Callable[[], dict[str, float]]:
        """Return a function that tells the CPU and wall seconds since now."""
        cpu, wall = cpu_seconds(), time.monotonic()
        return lambda: {
            "cpu_seconds": round(cpu_seconds() - cpu, 3),
            "seconds": round(time.monotonic() - wall, 3),
        }

    def as_list(self) -> list[dict[str, Any]]:
        """Return all options as the report tells them."""
        return [option.as_dict() for option in self.options]
