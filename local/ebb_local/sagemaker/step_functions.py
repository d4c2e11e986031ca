"""Step Functions' `.sync` integrations of SageMaker: training, processing, transform and tuning jobs.

Source: https://docs.aws.amazon.com/step-functions/latest/dg/connect-sagemaker.html. The result is the Describe response
with times in milliseconds. A job that ended badly is `States.TaskFailed` with that response as Cause (unverified on
AWS), a job that was stopped as well: the pessimistic reading. The other integrations need nothing from here: Step
Functions sends them to the service like any request.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region

from ebb_local import sync_tasks
from ebb_local.sagemaker import (
    events,
    jobs,
    processing_jobs,
    service,
    state,
    training_jobs,
    transform_jobs,
    tuning_jobs,
)
from ebb_local.sagemaker.errors import ServiceError
from ebb_local.sync_tasks import Permissions, TaskError

# Errors that the SDK behind the integration has an exception for; every other one is the general exception.
_MODELLED = {
    "ResourceInUse": "ResourceInUseException",
    "ResourceNotFound": "ResourceNotFoundException",
    "ResourceLimitExceeded": "ResourceLimitExceededException",
    "ConflictException": "ConflictException",
}
# The tag that Step Functions puts on what it waits for; the reason why the role needs sagemaker:AddTags.
_MANAGED_TAG = {"Key": "MANAGED_BY_AWS", "Value": "STARTED_BY_STEP_FUNCTIONS"}


def install() -> None:
    """Register every kind of job with Step Functions."""
    _register("Training", "training-job", training_jobs.find)
    _register("Processing", "processing-job", processing_jobs.find)
    _register("Transform", "transform-job", transform_jobs.find)
    _register("HyperParameterTuning", "hyper-parameter-tuning-job", tuning_jobs.find, rule="Tuning")


def _register(prefix: str, kind: str, find: Callable[[str], state.Record], *, rule: str | None = None) -> None:
    member = f"{prefix}JobName"

    def start(arguments: dict[str, Any]) -> str:
        try:
            service.call(f"Create{prefix}Job", {**arguments, "Tags": [*(arguments.get("Tags") or []), _MANAGED_TAG]})
        except ServiceError as error:
            raise TaskError(
                f"SageMaker.{_MODELLED.get(error.code, 'AmazonSageMakerException')}", _cause(error)
            ) from error
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
        if not jobs.ended(find(name), prefix):
            service.call(f"Stop{prefix}Job", {member: name})

    def permissions(arguments: dict[str, Any]) -> Permissions:
        arn = state.arn(kind, str(arguments.get(member, "")))
        managed = f"rule/StepFunctionsGetEventsForSageMaker{rule or prefix}JobsRule"
        rule_arn = f"arn:aws:events:{get_region()}:{get_account_id()}:{managed}"
        managed_rule = [(f"events:{action}", rule_arn) for action in ("PutTargets", "PutRule", "DescribeRule")]
        return Permissions(
            start=[(f"sagemaker:Create{prefix}Job", arn), (f"sagemaker:Describe{prefix}Job", arn), *managed_rule],
            stop=[(f"sagemaker:Stop{prefix}Job", arn)],
        )

    resource = f"arn:aws:states:::sagemaker:create{prefix}Job.sync"
    sync_tasks.register(resource, start=start, wait=wait, stop=stop, permissions=permissions)


def _cause(error: ServiceError) -> str:
    """Return the error's text as the SDK for Java writes it."""
    return (
        f"{error.message} (Service: AmazonSageMaker; Status Code: {error.status}; Error Code: {error.code}; "
        f"Request ID: {uuid.uuid4()}; Proxy: null)"
    )
