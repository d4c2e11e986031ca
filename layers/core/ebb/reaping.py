"""Reaping: notebooks, Studio apps, spaces, warm pools and training jobs that nobody uses any more.

Pure: what was seen, the policy and now go in, a verdict with its reason comes out. What is stopped can be started
again with one call, which the verdict names; what would lose data (a space's volume) is only reported, unless its own
tag says that it may go. What Ebb did not make is protected until the stack's parameter and its own tag allow it.
"""

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ebb import control_plane, ledger
from ebb.idle import KEEP_TAG, NO, SLEEP_TAG

Kind = Literal["notebook", "app", "space", "warm-pool", "training-job"]
Action = Literal["keep", "stop", "protected"]
KINDS: tuple[Kind, ...] = ("notebook", "app", "space", "warm-pool", "training-job")

ALLOWED = "allowed"
DELETE_TAG = "ebb:delete"  # =allowed: a space may be deleted with its volume
BUDGET_TAG = "ebb:budget-hours"  # of a training job in instance-hours; of a notebook, how long it may be in service
STACK_TAG = "ebb:stack"
SYSTEM_INSTANCE = (
    "system"  # Studio's own, not billed: https://docs.aws.amazon.com/sagemaker/latest/dg/notebooks-usage-metering.html
)
HOURS_PER_MONTH = control_plane.HOURS_PER_MONTH
# SageMaker stops a job itself at its MaxRuntimeInSeconds, within minutes; later than this it has failed to.
GRACE = timedelta(minutes=30)


class Policy(BaseModel):
    """How long each kind of resource may be left alone. Defaults assumed; each is far above a lunch break."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str
    foreign: bool = False  # the stack's parameter ManageForeignEndpoints: tags of what Ebb did not make count
    notebook_after: timedelta = timedelta(hours=12)
    app_after: timedelta = timedelta(hours=2)
    space_after: timedelta = timedelta(days=30)
    warm_pool_after: timedelta = timedelta(minutes=15)


class Resource(BaseModel):
    """One resource as it was seen. `keys` name it in every call about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    name: str
    keys: dict[str, str]
    arn: str
    status: str
    instance_type: str | None = None
    instances: int = Field(default=1, ge=1)
    volume_gib: float | None = None
    since: datetime | None = None  # in this status
    last_active: datetime | None = None  # of a user; apps only
    max_runtime_s: float | None = None  # training jobs: what SageMaker itself was told
    tags: dict[str, str] | None = None  # None: not read


