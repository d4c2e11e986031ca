"""Footprint: what a stage used, into kWh, gCO2e and USD; and what a million predictions of a model take."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ebb import carbon, catalog
from ebb.carbon import Band
from ebb.catalog import Instance
from ebb.spec_values import SERVERLESS_MEMORY_MB

# When a job reports no CPU time: half load as Cloud Carbon Footprint assumes, anything possible.
UNKNOWN_UTILIZATION = Band(0.0, 0.5, 1.0)
# Of an instance that is awake and mostly waits for calls. Assumed; Cloud Carbon Footprint's 50 % is for what works.
WAITING_UTILIZATION = Band(0.0, 0.1, 0.5)
MIB_PER_GIB = 1024
HEADROOM_MIB = 200  # for requests in flight, beside the measured resident size of model and server; assumed
PREDICTIONS = 1_000_000


@dataclass(frozen=True)
class Footprint:
    """Energy, carbon, cost and water of something, each with its band; of the carbon, what making the hardware took."""

    energy_kwh: Band
    carbon_g: Band  # of use and of making the hardware together
    cost_usd: Band
    water_l: Band = carbon.ZERO
    carbon_embodied_g: Band = carbon.ZERO

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Self:
        """Return a footprint that the ledger holds; of one from before water was counted, its water is reckoned now."""
        energy = Band.of(recorded["energy_kwh"])
        return cls(
            energy,
            Band.of(recorded["carbon_g"]),
            Band.of(recorded["cost_usd"]),
            Band.of(recorded["water_l"]) if recorded.get("water_l") else water_of(energy),
            Band.of(recorded["carbon_embodied_g"]) if recorded.get("carbon_embodied_g") else carbon.ZERO,
        )

    @property
    def carbon_operational_g(self) -> Band:
        """Return the carbon of the energy alone."""
        return carbon.difference(self.carbon_g, self.carbon_embodied_g)

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return the footprint as it stands in the ledger."""
        return {
            "energy_kwh": self.energy_kwh.as_dict(),
            "carbon_g": self.carbon_g.as_dict(),
            "cost_usd": self.cost_usd.as_dict(),
            "water_l": self.water_l.as_dict(),
            "carbon_embodied_g": self.carbon_embodied_g.as_dict(),
        }

    def __add__(self, other: "Footprint") -> "Footprint":
        return Footprint(
            self.energy_kwh + other.energy_kwh,
            self.carbon_g + other.carbon_g,
            self.cost_usd + other.cost_usd,
            self.water_l + other.water_l,
            self.carbon_embodied_g + other.carbon_embodied_g,
        )

    def __mul__(self, by: "Band | float") -> "Footprint":
        return Footprint(
            self.energy_kwh * by, self.carbon_g * by, self.cost_usd * by, self.water_l * by, self.carbon_embodied_g * by
        )


def made_of(energy: Band, embodied: Band, cost_usd: Band, *, region: str) -> Footprint:
    """Return the footprint of an amount of energy in a Region, with the carbon of the hardware that used it.

    carbon_g = energy_kwh * grid intensity of the Region + carbon_embodied_g
    """
    operational = carbon.operational_carbon_g(energy, catalog.grid_g_per_kwh(region))
    return Footprint(energy, operational + embodied, cost_usd, water_of(energy), embodied)


def water_of(energy: Band) -> Band:
    """Return the water that an amount of energy takes in AWS's data centres, in litres (`carbon.water_l`)."""
    return carbon.water_l(
        energy,
        pue=catalog.pue(),
        on_site_l_per_kwh=catalog.water_on_site_l_per_kwh(),
        electricity_l_per_kwh=catalog.water_of_electricity_l_per_kwh(),
    )


NOTHING = Footprint(carbon.ZERO, carbon.ZERO, carbon.ZERO)


