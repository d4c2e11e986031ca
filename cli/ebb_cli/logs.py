"""`ebb logs`: the lines that the jobs of a run wrote."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError

from ebb import names
from ebb_cli import output, show
from ebb_cli.ledger import Ledger
from ebb_cli.problems import CommandError
from ebb_cli.show import Run
from ebb_cli.target import Json, Target

# Where SageMaker writes, by the kind of job that a stage is.
GROUP_OF_STAGE = {
    "process": "/aws/sagemaker/ProcessingJobs",
    "train": "/aws/sagemaker/TrainingJobs",
    "compress": "/aws/sagemaker/TrainingJobs",
    "compile": "/aws/sagemaker/ProcessingJobs",
}


class Stage(StrEnum):
    """The stages that are jobs."""

    process = "process"
    train = "train"
    compress = "compress"
    compile = "compile"


def logs(
    target: Target,
    run: Run,
    stage: Annotated[Stage | None, typer.Argument(metavar="[STAGE]", help="Only this stage.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Print what the jobs of a run wrote, every attempt, in order."""
    ledger = Ledger(target)
    run_id = ledger.resolve(run)
    stages = [stage.value] if stage else list(names.STAGES)
    seen: set[str] = set()
    lines: list[dict[str, Any]] = []
    while True:
        document = show.require(ledger, run_id)
        for event in _new_events(target, document, stages, seen):
            lines.append(event)
            if not as_json:
                _print(event, with_stage=stage is None)
        if not follow or document["status"] != "running":
            break
        time.sleep(target.poll_s)
    if as_json:
        output.emit_json(lines)
    elif not lines:
        raise CommandError(f"No job of {run_id} has written a line yet.", f"ebb show {run_id} says how far it is.")


def _new_events(target: Target, run: dict[str, Any], stages: list[str], seen: set[str]) -> Iterator[dict[str, Any]]:
    for attempt in range(1, int(run["attempt"] or 1) + 1):
        for stage in stages:
            job = names.job(run["run_id"], attempt, stage)
            streams = [job]
            if stage == "train" and ((run.get("spec") or {}).get("train") or {}).get("tune"):
                streams.append(f"{names.tuning_job(run['run_id'], attempt)}-")  # the trials of a search
            places = [(GROUP_OF_STAGE[stage], prefix) for prefix in streams]
            if stage == "process":  # where Spark did it
                places.append((f"{names.spark_logs(target.stack)}/output", f"{job}-"))
            for event in (event for place in places for event in _events(target, *place)):
                if event["eventId"] in seen:
                    continue
                seen.add(event["eventId"])
                yield {
                    "stage": stage,
                    "attempt": attempt,
                    "job_name": job,
                    "timestamp_ms": event["timestamp"],
                    "message": event["message"].rstrip("\n"),
                }


def _events(target: Target, group: str, streams_of: str) -> Iterator[dict[str, Any]]:
    client = target.client("logs")
    request = {"logGroupName": group, "logStreamNamePrefix": streams_of}
    try:
        pages = client.get_paginator("describe_log_streams").paginate(**request)
        found_here = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
    except ClientError as problem:
        if problem.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        return  # the group is born with the first job of its kind
    # A whole job's name stands for its own streams, and for those of the same job on another machine: NAME-2/algo-1-...
    own = re.compile("" if streams_of.endswith("-") else r"(-\d+)?/")
    streams = [name for name in found_here if own.match(name.removeprefix(streams_of))]
    if streams:
        found = client.get_paginator("filter_log_events").paginate(logGroupName=group, logStreamNames=streams)
        yield from (event for page in found for event in page["events"])


def _print(event: dict[str, Any], *, with_stage: bool) -> None:
    prefix = f"{event['stage']:9}" if with_stage else ""
    output.out().print(prefix + event["message"], markup=False, soft_wrap=True)
