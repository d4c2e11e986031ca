"""Whether an endpoint is idle: what was seen of it, its policy and now in, a decision with its reason out. Pure.

Silence is not zero. CloudWatch publishes no datapoint when nobody calls, and none either when metrics are late, are
read under wrong dimensions or were lost; the heartbeat (CPUUtilization, published every minute while an instance runs)
tells the two apart. What CloudWatch has not had the time to publish is unknown and proves nothing.

What counts as a call, by kind (https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html):

    async      its backlog, queued and in work, and what it has processed; it publishes no Invocations
    component  InvocationsPerCopy and ConcurrentRequestsPerCopy of the inference component
    classic    Invocations and ConcurrentRequestsPerModel of each variant
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ebb.addresses import SLEEPABLE, IdlePolicy, Kind
from ebb.catalog import scarcity

KEEP_TAG = "ebb:keep"
SLEEP_TAG = "ebb:sleep"  # "allowed": the owner of an endpoint that Ebb did not make opts in
RESTORE_TAG = "ebb:restore"  # "accepted": the owner takes the risk that there is no such machine when it wakes
NO = {"no", "false", "0", "off"}

# SageMaker's metrics have a resolution of a minute and arrive within two. Assumed: AWS states no bound.
PUBLISHING_LAG = timedelta(minutes=2)
# After it was decided, and before it is decided once more and done: as long as a call may go unseen.
GRACE = PUBLISHING_LAG + timedelta(seconds=30)
# Of the minutes of the window; an instance that is replaced or a lost datapoint is no outage of the metrics.
HEARTBEAT_SHARE = 0.9
# An execution waits this long at most for what may make an endpoint idle; the next sweep sees to what takes longer.
LONGEST_WAIT = timedelta(minutes=20)

AT_REST = "InService"
CHANGING = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}

# Tags by which other tools mark what they own: they would put back, or miss, what was deleted under them.
OWNERS: Mapping[str, str] = {
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-resource-tags.html
    "aws:cloudformation:": "CloudFormation",
    # https://docs.aws.amazon.com/servicecatalog/latest/adminguide/autotags.html
    "aws:servicecatalog:": "Service Catalog",
    # https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-projects-whatis.html
    "sagemaker:project-": "SageMaker Projects",
    # https://aws-controllers-k8s.github.io/community/docs/user-docs/ack-tags/
    "services.k8s.aws/": "AWS Controllers for Kubernetes",
    # https://docs.crossplane.io/latest/concepts/managed-resources/
    "crossplane-": "Crossplane",
}
# By custom, not by any tool: https://docs.aws.amazon.com/whitepapers/latest/tagging-best-practices/tagging-best-practices.html
OWNER_KEYS = {"managed-by", "managedby", "managed_by", "provisioner", "terraform", "pulumi"}
OWNER_VALUES = ("terraform", "opentofu", "pulumi", "crossplane", "cdk", "cloudformation", "kubernetes", "ack")


class Action(StrEnum):
    """What to do with an endpoint."""

    KEEP = "keep"
    WAIT = "wait"
    SLEEP = "sleep"


class Decision(BaseModel):
    """What was decided, why in words that an operator can read, and the numbers it was judged on."""

    model_config = ConfigDict(frozen=True)

    action: Action
    reason: str
    until: datetime | None = None  # of a wait: when it may be otherwise
    numbers: dict[str, Any] = Field(default_factory=dict)


class Window(BaseModel):
    """How long nobody must have called, and why so long."""

    model_config = ConfigDict(frozen=True)

    idle_after: timedelta
    reason: str
    prewake_at: datetime | None = None
    numbers: dict[str, Any] = Field(default_factory=dict)


class Facts(BaseModel):
    """What an endpoint is: enough to say whether it may be put to sleep at all."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    status: str  # of the endpoint, and of its component while that is not at rest
    origin: str = "ebb"
    tags: dict[str, str] = Field(default_factory=dict)
    in_service_since: datetime | None = None
    last_request_at: datetime | None = None  # through the front door
    stack: str | None = None  # the CloudFormation stack that holds it
    instance_types: tuple[str, ...] = ()
    key: str | None = None  # that encrypts its storage
    shadows: bool = False
    capture_changed: bool = False  # data capture is not as the configuration says
    models_gone: tuple[str, ...] = ()  # deleted while their endpoint runs, which SageMaker lets one do
    wakes_by_itself: bool = True  # async, components: an alarm scales it out when it is called and has no capacity


