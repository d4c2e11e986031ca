"""Read and write objects in S3. Reads name the version they expect, so that a change in between is seen."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NoReturn

from botocore.exceptions import BotoCoreError, ClientError

from ebb.aws.clients import client
from ebb.errors import ObjectChangedError, ObjectDeniedError, ObjectMissingError, StorageUnavailableError

HASH_CHUNK_BYTES = 8 * 1024 * 1024
BLOCK_BYTES = 1024 * 1024  # of a ranged read: an archive's directory is rarely longer
BLOCKS_HELD = 4
_MISSING = {"404", "NoSuchKey", "NotFound"}
_CHANGED = {"412", "PreconditionFailed"}
_DENIED = {"403", "AccessDenied"}
_CONFLICT = {"409", "ConditionalRequestConflict"}  # nothing was written: something else happened to the key just then
CONFLICT_TRIES = 4


@dataclass(frozen=True)
class ObjectFacts:
    """What S3 knows about an object without its content."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    metadata: dict[str, str]
    checksum: str | None  # of the full object, with its algorithm; None when S3 has none or only one of parts


def head(bucket: str, key: str, *, etag: str | None = None) -> ObjectFacts:
    """Return what S3 knows about an object.

    Raises: ObjectMissingError, ObjectChangedError when `etag` is not its version, ObjectDeniedError,
    StorageUnavailableError.
    """
    try:
        found = client("s3").head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED", **_if_match(etag))
    except (ClientError, BotoCoreError) as error:
        _translate(error, bucket, key)
    return ObjectFacts(
        bucket,
        key,
        found["ContentLength"],
        found["ETag"].strip('"'),
        found.get("Metadata", {}),
        _full_object_checksum(found),
    )


def described(bucket: str, key: str) -> dict[str, Any] | None:
    """Return what S3 tells about an object, its type and time among it; None when it is not there.

    Raises: ObjectDeniedError, StorageUnavailableError.
    """
    try:
        return dict(client("s3").head_object(Bucket=bucket, Key=key))
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] in _MISSING:
            return None
        _translate(error, bucket, key)


def read(bucket: str, key: str, *, etag: str | None = None, first_bytes: int | None = None) -> bytes:
    """Return an object's bytes, or its first ones.

    Raises: as `head`.
    """
    return _get(bucket, key, etag, f"bytes=0-{first_bytes - 1}" if first_bytes else None)


def sha256(bucket: str, key: str, *, etag: str) -> str:
    """Return the SHA-256 of one version of an object, streamed.

    Raises: as `head`.
    """
    digest = hashlib.sha256()
    try:
        body = client("s3").get_object(Bucket=bucket, Key=key, **_if_match(etag))["Body"]
        for chunk in body.iter_chunks(HASH_CHUNK_BYTES):
            digest.update(chunk)
    except (ClientError, BotoCoreError) as error:
        _translate(error, bucket, key)
    return digest.hexdigest()


def open_stream(bucket: str, key: str, *, etag: str, size_bytes: int) -> BinaryIO:
    """Return one version of an object as a file that can be sought in; only the blocks that are read are fetched.

    Raises, when it is read: as `head`.
    """
    return io.BufferedReader(_Ranges(bucket, key, etag, size_bytes), buffer_size=64 * 1024)


class _Ranges(io.RawIOBase):
    """An object read block by block; the last few blocks are kept, because a directory is read back and forth."""

    def __init__(self, bucket: str, key: str, etag: str, size_bytes: int):
        super().__init__()
        self._bucket, self._key, self._etag, self._size_bytes = bucket, key, etag, size_bytes
        self._position = 0
        self._block = lru_cache(maxsize=BLOCKS_HELD)(self._fetch)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        if origin + offset < 0:
            raise OSError("a position before the beginning")  # as files do; zipfile relies on it
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size_bytes:
            return 0
        number, start = divmod(self._position, BLOCK_BYTES)
        found = self._block(number)[start : start + len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def _fetch(self, number: int) -> bytes:
        first = number * BLOCK_BYTES
        last = min(first + BLOCK_BYTES, self._size_bytes) - 1
        return _get(self._bucket, self._key, self._etag, f"bytes={first}-{last}")


def listed(bucket: str, prefix: str) -> Iterator[ObjectFacts]:
    """Yield every object below a prefix, in the order of their keys; a listing tells no metadata and no checksum.

    Raises: as `head`.
    """
    try:
        for page in client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Contents", ()):
                yield ObjectFacts(bucket, each["Key"], each["Size"], each["ETag"].strip('"'), {}, None)
    except (ClientError, BotoCoreError) as error:
        _translate(error, bucket, prefix)


def read_json(uri: str) -> Any:
    """Return the JSON document at an `s3://` URI.

    Raises: as `head`, and ValueError when it is no JSON.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return json.loads(read(bucket, key))


def write_json(bucket: str, key: str, document: Any) -> str:
    """Write a JSON document and return its URI. The bucket's own default encrypts it.

    Raises: ObjectDeniedError, StorageUnavailableError.
    """
    write(bucket, key, json.dumps(document, indent=1).encode(), content_type="application/json")
    return f"s3://{bucket}/{key}"


def write(bucket: str, key: str, body: bytes, *, content_type: str) -> None:
    """Write an object.

    Raises: ObjectDeniedError, StorageUnavailableError.
    """
    try:
        client("s3").put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)
    except (ClientError, BotoCoreError) as error:
        _translate(error, bucket, key)


def write_once(bucket: str, key: str, body: bytes, *, content_type: str) -> bool:
    """Write an object unless there is one; return False when there is, which stays as it is.

    A conflict tells neither, so that it is tried again: taken for an object that is there, a ticket would have no end.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    Raises: ObjectDeniedError, StorageUnavailableError.
    """
    for tried in range(1, CONFLICT_TRIES + 1):
        try:
            client("s3").put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type, IfNoneMatch="*")
        except (ClientError, BotoCoreError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
            if code in _CHANGED:
                return False
            if code not in _CONFLICT or tried == CONFLICT_TRIES:
                _translate(error, bucket, key)
        else:
            return True
    raise AssertionError("the last try returns or raises")


def _get(bucket: str, key: str, etag: str | None, span: str | None) -> bytes:
    ranged = {"Range": span} if span else {}
    try:
        return bytes(client("s3").get_object(Bucket=bucket, Key=key, **_if_match(etag), **ranged)["Body"].read())
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "InvalidRange":
            return b""  # an empty object has no first bytes
        _translate(error, bucket, key)


def _if_match(etag: str | None) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}


def _full_object_checksum(found: dict[str, Any]) -> str | None:
    """Composite checksums of multipart uploads depend on the part size, so they do not name the content."""
    if found.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    names = ("ChecksumSHA256", "ChecksumCRC64NVME", "ChecksumCRC32C", "ChecksumCRC32", "ChecksumSHA1")
    return next((f"{name.removeprefix('Checksum')}:{found[name]}" for name in names if found.get(name)), None)


def _translate(error: ClientError | BotoCoreError, bucket: str, key: str) -> NoReturn:
    where = f"s3://{bucket}/{key}"
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
    if code in _MISSING:
        raise ObjectMissingError(f"{where} is not there") from error
    if code in _CHANGED:
        raise ObjectChangedError(f"{where} was written again") from error
    if code in _DENIED:
        raise ObjectDeniedError(f"S3 refused access to {where}") from error
    raise StorageUnavailableError(f"{where}: S3 answered {code}") from error
