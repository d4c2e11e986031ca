"""The objects that a run reads: found, read while they hold still, named by their content.

Where S3 has only an error code this module raises a rejection that says what to do. Many objects are read side by side:
S3 answers a small request in tens of milliseconds, and a drop may hold two thousand.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from ebb import sources
from ebb.aws import storage
from ebb.aws.clients import THREADS
from ebb.aws.storage import ObjectFacts
from ebb.errors import DropRejectedError, ObjectChangedError, ObjectDeniedError, ObjectMissingError, Rejection
from ebb.sources import Source

HASH_LIMIT_BYTES = 2 * 1024**3  # of a whole drop: about half a minute of a function; above, S3's checksums must do

S = TypeVar("S")
T = TypeVar("T")


def side_by_side(do: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return what `do` makes of each item, in their order; the first error in that order is raised."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(do, items))


def head(bucket: str, key: str) -> ObjectFacts:
    """Return what S3 knows about an object.

    Raises: DropRejectedError when it is not there or may not be read; StorageUnavailableError.
    """
    try:
        return storage.head(bucket, key)
    except ObjectMissingError as error:
        raise missing(key) from error
    except ObjectDeniedError as error:
        raise denied(f"s3://{bucket}/{key}") from error


def below(bucket: str, prefix: str) -> list[ObjectFacts]:
    """Return the data below a prefix, sorted by key.

    Raises: DropRejectedError when there is none, when it is more than a run reads, and when it may not be listed;
    StorageUnavailableError.
    """
    found = (each for each in storage.listed(bucket, prefix) if sources.is_data(each.key, each.size_bytes, prefix))
    try:
        kept = list(islice(found, sources.MAX_OBJECTS + 1))
    except (ObjectDeniedError, ObjectMissingError) as error:
        raise denied(f"s3://{bucket}/{prefix}") from error
    if not kept:
        rejection = Rejection(
            "no-objects", f"there is no data below s3://{bucket}/{prefix}", file=prefix, remedy="Upload the data first."
        )
        raise DropRejectedError(rejection)
    sources.few_enough(len(kept))
    return kept


def steadily(facts: ObjectFacts, read: Callable[[ObjectFacts], T], *, own: ObjectFacts | None) -> T:
    """Return what reading an object gives; one that is written meanwhile is read once more.

    The uploaded object's next version brings its own event, so this run gives way to it: ObjectChangedError. Others
    (parts of a folder, data left where it is, older data) bring none: giving way would leave them without a run.
    Raises: DropRejectedError when it is gone, may not be read or does not hold still; StorageUnavailableError.
    """
    try:
        return _reading(facts, read)
    except ObjectChangedError:
        if own and (facts.bucket, facts.key) == (own.bucket, own.key):
            raise
    try:
        return _reading(head(facts.bucket, facts.key), read)
    except ObjectChangedError as error:
        message, remedy = f"{facts.key} was written again while it was read", "Write it to the end, then drop again."
        raise DropRejectedError(Rejection("changed", message, file=facts.key, remedy=remedy)) from error


class Naming:
    """Names contents, as long as the whole drop leaves the function time to read them."""

    def __init__(self, limit_bytes: int):
        self._left_bytes = limit_bytes

    def named(self, found: Sequence[ObjectFacts], *, own: ObjectFacts | None) -> list[Source]:
        """Return sources with the name of their content: SHA-256, or S3's checksum when there is too much to read.

        Which are read is settled in their order and before any is, so that the same drop always has the same name.
        Raises: as `steadily`, and DropRejectedError for too much data without a checksum.
        """
        readings = [_hashed if self._takes(each) else _checksummed for each in found]
        return side_by_side(lambda pair: steadily(pair[0], pair[1], own=own), list(zip(found, readings, strict=True)))

    def current(self, earlier: Sequence[Source]) -> list[Source]:
        """Return sources of earlier drops as they are now; only those that have changed are read again.

        Raises: as `named`, and DropRejectedError for one that has been deleted.
        """
        facts = side_by_side(_head_of_earlier, earlier)
        changed = [now for then, now in zip(earlier, facts, strict=True) if now.etag != then.etag]
        read_again = {(each.bucket, each.key): each for each in self.named(changed, own=None)}
        return [read_again.get((each.bucket, each.key), each) for each in earlier]

    def _takes(self, facts: ObjectFacts) -> bool:
        taken = facts.size_bytes <= self._left_bytes
        self._left_bytes -= facts.size_bytes if taken else 0
        return taken


def missing(key: str) -> DropRejectedError:
    """Return the rejection for an object that is gone."""
    message = f"{key} was deleted before it could be read"
    return DropRejectedError(Rejection("object-missing", message, file=key, remedy="Upload it again."))


def denied(where: str) -> DropRejectedError:
    """Return the rejection for what S3 does not let this stack read."""
    remedy = "Let this account's stack read it: bucket policy, and the key's policy when it is encrypted with one."
    return DropRejectedError(Rejection("access-denied", f"S3 refused access to {where}", file=where, remedy=remedy))


def _reading(facts: ObjectFacts, read: Callable[[ObjectFacts], T]) -> T:
    try:
        return read(facts)
    except ObjectMissingError as error:
        raise missing(facts.key) from error
    except ObjectDeniedError as error:
        raise denied(f"s3://{facts.bucket}/{facts.key}") from error


def _hashed(facts: ObjectFacts) -> Source:
    digest = storage.sha256(facts.bucket, facts.key, etag=facts.etag)
    return _source(facts).model_copy(update={"sha256": digest})


def _checksummed(facts: ObjectFacts) -> Source:
    checksum = storage.head(facts.bucket, facts.key, etag=facts.etag).checksum
    if checksum is None:
        rejection = Rejection(
            "no-checksum",
            f"the drop is larger than {HASH_LIMIT_BYTES} bytes and S3 has no checksum of the whole of {facts.key}",
            file=facts.key,
            remedy="Upload less at a time, or with aws s3 cp --checksum-algorithm CRC64NVME.",
        )
        raise DropRejectedError(rejection)
    return _source(facts).model_copy(update={"checksum": checksum})


def _source(facts: ObjectFacts) -> Source:
    return Source(bucket=facts.bucket, key=facts.key, size_bytes=facts.size_bytes, etag=facts.etag)


def _head_of_earlier(source: Source) -> ObjectFacts:
    try:
        return storage.head(source.bucket, source.key)
    except ObjectMissingError as error:
        message = f"{source.key} is part of what data.mode append adds to, and has been deleted"
        remedy = "Upload it again, or write data: {mode: replace} to begin anew."
        raise DropRejectedError(Rejection("object-missing", message, file=source.key, remedy=remedy)) from error
    except ObjectDeniedError as error:
        raise denied(f"s3://{source.bucket}/{source.key}") from error
