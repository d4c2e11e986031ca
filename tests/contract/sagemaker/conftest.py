"""A cloud of its own: here this Python stands for the images, and waiting times are short."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.sagemaker.lab import Lab, environments
from contract.support import Cloud, free_port
from ebb_local import lifecycle


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "EBB_VENVS": str(environments(tmp_path_factory.mktemp("venvs"), sys.executable)),
        "EBB_STOP_GRACE_S": "1",
        "EBB_SERVERLESS_IDLE_S": "2",
        "EBB_ENDPOINT_START_S": "10",
    }


@pytest.fixture(scope="session")
def lab(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("sagemaker")
    with pytest.MonkeyPatch.context() as patch:  # for the start alone: other tests start clouds while this one lives
        _set(patch, variables)
        started = lifecycle.start(home, port=free_port())
    yield Lab(Cloud(started))
    assert lifecycle.stop(home) == [], "a container outlived the server"


@pytest.fixture
def home(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    _set(monkeypatch, variables)
    yield tmp_path
    lifecycle.stop(tmp_path)


def _set(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)
