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

Each sleep and each wake leaves an event beside its address (`event`): pk ADDRESS#<address>, sk EVENT#<time>.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ebb import addresses, events, keep_alive_costs, ledger, names, pace, snapshot
from ebb.addresses import ASLEEP, AWAKE, FAILED, FALLING_ASLEEP, WAKING, Address
from ebb.idle import GRACE, Action, Decision
from ebb.requests import alarms
from ebb.snapshot import Body, Snapshot, World

HOURS_PER_MONTH = 730
PREWAKE = "ahead of the calls that its habit promises"
LOOK_AGAIN_S = 2
# Of the calls of one execution: what fails so often will not succeed a moment later.
MOST_TROUBLES = 5
# SageMaker gives up on instances itself, after 30 minutes to an hour (VariantInstanceProvisionTimeoutInSeconds).
# Asleep or awake it is to be within that time of its last change of state, or of its instance type. A look may take
# from seconds to a quarter of an hour, so that their number only bounds what changes all the time.
LONGEST_CHANGE = timedelta(hours=2)
MOST_LOOKS = 240
MOST_WATCHES = 40  # each ends when all is at rest, which the next decision should see too
# What watching one endpoint costs a month: two alarms of 0.10 USD, its share of the sweeps, and a few sleeps; each
# further sleep and wake costs control_plane.cycle. https://aws.amazon.com/cloudwatch/pricing/
WATCHING_USD_PER_MONTH = {"ebb": 0.25, "foreign": 0.05}
CHANGING = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}

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


# ---- Falling asleep ----


def in_service_since(at: Address, world: World) -> datetime | None:
    """Return since when an endpoint serves as it is: the last of what SageMaker and the ledger know; None: unknown."""
    told = [part.get("LastModifiedTime") for part in (world.endpoint, world.component) if part]
    known = [events.timestamp(each) for each in told] + [at.in_service_since]
    known += [at.changed_at] if at.state == AWAKE else []
    return max((each for each in known if each), default=None)


def fall_asleep(
    at: Address,
    held: Body,
    decision: Decision,
    asked: Asked,
    place: Place,
    *,
    prewake_at: datetime | None,
) -> Step:
    """Return the step for an endpoint that is awake: the decision, or the note that it falls asleep.

    `held` is where its snapshot lies and was read again.
    """
    if decision.action is not Action.SLEEP:
        return kept(decision, asked)
    fields = {
        "snapshot": held,
        "worked_by": place.execution,
        "reason": decision.reason,
        "prewake_at": prewake_at,
        "idle_window_s": decision.numbers.get("idle_after_s"),
        "asleep_since": None,
    }
    return Step(
        outcome="work",
        reason=decision.reason,
        note=_change(at, FALLING_ASLEEP, asked.now, place, fields),
        wait_s=round(GRACE.total_seconds()),
        again=True,
        numbers=decision.numbers,
    )


def kept(decision: Decision, asked: Asked) -> Step:
    """Return the step that follows from a decision against sleep; an execution does not wait again and again."""
    if decision.action is Action.WAIT and decision.until and asked.looks < 4:
        wait_s = max(int((decision.until - asked.now).total_seconds()), LOOK_AGAIN_S)
        return Step(outcome="wait", reason=decision.reason, wait_s=wait_s, again=True, numbers=decision.numbers)
    return Step(outcome="keep", reason=decision.reason, numbers=decision.numbers)


def refuse(at: Address, why: str, decision: Decision, asked: Asked, place: Place) -> Step:
    """Return the step for an endpoint that is idle and could not be made again: it stays, and the ledger says why."""
    kept_event = event(place, at, asked.now, "kept though idle", reason=why)
    return Step(outcome="keep", reason=why, event=kept_event, numbers=decision.numbers)


def left_behind(at: Address, ended: EndedExecution) -> Step | None:
    """Return the step that follows from the end of another execution, None when its work is taken up again at once.

    No Catch runs in one that is stopped, times out or has too long a history. What fails by itself would do so again at
    once: that is left to the sweep, which tries at longer and longer distances.
    """
    if at.worked_by != ended.execution:
        return Step(outcome="keep", reason=f"the execution that {ended.status} left nothing half done")
    return Step(outcome="keep", reason="the next sweep takes it up") if ended.status == "FAILED" else None


