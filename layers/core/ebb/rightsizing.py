"""Right-sizing from the second run on: what the last run of a stage was measured to use, and the machine for the next.

Before a project's first run only estimates choose (`sizing`); afterwards its own CPU time, memory, waiting for data and
accelerator load do, scaled by how much the data grew, as long as the spec asks for the same work as it did then. What
the last machine was not used for is named as a finding, with its cause and what is done about it.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ebb import catalog, sizing
from ebb.catalog import Instance
from ebb.sizing import TRAINING, Choice, Data, Finding, Workload
from ebb.spec import PipelineSpec

OVERSIZED, UNDERSIZED, INPUT_BOUND, IDLE_ACCELERATOR = "oversized", "undersized", "input-bound", "idle accelerator"
MEMORY_HEADROOM = 1.25  # of the measured peak, which is that of the largest process alone; assumed
BASE_MEMORY_GIB = 1.0  # the operating system and SageMaker's agent; assumed
WAITING_SHARE = 0.30  # of the training loop, from which a job is called input-bound; assumed
IDLE_SHARE = 0.30  # of an accelerator's time, below which it is called idle; assumed
UNKNOWN_LOAD = 0.5  # of an accelerator that nobody watched; assumed
SAVING_SHARE = 0.10  # another machine must be cheaper by so much: less is within the noise of two runs
MOST_WORKERS = 8  # beyond that threads wait for each other; assumed
MOST_PARALLEL = 0.95  # what a measurement of one run may claim to be parallel
# Of `train` in the spec: on what and how long it may run. All else there shapes the work.
_NOT_THE_WORK = ("instance", "instances", "spot", "max_runtime", "checkpoints")


@dataclass(frozen=True)
class Measured:
    """What a stage used in the last run of its project; sums are over all of its machines."""

    run_id: str
    instance_type: str
    duration_s: float  # of the job's own work, without the machine's start and downloads
    billable_s: float
    vcpu: int
    cpu_s: float
    peak_memory_gib: float  # of the machine that held most
    data: Data
    instances: int = 1
    loop_s: float = 0.0  # of the training loop
    wait_s: float = 0.0  # of these, how long it waited for its data
    workers: int = 0  # that made the data ready beside the loop
    gpu_share: float | None = None  # of the accelerators' time, in which they computed
    gpu_memory_gib: float | None = None
    asked: str = ""  # what shaped the work, as `asked` tells it
    settled: bool = False  # no dearer recipe than those that were measured can come next time

    @property
    def load(self) -> float:
        """Return the share of the processors' time that was used."""
        return min(1.0, self.cpu_s / max(self.duration_s * self.vcpu, 1e-9))

    @property
    def wait_share(self) -> float:
        """Return the share of the training loop that was spent waiting for data."""
        return self.wait_s / self.loop_s if self.loop_s else 0.0


def asked(stage: str, spec: PipelineSpec) -> str:
    """Return as JSON what of a spec shapes a stage's work; `process` takes the memory that is there, whatever is asked.

    Of several machines it matters only whether there are any: they train networks alone. Not seen: another release of
    Ebb, and a script that comes with the data under the same name.
    """
    if stage == "process":
        return "{}"
    said = spec.resolved()
    work = {f"train.{name}": value for name, value in said["train"].items() if name not in _NOT_THE_WORK}
    work |= {"task": said["task"], "train.instances": spec.train.instances > 1}
    if stage != "train":
        work |= {f"compress.{name}": value for name, value in said["compress"].items()}
    return json.dumps(work, sort_keys=True)


def _differs(then: str, now: str) -> list[str]:
    """Return the fields of the spec in which the work of two runs differs."""
    before, after = json.loads(then or "null"), json.loads(now)
    if before is None:
        return ["what it was asked for is not known"]
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _settled(stages: Sequence[Mapping[str, Any]], spec: PipelineSpec) -> dict[str, bool]:
    """Return by stage whether the next run of the same spec can try no dearer recipe than this one did.

    `train` may climb on where the ladder ended early; what follows it works on the recipe that won, which can be
    another unless there was only one. Of a script nothing is known, and a search may find a larger network.
    """
    report = next((each.get("report") or {} for each in stages if each.get("stage") == "train"), {})
    whole = report.get("rungs_untried") == [] and spec.train.tune is None
    alone = whole and len(report.get("rungs") or ()) == 1
    return {"process": True, "train": whole, "compress": alone, "compile": alone}


