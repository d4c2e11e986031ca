"""Right-sizing: a stage's workload and the catalog in, the instance that does it on the least energy out."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from ebb import carbon, catalog
from ebb.carbon import Band
from ebb.catalog import Instance
from ebb.errors import NoFeasibleInstanceError
from ebb.spec import PipelineSpec

MIB = 1024 * 1024
TRAINING = ("train", "compress")  # what train.instance names a machine for
ESTIMATE_NOISE_SHARE = 0.10  # estimates closer than this are no difference: the cheaper one is taken


@dataclass(frozen=True)
class Workload:
    """What a stage is expected to need. Estimates: they choose the machine, they are never reported as measured."""

    cpu_s: float
    memory_gib: float
    parallel_share: float  # of cpu_s that more vCPUs shorten
    max_runtime_s: float
    wait_s: float = 0.0  # what it waits for data, however many vCPUs there are


@dataclass(frozen=True)
class Finding:
    """What the last run of a stage shows that its machine was not used for, and what is done about it."""

    what: str
    cause: str
    remedy: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """The instance that was chosen, and why; what the last run showed, and how many workers get its data ready."""

    instance: Instance
    reason: str
    numbers: dict[str, float]
    alternatives: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    workers: int = 0
    otherwise: tuple[str, ...] = ()  # types to try in this order when there is none of the chosen one


@dataclass(frozen=True)
class Data:
    """What is known of a run's data before any job: all that an estimate may look at."""

    size_bytes: int  # as it is stored
    form: str  # `ebb.steps.Format`
    compressed: bool = False
    task: str | None = None  # as far as it is known
    content: str | None = None  # what an archive holds, as its directory tells it
    example_count: int | None = None  # of pictures, where names tell how many there are
    unpacked_bytes: int | None = None  # of archives, as their directories tell it
    learn_share: float = 1.0  # of a table's rows, what is left of them after `process` (`thinned`)


@dataclass(frozen=True)
class _Needs:
    """What a stage needs: CPU-seconds to start, then time and memory by size, the share that runs in parallel."""

    fixed_s: float
    s_per_mib: float
    gib_per_mib: float
    parallel_share: float
    s_per_mpx: float = 0.0  # of pictures after `process`
    gib_per_mpx: float = 0.0


# Per MiB of text of a table.
# process: five passes of the 15 CPU-s that DuckDB was measured at for 1,157 MB of CSV, with room. Its memory is bounded
# whatever the size (`ebb_jobs.tables.connect`): what does not fit is sorted on the volume.
# The other stages are assumed, confidence low: what the jobs report afterwards stands in the ledger beside them.
_TABLE = {
    "process": _Needs(20.0, 0.10, 0.0, 0.85),
    "train": _Needs(60.0, 12.0, 0.012, 0.70),
    "compress": _Needs(60.0, 8.0, 0.012, 0.60),
    "compile": _Needs(40.0, 0.5, 0.008, 0.30),
}
# Per MiB of texts to classify. train: 5,000 mails, some 8 MiB, were measured at about a minute of two cores, confidence
# low; the rest is assumed.
_TEXTS = {
    "process": _Needs(20.0, 0.20, 0.008, 0.85),
    "train": _Needs(30.0, 12.0, 0.020, 0.80),
    "compress": _Needs(60.0, 12.0, 0.020, 0.75),
    "compile": _Needs(60.0, 1.0, 0.010, 0.30),
}
# Per million pixels that `process` leaves, for that is what is trained on; their packed bytes only have to be decoded.
# train: 3,430 digits of 28 x 28 for 18 epochs were measured at 60 to 90 CPU-s on two cores, confidence low; the rest is
# assumed. Memory: three bytes a pixel, twice.
_PICTURES = {
    "process": _Needs(20.0, 0.10, 0.0, 0.85, 1.0, 0.006),
    "train": _Needs(20.0, 0.0, 0.0, 0.85, 20.0, 0.006),
    "compress": _Needs(60.0, 0.0, 0.0, 0.80, 30.0, 0.006),
    "compile": _Needs(90.0, 0.0, 0.0, 0.30, 1.5, 0.006),
}
# Of a script nothing is known: its time is not judged, and it may hold its data in memory, with as much again.
_SCRIPT = {
    "process": _Needs(20.0, 0.10, 0.0, 0.85),
    "train": _Needs(60.0, 0.0, 0.002, 0.85),
    "compress": _Needs(60.0, 0.0, 0.0, 0.75),
    "compile": _Needs(60.0, 0.0, 0.0, 0.30),
}
_BASE_MEMORY_GIB = 2.5  # Python, torch and the operating system's share
# Bytes of text to count per stored byte of a table.
_EXPANSION = {"csv": 1.0, "jsonl": 0.6, "parquet": 5.0}
_PACKED_EXPANSION = 5.0  # of gzip and archives
# Pictures that nobody has counted. Assumed, confidence low.
_BYTES_PER_PICTURE = 8 * 1024
_MOST_UNCOUNTED = 50_000
# Pixels after `process` per packed byte of a picture. A digit of 28 x 28 takes 300 bytes as PNG, a photograph of
# 96 x 96 (the most that is left of any) 4 KB as JPEG.
_PIXELS_PER_BYTE = 2.5
_PIXELS = (28 * 28, 96 * 96)
_BASE_VOLUME_GIB = 10
_VOLUME_FACTOR = 5  # the data as it came, out of its archives, curated, and room to sort on disk
# What an archive may unpack to: `ebb_jobs.archives` allows no more, and tables shrink by less.
_MOST_UNPACKED_BYTES = 20 * 1024**3
_MOST_UNPACKED_RATIO = 20