def tell_end(step: Step, at: Address, ended: EndedExecution, place: Place) -> Step:
    """Return a step that also tells the owner of the execution that left its work half done."""
    if at.worked_by != ended.execution:
        return step
    next_ = "it is taken up again" if ended.status != "FAILED" else "the next sweep takes it up again"
    lines = (
        f"The execution that worked on {at.address} ended as {ended.status} before it was done: {ended.execution}.",
        f"The ledger calls it {at.state}; {next_}.",
        "Requests that came through the front door wait until their deadline.",
    )
    return step.model_copy(update={"tell": _notice(place, f"{at.address} was left {at.state}", *lines)})


def take_over(at: Address, asked: Asked, place: Place) -> Step:
    """Return the step that takes the place of an execution which died while it put an endpoint to sleep."""
    return Step(
        outcome="work",
        reason="the execution that put it to sleep has ended before it was asleep",
        note=_change(at, FALLING_ASLEEP, asked.now, place, {"worked_by": place.execution}),
        again=True,
    )


def leave(at: Address, world: World, *, other_runs: bool) -> Step:
    """Return the step for an endpoint that is not awake and not this execution's to put to sleep.

    What is not as the ledger says is woken, which puts everything in its place: copies that AWS has added by itself, a
    request that nobody serves, a wake that died on its way.
    """
    if at.state == FALLING_ASLEEP or (at.state == WAKING and other_runs):
        return Step(outcome="keep", reason=f"another execution works on it ({at.state})")
    why = None
    if at.state == WAKING:
        why = "the execution that woke it has ended before it was awake"
    elif at.wanted_at:
        why = "a request waits for it"
    elif world.endpoint is not None and not snapshot.at_zero(at, world):  # it is billed, and would be for ever
        why = f"the ledger calls it {at.state}, and it is {world.status} with capacity"
    if why is None:
        return Step(outcome="keep", reason=f"it is {at.state}")
    return Step(outcome="keep", reason=why, wake=wake_request(at.address, at.generation, why))


def go_on_sleeping(
    at: Address,
    goal: Snapshot,
    world: World,
    decision: Decision | None,
    asked: Asked,
    place: Place,
) -> Step:
    """Return the step for an endpoint that this execution puts to sleep; `decision` is made anew while it has capacity.

    It is called off when somebody wants it, when it is idle no more, and when what is to be done keeps failing. What
    SageMaker does not get done is woken, which puts it back, or fails and tells the owner.
    """
    zero = snapshot.at_zero(at, world)
    off = None if zero else _why_not(at, decision)
    if off is None and asked.troubles >= MOST_TROUBLES:
        off = f"putting it to sleep failed {asked.troubles} times: {_told(asked.problem)}"
    if off is None and _too_long(at, asked) and (not zero or world.status in CHANGING):
        off = f"it is {world.status} after {asked.looks} looks"
    if off:
        return call_off(at, goal, world, off, asked, place)
    if world.endpoint is not None and world.status in CHANGING:
        return _until_at_rest(at, world, asked)
    calls = snapshot.to_sleep(at, goal, world, idle=_alarm(at, alarms.IDLE), wake_alarm=_wake_alarm(at, world, place))
    again = _were_sent(calls, asked)
    old = [each["with"]["AlarmNames"] for each in calls if zero and each["do"] == "delete alarms"]
    # at zero, what is left over is an alarm, or one that AWS shows otherwise than it was sent
    if len(calls) > len(old) and not (zero and (again or asked.troubles >= MOST_TROUBLES)):
        # the change of state comes first: whoever was faster has changed the generation, and this one looks again
        act = {"acted_at": ledger.iso(asked.now)}
        repeated = bool(asked.problem) or again
        watch = None if at.kind == "classic" or repeated else _watch(at, world)  # a classic one goes
        return Step(
            outcome="work",
            reason=at.reason or asked.reason,
            write=_change(at, FALLING_ASLEEP, asked.now, place, act, unless_wanted=not zero),
            calls=tuple(calls),
            watch=watch,
            wait_s=_pace(asked) if watch or repeated else 1,
            again=True,
        )
    gone = () if asked.troubles >= MOST_TROUBLES else tuple(name for names_ in old for name in names_)
    return _settle_asleep(at, goal, asked, place, old_alarms=gone)


