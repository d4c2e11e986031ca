"""Addresses: where each model is reached, in which state it is, and the conditional writes that change that.

One item for each endpoint that Ebb knows: that of a project, or one that Ebb did not make. The name of an address never
changes; the endpoint behind it may sleep, be replaced, or be of another kind. `generation` counts the changes of state,
so that of two that want to change the same state one is refused.

    awake -> falling-asleep -> asleep -> waking -> awake         deploying sets awake, whatever was before
                   |                        |
                   +-> awake (wanted)       +-> failed (-> waking: tried again)
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ebb import ledger

Kind = Literal["serverless", "async", "realtime", "shared", "batch", "classic"]
State = Literal["awake", "falling-asleep", "asleep", "waking", "failed"]

AWAKE: State = "awake"
FALLING_ASLEEP: State = "falling-asleep"
ASLEEP: State = "asleep"
WAKING: State = "waking"
FAILED: State = "failed"
SLEEPABLE: tuple[Kind, ...] = ("async", "realtime", "shared", "classic")
# Of an address in the name of an execution, which has at most 80 characters; the name of an endpoint has 63.
NAMED_CHARS = 50
MOST_EARLIER = 5  # components whose calls are read as well; each is a metric that is billed
LISTED = "ADDRESSES"  # partition of the table's index under which all of them are found


class IdlePolicy(BaseModel):
    """When an endpoint may be put to sleep, as its spec or its tags ask.

    Without `idle_after_s` the window follows the endpoint's own traffic (`ebb.keep_alive`).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sleeps: bool = True  # False: availability high, or a tag that keeps it
    idle_after_s: int | None = None
    cold_start: Literal["allowed", "avoid"] = "allowed"
    queue_for_s: int = 3600  # how long a request may wait for its endpoint to wake before its sender is told


