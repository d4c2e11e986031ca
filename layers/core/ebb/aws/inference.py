"""Ask SageMaker's endpoints. What they refuse comes back as a value: `ebb.door` says what it means."""

from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from ebb.addresses import Address
from ebb.door import ASYNC_PARAMETERS, Refusal, Reply
from ebb.tickets import HandedOver, Waiting

# A model answers within 60 s. Nothing is tried twice here: a request that found nobody, or everybody busy, waits in the
# queue and is tried from there.
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
_CONFIG = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=65)
INLINE_ASYNC_BYTES = 128_000
_KEPT = {"InvokedProductionVariant", "CustomAttributes", "NewSessionId", "ClosedSessionId"}
HEADERS = {
    "InvokedProductionVariant": "x-amzn-invoked-production-variant",
    "CustomAttributes": "x-amzn-sagemaker-custom-attributes",
    "NewSessionId": "x-amzn-sagemaker-new-session-id",
    "ClosedSessionId": "x-amzn-sagemaker-closed-session-id",
}


@cache
def _runtime() -> Any:
    return boto3.client("sagemaker-runtime", config=_CONFIG)


def invoke(address: Address, asked: Waiting, payload: bytes) -> Reply | Refusal:
    """Return what the endpoint answers."""
    component = {"InferenceComponentName": address.component} if address.component else {}
    request = {"EndpointName": address.endpoint_name, "Body": payload, **_common(asked), **asked.more, **component}
    try:
        found = _runtime().invoke_endpoint(**request)
        body = found["Body"].read()
    except (ClientError, BotoCoreError) as error:
        return _refusal(error)
    headers = {HEADERS[name]: str(value) for name, value in found.items() if name in _KEPT and value}
    return Reply(body, found.get("ContentType") or "application/octet-stream", headers)


def hand_over(
    address: Address, asked: Waiting, *, input_uri: str, payload: bytes | None, ttl_s: int
) -> HandedOver | Refusal:
    """Put a request into an asynchronous endpoint's own queue, and return where its answer will lie.

    `payload` goes with the request itself, for an endpoint whose role does not read Ebb's bucket; else `input_uri`.
    """
    inline = payload is not None and len(payload) <= INLINE_ASYNC_BYTES
    request = {
        "EndpointName": address.endpoint_name,
        "RequestTTLSeconds": ttl_s,
        **({"Body": payload} if inline else {"InputLocation": input_uri}),
        **_common(asked),
        **{name: value for name, value in asked.more.items() if name in ASYNC_PARAMETERS},
    }
    try:
        found = _runtime().invoke_endpoint_async(**request)
    except (ClientError, BotoCoreError) as error:
        return _refusal(error)
    return HandedOver(
        endpoint_name=str(address.endpoint_name),
        output_location=found["OutputLocation"],
        failure_location=found.get("FailureLocation"),
        inference_id=found.get("InferenceId"),
    )


def _common(asked: Waiting) -> dict[str, str]:
    return {"ContentType": asked.content_type} | ({"Accept": asked.accept} if asked.accept else {})


def _refusal(error: ClientError | BotoCoreError) -> Refusal:
    if isinstance(error, ClientError):
        told: dict[str, Any] = dict(error.response)
        more = {
            name: told[name] for name in ("OriginalStatusCode", "OriginalMessage", "LogStreamArn") if told.get(name)
        }
        status = told.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        return Refusal(status, told["Error"]["Code"], told["Error"]["Message"], more)
    if isinstance(error, ParamValidationError):
        return Refusal(400, "ValidationError", str(error))
    # A model that takes longer than it may is a ModelError; without any answer the request waits and is sent again.
    return Refusal(503, "NoAnswer", f"SageMaker gave no answer: {type(error).__name__}")
