"""The heat before the race: a short look at every candidate, after which those that are clearly beaten drop out.

A candidate is beaten by another that is at least as good on the validation rows, no larger, and clearly faster, one
row at a time and in batches; in 8 bits also by its own full precision that is clearly faster. What is left shares the
time of the race, and each is measured the longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ebb_jobs import measure, quality, runtimes

ROUNDS = 3
SINGLES, BATCHES = 15, 3
MOST_S = 0.1
"""Of a turn with rows alone, and of one with batches: of slow networks a few answers tell enough."""
CLEARLY_FASTER = 1.5
"""By how much the shorter times of a heat must differ: a heat is short, and nothing that is close may drop out."""


@dataclass(frozen=True)
class Glance:
    """What a heat and the validation rows say of a candidate."""

    quality: float
    single_s: float
    batch_s: float
    size_bytes: int

    def beats(self, other: Glance, metric: str) -> bool:
        """Tell whether nothing speaks for the other one."""
        return (
            not quality.is_better(metric, other.quality, self.quality)
            and self.size_bytes <= other.size_bytes
            and self.is_clearly_faster(other)
        )

    def is_clearly_faster(self, other: Glance) -> bool:
        """Tell whether this one takes clearly less time, a row alone and in a batch."""
        return self.single_s * CLEARLY_FASTER < other.single_s and self.batch_s * CLEARLY_FASTER < other.batch_s


def times(models: Mapping[str, runtimes.Executable], encoded: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the least seconds of a row alone and of a batch, over rounds in which all take turns."""
    single, batch = np.array(encoded[:1]), np.array(encoded[np.arange(measure.BATCH_ROWS) % len(encoded)])
    found = dict.fromkeys(models, (np.inf, np.inf))
    for _ in range(ROUNDS):
        for name, model in models.items():
            alone, together = found[name]
            found[name] = (
                min(alone, *measure.times(model.run, [single], SINGLES, most_s=MOST_S)),
                min(together, *measure.times(model.run, [batch], BATCHES, most_s=MOST_S)),
            )
    return found


def dominated(
    glances: Mapping[str, Glance], kept: frozenset[str], full: Mapping[str, str], metric: str
) -> dict[str, str]:
    """Return who drops out, with the reason.

    `kept` are the forms of the original, which compete whatever smaller networks do; `full` names, for a candidate in 8
    bits, the same network in full precision.
    """
    out: dict[str, str] = {}
    for name, glance in glances.items():
        own = full.get(name)
        told = slower_in_8_bits(own, glances[own], glance) if own is not None and own in glances else None
        if told:
            out[name] = told
        elif name not in kept:
            better = next((other for other in glances if other != name and glances[other].beats(glance, metric)), None)
            if better is not None:
                told = _times(glances[better], glance)
                out[name] = f"{better} is no worse, no larger and faster in a heat: {told}"
    return out


def slower_in_8_bits(name: str, full: Glance, small: Glance) -> str | None:
    """Return the reason when a network in 8 bits is clearly slower than the same one, `name`, in full precision."""
    if not full.is_clearly_faster(small):
        return None
    return f"slower in 8 bits than {name} in a heat: {_times(full, small)}"


def _times(fast: Glance, slow: Glance) -> str:
    return (
        f"{fast.single_s * 1000:.4f} against {slow.single_s * 1000:.4f} ms per row, {fast.batch_s * 1000:.3f} against "
        f"{slow.batch_s * 1000:.3f} ms per {measure.BATCH_ROWS} rows"
    )
