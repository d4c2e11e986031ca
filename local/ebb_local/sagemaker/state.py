"""Everything SageMaker remembers: one store per kind of resource, by account and Region, saved as plain JSON.

A record is the Describe response itself. Members that start with an underscore are ours and never answered.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region

from ebb_local import persistence

Record = dict[str, Any]

training_jobs = AccountRegionScopedDict()
processing_jobs = AccountRegionScopedDict()
models = AccountRegionScopedDict()
endpoint_configs = AccountRegionScopedDict()
endpoints = AccountRegionScopedDict()
inference_components = AccountRegionScopedDict()
async_requests = AccountRegionScopedDict()
transform_jobs = AccountRegionScopedDict()
tuning_jobs = AccountRegionScopedDict()
inference_recommendations_jobs = AccountRegionScopedDict()
notebook_instances = AccountRegionScopedDict()
domains = AccountRegionScopedDict()
user_profiles = AccountRegionScopedDict()
spaces = AccountRegionScopedDict()
apps = AccountRegionScopedDict()
model_package_groups = AccountRegionScopedDict()
model_packages = AccountRegionScopedDict()
feature_groups = AccountRegionScopedDict()
compilation_jobs = AccountRegionScopedDict()
tags = AccountRegionScopedDict()

_stores: dict[str, AccountRegionScopedDict] = {
    "training_jobs": training_jobs,
    "processing_jobs": processing_jobs,
    "models": models,
    "endpoint_configs": endpoint_configs,
    "endpoints": endpoints,
    "inference_components": inference_components,
    "async_requests": async_requests,
    "transform_jobs": transform_jobs,
    "tuning_jobs": tuning_jobs,
    "inference_recommendations_jobs": inference_recommendations_jobs,
    "notebook_instances": notebook_instances,
    "domains": domains,
    "user_profiles": user_profiles,
    "spaces": spaces,
    "apps": apps,
    "model_package_groups": model_package_groups,
    "model_packages": model_packages,
    "feature_groups": feature_groups,
    "compilation_jobs": compilation_jobs,
    "tags": tags,
}

changed = threading.Condition()
"""Notified whenever a record changes its status; waiting for a job is waiting on this."""


def arn(kind: str, name: str) -> str:
    """Return the ARN of a resource. SageMaker writes the names in ARNs in lower case."""
    return f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:{kind}/{name.lower()}"


def now() -> float:
    """Return the cloud's time in seconds since the epoch, to the millisecond as AWS gives it."""
    return round(time.time(), 3)


def public(record: Record) -> Record:
    """Return what Describe answers: the record without our own members and without empty ones."""
    return {key: value for key, value in record.items() if not key.startswith("_") and value is not None}


def update(record: Record, **members: Any) -> None:
    """Change members of a record and wake up whoever waits for it."""
    with changed:
        record.update(members)
        changed.notify_all()
    persistence.mark_changed()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until a condition on records holds, at most `timeout_s` of real time."""
    with changed:
        return changed.wait_for(condition, timeout=timeout_s)


def save() -> dict[str, Any]:
    """Return the stores for MiniStack's persistence."""
    return dict(_stores)


def load(saved: dict[str, Any]) -> None:
    """Put saved stores back."""
    for name, store in _stores.items():
        found = saved.get(name)
        if isinstance(found, AccountRegionScopedDict):
            store._data.update(found._data)


def clear() -> None:
    """Forget everything."""
    for store in _stores.values():
        store._data.clear()


def everywhere(store: AccountRegionScopedDict) -> Iterator[tuple[str, str, str, Record]]:
    """Yield (account, Region, name, record) of a store, whatever the request in hand."""
    for (account, region, name), record in list(store._data.items()):
        yield account, region, name, record
