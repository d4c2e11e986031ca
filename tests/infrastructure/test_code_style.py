"""The linters pass: what `make lint` and `make typecheck` ask for is part of the suite."""

import subprocess
import sys

import pytest

from infrastructure.project import ROOT


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "--no-cache", "."], id="ruff finds nothing"),
        pytest.param(["ruff", "format", "--no-cache", "--check", "."], id="everything is formatted"),
        pytest.param(["mypy"], id="mypy finds nothing"),
    ],
)
def test_the_code_is_clean(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
