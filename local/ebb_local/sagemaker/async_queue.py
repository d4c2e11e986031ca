"""Asynchronous inference: a queue for each endpoint that survives restarts, and what happens to each request in it.

Requests wait while no instance runs. Those that run when the server ends wait again after its start. Expired requests
are dropped on the cloud's clock. Reading the input, writing the output and the notifications happen under the role of
the model. Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-check-predictions.html (objects, messages),
https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html (metrics; three s in
`InvocationsProcesssed`).
Assumed: 4 requests at once for each instance where the configuration names no number; a request that the model refuses
is not sent to it again.
"""

import base64
import contextlib
import http.client
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ministack.core.responses import get_region
from ministack.services import sns

from ebb_local import authorization
from ebb_local.sagemaker import fleets, metrics, processes, settings, state, threads, variants
from ebb_local.sagemaker.errors import HostingFailure, JobFailure
from ebb_local.sagemaker.hosting import Answer, Server
from ebb_local.sagemaker.storage import Bucket, Location

_AT_ONCE = 4
_DEFAULT_TTL_S, _DEFAULT_TIMEOUT_S = 21_600, 900
_MAX_INLINE_RESULT_BYTES = 128 * 1024  # IncludeInferenceResponseIn; SNS takes 256 KiB

_admission = threading.Lock()


class _Interrupted(Exception):
    """The container was taken away while it worked: the request waits for another one."""


class _Failed(Exception):
    """The request ended without an output; the text is the reason, `metric` counts it."""

    def __init__(self, reason: str, metric: str | None = None) -> None:
        super().__init__(reason)
        self.metric = metric


def enqueue(endpoint: state.Record, asked: dict[str, Any]) -> state.Record:
    """Take a request; return its record. `asked` holds the members of InvokeEndpointAsync."""
    number = str(uuid.uuid4())
    output = endpoint["AsyncInferenceConfig"]["OutputConfig"]
    folder, file = asked.get("S3OutputPathExtension"), asked.get("Filename") or f"{number}.out"
    target = Location.parse(output["S3OutputPath"])
    target = target.below(folder.strip("/")) if folder else target
    failures = output.get("S3FailurePath")
    inference_id = asked.get("InferenceId") or str(uuid.uuid4())
    record: state.Record = {
        "endpoint": endpoint["EndpointName"],
        "inference_id": inference_id,
        "asked": {key: value for key, value in asked.items() if key != "Body"},
        "body": base64.b64encode(asked["Body"]).decode() if asked.get("Body") else None,
        "output": str(target.below(file)),
        "failure": str(Location.parse(failures).below(f"{number}-error.out")) if failures else None,
        "arrived": state.now(),
        "status": "Queued",
    }
    state.async_requests[number] = record
    state.update(record)
    pump(endpoint["EndpointName"])
    return record


def pump(name: str) -> None:
    """Begin as many waiting requests of an endpoint as its instances take at once."""
    endpoint = state.endpoints.get(name)
    if endpoint is None or not endpoint.get("AsyncInferenceConfig"):
        return
    with _admission:
        requests = of_endpoint(name)
        running = sum(record["status"] == "Running" for _, record in requests)
        room = _at_once(endpoint) * variants.instances(endpoint) - running
        if room <= 0 or not fleets.of(endpoint["EndpointArn"]):
            return
        waiting = [(number, record) for number, record in requests if record["status"] == "Queued"]
        chosen = sorted(waiting, key=lambda found: found[1]["arrived"])[:room]
        for _, record in chosen:
            record["status"] = "Running"
    for number, record in chosen:
        threads.start(f"async-{number}", _process, number, record)


def of_endpoint(name: str) -> list[tuple[str, state.Record]]:
    """Return the requests of an endpoint that have no answer yet, with their numbers."""
    return [(number, record) for number, record in list(state.async_requests.items()) if record["endpoint"] == name]


def forget(name: str) -> None:
    """Drop the requests of an endpoint that is deleted: on AWS they are lost as well."""
    for number, _ in of_endpoint(name):
        state.async_requests.pop(number, None)


def wait_again() -> None:
    """Let requests wait that ran when the server ended."""
    for *_, record in state.everywhere(state.async_requests):
        record["status"] = "Queued"


