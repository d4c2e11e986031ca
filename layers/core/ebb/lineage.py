"""Lineage: which models came from an object, and which objects are behind a model. Pure; the ledger's runs are read.

A run's record names the objects that it read, each with the name of its content. A model comes from an object when its
run read it, or when its weights began as those of a model that did (a warm start: `data.mode: append`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebb import events

SCORE = "score"
RUNNING, SUCCEEDED = "running", "succeeded"
_BUCKETS = "s3://"

Run = Mapping[str, Any]
"""A run as the ledger holds it, with `sources`, and `started_from` where its training was a warm start."""


@dataclass(frozen=True)
class Place:
    """An object, or all that lies below a prefix. A name without a slash at its end means both."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """The place as an S3 URI."""
        return f"{_BUCKETS}{self.bucket}/{self.key}"

    @property
    def project(self) -> str:
        """The first folder: in the landing bucket the project that the object was dropped for."""
        return self.key.partition("/")[0]

    def covers(self, bucket: str, key: str) -> bool:
        """Return whether an object is, or lies at, this place: `a/data` covers `a/data/x`, not `a/data-2`."""
        return bucket == self.bucket and (key == self.key or key.startswith(self.key.rstrip("/") + "/"))

    def meets(self, other: "Place") -> bool:
        """Return whether one of the two places covers the other."""
        return self.covers(other.bucket, other.key) or other.covers(self.bucket, self.key)


@dataclass(frozen=True)
class Descent:
    """A run with data of a place in it: the objects that it read there, and the runs that it learnt from in turn."""

    run: Run
    sources: tuple[Mapping[str, Any], ...]
    through: tuple[str, ...] = ()
    """From the run nearest to the data to the one whose weights this run started from; empty when it read the data."""


def place(text: str, landing_bucket: str) -> Place:
    """Return the place that a text names: an S3 URI, or a key of the landing bucket.

    Raises: ValueError when it names a whole bucket.
    """
    named = text if text.startswith(_BUCKETS) else f"{_BUCKETS}{landing_bucket}/{text}"
    bucket, _, key = named.removeprefix(_BUCKETS).partition("/")
    if not bucket or not key.strip("/"):
        raise ValueError(f"{text!r} names no object and no folder")
    return Place(bucket, key)


def sources_at(run: Run, where: Place) -> tuple[Mapping[str, Any], ...]:
    """Return the objects of a place that a run read, as its record names them.

    A run that scored, or ended before it had named what it reads, is known by its drop alone.
    """
    found = [each for each in run.get("sources") or () if where.covers(each["bucket"], each["key"])]
    drop = run.get("drop") or {}
    if not found and not run.get("sources") and drop.get("kind") != "spec" and _is_dropped_at(drop, where):
        kept = ("bucket", "key", "size_bytes", "etag")
        found = [{name: drop[name] for name in kept if drop.get(name) is not None}]
    return tuple(found)


def read_there(runs: Iterable[Run], where: Place) -> list[Descent]:
    """Return the runs of any status that read objects of a place, oldest first; reused ones had nothing to read."""
    found = ((run, sources_at(run, where)) for run in _in_order(runs) if run.get("status") != "reused")
    return [Descent(run, sources) for run, sources in found if sources]


def descendants(runs: Iterable[Run], where: Place) -> list[Descent]:
    """Return the runs that read objects of a place or started from the weights of one that did, oldest first."""
    known = list(runs)
    found = {str(each.run["run_id"]): each for each in read_there(known, where) if each.run.get("purpose") != SCORE}
    for run in _in_order(known):
        parent = found.get(str(run.get("started_from")))
        if parent and run["run_id"] not in found:
            found[run["run_id"]] = Descent(run, (), (*parent.through, str(parent.run["run_id"])))
    return sorted(found.values(), key=lambda each: _order(each.run))


def is_model(run: Run) -> bool:
    """Return whether a run ended in a model."""
    return run.get("status") == SUCCEEDED and run.get("purpose") != SCORE


def ancestors(runs: Iterable[Run], run_id: str) -> list[Run]:
    """Return a run, the one whose weights it started from, the one whose weights that one started from, and so on."""
    by_id = {str(run["run_id"]): run for run in runs}
    chain: list[Run] = []
    following: str | None = run_id
    while following in by_id and by_id[following] not in chain:
        chain.append(by_id[following])
        following = chain[-1].get("started_from")
    return chain


def version_of(
    source: Mapping[str, Any], versions: Sequence[Mapping[str, Any]], until: str | None = None
) -> str | None:
    """Return the version of an object that a run read, None when S3 has none any more that could be it.

    `versions` is what ListObjectVersions says of its key. The ETag of the record names it, and of several with the same
    bytes the latest at `until`, ISO 8601, counts; so it does where a record lists too many objects to hold their ETags
    (more than `sources.INLINE`).
    """
    etag, moment = source.get("etag"), events.timestamp(until)
    mine = [each for each in versions if each["Key"] == source["key"] and etag in (None, each["ETag"].strip('"'))]
    in_time = [each for each in mine if moment is None or each["LastModified"] <= moment]
    newest = max(in_time or (mine if etag else []), key=lambda each: each["LastModified"], default=None)
    return str(newest["VersionId"]) if newest else None


def _is_dropped_at(drop: Mapping[str, Any], where: Place) -> bool:
    bucket, key = str(drop.get("bucket")), str(drop.get("key"))
    folder = key.removesuffix(events.SUCCESS_MARKER) if drop.get("kind") == "prefix" else None
    inside = folder is not None and where.bucket == bucket and where.key.startswith(folder)
    return where.covers(bucket, key) or inside


def _in_order(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=_order)


def _order(run: Run) -> tuple[str, str]:
    return str(run.get("created_at") or ""), str(run["run_id"])
