"""SageMaker Runtime: InvokeEndpoint and InvokeEndpointAsync.

Sources of the texts: https://github.com/aws/amazon-sagemaker-examples/issues/1881 and 4324 (ModelError),
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html (limits, statuses),
https://aws.amazon.com/blogs/machine-learning/unlock-cost-savings-with-the-new-scale-down-to-zero-feature-in-amazon-sagemaker-inference/
(no capacity). Assumed: more requests at once than MaxConcurrency are answered with ThrottlingException; a component is
authorized beside its endpoint; the wordings of refusals that concern the kind of endpoint.
"""

import http.client
import json
import random
import re
import time
from typing import Any
from urllib.parse import unquote

from ministack.core.responses import get_account_id, get_region

from ebb_local import authorization
from ebb_local.sagemaker import async_queue, faults, fleets, metrics, state, validation, variants
from ebb_local.sagemaker.errors import HostingFailure, ServiceError, not_implemented
from ebb_local.sagemaker.hosting import Answer, Server

_PATH = re.compile(
    r"/endpoints/(?P<name>[^/]+)/(?P<operation>invocations|async-invocations|invocations-response-stream)"
)
_MAX_BODY_BYTES = 6_291_456
_MAX_SERVERLESS_BODY_BYTES = 4 * 1024 * 1024
_MAX_INLINE_BYTES = 128_000
_OPERATIONS = {"invocations": "InvokeEndpoint", "async-invocations": "InvokeEndpointAsync",
               "invocations-response-stream": "InvokeEndpointWithResponseStream"}  # fmt: skip
_COMPONENT = "x-amzn-sagemaker-inference-component"
_NO_CAPACITY = (
    "Inference Component has no capacity to process this request. ApplicationAutoScaling may be in-progress (if "
    "configured) or try to increase the capacity by invoking UpdateInferenceComponentRuntimeConfig API."
)
_RESTORE_TIMEOUT_S = 60.0
_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)
Response = tuple[int, dict[str, str], bytes]


def is_runtime_path(path: str) -> bool:
    """Return whether a request is for the runtime and not for the control plane: both sign as `sagemaker`."""
    return _PATH.fullmatch(path) is not None


def endpoint_name(path: str) -> str:
    """Return the endpoint that a runtime path names."""
    found = _PATH.fullmatch(path)
    return unquote(found["name"]) if found else ""


def handle(path: str, headers: dict[str, str], body: bytes) -> Response:
    """Answer one runtime request."""
    found = _PATH.fullmatch(path)
    assert found is not None, "routed by is_runtime_path"
    name, operation = unquote(found["name"]), _OPERATIONS[found["operation"]]
    try:
        faults.throttle(operation)
        if operation == "InvokeEndpointAsync":
            return _take(name, headers, body)
        if operation != "InvokeEndpoint":
            raise not_implemented(operation)
        return _invoke(name, headers, body)
    except authorization.AccessDenied as denied:
        return _refusal(ServiceError("AccessDeniedException", str(denied), status=403))
    except ServiceError as error:
        return _refusal(error)


def _refusal(error: ServiceError) -> Response:
    answer = {"Message": error.message, **error.members}
    headers = {"content-type": "application/json", "x-amzn-ErrorType": error.code}
    return error.status, headers, json.dumps(answer).encode()


