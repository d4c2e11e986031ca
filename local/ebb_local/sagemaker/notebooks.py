"""Notebook instances: records whose statuses take their time. No notebook runs behind them.

Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateNotebookInstance.html and its neighbours
(wordings of the refusals assumed).
"""

from typing import Any

from ministack.core.responses import get_region

from ebb_local.sagemaker import capacity, events, faults, keys, listing, roles, state, tags, transitions
from ebb_local.sagemaker.errors import not_implemented, validation_exception

_START_S, _STOP_S, _DELETE_S = 60.0, 30.0, 30.0
_NOT_HERE = ("LifecycleConfigName", "AcceleratorTypes")
_SUMMARY = ["NotebookInstanceName", "NotebookInstanceArn", "NotebookInstanceStatus", "Url", "InstanceType",
            "CreationTime", "LastModifiedTime"]  # fmt: skip


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateNotebookInstance."""
    name = request["NotebookInstanceName"]
    arn = state.arn("notebook-instance", name)
    for member in _NOT_HERE:
        if request.get(member):
            raise not_implemented(f"A notebook instance with {member}")
    tags.require_tagging(arn, request)
    roles.require_role(request["RoleArn"])
    keys.require_grant(request.get("KmsKeyId"))
    if name in state.notebook_instances:
        raise validation_exception(f"Cannot create a duplicate Notebook Instance ({arn})")
    moment = state.now()
    state.notebook_instances[name] = record = {
        "DirectInternetAccess": "Enabled",
        "VolumeSizeInGB": 5,
        "RootAccess": "Enabled",
        **{key: value for key, value in request.items() if key not in ("Tags", "SecurityGroupIds")},
        "SecurityGroups": request.get("SecurityGroupIds"),
        "NotebookInstanceArn": arn,
        "NotebookInstanceStatus": "Pending",
        "Url": f"{name.lower()}.notebook.{get_region()}.sagemaker.aws",
        "CreationTime": moment,
        "LastModifiedTime": moment,
    }
    tags.put(arn, request.get("Tags"))
    _begin(record, "Pending", _start_s(record), NotebookInstanceStatus="InService")
    return {"NotebookInstanceArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeNotebookInstance."""
    return state.public(find(request["NotebookInstanceName"]))


def list_instances(request: dict[str, Any]) -> dict[str, Any]:
    """ListNotebookInstances."""
    rows, more = listing.page(
        state.notebook_instances.values(), request, name="NotebookInstanceName", status="NotebookInstanceStatus",
        members=_SUMMARY,
    )  # fmt: skip
    return {"NotebookInstances": rows, **more}


def start(request: dict[str, Any]) -> dict[str, Any]:
    """StartNotebookInstance."""
    record = _in(request, "start", "Stopped", "Failed")
    if record["InstanceType"] in faults.current().refused_types:
        _begin(record, "Pending", _START_S, NotebookInstanceStatus="Failed", FailureReason=capacity.REFUSED)
    else:
        _begin(record, "Pending", _start_s(record), NotebookInstanceStatus="InService")
    return {}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """StopNotebookInstance."""
    _begin(_in(request, "stop", "InService"), "Stopping", _STOP_S, NotebookInstanceStatus="Stopped")
    return {}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteNotebookInstance. It has to be stopped."""
    record = _in(request, "delete", "Stopped", "Failed")
    state.update(record, NotebookInstanceStatus="Deleting", LastModifiedTime=state.now())
    events.state_changed("Notebook Instance", record["NotebookInstanceArn"], record)
    transitions.start(record, _DELETE_S, gone=True)
    return {}


def find(name: str) -> state.Record:
    """Return a notebook instance's record, or raise as AWS does."""
    record = state.notebook_instances.get(name)
    if record is None:
        raise validation_exception("RecordNotFound")
    return record


def reached(record: state.Record) -> None:
    """Tell what a notebook instance has come to."""
    arn = record["NotebookInstanceArn"]
    if record["NotebookInstanceStatus"] == "Deleting":
        tags.forget(arn)
        return
    state.update(record, LastModifiedTime=state.now())
    events.state_changed("Notebook Instance", arn, record)


def _in(request: dict[str, Any], verb: str, *statuses: str) -> state.Record:
    record = find(request["NotebookInstanceName"])
    if record["NotebookInstanceStatus"] not in statuses:
        raise validation_exception(
            f"Status ({record['NotebookInstanceStatus']}) not in ({list(statuses)}). Unable to transition to {verb} "
            f"Notebook Instance ({record['NotebookInstanceArn']})"
        )
    return record


def _begin(record: state.Record, status: str, seconds: float, **then: Any) -> None:
    state.update(record, NotebookInstanceStatus=status, LastModifiedTime=state.now(), FailureReason=None)
    events.state_changed("Notebook Instance", record["NotebookInstanceArn"], record)
    transitions.start(record, seconds, **then)


def _start_s(record: state.Record) -> float:
    return max(_START_S, faults.current().delay_s)


transitions.register(state.notebook_instances, reached)
