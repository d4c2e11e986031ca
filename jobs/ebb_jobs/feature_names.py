"""What a table's columns are called in Feature Store, and which features a group of them has. Pure.

A feature's name is letters, digits, hyphens and underscores, 64 at most, and the Glue Data Catalog knows lower case
only, so that a column may need another name there:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_FeatureDefinition.html
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

ROW, TIME, RUN, SPLIT, POSITION = OWN = ("ebb_row", "ebb_event_time", "ebb_run", "ebb_split", "ebb_position")
"""What each row has besides its columns: the hash of its content, which identifies it; the moment at which its run
began; the run; the side on which it stands; its place there."""
WRITTEN, CALLED, DELETED = STORE = ("write_time", "api_invocation_time", "is_deleted")
"""What Feature Store adds: https://docs.aws.amazon.com/sagemaker/latest/dg/feature-store-offline.html"""
RESERVED = frozenset({*OWN, *STORE, "year", "month", "day", "hour"})
"""Names that no column may take; the parts of a date are refused by AWS's own connector for Spark."""
MOST_FEATURES = 2_500  # FeatureDefinitions of CreateFeatureGroup
LONGEST = 60  # of 64: two columns that would be called alike are numbered
TABULAR = "tabular"


def refusal(schema: Mapping[str, Any]) -> str | None:
    """Return why curated data is no features of a feature group, None when it is."""
    if schema.get("kind") != TABULAR:
        return f"features are those of tables, and this is {schema.get('kind')}"
    count = len(schema["features"]) + 1 + len(OWN)
    return (
        f"a feature group holds {MOST_FEATURES:,} features, and these are {count:,}" if count > MOST_FEATURES else None
    )


def columns_of(schema: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the columns of a curated table, the target last, each with its type: Fractional or String."""
    found = [
        (str(each["name"]), "Fractional" if each["kind"] == "numeric" else "String") for each in schema["features"]
    ]
    target = schema["target"]
    return [*found, (str(target["name"]), "String" if "classes" in target else "Fractional")]


def called(columns: Sequence[str]) -> dict[str, str]:
    """Return {column: its feature}: in lower case, what is no letter or digit as an underscore, each name once."""
    names: dict[str, str] = {}
    taken = set(RESERVED)
    for column in columns:
        plain = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")[:LONGEST].rstrip("_") or "column"
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain[: LONGEST - 4]}_{number}", number + 1
        taken.add(name)
        names[column] = name
    return names


def definitions(schema: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the FeatureDefinitions of a curated table: its columns, and what each row has besides."""
    columns = columns_of(schema)
    names = called([name for name, _ in columns])
    own = [(name, "Integral" if name == POSITION else "String") for name in OWN]
    told = [*own, *((names[name], kind) for name, kind in columns)]
    return [{"FeatureName": name, "FeatureType": kind} for name, kind in told]


def digest(schema: Mapping[str, Any]) -> str:
    """Return eight digits that name the features: the same columns, types, task and target give the same."""
    what = {"features": columns_of(schema), "task": schema["task"], "target": schema["target"]["name"]}
    return hashlib.sha256(json.dumps(what, separators=(",", ":")).encode()).hexdigest()[:8]
