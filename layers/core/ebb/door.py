"""The front door: what a caller asks, what to do given where the endpoint is, and what SageMaker's answers mean. Pure.

    POST /addresses/<address>/invocations   the payload is the body; answers as InvokeEndpoint does, or 202 and a ticket
    POST /addresses/<address>/uploads       where to put a payload that is too large for a request to Lambda
    GET  /addresses/<address>               where the model is reached now
    GET  /tickets/<address>/<id>            the answer to a ticket; 202 while there is none

Every error is a JSON document with `code`, `message` and `remedy`.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from ebb import addresses, names, tickets
from ebb.addresses import Address
from ebb.tickets import Ended, Waiting

DEFAULT_WAIT_S = 25.0
LONGEST_WAIT_S = 60.0  # then a ticket: a function that waits is billed for it
# Lambda takes and gives 6 MB, and a binary body is base64 in it, a third longer:
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
INLINE_BYTES = 4_500_000
# https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html and .../async-inference.html; real time: the
# model of the API. A guide says 25 MB: https://docs.aws.amazon.com/sagemaker/latest/dg/realtime-endpoints.html
PAYLOAD_BYTES = {"serverless": 4 * 1024**2, "async": 1024**3}
DEFAULT_PAYLOAD_BYTES = 6 * 1024**2
PARAMETERS = {
    "x-amzn-sagemaker-custom-attributes": "CustomAttributes",
    "x-amzn-sagemaker-target-model": "TargetModel",
    "x-amzn-sagemaker-target-variant": "TargetVariant",
    "x-amzn-sagemaker-target-container-hostname": "TargetContainerHostname",
    "x-amzn-sagemaker-inference-id": "InferenceId",
    "x-amzn-sagemaker-enable-explanations": "EnableExplanations",
    "x-amzn-sagemaker-session-id": "SessionId",
}
ASYNC_PARAMETERS = {"CustomAttributes", "InferenceId"}
LOOKS = 3  # at the address, for one request: deployed or put to sleep between a look and the call, and once more
NOTED_EVERY = timedelta(minutes=1)

MODEL_ERROR = "ModelError"  # what the model itself has answered with

_ADDRESS = re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}")
_ROUTES = (
    ("POST", re.compile(r"/addresses/(?P<address>[^/]+)/(?P<what>invocations|uploads)")),
    ("GET", re.compile(r"/(?P<what>addresses)/(?P<address>[^/]+)")),
    ("GET", re.compile(r"/(?P<what>tickets)/(?P<address>[^/]+)/(?P<id>[^/]+)")),
)
# How SageMaker words that nothing is there to answer: gone or not in service (the endpoint), no copy (the component):
# https://aws.amazon.com/blogs/machine-learning/unlock-cost-savings-with-the-new-scale-down-to-zero-feature-in-amazon-sagemaker-inference/
_NOBODY_THERE = re.compile(
    r"endpoint \S+ of account \S+ (was )?(not found|(is )?not in service)"
    r"|could not find endpoint|inference component.*(not found|not in service)|has no capacity to process",
    re.IGNORECASE,
)
_BUSY = {
    "ThrottlingException", "ModelNotReadyException", "ServiceUnavailable", "ServiceUnavailableException",
    "InternalFailure", "InternalServerException", "InternalDependencyException", "RequestTimeout", "NoAnswer",
}  # fmt: skip


class Refused(Exception):
    """What a caller asks cannot be done; `status`, `code`, `message` and `remedy` are the answer."""

    def __init__(self, status: int, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.error = {"code": code, "message": message, "remedy": remedy}


@dataclass(frozen=True)
class Asked:
    """What a caller asks of the front door."""

    what: Literal["invocations", "uploads", "addresses", "tickets"]
    address: str
    now: datetime
    ticket: str = ""  # the id: the caller's own, that of an upload, or Lambda's id of this request
    repeatable: bool = False  # the caller chose the id, so this may be a repeat
    uploaded: bool = False
    body: bytes = b""
    content_type: str = "application/octet-stream"
    accept: str | None = None
    more: dict[str, str] = field(default_factory=dict)
    wait_s: float = DEFAULT_WAIT_S


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered."""

    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """What SageMaker answered instead. `more` holds what it says of the model: OriginalStatusCode, OriginalMessage."""

    status: int
    code: str
    message: str
    more: dict[str, Any] = field(default_factory=dict)


