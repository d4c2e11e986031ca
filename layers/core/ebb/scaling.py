"""The next step of an endpoint that falls asleep or wakes: what the ledger says, what is there, and now in. Pure.

Both state machines ask for a step, carry it out and ask again, until a step says that there is nothing left to do. A
step is judged on what is there, not on what an earlier step meant to do: an execution that was killed anywhere, or came
second, leaves a state from which the next one carries on.

    ledger           there                  what is done
    awake            idle                   note that it falls asleep, with its snapshot; wait; look again
    awake            not idle               nothing
    falling-asleep   wanted or not idle     back to awake; what was changed already is put back by waking it
    falling-asleep   still idle             no copy, no instance, or deleted
    falling-asleep   at zero                asleep; the owner is told
    asleep, failed   -                      waking: capacity is asked for, the rest of its snapshot is put back after it
    asleep, failed   has capacity           the same, by whoever looks: it is billed
    awake            gone                   failed, and the owner is told
    waking           as the snapshot says   awake
    waking           refused for capacity   the next instance type; after the last one failed, and the owner is told

Whoever works on it stands in `worked_by`. Another execution leaves it alone while that one runs, and takes over when it
does not. Each change of state is one conditional write with the generation, made before what it allows: of two that
decide at once, one is refused and looks again.

Each sleep and each wake leaves an event beside its address: pk ADDRESS#<address>, sk EVENT#<time>.

What is asked and answered stands here; how a step is chosen in `ebb.scaling_sleep` and `ebb.scaling_wake`, what it
writes and tells in `ebb.scaling_writes`, and when to look again in `ebb.scaling_looks`.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ebb.endpoint_world import Body

Outcome = Literal["keep", "wait", "work", "asleep", "awake", "failed"]


class Step(BaseModel):
    """What a state machine does next. The kinds of steps, in the order in which each does its parts:

        note               a change of state that only announces; then it waits and asks again
        write, calls       a change of state, and what it allows; or calls alone; then it watches, or waits, and asks
        alarms, settle     the alarms that belong to the state that is reached, then that state, its event, its notice
        watch, again       nothing but to watch, or to wait, and to ask again
        wake               another execution is started, which wakes it

    A refused write and a call that fails make it ask again at once; the next step knows.
    """

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    reason: str
    tell: Body | None = None  # a Publish, before anything else
    note: Body | None = None  # an UpdateItem, refused when somebody else was faster; so are the next two
    write: Body | None = None
    settle: Body | None = None
    calls: tuple[Body, ...] = ()  # what to send to AWS: {"do": ..., "with": ...}
    old_alarms: tuple[str, ...] = ()  # names of alarms that go before it settles
    alarms: tuple[Body, ...] = ()  # PutMetricAlarm, of those that come
    event: Body | None = None  # an UpdateItem: what happened, for `ebb why` and `ebb cost`; with every `settle`
    notice: Body | None = None  # a Publish
    wake: Body | None = None  # {"name", "input"} of an execution of wake_endpoint
    watch: Body | None = None  # {"endpoint"} or {"component"}: ask again once this is at rest, with its capacity
    wait_s: int = 1  # without `watch`, and after a look that failed
    again: bool = False
    numbers: dict[str, Any] = Field(default_factory=dict)


class Place(BaseModel):
    """Where a step is taken: the stack, and the execution that asks for it."""

    model_config = ConfigDict(frozen=True)

    stack: str
    table: str
    topic_arn: str
    execution: str


class EndedExecution(BaseModel):
    """An execution that put an endpoint to sleep or woke it and was stopped, timed out or failed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    execution: str
    status: Literal["ABORTED", "FAILED", "TIMED_OUT"]


class Asked(BaseModel):
    """What a state machine tells when it asks for a step."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    address: str
    generation: int | None = None
    reason: str = ""
    now: datetime
    execution: str
    looks: int = 0  # steps that this execution has asked for
    troubles: int = 0  # steps of which a call failed
    problem: Body | None = None  # Error and Cause of the call that failed last
    sent: tuple[Body, ...] = ()  # the calls of the step before, when they were answered
    called_at: datetime | None = None  # when this execution first sent calls
    ended: EndedExecution | None = None  # whose end is why it is asked

    @model_validator(mode="before")
    @classmethod
    def _of_event(cls, given: Any) -> Any:
        """Take over what the event "Step Functions Execution Status Change" tells: whose end, and what it was about.

        Source: https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
        """
        if not isinstance(given, Mapping) or "detail" not in given:
            return given
        detail = given["detail"]
        ended = {"execution": detail["executionArn"], "status": detail["status"]}
        return {**given, "address": json.loads(detail["input"])["address"], "ended": ended}
