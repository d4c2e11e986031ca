"""`ebb simulate`: what sleeping would have cost and saved, on generated traffic or on a user's own. Needs no cloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ebb.keep_alive_habits import ColdStart
from ebb_cli import output
from ebb_cli.problems import USAGE, CommandError

DEFAULT_SEED = 300  # the first of those that nothing was tuned on


def simulate(
    traffic: Annotated[
        Path | None,
        typer.Option(
            "--traffic",
            help="CSV with the columns timestamp, endpoint, count; optional: instance_type, cold_start "
            "(allowed, avoid). Without it a year of traffic is generated.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw it: NAME.svg and NAME.png.")] = None,
    instance_type: Annotated[
        str, typer.Option("--instance-type", help="Of the endpoints in FILE that name none.")
    ] = "ml.m5.large",
    cold_start: Annotated[
        Literal["allowed", "avoid"], typer.Option("--cold-start", help="Of the endpoints in FILE that say nothing.")
    ] = "allowed",
    endpoints: Annotated[int, typer.Option("--endpoints", min=1, max=10_000, help="How many are generated.")] = 200,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long they exist.")] = 365,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the generated traffic.")] = DEFAULT_SEED,
) -> None:
    """Replay traffic through the decisions that Ebb makes on AWS: USD, kWh and grams saved, cold starts suffered."""
    # numpy takes a moment: only who simulates waits for it
    from ebb_cli.simulation import compare, report
    from ebb_cli.simulation import traffic as traces

    for path in (json_file, picture):
        if path and not path.absolute().parent.is_dir():
            raise CommandError(f"{path}: there is no folder {path.parent}", "Create it first.", status=USAGE)
    allowed: ColdStart = cold_start
    fleet = (
        traces.read(traffic, machine=instance_type, cold_start=allowed)
        if traffic
        else traces.generate(seed, endpoints=endpoints, days=days)
    )
    found = compare.compare(fleet)
    report.print_comparison(found)
    if json_file:
        json_file.write_text(json.dumps(found.as_dict(), indent=2) + "\n", encoding="utf-8")
    if picture:
        from ebb_cli.simulation.picture import draw

        for written in draw(found, fleet, picture):
            output.err().print(f"wrote {written}")
