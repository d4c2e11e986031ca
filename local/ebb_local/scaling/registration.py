"""Make Application Auto Scaling one of MiniStack's services: routing, IAM actions, ARNs and condition keys, state.

Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsapplicationautoscaling.html
"""

import json
import sys
from typing import Any

from ministack import app
from ministack.core import iam_actions, router
from ministack.services import stepfunctions

from ebb_local.scaling import service, state

_TARGET_PREFIX = "AnyScaleFrontendService"
_ANY = ("Describe", "GetPredictive")


def install() -> None:
    """Register the service. Repeating it changes nothing."""
    name = service.NAME
    sys.modules["ministack.services.application_autoscaling"] = service
    app.SERVICE_REGISTRY[name] = {"module": "application_autoscaling"}
    app.SERVICE_HANDLERS[name] = service.handle_request
    app._state_map[name] = "application_autoscaling"
    app._loaded_modules["application_autoscaling"] = service
    # First, because MiniStack takes the first service that fits, and EC2's auto scaling is named alike.
    known = dict(router.SERVICE_PATTERNS)
    router.SERVICE_PATTERNS.clear()
    router.SERVICE_PATTERNS[name] = {
        "target_prefixes": [f"{_TARGET_PREFIX}."],
        "host_patterns": [r"^application-autoscaling\."],
        "credential_scope": name,
    }
    router.SERVICE_PATTERNS.update({key: value for key, value in known.items() if key != name})
    iam_actions.SERVICE_TO_IAM_NAMESPACE[name] = name
    iam_actions._TAG_OPERATIONS[name] = frozenset({"RegisterScalableTarget", "TagResource", "UntagResource"})
    stepfunctions._AWS_SDK_SERVICE_MAP["applicationautoscaling"] = {
        "target_prefix": _TARGET_PREFIX,
        "protocol": "json",
        "service_key": name,
    }
    stepfunctions._AWS_SDK_ERROR_PREFIX["applicationautoscaling"] = "ApplicationAutoScaling"
    if not hasattr(iam_actions.extract_resource_arn, "knows_scaling"):
        _teach()


def resource_arn(action: str, request: dict[str, Any]) -> str:
    """Return the ARN that an action is authorized on; `*` for the Describe actions, which AWS cannot narrow."""
    if action.startswith(_ANY):
        return "*"
    if "ResourceARN" in request:
        return str(request["ResourceARN"])
    return state.target_arn(str(request.get("ResourceId", "")), str(request.get("ScalableDimension", "")))


def _teach() -> None:
    known_arn, known_keys = iam_actions.extract_resource_arn, iam_actions.request_tag_context

    def extract_resource_arn(
        name: str, method: str, path: str, headers: dict, body: bytes, query: dict, region: str, account_id: str
    ) -> str:
        if name != service.NAME:
            return known_arn(name, method, path, headers, body, query, region, account_id)
        return resource_arn(headers.get("x-amz-target", "").rpartition(".")[2], _read(body))

    def request_keys(name: str, iam_action: str, body: bytes, params: dict) -> dict:
        keys = known_keys(name, iam_action, body, params)
        if name != service.NAME:
            return keys
        request = _read(body)
        members = {"service-namespace": "ServiceNamespace", "scalable-dimension": "ScalableDimension"}
        ours = {f"{service.NAME}:{key}": str(request[each]) for key, each in members.items() if each in request}
        return {**keys, **ours}

    extract_resource_arn.knows_sagemaker = True  # type: ignore[attr-defined]
    extract_resource_arn.knows_scaling = True  # type: ignore[attr-defined]
    iam_actions.extract_resource_arn = extract_resource_arn
    iam_actions.request_tag_context = request_keys


def _read(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}
