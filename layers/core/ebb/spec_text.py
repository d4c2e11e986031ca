"""The text of a spec: YAML into plain values, and a validation error back to its line."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ebb.errors import InvalidSpecError, Rejection

MAX_BYTES = 64 * 1024
Place = tuple[str | int, ...]
_PROBLEMS: dict[type[Exception], str] = {
    ValueError: "it holds a date or a number that does not exist",
    RecursionError: "it is nested too deeply",
}


@dataclass(frozen=True)
class Document:
    """The values of a spec and the YAML nodes that they came from."""

    value: dict[str, Any]
    root: yaml.Node | None

    def line_of(self, place: Place) -> int | None:
        """Return the line (from 1) where a field stands, or that of the closest enclosing one."""
        node, line = self.root, None
        for part in place:
            if isinstance(node, yaml.MappingNode):
                found = next(((k, v) for k, v in node.value if k.value == part), None)
                if found is None:
                    break
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line


def load(text: bytes, *, file: str) -> Document:
    """Return what a spec's text says, without trusting it: small, plain YAML, no anchors.

    Raises: InvalidSpecError when the text is no YAML mapping.
    """
    if len(text) > MAX_BYTES:
        raise _refused(
            "spec-too-large", f"the spec has more than {MAX_BYTES} bytes", file, f"Keep it below {MAX_BYTES} bytes."
        )
    try:
        plain = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise _refused("spec-not-utf8", "the spec is not UTF-8", file, "Save it as UTF-8.", line=line) from error
    try:
        # An alias can blow a few lines up to gigabytes, and a spec never needs one.
        if any(isinstance(token, yaml.AliasToken | yaml.AnchorToken) for token in yaml.scan(plain)):
            raise _refused("spec-anchor", "the spec uses YAML anchors", file, "Write the values out.")
        root, value = yaml.compose(plain, Loader=yaml.SafeLoader), yaml.safe_load(plain)
    except (yaml.YAMLError, ValueError, RecursionError) as bad:
        # Beside its own errors PyYAML lets through what Python says of a date that does not exist, of a number of
        # thousands of digits, and of brackets nested deeper than the stack.
        mark = getattr(bad, "problem_mark", None)
        broken_at = mark.line + 1 if mark else None
        problem = getattr(bad, "problem", None) or _PROBLEMS.get(type(bad)) or "it cannot be read"
        raise _refused(
            "spec-not-yaml", f"the spec is not YAML: {problem}", file, "Mend the line.", line=broken_at
        ) from bad
    if value is None:
        return Document({}, None)
    if not isinstance(value, dict):
        remedy = "Write fields and values, for example `data: {target: price}`."
        raise _refused("spec-not-mapping", "the spec is not a mapping of fields", file, remedy, line=1)
    return Document(value, root)


def misplaced(place: Place, what: str) -> PydanticCustomError:
    """Return the error for a field that does not fit others, to be raised where all of them are known."""
    return PydanticCustomError("misplaced", "{what}", {"place": place, "what": what})


def invalid(
    error: ValidationError, document: Document, *, known: Callable[[Place], list[str]], file: str
) -> InvalidSpecError:
    """Return the error to raise for the first thing that pydantic found wrong."""
    first = error.errors(include_url=False)[0]
    place: Place = first.get("ctx", {}).get("place") or first["loc"]
    field, line = ".".join(str(part) for part in place), document.line_of(place)
    if first["type"] == "extra_forbidden":
        names = known(place[:-1])
        close = difflib.get_close_matches(str(place[-1]), names, n=1)
        guess = f"Did you mean `{close[0]}`? " if close else ""
        remedy = f"{guess}Known here: {', '.join(names)}."
        return _refused("spec-unknown-field", f"unknown field {field}", file, remedy, line=line, column=field)
    what = first["msg"].removeprefix("Value error, ")
    about = f"{field}: {what}" if field else what
    remedy = f"Change {field or 'the spec'}: {what}."
    return _refused("spec-invalid-field", about, file, remedy, line=line, column=field or None)


def _refused(
    code: str, message: str, file: str, remedy: str, *, line: int | None = None, column: str | None = None
) -> InvalidSpecError:
    return InvalidSpecError(Rejection(code, message, file=file, line=line, column=column, remedy=remedy))