def _invoke(name: str, headers: dict[str, str], body: bytes) -> Response:
    began = time.monotonic()
    record = _in_service(name)
    if record.get("AsyncInferenceConfig"):
        raise _refused(f"Endpoint {name} of account {get_account_id()} is asynchronous. Use InvokeEndpointAsync.")
    component, server = _choose(record, headers)
    _require_size(server, body)
    while not server.begin():  # replaced or deleted in between: whoever is there now answers
        component, server = _choose(_in_service(name), headers)
    if server.serverless and server.in_flight > server.serverless["MaxConcurrency"]:
        server.release()
        raise ServiceError("ThrottlingException", f"Endpoint {name} is at its MaxConcurrency.", status=429)
    at_once = server.in_flight
    answer = _ask(server, body, headers)
    _publish(record, component, server, answer, time.monotonic() - began, at_once)
    if answer.status >= 400:
        raise _model_error(server, answer.status, answer.body)
    kept = {"x-amzn-sagemaker-custom-attributes": answer.headers.get("x-amzn-sagemaker-custom-attributes")}
    return (
        200,
        # Lower case on purpose: MiniStack would rewrite `Content-Type` to that of the control plane's protocol.
        {
            "content-type": answer.headers.get("content-type", "application/octet-stream"),
            "x-Amzn-Invoked-Production-Variant": component["VariantName"] if component else server.unit,
            **{key: value for key, value in kept.items() if value},
        },
        answer.body,
    )


def _take(name: str, headers: dict[str, str], body: bytes) -> Response:
    """InvokeEndpointAsync: queue the request and say where its answer will be."""
    record = _in_service(name)
    if not record.get("AsyncInferenceConfig"):
        raise _refused(f"Endpoint {name} of account {get_account_id()} is not asynchronous. Use InvokeEndpoint.")
    asked: dict[str, Any] = _members("InvokeEndpointAsync", headers)
    if body:
        asked["Body"] = body
    if len(body) > _MAX_INLINE_BYTES:
        raise _refused(_too_long(_MAX_INLINE_BYTES))
    if bool(body) == bool(asked.get("InputLocation")):
        raise _refused("Exactly one of InputLocation and Body must be specified.")
    queued = async_queue.enqueue(record, asked)
    where = {"x-amzn-sagemaker-outputlocation": queued["output"]}
    if queued["failure"]:
        where["x-amzn-sagemaker-failurelocation"] = queued["failure"]
    return (
        202,
        {"content-type": "application/json", **where},
        json.dumps({"InferenceId": queued["inference_id"]}).encode(),
    )