def publish(endpoint: state.Record) -> None:
    """Publish how long the queue is, and drop what has waited too long. Called each minute."""
    name, moment = endpoint["EndpointName"], state.now()
    for number, record in of_endpoint(name):
        if record["status"] == "Queued" and moment - record["arrived"] > _ttl_s(record):
            _expire(number, record)
    waiting = of_endpoint(name)
    instances = variants.instances(endpoint)
    oldest = max((moment - record["arrived"] for _, record in waiting), default=0.0)
    metrics.put({"EndpointName": name}, {
        "ApproximateBacklogSize": (float(len(waiting)), "Count"),
        "ApproximateBacklogSizePerInstance": (len(waiting) / max(1, instances), "Count"),
        "ApproximateAgeOfOldestRequest": (max(0.0, oldest), "Seconds"),
        "HasBacklogWithoutCapacity": (float(bool(waiting) and not instances), "Count"),
    })  # fmt: skip


def _process(number: str, record: state.Record) -> None:
    endpoint = state.endpoints.get(record["endpoint"])
    server = _reserve(endpoint) if endpoint else None
    if endpoint is None or server is None:  # scaled in or deleted in between: the request waits on
        state.update(record, status="Queued")
        return
    began = state.now()
    dimensions = {"EndpointName": record["endpoint"], "VariantName": server.unit}
    try:
        if began - record["arrived"] > _ttl_s(record):
            raise _Failed("The request expired in the queue", "ExpiredRequests")
        answer = _ask(server, record)
        kms_key = endpoint["AsyncInferenceConfig"]["OutputConfig"].get("KmsKeyId") or None
        _store(server, answer.body, record["output"], kms_key)
    except _Interrupted:
        state.update(record, status="Queued")
        return
    except _Failed as failed:
        _tell_failure(server, endpoint, record, str(failed))
        counted = {"InvocationFailures": (1.0, "Count")}
        metrics.put(dimensions, counted | ({failed.metric: (1.0, "Count")} if failed.metric else {}))
    else:
        _tell_success(server, endpoint, record, answer)
        metrics.put(dimensions, {
            "InvocationsProcesssed": (1.0, "Count"),
            "InvocationFailures": (0.0, "Count"),
            "TimeInBacklog": ((began - record["arrived"]) * 1e3, "Milliseconds"),
            "TotalProcessingTime": ((state.now() - record["arrived"]) * 1e3, "Milliseconds"),
            "ModelLatency": (answer.model_s * 1e6, "Microseconds"),
        })  # fmt: skip
    state.async_requests.pop(number, None)
    state.update(record, status="Done")
    pump(record["endpoint"])


def _reserve(endpoint: state.Record) -> Server | None:
    """Return a container that takes one more request, or None when there is none."""
    for server in fleets.of(endpoint["EndpointArn"]).values():
        if server.begin():
            return server
    return None


def _ask(server: Server, record: state.Record) -> Answer:
    """Send a request to the reserved container. Raises _Failed for every way in which that can end badly."""
    asked = record["asked"]
    try:
        body = _input(server, record)
    except _Failed:
        server.release()
        raise
    forwarded = {
        "content-type": asked.get("ContentType"),
        "accept": asked.get("Accept"),
        "x-amzn-sagemaker-custom-attributes": asked.get("CustomAttributes"),
        "x-amzn-sagemaker-inference-id": record["inference_id"],
    }
    timeout_s = float(asked.get("InvocationTimeoutSeconds") or _DEFAULT_TIMEOUT_S)
    try:
        answer = server.invoke(body, {key: value for key, value in forwarded.items() if value}, timeout_s)
    except TimeoutError as error:
        raise _Failed("ModelError: the invocation timed out", "Invocation5XXErrors") from error
    except (HostingFailure, OSError, http.client.HTTPException) as error:
        if server.closed or processes.closing():
            raise _Interrupted from error
        raise _Failed(f"InternalServerError: {error}", "Invocation5XXErrors") from error
    if answer.status >= 400:
        kind, text = ("client", "4XX") if answer.status < 500 else ("server", "5XX")
        said = answer.body.decode("utf-8", errors="replace")
        raise _Failed(
            f'ClientError: Received {kind} error ({answer.status}) from primary with message "{said}".',
            f"Invocation{text}Errors",
        )
    return answer


def _input(server: Server, record: state.Record) -> bytes:
    if record["body"] is not None:
        return base64.b64decode(record["body"])
    with _scratch() as folder:
        path = folder / "input"
        try:
            Bucket(server.credentials).download(Location.parse(record["asked"]["InputLocation"]), path)
        except JobFailure as failure:
            raise _Failed(str(failure), "RequestDownloadFailures") from failure
        return path.read_bytes()


