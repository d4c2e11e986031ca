"""Step Functions' SageMaker integrations: `sagemaker:createTrainingJob[.sync]` and the others, and `aws-sdk:sagemaker:*`.

Source: https://docs.aws.amazon.com/step-functions/latest/dg/connect-sagemaker.html. The optimized integrations answer
with times in milliseconds; a job that ended badly is `States.TaskFailed` with its Describe response as Cause
(unverified on AWS), a job that was stopped as well: the pessimistic reading.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import stepfunctions

from ebb_local import sync_tasks
from ebb_local.sagemaker import events, jobs, processing_jobs, service, state, training_jobs
from ebb_local.sagemaker.errors import ServiceError
from ebb_local.sync_tasks import Permissions, TaskError

_OPTIMIZED = "arn:aws:states:::sagemaker:"
# Request-response only; `.sync` where the list of sync tasks has it.
_OPTIMIZED_ACTIONS = ("createTrainingJob", "createProcessingJob", "createModel", "createEndpointConfig",
                      "createEndpoint", "updateEndpoint")  # fmt: skip
# How exceptions of the AWS SDK for Java are called: v1 behind the optimized integrations, v2 behind aws-sdk.
_MODELLED = {
    "ResourceInUse": "ResourceInUseException",
    "ResourceNotFound": "ResourceNotFoundException",
    "ResourceLimitExceeded": "ResourceLimitExceededException",
    "ConflictException": "ConflictException",
}
_UNMODELLED = ("ValidationException", "AccessDeniedException", "UnknownOperationException", "SerializationException")
# The tag that Step Functions puts on what it waits for; the reason why the role needs sagemaker:AddTags.
_MANAGED_TAG = {"Key": "MANAGED_BY_AWS", "Value": "STARTED_BY_STEP_FUNCTIONS"}


def install() -> None:
    """Make the integrations known to MiniStack's Step Functions."""
    stepfunctions._AWS_SDK_SERVICE_MAP["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    stepfunctions._AWS_SDK_ERROR_PREFIX["sagemaker"] = "SageMaker"
    stepfunctions._AWS_SDK_ERROR_CODE_OVERRIDES["sagemaker"] = {
        **_MODELLED,
        **dict.fromkeys(_UNMODELLED, "SageMakerException"),
    }
    for action in _OPTIMIZED_ACTIONS:
        stepfunctions._SERVICE_DISPATCH[f"{_OPTIMIZED}{action}"] = _request_response
    _register_job("Training", "training-job", training_jobs.find)
    _register_job("Processing", "processing-job", processing_jobs.find)


def _request_response(resource: str, arguments: dict[str, Any]) -> dict[str, Any]:
    action = resource.removeprefix(_OPTIMIZED)
    if action not in _OPTIMIZED_ACTIONS:
        raise stepfunctions._ExecutionError("States.Runtime", f"The resource {resource} is not supported")
    try:
        return _call(action, arguments)
    except TaskError as error:
        raise stepfunctions._ExecutionError(error.error, error.cause) from error


def _register_job(prefix: str, kind: str, find: Callable[[str], state.Record]) -> None:
    """Register `create<prefix>Job.sync`."""
    member = f"{prefix}JobName"

    def start(arguments: dict[str, Any]) -> str:
        tagged = {**arguments, "Tags": [*(arguments.get("Tags") or []), _MANAGED_TAG]}
        _call(f"create{prefix}Job", tagged)
        return arguments[member]

    def wait(name: str, timeout_s: float) -> dict[str, Any] | None:
        record = find(name)
        if not state.wait_until(lambda: jobs.ended(record, prefix), timeout_s):
            return None
        described = events.in_milliseconds(state.public(record))
        if record[f"{prefix}JobStatus"] != "Completed":
            raise TaskError("States.TaskFailed", json.dumps(described))
        return described

    def stop(name: str) -> None:
        try:
            service.call(f"Stop{prefix}Job", {member: name})
        except ServiceError as error:
            if error.code != "ValidationException":  # it has ended meanwhile
                raise

    def permissions(arguments: dict[str, Any]) -> Permissions:
        arn = state.arn(kind, str(arguments.get(member, "")))
        rule = (
            f"arn:aws:events:{get_region()}:{get_account_id()}:rule/StepFunctionsGetEventsForSageMaker{prefix}JobsRule"
        )
        return Permissions(
            start=[
                (f"sagemaker:Create{prefix}Job", arn),
                (f"sagemaker:Describe{prefix}Job", arn),
                *((f"events:{action}", rule) for action in ("PutTargets", "PutRule", "DescribeRule")),
            ],
            stop=[(f"sagemaker:Stop{prefix}Job", arn)],
        )

    sync_tasks.register(
        f"{_OPTIMIZED}create{prefix}Job.sync", start=start, wait=wait, stop=stop, permissions=permissions
    )


def _call(action: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return events.in_milliseconds(service.call(action[0].upper() + action[1:], arguments))
    except ServiceError as error:
        name = _MODELLED.get(error.code, "AmazonSageMakerException")
        raise TaskError(
            f"SageMaker.{name}",
            f"{error.message} (Service: AmazonSageMaker; Status Code: {error.status}; Error Code: {error.code}; "
            f"Request ID: {uuid.uuid4()}; Proxy: null)",
        ) from error
