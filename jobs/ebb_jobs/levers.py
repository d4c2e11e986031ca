"""What makes training cheaper at equal quality: which levers a network's training uses, and what each of them gave.

A lever's gain is told from the run itself where it can be measured or counted there; else it is the share of the
committed benchmark, with its source. What did not pay there is off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ebb_jobs import growing
from ebb_jobs.errors import JobError

SOURCE = "make bench-train, benchmarks/results/train.json"
SHARES = {
    "channels last": "with bf16 39% fewer CPU-seconds than fp32 with each channel as one, on Fashion-MNIST",
    "one-cycle rate": "0.7 points more in 9% fewer CPU-seconds than a constant rate, on Fashion-MNIST",
    "small batch, high rate": "0.8 points more in 18% fewer CPU-seconds, on Fashion-MNIST",
}
"""What a lever gave in the benchmark, where a run cannot tell."""


@dataclass(frozen=True)
class Levers:
    """Which levers are used. The defaults are those that paid for every kind of data; a kind may add its own."""

    channels_last: bool = True
    """Images lie with their channels last, as vector units read them."""
    bf16: bool = True
    """Where the device has units for it and steps are seen to gain."""
    one_cycle: bool = True
    """The rate rises and falls over the plan; else it stays."""
    growing: growing.Growth = ()
    """Early steps see smaller pictures."""
    smoothing: float = 0.0
    """Share of the label's certainty that is spread over all classes."""
    averaging: float = 0.0
    """Share of the averaged weights that stays at each step."""
    batch: float = 1.0
    """Multiple of the kind's batch."""
    rate: float = 1.0
    """Multiple of the kind's peak rate."""
    augmented: bool = True
    """Batches are varied on the way to the network."""
    compiled: bool | None = False
    """Steps are compiled by torch.compile, which takes the time of many steps first; None: never, however long."""


@dataclass(frozen=True)
class Facts:
    """What a run knows about its own levers."""

    image: bool
    mapped_bytes: int | None
    """Of the 8-bit inputs; None where they are no pixels."""
    small_batch: bool
    """It learned from smaller batches than the kind's others, at a higher rate."""
    bf16_gain: float | None
    """How many times as long fp32 steps take; None where it was not timed."""
    precision: str
    growth: growing.Growth
    planned: int
    done: int
    stop: str
    cpu_s: float
    """Of the epochs that were done."""
    warm_share: float | None
    """Of the steps of a fresh start, where the run began with the weights of the model before it."""


def chosen(plain: Levers, wanted: Mapping[str, Any]) -> Levers:
    """Return a kind's levers with some of them set otherwise, as the benchmark sets them. Raises JobError."""
    known = {each.name for each in fields(Levers)}
    for name in wanted:
        if name not in known:
            raise JobError(f"levers: there is no {name!r}; known are {', '.join(sorted(known))}")
    given: dict[str, Any] = {
        name: tuple((float(begins), float(side)) for begins, side in value) if name == "growing" else value
        for name, value in wanted.items()
    }
    return replace(plain, **given)


def told(use: Levers, facts: Facts) -> list[dict[str, str]]:
    """Return each lever that was used: its name, what it gave, and where that is known from."""
    found: list[dict[str, str]] = []

    def tell(name: str, gave: str, known_from: str) -> None:
        found.append({"name": name, "gave": gave, "from": known_from})

    def committed(name: str) -> None:
        if name in SHARES:
            tell(name, SHARES[name], SOURCE)

    if facts.mapped_bytes is not None:
        size, scaled = (f"{each / 1e6:.3g} MB" for each in (facts.mapped_bytes, 4 * facts.mapped_bytes))
        tell("8-bit pixels", f"{size} are mapped from disk, as numbers they would fill {scaled}", "counted in this run")
    if facts.precision == "bfloat16":
        gain = facts.bf16_gain
        gave = f"a step takes {1 / gain:.0%} of the time that fp32 takes" if gain else "16 bits where fp32 has 32"
        tell("bf16", gave, "timed in this run" if gain else "this run")
    if use.channels_last and facts.image:
        committed("channels last")
    if use.one_cycle:
        committed("one-cycle rate")
    if facts.small_batch:
        committed("small batch, high rate")
    if facts.growth:
        sides = ", ".join(f"{side:.0%}" for _, side in facts.growth)
        gave = f"{growing.saved(facts.growth):.0%} fewer multiplications, pictures of {sides} of the side one by one"
        tell("growing pictures", gave, "counted in this run")
    if use.smoothing:
        committed("label smoothing")
    if use.averaging:
        committed("averaged weights")
    if use.augmented and facts.image:
        committed("varied pictures")
    if facts.done < facts.planned:
        spared = facts.cpu_s / max(facts.done, 1) * (facts.planned - facts.done)
        gave = f"{facts.planned - facts.done} of {facts.planned} epochs were not needed, some {spared:.3g} CPU-seconds"
        tell(f"early stop: {facts.stop}", gave, "counted in this run")
    if facts.warm_share is not None:
        gave = f"{facts.warm_share:.0%} of the steps of a fresh start were planned"
        tell("start from the model before", gave, "counted in this run")
    return found