def _why_not(at: Address, decision: Decision | None) -> str | None:
    if at.wanted_at:
        return "a request came while it was falling asleep"
    if decision is None or decision.action is not Action.SLEEP:
        return decision.reason if decision else "whether it is idle is not known"
    return None


def call_off(at: Address, goal: Snapshot | None, world: World, why: str, asked: Asked, place: Place) -> Step:
    """Return the step that leaves an endpoint awake; what was changed already is put back by waking it."""
    untouched = goal is None or _untouched(at, goal, world)
    fields = {"worked_by": None, "reason": why}
    told = event(place, at, asked.now, "sleep called off", reason=why)
    if untouched:
        return Step(outcome="awake", reason=why, settle=_change(at, AWAKE, asked.now, place, fields), event=told)
    fields["asleep_since"] = ledger.iso(asked.now)
    return Step(
        outcome="awake",
        reason=why,
        settle=_change(at, ASLEEP, asked.now, place, fields),
        event=told,
        wake=wake_request(at.address, at.generation + 1, why),
    )


def _untouched(at: Address, goal: Snapshot, world: World) -> bool:
    """Whether nothing was done yet. Its capacity tells nothing: as long as it has some, others have changed that."""
    broken = at.kind == "classic" and world.status in snapshot.BROKEN
    if broken or _missing(at, world):
        return False  # waking will say so
    return not snapshot.aside(at, goal, world, wake_alarm=_alarm(at, alarms.WAKE))


def _settle_asleep(
    at: Address, goal: Snapshot, asked: Asked, place: Place, *, old_alarms: tuple[str, ...] = ()
) -> Step:
    now = asked.now
    took_s = (now - goal.taken_at).total_seconds()
    fields = {"worked_by": None, "asleep_since": ledger.iso(now)}
    saves = saving_usd_per_month(at)
    wanted = bool(at.wanted_at)
    return Step(
        outcome="asleep",
        reason=at.reason or asked.reason,
        old_alarms=old_alarms,
        # one that came since is seen by the next decision, which lets it be woken
        settle=_change(at, ASLEEP, now, place, fields, unless_wanted=not wanted),
        event=event(place, at, now, "slept", reason=at.reason, took_s=took_s, saves_usd_per_month=saves),
        notice=None if wanted else _slept_notice(at, goal, place, saves),
        wake=wake_request(at.address, at.generation + 1, "a request came while it fell asleep") if wanted else None,
    )


def saving_usd_per_month(at: Address) -> float | None:
    """Return what a month asleep saves, in USD, net of what watching over the endpoint costs; None when unknown.

    saving = usd_per_hour * 730 - watching
    """
    if at.awake_usd_per_hour is None:
        return None
    return round(at.awake_usd_per_hour * HOURS_PER_MONTH - WATCHING_USD_PER_MONTH[at.origin], 2)


# ---- Waking ----


def ahead(at: Address, asked: Asked, place: Place) -> Step | None:
    """Return the step of an execution that the sweep has started ahead of the moment, None once it may wake it.

    It is of one sleep only: woken meanwhile, or deployed anew, the generation is another one and nothing happens.
    """
    if asked.reason != PREWAKE or at.worked_by == place.execution:
        return None
    if at.generation != asked.generation:
        return Step(outcome="awake", reason="it has been woken, or deployed anew, since it was to be woken ahead")
    if at.prewake_at is None or at.prewake_at <= asked.now:
        return None
    wait_s = max(math.ceil((at.prewake_at - asked.now).total_seconds()), LOOK_AGAIN_S)
    return Step(outcome="wait", reason=f"its time is {at.prewake_at:%H:%M} UTC", wait_s=wait_s, again=True)


