"""Adapters translate AWS's errors by code, and the layer holds the locked versions."""

import io
import re
import zipfile
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from ebb.aws import ledger as ledgers
from ebb.aws import storage
from ebb.errors import (
    LedgerUnavailableError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectMissingError,
    StorageUnavailableError,
)

ROOT = Path(__file__).parent.parent.parent


class Refusing:
    """A client or table whose every call ends in one error."""

    def __init__(self, error: Exception):
        self.error = error

    def __getattr__(self, name: str):
        def call(**request):
            raise self.error

        return call


def answered(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "text that nobody should parse"}}, "Any")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(answered("NoSuchKey"), ObjectMissingError, id="a key that is gone"),
        pytest.param(answered("404"), ObjectMissingError, id="HEAD has no error name"),
        pytest.param(answered("PreconditionFailed"), ObjectChangedError, id="another version"),
        pytest.param(answered("412"), ObjectChangedError, id="another version, by HEAD"),
        pytest.param(answered("AccessDenied"), ObjectDeniedError, id="no permission"),
        pytest.param(answered("SlowDown"), StorageUnavailableError, id="throttled"),
        pytest.param(EndpointConnectionError(endpoint_url="x"), StorageUnavailableError, id="no connection"),
    ],
)
def test_errors_of_s3(monkeypatch, error, expected):
    monkeypatch.setattr(storage, "client", lambda service: Refusing(error))
    with pytest.raises(expected, match="s3://bucket/key"):
        storage.head("bucket", "key")


class Holding:
    """S3 with one object, which notes what is asked of it."""

    def __init__(self, body: bytes):
        self.body, self.asked = body, []

    def get_object(self, *, Range, IfMatch, **place):
        assert IfMatch == '"e1"', "a stream stays on one version"
        self.asked.append(Range)
        first, last = map(int, Range.removeprefix("bytes=").split("-"))
        return {"Body": io.BytesIO(self.body[first : last + 1])}


@pytest.fixture
def archived(monkeypatch):
    """Three blocks and a little: a zip of one large member, as S3 holds it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("large.bin", bytes(3 * storage.BLOCK_BYTES))
        archive.writestr("small.txt", "found")
    holding = Holding(packed.getvalue())
    monkeypatch.setattr(storage, "client", lambda service: holding)
    stream = storage.open_stream("bucket", "key.zip", etag="e1", size_bytes=len(holding.body))
    return holding, stream


def test_a_zips_directory_is_read_without_the_zip(archived):
    holding, stream = archived
    with zipfile.ZipFile(stream) as archive:
        assert archive.namelist() == ["large.bin", "small.txt"]
        assert archive.read("small.txt") == b"found"
    assert len(holding.asked) == 1, "all of it lies in the last block"


def test_a_stream_gives_every_byte_once_and_in_order(archived):
    holding, stream = archived
    assert stream.read() == holding.body
    assert len(holding.asked) == 4
    assert stream.read(1) == b""
    with pytest.raises(OSError, match="before the beginning"):
        stream.seek(-1)


class Answering:
    """S3 whose writes end one after the other as given: an error's code, or None for what was written."""

    def __init__(self, *codes: str | None):
        self.codes = list(codes)

    def put_object(self, **request) -> None:
        assert request["IfNoneMatch"] == "*"
        if code := self.codes.pop(0):
            raise answered(code)


@pytest.mark.parametrize(
    ("codes", "written"),
    [
        pytest.param([None], True, id="it was not there"),
        pytest.param(["PreconditionFailed"], False, id="it was there"),
        pytest.param(["ConditionalRequestConflict", None], True, id="a conflict is no object: tried again"),
        pytest.param(["409", "PreconditionFailed"], False, id="it came meanwhile"),
    ],
)
def test_an_object_is_written_once(monkeypatch, codes, written):
    answering = Answering(*codes)
    monkeypatch.setattr(storage, "client", lambda service: answering)
    assert storage.write_once("bucket", "key", b"", content_type="text/plain") is written


def test_a_conflict_that_lasts_is_no_object_that_is_there(monkeypatch):
    conflicts = Answering(*["ConditionalRequestConflict"] * storage.CONFLICT_TRIES)
    monkeypatch.setattr(storage, "client", lambda service: conflicts)
    with pytest.raises(StorageUnavailableError, match="ConditionalRequestConflict"):
        storage.write_once("bucket", "key", b"", content_type="text/plain")


def test_a_stream_whose_object_is_written_again_says_so(monkeypatch):
    monkeypatch.setattr(storage, "client", lambda service: Refusing(answered("PreconditionFailed")))
    stream = storage.open_stream("bucket", "key", etag="old", size_bytes=9)
    with pytest.raises(ObjectChangedError):
        stream.read()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(answered("ProvisionedThroughputExceededException"), id="throttled"),
        pytest.param(answered("AccessDeniedException"), id="no permission"),
        pytest.param(EndpointConnectionError(endpoint_url="x"), id="no connection"),
    ],
)
def test_a_failed_read_of_the_ledger_is_an_error_and_never_an_empty_answer(monkeypatch, error):
    monkeypatch.setattr(ledgers, "table", lambda name: Refusing(error))
    with pytest.raises(LedgerUnavailableError):
        ledgers.Ledger("t").run("r")


def test_a_refused_condition_is_an_answer(monkeypatch):
    monkeypatch.setattr(ledgers, "table", lambda name: Refusing(answered("ConditionalCheckFailedException")))
    assert ledgers.Ledger("t").apply({"Key": {}}) is False


def test_the_layer_holds_the_locked_versions():
    def pins(path: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", (ROOT / path).read_text().lower(), re.MULTILINE))

    locked, layer = pins("requirements/control.txt"), pins("layers/core/requirements.txt")
    assert layer == {name: locked[name] for name in layer}


def test_only_the_adapters_import_boto3():
    callers_own = "client.py"  # a file that is copied to where callers are, and that nothing here imports
    for path in (ROOT / "layers/core/ebb").rglob("*.py"):
        uses = re.search(r"^\s*(import|from) (boto3|botocore)", path.read_text(), re.MULTILINE)
        assert not uses or path.parent.name == "aws" or path.name == callers_own, path
