"""Requests against botocore's service model: what AWS's front end refuses before any service looks at it.

botocore's own validator checks types, required members and minima; AWS also checks enums, patterns and maxima.
All of it is in the model, so all of it is checked here, and answered in AWS's words:
`1 validation error detected: Value 'x' at 'trainingJobName' failed to satisfy constraint: ...`.
Assumed: a member that the model does not know is refused (AWS ignores it, Step Functions refuses it).
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

import botocore.session
from botocore.model import OperationModel, Shape

from ebb_local.sagemaker.errors import ServiceError, validation_exception

# Java's classes of characters, which `re` does not know; where Python has none, the class is taken as wide as needed.
_JAVA_CLASSES = {
    r"\p{L}": r"\w", r"\p{M}": r"\w", r"\p{N}": r"\w", r"\p{Z}": r"\s", r"\p{S}": r"\W", r"\p{P}": r"\W",
    r"\p{Alnum}": "a-zA-Z0-9", r"\p{ASCII}": r"\x00-\x7F", r"\p{Print}": r"\x20-\x7E", r"\z": r"\Z",
}  # fmt: skip
_KINDS = {"string": "a String", "integer": "an Integer", "long": "a Long", "boolean": "a Boolean",
          "float": "a Float", "double": "a Double", "list": "a List", "map": "a Map", "structure": "a Structure",
          "timestamp": "a Timestamp", "blob": "a Blob"}  # fmt: skip


@functools.cache
def operation(name: str, service: str = "sagemaker") -> OperationModel | None:
    """Return botocore's model of an operation, or None when AWS has none of that name."""
    model = _service_model(service)
    return model.operation_model(name) if name in model.operation_names else None


@functools.cache
def _service_model(service: str):  # type: ignore[no-untyped-def]
    return botocore.session.get_session().get_service_model(service)


def validate(action: str, request: dict[str, Any]) -> None:
    """Raise ValidationException, with every violated constraint in its text, unless the request fits the model."""
    model = operation(action)
    if model is None or model.input_shape is None:
        return
    if text := problems_of(model.input_shape, request):
        raise validation_exception(text)


def problems_of(shape: Shape, request: dict[str, Any]) -> str:
    """Return AWS's text about every constraint of the model that a request violates; empty when it fits."""
    problems = list(_problems(shape, request, ""))
    noun = "error" if len(problems) == 1 else "errors"
    return f"{len(problems)} validation {noun} detected: {'; '.join(problems)}" if problems else ""


def _problems(shape: Shape, value: Any, path: str) -> Iterator[str]:
    _require_type(shape, value)
    if shape.type_name == "structure":
        yield from _structure_problems(shape, value, path)
    elif shape.type_name == "list":
        yield from _size_problems(shape, value, len(value), path, "length")
        for index, item in enumerate(value, 1):
            yield from _problems(shape.member, item, f"{path}.{index}.member")  # type: ignore[attr-defined]
    elif shape.type_name == "map":
        yield from _size_problems(shape, value, len(value), path, "length")
        for key, item in value.items():
            yield from _problems(shape.key, key, f"{path}.key")  # type: ignore[attr-defined]
            yield from _problems(shape.value, item, f"{path}.{key}.member")  # type: ignore[attr-defined]
    elif shape.type_name == "string":
        yield from _size_problems(shape, value, len(value), path, "length")
        yield from _text_problems(shape, value, path)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _size_problems(shape, value, value, path, "value")


def _structure_problems(shape: Shape, value: dict[str, Any], path: str) -> Iterator[str]:
    members = shape.members  # type: ignore[attr-defined]
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"Value null at '{_join(path, name)}' failed to satisfy constraint: Member must not be null"
    for name, item in value.items():
        if name not in members:
            yield f"Value '{_shown(item)}' at '{_join(path, name)}' failed to satisfy constraint: Member is not known"
        elif item is not None:
            yield from _problems(members[name], item, _join(path, name))


def _size_problems(shape: Shape, value: Any, size: float, path: str, what: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield _violation(value, path, f"Member must have {what} greater than or equal to {low}")
    if high is not None and size > high:
        yield _violation(value, path, f"Member must have {what} less than or equal to {high}")


def _text_problems(shape: Shape, value: str, path: str) -> Iterator[str]:
    allowed = getattr(shape, "enum", None) or []
    if allowed and value not in allowed:
        yield _violation(value, path, f"Member must satisfy enum value set: [{', '.join(allowed)}]")
    pattern = shape.metadata.get("pattern")
    if pattern and not _compiled(pattern).fullmatch(value):
        yield _violation(value, path, f"Member must satisfy regular expression pattern: {pattern}")


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the model as Python's `re` reads it; one that it cannot read accepts everything."""
    # outside of brackets a class stands for itself, and what Python has for it needs them
    pattern = re.sub(r"(?<!\[)\\p\{(Alnum|ASCII|Print)\}(?=[+*?{]|$)", r"[\\p{\1}]", pattern)
    for java, python in _JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    pattern = re.sub(r"\$\{\d+,\d+\}", "$", pattern)  # CustomerMetadataKey: a length written behind the end
    try:
        return re.compile(pattern)
    except re.error:
        return re.compile(".*", re.DOTALL)


def _require_type(shape: Shape, value: Any) -> None:
    accepted: dict[str, tuple[type, ...]] = {
        "structure": (dict,), "map": (dict,), "list": (list,), "string": (str,), "boolean": (bool,),
        "integer": (int,), "long": (int,), "float": (int, float), "double": (int, float),
        "timestamp": (int, float, str), "blob": (str, bytes),
    }  # fmt: skip
    fits = isinstance(value, accepted[shape.type_name])
    if not fits or (isinstance(value, bool) and shape.type_name != "boolean"):
        token = {dict: "START_OBJECT", list: "START_ARRAY", str: "STRING_VALUE", bool: "TRUE_VALUE"}
        found = token.get(type(value), "NUMBER_VALUE")
        raise ServiceError("SerializationException", f"{found} can not be converted to {_KINDS[shape.type_name]}")


def _violation(value: Any, path: str, constraint: str) -> str:
    return f"Value '{_shown(value)}' at '{path}' failed to satisfy constraint: {constraint}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 256 else f"{text[:253]}..."


def _join(path: str, name: str) -> str:
    camel = name[:1].lower() + name[1:]
    return f"{path}.{camel}" if path else camel