def wake(
    at: Address,
    goal: Snapshot | None,
    world: World,
    asked: Asked,
    place: Place,
    *,
    other_runs: bool,
    unreadable: str | None = None,
) -> Step:
    """Return the step for an endpoint that somebody wants. `other_runs`: whoever stands in `worked_by` still works."""
    mine = at.worked_by == place.execution
    if at.state == AWAKE and at.endpoint_name and (missing := _missing(at, world)):
        return fail(at, f"there is no {missing} any more: deploy the model again", asked, place)
    if at.state == AWAKE and not (world.endpoint and goal and snapshot.at_zero(at, world)):
        return Step(outcome="awake", reason="it is awake")
    if at.state == WAKING and not mine and other_runs:
        return Step(outcome="awake", reason="another execution wakes it")
    if at.state == FALLING_ASLEEP and other_runs and asked.looks > MOST_LOOKS:
        return Step(outcome="failed", reason=f"it is still falling asleep after {asked.looks} looks")
    if at.state == FALLING_ASLEEP and other_runs:
        # whoever puts it to sleep sees that it is wanted, and calls it off or leaves it asleep to be woken from here
        wanted = addresses.want(at.address, asked.now) if at.wanted_at is None else None
        return Step(
            outcome="wait",
            reason="it is falling asleep, and will be told that it is wanted",
            write=ledger.as_action(place.table, wanted) if wanted else None,
            wait_s=_pace(asked),
            again=True,
        )
    if unreadable or goal is None:
        why = unreadable or "no snapshot of it was kept"
        serves = world.status == "InService" and not snapshot.at_zero(at, world) and snapshot.has_capacity(at, world)
        return _as_it_is(at, why, asked, place) if serves else fail(at, why, asked, place)
    if at.state != WAKING or not mine:
        return _begin(at, goal, world, asked, place)
    return _go_on_waking(at, goal, world, asked, place)


def _missing(at: Address, world: World) -> str | None:
    """Return which part is gone or on its way out, None while all that can be put to sleep is there."""
    if world.endpoint is None or world.endpoint["EndpointStatus"] == "Deleting":
        return f"endpoint {at.endpoint_name}"
    return f"inference component {at.component}" if at.component and world.component is None else None


def _as_it_is(at: Address, why: str, asked: Asked, place: Place) -> Step:
    """Return the step that notes an endpoint as awake because it serves, though nobody can say what it was before."""
    fields = {"worked_by": None, "asleep_since": None, "tried": None}
    return Step(
        outcome="awake",
        reason=f"it serves; {why}",
        settle=_change(at, AWAKE, asked.now, place, fields),
        event=event(place, at, asked.now, "serves as it is", reason=why),
    )


def _begin(at: Address, goal: Snapshot, world: World, asked: Asked, place: Place) -> Step:
    """Note that it wakes, and ask for capacity at once: this is what the first request waits for.

    `world` may hold no more than what tells the capacity.
    """
    anew = at.state == FAILED
    fields: Body = {"worked_by": place.execution, "asleep_since": at.asleep_since or at.changed_at}
    fields |= {"tried": None} if anew else {}
    if at.policy.cold_start == "avoid" and asked.reason != PREWAKE:
        fields["cold_wakes"] = keep_alive_costs.with_cold_wake(at.cold_wakes, asked.now)
    if at.state == AWAKE:  # at zero by another's hand: nobody has kept what it is, and the next look needs it
        fields["snapshot"] = snapshot.kept(goal, "")
    calls: list[Body] = []
    if world.status not in CHANGING:
        calls = _calls(at, goal, world, place, None if anew else another_type(at), anew=bool(world.failure))
    return Step(
        outcome="work",
        reason=asked.reason or "it is wanted",
        write=_change(at, WAKING, asked.now, place, fields),
        calls=tuple(each for each in calls if each["do"] not in snapshot.ASIDE),
        watch=_watch(at, world, calls),
        wait_s=_pace(asked),
        again=True,
    )


def _too_long(at: Address, asked: Asked) -> bool:
    return asked.looks > MOST_LOOKS or (at.changed_at is not None and asked.now - at.changed_at > LONGEST_CHANGE)


