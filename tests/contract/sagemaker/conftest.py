"""A cloud of its own: here this Python stands for the images, and waiting times are short."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.sagemaker.lab import Lab, environments
from contract.support import Cloud, free_port
from ebb_local import lifecycle


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("EBB_VENVS", str(environments(tmp_path_factory.mktemp("venvs"), sys.executable)))
    patch.setenv("EBB_STOP_GRACE_S", "1")
    patch.setenv("EBB_SERVERLESS_IDLE_S", "2")
    patch.setenv("EBB_ENDPOINT_START_S", "10")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def lab(variables: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("sagemaker")
    yield Lab(Cloud(lifecycle.start(home, port=free_port())))
    assert lifecycle.stop(home) == [], "a container outlived the server"


@pytest.fixture
def home(variables: None, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    lifecycle.stop(tmp_path)