class EndpointSnapshot(Facts):
    """What was seen of one endpoint over some time; times are the minutes that CloudWatch gives its datapoints."""

    seen_from: datetime
    calls: tuple[datetime, ...] = ()  # minutes in which somebody called, or a request was in work
    heartbeats: tuple[datetime, ...] = ()  # minutes in which every variant said that it runs


def protected(seen: Facts, policy: IdlePolicy, *, foreign_allowed: bool) -> Decision | None:
    """Return why an endpoint is never put to sleep, None when it may be. Needs no metric."""
    reason = _kept(seen, policy) or _foreign(seen, foreign_allowed)
    if reason is None and seen.kind == "classic":
        reason = not_restorable(seen)
    return Decision(action=Action.KEEP, reason=reason) if reason else None


def _kept(seen: Facts, policy: IdlePolicy) -> str | None:
    if seen.kind not in SLEEPABLE:
        return f"a {seen.kind} endpoint has nothing to put to sleep"
    if not policy.sleeps:
        return "its policy says that it never sleeps"
    if seen.tags.get(KEEP_TAG, "no").lower() not in NO:
        return f"the tag {KEEP_TAG} keeps it"
    return None


def _foreign(seen: Facts, allowed: bool) -> str | None:
    if seen.origin != "foreign":
        return None
    if not allowed:
        return "Ebb did not make it, and the stack's parameter ManageForeignEndpoints is not yes"
    if seen.tags.get(SLEEP_TAG) != "allowed":
        return f"Ebb did not make it, and it has no tag {SLEEP_TAG}=allowed"
    if not seen.wakes_by_itself:
        if seen.kind == "async":
            lost = "what is queued while it sleeps would wait for ever"
            return f"no alarm on HasBacklogWithoutCapacity scales it out: {lost}"
        return "no alarm on NoCapacityInvocationFailures scales it out: its callers would get errors for ever"
    return None


def not_restorable(seen: Facts) -> str | None:
    """Return why an endpoint must not be deleted, even to be put back; None when it may be."""
    owner = owner_of(seen.tags) or (f"the CloudFormation stack {seen.stack}" if seen.stack else None)
    if owner:
        return f"it belongs to {owner}, which would miss it"
    if own := next((key for key in seen.tags if key.startswith("aws:")), None):
        return f"the tag {own} can be set by AWS only, so that it could not be put back"
    if seen.shadows:
        return "it has shadow variants, which belong to a test under way"
    if seen.models_gone:
        return f"its model {seen.models_gone[0]} is deleted: it could not be made again"
    if seen.capture_changed:
        return "its data capture is not as its configuration says, and would start otherwise"
    if seen.key:  # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpoint.html
        return f"its storage is encrypted with {seen.key}, for which only its owner can let a new endpoint have a grant"
    scarce = [each for each in seen.instance_types if scarcity.is_scarce(each)]
    if scarce and seen.tags.get(RESTORE_TAG) != "accepted":
        return (
            f"{scarce[0]} is scarce: it may not be there when it wakes (the tag {RESTORE_TAG}=accepted takes the risk)"
        )
    return None


def owner_of(tags: Mapping[str, str]) -> str | None:
    """Return the tool that marks a resource as its own, None when none does."""
    for key, value in tags.items():
        for prefix, owner in OWNERS.items():
            if key.startswith(prefix):
                return owner
        said = value.lower()
        if key.lower() in OWNER_KEYS and said not in NO and (said in {"", "true"} or said.startswith(OWNER_VALUES)):
            return f"{key}={value}"
    return None


