"""Event parsing: what AWS sends, into typed messages that say what happened."""

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

from ebb import names
from ebb.errors import MalformedEventError

SPEC_NAME = "pipeline.yaml"
SUCCESS_MARKER = "_SUCCESS"
SEQUENCER_CHARS = 64
SCHEDULE = "schedule"  # who asks for a sweep, when no person does


class Message(BaseModel):
    """A message between the parts of Ebb; frozen, and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Drop(Message):
    """What was dropped: one object, a folder closed by its marker, or a spec that points at data elsewhere."""

    kind: Literal["object", "prefix", "spec"]
    bucket: str
    key: str
    size_bytes: int = Field(ge=0)
    etag: str
    sequencer: str
    uploaded_at: datetime


class RunRequested(Message):
    """The input of a `run_pipeline` execution."""

    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    drop: Drop


class ScoreRequested(RunRequested):
    """The input of a `score_data` execution: what was dropped is to be predicted by the model that the project has."""


class Ignored(Message):
    """An object that starts nothing, and why."""

    key: str
    reason: str


class ObjectCreated(BaseModel):
    """An EventBridge `Object Created` event of S3; unknown fields are ignored, as AWS asks.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """

    model_config = ConfigDict(frozen=True)

    source: Literal["aws.s3"]
    detail_type: Literal["Object Created"] = Field(alias="detail-type")
    time: datetime
    bucket: str = Field(validation_alias=AliasPath("detail", "bucket", "name"))
    key: str = Field(validation_alias=AliasPath("detail", "object", "key"))
    # Absent when S3 does not know it; a drop without a sequencer could not be put in order.
    size_bytes: int = Field(default=0, validation_alias=AliasPath("detail", "object", "size"))
    etag: str = Field(default="", validation_alias=AliasPath("detail", "object", "etag"))
    sequencer: str = Field(pattern=r"^[0-9A-Fa-f]{1,64}$", validation_alias=AliasPath("detail", "object", "sequencer"))


class RunEnded(BaseModel):
    """An EventBridge `Step Functions Execution Status Change` event of a run that did not succeed.

    Source: https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
    """

    model_config = ConfigDict(frozen=True)

    source: Literal["aws.states"]
    name: str = Field(validation_alias=AliasPath("detail", "name"))
    status: Literal["ABORTED", "TIMED_OUT", "FAILED"] = Field(validation_alias=AliasPath("detail", "status"))
    stop_date: datetime = Field(validation_alias=AliasPath("detail", "stopDate"))
    error: str | None = Field(default=None, validation_alias=AliasPath("detail", "error"))
    cause: str | None = Field(default=None, validation_alias=AliasPath("detail", "cause"))


class AlarmFired(BaseModel):
    """An EventBridge `CloudWatch Alarm State Change` event of an alarm that has gone off.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html
    """

    model_config = ConfigDict(frozen=True)

    source: Literal["aws.cloudwatch"]
    time: datetime
    alarm_name: str = Field(validation_alias=AliasPath("detail", "alarmName"))
    state: Literal["ALARM"] = Field(validation_alias=AliasPath("detail", "state", "value"))
    why: str = Field(default="", validation_alias=AliasPath("detail", "state", "reason"))


class TrainingAsked(Message):
    """The input of `decide_training`: a job of ours whose alarm went off (`ended`: the job has)."""

    job: str
    alarm: str
    execution: str
    now: datetime


class ScheduleFired(BaseModel):
    """The event that EventBridge Scheduler sends when a schedule names no input of its own.

    Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-universal.html
    """

    model_config = ConfigDict(frozen=True)

    source: Literal["aws.scheduler"]
    time: datetime


class SweepRequested(Message):
    """The input of `sweep_account`: the moment that the sweep judges by, and who asked for it."""

    now: datetime
    asked_by: str = SCHEDULE


class ReapingAsked(Message):
    """The input of `decide_reaping`: one resource that the sweep has found unused."""

    kind: Literal["notebook", "app", "space", "warm-pool", "training-job"]
    name: str
    keys: dict[str, str]
    reason: str
    now: datetime


def object_created(body: str) -> ObjectCreated:
    """Return the S3 event that an SQS message carries.

    Raises: MalformedEventError when the message holds no such event; it belongs in the dead-letter queue.
    """
    try:
        return ObjectCreated.model_validate(json.loads(body))
    except (json.JSONDecodeError, ValidationError) as error:
        raise MalformedEventError("the message holds no S3 Object Created event") from error


def interpret(event: ObjectCreated) -> RunRequested | Ignored:
    """Return the run that an uploaded object asks for, a `ScoreRequested` below score/, or why it asks for none."""
    project, _, rest = event.key.partition("/")
    if not rest:
        return Ignored(key=event.key, reason="not below a project")
    if not names.is_project(project):
        return Ignored(key=event.key, reason=f"{project!r} is no project name ({names.PROJECT_PATTERN})")
    kind = _kind_of(rest)
    if kind is None:
        return Ignored(key=event.key, reason=_why_ignored(rest))
    asked = ScoreRequested if rest.startswith("score/") else RunRequested
    return asked(
        run_id=names.run_id(project, event.bucket, event.key, event.sequencer, event.time),
        attempt=1,
        project=project,
        drop=Drop(
            kind=kind,
            bucket=event.bucket,
            key=event.key,
            size_bytes=event.size_bytes,
            etag=event.etag.strip('"'),
            sequencer=event.sequencer,
            uploaded_at=event.time.astimezone(UTC),
        ),
    )


def sortable_sequencer(sequencer: str) -> str:
    """Return the sequencer in a form whose text order is its order in time.

    S3's sequencers are hexadecimal and differ in length: shorter ones are padded on the left before comparing.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    return sequencer.upper().rjust(SEQUENCER_CHARS, "0")


def timestamp(value: Any) -> datetime | None:
    """Return the moment that a Describe response holds, however the sender spells it.

    Step Functions passes times on as ISO text or as milliseconds since 1970, the embedded cloud as seconds.
    """
    if value is None or isinstance(value, datetime):
        return value
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, tz=UTC)
    read = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def _kind_of(rest: str) -> Literal["object", "prefix", "spec"] | None:
    if rest == SPEC_NAME:
        return "spec"
    parts = rest.split("/")
    if parts[0] not in ("data", "score") or any(not part for part in parts):
        return None
    if len(parts) == 3 and parts[2] == SUCCESS_MARKER:
        return "prefix"
    if len(parts) == 2 and not parts[1].startswith((".", "_")):
        return "object"
    return None


def _why_ignored(rest: str) -> str:
    if rest.endswith("/"):
        return "a folder marker"
    if rest.startswith(("data/", "score/")) and rest.count("/") >= 2:
        place = rest.partition("/")[0]
        return f"part of a folder; the folder starts a run when {place}/<name>/{SUCCESS_MARKER} is there"
    return f"neither {SPEC_NAME} nor data/<name>.<csv|jsonl|parquet|zip|tar.gz> nor score/<name>.<csv|jsonl>"