class Address(BaseModel):
    """One address as the ledger holds it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    address: str
    origin: Literal["ebb", "foreign"] = "ebb"
    project: str | None = None
    kind: Kind
    state: State = AWAKE
    generation: int = 0
    endpoint_name: str | None = None  # none for batch
    variant: str = "AllTraffic"
    component: str | None = None  # the inference component of realtime and shared
    model_name: str | None = None
    run_id: str | None = None
    instance_type: str | None = None
    instance_types: tuple[str, ...] = ()  # tried in this order when waking is refused for want of capacity
    copies: int = 1  # instances of async and classic, copies of a component, when awake
    policy: IdlePolicy = Field(default_factory=IdlePolicy)
    snapshot: dict[str, Any] | None = None  # {"uri", "sha256"} of what is put back when it wakes
    in_service_since: datetime | None = None
    kind_since: datetime | None = None  # of this kind, through all its sleeps and models: what a move is decided on
    capture_days: int | None = None  # how long what is noted of its calls is kept, also after nothing is noted any more
    earlier_components: tuple[str, ...] = ()  # latest first: their calls are this address's too
    memory_mb: float | None = None  # what its component reserves on its endpoint, in MiB; of serverless its size
    idle_window_s: float | None = None  # without a call, after which it fell asleep last
    changed_at: datetime | None = None  # of `state`
    last_request_at: datetime | None = None  # through the front door, to the minute
    wanted_at: datetime | None = None  # the last request that met it not awake
    first_wanted_at: datetime | None = None  # the first of them, of this sleep
    called_after_s: float | None = None  # from the first request until AWS was asked for capacity, at the last wake
    worked_by: str | None = None  # the execution that puts it to sleep or wakes it; of two, the other one looks on
    asleep_since: datetime | None = None
    acted_at: datetime | None = None  # when it was allowed, while it falls asleep, that its capacity goes
    cold_wakes: tuple[int, ...] = ()  # minutes from 1970 in which a call woke it, where the SLA forbids that
    prewake_at: datetime | None = None  # when it is to be woken ahead of the calls that its habit promises
    tried: tuple[str, ...] = ()  # instance types that were refused since it began to wake
    reason: str | None = None
    awake_usd_per_hour: float | None = None
    awake_watts: float | None = None


def key(address: str) -> dict[str, str]:
    """Return the key of an address."""
    return {"pk": f"ADDRESS#{address}", "sk": "ADDRESS"}


def read(item: Mapping[str, Any]) -> Address:
    """Return an address from its item, as `ledger.from_item` gives it."""
    return Address.model_validate(dict(item))


def put(address: Address, *, now: datetime) -> ledger.Request:
    """Return the write by which a deployment says what is reached at an address: awake, whatever was before."""
    wanted = ("wanted_at", "first_wanted_at", "acted_at")
    fields = address.model_dump(mode="json", exclude={"address", "generation", "state", "changed_at", *wanted})
    request = ledger.update(
        key(address.address),
        {
            **fields,
            "address": address.address,
            "state": AWAKE,
            "changed_at": ledger.iso(now),
            "gsi_pk": LISTED,
            "gsi_sk": address.address,
        },
        remove=[name for name, value in fields.items() if value is None] + list(wanted),
        names_used=("generation",),
        values={":one": 1},
    )
    return request | {"UpdateExpression": request["UpdateExpression"] + " ADD #generation :one"}


def change(
    address: str,
    *,
    expected: State | Sequence[State],
    generation: int,
    to: State,
    now: datetime,
    fields: Mapping[str, Any] | None = None,
    unless_wanted: bool = False,
) -> ledger.Request:
    """Return the write that changes the state; refused when it is another one by now, or of another generation.

    With `unless_wanted` it is also refused when a request has met the endpoint not awake.
    """
    states = [expected] if isinstance(expected, str) else list(expected)
    given = {f":expected{number}": state for number, state in enumerate(states)}
    condition = f"#generation = :generation AND #state IN ({', '.join(given)})"
    condition += " AND attribute_not_exists(#wanted_at)" if unless_wanted else ""
    remove = [name for name, value in (fields or {}).items() if value is None]
    # it need not be woken ahead of anything any more
    remove += ["prewake_at"] if to in (WAKING, AWAKE) and "prewake_at" not in (fields or {}) else []
    # what met the endpoint asleep is served once it is awake
    remove += ["wanted_at"] if to == AWAKE else []
    remove += ["acted_at"] if to != FALLING_ASLEEP else []
    # what waits on after a wake that failed is a first request once more
    remove += ["first_wanted_at"] if to in (AWAKE, FAILED) else []
    request = ledger.update(
        key(address),
        {"state": to, "changed_at": ledger.iso(now), **(fields or {})},
        remove=remove,
        condition=condition,
        values={":one": 1, ":generation": generation, **given},
        names_used=("generation",) + (("wanted_at",) if unless_wanted else ()),
    )
    return request | {"UpdateExpression": request["UpdateExpression"] + " ADD #generation :one"}


def want(address: str, now: datetime, *, before_act: bool = False) -> ledger.Request:
    """Return the write that notes a request which met the endpoint not awake; refused while it is awake.

    With `before_act` it is refused as well unless the endpoint falls asleep and has not been allowed to lose its
    capacity: noted so, that write is refused, and the endpoint can be asked.
    The caller that is refused looks again: the endpoint answers, or the request waits.
    """
    still = "#state = :state AND attribute_not_exists(#acted_at)" if before_act else "#state <> :state"
    request = ledger.update(
        key(address),
        {"wanted_at": ledger.iso(now)},
        condition=f"attribute_exists(pk) AND {still}",
        values={":state": FALLING_ASLEEP if before_act else AWAKE},
        names_used=("state", "first_wanted_at") + (("acted_at",) if before_act else ()),
    )
    first = ", #first_wanted_at = if_not_exists(#first_wanted_at, :wanted_at)"
    return request | {"UpdateExpression": request["UpdateExpression"] + first}


def note_request(address: str, now: datetime) -> ledger.Request:
    """Return the write that notes when the front door last asked an endpoint that is awake."""
    return ledger.update(key(address), {"last_request_at": ledger.iso(now)}, condition="attribute_exists(pk)")


def wake_execution(address: str, generation: int) -> str:
    """Return the name of the execution that wakes an address: the same for all who ask at once, so that one does it."""
    return f"wake-{address}-g{generation}"


def sleep_execution(address: str, generation: int, moment: datetime) -> str:
    """Return the name of the execution that puts an address to sleep: one for each state and minute."""
    return f"sleep-{_named(address)}-g{generation}-{moment:%y%m%d%H%M}"


def prewake_execution(address: str, generation: int) -> str:
    """Return the name of the execution that wakes an address ahead of its next call: once for each sleep.

    It is not the one that requests ask for: those wake it before, and at once.
    """
    return f"ahead-{_named(address)}-g{generation}"


def _named(address: str) -> str:
    """Return what an address is called in the name of an execution: cut, two that begin alike stay two."""
    if len(address) <= NAMED_CHARS:
        return address
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    return f"{address[: NAMED_CHARS - 9]}-{digest}"
