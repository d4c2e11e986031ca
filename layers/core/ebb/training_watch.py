"""A training script that is watched from outside: its alarms, what they judge by, and what is done when one goes off.

Ebb's own recipes stop themselves, inside the job and on every step; a script that only prints a metric cannot. So only
scripts are watched, and only where the spec's `train.stop` says by what.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ebb import footprint, ledger, training_rules
from ebb.events import timestamp
from ebb.requests import training_alarms
from ebb.spec_stop import StopSpec, budget_parts
from ebb.training_rules import PLATEAU, TARGET, Rules, Verdict

LONGEST_LOOK = timedelta(days=14)
DIVERGENCE_LOOK_S = 600  # nine events of an execution a look: two weeks of them stay below its 25,000
_LOOKS_AGAIN = (training_alarms.HISTORY, training_alarms.BUDGET)  # the target's goes off when it is reached
_BILLED = ("Downloading", "Training", "Uploading")


def budget_s(stop: StopSpec, instance_type: str, machines: int, region: str) -> float | None:
    """Return for how long a job may run, None without a budget or where the machine's price or power is not known.

        seconds = amount / (price or power of an hour on all machines) * 3600
    At the price on demand, spot capacity costs less; at half load.
    """
    if stop.budget is None:
        return None
    amount, unit = budget_parts(stop.budget)
    if unit == "s":
        return amount
    hour = footprint.of_job(
        instance_type, duration_s=3600, billable_s=3600, load=footprint.UNKNOWN_UTILIZATION, region=region
    )
    if hour is None:
        return None
    each = hour.cost_usd.value if unit == "USD" else hour.energy_kwh.value
    return amount / (each * machines) * 3600


def rules_of(
    stop: StopSpec, *, instance_type: str, machines: int, region: str, curve: Mapping[str, Any] | None
) -> Rules:
    """Return the rules of a spec on a machine; `curve` is what the project's last run kept of the same metric."""
    watched = stop.metric_regex is not None
    # CloudWatch counts what all machines print, the curve is what the first one printed: not compared.
    earlier = reference(stop, curve) if watched and stop.loser and machines == 1 else []
    return Rules(
        goal=stop.goal,
        plateau_s=stop.plateau.total_seconds() if watched and stop.plateau else None,
        target=stop.target if watched else None,
        divergence=watched and stop.divergence,
        budget=stop.budget,
        budget_s=budget_s(stop, instance_type, machines, region),
        reference=earlier,
        reference_values=int(curve["count"]) if curve and earlier else 0,
    )


def reference(stop: StopSpec, curve: Mapping[str, Any] | None) -> list[float]:
    """Return the best value that the project's last run had at evenly spaced places; empty for another metric."""
    if not curve or curve.get("regex") != stop.metric_regex or curve.get("goal") != stop.goal:
        return []
    kept = [float(value) for value in curve.get("best_so_far") or ()]
    return kept if int(curve.get("count") or 0) >= len(kept) else []


def alarms(
    stop: StopSpec, rules: Rules, *, stack: str, max_runtime_s: float, tags: Sequence[dict[str, str]]
) -> list[dict[str, Any]]:
    """Return the alarms that are born with a job; the job's name is put in when it is known."""
    job, each = training_alarms.WATCHED_JOB, {"tags": list(tags)}
    found = []
    if rules.target is not None:
        found.append(training_alarms.target(stack, job, value=rules.target, goal=rules.goal, **each))
    if rules.divergence:
        found.append(training_alarms.not_a_number(stack, job, **each))
        found.append(training_alarms.lost(stack, job, goal=rules.goal, **each))
    if rules.plateau_s is not None or rules.reference or rules.divergence:
        found.append(training_alarms.history(stack, job, **each))
    if rules.budget_s is not None and rules.budget_s < max_runtime_s:  # else max_runtime ends it before
        found.append(training_alarms.budget(stack, job, seconds=rules.budget_s, **each))
    return found


def next_look_s(alarm: str, verdict: Verdict, rules: Rules) -> int | None:
    """Return after how many seconds it is decided again on what is not stopped now; None where another alarm asks then.

    An alarm that stays in ALARM asks once, so that whoever it started goes on looking for as long as a rule could
    come true: at divergence often once its own alarm has asked, whatever else is waited for.
    """
    of_divergence = alarm in (training_alarms.LOST, training_alarms.NAN)
    if alarm not in _LOOKS_AGAIN and not (of_divergence and rules.divergence):
        return None
    waits = [verdict.wait_s] if verdict.action == training_rules.WAIT else []
    if rules.divergence and (of_divergence or (alarm == training_alarms.HISTORY and not waits)):
        waits.append(DIVERGENCE_LOOK_S)
    return min(waits, default=None)