def utilization(cpu_seconds: float | None, duration_s: float, vcpu: int) -> Band:
    """Return the mean load of a job's machine, from the CPU time that the job counted.

        utilization = cpu_seconds / (duration_s * vcpu), at most 1
    `vcpu` and `duration_s` are those of the machine and the time in which the CPU time was counted.
    """
    if cpu_seconds is None or duration_s <= 0 or vcpu < 1:
        return UNKNOWN_UTILIZATION
    return Band.exact(min(1.0, max(0.0, cpu_seconds / (duration_s * vcpu))))


def of_job(instance_type: str, *, duration_s: float, billable_s: float, load: Band, region: str) -> Footprint | None:
    """Return the footprint of one job's allocation; None when the catalog does not know its instance type.

    Energy is counted over `duration_s`, the time in which the machine ran for us; cost over `billable_s`.
    """
    machine = catalog.instance(instance_type)
    if machine is None:
        return None
    return _of_machine(machine, duration_s=duration_s, billable_s=billable_s, load=load, region=region)


def of_build(compute_type: str, *, duration_s: float, region: str) -> Footprint | None:
    """Return the footprint of one build in CodeBuild; None when the catalog does not know its compute type.

    Its load is not reported: anything possible.
    """
    machine = catalog.build_machine(compute_type)
    if machine is None:
        return None
    billed_s = billed_build_s(duration_s)
    return _of_machine(machine, duration_s=duration_s, billable_s=billed_s, load=UNKNOWN_UTILIZATION, region=region)


def billed_build_s(duration_s: float) -> float:
    """Return the seconds that CodeBuild bills: each begun minute. Source: https://aws.amazon.com/codebuild/pricing/."""
    return 60.0 * math.ceil(duration_s / 60)


def of_spark(worker_type: str, *, workers: int, duration_s: float, region: str, dpu_s: float = 0.0) -> Footprint | None:
    """Return the footprint of one run on Glue; None when the catalog does not know its worker type.

        dpu_s = workers * DPUs of a worker * duration_s, unless Glue counted it; billed for a minute at least
    Nothing reports the load of the workers: anything possible.
    Source: https://aws.amazon.com/glue/pricing/.
    """
    known = catalog.spark_worker(worker_type)
    if known is None:
        return None
    machine, dpu = known
    used_s = dpu_s or workers * dpu * duration_s
    billed_s = max(used_s, workers * dpu * catalog.spark_least_s())
    return _of_machine(machine, duration_s=used_s, billable_s=billed_s, load=UNKNOWN_UTILIZATION, region=region)


def _of_machine(machine: Instance, *, duration_s: float, billable_s: float, load: Band, region: str) -> Footprint:
    # no job reports the load of an accelerator: it may have idled or been full all the time
    watts = catalog.power_w(machine, processors=load, accelerators=UNKNOWN_UTILIZATION)
    energy = carbon.energy_kwh(
        watts,
        duration_s,
        memory_gib=machine.memory_gib,
        memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(),
        pue=catalog.pue(),
    )
    embodied = carbon.embodied_carbon_g(machine.vcpu, duration_s, catalog.embodied_g_per_vcpu_hour())
    if machine.accelerator:
        each = catalog.embodied_g_per_accelerator_hour()
        embodied += carbon.embodied_carbon_g(machine.accelerator.count, duration_s, each)
    return made_of(energy, embodied, machine.price_usd_per_hour * (billable_s / 3600), region=region)


def of_serverless(seconds: float, *, memory_mb: float, region: str) -> Footprint:
    """Return the footprint of the time in which requests held a serverless endpoint's memory.

        energy_kwh = (vcpu * (idle_w + load * (max_w - idle_w)) / 1000 + memory_gib * kwh_per_gib_hour) * hours * PUE
        cost_usd   = seconds * memory_gib * usd_per_gib_second
    Nothing reports the load of its vCPUs: anything possible. What AWS keeps warm between requests is not told either,
    and not billed: not counted.
    """
    gib, price, each = memory_mb / MIB_PER_GIB, catalog.serverless(), catalog.processor("serverless")
    vcpu = Band(gib / price.gib_per_vcpu.high, gib / price.gib_per_vcpu.value, gib / price.gib_per_vcpu.low)
    one = carbon.processor_power_w(1, UNKNOWN_UTILIZATION, idle_w=each.idle_w, max_w=each.max_w)
    energy = carbon.energy_kwh(
        one * vcpu,
        seconds,
        memory_gib=gib,
        memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(),
        pue=catalog.pue(),
    )
    embodied = catalog.embodied_g_per_vcpu_hour() * vcpu * (seconds / 3600)
    return made_of(energy, embodied, price.usd_per_gib_second * (gib * seconds), region=region)


