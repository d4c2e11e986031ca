"""Application Auto Scaling as MiniStack runs a service: one handler, checked by the service's own model first."""

import json
from collections.abc import Callable
from typing import Any

from ministack.core import concurrency

from ebb_local import authorization
from ebb_local.sagemaker import validation
from ebb_local.sagemaker.errors import ServiceError as ValidationError
from ebb_local.scaling import policies, scheduled, state, targets
from ebb_local.scaling.state import ServiceError

NAME = "application-autoscaling"
_JSON = "application/x-amz-json-1.1"

ACTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "RegisterScalableTarget": targets.register,
    "DeregisterScalableTarget": targets.deregister,
    "DescribeScalableTargets": targets.describe,
    "PutScalingPolicy": policies.put,
    "DescribeScalingPolicies": policies.describe,
    "DeleteScalingPolicy": policies.delete,
    "DescribeScalingActivities": policies.describe_activities,
    "PutScheduledAction": scheduled.put,
    "DescribeScheduledActions": scheduled.describe,
    "DeleteScheduledAction": scheduled.delete,
    "TagResource": targets.tag,
    "UntagResource": targets.untag,
    "ListTagsForResource": targets.list_tags,
}


def call(action: str, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one action as the current principal. Raises ServiceError."""
    if action not in ACTIONS:
        raise ServiceError("UnknownOperationException", f"The embedded cloud does not know {NAME} {action}")
    model = validation.operation(action, NAME)
    assert model is not None
    assert model.input_shape is not None
    try:
        if problems := validation.problems_of(model.input_shape, request):
            raise ServiceError("ValidationException", problems)
        return ACTIONS[action](request)
    except ValidationError as error:
        raise ServiceError(error.code, error.message) from error
    except authorization.AccessDenied as denied:
        raise ServiceError("AccessDeniedException", str(denied)) from denied


async def handle_request(
    method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]
) -> tuple[int, dict[str, str], bytes]:
    """Answer one request that the gateway has authenticated and authorized."""
    action = headers.get("x-amz-target", "").rpartition(".")[2]
    return await concurrency.run_reentrant(_answer, action or f"{method} {path}", body)


def _answer(action: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    try:
        answer = call(action, json.loads(body or b"{}"))
    except ServiceError as error:
        refusal = {"__type": error.code, "Message": error.message, "message": error.message}
        return 400, {"Content-Type": _JSON, "x-amzn-errortype": error.code}, json.dumps(refusal).encode()
    return 200, {"Content-Type": _JSON}, json.dumps(answer).encode()


def get_state() -> dict[str, Any]:
    """Return what MiniStack saves."""
    return state.save()


def load_persisted_state(saved: dict[str, Any]) -> None:
    """Take back what was saved."""
    state.load(saved or {})


def reset() -> None:
    """Forget everything."""
    state.clear()
