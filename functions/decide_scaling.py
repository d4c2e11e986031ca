"""Lambda: decide the next step of putting an endpoint to sleep. Reads it and its metrics; writes its snapshot only."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import addresses, control_plane, events, idle, keep_alive, keep_alive_costs, scaling_sleep, snapshot
from ebb.addresses import AWAKE, FALLING_ASLEEP, Address
from ebb.aws import endpoints, executions, metrics, restoring
from ebb.aws.ledger import Ledger
from ebb.endpoint_world import World, at_zero, capture_changed, instance_types, wakes_by_itself
from ebb.errors import SnapshotUnreadableError
from ebb.idle import Action, Decision, EndpointSnapshot, Facts, Window
from ebb.minutes import moment
from ebb.scaling import Asked, Place, Step
from ebb.settings import ScalingSettings
from ebb.telemetry import logger

# Until it answers again; AWS: "several minutes" (dg/endpoint-auto-scaling-zero-instances), an endpoint is made in about
# as many. Assumed; where it was measured, `events` of the ledger tell.
WAKE_S = {"classic": 420.0}
USUAL_WAKE_S = 300.0


@logger.inject_lambda_context
@event_parser
def handler(asked: Asked, context: LambdaContext) -> dict[str, Any]:
    """Answer with the step: what to write, to send and to tell, and whether to ask again."""
    settings = ScalingSettings.from_env()
    at = Ledger(settings.ledger_table).address(asked.address)
    step = _step(at, asked, settings) if at else Step(outcome="keep", reason="the ledger knows no such address")
    told = {"address": asked.address, "outcome": step.outcome, "reason": step.reason, "numbers": step.numbers}
    logger.info("decided", extra=told)
    return step.model_dump(mode="json", exclude_none=True)


def _step(at: Address, asked: Asked, settings: ScalingSettings) -> Step:
    place = Place(
        stack=settings.stack,
        table=settings.ledger_table,
        topic_arn=settings.notifications_topic_arn,
        execution=asked.execution,
    )
    if at.origin == "foreign" and not settings.manages_foreign and at.state == AWAKE:  # not ours to look at
        facts = Facts(name=at.address, kind=at.kind, status="unknown", origin=at.origin)
        refused = idle.protected(facts, at.policy, foreign_allowed=False)
        return scaling_sleep.kept(refused, asked) if refused else Step(outcome="keep", reason="Ebb did not make it")
    ended = asked.ended if asked.looks == 0 else None
    if ended is None:
        return _from_state(at, asked, place, settings)
    step = scaling_sleep.left_behind(at, ended) or _from_state(at, asked, place, settings)
    return scaling_sleep.tell_end(step, at, ended, place)


def _from_state(at: Address, asked: Asked, place: Place, settings: ScalingSettings) -> Step:
    world = endpoints.observe(at)
    mine = at.worked_by == asked.execution
    if at.state == AWAKE:
        return _from_awake(at, world, asked, place, settings)
    has_ended = asked.ended is not None and at.worked_by == asked.ended.execution
    other_runs = not mine and not has_ended and at.worked_by is not None and executions.is_running(at.worked_by)
    if at.state != FALLING_ASLEEP or (not mine and other_runs):
        return scaling_sleep.leave(at, world, other_runs=other_runs)
    if not mine:
        return scaling_sleep.take_over(at, asked, place)
    goal = None
    try:
        goal = endpoints.kept_of(at)
        if not at_zero(at, world):  # before anything is done both copies must be there
            endpoints.recall(str((at.snapshot or {})["uri"]), goal.digest())
    except SnapshotUnreadableError as error:
        if not at_zero(at, world):
            return scaling_sleep.call_off(at, goal, world, f"its snapshot is not readable: {error}", asked, place)
        raise
    decision = None if at_zero(at, world) else _decide(at, world, asked, settings)[0]
    if decision and decision.action is Action.SLEEP and (lost := _lost(at, world)):
        decision = Decision(action=Action.KEEP, reason=lost, numbers=decision.numbers)
    return scaling_sleep.go_on_sleeping(at, goal, world, decision, asked, place)


def _from_awake(at: Address, world: World, asked: Asked, place: Place, settings: ScalingSettings) -> Step:
    if world.endpoint is None or (at.component and world.component is None):
        return Step(outcome="keep", reason="there is no such endpoint: nothing to put to sleep")
    decision, window = _decide(at, world, asked, settings)
    if decision.action is not Action.SLEEP:
        return scaling_sleep.kept(decision, asked)
    if lost := _lost(at, world):
        return scaling_sleep.refuse(at, lost, decision, asked, place)
    try:
        taken = snapshot.take(at, world, asked.now)
        # under the generation that it has while it falls asleep: no other state ever writes there
        where = snapshot.key(at.address, at.generation + 1)
        held = snapshot.kept(taken, endpoints.keep(settings.artifact_bucket, where, taken))
    except SnapshotUnreadableError as error:
        return Step(outcome="keep", reason=f"it would sleep, but: {error}", numbers=decision.numbers)
    prewake_at = window.prewake_at if window else None
    return scaling_sleep.fall_asleep(at, held, decision, asked, place, prewake_at=prewake_at)


def _decide(at: Address, world: World, asked: Asked, settings: ScalingSettings) -> tuple[Decision, Window | None]:
    """Return whether an endpoint is idle, and the window that it was judged by; what is protected is not measured."""
    facts = _facts(at, world)
    if at.kind == "classic":
        owned = {"stack": endpoints.stack_of(world), "models_gone": endpoints.models_gone(world)}
        facts = facts.model_copy(update=owned)
    protected = idle.protected(facts, at.policy, foreign_allowed=settings.manages_foreign)
    if protected:
        return protected, None
    if at_zero(at, world):
        return Decision(action=Action.SLEEP, reason="it has no instance and no copy already"), None
    variants = [str(each["VariantName"]) for each in world.variants]
    window = _window(at, world, variants, asked)
    if window is None:
        return Decision(action=Action.KEEP, reason="its habit says that it stays awake"), None
    since = asked.now - window.idle_after - 2 * idle.GRACE
    seen = metrics.observe(at, variants, since=since, now=asked.now)
    known = EndpointSnapshot(**facts.model_dump(), seen_from=seen.since, calls=seen.calls, heartbeats=seen.heartbeats)
    return idle.decide(known, at.policy, window, now=asked.now, foreign_allowed=settings.manages_foreign), window


def _lost(at: Address, world: World) -> str | None:
    """Return why an endpoint that sleeping deletes could not be made again: read last, it is read of few."""
    return restoring.missing(world) if at.kind == "classic" else None


def _window(at: Address, world: World, variants: list[str], asked: Asked) -> Window | None:
    """Return how long nobody must have called: what the spec says, else what the endpoint's own history does."""
    if at.policy.idle_after_s is not None:
        found = keep_alive.given(timedelta(seconds=at.policy.idle_after_s))
    else:
        calls = metrics.history(at, variants, since=asked.now - keep_alive.HISTORY, now=asked.now)
        found = keep_alive.window(
            calls,
            now=asked.now,
            costs=_costs(at),
            cold_start=at.policy.cold_start,
            observed_since=_observed_since(at, world, calls),
            awake_since=scaling_sleep.in_service_since(at, world),
            cold_wakes=[moment(minute) for minute in at.cold_wakes],
        )
    if found.idle_after is None:
        return None
    return Window(
        idle_after=found.idle_after, reason=found.reason, prewake_at=found.prewake_at, numbers=dict(found.numbers)
    )


