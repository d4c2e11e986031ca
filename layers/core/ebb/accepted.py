"""Accepted sources: what the drops of a project add up to, so that an appending run reads all of it.

One item per object, or per some hundred of them when a drop holds many; written when a drop is identified and taken
back when its run is rejected. So whichever of two close runs looks last holds the union, and what a failed run brought
is not forgotten. A replacing drop writes where the count begins anew. Runs are in the order of their generation. Pure;
`ebb.aws.ledger` sends.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ebb import ledger
from ebb.ledger import Request
from ebb.sources import INLINE, Source

_SOURCE, _REPLACED = "SOURCE#", "REPLACED#"
SOURCES_PER_ITEM = 200  # an item holds 400 KB, and a key alone may take one of them


def notes(project: str, run_id: str, generation: int, mode: str, sources: Sequence[Source]) -> list[Request]:
    """Return the writes that note a drop; a repeat writes the same, and an older run does not undo a newer one."""
    begun = [_note(_replaced_key(project, generation), run_id, generation, {})] if mode == "replace" else []
    if len(sources) <= INLINE:
        return begun + [
            _note(_source_key(project, each), run_id, generation, {"source": each.model_dump(mode="json")})
            for each in sources
        ]
    parts = [sources[start : start + SOURCES_PER_ITEM] for start in range(0, len(sources), SOURCES_PER_ITEM)]
    return begun + [
        _note(
            _part_key(project, run_id, number),
            run_id,
            generation,
            {"sources": [each.model_dump(mode="json") for each in part]},
        )
        for number, part in enumerate(parts)
    ]


def base(items: Iterable[Mapping[str, Any]], generation: int) -> list[Source]:
    """Return what a run of this generation builds on: all since the last replacement, in the order of their runs.

    What newer runs brought counts too, up to the next replacement, which is not for an older run to take part in.
    """
    known = list(items)
    cuts = [int(each["generation"]) for each in known if each["sk"].startswith(_REPLACED)]
    begin = max((cut for cut in cuts if cut <= generation), default=0)
    end = min((cut for cut in cuts if cut > generation), default=None)
    held = [
        each
        for each in known
        if each["sk"].startswith(_SOURCE) and begin <= each["generation"] and (end is None or each["generation"] < end)
    ]
    found = [
        (each["generation"], Source.model_validate(source))
        for each in held
        for source in each.get("sources") or [each["source"]]
    ]
    by_place: dict[tuple[str, str], Source] = {}
    for _, source in sorted(found, key=lambda noted: (noted[0], noted[1].key)):
        by_place.pop((source.bucket, source.key), None)  # noted again: it counts where it came last
        by_place[source.bucket, source.key] = source
    return list(by_place.values())


def rejected(items: Iterable[Mapping[str, Any]], run: Mapping[str, Any]) -> list[Request]:
    """Return the deletions of what a rejected run noted, and of the older content that its object has overwritten."""
    drop = run.get("drop") or {}
    return [
        _forget(each)
        for each in items
        if each["sk"].startswith((_SOURCE, _REPLACED))
        and (each["run_id"] == run["run_id"] or (_is_at(each, drop) and each["generation"] <= run.get("generation", 0)))
    ]


def replaced(items: Iterable[Mapping[str, Any]], generation: int) -> list[Request]:
    """Return the deletions of what no run builds on any more, once a replacing run of this generation has succeeded."""
    return [
        _forget(each)
        for each in items
        if each["sk"].startswith((_SOURCE, _REPLACED)) and each["generation"] < generation
    ]


def _note(key: Mapping[str, str], run_id: str, generation: int, fields: Mapping[str, Any]) -> Request:
    return ledger.update(
        key,
        {"run_id": run_id, "generation": generation, **fields},
        condition="attribute_not_exists(pk) OR #generation <= :generation",
    )


def _forget(item: Mapping[str, Any]) -> Request:
    """Refused when a newer run has noted the object meanwhile."""
    return {
        "Key": {"pk": item["pk"], "sk": item["sk"]},
        "ConditionExpression": "#run_id = :run_id",
        "ExpressionAttributeNames": {"#run_id": "run_id"},
        "ExpressionAttributeValues": {":run_id": item["run_id"]},
    }


def _is_at(item: Mapping[str, Any], drop: Mapping[str, Any]) -> bool:
    source = item.get("source") or {}
    return bool(source) and (source["bucket"], source["key"]) == (drop.get("bucket"), drop.get("key"))


def _source_key(project: str, source: Source) -> dict[str, str]:
    """Hashed: a sort key holds 1,024 bytes, as many as an object's key alone may have."""
    name = hashlib.sha256(f"{source.bucket}/{source.key}".encode()).hexdigest()
    return ledger.project_key(project) | {"sk": _SOURCE + name}


def _part_key(project: str, run_id: str, number: int) -> dict[str, str]:
    return ledger.project_key(project) | {"sk": f"{_SOURCE}{run_id}#{number:04d}"}


def _replaced_key(project: str, generation: int) -> dict[str, str]:
    return ledger.project_key(project) | {"sk": f"{_REPLACED}{generation:010d}"}
