"""What a run that ends books in the footprint ledger: each of its jobs, and what it did not have to do. Pure.

    stage     each job, each trial's share of a search and each image build, of every attempt; however the run ended
    avoided   reused:   a drop that is the same as an earlier one, features of another project, stages that an earlier
                        attempt had finished
              stopped:  the rest of a training that was stopped early

Of a run that is closed twice every entry has the same key and the same moment, so that the second one changes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ebb import accounting, catalog, footprint, ledger, names
from ebb.accounting import Counterfactual, Entry
from ebb.carbon import Band
from ebb.footprint import NOTHING, UNKNOWN_UTILIZATION, Footprint

Stage = Mapping[str, Any]
READS_THE_DROP = ("process", "score")  # the stages whose bytes are those of the data as it was dropped
REUSED, STOPPED = "reused", "stopped"
_JOB = ("processor power (jobs)", "memory", "embodied")
_UNKNOWN = "machine not in the catalog: its time is told, nothing is counted"


def of_run(
    run: Mapping[str, Any], stages: Sequence[Stage], *, region: str, last_train_s: float | None = None
) -> list[Entry]:
    """Return the entries of a run that ends, in the order of its stages.

    `run` and `stages` are the ledger's; `last_train_s` is how long the project's training took last time, if that is
    known: what a stopped one would have taken.
    """
    return [
        *_spent(run, stages, region),
        *_stopped(run, stages, region, last_train_s),
        *_taken_over(run, stages, region),
    ]


def _spent(run: Mapping[str, Any], stages: Iterable[Stage], region: str) -> Iterator[Entry]:
    for stage in stages:
        for part in (*(stage.get("earlier_attempts") or ()), stage):
            for job in part.get("builds") or (part,):
                entry = _job(run, str(stage["stage"]), int(part["attempt"]), job, region)
                if entry:
                    yield entry


def _job(run: Mapping[str, Any], stage: str, attempt: int, job: Mapping[str, Any], region: str) -> Entry | None:
    """Return the entry of a job; None for one that never had a machine."""
    duration_s = float(job.get("duration_s") or 0.0)
    if not duration_s:
        return None
    recorded = job.get("footprint")
    spent = Footprint.of(recorded) if recorded else NOTHING
    load = job.get("utilisation")
    usage = {
        "duration_s": duration_s,
        "billable_s": job.get("billable_s"),
        "utilization": load,
        "instance": job.get("instance_type"),
        "machines": job.get("machines"),
        "spot": job.get("spot"),
        "region": region,
        "bytes": run.get("size_bytes") if stage in READS_THE_DROP else None,
        "measured": bool(recorded),
        "basis": _basis(load) if recorded else _UNKNOWN,
    }
    return accounting.stage_entry(
        project=str(run["project"]),
        run_id=str(run["run_id"]),
        attempt=attempt,
        stage=stage,
        job=str(job.get("id") or job.get("job_run") or job.get("job_name") or stage),
        at=_at(run, job),
        spent=spent,
        usage={name: value for name, value in usage.items() if value is not None},
        counterfactual=_on_demand(spent, job),
        coefficients=_coefficients(str(job.get("instance_type")), _price(stage, job)),
    )


def _basis(load: float | None) -> str:
    counted = "load: CPU time that the job counted" if load is not None else "load not reported: 0 to 1, 0.5 assumed"
    return f"{accounting.MEASURED}; {counted}"


def _price(stage: str, job: Mapping[str, Any]) -> str:
    if stage == "images":
        return "image build price"
    return "Spark price" if job.get("job_run") else "instance prices"


def _coefficients(instance_type: str, price: str) -> list[dict[str, str]]:
    machine = catalog.instance(instance_type)
    more = ("accelerator power",) if machine and machine.accelerator else ()
    return accounting.coefficients(*_JOB, *more, price)


def _at(run: Mapping[str, Any], job: Mapping[str, Any]) -> datetime:
    """Return when a job ended; of one of which that is not known, when its run was asked for: never the clock."""
    ended = job.get("ended_at")
    return datetime.fromisoformat(str(ended)) if ended else names.created_at(str(run["run_id"]))


def _on_demand(spent: Footprint, job: Mapping[str, Any]) -> Counterfactual | None:
    """Return what a spot job would have cost on demand, where every second of its time is billed; None for others.

        cost on demand = cost * duration_s / billable_s
    The energy is the same: the machine ran as long. What an interruption made it do twice is not known.
    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training.html
    """
    duration_s, billable_s = float(job["duration_s"]), float(job.get("billable_s") or 0.0)
    if not job.get("spot") or not 0 < billable_s < duration_s:
        return None
    return Counterfactual(
        "the same machine on demand", replace(spent, cost_usd=spent.cost_usd * (duration_s / billable_s))
    )


def _stopped(
    run: Mapping[str, Any], stages: Iterable[Stage], region: str, last_train_s: float | None
) -> Iterator[Entry]:
    """Give what stopping a training early left out: from nothing to all the time that it was still allowed.

    In the middle: up to what the project's training took last time; nothing where that is not known.
    """
    for stage in stages:
        for part in (*(stage.get("earlier_attempts") or ()), stage):
            noted = part.get("stopped")
            left_s = float(((noted or {}).get("saved") or {}).get("at_most_s") or 0.0)
            machines = int(part.get("machines") or 1)
            rest = footprint.of_job(
                str(part.get("instance_type")),
                duration_s=left_s * machines,
                billable_s=left_s * machines,
                load=UNKNOWN_UTILIZATION,
                region=region,
            )
            if not noted or not left_s or rest is None:
                continue
            likely_s = min(left_s, max(0.0, (last_train_s or 0.0) - float(part.get("duration_s") or 0.0)))
            yield accounting.avoided_entry(
                STOPPED,
                project=str(run["project"]),
                id=f"{run['run_id']}#{part['attempt']}#{part.get('job_name')}",
                at=_at(run, part),
                instead_of=f"training to its limit: stopped for {noted['rule']}",
                would_have=rest * Band(0.0, likely_s / left_s, 1.0),
                usage={
                    "duration_s": likely_s,
                    "instance": part.get("instance_type"),
                    "region": region,
                    "measured": False,
                    "basis": f"from nothing to the {left_s:.0f} s that it was still allowed; in the middle "
                    + ("what the last run's training took beyond it" if last_train_s else "nothing"),
                },
                coefficients=_coefficients(str(part.get("instance_type")), "instance prices"),
                run_id=str(run["run_id"]),
            )


def _taken_over(run: Mapping[str, Any], stages: Sequence[Stage], region: str) -> Iterator[Entry]:
    """Give the stages that an earlier attempt had finished, once this one has gone on from them."""
    attempt = int(run["attempt"])
    order = {name: place for place, name in enumerate(names.RECORDED_STAGES)}
    gone_on = max((order[str(each["stage"])] for each in stages if int(each["attempt"]) == attempt), default=-1)
    for stage in stages:
        done = stage.get("status") == ledger.FINISHED and stage["stage"] in names.STAGES
        if done and int(stage["attempt"]) < attempt and order[str(stage["stage"])] < gone_on and stage.get("footprint"):
            yield reused(
                run,
                id=f"{run['run_id']}#{attempt}#{stage['stage']}",
                at=_at(run, stage),
                what=f"{stage['stage']} once more, as in attempt {stage['attempt']}",
                took=Footprint.of(stage["footprint"]),
                region=region,
            )


def same_drop(run: Mapping[str, Any], earlier: Mapping[str, Any], stages: Iterable[Stage], *, region: str) -> Entry:
    """Return the entry of a run that had nothing to do: the run `earlier`, of these stages, had done it.

    Of that one what a repeat would have taken: neither its images nor the attempts that failed.
    """
    took = footprint.sum_of(each["footprint"] for each in stages if each["stage"] != "images" and each.get("footprint"))
    what = f"all that {earlier['run_id']} did with the same data and the same spec"
    return reused(run, id=str(run["run_id"]), at=_at(run, {}), what=what, took=took, region=region)


def same_features(run: Mapping[str, Any], processed: Stage, *, region: str) -> Entry:
    """Return the entry of a run that learns from features of another project, which `processed` has made."""
    took = footprint.sum_of(filter(None, [processed.get("footprint")]))
    what = "processing the same data once more, as for the features that it reads"
    return reused(run, id=f"{run['run_id']}#process", at=_at(run, {}), what=what, took=took, region=region)


def reused(run: Mapping[str, Any], *, id: str, at: datetime, what: str, took: Footprint, region: str) -> Entry:
    """Return the entry of work that was not done again: what it took when it was done."""
    return accounting.avoided_entry(
        REUSED,
        project=str(run["project"]),
        id=id,
        at=at,
        instead_of=what,
        would_have=took,
        usage={"region": region, "measured": False, "basis": "what it took when it was done"},
        coefficients=accounting.coefficients(*_JOB, "instance prices"),
        run_id=str(run["run_id"]),
    )
