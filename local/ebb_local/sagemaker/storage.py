"""S3 as a job sees it: through the gateway, with credentials of the job's own role, one object at a time.

Nothing is held in memory: downloads are streamed to disk, uploads are read from it. Bucket policies, KMS keys and
the role's policies decide as they do on AWS.
"""

import contextlib
import importlib
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ministack.core.responses import get_region
from ministack.services import kms

from ebb_local import authorization, clock
from ebb_local.sagemaker import settings
from ebb_local.sagemaker.errors import JobFailure
from ebb_local.sagemaker.roles import Credentials

_CHUNK_BYTES = 1 << 20
_TRANSFER = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=32 << 20, use_threads=False)
# No profile and no file of the person who runs the server: only the credentials of roles.
_UNCONFIGURED = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
_session = boto3.session.Session(botocore_session=botocore.session.Session(session_vars=_UNCONFIGURED))
_session_lock = threading.Lock()


def sign_in_real_time() -> None:
    """Date the signatures of this process's clients with this machine's clock, which is what judges them."""

    def real_datetime(remove_tzinfo: bool = True) -> datetime:
        moment = datetime.fromtimestamp(clock.real_now(), UTC)
        return moment.replace(tzinfo=None) if remove_tzinfo else moment

    for name in ("botocore.auth", "botocore.crt.auth"):  # the second signs where awscrt is installed
        with contextlib.suppress(ImportError):
            importlib.import_module(name).get_current_datetime = real_datetime  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Location:
    """A place in S3: a bucket and a key or key prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "Location":
        """Read an `s3://` URI."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return cls(bucket, key)

    def below(self, relative: str) -> "Location":
        """Return a key under this prefix."""
        return Location(self.bucket, f"{self.key.rstrip('/')}/{relative}".lstrip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class Source:
    """One object to download, and its path below the channel's directory."""

    location: Location
    path: str


class Bucket:
    """S3 under one role. Errors become the FailureReason that SageMaker gives for them."""

    def __init__(self, credentials: Credentials) -> None:
        self._principal = credentials.principal
        with _session_lock:  # making clients is not thread-safe
            self._client = _session.client(
                "s3",
                region_name=get_region(),
                endpoint_url=settings.current().endpoint_url,
                aws_access_key_id=credentials.access_key_id,
                aws_secret_access_key=credentials.secret_access_key,
                aws_session_token=credentials.session_token,
                config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}, proxies={}),
            )

    def sources(self, s3_data_type: str, uri: str) -> list[Source]:
        """Return the objects that an S3 data source names, in order."""
        if s3_data_type == "ManifestFile":
            return list(self._manifest_sources(Location.parse(uri)))
        return list(self._prefix_sources(Location.parse(uri)))

    def holds_objects(self, uri: str) -> bool:
        """Return whether at least one object matches the prefix; a role that may not list sees none, as on AWS."""
        location = Location.parse(uri)
        try:
            found = self._client.list_objects_v2(Bucket=location.bucket, Prefix=location.key, MaxKeys=1)
        except ClientError:
            return False
        return found["KeyCount"] > 0

    def exists(self, location: Location) -> bool:
        """Return whether the role can see the object."""
        try:
            self._client.head_object(Bucket=location.bucket, Key=location.key)
        except ClientError:
            return False
        return True

    def download(self, location: Location, path: Path) -> None:
        """Stream one object into a file."""
        try:
            body = self._client.get_object(Bucket=location.bucket, Key=location.key)["Body"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(body, file, _CHUNK_BYTES)
        except (ClientError, BotoCoreError, OSError) as error:
            raise JobFailure(f"ClientError: Data download failed:{_reason(error)}: {location}") from error

    def upload(self, path: Path, location: Location, kms_key_id: str | None = None) -> None:
        """Store one file, encrypted with the job's key when it has one."""
        if kms_key_id:
            self._require_key(kms_key_id, location)
        extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key_id} if kms_key_id else {}
        try:
            self._client.upload_file(str(path), location.bucket, location.key, ExtraArgs=extra, Config=_TRANSFER)
        except Exception as error:  # boto3 wraps refusals of uploads in classes of its own
            raise JobFailure(f"ClientError: Data upload failed:{_reason(error)}: {location}") from error

    def upload_tree(self, directory: Path, target: Location, kms_key_id: str | None = None) -> int:
        """Store every file below a directory under a prefix; return how many there were."""
        files = sorted(files_below(directory))
        for path in files:
            self.upload(path, target.below(path.relative_to(directory).as_posix()), kms_key_id)
        return len(files)

    def _require_key(self, key_id: str, location: Location) -> None:
        """Raise unless the role may use the key: S3 asks for the one that a request names, MiniStack does not."""
        found = kms._resolve_key(key_id)
        context = {"kms:ViaService": f"s3.{get_region()}.amazonaws.com"}
        try:
            if found is None:
                raise JobFailure(f"ClientError: Data upload failed:KMS.NotFoundException: key {key_id}: {location}")
            authorization.authorize("kms:GenerateDataKey", found["Arn"], principal=self._principal, context=context)
        except authorization.AccessDenied as denied:
            raise JobFailure(f"ClientError: Data upload failed:AccessDenied (403): {denied}: {location}") from denied

    def _prefix_sources(self, location: Location) -> Iterator[Source]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=location.key)
        try:
            for page in pages:
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):  # what consoles create as a folder
                        yield Source(
                            Location(location.bucket, item["Key"]), _path_in_channel(location.key, item["Key"])
                        )
        except ClientError as error:
            raise JobFailure(f"ClientError: Data download failed:{_reason(error)}: {location}") from error

    def _manifest_sources(self, manifest: Location) -> Iterator[Source]:
        """`[{"prefix": "s3://bucket/some/"}, "a.csv", "b/c.csv"]`.

        Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html
        """
        try:
            text = self._client.get_object(Bucket=manifest.bucket, Key=manifest.key)["Body"].read()
            entries: list[Any] = json.loads(text)
            prefix = Location.parse(entries[0]["prefix"])
            names = [str(entry) for entry in entries[1:]]
        except (ClientError, BotoCoreError) as error:
            raise JobFailure(f"ClientError: Data download failed:{_reason(error)}: {manifest}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise JobFailure(f"ClientError: Data download failed:Invalid manifest file {manifest}: {error}") from error
        for name in names:
            yield Source(Location(prefix.bucket, prefix.key + name), name)


def pack(directory: Path, archive: Path) -> Path:
    """Write a directory's files into a tar.gz, named from its top, as SageMaker packs models and outputs."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(files_below(directory)):
            tar.add(path, arcname=path.relative_to(directory).as_posix(), recursive=False)
    return archive


class TreeSync:
    """Copies what changes below a directory to a prefix: checkpoints, and processing outputs of mode Continuous."""

    def __init__(self, bucket: Bucket, directory: Path, target: Location, kms_key_id: str | None = None) -> None:
        self._bucket, self._directory, self._target, self._kms_key_id = bucket, directory, target, kms_key_id
        self._seen: dict[Path, tuple[int, int]] = {}
        self._sent: dict[Path, tuple[int, int]] = {}

    def remember(self) -> None:
        """Take what is there as already stored, for example after downloading checkpoints."""
        self._seen = self._sent = self._scan()

    def send(self, *, settled_only: bool) -> None:
        """Store what changed. With `settled_only`, leave a file that is still being written for the next time."""
        found = self._scan()
        for path, stamp in found.items():
            if self._sent.get(path) != stamp and (not settled_only or self._seen.get(path) == stamp):
                self._bucket.upload(
                    path, self._target.below(path.relative_to(self._directory).as_posix()), self._kms_key_id
                )
                self._sent = {**self._sent, path: stamp}
        self._seen = found

    def _scan(self) -> dict[Path, tuple[int, int]]:
        stamps = {}
        for path in files_below(self._directory):
            try:
                status = path.stat()
            except FileNotFoundError:  # a temporary file that the job renamed meanwhile
                continue
            stamps[path] = (status.st_mtime_ns, status.st_size)
        return stamps


def download_all(bucket: Bucket, sources: list[Source], directory: Path, cancelled: Callable[[], bool]) -> None:
    """Download objects below a directory. A name that would leave the directory fails the job."""
    directory.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if cancelled():
            return
        bucket.download(source.location, inside(directory, source.path))


def inside(directory: Path, relative: str) -> Path:
    """Return a path below a directory; raise JobFailure for one that would lie outside."""
    parts = PurePosixPath(relative).parts
    if not parts or ".." in parts or relative.startswith("/"):
        raise JobFailure(f"ClientError: Data download failed:The path {relative!r} is not inside its directory")
    return directory.joinpath(*parts)


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the regular files below a directory. Links are not followed: a job cannot upload what lies elsewhere."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _path_in_channel(prefix: str, key: str) -> str:
    """Return where File mode puts an object: relative to the prefix, to its folder when the prefix ends in a name.

    Assumed for prefixes that end in the middle of a name (`data/tr` for `data/train/x.csv` gives `train/x.csv`).
    """
    if key == prefix:
        return key.rsplit("/", 1)[-1]
    if prefix.endswith("/") or not prefix:
        return key[len(prefix) :]
    if key.startswith(f"{prefix}/"):
        return key[len(prefix) + 1 :]
    folder = prefix.rpartition("/")[0]
    return key[len(folder) :].lstrip("/")


def _reason(error: Exception) -> str:
    cause = error if isinstance(error, ClientError) else (error.__cause__ or error.__context__ or error)
    if isinstance(cause, ClientError):
        found = cause.response["Error"]
        status = cause.response["ResponseMetadata"]["HTTPStatusCode"]
        return f"{found.get('Code')} ({status}): {found.get('Message')}"
    return str(error)
