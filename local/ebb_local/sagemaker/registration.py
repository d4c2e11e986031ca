"""Make SageMaker one of MiniStack's services: routing, IAM actions and resource ARNs, persistence.

Unregistered services are authenticated and never authorized; and a service whose ARNs MiniStack cannot derive is
authorized on `*`, which denies every narrow policy. So both are registered.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from ministack import app
from ministack.core import iam_actions, router

from ebb_local.sagemaker import runtime, service, state, studio
from ebb_local.sagemaker.errors import ServiceError

_NAME = "sagemaker"
# The member of a request that names the resource which AWS authorizes the action on. First match wins.
# Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
_ARN_MEMBERS = (
    ("HyperParameterTuningJobName", "hyper-parameter-tuning-job"),
    ("TrainingJobName", "training-job"),
    ("ProcessingJobName", "processing-job"),
    ("CompilationJobName", "compilation-job"),
    ("TransformJobName", "transform-job"),
    ("FeatureGroupName", "feature-group"),
    ("NotebookInstanceName", "notebook-instance"),
    ("InferenceComponentName", "inference-component"),
    ("EndpointName", "endpoint"),
    ("EndpointConfigName", "endpoint-config"),
    ("ModelName", "model"),
    ("JobName", "inference-recommendations-job"),
)
_STUDIO_MEMBERS = (("SpaceName", "space"), ("UserProfileName", "user-profile"))


def install() -> None:
    """Register the service. Repeating it changes nothing."""
    sys.modules[f"ministack.services.{_NAME}"] = service
    app.SERVICE_REGISTRY[_NAME] = {"module": _NAME}
    app.SERVICE_HANDLERS[_NAME] = service.handle_request
    app._state_map[_NAME] = _NAME
    app._loaded_modules[_NAME] = service
    router.SERVICE_PATTERNS[_NAME] = {
        "target_prefixes": ["SageMaker."],
        "host_patterns": [r"(api|runtime)\.sagemaker\."],
        "credential_scope": _NAME,
    }
    iam_actions.SERVICE_TO_IAM_NAMESPACE[_NAME] = _NAME
    iam_actions._BOTOCORE_SERVICE_MAP[_NAME] = ["sagemaker-runtime"]
    iam_actions._REST_ROUTE_CACHE.pop(_NAME, None)
    # MiniStack reads from this map which operations carry tags; the runtime's have none.
    iam_actions._TAG_OPERATIONS[_NAME] = frozenset(
        action for action in service.ACTIONS if action.startswith("Create") or action in ("AddTags", "DeleteTags")
    )
    if not hasattr(iam_actions.extract_resource_arn, "knows_sagemaker"):
        _teach_resource_arns()


def install_control(actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Answer control targets `Ebb.<name>`, for the account's root only, as the control endpoint's own are."""

    async def handle(
        method: str, path: str, headers: dict, body: bytes, query: dict
    ) -> tuple[int, dict[str, str], bytes]:
        action = headers["x-amz-target"].removeprefix("Ebb.")
        try:
            status, answer = 200, actions[action](json.loads(body or b"{}"))
        except ServiceError as error:
            status, answer = error.status, {"__type": error.code, "message": error.message}
        return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()

    app.SERVICE_HANDLERS["ebb-sagemaker"] = handle
    # MiniStack takes the first prefix that fits: this entry has to be there before the control endpoint's `Ebb.`.
    router.SERVICE_PATTERNS["ebb-sagemaker"] = {
        "target_prefixes": [f"Ebb.{name}" for name in actions],
        "host_patterns": [],
        "credential_scope": "ebb",
    }
    iam_actions.SERVICE_TO_IAM_NAMESPACE["ebb-sagemaker"] = "ebb"


def resource_arn(action: str, request: dict[str, Any]) -> str:
    """Return the ARN that an action is authorized on; `*` for the List actions, which AWS cannot narrow."""
    if action.startswith("List") and action != "ListTags":
        return "*"
    if "ResourceArn" in request:
        return str(request["ResourceArn"])
    if "ModelPackageArn" in request or "ModelPackageName" in request:
        return str(request.get("ModelPackageArn") or request["ModelPackageName"])
    if action == "CreateModelPackage" and request.get("ModelPackageGroupName"):
        return state.arn("model-package", f"{_last(request['ModelPackageGroupName'])}/*")
    if "ModelPackageGroupName" in request:
        return state.arn("model-package-group", _last(request["ModelPackageGroupName"]))
    if "AppName" in request:
        return studio.app_arn(request)
    if action == "CreateDomain":
        return state.arn("domain", "*")
    if "DomainId" in request:
        names = [(kind, request[member]) for member, kind in _STUDIO_MEMBERS if member in request]
        kind, name = names[0] if names else ("domain", "")
        return state.arn(kind, "/".join(part for part in (str(request["DomainId"]), str(name)) if part))
    for member, kind in _ARN_MEMBERS:
        if member in request:
            return state.arn(kind, str(request[member]))
    return "*"


def _last(name_or_arn: Any) -> str:
    return str(name_or_arn).rsplit("/", 1)[-1]


def _teach_resource_arns() -> None:
    known = iam_actions.extract_resource_arn

    def extract_resource_arn(
        name: str, method: str, path: str, headers: dict, body: bytes, query: dict, region: str, account_id: str
    ) -> str:
        if name != _NAME:
            return known(name, method, path, headers, body, query, region, account_id)
        if runtime.is_runtime_path(path):
            return state.arn("endpoint", runtime.endpoint_name(path))
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            return "*"
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        return resource_arn(action, request) if isinstance(request, dict) else "*"

    extract_resource_arn.knows_sagemaker = True  # type: ignore[attr-defined]
    iam_actions.extract_resource_arn = extract_resource_arn
