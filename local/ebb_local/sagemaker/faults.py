"""What AWS refuses now and then, on demand: for tests, through the control endpoint, as the account's root only.

    Ebb.SetFaults {"refusedInstanceTypes": ["ml.g5.xlarge"],   no capacity of these, until said otherwise
                   "throttled": {"DescribeEndpoint": 3},        the next calls of an action answer ThrottlingException
                   "provisioningDelayS": 240,                   instances take so long to come, on the cloud's clock
                   "provisioningHeld": true}                    instances do not come until this is false again

Members that are left out stay as they are; `Ebb.ClearFaults` ends them all. A restart ends them too.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

from ebb_local.sagemaker.errors import ServiceError, validation_exception


@dataclass
class Faults:
    """What is refused at present."""

    refused_types: frozenset[str] = frozenset()
    throttled: dict[str, int] = field(default_factory=dict)
    delay_s: float = 0.0
    held: bool = False


_current = Faults()
_lock = threading.Lock()


def current() -> Faults:
    """Return the faults in force."""
    return _current


def set_faults(request: dict[str, Any]) -> dict[str, Any]:
    """Ebb.SetFaults."""
    unknown = request.keys() - {"refusedInstanceTypes", "throttled", "provisioningDelayS", "provisioningHeld"}
    if unknown:
        raise validation_exception(f"unknown faults: {', '.join(sorted(unknown))}")
    with _lock:
        if "refusedInstanceTypes" in request:
            _current.refused_types = frozenset(request["refusedInstanceTypes"])
        _current.throttled |= {str(action): int(times) for action, times in request.get("throttled", {}).items()}
        _current.delay_s = float(request.get("provisioningDelayS", _current.delay_s))
        _current.held = bool(request.get("provisioningHeld", _current.held))
    return {}


def clear(request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ebb.ClearFaults."""
    global _current
    with _lock:
        _current = Faults()
    return {}


def throttle(action: str) -> None:
    """Raise ThrottlingException while an action is to be throttled."""
    with _lock:
        left = _current.throttled.get(action, 0)
        if not left:
            return
        _current.throttled[action] = left - 1
    raise ServiceError("ThrottlingException", "Rate exceeded")