def _go_on_waking(at: Address, goal: Snapshot, world: World, asked: Asked, place: Place) -> Step:
    if _too_long(at, asked):
        return fail(at, f"it is {world.status} after {asked.looks} looks", asked, place)
    if world.status in CHANGING:
        return _until_at_rest(at, world, asked)
    if refused := _refused(at, goal, world, asked.problem):
        return _next_type(at, goal, world, refused, asked, place)
    if asked.troubles >= MOST_TROUBLES:
        return fail(at, f"waking it failed {asked.troubles} times: {_told(asked.problem)}", asked, place)
    if at.kind == "classic" and world.status in snapshot.BROKEN and not asked.problem:  # as this execution made it
        return fail(at, f"it ended as {world.status}: {world.failure or 'no reason given'}", asked, place)
    calls = _calls(at, goal, world, place, another_type(at))
    again = _were_sent(calls, asked)
    last = all(each["do"] in snapshot.ALARMS for each in calls)
    # what AWS shows otherwise than it was sent, of alarms and scaling, is not sent for ever
    if not last and not (again and all(each["do"] in snapshot.ASIDE for each in calls)):
        capacity = any(each["do"] not in snapshot.ASIDE for each in calls)
        repeated = bool(asked.problem) or again
        watch = _watch(at, world, calls) if capacity and not repeated else None
        wait_s = _pace(asked) if watch or repeated else 1
        return Step(outcome="work", reason=asked.reason, calls=tuple(calls), watch=watch, wait_s=wait_s, again=True)
    if world.status != "InService":
        return fail(at, f"it is {world.status}: {world.failure or 'no reason given'}", asked, place)
    if not snapshot.has_capacity(at, world):
        return _until_at_rest(at, world, asked, "its capacity is on the way")
    return _settle_awake(at, goal, asked, place, calls if last else [])


def _until_at_rest(at: Address, world: World, asked: Asked, why: str = "") -> Step:
    """Return the step that waits for SageMaker; after many looks in a row it does not watch, which might not end."""
    watch = _watch(at, world) if asked.looks <= MOST_WATCHES else None
    return Step(outcome="wait", reason=why or f"it is {world.status}", watch=watch, wait_s=_pace(asked), again=True)


def _watch(at: Address, world: World, calls: Sequence[Body] = ()) -> Body | None:
    """Return what is to be at rest before the next decision; None where a look could not tell that from before.

    SageMaker goes on telling why something failed until it is changed again.
    """
    if world.failure or (world.endpoint is None and not calls):
        return None
    host = world.endpoint is None or world.endpoint["EndpointStatus"] != "InService"
    host = host or any(each["do"] in ("create endpoint", "update endpoint") for each in calls)
    return {"endpoint": at.endpoint_name} if host or not at.component else {"component": at.component}


def _calls(
    at: Address, goal: Snapshot, world: World, place: Place, kind: str | None, *, anew: bool = False
) -> list[Body]:
    name, tags = _alarm(at, alarms.WAKE), _tags(at, place)
    return snapshot.to_wake(at, goal, world, wake_alarm=name, tags=tags, instance_type=kind, anew=anew)


def _tags(at: Address, place: Place) -> list[Body]:
    """Return the tags of an alarm of Ebb's own; others' alarms keep the ones they have."""
    return names.tags(place.stack, at.project or at.address) if at.origin == "ebb" else []


def _refused(at: Address, goal: Snapshot, world: World, problem: Mapping[str, Any] | None) -> str | None:
    """Return how capacity was refused, None when it was not.

    SageMaker goes on telling why something failed until it is changed again. It is an old story when all that is wanted
    is there, when what was sent last did not arrive, and when the machines were exchanged since.
    """
    if problem:
        told = _told(problem)
        return told if snapshot.wants_capacity(told) else None
    if world.endpoint is None:
        return None
    there = world.status == "InService" and snapshot.has_capacity(at, world)
    if there and not snapshot.lacks_capacity(at, goal, world):
        return None
    reasons = [str(world.endpoint.get("FailureReason") or "")]
    if world.component and _changed(world.component) >= _changed(world.endpoint):
        reasons.append(str(world.component.get("FailureReason") or ""))
    return next((each for each in reasons if snapshot.wants_capacity(each)), None)


def _changed(described: Mapping[str, Any]) -> float:
    found = events.timestamp(described.get("LastModifiedTime"))
    return found.timestamp() if found else 0.0