class Meaning(StrEnum):
    """What a refusal means for the request."""

    NOBODY_THERE = "nobody there"  # asleep, replaced, without capacity: it waits, and the endpoint is woken
    BUSY = "busy"  # it waits and is tried again
    TOLD = "told"  # the model or SageMaker has judged it: the caller is told


class Step(StrEnum):
    """What to do with a request."""

    INVOKE = "invoke"
    HAND_OVER = "hand over"  # to SageMaker's own queue, awake or not
    WAIT = "wait"


def asked(event: Mapping[str, Any]) -> Asked:
    """Return what a function URL's event asks.

    Source: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    Raises: Refused.
    """
    context = event["requestContext"]
    what, found = _route(context["http"]["method"], event["rawPath"])
    headers = {name.lower(): value for name, value in event.get("headers", {}).items()}
    own, upload = headers.get("x-ebb-request-id"), headers.get("x-ebb-upload")
    ticket = found.get("id") or upload or own or context["requestId"]
    if not tickets.ID.fullmatch(ticket):
        raise Refused(400, "invalid-request-id", f"{ticket!r} is no request id", f"Give one like {tickets.ID.pattern}.")
    body = event.get("body") or ""
    return Asked(
        what=what,  # type: ignore[arg-type]  # `_ROUTES` names no other
        address=found["address"],
        now=datetime.fromtimestamp(context["timeEpoch"] / 1000, tz=UTC),
        ticket=ticket,
        repeatable=bool(own or upload),
        uploaded=bool(upload),
        body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
        # Sent as application/octet-stream a body comes through byte for byte; what it holds then stands beside it.
        content_type=headers.get("x-ebb-content-type") or headers.get("content-type") or "application/octet-stream",
        accept=headers.get("x-ebb-accept") or headers.get("accept"),
        more={PARAMETERS[name]: value for name, value in headers.items() if name in PARAMETERS},
        wait_s=_wait_s(headers.get("x-ebb-wait-s")),
    )


def spellings(address: str, stack: str) -> list[str]:
    """Return the addresses that a name may mean: itself, or that of the project of this name."""
    return [address] + ([names.endpoint(stack, address)] if names.is_project(address) else [])


def unknown(address: str) -> Refused:
    """Return the answer for an address that the ledger does not know."""
    return Refused(404, "unknown-address", f"there is no address {address}", "`ebb endpoints` lists them.")


def step(address: Address) -> Step:
    """Return what to do with a request, given where its endpoint is.

    An asynchronous endpoint takes requests asleep or awake: SageMaker keeps them until there is an instance.
    Raises: Refused for an address that has no endpoint.
    """
    if address.kind == "batch" or address.endpoint_name is None:
        message = f"{address.address} is of the kind {address.kind}: files are scored, single requests have no endpoint"
        remedy = "Drop a file under <project>/score/, or move it: ebb deploy PROJECT --kind serverless."
        raise Refused(409, "batch-only", message, remedy)
    if address.kind == "async":
        return Step.HAND_OVER
    return Step.INVOKE if address.state == addresses.AWAKE else Step.WAIT


def check_size(address: Address, size_bytes: int) -> None:
    """Refuse a payload that this kind of endpoint does not take.

    Raises: Refused.
    """
    most = PAYLOAD_BYTES.get(address.kind, DEFAULT_PAYLOAD_BYTES)
    if size_bytes > most:
        message = f"{size_bytes:,} bytes are more than a {address.kind} endpoint takes, {most:,}"
        remedy = "Send less at once, or move the model: ebb deploy PROJECT --kind async takes up to 1 GiB."
        raise Refused(413, "payload-too-large", message, remedy)


