"""Checks a request body against botocore's own service model, beyond what botocore checks before it sends.

botocore validates types, required and unknown members and minimum lengths. The service also refuses values outside an
enum, texts that do not match a pattern and values above a maximum: that stands in the same model and is checked here.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.validate import ParamValidator

# Java's Unicode classes, which the models use and `re` does not know. Wider is fine: the text is ours.
_JAVA_CLASSES = {
    r"\uD800\uDC00-\uDBFF\uDFFF": r"\U00010000-\U0010FFFF",  # what takes two of Java's characters
    r"\p{Print}": r"[ -~]",
    r"\p{L}": r"A-Za-zÀ-ɏ",
    r"\p{N}": r"0-9",
    r"\p{Z}": r"\s",
    r"\p{M}": "",
    r"\p{S}": r"+<=>|~^`$",
    r"\p{P}": r"!-/:;?@\[-`{}",
}


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def problems(service: str, action: str, body: dict[str, Any]) -> list[str]:
    """Return everything that the service model holds against a request body."""
    shape = _model(service).operation_model(action).input_shape
    report = ParamValidator().validate(body, shape)
    found = [report.generate_report()] if report.has_errors() else []
    return found + list(_walk(shape, body, action))


def assert_valid(service: str, action: str, body: dict[str, Any]) -> None:
    """Fail with every problem that a request body has."""
    found = problems(service, action, body)
    assert not found, "\n".join(found)


def _walk(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if isinstance(shape, StructureShape):
        for name, member in value.items():
            if name in shape.members:
                yield from _walk(shape.members[name], member, f"{path}.{name}")
    elif isinstance(shape, ListShape):
        yield from _size(shape, len(value), path, "items")
        for number, member in enumerate(value):
            yield from _walk(shape.member, member, f"{path}[{number}]")
    elif isinstance(shape, MapShape):
        yield from _size(shape, len(value), path, "entries")
        for name, member in value.items():
            yield from _walk(shape.key, name, f"{path} key {name!r}")
            yield from _walk(shape.value, member, f"{path}[{name!r}]")
    elif shape.type_name == "string":
        yield from _size(shape, len(value), path, "characters")
        if shape.enum and value not in shape.enum:
            yield f"{path}: {value!r} is none of {shape.enum[:8]}..."
        pattern = shape.metadata.get("pattern")
        if pattern and not _matches(pattern, value):
            yield f"{path}: {value!r} does not match {pattern}"
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _size(shape, value, path, "")


def _size(shape: Shape, size: float, path: str, unit: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield f"{path}: {size} {unit} is less than {low}"
    if high is not None and size > high:
        yield f"{path}: {size} {unit} is more than {high}"


def _matches(pattern: str, value: str) -> bool:
    # `([...]*)${1,256}` repeats the end anchor, which Java allows; the length is checked apart.
    plain = re.sub(r"\$\{\d+,\d+\}$", "", pattern)
    for java, python in _JAVA_CLASSES.items():
        plain = plain.replace(java, python)
    return re.fullmatch(plain.removeprefix("^").removesuffix("$"), value) is not None
