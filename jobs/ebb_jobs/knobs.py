"""What of a recipe a search may turn, and how far. A knob is a multiple of what the recipe does by itself.

So the same knobs fit every size of data, and can be named before anything of the data is known: `ebb.tuning` gives
them to a SageMaker tuning job, a test holds the two together. A search inside a job has few fits, so that it turns a
knob in steps: what lies between two of them differs by less than a fit does from itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

Turned = Mapping[str, float]
"""Knob -> value; a knob that is not named stands as the recipe has it."""


@dataclass(frozen=True)
class Knob:
    """One number of a recipe: the values that are tried, low to high. `usual` is what the recipe does by itself."""

    name: str
    levels: tuple[float, ...]
    usual: float = 1.0
    cost: float = 0.0
    """The power of the knob with which the time of a fit grows, about."""

    @property
    def whole(self) -> bool:
        """Tell whether it is a count; everything else is a factor, even on its logarithm."""
        return all(isinstance(level, int) for level in self.levels)


RATE = Knob("rate", (0.125, 0.25, 0.5, 1.0, 2.0, 4.0))
"""The peak of the learning rate."""
DECAY = Knob("decay", (0.05, 0.2, 1.0, 5.0, 20.0))
"""Weight decay."""
BATCH = Knob("batch", (0.5, 1.0, 2.0), cost=-0.5)
"""Rows of a step, in as many epochs."""
WIDTH = Knob("width", (0.25, 0.5, 1.0, 2.0), cost=1.5)
"""Neurons of a layer; of texts the length of a token's vector."""
DEPTH = Knob("depth", (1, 2, 3, 4), usual=3, cost=1.0)
"""Hidden layers."""
LEAVES = Knob("leaves", (0.25, 0.5, 1.0, 2.0, 4.0), cost=0.5)
"""Leaves of a tree."""
CHILD = Knob("child", (0.25, 1.0, 2.0, 4.0, 8.0))
"""Rows that a leaf must hold at least."""
PENALTY = Knob("penalty", (0.01, 0.1, 1.0, 5.0, 30.0))
"""L2 penalty of the leaves."""
SHARE = Knob("columns", (0.5, 0.75, 1.0, 1.4))
"""Share of the columns that a tree looks at, 0.7 being usual."""

TABLE_NETWORK = (RATE, WIDTH, DEPTH, DECAY, BATCH)
SMALL_TABLE_NETWORK = (RATE, WIDTH, replace(DEPTH, usual=2), DECAY, BATCH)
TREES = (replace(RATE, cost=-1.0), LEAVES, CHILD, PENALTY, SHARE)  # half the rate takes twice the rounds
TEXT_NETWORK = (RATE, WIDTH, DECAY, BATCH)
NETWORK = (RATE, DECAY, BATCH)


def cost(turned: Turned, space: Sequence[Knob]) -> float:
    """Return about how long a fit takes, as a multiple of one whose knobs all stand at 1."""
    return math.prod(of(turned, knob) ** knob.cost for knob in space)


def of(turned: Turned, knob: Knob) -> float:
    """Return where a knob stands."""
    return float(turned.get(knob.name, knob.usual))
