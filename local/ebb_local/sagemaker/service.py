"""The SageMaker service as MiniStack runs it: one handler for the control plane and for the runtime.

MiniStack knows a service as a module with `handle_request`, `get_state`, `load_persisted_state` and `reset`; this is
that module. Every request is checked against the service model first, then carried out in a thread of its own:
checks of S3 and of roles come back to this very server.
"""

import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ministack.core import concurrency

from ebb_local import authorization
from ebb_local.sagemaker import (
    async_queue,
    compilation_jobs,
    components,
    endpoint_configs,
    endpoints,
    faults,
    feature_groups,
    fleets,
    jobs,
    models,
    notebooks,
    processing_jobs,
    recommendations,
    registry,
    runtime,
    settings,
    state,
    studio,
    tags,
    threads,
    training_jobs,
    transform_jobs,
    tuning_jobs,
    validation,
)
from ebb_local.sagemaker.errors import ServiceError, not_implemented

logger = logging.getLogger("ebb.sagemaker")

_JSON = "application/x-amz-json-1.1"
_GATEWAY_TIMEOUT_S = 60.0

ACTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "CreateTrainingJob": training_jobs.create,
    "DescribeTrainingJob": training_jobs.describe,
    "ListTrainingJobs": training_jobs.list_jobs,
    "UpdateTrainingJob": training_jobs.update,
    "StopTrainingJob": training_jobs.stop,
    "CreateProcessingJob": processing_jobs.create,
    "DescribeProcessingJob": processing_jobs.describe,
    "ListProcessingJobs": processing_jobs.list_jobs,
    "StopProcessingJob": processing_jobs.stop,
    "CreateTransformJob": transform_jobs.create,
    "DescribeTransformJob": transform_jobs.describe,
    "ListTransformJobs": transform_jobs.list_jobs,
    "StopTransformJob": transform_jobs.stop,
    "CreateHyperParameterTuningJob": tuning_jobs.create,
    "DescribeHyperParameterTuningJob": tuning_jobs.describe,
    "ListHyperParameterTuningJobs": tuning_jobs.list_jobs,
    "ListTrainingJobsForHyperParameterTuningJob": tuning_jobs.list_trials,
    "StopHyperParameterTuningJob": tuning_jobs.stop,
    "CreateCompilationJob": compilation_jobs.create,
    "DescribeCompilationJob": compilation_jobs.describe,
    "ListCompilationJobs": compilation_jobs.list_jobs,
    "StopCompilationJob": compilation_jobs.stop,
    "CreateInferenceRecommendationsJob": recommendations.create,
    "DescribeInferenceRecommendationsJob": recommendations.describe,
    "ListInferenceRecommendationsJobs": recommendations.list_jobs,
    "StopInferenceRecommendationsJob": recommendations.stop,
    "CreateModel": models.create,
    "DescribeModel": models.describe,
    "ListModels": models.list_models,
    "DeleteModel": models.delete,
    "CreateEndpointConfig": endpoint_configs.create,
    "DescribeEndpointConfig": endpoint_configs.describe,
    "ListEndpointConfigs": endpoint_configs.list_configs,
    "DeleteEndpointConfig": endpoint_configs.delete,
    "CreateEndpoint": endpoints.create,
    "DescribeEndpoint": endpoints.describe,
    "ListEndpoints": endpoints.list_endpoints,
    "UpdateEndpoint": endpoints.update,
    "UpdateEndpointWeightsAndCapacities": endpoints.update_weights_and_capacities,
    "DeleteEndpoint": endpoints.delete,
    "CreateInferenceComponent": components.create,
    "DescribeInferenceComponent": components.describe,
    "ListInferenceComponents": components.list_components,
    "UpdateInferenceComponent": components.update,
    "UpdateInferenceComponentRuntimeConfig": components.update_runtime_config,
    "DeleteInferenceComponent": components.delete,
    "CreateModelPackageGroup": registry.create_group,
    "DescribeModelPackageGroup": registry.describe_group,
    "ListModelPackageGroups": registry.list_groups,
    "DeleteModelPackageGroup": registry.delete_group,
    "CreateModelPackage": registry.create,
    "DescribeModelPackage": registry.describe,
    "ListModelPackages": registry.list_packages,
    "UpdateModelPackage": registry.update,
    "DeleteModelPackage": registry.delete,
    "CreateFeatureGroup": feature_groups.create,
    "DescribeFeatureGroup": feature_groups.describe,
    "ListFeatureGroups": feature_groups.list_groups,
    "DeleteFeatureGroup": feature_groups.delete,
    "CreateNotebookInstance": notebooks.create,
    "DescribeNotebookInstance": notebooks.describe,
    "ListNotebookInstances": notebooks.list_instances,
    "StartNotebookInstance": notebooks.start,
    "StopNotebookInstance": notebooks.stop,
    "DeleteNotebookInstance": notebooks.delete,
    "CreateDomain": studio.create_domain,
    "DescribeDomain": studio.describe_domain,
    "ListDomains": studio.list_domains,
    "DeleteDomain": studio.delete_domain,
    "CreateUserProfile": studio.create_user_profile,
    "DescribeUserProfile": studio.describe_user_profile,
    "ListUserProfiles": studio.list_user_profiles,
    "DeleteUserProfile": studio.delete_user_profile,
    "CreateSpace": studio.create_space,
    "DescribeSpace": studio.describe_space,
    "ListSpaces": studio.list_spaces,
    "DeleteSpace": studio.delete_space,
    "CreateApp": studio.create_app,
    "DescribeApp": studio.describe_app,
    "ListApps": studio.list_apps,
    "DeleteApp": studio.delete_app,
    "AddTags": tags.add_tags,
    "ListTags": tags.list_tags,
    "DeleteTags": tags.delete_tags,
}