def workload(stage: str, data: Data, *, max_runtime_s: float) -> Workload:
    """Return what one stage is expected to need for its data; what an archive holds is guessed when it is not known."""
    kinds = {"script": _SCRIPT, "pictures": _PICTURES, "texts": _TEXTS, "table": _TABLE}
    kind = _kind(data)
    needs = kinds[kind][stage]
    mib, mpx = _extent(read_by(stage, data))
    cpu_s = needs.fixed_s + needs.s_per_mib * mib + needs.s_per_mpx * mpx
    return Workload(
        cpu_s=min(cpu_s, max_runtime_s) if kind == "script" else cpu_s,
        memory_gib=_BASE_MEMORY_GIB + needs.gib_per_mib * mib + needs.gib_per_mpx * mpx,
        parallel_share=needs.parallel_share,
        max_runtime_s=max_runtime_s,
    )


def growth(stage: str, now: Data, then: Data) -> float | None:
    """Return how many times as much a stage has to read as it had; None when the two are of different kinds."""
    if _kind(now) != _kind(then):
        return None
    (mib, mpx), (mib_then, mpx_then) = (_extent(read_by(stage, data)) for data in (now, then))
    return mpx / mpx_then if mpx_then else mib / max(mib_then, 1 / MIB)


def read_by(stage: str, data: Data) -> Data:
    """Return the data as a stage finds it: after `process` what it left of the rows."""
    if stage == "process" or data.learn_share >= 1:
        return data
    return replace(data, size_bytes=int(data.size_bytes * data.learn_share), learn_share=1.0)


def thinned(data: Data, spec: PipelineSpec) -> Data:
    """Return the data with the share of its rows that the largest machine holds; only tables can be thinned out.

    A machine that the spec names for training is taken as it is: who names it knows what it holds.
    """
    known = replace(data, task=data.task or spec.task)
    if not is_plain_table(data, spec.task):
        return data
    stages = ("compile",) if spec.train.instance != "auto" else (*TRAINING, "compile")
    limits = [limit for limit in (largest_text_gib(stage, known) for stage in stages) if limit is not None]
    text_gib = text_bytes(data) / 1024**3
    if not limits or text_gib <= min(limits):
        return data
    return replace(data, learn_share=math.floor(min(limits) / text_gib * 10_000) / 10_000)


def _extent(data: Data) -> tuple[float, float]:
    """Return what an estimate multiplies: MiB of text or of what a script reads, and million pixels."""
    kind = _kind(data)
    if kind in ("texts", "table"):
        return text_bytes(data) / MIB, 0.0
    mib = (unpacked_bytes(data) if kind == "script" else data.size_bytes) / MIB
    return mib, _pixels(data) / 1e6 if kind == "pictures" else 0.0


