"""What Application Auto Scaling remembers, by account and Region, saved as plain JSON; and how it refuses.

A record is what the service describes; members that start with an underscore are ours.
"""

import hashlib
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region

from ebb_local import clock, persistence

Record = dict[str, Any]
NAMESPACE = "sagemaker"
VARIANT = "sagemaker:variant:DesiredInstanceCount"
COMPONENT = "sagemaker:inference-component:DesiredCopyCount"
ACTIVITIES_KEPT = 200  # of one target, the newest (AWS: six weeks)

targets = AccountRegionScopedDict()
policies = AccountRegionScopedDict()
scheduled_actions = AccountRegionScopedDict()
activities = AccountRegionScopedDict()
tags = AccountRegionScopedDict()
_stores = {
    "targets": targets,
    "policies": policies,
    "scheduled_actions": scheduled_actions,
    "activities": activities,
    "tags": tags,
}


class ServiceError(Exception):
    """What the service answers instead of a result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def key(request: Record, *names: str) -> str:
    """Return the key of a target, or with further members of what belongs to one."""
    return "|".join([request["ResourceId"], request["ScalableDimension"], *(request[name] for name in names)])


def target_arn(resource_id: str, dimension: str) -> str:
    """Return the ARN of a target: its name follows from what it scales (on AWS it is any)."""
    digest = hashlib.sha256(f"{get_account_id()}/{get_region()}/{resource_id}/{dimension}".encode()).hexdigest()
    return f"arn:aws:application-autoscaling:{get_region()}:{get_account_id()}:scalable-target/{digest[:34]}"


def target(request: Record) -> Record:
    """Return the target that a request names, or raise as AWS does."""
    found = targets.get(key(request))
    if found is None:
        raise ServiceError("ObjectNotFoundException", f"No scalable target found for {named(request)}")
    return found


def named(request: Record) -> str:
    """Return what a request is about, in the words of AWS's errors."""
    return (
        f"service namespace: {request['ServiceNamespace']}, resource ID: {request['ResourceId']}, "
        f"scalable dimension: {request['ScalableDimension']}"
    )


def public(record: Record) -> Record:
    """Return what is described of a record."""
    return {name: value for name, value in record.items() if not name.startswith("_") and value is not None}


def now() -> float:
    """Return the cloud's time to the millisecond."""
    return round(clock.now(), 3)


def changed() -> None:
    """Say that a record changed outside a request."""
    persistence.mark_changed()


def page(records: list[Record], request: Record, member: str) -> Record:
    """Return a page of descriptions under their member's name, and the token of the next page."""
    try:
        start = int(request.get("NextToken") or 0)
    except ValueError:
        raise ServiceError("InvalidNextTokenException", "The next token supplied is invalid.") from None
    end = start + int(request.get("MaxResults") or 50)
    rows = [public(record) for record in records[start:end]]
    return {member: rows, **({"NextToken": str(end)} if end < len(records) else {})}


def save() -> dict[str, Any]:
    """Return everything for MiniStack's persistence."""
    return dict(_stores)


def load(saved: dict[str, Any]) -> None:
    """Put back what was saved."""
    for name, store in _stores.items():
        store.update(saved.get(name, {}))


def clear() -> None:
    """Forget everything."""
    for store in _stores.values():
        store.clear()
