"""An encrypted bucket, queue, topic or table needs its key: AWS calls KMS on behalf of the caller.

MiniStack stores the setting and never asks, so a missing `kms:Decrypt` would go unnoticed until AWS.
Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html,
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html,
https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html,
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html

Keys that AWS manages (alias/aws/...) serve every caller of the account through the service, but never another AWS
service, which is told apart by its name. S3 Bucket Keys spare KMS calls on AWS, not the permission.
DynamoDB is taken to ask for kms:Decrypt on every use of a table's items (assumed: AWS caches it for five minutes).
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from ministack.core.responses import get_account_id, get_region
from ministack.services import dynamodb, kms, s3, sns, sqs

from ebb_local import authorization
from ebb_local.gaps import gateway_decisions

_READ, _WRITE = ("kms:Decrypt",), ("kms:GenerateDataKey",)
_S3 = {"s3:GetObject": _READ, "s3:GetObjectVersion": _READ, "s3:PutObject": _WRITE}
_ALGORITHM_HEADER = "x-amz-server-side-encryption"
_KEY_HEADER = f"{_ALGORITHM_HEADER}-aws-kms-key-id"
_ITEM_ACTIONS = (
    "GetItem",
    "BatchGetItem",
    "Query",
    "Scan",
    "PutItem",
    "UpdateItem",
    "DeleteItem",
    "BatchWriteItem",
    "ConditionCheckItem",
)
_OTHER_ACTIONS = {
    "sqs:SendMessage": (*_WRITE, *_READ),
    "sqs:ReceiveMessage": _READ,
    "sns:Publish": (*_WRITE, *_READ),
    **{f"dynamodb:{name}": _READ for name in (*_ITEM_ACTIONS, "GetRecords")},
}


def install() -> None:
    """Register the needs with authorization, which asks for them after each allowed call."""
    authorization.imply(key_calls)


def key_calls(action: str, resource: str, principal: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the KMS calls that AWS makes for `principal` when `action` on `resource` is allowed."""
    service = action.split(":")[0]
    actions = _s3_actions(action) if service == "s3" else _OTHER_ACTIONS.get(action)
    if not actions or (key := _key_of(service, resource, action)) is None:
        return
    if _is_aws_managed(key) and principal.startswith("arn:"):
        return
    record = kms._resolve_key(key)
    arn = record["Arn"] if record else f"arn:aws:kms:{get_region()}:{get_account_id()}:{key}"
    context = {"kms:ViaService": f"{service}.{get_region()}.amazonaws.com", "kms:CallerAccount": get_account_id()}
    for needed in actions:
        yield needed, arn, context


def _s3_actions(action: str) -> tuple[str, ...] | None:
    request = gateway_decisions.current_request()
    multipart = request is not None and ("uploadId" in request.query or "uploads" in request.query)
    return (*_WRITE, *_READ) if action == "s3:PutObject" and multipart else _S3.get(action)


def _key_of(service: str, resource: str, action: str) -> str | None:
    """Return the key that encrypts a bucket, queue, topic or table; None when no KMS key does."""
    if service == "s3":
        return _encryption_of_object(resource.split(":", 5)[5], action).get(_KEY_HEADER)
    if service == "sqs":
        queue = sqs._queue_by_arn(resource)
        return (queue or {}).get("attributes", {}).get("KmsMasterKeyId") or None
    if service == "sns":
        return (sns._topics.get(resource) or {}).get("attributes", {}).get("KmsMasterKeyId") or None
    table = dynamodb._tables.get(resource.split("/")[1]) if "/" in resource else None
    return ((table or {}).get("SSEDescription") or {}).get("KMSMasterKeyArn")


def _encryption_of_object(place: str, action: str) -> dict[str, str]:
    """Return the headers that say how an object is encrypted: as it was stored, as asked for, else as its bucket is."""
    bucket, _, key = place.partition("/")
    if action != "s3:PutObject":
        stored = s3._stored_sse_headers(s3._buckets.get(bucket, {}).get("objects", {}).get(key) or {})
        return stored or s3._bucket_default_sse_headers(bucket)
    request = gateway_decisions.current_request()
    # What happens inside the cloud may still have the request in hand that set it off.
    if request and unquote(request.path).endswith(f"/{key}") and _ALGORITHM_HEADER in request.headers:
        return request.headers
    return s3._bucket_default_sse_headers(bucket)


def _is_aws_managed(key: str) -> bool:
    return "alias/aws/" in key
