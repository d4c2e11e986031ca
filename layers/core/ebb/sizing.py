"""Right-sizing: a stage's workload and the catalog in, the instance that does it on the least energy out."""

from collections.abc import Iterable
from dataclasses import dataclass

from ebb import carbon, catalog
from ebb.carbon import Band
from ebb.catalog import Instance
from ebb.errors import NoFeasibleInstanceError
from ebb.spec import PipelineSpec

MIB = 1024 * 1024
ESTIMATE_NOISE_SHARE = 0.10  # estimates closer than this are no difference: the cheaper one is taken


@dataclass(frozen=True)
class Workload:
    """What a stage is expected to need. Estimates: they choose the machine, they are never reported as measured."""

    cpu_s: float
    memory_gib: float
    parallel_share: float  # of cpu_s that more vCPUs shorten
    max_runtime_s: float


@dataclass(frozen=True)
class Choice:
    """The instance that was chosen, and why."""

    instance: Instance
    reason: str
    numbers: dict[str, float]
    alternatives: tuple[str, ...]


# Per stage: fixed CPU-seconds (start, imports), CPU-seconds and working memory per MiB of text data, parallel share.
# process: DuckDB was measured at 15 CPU-s for 1,157 MB of CSV, bounded at 1.1 GB; five passes of that kind, with room.
# The other stages are assumed, confidence low: what the jobs report afterwards stands in the ledger beside them.
_STAGE_NEEDS = {
    "process": (20.0, 0.10, 0.004, 0.85),
    "train": (60.0, 12.0, 0.012, 0.70),
    "compress": (60.0, 8.0, 0.012, 0.60),
    "compile": (40.0, 0.5, 0.008, 0.30),
}
_BASE_MEMORY_GIB = 2.5  # Python, torch and the operating system's share
_EXPANSION = {"csv": 1.0, "jsonl": 0.6, "parquet": 5.0}  # text-equivalent bytes per stored byte
_GZIP_EXPANSION = 5.0


def workload(stage: str, *, size_bytes: int, form: str, compressed: bool, max_runtime_s: float) -> Workload:
    """Return what one stage is expected to need for data of a size and format."""
    text_mib = size_bytes / MIB * _EXPANSION[form] * (_GZIP_EXPANSION if compressed else 1.0)
    fixed_s, per_mib_s, gib_per_mib, parallel = _STAGE_NEEDS[stage]
    return Workload(
        cpu_s=fixed_s + per_mib_s * text_mib,
        memory_gib=_BASE_MEMORY_GIB + gib_per_mib * text_mib,
        parallel_share=parallel,
        max_runtime_s=max_runtime_s,
    )


def duration_s(work: Workload, vcpu: int) -> float:
    """Return how long the work takes on some vCPUs.

        duration_s = cpu_s * (1 - p) + cpu_s * p / vcpu
    Source: Amdahl's law.
    """
    return work.cpu_s * (1 - work.parallel_share) + work.cpu_s * work.parallel_share / vcpu


def expected_energy_kwh(work: Workload, instance: Instance) -> float:
    """Return the energy that the work is expected to take on an instance, idle vCPUs and memory included."""
    seconds = duration_s(work, instance.vcpu)
    power = catalog.processor(instance.processor)
    busy = Band.exact(min(1.0, work.cpu_s / (seconds * instance.vcpu)))
    watts = carbon.processor_power_w(instance.vcpu, busy, idle_w=power.idle_w, max_w=power.max_w)
    return carbon.energy_kwh(
        watts,
        seconds,
        memory_gib=instance.memory_gib,
        memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(),
        pue=catalog.pue(),
    ).value


def choose(stage: str, work: Workload, offered: Iterable[Instance] | None = None) -> Choice:
    """Return the instance that finishes the work in time and in memory on the least energy, the cheapest when equal.

    Raises: NoFeasibleInstanceError when none does.
    """
    known = list(catalog.instances() if offered is None else offered)
    fitting = [
        each
        for each in known
        if each.memory_gib >= work.memory_gib and duration_s(work, each.vcpu) <= work.max_runtime_s
    ]
    if not fitting:
        raise NoFeasibleInstanceError(
            f"{stage} needs about {work.memory_gib:.0f} GiB and {work.cpu_s:.0f} CPU-seconds within "
            f"{work.max_runtime_s:.0f} s; no catalogued instance holds that: raise train.max_runtime or drop less data"
        )
    ranked = sorted(fitting, key=lambda each: (expected_energy_kwh(work, each), each.price_usd_per_hour.value))
    least = expected_energy_kwh(work, ranked[0])
    near = [each for each in ranked if expected_energy_kwh(work, each) <= least * (1 + ESTIMATE_NOISE_SHARE)]
    best = min(near, key=lambda each: each.price_usd_per_hour.value)
    others = [each for each in ranked if each is not best][:3]
    fit = f"of {len(fitting)} types with {work.memory_gib:.1f} GiB that finish in time"
    if best is ranked[0]:
        reason = f"least expected energy {fit}"
    else:
        leanest = f"{ranked[0].name}, {least * 1000:.3g} Wh"
        reason = f"cheapest of those within {ESTIMATE_NOISE_SHARE:.0%} of the least expected energy ({leanest}), {fit}"
    return Choice(
        best,
        reason,
        {
            "expected_cpu_s": round(work.cpu_s, 1),
            "expected_duration_s": round(duration_s(work, best.vcpu), 1),
            "expected_memory_gib": round(work.memory_gib, 2),
            "expected_energy_wh": round(expected_energy_kwh(work, best) * 1000, 4),
        },
        tuple(f"{each.name}: {expected_energy_kwh(work, each) * 1000:.3g} Wh expected" for each in others),
    )


def for_stage(stage: str, spec: PipelineSpec, *, size_bytes: int, form: str, compressed: bool) -> Choice:
    """Return the instance for one stage of a run: the one that the spec names for training, or the chosen one.

    Raises: NoFeasibleInstanceError when none fits.
    """
    max_runtime_s = spec.train.max_runtime.total_seconds()
    work = workload(stage, size_bytes=size_bytes, form=form, compressed=compressed, max_runtime_s=max_runtime_s)
    asked = spec.train.instance
    if asked == "auto" or stage not in ("train", "compress"):
        return choose(stage, work)
    named = next(each for each in catalog.instances() if each.name == asked)  # the spec was checked against the catalog
    return Choice(named, "named by train.instance in the spec", {"expected_cpu_s": round(work.cpu_s, 1)}, ())