def meaning(refusal: Refusal) -> Meaning:
    """Return what a refusal of InvokeEndpoint or InvokeEndpointAsync means for the request.

    Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html#API_runtime_InvokeEndpoint_Errors
    """
    if refusal.code == "ValidationError" and _NOBODY_THERE.search(refusal.message):
        return Meaning.NOBODY_THERE
    return Meaning.BUSY if refusal.code in _BUSY or refusal.status == 429 else Meaning.TOLD


def is_judged(refusal: Refusal) -> bool:
    """Return whether a model has answered that the request is wrong: it would say so again.

    Whatever else comes from an endpoint that loses or gets its capacity may be of that. A container that is torn down
    or still loading is assumed to show as a ModelError with 0, 5xx or no OriginalStatusCode.
    Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html#API_runtime_InvokeEndpoint_Errors
    """
    return refusal.code == MODEL_ERROR and 400 <= int(refusal.more.get("OriginalStatusCode") or 0) < 500


def moved(before: Address, now: Address | None) -> bool:
    """Return whether an address has changed since it was read: deployed anew, of another kind, asleep, gone."""
    return now is None or (now.generation, now.endpoint_name, now.component) != (
        before.generation,
        before.endpoint_name,
        before.component,
    )


def is_noted(address: Address, now: datetime) -> bool:
    """Return whether the ledger knows already, to the minute, that this endpoint is asked."""
    return address.last_request_at is not None and now - address.last_request_at < NOTED_EVERY


def waiting(asked: Asked, address: Address, *, size_bytes: int) -> Waiting:
    """Return what is kept of a request until it is answered."""
    return Waiting(
        address=address.address,
        id=asked.ticket,
        content_type=asked.content_type,
        accept=asked.accept,
        more=asked.more,
        size_bytes=size_bytes,
        sha256=None if asked.uploaded else tickets.digest(asked.body),
        asked_at=asked.now,
        deadline=tickets.deadline(address, asked.now),
    )


def check_repeat(asked: Asked, before: Waiting) -> None:
    """Refuse a request under an id of the caller's own that brought another one before: it would get that one's answer.

    Raises: Refused.
    """
    if before.sha256 is not None and not asked.uploaded and tickets.digest(asked.body) != before.sha256:
        message = f"the request id {asked.ticket} has been used for another payload"
        raise Refused(409, "request-id-reused", message, "Give each request an id of its own.")


def told(refusal: Refusal) -> dict[str, Any]:
    """Return a refusal as its caller gets it: SageMaker's own code, message and words of the model."""
    remedy = "" if refusal.code == MODEL_ERROR else "See the message: SageMaker has refused the request itself."
    return {"code": refusal.code, "message": refusal.message, "remedy": remedy, **refusal.more}


def of_reply(reply: Reply, address: str) -> dict[str, Any]:
    """Return the HTTP answer with a model's answer, byte for byte."""
    return _answer(200, reply.body, reply.content_type, {"x-ebb-address": address, **reply.headers})


def of_refusal(refusal: Refusal) -> dict[str, Any]:
    """Return the HTTP answer with what SageMaker refused."""
    return _json(refusal.status, told(refusal))


def of_refused(refused: Refused) -> dict[str, Any]:
    """Return the HTTP answer with what the front door refused."""
    return _json(refused.status, refused.error)


def of_address(address: Address) -> dict[str, Any]:
    """Return the HTTP answer that says where a model is reached."""
    shown = {
        "address", "kind", "state", "endpoint_name", "component", "variant", "project", "reason", "changed_at",
        "in_service_since",
    }  # fmt: skip
    return _json(200, address.model_dump(mode="json", include=shown))


