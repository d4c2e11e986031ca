"""The features part of `ebb forget`: rows of runs go out of the Iceberg tables of Feature Store.

A job of the project does it, the one that published the rows with another order: it has the library and the role, and
the caller needs neither. The table reads on; the files that held the rows are gone, old snapshots with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ebb import ledger, names, requests
from ebb_cli.lineage import Known
from ebb_cli.problems import CommandError

ENDED = {"Completed", "Failed", "Stopped"}
WITHIN_S = 3600


@dataclass
class Group:
    """A feature group that holds rows of runs that are to be forgotten."""

    name: str
    job_name: str
    """The job that put rows of one of them there."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Of each run the ledger's item of the stage that published it."""

    @property
    def runs(self) -> list[str]:
        """The runs whose rows are to go."""
        return sorted(str(each["pk"]).removeprefix("RUN#") for each in self.stages)

    @property
    def rows(self) -> int:
        """How many rows they put there."""
        return sum(int((each.get("report") or {}).get("rows") or 0) for each in self.stages)

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
        pk = ledger.run_key(str(run["run_id"]))["pk"]
        for stage in known.items(pk, ledger.stage_key(str(run["run_id"]), names.FEATURES)["sk"]):
            name = (stage.get("report") or {}).get("group")
            if name and not stage.get("rows_removed_at"):
                group = found.setdefault(str(name), Group(str(name), str(stage["job_name"])))
                group.stages.append(stage)
    return [found[name] for name in sorted(found)]


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
            group.runs,
            name=f"{run_id}-forget-{int(known.now.timestamp()) % 10**8}",
            report_uri=f"s3://{known.artifacts}/{names.run_prefix(run_id)}a0/{names.FEATURES}/forgotten",
        )
        sagemaker.create_processing_job(**request)
        _wait(known, str(request["ProcessingJobName"]))
        for stage in group.stages:
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