def _costs(at: Address) -> keep_alive_costs.Costs:
    wake_s = WAKE_S.get(at.kind, USUAL_WAKE_S)
    if not at.awake_usd_per_hour:
        return keep_alive_costs.Costs(wake_s=wake_s)
    return keep_alive_costs.Costs(
        at.awake_usd_per_hour, wake_s, cycle=control_plane.total_usd(control_plane.cycle(wake_s))
    )


def _observed_since(at: Address, world: World, calls: Mapping[datetime, float]) -> datetime | None:
    """Return since when silence is known to be silence: since it was made, or since the first call that was seen.

    A classic endpoint is made anew by each wake. Of a component the earlier ones are read too, as many as are noted;
    where there may have been more, only its own time counts.
    """
    whole = not at.component or 0 < len(at.earlier_components) < addresses.MOST_EARLIER
    part = world.endpoint if whole else world.component
    made = events.timestamp((part or {}).get("CreationTime"))
    return min((each for each in (made, *islice(calls, 1)) if each), default=None)


def _facts(at: Address, world: World) -> Facts:
    return Facts(
        name=at.address,
        kind=at.kind,
        status=world.status,
        origin=at.origin,
        tags=world.tags,
        in_service_since=scaling_sleep.in_service_since(at, world),
        last_request_at=at.last_request_at,
        instance_types=instance_types(world),
        key=(world.config or {}).get("KmsKeyId"),
        shadows=bool((world.endpoint or {}).get("ShadowProductionVariants")),
        capture_changed=capture_changed(world),
        wakes_by_itself=wakes_by_itself(at, world),
    )
