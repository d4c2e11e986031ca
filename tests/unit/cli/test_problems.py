"""What goes wrong is told in a sentence, and what to do about it in another one."""

import pytest
import typer

from ebb.errors import LedgerUnavailableError
from ebb_cli.problems import CommandError, reported


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        pytest.param(CommandError("It is gone"), "error: It is gone.\n", id="a message without its period"),
        pytest.param(CommandError("It is gone."), "error: It is gone.\n", id="a message with its period"),
        pytest.param(CommandError("Is it gone?"), "error: Is it gone?\n", id="a question"),
        pytest.param(
            CommandError("pets serves files only", "Drop a file."),
            "error: pets serves files only.\n       Drop a file.\n",
            id="message and remedy",
        ),
        pytest.param(CommandError("it has failed ('x')"), "error: it has failed ('x').\n", id="a bracket at the end"),
        pytest.param(CommandError("see s3://bucket/key"), "error: see s3://bucket/key\n", id="a name to be copied"),
        pytest.param(CommandError("sam failed:\n  line"), "error: sam failed:\n  line\n", id="the end of a log"),
        pytest.param(LedgerUnavailableError("throttled"), "error: throttled.\n", id="an error of the functions"),
        pytest.param(FileNotFoundError(2, "No such file", "/x"), "error: /x: No such file.\n", id="the machine's own"),
    ],
)
def test_every_error_ends_as_a_sentence(capsys, problem, told):
    def fails() -> None:
        raise problem

    with pytest.raises(typer.Exit):
        reported(fails)()
    assert capsys.readouterr().err == told
