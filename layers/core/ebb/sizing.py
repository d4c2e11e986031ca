"""Right-sizing: a stage's workload and the catalog in, the instance that does it on the least energy out."""

from collections.abc import Collection, Iterable
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


@dataclass(frozen=True)
class _Needs:
    """What a stage needs: CPU-seconds to start and per MiB, working memory per MiB, the share that runs in parallel."""

    fixed_s: float
    s_per_mib: float
    gib_per_mib: float
    parallel_share: float


# Per MiB of text of a table.
# process: DuckDB was measured at 15 CPU-s for 1,157 MB of CSV, bounded at 1.1 GB; five passes of that kind, with room.
# The other stages are assumed, confidence low: what the jobs report afterwards stands in the ledger beside them.
_TABLE = {
    "process": _Needs(20.0, 0.10, 0.004, 0.85),
    "train": _Needs(60.0, 12.0, 0.012, 0.70),
    "compress": _Needs(60.0, 8.0, 0.012, 0.60),
    "compile": _Needs(40.0, 0.5, 0.008, 0.30),
}
# Per MiB of packed images (PNG, JPEG) and of texts to classify. Assumed, confidence low: a network that looks at every
# pixel or word for many epochs takes far longer a MiB than one that looks at the columns of a table.
_IMAGES = {
    "process": _Needs(20.0, 1.0, 0.006, 0.85),
    "train": _Needs(60.0, 40.0, 0.010, 0.85),
    "compress": _Needs(90.0, 60.0, 0.010, 0.80),
    "compile": _Needs(90.0, 2.0, 0.008, 0.30),
}
_TEXTS = {
    "process": _Needs(20.0, 0.20, 0.008, 0.85),
    "train": _Needs(60.0, 60.0, 0.020, 0.80),
    "compress": _Needs(60.0, 40.0, 0.020, 0.75),
    "compile": _Needs(60.0, 1.0, 0.010, 0.30),
}
_BY_TASK = {"image-classification": _IMAGES, "text-classification": _TEXTS, "custom": _IMAGES}
_BASE_MEMORY_GIB = 2.5  # Python, torch and the operating system's share
# Bytes to count per stored byte: of text as a table holds it, or of the images as they came. An archive is counted as
# images, which hardly shrink; a packed table in one is then underrated.
_EXPANSION = {"csv": 1.0, "jsonl": 0.6, "parquet": 5.0, "archive": 1.0, "images": 1.0, "script": 1.0}
_GZIP_EXPANSION = 5.0


def workload(
    stage: str, *, size_bytes: int, form: str, compressed: bool, max_runtime_s: float, task: str | None = None
) -> Workload:
    """Return what one stage is expected to need for data of a size and format; a task that is not known is guessed."""
    needs = _BY_TASK.get(task or "", _IMAGES if task is None and form in ("archive", "images", "script") else _TABLE)
    packed_text = compressed and form not in ("archive", "images", "script")
    mib = size_bytes / MIB * _EXPANSION[form] * (_GZIP_EXPANSION if packed_text else 1.0)
    return Workload(
        cpu_s=needs[stage].fixed_s + needs[stage].s_per_mib * mib,
        memory_gib=_BASE_MEMORY_GIB + needs[stage].gib_per_mib * mib,
        parallel_share=needs[stage].parallel_share,
        max_runtime_s=max_runtime_s,
    )


def duration_s(work: Workload, processors: float) -> float:
    """Return how long the work takes on some vCPUs, accelerators counted as the vCPUs that they stand for.

        duration_s = cpu_s * (1 - p) + cpu_s * p / processors
    Source: Amdahl's law.
    """
    return work.cpu_s * (1 - work.parallel_share) + work.cpu_s * work.parallel_share / processors


def processors_of(instance: Instance) -> float:
    """Return how many vCPUs' work an instance does in parallel."""
    device = instance.accelerator
    return instance.vcpu + (device.count * device.worth_vcpu.value if device else 0)


def expected_energy_kwh(work: Workload, instance: Instance) -> float:
    """Return the energy that the work is expected to take on an instance, idle vCPUs and memory included."""
    processors = processors_of(instance)
    seconds = duration_s(work, processors)
    busy = Band.exact(min(1.0, work.cpu_s / (seconds * processors)))
    return carbon.energy_kwh(
        catalog.power_w(instance, processors=busy, accelerators=busy),
        seconds,
        memory_gib=instance.memory_gib,
        memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(),
        pue=catalog.pue(),
    ).value


def choose(
    stage: str, work: Workload, offered: Iterable[Instance] | None = None, *, accelerators: Collection[str] = ()
) -> Choice:
    """Return the instance that finishes the work in time and in memory on the least energy, the cheapest when equal.

    One with an accelerator, of a kind in `accelerators`, is taken only when none without finishes in time: how much one
    speeds up a small network is not known before, and how much it draws is known badly.
    Raises: NoFeasibleInstanceError when none does.
    """
    known = list(catalog.instances() if offered is None else offered)
    able = [
        each
        for each in known
        if each.memory_gib >= work.memory_gib and duration_s(work, processors_of(each)) <= work.max_runtime_s
    ]
    plain = [each for each in able if each.accelerator is None]
    fitting = plain or [each for each in able if each.accelerator and each.accelerator.kind in accelerators]
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
    if best.accelerator:
        reason += "; no instance without an accelerator does"
    return Choice(
        best,
        reason,
        {
            "expected_cpu_s": round(work.cpu_s, 1),
            "expected_duration_s": round(duration_s(work, processors_of(best)), 1),
            "expected_memory_gib": round(work.memory_gib, 2),
            "expected_energy_wh": round(expected_energy_kwh(work, best) * 1000, 4),
        },
        tuple(f"{each.name}: {expected_energy_kwh(work, each) * 1000:.3g} Wh expected" for each in others),
    )


def for_stage(
    stage: str,
    spec: PipelineSpec,
    *,
    size_bytes: int,
    form: str,
    compressed: bool,
    task: str | None = None,
    accelerators: Collection[str] = catalog.ACCELERATOR_KINDS,
) -> Choice:
    """Return the instance for one stage of a run: the one that the spec names for training, or the chosen one.

    Only train and compress run networks on an accelerator; what compile measures is what the endpoint has, a CPU.
    Raises: NoFeasibleInstanceError when none fits.
    """
    trains = stage in ("train", "compress")
    work = workload(
        stage,
        size_bytes=size_bytes,
        form=form,
        compressed=compressed,
        max_runtime_s=spec.train.max_runtime.total_seconds(),
        task=task or spec.task,
    )
    asked = spec.train.instance
    if asked == "auto" or not trains:
        return choose(stage, work, accelerators=accelerators if trains else ())
    named = next(each for each in catalog.instances() if each.name == asked)  # the spec was checked against the catalog
    return Choice(named, "named by train.instance in the spec", {"expected_cpu_s": round(work.cpu_s, 1)}, ())
