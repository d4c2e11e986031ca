"""The `ebb` command: one module per group of subcommands, put together here."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

START, WATCH, SERVE, KEEP = "Start", "Runs", "Models", "House-keeping"


@dataclass(frozen=True)
class Entry:
    """One command: the function `name` of the module, which is imported when somebody calls it."""

    module: str
    name: str
    panel: str
    told: str
    """Its line in `ebb --help`: the first of its docstring."""


ENTRIES = (
    Entry("cloud", "up", START, "Start the embedded cloud on loopback and deploy template.yaml to it, unmodified."),
    Entry(
        "cloud",
        "down",
        START,
        "Stop the embedded cloud and every process that it started; what it holds is kept for the next `ebb up`.",
    ),
    Entry(
        "advance",
        "advance",
        START,
        "Put the embedded cloud's clock forward: schedules fire, alarms see each minute, executions go on.",
    ),
    Entry(
        "demo",
        "demo",
        START,
        "Show everything: deploy, drop real data, train, shrink, serve, ask the model, count what it took.",
    ),
    Entry("planning", "plan", START, "Say what a drop would do, what it would cost at most, and why; start nothing."),
    Entry("drop", "drop", START, "Drop data: it is read, a model is trained, made small, and served."),
    Entry(
        "simulate",
        "simulate",
        START,
        "Replay traffic through the decisions that Ebb makes on AWS: USD, kWh and grams saved, cold starts suffered.",
    ),
    Entry("show", "runs", WATCH, "List runs, newest first."),
    Entry(
        "show", "show", WATCH, "Show a run: its stages with seconds, the candidates, and the model before and after."
    ),
    Entry("show", "why", WATCH, "Tell why a run did what it did, from the upload to the grams."),
    Entry(
        "report",
        "report",
        WATCH,
        "Open the report of a run: one page that needs no network, on a phone and on paper too.",
    ),
    Entry(
        "regions",
        "regions",
        WATCH,
        "Rank the Regions for a run by what it would emit there, the transfer of its data counted.",
    ),
    Entry(
        "carbon",
        "carbon",
        WATCH,
        "Sum up what was spent and saved: kWh, grams, litres and USD, each with its band, by project and kind.",
    ),
    Entry(
        "budget",
        "budget",
        WATCH,
        "Show a month's budgets: the limits, what runs and endpoints took, what is set aside, and what is left.",
    ),
    Entry("lineage", "lineage", WATCH, "List the models made from an object, or the objects behind a model."),
    Entry("logs", "logs", WATCH, "Print what the jobs of a run wrote, every attempt, in order."),
    Entry(
        "control",
        "cancel",
        WATCH,
        "Stop a run and the job that it is in. With --wait, exit status 0 says that it is cancelled.",
    ),
    Entry("control", "retry", WATCH, "Run a failed or cancelled run again, repeating no stage that finished."),
    Entry("serving", "models", SERVE, "List the registered models, by project and version."),
    Entry(
        "deploy",
        "deploy",
        SERVE,
        "Serve a project's model as another kind; its address stays, and it answers all the time.",
    ),
    Entry(
        "endpoints",
        "endpoints",
        SERVE,
        "List the models' addresses: where each is reached, whether it is awake, and what that costs.",
    ),
    Entry(
        "serving",
        "invoke",
        SERVE,
        "Ask a project's model: rows, pictures or texts in, labels with probabilities or values out.",
    ),
    Entry(
        "serving", "ticket", SERVE, "Fetch the answer to a request that was left; exit status 5 while there is none."
    ),
    Entry("endpoints", "wake", SERVE, "Wake a model's endpoint before anybody asks it."),
    Entry(
        "endpoints",
        "sleep",
        SERVE,
        "Put a model's endpoint to sleep now, if nobody uses it; nothing that is busy is stopped.",
    ),
    Entry(
        "score",
        "score",
        SERVE,
        "Score files with a batch transform: each row comes back with its prediction, and no endpoint is needed.",
    ),
    Entry(
        "idle",
        "idle",
        KEEP,
        "Show what is idle in the account: endpoints, notebooks, Studio apps, spaces, warm pools, training jobs.",
    ),
    Entry(
        "publish",
        "publish",
        KEEP,
        "Send decisions as events once more: those of a run, or all that the ledger holds (endpoints' too).",
    ),
    Entry(
        "cost",
        "cost",
        KEEP,
        "Print what Ebb itself has cost: Lambda, Step Functions, DynamoDB, S3, SQS, KMS, CloudWatch, Scheduler, "
        "events.",
    ),
    Entry("doctor", "doctor", KEEP, "Say what is missing on this machine, or in the AWS account that --profile names."),
    Entry(
        "forget", "forget", KEEP, "Remove dropped data and all that holds its rows; tell which models learnt from it."
    ),
    Entry(
        "destroy",
        "destroy",
        KEEP,
        "Remove endpoints, models, alarms and roles that runs made; with --with-stack the stack too.",
    ),
)
COMMANDS = {entry.name: entry for entry in ENTRIES}


class Commands(TyperGroup):
    """The commands; each is imported alone: `ebb runs` need not wait for what `ebb simulate` draws with."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command with its options, None when there is none of this name."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        return load(COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is asked for; who mistypes one is told which there are."""
        if args[0] in COMMANDS:
            return super().resolve_command(ctx, args)
        with self._listed():
            return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Tell the commands by what is known of them here."""
        with self._listed():
            super().format_help(ctx, formatter)

    @contextlib.contextmanager
    def _listed(self) -> Iterator[None]:
        """Let Typer see all commands, by name and panel only: none is imported."""
        self.commands = {
            each.name: TyperCommand(each.name, help=each.told, rich_help_panel=each.panel) for each in ENTRIES
        }
        try:
            yield
        finally:
            self.commands = {}


def load(entry: Entry) -> Any:
    """Import a command, and give it its options and the way in which all tell their errors."""
    from ebb_cli.problems import reported
    from ebb_cli.target import on_target

    function = getattr(importlib.import_module(f"ebb_cli.{entry.module}"), entry.name)
    speaks_to_a_cloud = "target" in inspect.signature(function).parameters
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    alone.command(name=entry.name)(reported(on_target(function) if speaks_to_a_cloud else function))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="ebb",
    cls=Commands,
    help="Drop data, get the smallest model that is good enough, served only while somebody uses it.\n\n"
    "Commands speak to the embedded cloud while it runs (ebb up), else to AWS; --profile chooses AWS.\n\n"
    "Exit status: 0 success, 1 failure, 2 wrong usage, 3 the drop was rejected, 4 the run was cancelled, "
    "5 there is no answer yet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

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
