"""How many instances inference components need: pure bin packing, one copy after the other.

Each copy is placed whole, by memory, vCPUs and accelerators. BINPACK takes the fullest instance that has room, SPREAD
the one with the fewest copies of the component. Computed anew at each change, as scale-in with CONSOLIDATION would.
Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_InferenceComponentSchedulingConfig.html
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ebb_local.sagemaker.capacity import Size


@dataclass(frozen=True)
class Demand:
    """What one component wants: so many copies, each of a size."""

    name: str
    copies: int
    each: Size
    spread: bool = False


@dataclass
class _Instance:
    free: Size
    copies: dict[str, int] = field(default_factory=dict)

    def has_room(self, wanted: Size) -> bool:
        free = self.free
        return (
            wanted.cpus <= free.cpus and wanted.memory_mb <= free.memory_mb and wanted.accelerators <= free.accelerators
        )

    def take(self, demand: Demand) -> None:
        free, each = self.free, demand.each
        self.free = Size(
            free.cpus - each.cpus, free.memory_mb - each.memory_mb, free.accelerators - each.accelerators
        )  # fmt: skip
        self.copies[demand.name] = self.copies.get(demand.name, 0) + 1


def instances_needed(demands: Sequence[Demand], size: Size, *, at_least: int = 0) -> int | None:
    """Return how many instances of a size hold all copies; None when a copy is larger than an instance."""
    instances = [_Instance(size) for _ in range(at_least)]
    for demand in sorted(demands, key=lambda demand: -demand.each.memory_mb):
        for _ in range(demand.copies):
            instance = _choose(instances, demand)
            if instance is None:
                instance = _Instance(size)
                if not instance.has_room(demand.each):
                    return None
                instances.append(instance)
            instance.take(demand)
    return len(instances)


def _choose(instances: list[_Instance], demand: Demand) -> _Instance | None:
    open_ = [instance for instance in instances if instance.has_room(demand.each)]
    if not open_:
        return None
    if demand.spread:
        return min(open_, key=lambda instance: instance.copies.get(demand.name, 0))
    return min(open_, key=lambda instance: instance.free.memory_mb)
