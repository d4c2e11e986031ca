"""Tickets: requests that wait for their endpoint, and what becomes of each.

A ticket is three kinds of object in the artifact bucket, each written once and none of them ever changed into another:

    requests/<address>/<id>             the payload, byte for byte
    requests/<address>/<id>.json        what was asked and until when (`Waiting`)
    requests/<address>/<id>.async.json  where SageMaker's own queue will put the answer (`HandedOver`); async only
    requests/<address>/<id>.late-<n>    that the request was queued once more, in the n-th minute after it was overdue
    answers/<address>/<id>.out          the answer, byte for byte; what an async endpoint writes has a name of its own
    answers/<address>/<id>.json         how it ended (`Ended`): the ticket is answered, failed or expired

A message in the requests queue names the ticket; it is deleted only after `Ended` has been written. So each ticket ends
in a record, whatever is delivered twice. A message may be out of sight when its endpoint is awake: because it waits for
its next look, or because the delivery that had it was killed, for the nine minutes of the queue's visibility timeout.
Whoever asks for the ticket then has it queued once more.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebb import addresses
from ebb.addresses import Address
from ebb.errors import MalformedEventError

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # no dot: the endings above stay apart
State = Literal["queued", "waking", "answered", "failed", "expired"]

# A message is looked at again after a tenth of the time that it has waited: at most a tenth is added to any wait, and
# an hour of waiting costs some ninety looks.
FIRST_PAUSE_S = 2
LONGEST_PAUSE_S = 60
# An endpoint that is awake answers what waits within seconds. Longer than most models take: one that is slower may be
# asked twice by a request that waited, as by any message that SQS delivers twice.
OVERDUE_AFTER = timedelta(seconds=15)
QUEUED_AGAIN_EVERY = timedelta(minutes=1)
MOST_QUEUED_AGAIN = 3  # each message is looked at until the ticket ends: of an endpoint that is busy for long not more
# A failed wake has tried every instance type of its list; capacity does not come back within seconds.
WAKE_AGAIN_AFTER = timedelta(minutes=5)
# Whoever puts an endpoint to sleep or wakes it changes its state within seconds, unless it waits for instances; so only
# then it is worth a call to ask whether that execution still runs. Assumed.
ABANDONED_AFTER = timedelta(minutes=2)
# Until then a request whose time is up may still be on its way to its record.
RECORDED_WITHIN = timedelta(minutes=5)
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointAsync.html (RequestTTLSeconds)
ASYNC_TTL_S = (60, 21_600)


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Waiting(_Document):
    """What was asked of an address, and until when its sender waits."""

    address: str
    id: str
    content_type: str
    accept: str | None = None
    more: dict[str, str] = Field(default_factory=dict)  # other parameters of InvokeEndpoint, by their names there
    size_bytes: int
    sha256: str | None = None  # None for what was uploaded: nobody has read it
    asked_at: datetime
    deadline: datetime

    @property
    def name(self) -> str:
        """The ticket as its holder gives it back."""
        return f"{self.address}/{self.id}"


class HandedOver(_Document):
    """A request that waits in the queue of an asynchronous endpoint."""

    endpoint_name: str
    output_location: str
    failure_location: str | None = None
    inference_id: str | None = None
    elsewhere: bool = False  # its output lies where Ebb does not read: the endpoint is not Ebb's


class Ended(_Document):
    """How a ticket ended. An answer's body lies at `body_uri`."""

    state: Literal["answered", "failed", "expired"]
    at: datetime
    status: int = 200  # the HTTP status that its holder gets
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = Field(default_factory=dict)
    body_uri: str | None = None
    size_bytes: int | None = None
    error: dict[str, Any] | None = None


class Message(_Document):
    """What the requests queue carries. The deadline is in it, so that it ends even if nothing else can be read."""

    address: str
    id: str
    deadline: datetime


def payload_key(address: str, ticket: str) -> str:
    """Return the key of a ticket's payload."""
    return f"requests/{address}/{ticket}"


def waiting_key(address: str, ticket: str) -> str:
    """Return the key of what was asked."""
    return f"requests/{address}/{ticket}.json"


def handed_over_key(address: str, ticket: str) -> str:
    """Return the key of where an asynchronous endpoint will put the answer."""
    return f"requests/{address}/{ticket}.async.json"


