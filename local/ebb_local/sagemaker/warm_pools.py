"""Warm pools: the machines of a training job that are kept, and billed, for the next one.

A pool is the record of the job that left it: Available until its time is over (Terminated) or a matching job takes it
(Reused). Jobs start no sooner for it here. Source: https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html
Assumed: only a job that completed leaves a pool.
"""

from typing import Any

from ebb_local.sagemaker import state, transitions
from ebb_local.sagemaker.errors import validation_exception

_SAME = ("RoleArn", "VpcConfig", "EnableInterContainerTrafficEncryption", "EnableNetworkIsolation")
_SAME_RESOURCES = ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")


def require_valid(request: dict[str, Any]) -> None:
    """Raise for a job that cannot leave a pool (wording assumed)."""
    if _keep_s(request) and request.get("EnableManagedSpotTraining"):
        raise validation_exception("KeepAlivePeriodInSeconds is not supported with managed spot training.")


def take(record: state.Record) -> None:
    """Let a new job take a pool that fits, if there is one."""
    for pool in state.training_jobs.values():
        if (pool.get("WarmPoolStatus") or {}).get("Status") == "Available" and _fits(pool, record):
            _end(pool, "Reused", ReusedByJob=record["TrainingJobName"])
            break
    if _keep_s(record):
        state.update(record, WarmPoolStatus={"Status": "InUse"})


def leave(record: state.Record) -> None:
    """Keep the machines of a job that has ended, for as long as it asked."""
    if not _keep_s(record):
        return
    if record["TrainingJobStatus"] != "Completed":
        state.update(record, WarmPoolStatus={"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": 0})
        return
    state.update(record, WarmPoolStatus={"Status": "Available", "ResourceRetainedBillableTimeInSeconds": 0})
    transitions.start(record, _keep_s(record), _pool_over=True)


def keep_for(record: state.Record, seconds: int) -> None:
    """UpdateTrainingJob: keep a pool so long from its beginning, or end it now (wording of the refusal assumed)."""
    if (record.get("WarmPoolStatus") or {}).get("Status") != "Available":
        raise validation_exception(
            f"The warm pool of training job {record['TrainingJobName']} cannot be updated: it is not Available."
        )
    resources = {**record["ResourceConfig"], "KeepAlivePeriodInSeconds": seconds}
    state.update(record, ResourceConfig=resources, LastModifiedTime=state.now())
    left_s = record["TrainingEndTime"] + seconds - state.now()
    if left_s <= 0:
        _end(record, "Terminated")
    else:
        transitions.start(record, left_s, _pool_over=True)


def reached(record: state.Record) -> None:
    """End a pool whose time is over."""
    if record.get("_pool_over"):
        _end(record, "Terminated")


def as_shown(record: state.Record) -> state.Record:
    """Return how Describe and List show a job: a pool that is kept is billed up to now."""
    pool = record.get("WarmPoolStatus")
    if not pool or pool["Status"] != "Available":
        return record
    return {**record, "WarmPoolStatus": {**pool, "ResourceRetainedBillableTimeInSeconds": _billed_s(record)}}


def _end(record: state.Record, status: str, **members: str) -> None:
    pool = {"Status": status, "ResourceRetainedBillableTimeInSeconds": _billed_s(record), **members}
    state.update(record, WarmPoolStatus=pool, _next=None, _pool_over=None)


def _billed_s(record: state.Record) -> int:
    return max(0, round(state.now() - record["TrainingEndTime"]))


def _fits(pool: state.Record, wanted: state.Record) -> bool:
    of_pool, of_job = pool["ResourceConfig"], wanted["ResourceConfig"]
    return all(pool.get(member) == wanted.get(member) for member in _SAME) and all(
        of_pool.get(member) == of_job.get(member) for member in _SAME_RESOURCES
    )


def _keep_s(job: dict[str, Any]) -> int:
    return int((job.get("ResourceConfig") or {}).get("KeepAlivePeriodInSeconds") or 0)


transitions.register(state.training_jobs, reached)
