"""Where AWS has no machine: the order in which others are tried, and what was refused when.

A plan names the machines of each stage in order: the chosen type on spot capacity, the same on demand, then the next
best types on demand. `run_pipeline` tries the next one when the one before is refused, as a failed job (no machines of
the type are left) or on creation (the account's quota for the type is in use). After the last it waits and begins
anew on demand: a spot job may wait for days, and has had its chance. After so many rounds, or so long since the first
round ended, the refusal is the run's error.

SageMaker's own list (ResourceConfig.InstancePreferences) is not used: it excludes spot capacity, and does not tell what
was refused. https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ResourceConfig.html
"""

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ebb import ledger, names
from ebb.requests import jobs as job_requests

AGAIN, WAIT, FAIL = "again", "wait", "fail"
ROUNDS = 16  # with the pauses below some four hours, as long as a quota in use was waited for
LONGEST_S = 6 * 3600  # from the end of the first round on, should SageMaker take its time; assumed
FIRST_PAUSE_S, LONGEST_PAUSE_S = 300, 900
DECISIONS_FROM = 60  # decisions of the plan stand before

QUOTA = "SageMaker.ResourceLimitExceededException"
# Texts of FailureReason: https://repost.aws/knowledge-center/sagemaker-insufficient-capacity-error
_NO_CAPACITY = ("CapacityError", "InsufficientInstanceCapacity", "InsufficientCapacity")
_WAITED_IN_VAIN = "MaxWaitTimeExceeded"  # the secondary status of a spot job that got no machine in time

Offer = dict[str, Any]
"""{"instance_type": ..., "spot": ...}"""


def offers(chosen: str, others: Sequence[str], *, spot: bool) -> list[Offer]:
    """Return the machines of a stage in the order in which they are tried."""
    first = [{"instance_type": chosen, "spot": True}] if spot else []
    return first + [{"instance_type": name, "spot": False} for name in (chosen, *others)]


def is_refusal(error: str | None, cause: str | None) -> bool:
    """Return whether a job failed, or was not created, because there was no machine for it."""
    return error == QUOTA or _refusal_of(_job(cause)) is not None


def after(plan: Mapping[str, Any], stage: str, error: str | None, cause: str | None, now: datetime) -> dict[str, Any]:
    """Return what comes after a stage's job has failed: {"next": again | wait | fail, "plan": ..., "wait_s": ...}.

    Where the next machine is tried the plan is changed: the request, and all that reads what its job writes, for a job
    that was refused keeps its name. What was refused stands in the plan, oldest first.
    """
    work = plan.get(stage) or {}
    places = work.get("offers") or ()
    if not places or not is_refusal(error, cause):
        return {"next": FAIL, "plan": dict(plan), "wait_s": 0}
    before = work.get("refused", ())
    refused = [*before, _refused(_next(places, len(before))[0], error, cause, now)]
    offer, turn, first = _next(places, len(refused))
    if turn >= ROUNDS or _waited_s(places, refused, now) >= LONGEST_S:
        return {"next": FAIL, "plan": dict(plan), "wait_s": 0}
    changed = _renamed(plan, stage, len(refused))
    changed[stage] |= {"request": _on(changed[stage]["request"], offer), "refused": refused}
    wait_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * turn) if first else 0
    return {"next": WAIT if wait_s else AGAIN, "plan": changed, "wait_s": wait_s}


def decision(plan: Mapping[str, Any], stage: str, wait_s: int) -> dict[str, Any]:
    """Return how the record tells what was refused, when, and what is tried now.

    It is written over the one before: of each machine it tells how often it was refused, first and last.
    """
    work = plan[stage]
    refused, places = work["refused"], work["offers"]
    offer, turn, _ = _next(places, len(refused))
    again = _again(places)
    alternatives = again[again.index(offer) + 1 :] if turn else places[len(refused) + 1 :]
    pause = f", after {wait_s} s" if wait_s else ""
    return {
        "what": f"capacity refused for {stage}",
        "chosen": f"{words(offer)}{pause}",
        "reason": f"refused: {'; '.join(_told(each, refused) for each in places if _of(each, refused))}",
        "numbers": {"refused": len(refused), "round": turn + 1},
        "alternatives": [words(each) for each in alternatives],
        "source": "ebb/capacity.py",
    }