def remembered(
    run_id: str, stages: Sequence[Mapping[str, Any]], data: Mapping[str, Any] | None, spec: PipelineSpec
) -> dict[str, dict[str, Any]]:
    """Return what a project remembers of a run's stages; of one that did not report what it used, nothing."""
    if not data:
        return {}
    found = {}
    settled = _settled(stages, spec)
    for stage in stages:
        report = stage.get("report") or {}
        used = [stage.get("cpu_seconds"), report.get("peak_rss_mib"), report.get("duration_s"), report.get("vcpu")]
        if stage.get("status") != "finished" or not all(used):
            continue
        loop, gpu = report.get("feed") or {}, report.get("gpu") or {}
        memory_mib = gpu.get("peak_memory_mib")
        found[str(stage["stage"])] = {
            "run_id": run_id,
            "instance_type": stage.get("instance_type"),
            "instances": int(report.get("instances") or 1),
            "duration_s": float(report["duration_s"]),
            "billable_s": float(stage.get("billable_s") or report["duration_s"]),
            "vcpu": int(report["vcpu"]),
            "cpu_s": float(stage["cpu_seconds"]),
            "peak_memory_gib": float(report["peak_rss_mib"]) / 1024,
            "loop_s": float(loop.get("loop_s") or 0.0),
            "wait_s": float(loop.get("wait_s") or 0.0),
            "workers": int(loop.get("workers") or 0),
            "gpu_share": gpu.get("utilisation"),
            "gpu_memory_gib": None if memory_mib is None else float(memory_mib) / 1024,
            "data": dict(data),
            "asked": asked(str(stage["stage"]), spec),
            "settled": settled.get(str(stage["stage"]), False),
        }
    return found


def use(stage: Mapping[str, Any]) -> str | None:
    """Return in words what a recorded stage used of its machine; None where it did not say."""
    kept = read(remembered("", [stage], kept_data(Data(1, "csv")), PipelineSpec()).get(str(stage.get("stage"))))
    machine = catalog.instance(kept.instance_type) if kept else None
    if kept is None or machine is None:
        return None
    told = f"CPU {kept.load:.0%} of {kept.vcpu} vCPU, {kept.peak_memory_gib:.1f} of {machine.memory_gib:g} GiB"
    if kept.loop_s:
        told += f", {kept.wait_share:.0%} of its loop waiting for data"
    return told if kept.gpu_share is None else f"{told}, accelerator {kept.gpu_share:.0%}"


def read(kept: Mapping[str, Any] | None) -> Measured | None:
    """Return what `remembered` kept of one stage; None when it kept nothing, or for a machine that is not known."""
    if not kept or catalog.instance(str(kept.get("instance_type"))) is None:
        return None
    data = {field.name: kept["data"][field.name] for field in fields(Data) if field.name in kept["data"]}
    known = {field.name: kept[field.name] for field in fields(Measured) if field.name in kept}
    return Measured(**(known | {"data": Data(**data)}))


def kept_data(data: Data) -> dict[str, Any]:
    """Return a run's data as its plan and its project's memory hold it."""
    return asdict(data)


def for_stage(
    stage: str,
    spec: PipelineSpec,
    data: Data,
    last: Measured | None,
    *,
    accelerators: Collection[str] = catalog.ACCELERATOR_KINDS,
) -> Choice:
    """Return the instance for one stage: by what the last run used when it was measured, by the estimate before.

    Where the spec asks for other work than it did then, the estimate chooses again. An instance that the spec names is
    taken, whatever was measured; the finding then says what to write.
    Raises: NoFeasibleInstanceError when none holds the memory.
    """
    estimated = sizing.for_stage(stage, spec, data, accelerators=accelerators)
    known = replace(data, task=data.task or spec.task)
    grown = sizing.growth(stage, known, replace(last.data, task=last.data.task or spec.task)) if last else None
    if last is None or grown is None:
        return estimated
    changed = _differs(last.asked, asked(stage, spec))
    if changed:
        told = f"{estimated.reason}; what {last.run_id} used is no measure of it: {', '.join(changed)} changed"
        return replace(estimated, reason=told)
    before = catalog.instance(last.instance_type)
    assert before is not None  # `read` saw to it
    limit_s = spec.train.max_runtime.total_seconds()
    named = stage in TRAINING and spec.train.instance != "auto"
    machines = sizing.machines(stage, spec)
    seen = workload(stage, known, last, before, grown, max_runtime_s=limit_s, machines=machines)
    workers, wait_s = _workers(last, estimated.instance if named else before, grown)
    fed = replace(seen, wait_s=wait_s)
    allowed = accelerators if stage in TRAINING else ()
    best = estimated.instance if named else _best(stage, fed, last, before, allowed)
    chosen = _explained(stage, fed, last, before, best, grown, allowed, named=named)
    found = _findings(seen, fed, last, before, best, workers, named=named, stage=stage, allowed=allowed, count=machines)
    return replace(chosen, findings=tuple(found), workers=workers)


