"""Sources: the objects that a run reads, which of them belong together, and how their content is named."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ebb.errors import DropRejectedError, InvalidSpecError, Rejection
from ebb.events import SUCCESS_MARKER, Message

INLINE = 50  # as many travel between the steps and stand in the record; of more both name where they are listed
# The keys and digests travel to the job in environment variables: 100 of 256 characters, the spec beside them.
MAX_SOURCES_CHARS = 20_000
_UNREAD = "0" * 64  # as long as the digest of what has not been read yet
_FILE = re.compile(r"\.(csv|csv\.gz|jsonl|jsonl\.gz|parquet|zip|tar\.gz|tgz|py)$", re.IGNORECASE)
_PACKED = re.compile(r"\.(gz|tgz|zip)$", re.IGNORECASE)


class Source(Message):
    """One object with the name of its content: SHA-256, or above the hashing limit S3's full-object checksum."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    sha256: str | None = None
    checksum: str | None = None

    @property
    def fingerprint(self) -> str:
        """What identity counts: the content, whatever the object is called."""
        return self.sha256 or f"{self.checksum}:{self.size_bytes}"


def is_data(key: str, size_bytes: int) -> bool:
    """Return whether a listed object is data: no marker, no hidden file, no folder."""
    name = key.rsplit("/", 1)[-1]
    folder_marker = key.endswith("/") and size_bytes == 0
    return not folder_marker and name != SUCCESS_MARKER and not name.startswith((".", "_"))


def is_file(key: str) -> bool:
    """Return whether `data.uri` names one object: by its name, as the jobs tell a file from a folder."""
    return _FILE.search(key) is not None


def is_packed(key: str) -> bool:
    """Return whether more comes out of an object than it holds, by its name."""
    return _PACKED.search(key) is not None


def place(
    uri: str, *, project: str, landing_bucket: str, external_buckets: Sequence[str], file: str
) -> tuple[str, str]:
    """Return the bucket and the key (or prefix) that a spec's `data.uri` names.

    Raises: InvalidSpecError when this project may not read there: a bucket that the stack was not given, or what
    another project dropped.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if bucket != landing_bucket:
        if bucket in external_buckets:
            return bucket, key
        allowed = ", ".join(external_buckets) or "none yet"
        raise _uri_refused(
            f"this stack may not read the bucket {bucket}",
            f"Add it to the stack parameter ExternalDataBuckets (now: {allowed}).",
            file,
        )
    first, _, rest = key.partition("/")
    if first != project and (not rest or rest == "data" or rest.startswith("data/")):
        raise _uri_refused(
            f"data.uri names what the project {first} dropped",
            "Name data of this project, or a place outside every project's data folder.",
            file,
        )
    return bucket, key


def together(sources: Sequence[Source], forms: Iterable[str]) -> str:
    """Return the one format that all sources share.

    Raises: DropRejectedError when formats or buckets differ, or there are more than a job can be told of.
    """
    found = sorted(set(forms))
    if len(found) > 1:
        raise DropRejectedError(
            Rejection("mixed-formats", f"the drop mixes {' and '.join(found)}", remedy="Drop one format at a time.")
        )
    if len({source.bucket for source in sources}) > 1:
        raise DropRejectedError(
            Rejection(
                "several-buckets",
                "old and new data lie in different buckets",
                remedy="Keep all data of an appending project in one bucket, or write data: {mode: replace}.",
            )
        )
    chars = len(json.dumps({source.key: source.sha256 or _UNREAD for source in sources}, separators=(",", ":")))
    if chars > MAX_SOURCES_CHARS:
        most = MAX_SOURCES_CHARS * len(sources) // chars
        raise DropRejectedError(
            Rejection(
                "too-many-objects",
                f"{len(sources)} objects with names as long as these are more than the {most} that one run can verify",
                remedy="Join them into one larger file (Parquet holds most in least space).",
            )
        )
    return found[0]


def appended(old: Iterable[Source], new: Sequence[Source]) -> list[Source]:
    """Return the old sources and the new ones: a new version of a key replaces it, the same bytes count once."""
    replaced = {(source.bucket, source.key) for source in new}
    kept = [source for source in old if (source.bucket, source.key) not in replaced]
    by_content: dict[str, Source] = {}
    for source in [*kept, *new]:
        by_content.setdefault(source.fingerprint, source)
    return sorted(by_content.values(), key=lambda source: source.key)


def digests(sources: Iterable[Source]) -> dict[str, str]:
    """Return what `process` verifies: the SHA-256 of each key. Above the hashing limit there is none to compare."""
    return {source.key: source.sha256 for source in sources if source.sha256}


def manifest(sources: Sequence[Source]) -> list[Any]:
    """Return the S3 ManifestFile that names exactly these objects, so that nothing needs to be copied.

    Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html
    """
    return [{"prefix": f"s3://{sources[0].bucket}/"}, *(source.key for source in sources)]


def _uri_refused(message: str, remedy: str, file: str) -> InvalidSpecError:
    return InvalidSpecError(Rejection("data-uri-refused", message, file=file, column="data.uri", remedy=remedy))