_JOBS = (
    (state.training_jobs, "Training"),
    (state.processing_jobs, "Processing"),
    (state.transform_jobs, "Transform"),
)


def call(action: str, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one action as the current principal. Raises ServiceError with AWS's code and text."""
    if action not in ACTIONS:
        raise not_implemented(action)
    faults.throttle(action)
    validation.validate(action, request)
    try:
        return ACTIONS[action](request)
    except authorization.AccessDenied as denied:
        raise ServiceError("AccessDeniedException", str(denied)) from denied


async def handle_request(
    method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]
) -> tuple[int, dict[str, str], bytes]:
    """Answer one request that the gateway has authenticated and authorized."""
    if runtime.is_runtime_path(path):
        return await concurrency.run_reentrant(runtime.handle, path, headers, body)
    action = headers.get("x-amz-target", "").rpartition(".")[2]
    return await concurrency.run_reentrant(_answer, action or f"{method} {path}", body)


def get_state() -> dict[str, Any]:
    """Return what MiniStack saves."""
    return state.save()


def load_persisted_state(saved: dict[str, Any]) -> None:
    """Take back what was saved: jobs that ran have failed, endpoints in service are started again."""
    state.load(saved)
    for store, prefix in _JOBS:
        for *_, record in state.everywhere(store):
            if not jobs.ended(record, prefix):
                _mark_interrupted(record, prefix)
    tuning_jobs.mark_interrupted()
    recommendations.mark_interrupted()
    compilation_jobs.mark_interrupted()
    feature_groups.mark_interrupted()
    async_queue.wait_again()
    endpoints.announce()
    components.announce()
    threads.start("sagemaker-restore", _restore_endpoints)


def reset() -> None:
    """Forget everything and end every container."""
    fleets.close_all()
    state.clear()
    faults.clear()


def _answer(action: str, body: bytes | str) -> tuple[int, dict[str, str], bytes]:
    try:
        request = json.loads(body or b"{}")
        if not isinstance(request, dict):
            raise ValueError("not an object")
        return 200, {"Content-Type": _JSON}, json.dumps(call(action, request)).encode()
    except ServiceError as error:
        refusal = {"__type": error.code, "message": error.message, **error.members}
        return error.status, {"Content-Type": _JSON, "x-amzn-errortype": error.code}, json.dumps(refusal).encode()
    except ValueError as error:
        answer = {"__type": "SerializationException", "message": str(error)}
        return 400, {"Content-Type": _JSON, "x-amzn-errortype": answer["__type"]}, json.dumps(answer).encode()


def _mark_interrupted(record: state.Record, prefix: str) -> None:
    moment = state.now()
    record |= {
        f"{prefix}JobStatus": "Failed",
        f"{prefix}EndTime": moment,
        "LastModifiedTime": moment,
        "FailureReason": jobs.INTERRUPTED_TEXT,
    }
    if prefix == "Training":
        failed = {"Status": "Failed", "StartTime": moment, "EndTime": moment, "StatusMessage": "Training job failed"}
        record["SecondaryStatus"] = "Failed"
        record["SecondaryStatusTransitions"] = [*record["SecondaryStatusTransitions"], failed]


def _restore_endpoints() -> None:
    """Endpoints download their models through the gateway, which starts to listen after the state is loaded."""
    address = urlsplit(settings.current().endpoint_url)
    until = time.monotonic() + _GATEWAY_TIMEOUT_S
    while time.monotonic() < until:
        try:
            socket.create_connection((address.hostname, address.port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    endpoints.restore()
    components.restore()