def _next(places: Sequence[Offer], refusals: int) -> tuple[Offer, int, bool]:
    """Return the machine that comes after so many refusals, the round (0, 1, ...), and whether it is its first."""
    if refusals < len(places):
        return places[refusals], 0, refusals == 0
    again = _again(places)
    turn, place = divmod(refusals - len(places), len(again))
    return again[place], turn + 1, place == 0


def _again(places: Sequence[Offer]) -> list[Offer]:
    """Return what is tried from the second round on."""
    return [each for each in places if not each["spot"]]


def _waited_s(places: Sequence[Offer], refused: Sequence[Mapping[str, Any]], now: datetime) -> float:
    """Return how long ago the first round ended, which is none of the time that a spot job waited."""
    if len(refused) < len(places):
        return 0.0
    return (now - datetime.fromisoformat(str(refused[len(places) - 1]["at"]))).total_seconds()


def _of(offer: Offer, refused: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for each in refused if words(each) == words(offer)]


def _told(offer: Offer, refused: Sequence[Mapping[str, Any]]) -> str:
    first, *later = _of(offer, refused)
    told = f"{words(offer)} at {first['at']} ({first['why']})"
    if not later:
        return told
    return f"{told}, {len(later)} more until {later[-1]['at']} ({later[-1]['why']})"


def words(offer: Mapping[str, Any]) -> str:
    """Return a machine as people read it."""
    return f"{offer['instance_type']} {'on spot capacity' if offer['spot'] else 'on demand'}"


def _refused(offer: Offer, error: str | None, cause: str | None, now: datetime) -> dict[str, Any]:
    why = "the account's quota is in use" if error == QUOTA else str(_refusal_of(_job(cause)))
    return {**offer, "at": ledger.iso(now), "why": why[:200]}


def _refusal_of(job: Mapping[str, Any]) -> str | None:
    reason = str(job.get("FailureReason") or "")
    if any(text in reason for text in _NO_CAPACITY):
        return reason
    return "no spot capacity in time" if job.get("SecondaryStatus") == _WAITED_IN_VAIN else None


def _job(cause: str | None) -> Mapping[str, Any]:
    try:
        told = json.loads(cause or "")
    except json.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _renamed(plan: Mapping[str, Any], stage: str, number: int) -> dict[str, Any]:
    """Return the plan with another name of a stage's job, in its request and in all places below which it writes."""
    name = names.job(str(plan["run_id"]), int(plan["attempt"]), stage)
    before = f"{name}-{number - 1}" if number > 1 else name
    changed: dict[str, Any] = json.loads(json.dumps(plan).replace(f"/{before}/output/", f"/{name}-{number}/output/"))
    request = changed[stage]["request"]
    for key in ("TrainingJobName", "ProcessingJobName"):
        if key in request:
            request[key] = f"{name}-{number}"
    return changed


def _on(request: Mapping[str, Any], offer: Offer) -> dict[str, Any]:
    """Return a job's request for another machine."""
    changed = copy.deepcopy(dict(request))
    if "ProcessingResources" in changed:
        changed["ProcessingResources"]["ClusterConfig"]["InstanceType"] = offer["instance_type"]
        return changed
    changed["ResourceConfig"]["InstanceType"] = offer["instance_type"]
    changed["EnableManagedSpotTraining"] = offer["spot"]
    runtime_s = changed["StoppingCondition"]["MaxRuntimeInSeconds"]
    changed["StoppingCondition"] = job_requests.stopping_condition(runtime_s, spot=offer["spot"])
    return changed