def told(stop: StopSpec, rules: Rules, bodies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how the plan tells who may stop the training, and by what."""
    words = []
    if rules.target is not None:
        words.append(f"target {rules.target:g}")
    if rules.plateau_s is not None:
        words.append(f"no gain for {rules.plateau_s / 60:.0f} min")
    if rules.divergence:
        words.append("divergence")
    if rules.reference:
        words.append("predicted below the last run")
    if rules.budget_s is not None:
        words.append(f"budget {rules.budget}")
    return {
        "what": "stop training from outside",
        "chosen": ", ".join(words),
        "reason": "train.stop in the spec; what the script has saved by then is the model that the run goes on with",
        "numbers": {"alarms": len(bodies)} | ({"budget_s": round(rules.budget_s)} if rules.budget_s else {}),
        "alternatives": ["train.max_runtime alone"],
        "source": "ebb/training_watch.py",
    }


def used_s(job: Mapping[str, Any], now: datetime) -> float:
    """Return how many seconds a job has run, interruptions of spot capacity left out."""
    total = 0.0
    for phase in job.get("SecondaryStatusTransitions") or ():
        begun, ended = timestamp(phase.get("StartTime")), timestamp(phase.get("EndTime"))
        if phase.get("Status") in _BILLED and begun:
            total += max(0.0, ((ended or now) - begun).total_seconds())
    return total


def last_begun(job: Mapping[str, Any]) -> datetime | None:
    """Return when a job last began to train, None before. What it printed before an interruption is another curve.

    It goes on from its checkpoint or begins anew, and nobody knows which: neither may be taken for a loss.
    """
    phases = job.get("SecondaryStatusTransitions") or ()
    begun = [timestamp(each.get("StartTime")) for each in phases if each.get("Status") == "Training"]
    return max((each for each in begun if each), default=timestamp(job.get("TrainingStartTime")))


def note_key(run_id: str, job: str) -> dict[str, str]:
    """Return the key under which the ledger notes that a job of a run was stopped."""
    return {"pk": f"RUN#{run_id}", "sk": f"STOP#{job}"}


def note(
    verdict: Verdict, job: Mapping[str, Any], *, run_id: str, execution: str, region: str, now: datetime
) -> tuple[dict[str, Any], ledger.Request]:
    """Return what is noted of a stop before it is done, and its write: refused when another rule was faster."""
    limit_s = float((job.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds") or 0)
    resources = job.get("ResourceConfig") or {}
    left_s = max(0.0, limit_s - used_s(job, now))
    kept = footprint.of_job(
        str(resources.get("InstanceType")),
        duration_s=left_s,
        billable_s=left_s,
        load=footprint.UNKNOWN_UTILIZATION,
        region=region,
    )
    machines = int(resources.get("InstanceCount") or 1)
    saved: dict[str, float] = {"at_most_s": round(left_s)}
    if kept:
        saved["at_most_usd"] = round(kept.cost_usd.value * machines, 4)
        saved["at_most_kwh"] = round(kept.energy_kwh.value * machines, 6)
    name = str(job["TrainingJobName"])
    fields = {
        "job": name,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "numbers": verdict.numbers,
        "saved": saved,
        "stopped_at": ledger.iso(now),
        "execution": execution,
    }
    condition = "attribute_not_exists(pk) OR #execution = :execution"
    return fields, ledger.update(note_key(run_id, name), fields, condition=condition)


def kept(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of the stage keeps of a stop."""
    return {name: noted[name] for name in ("rule", "reason", "numbers", "saved", "stopped_at") if name in noted}


def nothing_left(noted: Mapping[str, Any] | None, report_uri: str) -> str:
    """Return why a job's report cannot be read: a script that was stopped may have saved nothing by then."""
    if not noted:
        return f"the job ended and {report_uri} cannot be read"
    return (
        f"the training was stopped ({noted['rule']}: {noted['reason']}) and had saved no model by then. Let the script "
        "save its best model to SM_MODEL_DIR whenever it gets better, or on SIGTERM; or remove train.stop"
    )


def remembered(spec: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the curve that the project's next run is compared with; None where there is none, or a bad one.

    What was stopped for its budget, or as a loser, says nothing about how far a run can come. What went on from a
    checkpoint printed the rest of a curve only, and what several machines print is counted together.
    """
    asked = spec.get("train") or {}
    stop = asked.get("stop") or {}
    train = next((each for each in stages if each["stage"] == "train"), {})
    curve = (train.get("report") or {}).get("curve") or {}
    rule = (train.get("stopped") or {}).get("rule")
    if curve.get("resumed") or int(asked.get("instances") or 1) > 1:
        return None
    if not stop.get("metric_regex") or not curve.get("best_so_far") or rule not in (None, PLATEAU, TARGET):
        return None
    return {"regex": stop["metric_regex"], "goal": curve["goal"], "count": curve["count"]} | {
        "best_so_far": curve["best_so_far"]
    }


def decision(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the record of the run tells that its training was stopped."""
    shared = training_rules.decision(dict(noted))
    return shared | {"numbers": shared["numbers"] | {f"saved_{name}": each for name, each in noted["saved"].items()}}
