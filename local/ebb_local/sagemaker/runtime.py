"""SageMaker Runtime: InvokeEndpoint.

Sources of the texts: https://github.com/aws/amazon-sagemaker-examples/issues/1881 and 4324 (ModelError),
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html (limits, statuses).
Assumed: more requests at once than MaxConcurrency are answered with ThrottlingException.
"""

import http.client
import json
import random
import re
import time
from urllib.parse import unquote

from ministack.core.responses import get_account_id, get_region

from ebb_local.sagemaker import endpoints, metrics, state
from ebb_local.sagemaker.errors import ServiceError, not_implemented
from ebb_local.sagemaker.hosting import Answer, HostingFailure, Server

_PATH = re.compile(
    r"/endpoints/(?P<name>[^/]+)/(?P<operation>invocations|async-invocations|invocations-response-stream)"
)
_MAX_BODY_BYTES = 6_291_456
_MAX_SERVERLESS_BODY_BYTES = 4 * 1024 * 1024
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
    try:
        if found["operation"] != "invocations":
            raise not_implemented("InvokeEndpointAsync" if "async" in path else "InvokeEndpointWithResponseStream")
        return _invoke(unquote(found["name"]), headers, body)
    except ServiceError as error:
        answer = {"Message": error.message, **error.members}
        return (
            error.status,
            {"content-type": "application/json", "x-amzn-ErrorType": error.code},
            json.dumps(answer).encode(),
        )


def _invoke(name: str, headers: dict[str, str], body: bytes) -> Response:
    began = time.monotonic()
    server = _server(name, headers.get("x-amzn-sagemaker-target-variant"))
    limit = _MAX_SERVERLESS_BODY_BYTES if server.serverless else _MAX_BODY_BYTES
    if len(body) > limit:
        raise ServiceError(
            "ValidationError",
            "1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length less "
            f"than or equal to {limit}",
        )
    if server.serverless and server.in_flight >= server.variant["ServerlessConfig"]["MaxConcurrency"]:
        raise ServiceError("ThrottlingException", f"Endpoint {name} is at its MaxConcurrency.", status=429)
    while not server.begin():  # replaced or deleted in between: whoever is there now answers
        server = _server(name, headers.get("x-amzn-sagemaker-target-variant"))
    answer = _ask(server, body, headers)
    _publish(name, server, answer, time.monotonic() - began)
    if answer.status >= 400:
        raise _model_error(name, server, answer.status, answer.body)
    variant = server.variant["VariantName"]
    kept = {"x-amzn-sagemaker-custom-attributes": answer.headers.get("x-amzn-sagemaker-custom-attributes")}
    return (
        200,
        # Lower case on purpose: MiniStack would rewrite `Content-Type` to that of the control plane's protocol.
        {
            "content-type": answer.headers.get("content-type", "application/octet-stream"),
            "x-Amzn-Invoked-Production-Variant": variant,
            **{key: value for key, value in kept.items() if value},
        },
        answer.body,
    )


def _server(name: str, wanted: str | None) -> Server:
    state.wait_until(lambda: not _coming_back(name), _RESTORE_TIMEOUT_S)
    servers = endpoints.servers_of(name)
    if not servers:
        if name not in state.endpoints:
            text = f"Endpoint {name} of account {get_account_id()} not found."
        else:
            text = f"Endpoint {name} of account {get_account_id()} is not in service."
        raise ServiceError("ValidationError", text)
    if wanted:
        if wanted not in servers:
            raise ServiceError("ValidationError", f"Variant {wanted} of endpoint {name} not found.")
        return servers[wanted]
    weights = [server.variant.get("InitialVariantWeight", 1.0) for server in servers.values()]
    return random.choices(list(servers.values()), weights)[0]


def _coming_back(name: str) -> bool:
    """Return whether the endpoint is in service and its container not there yet: the server has just started."""
    record = state.endpoints.get(name)
    return record is not None and record["EndpointStatus"] == "InService" and not endpoints.servers_of(name)


def _ask(server: Server, body: bytes, headers: dict[str, str]) -> Answer:
    try:
        return server.invoke(body, headers)
    except TimeoutError:
        return Answer(504, {}, _TIMED_OUT.encode(), 60.0, None)
    except (HostingFailure, OSError, http.client.HTTPException) as error:
        return Answer(503, {}, str(error).encode(), 0.0, None)


def _publish(name: str, server: Server, answer: Answer, total_s: float) -> None:
    values = {
        "Invocations": (1.0, "None"),
        "Invocation4XXErrors": (float(400 <= answer.status < 500), "None"),
        "Invocation5XXErrors": (float(answer.status >= 500), "None"),
        "InvocationModelErrors": (float(answer.status >= 400), "None"),
        "ModelLatency": (answer.model_s * 1e6, "Microseconds"),
        "OverheadLatency": (max(0.0, total_s - answer.model_s) * 1e6, "Microseconds"),
    }
    if not server.serverless:
        count = server.variant.get("InitialInstanceCount", 1)
        values["InvocationsPerInstance"] = (1.0 / count, "None")
    elif answer.setup_s is not None:
        values["ModelSetupTime"] = (answer.setup_s * 1e6, "Microseconds")
    metrics.put({"EndpointName": name, "VariantName": server.variant["VariantName"]}, values)


def _model_error(name: str, server: Server, status: int, body: bytes) -> ServiceError:
    region, account, text = get_region(), get_account_id(), body.decode("utf-8", errors="replace")
    kind = "client" if status < 500 else "server"
    message = _TIMED_OUT if text == _TIMED_OUT else (
        f'Received {kind} error ({status}) from primary with message "{text}". See '
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group="
        f"/aws/sagemaker/Endpoints/{name} in account {account} for more information."
    )  # fmt: skip
    return ServiceError("ModelError", message, status=424, OriginalStatusCode=status, OriginalMessage=text,
                        LogStreamArn=server.log.arn)  # fmt: skip
