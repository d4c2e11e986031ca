"""A service that the embedded cloud does not have says so, by name; MiniStack answers such requests as S3.

Behaviour decided: assumed. 400 UnknownOperationException is what AWS's JSON services answer to an unknown operation;
400 also keeps SDKs from retrying.
"""

import json
import re
from xml.sax.saxutils import escape

from ministack import app
from ministack.core import iam_actions, router

_SCOPE = re.compile(r"Credential=[^/]+/[^/]+/[^/]+/([^/]+)/")
_S3_SCOPES = {"", "s3", "s3express", "s3-object-lambda"}
_REFUSED = "ebb-unknown-service"
# Parts of S3 that MiniStack does not know: it would create a bucket or read an object instead, and answer 200.
S3_PARTS = frozenset(
    {
        "metadataConfiguration",
        "metadataTable",
        "metadataAnnotationTable",
        "metadataInventoryTable",
        "metadataJournalTable",
        "session",
        "analytics",
        "intelligent-tiering",
        "inventory",
        "metrics",
        "abac",
        "torrent",
        "renameObject",
        "select",
    }
)


def install() -> None:
    """Route requests of unknown services to an answer that names service and action."""
    detect = app.detect_service

    def detect_or_refuse(method, path, headers, query_params):
        service = detect(method, path, headers, query_params)
        if service == "unknown_query" or service not in app.SERVICE_HANDLERS:
            return _REFUSED
        if service == "s3" and (_scope(headers, query_params) not in _S3_SCOPES or S3_PARTS & query_params.keys()):
            return _REFUSED
        return service

    async def refuse(method, path, headers, body, query_params):
        return answer(method, path, headers, body, query_params)

    app.detect_service = detect_or_refuse
    app.SERVICE_HANDLERS[_REFUSED] = refuse


def answer(method: str, path: str, headers: dict, body: bytes, query_params: dict) -> tuple[int, dict, bytes]:
    """Return the refusal in the protocol of the request."""
    service = _scope(headers, query_params) or headers.get("host", "")
    form = "x-www-form-urlencoded" in headers.get("content-type", "")
    target = headers.get("x-amz-target", "").rpartition(".")[2]
    asked = target or iam_actions._action_from_query(query_params, body, headers.get("content-type", ""))
    part = ", ".join(S3_PARTS & query_params.keys())
    what = f"no '{part}' in service '{service}'" if part else f"no service '{service}'"
    message = (
        f"The embedded cloud has {what}: {asked or f'{method} {path}'} is not implemented. "
        "Use an AWS account for it, or see docs/embedded-cloud.md for what there is."
    )
    code = "UnknownOperationException"
    if service == "s3":
        error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        return 400, {"Content-Type": "application/xml"}, error.encode()
    if form:
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        return 400, {"Content-Type": "text/xml"}, f"<ErrorResponse>{error}</ErrorResponse>".encode()
    reply = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-errortype": code}
    return 400, reply, json.dumps({"__type": code, "message": message}).encode()


def _scope(headers: dict, query_params: dict) -> str:
    found = _SCOPE.search(headers.get("authorization", ""))
    if found:
        return found[1]
    credential = router._credential_from_query(query_params).split("/")
    return credential[3] if len(credential) > 3 else ""