def unpacked_bytes(data: Data) -> int:
    """Return how much room the data takes on disk once archives are unpacked; the most that is likely, if not known."""
    if data.form != "archive":
        return data.size_bytes
    if data.unpacked_bytes is not None:
        return data.unpacked_bytes
    return max(data.size_bytes, min(data.size_bytes * _MOST_UNPACKED_RATIO, _MOST_UNPACKED_BYTES))


def volume_gib(data: Data) -> int:
    """Return how large a volume every stage gets: `process` writes a table as text to it before it knows the types."""
    most = max(unpacked_bytes(data), text_bytes(data)) if _kind(data) in ("texts", "table") else unpacked_bytes(data)
    return _BASE_VOLUME_GIB + math.ceil(_VOLUME_FACTOR * most / 1024**3)


def machines(stage: str, spec: PipelineSpec) -> int:
    """Return how many machines share the work of a stage; memory and what is expected are each one's."""
    return spec.train.instances if stage == "train" else 1


def trains_itself(spec: PipelineSpec, data: Data) -> bool:
    """Tell whether a script of the user's own trains."""
    return bool(spec.asks_for_script) or _kind(replace(data, task=data.task or spec.task)) == "script"


def is_plain_table(data: Data, task: str | None) -> bool:
    """Return whether the data are files of tables, as they are, to be learned as tables."""
    return data.form in _EXPANSION and _kind(replace(data, task=task or data.task)) == "table"


def _kind(data: Data) -> str:
    form = data.content or data.form
    if data.task == "custom" or form == "script":
        return "script"
    if data.task == "image-classification" or form == "images":
        return "pictures"
    if data.task == "text-classification":
        return "texts"
    # Of an archive that nobody has looked into: pictures are what is mostly packed.
    return "pictures" if form == "archive" and data.task is None else "table"


def text_bytes(data: Data) -> float:
    """Return how many bytes of text a table holds."""
    expansion = _EXPANSION.get(data.content or data.form, 1.0)
    if data.form != "archive":
        return data.size_bytes * expansion * (_PACKED_EXPANSION if data.compressed else 1.0)
    if data.unpacked_bytes is not None:
        return data.unpacked_bytes * expansion
    return min(data.size_bytes * _PACKED_EXPANSION, float(_MOST_UNPACKED_BYTES)) * expansion