def _store(server: Server, body: bytes, uri: str, kms_key: str | None) -> None:
    with _scratch() as folder:
        path = folder / "output"
        path.write_bytes(body)
        try:
            Bucket(server.credentials).upload(path, Location.parse(uri), kms_key)
        except JobFailure as failure:
            raise _Failed(str(failure), "ResponseUploadFailures") from failure


def _tell_success(server: Server, endpoint: state.Record, record: state.Record, answer: Answer) -> None:
    content_type = answer.headers.get("content-type", "application/octet-stream")
    message = _message(record, "Completed") | {
        "responseParameters": {"contentType": content_type, "outputLocation": record["output"]}
    }
    wanted = _notifications(endpoint)
    included = "SUCCESS_NOTIFICATION_TOPIC" in wanted.get("IncludeInferenceResponseIn", [])
    if included and len(answer.body) <= _MAX_INLINE_RESULT_BYTES:
        message["responseBody"] = {"content": base64.b64encode(answer.body).decode(), "encoding": "BASE64"}
    _notify(server, record, wanted.get("SuccessTopic"), message)


def _tell_failure(server: Server, endpoint: state.Record, record: state.Record, reason: str) -> None:
    if record["failure"]:
        kms_key = endpoint["AsyncInferenceConfig"]["OutputConfig"].get("KmsKeyId") or None
        with contextlib.suppress(_Failed):
            _store(server, reason.encode(), record["failure"], kms_key)
    message = _message(record, "Failed") | {"failureReason": reason}
    if record["failure"]:
        message["responseParameters"] = {"outputLocation": record["failure"]}
    _notify(server, record, _notifications(endpoint).get("ErrorTopic"), message)


def _expire(number: str, record: state.Record) -> None:
    """Drop a request that nobody took in time. Whoever asked is told where there is an instance to tell it by."""
    endpoint = state.endpoints.get(record["endpoint"])
    state.async_requests.pop(number, None)
    state.update(record, status="Done")
    if endpoint is None:
        return
    first = endpoint["_variants"][0]
    dimensions = {"EndpointName": record["endpoint"], "VariantName": variants.name(first)}
    metrics.put(dimensions, {"ExpiredRequests": (1.0, "Count"), "InvocationFailures": (1.0, "Count")})
    server = fleets.variant_server(record["endpoint"], first | {"current": 1})
    assert server is not None, "asynchronous variants have a model"
    threads.start(f"expired-{number}", _tell_failure, server, endpoint, record, "The request expired in the queue")


def _notify(server: Server, record: state.Record, topic: str | None, message: dict[str, Any]) -> None:
    if not topic:
        return
    try:
        authorization.authorize("sns:Publish", topic, principal=server.credentials.principal)
        if sns.publish_internal(topic, message) is None:
            raise LookupError(topic)
    except (authorization.AccessDenied, LookupError, sns.SnsPublishError) as error:
        server.log.write(f"notification of {record['inference_id']} failed: {error}")
        dimensions = {"EndpointName": record["endpoint"], "VariantName": server.unit}
        metrics.put(dimensions, {"NotificationFailures": (1.0, "Count")})


def _message(record: state.Record, status: str) -> dict[str, Any]:
    asked = record["asked"]
    return {
        "awsRegion": get_region(),
        "eventTime": _iso(state.now()),
        "receivedTime": _iso(record["arrived"]),
        "invocationStatus": status,
        "requestParameters": {
            "contentType": asked.get("ContentType"),
            "customAttributes": asked.get("CustomAttributes"),
            "endpointName": record["endpoint"],
            "inputLocation": asked.get("InputLocation"),
        },
        "inferenceId": record["inference_id"],
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }


def _notifications(endpoint: state.Record) -> dict[str, Any]:
    return endpoint["AsyncInferenceConfig"]["OutputConfig"].get("NotificationConfig") or {}


def _at_once(endpoint: state.Record) -> int:
    client = endpoint["AsyncInferenceConfig"].get("ClientConfig") or {}
    return client.get("MaxConcurrentInvocationsPerInstance", _AT_ONCE)


def _ttl_s(record: state.Record) -> float:
    return float(record["asked"].get("RequestTTLSeconds") or _DEFAULT_TTL_S)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    folder = settings.current().home / "async"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as name:
        yield Path(name)
