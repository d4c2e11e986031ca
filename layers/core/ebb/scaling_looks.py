"""When an execution looks again at an endpoint that changes, what it waits for, and when it has looked for too long."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ebb import pace
from ebb.addresses import Address
from ebb.endpoint_world import Body, World
from ebb.scaling import Asked, Step

LOOK_AGAIN_S = 2
# Of the calls of one execution: what fails so often will not succeed a moment later.
MOST_TROUBLES = 5
# SageMaker gives up on instances itself, after 30 minutes to an hour (VariantInstanceProvisionTimeoutInSeconds).
# Asleep or awake it is to be within that time of its last change of state, or of its instance type. A look may take
# from seconds to a quarter of an hour, so that their number only bounds what changes all the time.
LONGEST_CHANGE = timedelta(hours=2)
MOST_LOOKS = 240
MOST_WATCHES = 40  # each ends when all is at rest, which the next decision should see too
CHANGING = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}


def too_long(at: Address, asked: Asked) -> bool:
    """Return whether it has been changing for so long that it will not arrive."""
    return asked.looks > MOST_LOOKS or (at.changed_at is not None and asked.now - at.changed_at > LONGEST_CHANGE)


def until_at_rest(at: Address, world: World, asked: Asked, why: str = "") -> Step:
    """Return the step that waits for SageMaker; after many looks in a row it does not watch, which might not end."""
    watch = to_watch(at, world) if asked.looks <= MOST_WATCHES else None
    return Step(outcome="wait", reason=why or f"it is {world.status}", watch=watch, wait_s=pace_s(asked), again=True)


def to_watch(at: Address, world: World, calls: Sequence[Body] = ()) -> Body | None:
    """Return what is to be at rest before the next decision; None where a look could not tell that from before.

    SageMaker goes on telling why something failed until it is changed again.
    """
    if world.failure or (world.endpoint is None and not calls):
        return None
    host = world.endpoint is None or world.endpoint["EndpointStatus"] != "InService"
    host = host or any(each["do"] in ("create endpoint", "update endpoint") for each in calls)
    return {"endpoint": at.endpoint_name} if host or not at.component else {"component": at.component}


def pace_s(asked: Asked) -> int:
    """Return how long to wait before the next look, in seconds: longer after each look."""
    return pace.wait_s(asked.looks)


def missing_part(at: Address, world: World) -> str | None:
    """Return which part is gone or on its way out, None while all that can be put to sleep is there."""
    if world.endpoint is None or world.endpoint["EndpointStatus"] == "Deleting":
        return f"endpoint {at.endpoint_name}"
    return f"inference component {at.component}" if at.component and world.component is None else None


def were_sent(calls: Sequence[Body], asked: Asked) -> bool:
    """Return whether the step before has sent just these, and AWS does not show it."""
    return bool(calls) and [each for each in asked.sent if each["do"] != "record event"] == list(calls)


def in_words(problem: Mapping[str, Any] | None) -> str:
    """Return the error and the cause of a call that failed; empty when none did."""
    return ": ".join(str(problem[name]) for name in ("Error", "Cause") if problem.get(name)) if problem else ""
