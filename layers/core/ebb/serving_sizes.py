"""The sizes of what serves a model: instance types and how many, a copy's share of one, the most memory."""

import math

from ebb import catalog
from ebb.catalog import Instance
from ebb.serving_model import MIB_PER_GIB, Model
from ebb.spec_serve import ServeSpec
from ebb.spec_values import SERVERLESS_MEMORY_MB
from ebb.traffic import Traffic

LEAST_CONCURRENCY = 5  # of a serverless endpoint
COPIES_WHEN_HIGH = 2
COMPONENT_LEAST_MB = 128  # InferenceComponentComputeResourceRequirements.MinMemoryRequiredInMb


def machines_for(
    model: Model, traffic: Traffic, serve: ServeSpec, *, others_mib: float = 0.0
) -> list[tuple[Instance, int]]:
    """Return the instance types that hold the model and its busiest hour, with how many of each, the cheapest first.

        copies = rate of the busiest hour * processor time of an answer / (busy_share * vCPUs)
    Above `busy_share` a waiting line would show in the p95. Only memory limits a shared endpoint's choice: what the
    others ask for is not known. Where some types were measured (`recommended`), a measured rate takes the place of the
    estimate, types that answered nothing within the limit are left out, and those that were not measured come last.
    """
    facts, rates = catalog.waking(), dict(model.per_s_of)
    offered = [each for each in catalog.hosting() if each.serves_ebb and serve.instance in ("auto", each.name)]
    cores = traffic.busiest_per_s * model.busy_s.value
    found = []
    for machine in offered:
        usable_mib = machine.memory_gib * MIB_PER_GIB * facts.usable_memory_share
        rate = rates.get(machine.name)
        if rate != 0.0 and model.needed_mib + others_mib <= usable_mib:
            copies = cores / machine.vcpu if rate is None else traffic.busiest_per_s / rate
            found.append((machine, max(1, math.ceil(copies / facts.busy_share))))
    return sorted(
        found,
        key=lambda each: (
            bool(rates) and each[0].name not in rates,
            each[1] * each[0].price_usd_per_hour.value,
            each[1],
        ),
    )


def most_memory_mib(serve: ServeSpec, *, serverless: bool) -> float:
    """Return the memory of the largest container that the spec allows, on a serverless endpoint or on an instance."""
    if serverless:
        return float(serve.memory_mb or SERVERLESS_MEMORY_MB[-1])
    offered = (each for each in catalog.hosting() if each.serves_ebb and serve.instance in ("auto", each.name))
    return max(each.memory_gib for each in offered) * MIB_PER_GIB * catalog.waking().usable_memory_share


def component_vcpu(model: Model, traffic: Traffic, machine: Instance, copies: int, *, shared: bool) -> float:
    """Return the processors to reserve for a copy: alone all but what SageMaker keeps, shared what it is busy with."""
    if not shared:
        return float(max(1, machine.vcpu - 1))
    busy = traffic.busiest_per_s * model.busy_s.value / catalog.waking().busy_share / copies
    return min(float(machine.vcpu), max(0.25, math.ceil(busy * 4) / 4))
