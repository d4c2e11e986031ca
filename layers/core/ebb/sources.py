"""Sources: the objects that a run reads, which of them belong together, and how their content is named."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ebb.errors import DropRejectedError, InvalidSpecError, Rejection
from ebb.events import Message

INLINE = 50  # as many travel between the steps and stand in the record; of more both name where they are listed
MAX_OBJECTS = 2_000  # seconds to name, and to copy into a job; more small files are better off in one archive
_LITTER = frozenset({"__pycache__", "__MACOSX"})
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


def is_data(key: str, size_bytes: int, prefix: str = "") -> bool:
    """Return whether an object listed below `prefix` is data: no marker, nothing hidden, no folder, no litter.

    What begins with an underscore is hidden, as for Hadoop; a Python module is not.
    """
    *folders, name = key.removeprefix(prefix).split("/")
    folder_marker = not name and size_bytes == 0
    hidden = name.startswith(".") or (name.startswith("_") and not name.endswith(".py"))
    aside = any(folder.startswith(".") or folder in _LITTER for folder in folders)
    return not folder_marker and not hidden and not aside


def is_file(key: str) -> bool:
    """Return whether `data.uri` names one object: by its name, as the jobs tell a file from a folder."""
    return _FILE.search(key) is not None


def is_packed(key: str) -> bool:
    """Return whether more comes out of an object than it holds, by its name."""
    return _PACKED.search(key) is not None


def place(
    uri: str,
    *,
    project: str,
    landing_bucket: str,
    external_buckets: Sequence[str],
    file: str,
    field: str = "data.uri",
) -> tuple[str, str]:
    """Return the bucket and the key (or prefix) that a field of the spec names: `data.uri` or `train.source`.

    Raises: InvalidSpecError when this project may not read there: a bucket that the stack was not given, or what
    another project dropped.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if bucket != landing_bucket:
        if bucket in external_buckets:
            return bucket, key
        allowed = ", ".join(external_buckets) or "none yet"
        raise uri_refused(
            f"this stack may not read the bucket {bucket}",
            f"Add it to the stack parameter ExternalDataBuckets (now: {allowed}).",
            file=file,
            field=field,
        )
    first, _, rest = key.partition("/")
    if first != project and (not rest or rest.partition("/")[0] in ("data", "score")):
        raise uri_refused(
            f"{field} names what the project {first} dropped",
            "Name a place of this project, or one outside every project's data folder.",
            file=file,
            field=field,
        )
    return bucket, key


def together(sources: Sequence[Source], *, granted: Iterable[tuple[str, str]]) -> None:
    """Let pass what one run can read; `granted` are the places, bucket and key or prefix, that its role covers.

    Single objects elsewhere are granted one by one, as long as they are few.
    Raises: DropRejectedError when the objects lie in several buckets, or there are too many.
    """
    if len({source.bucket for source in sources}) > 1:
        raise DropRejectedError(
            Rejection(
                "several-buckets",
                "old and new data lie in different buckets",
                remedy="Keep all data of an appending project in one bucket, or write data: {mode: replace}.",
            )
        )
    few_enough(len(sources))
    places = list(granted)
    if len(sources) > INLINE and not all(_is_in(source, places) for source in sources):
        raise DropRejectedError(
            Rejection(
                "too-many-objects",
                "data.uri has moved, and the objects read before are too many to be granted one by one",
                column="data.uri",
                remedy="Name a folder that holds old and new data, or write data: {mode: replace}.",
            )
        )


def _is_in(source: Source, places: Iterable[tuple[str, str]]) -> bool:
    return any(
        source.bucket == bucket and (source.key == key or source.key.startswith(key.rstrip("/") + "/"))
        for bucket, key in places
    )


def few_enough(count: int) -> None:
    """Let pass as many objects as one run reads.

    Raises: DropRejectedError.
    """
    if count > MAX_OBJECTS:
        raise DropRejectedError(
            Rejection(
                "too-many-objects",
                f"the drop holds more than the {MAX_OBJECTS} objects that one run reads",
                remedy="Put the files into one zip or tar.gz, or join tables into one larger file.",
            )
        )


def appended(old: Iterable[Source], new: Sequence[Source], *, by_name: bool = False) -> list[Source]:
    """Return the old sources and the new ones: a new version of a key replaces it, the same bytes count once.

    With `by_name` they count under each name: a picture in two classes' folders is for `process` to judge.
    """
    replaced = {(source.bucket, source.key) for source in new}
    kept = [source for source in old if (source.bucket, source.key) not in replaced]
    if by_name:
        return sorted([*kept, *new], key=lambda source: source.key)
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


def uri_refused(message: str, remedy: str, *, file: str, field: str) -> InvalidSpecError:
    """Return the error for a place that a field of the spec may not name."""
    code = f"{field.replace('.', '-')}-refused"
    return InvalidSpecError(Rejection(code, message, file=file, column=field, remedy=remedy))
