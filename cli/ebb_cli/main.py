"""The `ebb` command: one module per group of subcommands, put together here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from ebb_cli import (
    advance,
    cloud,
    control,
    cost,
    demo,
    deploy,
    destroy,
    doctor,
    drop,
    endpoints,
    idle,
    logs,
    planning,
    score,
    serving,
    show,
    simulate,
)
from ebb_cli.problems import reported
from ebb_cli.target import on_target

app = typer.Typer(
    name="ebb",
    help="Drop data, get the smallest model that is good enough, served only while somebody uses it.\n\n"
    "Commands speak to the embedded cloud while it runs (ebb up), else to AWS; --profile chooses AWS.\n\n"
    "Exit status: 0 success, 1 failure, 2 wrong usage, 3 the drop was rejected, 4 the run was cancelled, "
    "5 there is no answer yet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

START, WATCH, SERVE, KEEP = "Start", "Runs", "Models", "House-keeping"

# (function, needs a target, panel in `ebb --help`)
COMMANDS: tuple[tuple[Callable[..., Any], bool, str], ...] = (
    (cloud.up, False, START),
    (cloud.down, False, START),
    (advance.advance, True, START),
    (demo.demo, False, START),
    (planning.plan, False, START),
    (drop.drop, True, START),
    (simulate.simulate, False, START),
    (show.runs, True, WATCH),
    (show.show, True, WATCH),
    (show.why, True, WATCH),
    (logs.logs, True, WATCH),
    (control.cancel, True, WATCH),
    (control.retry, True, WATCH),
    (serving.models, True, SERVE),
    (deploy.deploy, True, SERVE),
    (endpoints.endpoints, True, SERVE),
    (serving.invoke, True, SERVE),
    (serving.ticket, True, SERVE),
    (endpoints.wake, True, SERVE),
    (endpoints.sleep, True, SERVE),
    (score.score, True, SERVE),
    (idle.idle, True, KEEP),
    (cost.cost, True, KEEP),
    (doctor.doctor, False, KEEP),
    (destroy.destroy, False, KEEP),
)

for function, needs_target, panel in COMMANDS:
    command = reported(on_target(function) if needs_target else function)
    app.command(name=function.__name__, rich_help_panel=panel)(command)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ebb {version('ebb')}")
        raise typer.Exit


@app.callback()
def ebb(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of `ebb` itself; the subcommands do the work."""


if __name__ == "__main__":
    app()