def workload(
    stage: str, data: Data, last: Measured, before: Instance, grown: float, *, max_runtime_s: float, machines: int = 1
) -> Workload:
    """Return the work of each machine of the next run: the last one's, as much more as there is more data.

        parallel_share = (1 - compute_s / cpu_s) / (1 - 1 / processors), at least 0
    compute_s is the time that was not spent waiting for data. From one vCPU nothing is learned of that share: the
    estimate's is kept. What an accelerator did counts as the work of the vCPUs that it stands for.
    Source: Amdahl's law, solved for the share.
    """
    estimated = sizing.workload(stage, data, max_runtime_s=max_runtime_s)
    share = estimated.parallel_share
    compute_s = max(1e-9, last.duration_s - last.wait_s)
    cpu_s, processors = last.cpu_s / last.instances, last.vcpu / last.instances
    device = before.accelerator
    if device is not None:
        load = UNKNOWN_LOAD if last.gpu_share is None else last.gpu_share
        processors += device.count * device.worth_vcpu.value
        cpu_s += load * compute_s * device.count * device.worth_vcpu.value
    if processors > 1 and cpu_s > 0:
        share = min(MOST_PARALLEL, max(0.0, (1 - compute_s / cpu_s) / (1 - 1 / processors)))
    return Workload(
        cpu_s=cpu_s * grown * last.instances / machines,
        memory_gib=_memory_gib(stage, last, grown, estimated.memory_gib),
        parallel_share=share,
        max_runtime_s=max_runtime_s,
        wait_s=last.wait_s * grown,
    )


def _memory_gib(stage: str, last: Measured, grown: float, estimated_gib: float) -> float:
    """Return what a machine has to hold; of `process` no more than is estimated, for it takes what is there.

    What does not fit it sorts on the volume, so that its peak tells of the last machine more than of the data. Of what
    may try a dearer recipe than was measured no less than is estimated: too little memory ends a job, every time again.
    """
    needed = BASE_MEMORY_GIB + last.peak_memory_gib * MEMORY_HEADROOM * max(1.0, grown)
    if stage == "process":
        return min(needed, estimated_gib)
    return needed if last.settled else max(needed, estimated_gib)


def cost_usd(work: Workload, machine: Instance, *, overhead_s: float = 0.0) -> float:
    """Return what the work is expected to cost on a machine at its on-demand price.

    cost_usd = price_usd_per_hour * (duration_s + overhead_s) / 3600
    """
    seconds = sizing.duration_s(work, sizing.processors_of(machine)) + overhead_s
    return machine.price_usd_per_hour.value * seconds / 3600


def _workers(last: Measured, machine: Instance, grown: float) -> tuple[int, float]:
    """Return how many workers make the next run's data ready beside its loop, and how long it still waits.

        workers = ceil(loading_s / compute_s),  wait_s = loading_s / workers - compute_s, at least 0
    Without workers the loop waits for all of the loading; with them for what they do not manage meanwhile.
    """
    compute_s = max(1e-9, last.loop_s - last.wait_s)
    loading_s = last.wait_s if last.workers == 0 else (last.wait_s + compute_s) * last.workers
    if last.wait_share < WAITING_SHARE:
        return last.workers, last.wait_s * grown
    wanted = max(last.workers, math.ceil(loading_s / compute_s))
    workers = max(1, min(wanted, MOST_WORKERS, machine.vcpu))
    return workers, max(0.0, loading_s / workers - compute_s) * grown


def _best(stage: str, work: Workload, last: Measured, before: Instance, allowed: Collection[str]) -> Instance:
    """Return the leanest machine that costs less than the last one, or that one where little would be saved.

    An accelerator is never taken to save: how much one speeds up is known badly, while the last run was in time.
    """
    usable = before.accelerator is None or before.accelerator.kind in allowed
    fits = usable and not before.hosting_only and before.memory_gib >= work.memory_gib
    in_time = sizing.duration_s(work, sizing.processors_of(before)) <= work.max_runtime_s
    if not (fits and in_time):
        return sizing.choose(stage, work, accelerators=allowed).instance
    most = cost_usd(work, before) * (1 - SAVING_SHARE)
    cheaper = [each for each in catalog.instances() if cost_usd(work, each) <= most]
    holding = [
        each
        for each in cheaper
        if each.memory_gib >= work.memory_gib
        and (each.accelerator is None or (before.accelerator and each.accelerator.kind in allowed))
        and sizing.duration_s(work, sizing.processors_of(each)) <= work.max_runtime_s
    ]
    return sizing.choose(stage, work, holding, accelerators=allowed).instance if holding else before


