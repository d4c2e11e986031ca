"""Every decision as an event on the account's default EventBridge bus. Pure; `ebb.aws.outbox` sends.

The outbox is the ledger itself: the item that holds a decision is written once, by whoever decides, and DynamoDB's
stream carries each new or changed item to `publish_decisions` until that has put it. So there is no moment in which a
decision is known and its event can be lost, and no second write that could fail by itself.

The form is published: `events/schemas/decision.v1.json`, a JSON Schema of draft 4, which EventBridge's registry takes.
Sources: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html (each change appears once, in
order of the changes of its item), https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ebb import counterfactuals, ledger, names
from ebb.errors import MalformedEventError

SOURCE = "ebb"
DETAIL_TYPE = "Ebb Decision"
VERSION = 1
# What of the ledger is a decision: those of a run, what Inference Recommender said, what happened to an endpoint or to
# a resource of the account. The stream's filter in template.yaml is made of the same prefixes.
DECIDED = ("DECISION#", ledger.RECOMMENDATION, "EVENT#")
HAPPENED = "EVENT#"
MOST_ENTRIES = 10  # of one PutEvents
MOST_BYTES = 200_000  # of one PutEvents, which takes 256 KB of entries; the rest is room for their envelopes
_KEYS = ("pk", "sk", "gsi_pk", "gsi_sk")
_TOLD = ("what", "chosen", "reason", "numbers", "alternatives", "source", "would_change")
# The first part of a partition key: who was decided about, and as what the event names it.
_SUBJECTS = {"RUN": "run", "ADDRESS": "endpoint", "RESOURCE": "resource", "PROJECT": "project"}

Entry = dict[str, Any]


def is_decision(item: Mapping[str, Any]) -> bool:
    """Return whether an item of the ledger holds a decision."""
    return str(item.get("sk", "")).startswith(DECIDED) and "what" in item


def detail(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event's detail for an item of the ledger, as plain values; the same item always makes the same one.

    `id` is made of the content: who has seen it has seen this very decision, whoever sent it and how often.
    Raises: MalformedEventError for an item that holds no decision.
    """
    if not is_decision(item):
        raise MalformedEventError(f"{item.get('pk')} {item.get('sk')} holds no decision")
    plain = ledger.from_item(dict(item))
    told = {
        "version": VERSION,
        "subject": _subject(plain),
        "key": {"pk": str(plain["pk"]), "sk": str(plain["sk"])},
        **({"stage": str(plain["stage"])} if plain.get("stage") else {}),
        **({"at": str(plain["at"])} if plain.get("at") else {}),
        "decision": _decision(plain),
    }
    fitting = ledger.fitting(told, MOST_BYTES // 2)
    content = json.dumps(fitting, sort_keys=True, ensure_ascii=False)
    return {"id": hashlib.sha256(content.encode()).hexdigest()[:32], **fitting}


def entry(item: Mapping[str, Any], written_s: int | None = None) -> Entry:
    """Return an item as an entry of PutEvents.

    `written_s` is when it was written, in seconds since 1970; without it the event gets the moment of its sending.
    Raises: MalformedEventError for an item that holds no decision.
    """
    told = detail(item)
    resources = [f"{told['key']['pk']} {told['key']['sk']}"]
    body = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    made: Entry = {"Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": body, "Resources": resources}
    return made | ({"Time": datetime.fromtimestamp(written_s, UTC)} if written_s is not None else {})


def batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield entries as PutEvents takes them: ten at most, and so many bytes."""
    batch: list[Entry] = []
    size = 0
    for each in entries:
        bytes_of = len(each["Detail"].encode())
        if batch and (len(batch) == MOST_ENTRIES or size + bytes_of > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += bytes_of
    if batch:
        yield batch


def _subject(item: Mapping[str, Any]) -> dict[str, str]:
    kind, _, name = str(item["pk"]).partition("#")
    about = {"kind": _SUBJECTS.get(kind, kind.lower()), "name": name}
    project = item.get("project") or (names.project_of(name) if kind == "RUN" else name if kind == "PROJECT" else None)
    return about | ({"project": str(project)} if project else {})


def _decision(item: Mapping[str, Any]) -> dict[str, Any]:
    if str(item["sk"]).startswith(HAPPENED):
        return _happened(item)
    known = {
        "what": str(item["what"]),
        "chosen": _scalar(item.get("chosen")),
        "reason": str(item.get("reason") or ""),
        "numbers": {str(name): _scalar(each) for name, each in (item.get("numbers") or {}).items()},
        "alternatives": [str(each) for each in item.get("alternatives") or ()],
        "would_change": list(counterfactuals.of(item)),
        **({"source": str(item["source"])} if item.get("source") else {}),
    }
    more = {name: each for name, each in item.items() if name not in (*_KEYS, *_TOLD, "stage", "at")}
    return known | ({"more": more} if more else {})


def _happened(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what happened to an endpoint or a resource: its item tells flat what others tell as numbers."""
    rest = {name: each for name, each in item.items() if name not in (*_KEYS, "what", "reason", "at", "project")}
    numbers = {name: each for name, each in rest.items() if isinstance(each, int | float)}
    more = {name: each for name, each in rest.items() if name not in numbers}
    return {
        "what": "resource" if str(item["pk"]).startswith("RESOURCE#") else "endpoint",
        "chosen": str(item["what"]),
        "reason": str(item.get("reason") or ""),
        "numbers": numbers,
        "alternatives": [],
        "would_change": [],
        **({"more": more} if more else {}),
    }


def _scalar(value: Any) -> Any:
    """Return a number, truth or text as it is, and anything else as text: a schema promises no more."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