class Verdict(BaseModel):
    """What is to be done with a resource, and the reason in words that an operator can read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    name: str
    action: Action
    reason: str
    usd_per_hour: float | None = None  # what it costs while nobody uses it; None: its price is not known
    idle_since: datetime | None = None

    @property
    def usd_per_month(self) -> float | None:
        """Return what a month of it costs."""
        return None if self.usd_per_hour is None else self.usd_per_hour * HOURS_PER_MONTH


def idle(seen: Resource, policy: Policy, *, now: datetime) -> str | None:
    """Return why a resource counts as unused, None while it does not. Tags are not looked at, except for a budget.

    What is not known is never idle: no time of activity, no status of its own.
    """
    match seen.kind:
        case "notebook":
            # whether anybody works in it AWS does not tell: without its tag it is only reported
            limit = max(policy.notebook_after, timedelta(hours=budget_hours(seen.tags) or 0))
            return _left(seen, "InService", seen.since, limit, "in service", now)
        case "app":
            # LastUserActivityTimestamp is never older than the user's last activity: a health check without any sets it
            # too. So it errs towards keeping: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeApp.html
            if seen.instance_type in (None, SYSTEM_INSTANCE):
                return None
            return _left(seen, "InService", seen.last_active, policy.app_after, "no activity of its user", now)
        case "space":
            return _left(seen, "InService", seen.since, policy.space_after, "no app, and unchanged", now)
        case "warm-pool":
            return _left(seen, "Available", seen.since, policy.warm_pool_after, "kept warm and not used", now)
        case "training-job":
            return _past_budget(seen, policy, now)


def decide(seen: Resource, policy: Policy, *, now: datetime) -> Verdict:
    """Return what to do with one resource. Called again, on what is seen then, just before anything is stopped."""
    why = idle(seen, policy, now=now)
    if why is None:
        return _verdict(seen, "keep", _in_use(seen))
    if seen.tags is None:
        return _verdict(seen, "keep", f"{why}; its tags could not be read: not judged")
    if seen.tags.get(KEEP_TAG, "no").lower() not in NO:
        return _verdict(seen, "keep", f"{why}; its tag {KEEP_TAG} keeps it")
    refused = _refused(seen, policy)
    if refused:
        return _verdict(seen, "protected", f"{why}; {refused}")
    return _verdict(seen, "stop", why)


def needs_tags(seen: Resource, policy: Policy, *, now: datetime) -> bool:
    """Return whether the verdict depends on tags: most resources are in use, and need no call for them."""
    return seen.tags is None and (seen.kind == "training-job" or idle(seen, policy, now=now) is not None)


def request(seen: Resource) -> dict[str, Any]:
    """Return the body of the call that stops a resource."""
    if (
        seen.kind == "warm-pool"
    ):  # 0 ends the pool: https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html
        return {**seen.keys, "ResourceConfig": {"KeepAlivePeriodInSeconds": 0}}
    return dict(seen.keys)


def notice(seen: Resource, verdict: Verdict) -> dict[str, str]:
    """Return what the owner is told: what was stopped, why, how to start it again, what that saves."""
    label = {"warm-pool": "warm pool of", "training-job": "training job"}.get(seen.kind, seen.kind)
    done = "deleted" if seen.kind == "space" else "stopped"
    saved = "its price is not in the catalog"
    if verdict.usd_per_hour is not None:
        saved = f"{verdict.usd_per_hour:.3f} USD per hour, up to {verdict.usd_per_hour * HOURS_PER_MONTH:.2f} per month"
    owner = next((f"\nOwner: {value}" for name, value in (seen.tags or {}).items() if name.lower() == "owner"), "")
    message = (
        f"Ebb {done} the {label} {seen.name}.\nWhy: {verdict.reason}.\nTo have it again: {again(seen)}\n"
        f"Saved: {saved}.\nTo keep it next time: tag it {KEEP_TAG}=yes.{owner}"
    )
    return {"subject": f"Ebb {done} {label} {seen.name}"[:100], "message": message}


def event(seen: Resource, verdict: Verdict, *, table: str, now: datetime) -> dict[str, Any]:
    """Return the PutItem by which the ledger keeps what was stopped, why, and what it cost while nobody used it."""
    item = {
        "pk": f"RESOURCE#{seen.kind}/{seen.name}",
        "sk": f"EVENT#{ledger.iso(now)}",
        "gsi_pk": "EVENTS",
        "gsi_sk": f"{ledger.iso(now)}#{seen.kind}/{seen.name}",
        "what": "reaped",
        "kind": seen.kind,
        "name": seen.name,
        "at": now,
        "reason": verdict.reason,
        "usd_per_hour": verdict.usd_per_hour,
        "again": again(seen),
    }
    return ledger.put_action(table, item)


def again(seen: Resource) -> str:
    """Return how a person brings back what was stopped."""
    keys = seen.keys
    match seen.kind:
        case "notebook":
            name = keys["NotebookInstanceName"]
            return f"aws sagemaker start-notebook-instance --notebook-instance-name {name} (its volume is kept)"
        case "app":
            return "run it again from Studio; files of its space are kept, what was only in memory is not"
        case "space":
            return "create a space of the same name in Studio; its volume is gone, as its tag allowed"
        case "warm-pool":
            return "the next training job starts a new one; its start takes minutes instead of seconds"
        case "training-job":
            return "start it again from its checkpoints, with a larger budget in its tags"


def execution(seen_kind: str, name: str, moment: datetime) -> str:
    """Return the name of the execution that stops a resource: one for each minute, so that a repeat is harmless."""
    digest = hashlib.sha256(f"{seen_kind}/{name}".encode()).hexdigest()[:12]
    return f"reap-{seen_kind}-{digest}-{moment:%y%m%d%H%M}"


def usd_per_hour(seen: Resource) -> float | None:
    """Return what a resource costs per hour, None when its price is not known.

    A space costs its volume; everything else its instances, by the price of the catalog.
    """
    if seen.kind == "space":
        return (
            None
            if seen.volume_gib is None
            else seen.volume_gib * control_plane.volume_usd_per_gib_month() / HOURS_PER_MONTH
        )
    return instances_usd_per_hour(seen.instance_type, seen.instances)


def instances_usd_per_hour(instance_type: str | None, count: int) -> float | None:
    """Return what instances cost per hour, None when their price is not known."""
    if instance_type == SYSTEM_INSTANCE:
        return 0.0
    each = control_plane.instance_usd_per_hour(instance_type) if instance_type else None
    return None if each is None else each * count


def budget_hours(tags: Mapping[str, str] | None) -> float | None:
    """Return the budget that a job's tag gives it, None without one or with one that is no number."""
    try:
        given = float((tags or {})[BUDGET_TAG])
    except (KeyError, ValueError):
        return None
    return given if math.isfinite(given) and given > 0 else None