def decide(
    seen: EndpointSnapshot, policy: IdlePolicy, window: Window, *, now: datetime, foreign_allowed: bool = False
) -> Decision:
    """Return what to do with an endpoint, and the reason in words."""
    if kept := protected(seen, policy, foreign_allowed=foreign_allowed):
        return kept
    numbers = _numbers(seen, window, now)
    if seen.status in CHANGING:
        return _wait(now + timedelta(minutes=1), f"it is {seen.status}", now, numbers)
    if seen.status != AT_REST:
        return Decision(action=Action.KEEP, reason=f"it is {seen.status}: not judged", numbers=numbers)
    known_until = now - PUBLISHING_LAG
    asked = f"{_told(window.idle_after)} ({window.reason})"
    if seen.in_service_since is None:
        return Decision(action=Action.KEEP, reason="since when it is in service is not known", numbers=numbers)
    if seen.in_service_since > known_until - window.idle_after:
        reason = f"in service for {_told(now - seen.in_service_since)}, less than {asked}"
        return _wait(seen.in_service_since + window.idle_after + PUBLISHING_LAG, reason, now, numbers)
    if seen.seen_from > known_until - window.idle_after:
        return Decision(action=Action.KEEP, reason=f"seen for less than {asked}", numbers=numbers)
    last = _last_call(seen)
    if last is not None and last > known_until - window.idle_after:
        reason = f"called {_told(now - last)} ago, less than {asked}"
        return _wait(last + window.idle_after + PUBLISHING_LAG, reason, now, numbers)
    return _by_heartbeat(seen, window, known_until, asked, now, numbers)


def _by_heartbeat(
    seen: EndpointSnapshot, window: Window, known_until: datetime, asked: str, now: datetime, numbers: dict[str, Any]
) -> Decision:
    """Nobody was seen to call. That is no traffic only where metrics arrive."""
    expected = int(window.idle_after / timedelta(minutes=1))
    heard = {_minute(each) for each in seen.heartbeats if known_until - window.idle_after <= each <= known_until}
    numbers = numbers | {"heartbeats": len(heard), "heartbeats_expected": expected}
    if not heard:
        reason = f"no heartbeat within {asked}: silence alone proves nothing"
        return Decision(action=Action.KEEP, reason=reason, numbers=numbers)
    if max(heard) < known_until - PUBLISHING_LAG:
        reason = f"the last heartbeat is {_told(now - max(heard))} old: metrics are late"
        return _wait(now + PUBLISHING_LAG, reason, now, numbers)
    if len(heard) < HEARTBEAT_SHARE * expected:
        reason = f"{len(heard)} heartbeats of {expected} within {asked}: metrics have gaps"
        return Decision(action=Action.KEEP, reason=reason, numbers=numbers)
    return Decision(action=Action.SLEEP, reason=f"no call within {asked}", numbers=numbers)


def _last_call(seen: EndpointSnapshot) -> datetime | None:
    # a datapoint is named after the beginning of its minute
    ends = [each + timedelta(minutes=1) for each in seen.calls]
    return max([*ends, *([seen.last_request_at] if seen.last_request_at else [])], default=None)


def _wait(until: datetime, reason: str, now: datetime, numbers: dict[str, Any]) -> Decision:
    if until - now > LONGEST_WAIT:
        return Decision(action=Action.KEEP, reason=reason, numbers=numbers)
    return Decision(action=Action.WAIT, reason=reason, until=until, numbers=numbers)


def _numbers(seen: EndpointSnapshot, window: Window, now: datetime) -> dict[str, Any]:
    last = _last_call(seen)
    found = {
        "idle_after_s": window.idle_after.total_seconds(),
        "in_service_s": (now - seen.in_service_since).total_seconds() if seen.in_service_since else None,
        "last_call_s": (now - last).total_seconds() if last else None,
        "minutes_with_calls": len(seen.calls),
    }
    return {key: value for key, value in found.items() if value is not None} | window.numbers


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _told(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds} s"


def every_variant(beats: Sequence[Sequence[datetime]]) -> tuple[datetime, ...]:
    """Return the minutes in which all of several series have a datapoint."""
    if not beats:
        return ()
    common = set.intersection(*({_minute(each) for each in series} for series in beats))
    return tuple(sorted(common))
