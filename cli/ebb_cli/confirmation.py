"""The question before anything is removed for good."""

from __future__ import annotations

import typer

from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Target


def ask(target: Target, what: str, *, command: str, answer: str, called: str, yes: bool) -> None:
    """Ask before `what` is removed; on AWS only a named profile and `answer`, typed, are a yes.

    `called` is what the question calls the answer, `command` the one that asks.
    Raises: typer.Abort and CommandError when nothing may be removed.
    """
    if target.embedded:
        if not yes and not typer.confirm(f"Remove {what}?", err=True):
            raise typer.Abort
        return
    if not target.profile:
        raise CommandError(f"On AWS {command} takes no default.", "Name the account with --profile NAME.", status=USAGE)
    typed = typer.prompt(f"{target.name}: remove {what}? Type {called} to go on", err=True)
    if typed != answer:
        raise CommandError(f"{typed!r} is not {answer!r}: nothing was removed.")
