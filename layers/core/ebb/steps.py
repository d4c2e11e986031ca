"""What the steps of `run_pipeline` tell each other."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ebb import names, rollout
from ebb.events import Drop, Message, RunRequested
from ebb.features import Published
from ebb.recommendation import LoadTest
from ebb.sources import Source

Format = Literal["csv", "jsonl", "parquet", "archive", "images", "script"]


class IdentifyRequested(RunRequested):
    """The input of `identify_dataset`."""

    execution_arn: str
    now: datetime


class ScoringRequested(RunRequested):
    """The input of `plan_scoring`."""

    execution_arn: str
    now: datetime


class Identified(Message):
    """What `identify_dataset` found: new work, work that a run has done already, or an overtaken upload.

    `sources` holds every object that the run reads, train.source among them, as long as they are few
    (`ebb.sources.INLINE`); of more it holds none, because a state of Step Functions carries 256 KiB. `sources_uri`
    names `{key: sha256}` of all, but for content too large to be read. `source_count` and `size_bytes` count all, and
    `compressed` says whether any of it is packed. `task` is the one that the spec asks for, the names show or the first
    MiB lets expect; None when none of them tells. `content`, `example_count` and `unpacked_bytes` say what archives
    hold and how many pictures there are, as far as directories tell: they choose machines and decide nothing else.
    `features` are those of another project that stand in for data and `process`; `pretrained` the files of the encoder
    that the spec names.
    """

    outcome: Literal["run", "reuse", "superseded"]
    reason: str
    identity: str | None = None
    reuses: str | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    source_count: int = Field(default=0, ge=0)
    size_bytes: int = Field(default=0, ge=0)
    compressed: bool = False
    manifest_uri: str | None = None
    sources_uri: str | None = None
    format: Format | None = None
    task: str | None = None
    content: Format | None = None
    example_count: int | None = Field(default=None, ge=1)
    unpacked_bytes: int | None = Field(default=None, ge=0)
    features: Published | None = None
    pretrained: tuple[Source, ...] = ()
    force: bool = False


class WorkIdentified(Identified):
    """New work, with everything that its plan needs."""

    outcome: Literal["run"]
    identity: str
    manifest_uri: str
    sources_uri: str
    format: Format
    source_count: int = Field(ge=1)
    size_bytes: int = Field(ge=0)


class PlanRequested(Message):
    """The input of `plan_pipeline`."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    drop: Drop | None = None
    identified: WorkIdentified
    now: datetime


class TableRequested(Message):
    """The input of `plan_table`."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    generation: int = Field(ge=0)
    curated_uri: str
    manifest_uri: str
    now: datetime


class WindowRequested(Message):
    """The input of `choose_window`: the plan's window, and of an earlier look what it found first."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    window: dict[str, Any]
    looks: int = Field(default=0, ge=0)
    first: dict[str, Any] | None = None
    now: datetime


class FeaturesRequested(Message):
    """The input of `plan_features`."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    plan: dict[str, Any]
    now: datetime


class SelectionRequested(Message):
    """The input of `select_candidate`."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    plan: dict[str, Any]
    now: datetime


class DeploymentRequested(Message):
    """The input of `plan_deployment`: a model of a run, or none to move what the project serves to another kind.

    `package_arn` is the registry entry of a run's model, `recommendation` what a load test of it has just found.
    """

    model_config = ConfigDict(extra="ignore")  # Step Functions adds who started a nested execution

    project: str = Field(pattern=names.PROJECT_PATTERN)
    model: rollout.Model | None = None
    kind: Annotated[str, Field(pattern="^(auto|serverless|async|realtime|shared|batch)$")] | None = None
    reason: str | None = None
    package_arn: str | None = None
    recommendation: LoadTest | None = None
    execution: str
    now: datetime
