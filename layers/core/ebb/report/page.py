"""Render the report of a run: one HTML document with its style and its plots inside, no script, nothing fetched."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from ebb.report import view

MOST_BYTES = 2_000_000  # a phone opens it; a record is bounded, this is what its parts may add up to
TEMPLATE, STYLE = "report.html.j2", "report.css"


def render(record: Mapping[str, Any]) -> bytes:
    """Return the page of a run as UTF-8, from the document that run.json holds.

    Everything from the record is escaped. A page longer than MOST_BYTES is made anew without the decisions' figures and
    alternatives, and says so.
    """
    body = _render(view.page(record))
    return body if len(body) <= MOST_BYTES else _render(view.page(record, brief=True))


def _render(shown: view.Page) -> bytes:
    return _template().render(page=shown, style=_text(STYLE)).encode()


@cache
def _template() -> Template:
    room = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_text),
    )
    return room.get_template(TEMPLATE)


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
