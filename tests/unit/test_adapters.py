"""Adapters translate AWS's errors by code, and the layer holds the locked versions."""

import re
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
    for path in (ROOT / "layers/core/ebb").rglob("*.py"):
        uses = re.search(r"^\s*(import|from) (boto3|botocore)", path.read_text(), re.MULTILINE)
        assert not uses or path.parent.name == "aws", path
