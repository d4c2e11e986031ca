"""Facts that Ebb reckons with say where they are from, of when, and under which licence."""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import pytest
import yaml

FILES = sorted(file.name for file in files("ebb.catalog").iterdir() if file.name.endswith((".yaml", ".json")))


def facts(name: str) -> dict[str, Any]:
    text = files("ebb.catalog").joinpath(name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def sourced(entry: Mapping[str, Any], above: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield each entry that names a source, with what the entries around it say for it."""
    here = {**above, **{key: value for key, value in entry.items() if not isinstance(value, dict)}}
    if "source" in entry:
        yield here
    for value in entry.values():
        if isinstance(value, dict):
            yield from sourced(
                value, {key: here[key] for key in ("date", "year", "licence", "confidence") if key in here}
            )


def test_the_catalog_is_found():
    assert {"power.yaml", "grid.json", "instances.yaml", "water.yaml"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_catalog_file_names_source_year_licence_and_confidence(name):
    entries = list(sourced(facts(name), {}))
    assert entries, f"{name} names no source"
    for entry in entries:
        assert entry.get("year") or entry.get("date"), f"{name}: no year: {entry['source']}"
        assert entry.get("licence"), f"{name}: no licence: {entry['source']}"
        assert entry.get("confidence"), f"{name}: no confidence: {entry['source']}"