def late_key(address: str, ticket: str, turn: int) -> str:
    """Return the key of the note that a request was queued once more."""
    return f"requests/{address}/{ticket}.late-{turn}"


def ended_key(address: str, ticket: str) -> str:
    """Return the key of how a ticket ended."""
    return f"answers/{address}/{ticket}.json"


def body_key(address: str, ticket: str) -> str:
    """Return the key of an answer's body."""
    return f"answers/{address}/{ticket}.out"


def digest(payload: bytes) -> str:
    """Return the SHA-256 of a payload: the same request id must bring the same request."""
    return hashlib.sha256(payload).hexdigest()


def message(body: str) -> Message:
    """Return the ticket that an SQS message names.

    Raises: MalformedEventError when it names none; it belongs in the dead-letter queue.
    """
    try:
        found = Message.model_validate(json.loads(body))
    except (json.JSONDecodeError, ValidationError) as error:
        raise MalformedEventError("the message names no ticket") from error
    if not ID.fullmatch(found.id):
        raise MalformedEventError(f"{found.id!r} is no ticket")
    return found


def state(
    ended: Ended | None, waiting: Waiting, address: Address | None, now: datetime, *, elsewhere: bool = False
) -> State:
    """Return where a ticket stands.

    What has no end recorded some time after its deadline is expired all the same: its holder is not left waiting even
    if the delivery should be broken. An answer that is written elsewhere has no end that Ebb could see.
    """
    if ended:
        return ended.state
    if now > waiting.deadline + RECORDED_WITHIN and not elsewhere:
        return "expired"
    return "queued" if address is None or address.state == addresses.AWAKE else "waking"


def deadline(address: Address, now: datetime) -> datetime:
    """Return until when a request that comes now may wait."""
    return now + timedelta(seconds=address.policy.queue_for_s)


def overdue_turn(waiting: Waiting, address: Address, now: datetime) -> int | None:
    """Return in which minute a request is overdue that an awake endpoint has not answered, None when it is not."""
    if address.state != addresses.AWAKE or now >= waiting.deadline:
        return None
    late = now - max(waiting.asked_at, address.changed_at or waiting.asked_at) - OVERDUE_AFTER
    turn = late // QUEUED_AGAIN_EVERY
    return turn if 0 <= turn < MOST_QUEUED_AGAIN else None


def next_look_s(waited: timedelta) -> int:
    """Return after how many seconds a message that has to wait is looked at again."""
    return int(min(max(waited.total_seconds() / 10, FIRST_PAUSE_S), LONGEST_PAUSE_S))


def async_ttl_s(deadline: datetime, now: datetime) -> int:
    """Return how long SageMaker may keep a request in its own queue, in seconds."""
    least, most = ASYNC_TTL_S
    return int(min(max((deadline - now).total_seconds(), least), most))


def wakes_now(address: Address, now: datetime) -> bool:
    """Return whether a request that waits starts a wake: not while one goes on, nor just after one has failed.

    While it falls asleep nothing is started either: that the request has been noted calls the sleep off.
    """
    if address.state == addresses.FAILED:
        return _is_since(address, WAKE_AGAIN_AFTER, now)
    return address.state == addresses.ASLEEP


def may_be_abandoned(address: Address, now: datetime) -> bool:
    """Return whether the one who works on an endpoint may have died: then a request that waits starts a wake too."""
    working = address.state in (addresses.WAKING, addresses.FALLING_ASLEEP)
    return working and _is_since(address, ABANDONED_AFTER, now)


def expired(waiting: Waiting | Message, now: datetime, why: str | None) -> Ended:
    """Return the end of a ticket whose time is up."""
    told = f": {why}" if why else ""
    error = {
        "code": "expired",
        "message": f"{waiting.address} was not awake until {waiting.deadline:%Y-%m-%d %H:%M:%S} UTC{told}",
        "remedy": "Send it again; serve.queue_for says how long a request may wait.",
    }
    return Ended(state="expired", at=now, status=504, error=error)


def failed(now: datetime, status: int, error: Mapping[str, Any]) -> Ended:
    """Return the end of a ticket that can have no answer."""
    return Ended(state="failed", at=now, status=status, error=dict(error))


def location(uri: str) -> tuple[str, str]:
    """Return bucket and key of what SageMaker calls a location: an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _is_since(address: Address, least: timedelta, now: datetime) -> bool:
    return address.changed_at is None or now - address.changed_at >= least