def _left(seen: Resource, status: str, last: datetime | None, limit: timedelta, what: str, now: datetime) -> str | None:
    if seen.status != status or last is None or now - last < limit:
        return None
    return f"{what} for {told(now - last)}, more than {told(limit)}"


def _past_budget(seen: Resource, policy: Policy, now: datetime) -> str | None:
    """A budget counts instance-hours: two instances use it up twice as fast."""
    if seen.status != "InProgress" or seen.since is None:
        return None
    ran = now - seen.since
    budget = budget_hours(seen.tags)
    if budget is not None and ran * seen.instances > timedelta(hours=budget):
        machines = f" on {seen.instances} instances" if seen.instances > 1 else ""
        return f"has run for {told(ran)}{machines}, more than its budget of {budget:g} instance-hours"
    if is_ours(seen, policy) and seen.max_runtime_s and ran > timedelta(seconds=seen.max_runtime_s) + GRACE:
        return f"has run for {told(ran)}, longer than the {told(timedelta(seconds=seen.max_runtime_s))} of its spec"
    return None


def _refused(seen: Resource, policy: Policy) -> str | None:
    tags = seen.tags or {}
    allowed = is_ours(seen, policy) or (policy.foreign and tags.get(SLEEP_TAG) == ALLOWED)
    if not allowed and not policy.foreign:
        return "Ebb did not make it, and the stack's parameter ManageForeignEndpoints is not yes"
    if not allowed:
        return f"Ebb did not make it, and it has no tag {SLEEP_TAG}={ALLOWED}"
    if seen.kind == "notebook" and budget_hours(tags) is None:
        return f"whether it is used cannot be told from that, and it has no tag {BUDGET_TAG}"
    if seen.kind == "space" and tags.get(DELETE_TAG) != ALLOWED:
        return f"deleting it would delete its volume, and it has no tag {DELETE_TAG}={ALLOWED}"
    return None


def is_ours(seen: Resource, policy: Policy) -> bool:
    """Return whether this stack made a resource, as its tag says."""
    return (seen.tags or {}).get(STACK_TAG) == policy.stack


def _in_use(seen: Resource) -> str:
    if seen.kind == "app" and seen.instance_type == SYSTEM_INSTANCE:
        return "runs on Studio's own instance, which is not billed"
    if seen.kind == "app" and seen.status == "InService" and seen.last_active is None:
        return "SageMaker tells no activity of its user: not judged"
    if seen.kind == "training-job" and budget_hours(seen.tags) is None:
        return f"running, without a tag {BUDGET_TAG}"
    return {"training-job": "running, within its budget"}.get(seen.kind, "used a short while ago")


def _verdict(seen: Resource, action: Action, reason: str) -> Verdict:
    return Verdict(
        kind=seen.kind,
        name=seen.name,
        action=action,
        reason=reason,
        usd_per_hour=usd_per_hour(seen),
        idle_since=seen.last_active or seen.since,
    )


def told(span: timedelta) -> str:
    """Return a span in the two largest units that it fills: `3 h 10 min`, `41 days`."""
    minutes = int(span.total_seconds() // 60)
    days, hours = divmod(minutes // 60, 24)
    if days >= 3:
        return f"{days} days"
    if minutes >= 60:
        return f"{days * 24 + hours} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{minutes} min"