def another_type(at: Address) -> str | None:
    """Return the instance type that is tried now, None while it is the one of the snapshot."""
    left = [each for each in _types(at) if each not in at.tried]
    return left[0] if at.tried and left else None


def _types(at: Address) -> list[str]:
    first = [at.instance_type] if at.instance_type else []
    return first + [each for each in at.instance_types if each != at.instance_type]


def _next_type(at: Address, goal: Snapshot, world: World, refused: str, asked: Asked, place: Place) -> Step:
    """Note the type that was refused and try the next one."""
    types = _types(at)
    current = another_type(at) or (types[0] if types else "its instance type")
    tried = [*at.tried, current]
    left = [each for each in types if each not in tried]
    if not left or at.kind == "shared":  # the host of others is not exchanged for the sake of one
        return fail(at, f"no capacity of {', '.join(tried)}: {refused}", asked, place, tried=tried)
    more = {"reason": refused, "instance_type": current, "next_type": left[0]}
    told = event(place, at, asked.now, "capacity refused", **more)
    without = world.model_copy(update={"config": None})
    return Step(
        outcome="work",
        reason=f"no capacity of {current}, trying {left[0]}",
        write=_change(at, WAKING, asked.now, place, {"tried": tried}),
        # in the same step: a refusal that is seen from now on is one of this type
        calls=(snapshot.call("record event", told), *_calls(at, goal, without, place, left[0])),
        again=True,
    )


def _settle_awake(at: Address, goal: Snapshot, asked: Asked, place: Place, calls: Sequence[Body]) -> Step:
    """Return the last step of a wake: `calls` are of the alarms that it has while it is awake."""
    now = asked.now
    since = at.asleep_since or at.changed_at or now
    asleep_s = max((now - since).total_seconds(), 0.0)
    wanted_at = at.first_wanted_at or at.wanted_at
    took_s = (now - wanted_at).total_seconds() if wanted_at else None
    called_s = (asked.called_at - wanted_at).total_seconds() if wanted_at and asked.called_at else None
    kind = another_type(at) or at.instance_type
    fields = {
        "worked_by": None,
        "tried": None,
        "asleep_since": None,
        "instance_type": kind,
        "in_service_since": ledger.iso(now),
        "called_after_s": called_s,
    }
    saved = round(at.awake_usd_per_hour * asleep_s / 3600, 6) if at.awake_usd_per_hour is not None else None
    energy = round(at.awake_watts * asleep_s / 3.6e6, 6) if at.awake_watts is not None else None
    return Step(
        outcome="awake",
        reason=asked.reason or "it is wanted",
        old_alarms=tuple(
            name for each in calls if each["do"] == "delete alarms" for name in each["with"]["AlarmNames"]
        ),
        alarms=tuple(each["with"] for each in calls if each["do"] == "put alarm"),
        settle=_change(at, AWAKE, now, place, fields),
        event=event(
            place,
            at,
            now,
            "woke",
            reason=asked.reason,
            asleep_s=asleep_s,
            took_s=took_s,
            called_after_s=called_s,
            saved_usd=saved,
            saved_kwh=energy,
            instance_type=kind,
        ),
    )


def fail(at: Address, why: str, asked: Asked, place: Place, *, tried: list[str] | None = None) -> Step:
    """Return the step that gives up waking for now. Requests stay queued; the next one tries again."""
    fields: dict[str, Any] = {"worked_by": None, "reason": why, "asleep_since": at.asleep_since or at.changed_at}
    if tried:
        fields["tried"] = tried
    return Step(
        outcome="failed",
        reason=why,
        settle=_change(at, FAILED, asked.now, place, fields),
        event=event(place, at, asked.now, "could not be woken", reason=why),
        notice=_notice(
            place,
            f"{at.address} could not be woken",
            f"{at.address} ({at.kind}) was to be woken and could not be: {why}",
            f"Requests that came through the front door wait for up to {at.policy.queue_for_s // 60} minutes. Each new "
            "one, and the next sweep, tries again.",
        ),
    )


# ---- Requests ----


