"""Waking: the next step of an endpoint that somebody wants, from its snapshot back to what it was. Pure.

The states and what is done in each stand in `ebb.scaling`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ebb import addresses, events, keep_alive_costs, ledger, snapshot, snapshot_calls
from ebb.addresses import AWAKE, FAILED, FALLING_ASLEEP, WAKING, Address
from ebb.endpoint_world import BROKEN, Body, World, at_zero, has_capacity, wants_capacity
from ebb.requests import alarms
from ebb.scaling import Asked, Place, Step
from ebb.scaling_looks import (
    CHANGING,
    LOOK_AGAIN_S,
    MOST_LOOKS,
    MOST_TROUBLES,
    in_words,
    missing_part,
    pace_s,
    to_watch,
    too_long,
    until_at_rest,
    were_sent,
)
from ebb.scaling_writes import alarm, alarm_tags, change, event, notice
from ebb.snapshot import Snapshot

PREWAKE = "ahead of the calls that its habit promises"


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
    if at.state == AWAKE and at.endpoint_name and (missing := missing_part(at, world)):
        return fail(at, f"there is no {missing} any more: deploy the model again", asked, place)
    if at.state == AWAKE and not (world.endpoint and goal and at_zero(at, world)):
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
            wait_s=pace_s(asked),
            again=True,
        )
    if unreadable or goal is None:
        why = unreadable or "no snapshot of it was kept"
        serves = world.status == "InService" and not at_zero(at, world) and has_capacity(at, world)
        return _as_it_is(at, why, asked, place) if serves else fail(at, why, asked, place)
    if at.state != WAKING or not mine:
        return _begin(at, goal, world, asked, place)
    return _go_on_waking(at, goal, world, asked, place)


def _as_it_is(at: Address, why: str, asked: Asked, place: Place) -> Step:
    """Return the step that notes an endpoint as awake because it serves, though nobody can say what it was before."""
    fields = {"worked_by": None, "asleep_since": None, "tried": None}
    return Step(
        outcome="awake",
        reason=f"it serves; {why}",
        settle=change(at, AWAKE, asked.now, place, fields),
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
        write=change(at, WAKING, asked.now, place, fields),
        calls=tuple(each for each in calls if each["do"] not in snapshot_calls.ASIDE),
        watch=to_watch(at, world, calls),
        wait_s=pace_s(asked),
        again=True,
    )


def _go_on_waking(at: Address, goal: Snapshot, world: World, asked: Asked, place: Place) -> Step:
    if too_long(at, asked):
        return fail(at, f"it is {world.status} after {asked.looks} looks", asked, place)
    if world.status in CHANGING:
        return until_at_rest(at, world, asked)
    if refused := _refused(at, goal, world, asked.problem):
        return _next_type(at, goal, world, refused, asked, place)
    if asked.troubles >= MOST_TROUBLES:
        return fail(at, f"waking it failed {asked.troubles} times: {in_words(asked.problem)}", asked, place)
    if at.kind == "classic" and world.status in BROKEN and not asked.problem:  # as this execution made it
        return fail(at, f"it ended as {world.status}: {world.failure or 'no reason given'}", asked, place)
    calls = _calls(at, goal, world, place, another_type(at))
    again = were_sent(calls, asked)
    last = all(each["do"] in snapshot_calls.ALARMS for each in calls)
    # what AWS shows otherwise than it was sent, of alarms and scaling, is not sent for ever
    if not last and not (again and all(each["do"] in snapshot_calls.ASIDE for each in calls)):
        capacity = any(each["do"] not in snapshot_calls.ASIDE for each in calls)
        repeated = bool(asked.problem) or again
        watch = to_watch(at, world, calls) if capacity and not repeated else None
        wait_s = pace_s(asked) if watch or repeated else 1
        return Step(outcome="work", reason=asked.reason, calls=tuple(calls), watch=watch, wait_s=wait_s, again=True)
    if world.status != "InService":
        return fail(at, f"it is {world.status}: {world.failure or 'no reason given'}", asked, place)
    if not has_capacity(at, world):
        return until_at_rest(at, world, asked, "its capacity is on the way")
    return _settle_awake(at, goal, asked, place, calls if last else [])


def _calls(
    at: Address, goal: Snapshot, world: World, place: Place, kind: str | None, *, anew: bool = False
) -> list[Body]:
    name, tags = alarm(at, alarms.WAKE), alarm_tags(at, place)
    return snapshot_calls.to_wake(at, goal, world, wake_alarm=name, tags=tags, instance_type=kind, anew=anew)


def _refused(at: Address, goal: Snapshot, world: World, problem: Mapping[str, Any] | None) -> str | None:
    """Return how capacity was refused, None when it was not.

    SageMaker goes on telling why something failed until it is changed again. It is an old story when all that is wanted
    is there, when what was sent last did not arrive, and when the machines were exchanged since.
    """
    if problem:
        told = in_words(problem)
        return told if wants_capacity(told) else None
    if world.endpoint is None:
        return None
    there = world.status == "InService" and has_capacity(at, world)
    if there and not snapshot_calls.lacks_capacity(at, goal, world):
        return None
    reasons = [str(world.endpoint.get("FailureReason") or "")]
    if world.component and _changed(world.component) >= _changed(world.endpoint):
        reasons.append(str(world.component.get("FailureReason") or ""))
    return next((each for each in reasons if wants_capacity(each)), None)


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
        write=change(at, WAKING, asked.now, place, {"tried": tried}),
        # in the same step: a refusal that is seen from now on is one of this type
        calls=(snapshot_calls.call("record event", told), *_calls(at, goal, without, place, left[0])),
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
        settle=change(at, AWAKE, now, place, fields),
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
        settle=change(at, FAILED, asked.now, place, fields),
        event=event(place, at, asked.now, "could not be woken", reason=why),
        notice=notice(
            place,
            f"{at.address} could not be woken",
            f"{at.address} ({at.kind}) was to be woken and could not be: {why}",
            f"Requests that came through the front door wait for up to {at.policy.queue_for_s // 60} minutes. Each new "
            "one, and the next sweep, tries again.",
        ),
    )