def serverless_memory_mb(model_memory_mib: float, asked_mb: int | None = None) -> int:
    """Return the memory size of a serverless endpoint for a model: the asked one, or the smallest that holds it.

    Raises: ValueError when the largest size does not hold it.
    """
    if asked_mb is not None:
        return asked_mb
    needed = model_memory_mib + HEADROOM_MIB
    fitting = next((size for size in SERVERLESS_MEMORY_MB if size >= needed), None)
    if fitting is None:
        raise ValueError(
            f"a serverless endpoint holds at most {SERVERLESS_MEMORY_MB[-1]} MB, the model needs {needed:.0f}"
        )
    return fitting


def is_timed(measure: Mapping[str, Any]) -> bool:
    """Return whether it is known how long a model takes; of one that is served as it is nobody has asked anything."""
    return bool(measure.get("end_to_end_latency_ms") or measure.get("latency_ms"))


def answering_ms(measure: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the latency that a caller waits for, from a raw row to the answer; the network's alone when not measured.

    Reading and encoding a row take longer than a small network does, and are billed like it.
    """
    return measure.get("end_to_end_latency_ms") or measure["latency_ms"]


def per_million_predictions(measure: Mapping[str, Any], *, region: str, memory_mb: int | None = None) -> Footprint:
    """Return what a million single predictions take on a serverless endpoint, from what was measured of a model.

        energy_kwh = (cpu_s * watts_per_vcpu_at_full_load / 1000 + memory_gib * kwh_per_gib_hour * seconds) / 3600 * PUE
        cost_usd   = seconds, rounded up to a millisecond each, * memory_gib * usd_per_gib_second
    The median from a raw row to the answer is the time that a request occupies its allocation. The HTTP request itself,
    cold starts and data transfer are the same for every model and are not counted. A model that no serverless endpoint
    holds is counted in the largest one: an original may be that large, and is compared only.
    """
    answer_ms = float(answering_ms(measure)["p50"])
    seconds = answer_ms / 1000 * PREDICTIONS
    cpu_s = float(measure["cpu_ms_per_prediction"]) / 1000 * PREDICTIONS
    billed_s = math.ceil(max(answer_ms, 0.001)) / 1000 * PREDICTIONS
    most_mib = float(SERVERLESS_MEMORY_MB[-1] - HEADROOM_MIB)
    size_mb = serverless_memory_mb(min(float(measure["memory_mib"]), most_mib), memory_mb)
    gib = size_mb / MIB_PER_GIB
    power, price = catalog.processor("serverless"), catalog.serverless()
    busy = carbon.energy_kwh(
        power.max_w, cpu_s, memory_gib=0, memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(), pue=catalog.pue()
    )
    kept = carbon.energy_kwh(
        carbon.ZERO,
        seconds,
        memory_gib=gib,
        memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(),
        pue=catalog.pue(),
    )
    energy = busy + kept
    # The allocation's share of a server is what its memory brings in vCPUs; more GiB per vCPU means fewer of them.
    vcpu = Band(gib / price.gib_per_vcpu.high, gib / price.gib_per_vcpu.value, gib / price.gib_per_vcpu.low)
    embodied = catalog.embodied_g_per_vcpu_hour() * vcpu * (seconds / 3600)
    return made_of(energy, embodied, price.usd_per_gib_second * (gib * billed_s), region=region)


def sum_of(recorded: Iterable[Mapping[str, Any]]) -> Footprint:
    """Return the sum of footprints as the ledger holds them."""
    return sum(map(Footprint.of, recorded), start=NOTHING)
