"""Every error that Ebb raises on purpose.

Step Functions catches a Lambda's exception by its class name, so the names below are part of the state machines'
contract (`tests/infrastructure` compares them with every `ErrorEquals`):

    EbbError
    ├── RejectionError              str() is a JSON object: code, message, file, line, column, remedy
    │   ├── DropRejectedError       the dropped data cannot be used; a retry cannot help
    │   └── InvalidSpecError        pipeline.yaml cannot be used; a retry cannot help
    ├── NoAcceptableCandidateError  no measured candidate holds the floor; a retry cannot help
    ├── NoFeasibleInstanceError     no catalogued instance can hold the workload; a retry cannot help
    ├── ImageMissingError           a container image has not been pushed; a retry helps once it has
    ├── AttemptOutdatedError        the run has ended or a newer attempt runs; a retry cannot help
    ├── MalformedEventError         an event that is not what AWS documents; ends in the dead-letter queue
    ├── ObjectChangedError          an object is no longer the version that the event named; a newer drop follows
    ├── ObjectMissingError          an object is gone; a retry cannot help
    ├── ObjectDeniedError           S3 refused access; a retry cannot help
    ├── ReportMissingError          a job ended without its metrics.json; a retry helps only while S3 is slow
    ├── LedgerUnavailableError      DynamoDB refused for now; a retry helps
    ├── MetricsUnavailableError     CloudWatch refused or answered in part; a retry helps, and silence is never "idle"
    ├── JobUnreadableError      what a training job does could not be read; a retry helps
    ├── EndpointUnreadableError     what an endpoint consists of could not be read; a retry helps
    ├── SnapshotUnreadableError     neither copy of what an endpoint was is readable; a retry rarely helps
    ├── EventsUnavailableError      EventBridge refused an event; a retry helps, and the ledger's stream retries
    ├── SignalUnavailableError      one source of carbon intensities did not answer; the next one is asked
    └── StorageUnavailableError     S3 refused for now; a retry helps
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Rejection:
    """Why a drop cannot be used: where, and what to do about it. Never holds a value of the data."""

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    column: str | None = None
    remedy: str = ""

    @classmethod
    def of(cls, found: Any) -> Self:
        """Return the rejection held by another object or mapping with the same fields (the jobs have their own)."""
        read = found.get if isinstance(found, dict) else lambda name, default=None: getattr(found, name, default)
        column = read("column")
        return cls(
            code=str(read("code")),
            message=str(read("message")),
            file=read("file"),
            line=read("line"),
            column=None if column is None else str(column),
            remedy=str(read("remedy") or ""),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as they stand in the ledger and in the error text."""
        return asdict(self)


class EbbError(Exception):
    """The root: raised on purpose, never by accident."""


class RejectionError(EbbError):
    """Something the user gave cannot be used. The text is JSON, because Step Functions carries text only."""

    def __init__(self, rejection: Rejection):
        super().__init__(json.dumps(rejection.as_dict()))
        self.rejection = rejection


class DropRejectedError(RejectionError):
    """The dropped data cannot be used. Retrying cannot help."""


class InvalidSpecError(RejectionError):
    """The spec cannot be used. Retrying cannot help."""


class NoAcceptableCandidateError(EbbError):
    """Every candidate failed, lost too much quality or was too slow. Retrying cannot help."""


class NoFeasibleInstanceError(EbbError):
    """No instance of the catalog holds the workload within its time. Retrying cannot help."""

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(f"{what}: {remedy}" if remedy else what)
        self.what, self.remedy = what, remedy


class ImageMissingError(EbbError):
    """An image that the jobs or the endpoint start from is not in the registry. Retrying helps once it is pushed."""


class AttemptOutdatedError(EbbError):
    """The run has ended already or a newer attempt has begun. Retrying cannot help."""


class MalformedEventError(EbbError):
    """The event is not shaped as AWS documents it. Retrying cannot help; the message goes to the dead-letter queue."""


class ObjectChangedError(EbbError):
    """The object is not the version that was asked for. Its newer version brings its own event."""


class ObjectMissingError(EbbError):
    """The object is not there. Retrying cannot help."""


class ObjectDeniedError(EbbError):
    """S3 refused access: a policy or key is missing. Retrying cannot help."""


class ReportMissingError(EbbError):
    """A job ended without a readable metrics.json. Retrying rarely helps."""


class LedgerUnavailableError(EbbError):
    """DynamoDB answered with an error of its own. Retrying helps."""


class MetricsUnavailableError(EbbError):
    """CloudWatch refused, or answered for a part of what was asked. Retrying helps; nothing is concluded from it."""


class EventsUnavailableError(EbbError):
    """EventBridge refused an event, or could not be asked. Retrying helps; the ledger's stream brings it again."""


class JobUnreadableError(EbbError):
    """What a training job does, or which alarms watch it, could not be read."""


class EndpointUnreadableError(EbbError):
    """What an endpoint consists of could not be read: throttled, denied, or in part. Retrying helps."""


class SnapshotUnreadableError(EbbError):
    """What was kept of an endpoint before it slept is not there, or not what was written. Retrying rarely helps."""


class SignalUnavailableError(EbbError):
    """A source of carbon intensities did not answer, or said nothing of use. The next one is asked."""


class StorageUnavailableError(EbbError):
    """S3 answered with an error of its own. Retrying helps."""
