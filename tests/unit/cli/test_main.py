"""How the command is put together: what it tells of itself, and what it imports for that."""

import importlib
import inspect
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ebb_cli.main import ENTRIES, app


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_help_tells_of_each_command_what_its_docstring_begins_with(entry):
    function = getattr(importlib.import_module(f"ebb_cli.{entry.module}"), entry.name)
    assert inspect.getdoc(function).split("\n\n")[0] == entry.told


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_each_command_is_there_with_its_options(entry):
    told = CliRunner().invoke(app, [entry.name, "--help"])
    assert told.exit_code == 0
    assert f"ebb {entry.name}" in told.output
    assert ("--profile" in told.output) or entry.name in {"up", "down", "demo", "simulate"}


def test_a_command_that_is_not_there_is_wrong_usage():
    done = CliRunner().invoke(app, ["rnus"])
    assert done.exit_code == 2
    assert "rnus" in done.output


@pytest.mark.parametrize(("typed", "meant"), [("slep", "sleep"), ("rnus", "runs"), ("endpoint", "endpoints")])
def test_who_mistypes_a_command_is_told_which_was_meant(typed, meant):
    done = CliRunner().invoke(app, [typed, "churn"])
    assert done.exit_code == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'" in done.output


def test_a_mistyped_command_leaves_the_others_as_they_are():
    CliRunner().invoke(app, ["slep"])
    assert "--profile" in CliRunner().invoke(app, ["sleep", "--help"]).output


@pytest.mark.parametrize(
    ("asked", "spared"),
    [
        pytest.param(["--help"], {"boto3", "pydantic", "ebb_cli.show", "ebb_cli.simulate"}, id="the help imports none"),
        pytest.param(
            ["runs", "--help"], {"ebb_cli.simulate", "ebb_cli.idle", "PIL", "numpy"}, id="a command only itself"
        ),
    ],
)
def test_nothing_is_imported_that_nobody_asked_for(asked, spared):
    code = (
        f"import sys\nfrom ebb_cli.main import app\napp({asked}, standalone_mode=False)\nprint(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not spared & set(done.stdout.splitlines())