def _members(operation: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return the members that a request carries in headers, checked against the service model."""
    model = validation.operation(operation, "sagemaker-runtime")
    shape = model.input_shape if model else None
    assert shape is not None, "botocore knows the operation"
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        value = headers.get(member.serialization.get("name", "").lower())
        if member.serialization.get("location") == "header" and value is not None:
            found[name] = _number(value) if member.type_name == "integer" else value
    problems = validation.problems_of(shape, {**found, "EndpointName": "checked-by-the-path"})
    if problems:
        raise _refused(problems)
    return found


def _number(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _in_service(name: str) -> state.Record:
    """Return the record of an endpoint that takes requests; one that an update works on does."""
    record = state.endpoints.get(name)
    if record is None:
        raise _refused(f"Endpoint {name} of account {get_account_id()} not found.")
    arn = record["EndpointArn"]
    state.wait_until(lambda: not fleets.is_coming_back(arn), _RESTORE_TIMEOUT_S)
    if record["EndpointStatus"] in ("Creating", "Failed", "Deleting"):
        raise _refused(f"Endpoint {name} of account {get_account_id()} is not in service.")
    return record


def _choose(record: state.Record, headers: dict[str, str]) -> tuple[state.Record | None, Server]:
    """Return the container for the next request, and the component that it belongs to."""
    name, wanted = record["EndpointName"], headers.get("x-amzn-sagemaker-target-variant")
    if variants.hosts_components(record["_variants"][0]):
        return _choose_component(record, headers.get(_COMPONENT))
    if headers.get(_COMPONENT):
        raise _refused(f"Endpoint {name} of account {get_account_id()} has no inference components.")
    servers = fleets.of(record["EndpointArn"])
    if not servers:
        raise _refused(f"Endpoint {name} of account {get_account_id()} is not in service.")
    if wanted:
        if wanted not in servers:
            raise _refused(f"Variant {wanted} of endpoint {name} not found.")
        return None, servers[wanted]
    weight = {variants.name(entry): entry["weight"] for entry in record["_variants"]}
    weights = [weight.get(unit, 1.0) for unit in servers]
    if not any(weights):
        raise _refused(f"No variant of endpoint {name} has a weight above 0.")
    return None, random.choices(list(servers.values()), weights)[0]


def _choose_component(endpoint: state.Record, wanted: str | None) -> tuple[state.Record, Server]:
    if not wanted:
        raise _refused(
            "Inference Component Name header is required for endpoints to which you plan to deploy inference "
            "components. Please include Inference Component Name header or consider using SageMaker models."
        )
    authorization.authorize("sagemaker:InvokeEndpoint", state.arn("inference-component", wanted))
    component = state.inference_components.get(wanted)
    if component is None or component["EndpointName"] != endpoint["EndpointName"]:
        raise _refused(f"Inference Component {wanted} of account {get_account_id()} not found.")
    arn = component["InferenceComponentArn"]
    state.wait_until(lambda: not fleets.is_coming_back(arn), _RESTORE_TIMEOUT_S)
    for server in fleets.of(arn).values():
        return component, server
    metrics.put({"InferenceComponentName": component["InferenceComponentName"]},
                {"NoCapacityInvocationFailures": (1.0, "Count")})  # fmt: skip
    raise _refused(_NO_CAPACITY)


def _require_size(server: Server, body: bytes) -> None:
    limit = _MAX_SERVERLESS_BODY_BYTES if server.serverless else _MAX_BODY_BYTES
    if len(body) > limit:
        raise _refused(_too_long(limit))


def _too_long(limit: int) -> str:
    return (
        "1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length less "
        f"than or equal to {limit}"
    )


def _refused(text: str) -> ServiceError:
    return ServiceError("ValidationError", text)


def _ask(server: Server, body: bytes, headers: dict[str, str]) -> Answer:
    try:
        return server.invoke(body, headers)
    except TimeoutError:
        return Answer(504, {}, _TIMED_OUT.encode(), 60.0, None)
    except (HostingFailure, OSError, http.client.HTTPException) as error:
        return Answer(503, {}, str(error).encode(), 0.0, None)


def _publish(
    record: state.Record, component: state.Record | None, server: Server, answer: Answer, total_s: float, at_once: int
) -> None:
    values = {
        "Invocations": (1.0, "None"),
        "Invocation4XXErrors": (float(400 <= answer.status < 500), "None"),
        "Invocation5XXErrors": (float(answer.status >= 500), "None"),
        "InvocationModelErrors": (float(answer.status >= 400), "None"),
        "ModelLatency": (answer.model_s * 1e6, "Microseconds"),
        "OverheadLatency": (max(0.0, total_s - answer.model_s) * 1e6, "Microseconds"),
    }
    variant = component["VariantName"] if component else server.unit
    if component is not None:
        copies = max(1, component["_current"])
        per_copy = {
            "InvocationsPerCopy": (1.0 / copies, "None"),
            "ConcurrentRequestsPerCopy": (at_once / copies, "None"),
        }
        metrics.put({"InferenceComponentName": component["InferenceComponentName"]}, values | per_copy)
    elif not server.serverless:
        entry = variants.find(record, variant)
        values["InvocationsPerInstance"] = (1.0 / max(1, entry["current"] if entry else 1), "None")
    elif answer.setup_s is not None:
        values["ModelSetupTime"] = (answer.setup_s * 1e6, "Microseconds")
    metrics.put({"EndpointName": record["EndpointName"], "VariantName": variant}, values)


def _model_error(server: Server, status: int, body: bytes) -> ServiceError:
    region, account, text = get_region(), get_account_id(), body.decode("utf-8", errors="replace")
    kind = "client" if status < 500 else "server"
    message = _TIMED_OUT if text == _TIMED_OUT else (
        f'Received {kind} error ({status}) from primary with message "{text}". See '
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group="
        f"{server.place.log_group} in account {account} for more information."
    )  # fmt: skip
    return ServiceError("ModelError", message, status=424, OriginalStatusCode=status, OriginalMessage=text,
                        LogStreamArn=server.log.arn)  # fmt: skip