def of_upload(asked: Asked, url: str, headers: Mapping[str, str], expires_in_s: int) -> dict[str, Any]:
    """Return the HTTP answer that says where to put a large payload."""
    how = {"method": "PUT", "url": url, "headers": dict(headers), "expires_in_s": expires_in_s}
    return _json(200, {"upload": asked.ticket, "address": asked.address, **how})


def of_ticket(
    ticket: Waiting,
    ended: Ended | None,
    address: Address | None,
    now: datetime,
    handed: tickets.HandedOver | None = None,
) -> dict[str, Any]:
    """Return the HTTP answer to a ticket without an answer: where it stands, or why there will be none."""
    state = tickets.state(ended, ticket, address, now, elsewhere=handed is not None and handed.elsewhere)
    name = {"ticket": ticket.name, "state": state}
    if ended is None and state == "expired":
        ended = tickets.expired(ticket, now, address.reason if address else None)
    if ended:
        return _json(ended.status, {**(ended.error or {}), **name})
    known = {
        **name,
        "address": ticket.address,
        "asked_at": ticket.asked_at.isoformat(),
        "deadline": ticket.deadline.isoformat(),
        "retry_after_s": tickets.FIRST_PAUSE_S,
    }
    if address and address.state != addresses.AWAKE:
        since = address.changed_at.isoformat() if address.changed_at else None
        known |= {"endpoint_state": address.state, "since": since, "reason": address.reason}
    if handed:
        known |= {"output_location": handed.output_location, "failure_location": handed.failure_location}
    answer = _json(202, known)
    answer["headers"] |= {"location": f"/tickets/{ticket.name}", "retry-after": str(tickets.FIRST_PAUSE_S)}
    return answer


def of_large_answer(ticket: str, ended: Ended, url: str) -> dict[str, Any]:
    """Return the HTTP answer for a body that no answer of Lambda holds: where it can be fetched."""
    answer = _json(303, {"ticket": ticket, "state": ended.state, "size_bytes": ended.size_bytes, "url": url})
    answer["headers"] |= {"location": url, "x-ebb-content-type": ended.content_type, **ended.headers}
    return answer


def of_fault(request_id: str) -> dict[str, Any]:
    """Return the HTTP answer for a fault of Ebb's own; it is logged under the request's id."""
    message = f"the front door failed; its log has the request {request_id}"
    return _json(500, {"code": "internal", "message": message, "remedy": "Send it again under the same request id."})


def _route(method: str, path: str) -> tuple[str, dict[str, str]]:
    allowed = []
    for verb, pattern in _ROUTES:
        if found := pattern.fullmatch(path.rstrip("/")):
            parts = found.groupdict()
            if not _ADDRESS.fullmatch(parts["address"]):
                raise unknown(parts["address"])
            if verb == method:
                return parts.pop("what"), parts
            allowed.append(verb)
    if allowed:
        raise Refused(405, "method-not-allowed", f"{method} {path} is not possible", f"Use {' or '.join(allowed)}.")
    raise Refused(404, "no-such-route", f"there is nothing at {path}", "POST /addresses/<address>/invocations asks.")


def _wait_s(given: str | None) -> float:
    if given is None:
        return DEFAULT_WAIT_S
    try:
        wait_s = float(given)
    except ValueError:
        wait_s = math.nan
    if not wait_s >= 0:
        raise Refused(400, "invalid-wait", f"x-ebb-wait-s: {given!r} is no number of seconds", "Give 0 for a ticket.")
    return min(wait_s, LONGEST_WAIT_S)


def _json(status: int, document: Mapping[str, Any]) -> dict[str, Any]:
    return _answer(status, json.dumps(document).encode(), "application/json", {})


def _answer(status: int, body: bytes, content_type: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": content_type, **headers},
        "body": base64.b64encode(body).decode(),  # whatever it holds
        "isBase64Encoded": True,
    }