def _pixels(data: Data) -> float:
    """Return how many pixels `process` leaves to train on."""
    count = data.example_count or min(max(1, data.size_bytes // _BYTES_PER_PICTURE), _MOST_UNCOUNTED)
    fewest, most = _PIXELS
    return count * min(max(data.size_bytes / count * _PIXELS_PER_BYTE, fewest), most)


def duration_s(work: Workload, processors: float) -> float:
    """Return how long the work takes on some vCPUs, accelerators counted as the vCPUs that they stand for.

        duration_s = wait_s + cpu_s * (1 - p) + cpu_s * p / processors
    Source: Amdahl's law.
    """
    return work.wait_s + work.cpu_s * (1 - work.parallel_share) + work.cpu_s * work.parallel_share / processors


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
    speeds up a small network is not known before, and how much it draws is known badly. When by the estimate none at
    all finishes in time, the fastest is taken: an estimate refuses nothing, the job's time limit judges.
    Raises: NoFeasibleInstanceError when none holds the memory.
    """
    holding = [
        each
        for each in (catalog.instances() if offered is None else offered)
        if each.memory_gib >= work.memory_gib and (each.accelerator is None or each.accelerator.kind in accelerators)
    ]
    if not holding:
        otherwise = ", or name an instance with train.instance" if stage in TRAINING else ""
        raise NoFeasibleInstanceError(
            f"{stage} needs about {work.memory_gib:.0f} GiB of memory, and no catalogued instance has that much",
            f"drop less data{otherwise}",
        )
    in_time = [each for each in holding if duration_s(work, processors_of(each)) <= work.max_runtime_s]
    fitting = [each for each in in_time if each.accelerator is None] or in_time
    return _leanest(work, fitting) if fitting else _fastest(work, holding)


def _leanest(work: Workload, fitting: list[Instance]) -> Choice:
    """Return the least expected energy, or the cheapest of those that take no more as far as estimates tell."""
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
    return explained(work, best, reason, others)


def _fastest(work: Workload, holding: list[Instance]) -> Choice:
    """Return the fastest, or the cheapest of those that are as fast as far as estimates tell."""
    took = {each.name: duration_s(work, processors_of(each)) for each in holding}
    least_s = min(took.values())
    near = [each for each in holding if took[each.name] <= least_s * (1 + ESTIMATE_NOISE_SHARE)]
    best = min(near, key=lambda each: each.price_usd_per_hour.value)
    others = sorted((each for each in holding if each is not best), key=lambda each: took[each.name])[:3]
    reason = (
        f"fastest of {len(holding)} types with {work.memory_gib:.1f} GiB: by the estimate none finishes within the "
        f"{work.max_runtime_s:.0f} s of train.max_runtime, which may be too short, or the estimate too high"
    )
    return explained(work, best, reason, others)


def explained(work: Workload, best: Instance, reason: str, others: list[Instance]) -> Choice:
    """Return the choice of an instance with what is expected of it and of those that were not taken."""
    energies = {each.name: expected_energy_kwh(work, each) * 1000 for each in (best, *others)}
    alike = [each.name for each in others if _kind_of(each) == _kind_of(best) and each.memory_gib >= work.memory_gib]
    return Choice(
        best,
        reason,
        {
            "expected_cpu_s": round(work.cpu_s, 1),
            "expected_duration_s": round(duration_s(work, processors_of(best)), 1),
            "expected_memory_gib": round(work.memory_gib, 2),
            "expected_energy_wh": round(energies[best.name], 4),
        },
        tuple(f"{each.name}: {energies[each.name]:.3g} Wh expected" for each in others),
        otherwise=tuple(alike),
    )


def _kind_of(instance: Instance) -> str | None:
    """Return what a type's image has to drive: a job can move to types of the same kind only."""
    return instance.accelerator.kind if instance.accelerator else None


def largest_text_gib(stage: str, data: Data) -> int | None:
    """Return how much text of the data's kind the largest machine holds for a stage; None of what is no text.

    (its memory - what a stage takes by itself) / what it takes per GiB, rounded down
    """
    needs = {"texts": _TEXTS, "table": _TABLE}.get(_kind(data), {}).get(stage)
    if needs is None or not needs.gib_per_mib:
        return None
    largest_gib = max(each.memory_gib for each in catalog.instances() if each.accelerator is None)
    return int((largest_gib - _BASE_MEMORY_GIB) / needs.gib_per_mib / 1024)


def for_stage(
    stage: str,
    spec: PipelineSpec,
    data: Data,
    *,
    accelerators: Collection[str] = catalog.ACCELERATOR_KINDS,
) -> Choice:
    """Return the instance for one stage of a run: the one that the spec names for training, or the chosen one.

    Only train and compress run networks on an accelerator; what compile measures is what the endpoint has, a CPU.
    Raises: NoFeasibleInstanceError when none holds the memory.
    """
    trains = stage in TRAINING
    known = replace(data, task=data.task or spec.task)
    work = workload(stage, known, max_runtime_s=spec.train.max_runtime.total_seconds())
    work = replace(work, cpu_s=work.cpu_s / machines(stage, spec))
    asked = spec.train.instance
    if asked == "auto" or not trains:
        try:
            return choose(stage, work, accelerators=accelerators if trains else ())
        except NoFeasibleInstanceError as error:
            limit_gib = largest_text_gib(stage, known)
            if limit_gib is None:
                raise
            raise NoFeasibleInstanceError(
                f"{error.what}: the largest holds {limit_gib} GiB of text", error.remedy
            ) from error
    named = next(each for each in catalog.instances() if each.name == asked)  # the spec was checked against the catalog
    return explained(work, named, "named by train.instance in the spec", [])
