"""The features part of `ebb forget`: rows of runs go out of the Iceberg tables of Feature Store.

A job of the project does it, the one that published the rows with another order: it has the library and the role, and
the caller needs neither. The table reads on; the files that held the rows are gone, old snapshots with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from ebb import ledger, names, requests
from ebb.requests.jobs import settings_of
from ebb_cli.lineage import MISSING, Known
from ebb_cli.problems import CommandError

ENDED = {"Completed", "Failed", "Stopped"}
WITHIN_S = 3600


@dataclass
class Group:
    """A feature group that holds rows of runs that are to be forgotten."""

    name: str
    table: str | None
    """As a finished job told it; None where none did: the job asks for the group's table then."""
    job_name: str
    """The job that put rows of one of them there."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By run, the ledger's item of the stage that published it; empty where the run was cut short."""

    @property
    def runs(self) -> list[str]:
        """The runs whose rows are to go."""
        return sorted(self.stages)

    @property
    def rows(self) -> int:
        """How many rows they put there, as far as it was recorded."""
        return sum(int((each.get("report") or {}).get("rows") or 0) for each in self.stages.values())

    def told(self) -> dict[str, Any]:
        """Return the group as --json tells it."""
        return {"group": self.name, "runs": self.runs, "rows": self.rows}


def look(known: Known, reading: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Return the feature groups that hold rows of runs, as far as nobody has taken them out yet."""
    found: dict[str, Group] = {}
    for run in reading:
        wanted = (run.get("spec") or {}).get("features") or {}
        if not (wanted.get("publish") or wanted.get("share")):
            continue
        run_id = str(run["run_id"])
        stages = known.items(ledger.run_key(run_id)["pk"], ledger.stage_key(run_id, names.FEATURES)["sk"])
        stage = stages[0] if stages else {}
        report = stage.get("report") or {}
        if stage.get("rows_removed_at"):
            continue
        if report.get("group"):
            group = Group(str(report["group"]), str(report["table"]), str(stage["job_name"]))
        else:
            cut_short = _cut_short(known, run)
            if cut_short is None:
                continue
            group = cut_short
        found.setdefault(group.name, group).stages[run_id] = stage
    return [found[name] for name in sorted(found)]


def _cut_short(known: Known, run: Mapping[str, Any]) -> Group | None:
    """Return where a run may have put rows though no job of it told so: it failed, or was stopped after its commit."""
    sagemaker = known.target.client("sagemaker")
    for attempt in range(int(run.get("attempt") or 1), 0, -1):
        job_name = names.job(str(run["run_id"]), attempt, names.FEATURES)
        try:
            job = sagemaker.describe_processing_job(ProcessingJobName=job_name)
        except ClientError as problem:
            if problem.response["Error"]["Code"] in MISSING:
                continue
            raise
        return Group(str(settings_of(job["Environment"])["group"]), None, job_name)
    return None


def carry_out(known: Known, groups: Iterable[Group]) -> Iterator[tuple[str, int]]:
    """Take the rows out, one job a group, and yield each group with how many rows went.

    Raises: CommandError when a job fails; what it left is taken out by the next call.
    """
    sagemaker = known.target.client("sagemaker")
    for group in groups:
        run_id = names.parse_execution(group.job_name.rpartition("-")[0])[0]
        published = sagemaker.describe_processing_job(ProcessingJobName=group.job_name)
        request = requests.forget_features(
            published,
            group.name,
            group.table,
            group.runs,
            name=f"{run_id}-forget-{int(known.now.timestamp()) % 10**8}",
            report_uri=f"s3://{known.artifacts}/{names.run_prefix(run_id)}a0/{names.FEATURES}/forgotten",
        )
        sagemaker.create_processing_job(**request)
        _wait(known, str(request["ProcessingJobName"]))
        for stage in filter(None, group.stages.values()):
            key = {"pk": stage["pk"], "sk": stage["sk"]}
            known.table.update_item(**ledger.update(key, {"rows_removed_at": ledger.iso(known.now)}))
        yield group.name, group.rows


def _wait(known: Known, job_name: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while True:
        found = known.target.client("sagemaker").describe_processing_job(ProcessingJobName=job_name)
        status = found["ProcessingJobStatus"]
        if status == "Completed":
            return
        if status in ENDED or time.monotonic() > deadline:
            said = found.get("ExitMessage") or found.get("FailureReason") or "it takes longer than an hour"
            raise CommandError(f"The job {job_name}, which takes rows out of a table, is {status}: {said}.",
                               "Call the same ebb forget again: it goes on with what is left.")  # fmt: skip
        time.sleep(known.target.poll_s)
