"""CloudWatch's wire protocols, JSON and query, as plain dictionaries by the service's own model; CBOR is refused.

Source: botocore's `cloudwatch` model, which makes boto3 speak JSON.
"""

import functools
import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import botocore.session
from botocore.model import ServiceModel

Reply = tuple[int, dict[str, str], bytes]
_XML = "http://monitoring.amazonaws.com/doc/2010-08-01/"


class ServiceError(Exception):
    """What the service answers instead of a result."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@functools.cache
def model() -> ServiceModel:
    """Return the service's model."""
    return botocore.session.get_session().get_service_model("cloudwatch")


def protocol(headers: dict[str, str]) -> str:
    """Return which protocol a request speaks: json or query. Raises ServiceError for CBOR."""
    content = headers.get("content-type", "")
    if "cbor" in content or "cbor" in headers.get("smithy-protocol", ""):
        raise ServiceError("SerializationException", "The embedded cloud's CloudWatch speaks JSON and query, not CBOR")
    return "json" if "json" in content or headers.get("x-amz-target") else "query"


def action(path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]) -> str:
    """Return the operation that a request asks for."""
    if target := headers.get("x-amz-target", ""):
        return target.rpartition(".")[2]
    if found := re.search(r"/operation/([^/?]+)", path):
        return found.group(1)
    named = parse_qs(body.decode(errors="replace")).get("Action") or query.get("Action") or [""]
    return str(named[0] if isinstance(named, list) else named)


def read(kind: str, operation: str, body: bytes, query: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a request; moments as seconds since the epoch."""
    shape = model().operation_model(operation).input_shape
    if shape is None:
        return {}
    if kind == "query":
        given = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        given |= {name: values[0] if isinstance(values, list) else values for name, values in query.items()}
        return _from_query(given, "", shape) or {}
    return typed(json.loads(body or b"{}"), shape)


def answer(kind: str, operation: str, result: dict[str, Any]) -> Reply:
    """Return a result on the wire; moments are given as seconds since the epoch."""
    shape = model().operation_model(operation).output_shape
    if kind == "json":
        return 200, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(result).encode()
    inner = f"<{operation}Result>{_xml(result, shape)}</{operation}Result>" if shape else ""
    text = f'<{operation}Response xmlns="{_XML}">{inner}<ResponseMetadata/></{operation}Response>'
    return 200, {"Content-Type": "text/xml"}, text.encode()


def refusal(kind: str, error: ServiceError) -> Reply:
    """Return an error on the wire."""
    if kind == "query":
        fault = "Sender" if error.status < 500 else "Receiver"
        text = (
            f'<ErrorResponse xmlns="{_XML}"><Error><Type>{fault}</Type><Code>{error.code}</Code>'
            f"<Message>{escape(error.message)}</Message></Error></ErrorResponse>"
        )
        return error.status, {"Content-Type": "text/xml"}, text.encode()
    body = {"__type": f"com.amazonaws.cloudwatch.v2010_08_01#{error.code}", "message": error.message}
    headers = {"x-amzn-query-error": f"{error.code};{'Sender' if error.status < 500 else 'Receiver'}"}
    return error.status, headers | {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(body).encode()


def typed(value: Any, shape: Any) -> Any:
    """Return a document with moments as seconds, numbers as numbers, and without unknown members."""
    if shape.type_name == "structure" and isinstance(value, dict):
        return {name: typed(each, shape.members[name]) for name, each in value.items() if name in shape.members}
    if shape.type_name == "list" and isinstance(value, list):
        return [typed(each, shape.member) for each in value]
    return _scalar(value, shape)


def _scalar(value: Any, shape: Any) -> Any:
    kind = shape.type_name
    if value is None:
        return None
    if kind == "timestamp":
        return _moment(value)
    if kind in ("integer", "long"):
        return int(value)
    if kind in ("float", "double"):
        return float(value)
    return value == "true" if kind == "boolean" and isinstance(value, str) else value


def _moment(value: Any) -> float:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        return float(value)
    except ValueError:
        parsed = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _from_query(given: dict[str, str], prefix: str, shape: Any) -> Any:
    if shape.type_name == "structure":
        inside = {
            name: found
            for name, member in shape.members.items()
            if (found := _from_query(given, f"{prefix}{'.' if prefix else ''}{name}", member)) is not None
        }
        return inside or None
    if shape.type_name == "list":
        found_items: list[Any] = []
        while (item := _from_query(given, f"{prefix}.member.{len(found_items) + 1}", shape.member)) is not None:
            found_items.append(item)
        return found_items or None
    return _scalar(given[prefix], shape) if prefix in given else None


def _xml(value: Any, shape: Any) -> str:
    if shape.type_name == "structure":
        known = ((name, each) for name, each in value.items() if name in shape.members and each is not None)
        return "".join(f"<{name}>{_xml(each, shape.members[name])}</{name}>" for name, each in known)
    if shape.type_name == "list":
        return "".join(f"<member>{_xml(each, shape.member)}</member>" for each in value)
    if shape.type_name == "timestamp":
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if shape.type_name == "boolean":
        return "true" if value else "false"
    return escape(str(value))
