"""Falling asleep: the next step of an endpoint that is idle, or was when it was noted to fall asleep. Pure.

The states and what is done in each stand in `ebb.scaling`.
"""

from datetime import datetime

from ebb import events, ledger, snapshot_calls
from ebb.addresses import ASLEEP, AWAKE, FALLING_ASLEEP, WAKING, Address
from ebb.endpoint_world import BROKEN, Body, World, at_zero
from ebb.idle import GRACE, Action, Decision
from ebb.requests import alarms
from ebb.scaling import Asked, EndedExecution, Place, Step
from ebb.scaling_looks import (
    CHANGING,
    LOOK_AGAIN_S,
    MOST_TROUBLES,
    in_words,
    missing_part,
    pace_s,
    to_watch,
    too_long,
    until_at_rest,
    were_sent,
)
from ebb.scaling_writes import alarm, alarm_tags, change, event, notice, wake_request
from ebb.snapshot import Snapshot

HOURS_PER_MONTH = 730
# What watching one endpoint costs a month: two alarms of 0.10 USD, its share of the sweeps, and a few sleeps; each
# further sleep and wake costs control_plane.cycle. https://aws.amazon.com/cloudwatch/pricing/
WATCHING_USD_PER_MONTH = {"ebb": 0.25, "foreign": 0.05}


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
        note=change(at, FALLING_ASLEEP, asked.now, place, fields),
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
    return step.model_copy(update={"tell": notice(place, f"{at.address} was left {at.state}", *lines)})


def take_over(at: Address, asked: Asked, place: Place) -> Step:
    """Return the step that takes the place of an execution which died while it put an endpoint to sleep."""
    return Step(
        outcome="work",
        reason="the execution that put it to sleep has ended before it was asleep",
        note=change(at, FALLING_ASLEEP, asked.now, place, {"worked_by": place.execution}),
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
    elif world.endpoint is not None and not at_zero(at, world):  # it is billed, and would be for ever
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
    zero = at_zero(at, world)
    off = None if zero else _why_not(at, decision)
    if off is None and asked.troubles >= MOST_TROUBLES:
        off = f"putting it to sleep failed {asked.troubles} times: {in_words(asked.problem)}"
    if off is None and too_long(at, asked) and (not zero or world.status in CHANGING):
        off = f"it is {world.status} after {asked.looks} looks"
    if off:
        return call_off(at, goal, world, off, asked, place)
    if world.endpoint is not None and world.status in CHANGING:
        return until_at_rest(at, world, asked)
    calls = snapshot_calls.to_sleep(
        at, goal, world, idle=alarm(at, alarms.IDLE), wake_alarm=_wake_alarm(at, world, place)
    )
    again = were_sent(calls, asked)
    old = [each["with"]["AlarmNames"] for each in calls if zero and each["do"] == "delete alarms"]
    # at zero, what is left over is an alarm, or one that AWS shows otherwise than it was sent
    if len(calls) > len(old) and not (zero and (again or asked.troubles >= MOST_TROUBLES)):
        # the change of state comes first: whoever was faster has changed the generation, and this one looks again
        act = {"acted_at": ledger.iso(asked.now)}
        repeated = bool(asked.problem) or again
        watch = None if at.kind == "classic" or repeated else to_watch(at, world)  # a classic one goes
        return Step(
            outcome="work",
            reason=at.reason or asked.reason,
            write=change(at, FALLING_ASLEEP, asked.now, place, act, unless_wanted=not zero),
            calls=tuple(calls),
            watch=watch,
            wait_s=pace_s(asked) if watch or repeated else 1,
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
        return Step(outcome="awake", reason=why, settle=change(at, AWAKE, asked.now, place, fields), event=told)
    fields["asleep_since"] = ledger.iso(asked.now)
    return Step(
        outcome="awake",
        reason=why,
        settle=change(at, ASLEEP, asked.now, place, fields),
        event=told,
        wake=wake_request(at.address, at.generation + 1, why),
    )


def _untouched(at: Address, goal: Snapshot, world: World) -> bool:
    """Whether nothing was done yet. Its capacity tells nothing: as long as it has some, others have changed that."""
    broken = at.kind == "classic" and world.status in BROKEN
    if broken or missing_part(at, world):
        return False  # waking will say so
    return not snapshot_calls.aside(at, goal, world, wake_alarm=alarm(at, alarms.WAKE))


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
        settle=change(at, ASLEEP, now, place, fields, unless_wanted=not wanted),
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


def _wake_alarm(at: Address, world: World, place: Place) -> Body | None:
    """Return the alarm by which AWS itself wakes one of Ebb's own endpoints; others have their own, or none."""
    name = alarm(at, alarms.WAKE)
    arn = next((arn for key, arn in world.policy_arns.items() if key.endswith(f"#{name}")), None)
    if at.origin != "ebb" or arn is None:
        return None
    return alarms.wake(at, policy_arn=arn, tags=alarm_tags(at, place))


def _slept_notice(at: Address, goal: Snapshot, place: Place, saves: float | None) -> Body:
    gone = "was deleted; its configuration and everything else is kept" if at.kind == "classic" else "has no instance"
    owner = next((value for key, value in goal.tags.items() if key.lower() in {"ebb:owner", "owner"}), None)
    worth = (
        "what it costs is not known" if saves is None else f"{saves:,.2f} USD a month, net of what watching it costs"
    )
    return notice(
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
