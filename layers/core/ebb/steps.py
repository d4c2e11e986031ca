"""What the steps of `run_pipeline` tell each other."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from ebb import names
from ebb.events import Drop, Message, RunRequested
from ebb.sources import Source


class IdentifyRequested(RunRequested):
    """The input of `identify_dataset`."""

    execution_arn: str
    now: datetime


class Identified(Message):
    """What `identify_dataset` found: new work, work that a run has done already, or an overtaken upload."""

    outcome: Literal["run", "reuse", "superseded"]
    reason: str
    identity: str | None = None
    reuses: str | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    manifest_uri: str | None = None
    format: Literal["csv", "parquet", "jsonl"] | None = None
    force: bool = False


class WorkIdentified(Identified):
    """New work, with everything that its plan needs."""

    outcome: Literal["run"]
    identity: str
    manifest_uri: str
    format: Literal["csv", "parquet", "jsonl"]
    sources: tuple[Source, ...] = Field(min_length=1)


class PlanRequested(Message):
    """The input of `plan_pipeline`."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    drop: Drop | None = None
    identified: WorkIdentified
    now: datetime


class SelectionRequested(Message):
    """The input of `select_candidate`."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    plan: dict[str, Any]
    now: datetime