def _explained(
    stage: str,
    work: Workload,
    last: Measured,
    before: Instance,
    best: Instance,
    grown: float,
    allowed: Collection[str],
    *,
    named: bool,
) -> Choice:
    least = () if named else sizing.choose(stage, work, accelerators=allowed).otherwise
    again = [catalog.instance(name) for name in least]
    others = [before] if best.name != before.name and not named else []
    others += [each for each in again if each and each.name not in (best.name, before.name)]
    told = (
        f"measured in {last.run_id}: {last.cpu_s:.4g} CPU-s on {last.vcpu} vCPUs ({last.load:.0%} of them), "
        f"{last.peak_memory_gib:.2g} GiB at most, {last.wait_share:.0%} of the loop waiting for data"
    )
    if last.gpu_share is not None:
        told += f", accelerator {last.gpu_share:.0%}"
    if abs(grown - 1) >= 0.01:
        told += f"; {grown:.3g} times as much data now"
    if named:
        reason = f"named by train.instance in the spec; {told}"
    elif best.name == before.name:
        reason = f"the last one still fits, and no other is cheaper by {SAVING_SHARE:.0%}; {told}"
    else:
        reason = f"leanest of those that cost less than {before.name} and hold the work; {told}"
        if cost_usd(work, best) > cost_usd(work, before):
            reason = f"{before.name} no longer holds the work or its time; {told}"
    choice = sizing.explained(work, best, reason, others)
    numbers = choice.numbers | {"expected_usd": round(cost_usd(work, best), 6), "data_growth": round(grown, 4)}
    return replace(choice, numbers=numbers)


def _findings(
    seen: Workload,
    fed: Workload,
    last: Measured,
    before: Instance,
    best: Instance,
    workers: int,
    *,
    named: bool,
    stage: str,
    allowed: Collection[str],
    count: int,
) -> list[Finding]:
    """Return what the last run shows; the savings are those of all remedies together, against the same once more."""
    found = []
    overhead_s = max(0.0, last.billable_s - last.duration_s)
    again = cost_usd(seen, before, overhead_s=overhead_s) * count
    better = _best(stage, fed, last, before, allowed) if named else best
    then = cost_usd(fed, better, overhead_s=overhead_s) * count
    saved_kwh = (sizing.expected_energy_kwh(seen, before) - sizing.expected_energy_kwh(fed, better)) * count
    saving = {"saves_usd": round(again - then, 6), "saves_kwh": round(saved_kwh, 8)}
    words = f"saves {again - then:.2g} USD and {saved_kwh:.2g} kWh a run"
    used = (
        f"peak memory {last.peak_memory_gib:.1f} of {before.memory_gib:g} GiB, CPU {last.load:.0%} of {last.vcpu} vCPU"
    )
    if last.wait_share >= WAITING_SHARE:
        cause = f"{last.wait_share:.0%} of the time of the training loop was spent waiting for data"
        if workers > last.workers:
            remedy = f"{workers} worker{'s' * (workers > 1)} make the next batches ready while the loop computes"
        else:
            remedy = f"{workers} workers are at work already: the machine is chosen for the work that is left"
        found.append(Finding(INPUT_BOUND, cause, f"{remedy}; {words}", saving | {"workers": workers}))
    if stage != "process" and last.peak_memory_gib * MEMORY_HEADROOM + BASE_MEMORY_GIB > before.memory_gib:
        cause = f"{used}: no room for what the operating system needs"
        found.append(Finding(UNDERSIZED, cause, _moves(before, better, named), {}))
    if before.accelerator and last.gpu_share is not None and last.gpu_share < IDLE_SHARE:
        cause = f"the {before.accelerator.model} computed {last.gpu_share:.0%} of the time"
        found.append(Finding(IDLE_ACCELERATOR, cause, f"{_moves(before, better, named)}; {words}", saving))
    elif better.price_usd_per_hour.value < before.price_usd_per_hour.value and again > then:
        found.append(Finding(OVERSIZED, used, f"{_moves(before, better, named)}; {words}", saving))
    return found


def _moves(before: Instance, better: Instance, named: bool) -> str:
    if better.name == before.name:
        return f"{before.name} is kept: nothing cheaper holds the work"
    return f"write train.instance: auto or {better.name}" if named else f"the next run is on {better.name}"
