"""`ebb deploy`: bring the model that a project serves to its address as another kind, without training."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from ebb.addresses import Address
from ebb_cli import output
from ebb_cli.endpoints import known
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target
from ebb_cli.upload import require_project

KINDS = ("auto", "serverless", "async", "realtime", "shared", "batch")


def deploy(
    target: Target,
    project: Annotated[str, typer.Argument(help="Project whose model moves.")],
    kind: Annotated[
        str, typer.Option("--kind", help=f"{', '.join(KINDS)}; auto chooses by what the spec asks and by the traffic.")
    ] = "auto",
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it serves, or until it is taken back.")] = False,
    as_json: Json = False,
) -> None:
    """Serve a project's model as another kind; its address stays, and it answers all the time."""
    require_project(project)
    if kind not in KINDS:
        raise CommandError(f"There is no kind {kind!r}.", f"Write one of: {', '.join(KINDS)}.", status=USAGE)
    book = Ledger(target)
    if not book.project(project).get("served"):
        raise CommandError(f"{project} serves no model yet.", f"ebb drop PATH --project {project} makes one.")
    execution = start(target, project, kind)
    if not wait:
        told = {"project": project, "kind": kind, "execution_arn": execution}
        if as_json:
            output.emit_json(told)
        else:
            output.out().print(f"{project} is being deployed; ebb endpoints shows where it stands.", markup=False)
        return
    answer = follow(target, execution)
    at = known(book, target, project)
    if as_json:
        output.emit_json({**answer, "address": at.address, "kind": at.kind, "state": at.state})
    else:
        output.out().print(_told(answer, at), soft_wrap=True)


def start(target: Target, project: str, kind: str, reason: str | None = None) -> str:
    """Start a deployment of what a project serves and return its execution."""
    given = {"project": project, "kind": kind, "reason": reason or ("" if kind == "auto" else "asked for by hand")}
    started = target.client("stepfunctions").start_execution(
        stateMachineArn=target.outputs["DeployModelStateMachineArn"],
        name=f"move-{project}-{time.time_ns()}",
        input=json.dumps({name: value for name, value in given.items() if value}),
    )
    return str(started["executionArn"])


def follow(target: Target, execution: str) -> dict[str, Any]:
    """Wait for the end of a deployment and return its answer.

    Raises: CommandError when it was taken back; the earlier model serves then.
    """
    states = target.client("stepfunctions")
    with output.err().status("deploying"):
        while (ended := states.describe_execution(executionArn=execution))["status"] == "RUNNING":
            time.sleep(target.poll_s)
    if ended["status"] == "SUCCEEDED":
        return dict(json.loads(ended["output"]))
    raise CommandError(
        f"Not deployed: {ended.get('error')}: {ended.get('cause')}", "What served before serves on: ebb endpoints."
    )


def _told(answer: dict[str, Any], at: Address) -> str:
    where = f"served at [bold]{escape(at.address)}[/bold] as {at.kind}"
    reason = escape(str(answer.get("reason") or ""))
    return f"{where}: {reason}" if answer.get("deployed") else f"nothing was changed: {reason}; {where}"
