"""The kinds of data. Each module is imported only when data of its kind comes."""

from __future__ import annotations

import importlib
from typing import Any

from ebb_jobs.errors import JobError
from ebb_jobs.kind import Kind

NAMES = ("tabular", "image", "text", "custom")


def of(schema: dict[str, Any]) -> Kind:
    """Return the kind that schema.json names; data curated before there were kinds are tables."""
    name = schema.get("kind", "tabular")
    if name not in NAMES:
        raise JobError(f"schema.json names the kind {name!r}; known are: {', '.join(NAMES)}")
    return importlib.import_module(f"ebb_jobs.kinds.{name}").KIND