def event(place: Place, at: Address, now: datetime, what: str, **more: Any) -> Body:
    """Return the write of what happened to an address: pk ADDRESS#<address>, sk EVENT#<time>.

    `what` is "slept", "woke", "sleep called off", "kept though idle", "capacity refused" or "could not be woken"; times
    are in seconds:
    `asleep_s`, and `took_s` from the decision until it slept, or from the first request until it answered;
    `called_after_s` from that request until AWS was asked for capacity, which is Ebb's own delay. `saved_usd`
    and `saved_kwh` are what being asleep saved, gross; `saves_usd_per_month` is net of watching.
    """
    fields = {
        "what": what,
        "at": ledger.iso(now),
        "address": at.address,
        "project": at.project,
        "kind": at.kind,
        "execution": place.execution,
        "generation": at.generation,
        "usd_per_hour": at.awake_usd_per_hour,
        **more,
    }
    key = {"pk": addresses.key(at.address)["pk"], "sk": f"EVENT#{ledger.iso(now)}"}
    return ledger.as_action(place.table, ledger.update(key, fields))


def wake_request(address: str, generation: int, reason: str) -> Body:
    """Return the execution that wakes an address: the same for all who ask at once."""
    given = {"address": address, "generation": generation}
    return {"name": addresses.wake_execution(address, generation)[:80], "input": given, "why": reason}


def _change(
    at: Address,
    to: addresses.State,
    now: datetime,
    place: Place,
    fields: Mapping[str, Any],
    *,
    unless_wanted: bool = False,
) -> Body:
    request = addresses.change(
        at.address,
        expected=at.state,
        generation=at.generation,
        to=to,
        now=now,
        fields=fields,
        unless_wanted=unless_wanted,
    )
    return ledger.as_action(place.table, request)


def _were_sent(calls: Sequence[Body], asked: Asked) -> bool:
    """Return whether the step before has sent just these, and AWS does not show it."""
    return bool(calls) and [each for each in asked.sent if each["do"] != "record event"] == list(calls)


def _alarm(at: Address, what: str) -> str:
    return alarms.alarm_name(at.address, what)


def _wake_alarm(at: Address, world: World, place: Place) -> Body | None:
    """Return the alarm by which AWS itself wakes one of Ebb's own endpoints; others have their own, or none."""
    name = _alarm(at, alarms.WAKE)
    arn = next((arn for key, arn in world.policy_arns.items() if key.endswith(f"#{name}")), None)
    if at.origin != "ebb" or arn is None:
        return None
    return alarms.wake(at, policy_arn=arn, tags=_tags(at, place))


def _slept_notice(at: Address, goal: Snapshot, place: Place, saves: float | None) -> Body:
    gone = "was deleted; its configuration and everything else is kept" if at.kind == "classic" else "has no instance"
    owner = next((value for key, value in goal.tags.items() if key.lower() in {"ebb:owner", "owner"}), None)
    worth = (
        "what it costs is not known" if saves is None else f"{saves:,.2f} USD a month, net of what watching it costs"
    )
    return _notice(
        place,
        f"{at.address} is asleep",
        f"Stopped: {at.address} ({at.kind}{f', {at.instance_type}' if at.instance_type else ''}) {gone}.",
        f"Why: {at.reason}.",
        f"How to wake it: the next request does, by `ebb invoke {at.project or at.address}`, ebb.client or the front "
        "door; none is lost. A direct InvokeEndpoint gets AWS's own error until it is awake.",
        f"Saves while it sleeps: {worth}.",
        "Keep it awake in future: the tag ebb:keep=yes, or in its pipeline.yaml serve: {availability: high}.",
        *([f"Owner: {owner}"] if owner else []),
    )


def _notice(place: Place, subject: str, *lines: str) -> Body:
    # https://docs.aws.amazon.com/sns/latest/api/API_Publish.html: a subject of at most 100 ASCII characters
    return {"TopicArn": place.topic_arn, "Subject": f"Ebb: {subject}"[:100], "Message": "\n".join(lines)}


def _pace(asked: Asked) -> int:
    return pace.wait_s(asked.looks)


def _told(problem: Mapping[str, Any] | None) -> str:
    return ": ".join(str(problem[name]) for name in ("Error", "Cause") if problem.get(name)) if problem else ""
