"""The sweep: what the whole account shows, judged in one go. Pure: observations and now in, starts and findings out.

Most endpoints need no read of their own: CloudWatch lists which metrics have had a data point in the last three hours,
hundreds of endpoints per call. Only one that has a heartbeat and no call there is a candidate, and only candidates are
read precisely, by `decide_scaling`, which decides; the sweep itself puts nothing to sleep. What could not be read is no
candidate: it is reported, and read again at the next sweep.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ebb import addresses, idle, reaping
from ebb.addresses import Address, IdlePolicy
from ebb.ledger import iso
from ebb.reaping import HOURS_PER_MONTH, KEEP_TAG, STACK_TAG, Policy, Resource, told
from ebb.requests import alarms
from ebb.scaling_wake import PREWAKE
from ebb.serving_hours import Due

Machine = Literal["scale_to_zero", "wake_endpoint", "reap_resources", "deploy_model"]
Action = Literal["keep", "sleep", "stop", "wake", "repair", "move", "protected", "unread"]

# ListMetrics knows one window only, and adds up to 50 minutes to it: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_ListMetrics.html
RECENT = timedelta(hours=3)
SURELY_RECENT = RECENT + timedelta(minutes=50)
# The alarm's own way (event, rule, function) takes seconds; a wake or a sleep minutes. What takes longer was lost.
EVENT_LOST_AFTER = timedelta(minutes=5)
WORK_LOST_AFTER = timedelta(minutes=10)
ASKED_LONG_AGO = timedelta(minutes=1)
# Who is to be woken within this time is seen to by this sweep: the next one comes a quarter of an hour later, or with
# the flexible window of its schedule 20 minutes, and takes a while itself. The execution waits for the moment.
SEEN_TO_AHEAD = timedelta(minutes=25)
# Every fourth sweep, however late the flexible window makes one of them. Ebb's own endpoints have alarms: where there
# are no others the lists only find what an alarm's lost event has left, and every eighth sweep does.
LISTED_EVERY, LISTED_EVERY_OWN = timedelta(minutes=55), timedelta(minutes=115)
# A candidate that was refused is asked about again later and later: an execution costs more than a month of sweeps.
FIRST_PAUSE = timedelta(hours=1)
FIRST_RETRY = timedelta(minutes=10)  # of what should be awake: at the next sweep
LONGEST_PAUSE = timedelta(hours=24)
# Per sweep; the others follow with the next one. Those that save most come first.
MOST_STARTS = 400
# Descriptions and tags are read one by one: so many candidates per sweep, the others at the next one.
MOST_LOOKS = 300
MOVED_BY = 1.5  # times as many or as few calls a day: enough for another kind to be worth a look
ALARMS_UNREAD = "its alarms could not be read: whether one stands in ALARM is not known"
NOT_MANAGED = "Ebb did not make it, and the stack's parameter ManageForeignEndpoints is not yes"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listed(_Frozen):
    """An endpoint as ListEndpoints shows it."""

    name: str
    arn: str
    status: str
    created_at: datetime
    modified_at: datetime


class Described(_Frozen):
    """What is known of one foreign candidate after a closer look; its tags None when they could not be read."""

    name: str
    kind: addresses.Kind
    variant: str = "AllTraffic"
    component: str | None = None
    components: int = 0
    model_name: str | None = None
    instance_type: str | None = None
    instances: int = 1
    tags: dict[str, str] | None = None


class Unread(_Frozen):
    """Something that could not be read. It is never taken for silence."""

    what: str
    error: str


class Seen(_Frozen):
    """What one sweep has seen of the account. A part that is None could not be read.

    Without `listed` it was not yet time to list metrics and alarms again: what the last sweep found of the endpoints
    that are awake still stands.
    """

    listed: bool = True
    endpoints: tuple[Listed, ...] | None = None
    called: frozenset[str] | None = None  # endpoints and components with a call in the last three hours
    beating: frozenset[str] | None = None  # those with a heartbeat
    known: tuple[Address, ...] | None = None  # the ledger's addresses
    ringing: dict[str, datetime] | None = None  # alarms of the stack in ALARM, since when; empty when not asked for
    running: frozenset[str] | None = None  # names of executions that put to sleep or wake
    resources: tuple[Resource, ...] = ()
    described: tuple[Described, ...] = ()
    unread: tuple[Unread, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether metrics and alarms were listed, to their ends: what could not be read is asked for again soon."""
        return self.listed and None not in (self.called, self.beating, self.ringing)


class Finding(_Frozen):
    """What the sweep found about one resource, and why. `next_look` keeps it from being asked about too often."""

    kind: str
    name: str
    action: Action
    reason: str
    usd_per_hour: float | None = None
    idle_since: datetime | None = None
    owner: Literal["ebb", "foreign"] = "foreign"
    tries: int = 0
    next_look: datetime | None = None

    @property
    def key(self) -> str:
        """Return what names the resource among all kinds."""
        return f"{self.kind}/{self.name}"

    @property
    def usd_per_month(self) -> float | None:
        """Return what a month of it costs while nobody uses it."""
        return None if self.usd_per_hour is None else self.usd_per_hour * HOURS_PER_MONTH


class Start(_Frozen):
    """An execution that is to be started; its name makes a repeat harmless."""

    machine: Machine
    name: str = Field(max_length=80)
    input: dict[str, Any]


class Sweep(_Frozen):
    """What one sweep concludes."""

    swept_at: datetime
    starts: tuple[Start, ...]
    findings: tuple[Finding, ...]
    unread: tuple[Unread, ...]
    put: tuple[Address, ...]  # foreign endpoints that the ledger is to know before they can sleep
    counts: dict[str, int]
    deferred: int  # candidates that this sweep leaves to the next one
    foreign: bool = True  # whether there are endpoints that Ebb did not make; also when that is not known


class Daily(_Frozen):
    """When the kinds of models were last looked at, and how many calls a day each address had then."""

    at: datetime
    calls: dict[str, float] = Field(default_factory=dict)


class Report(_Frozen):
    """What the last sweep found and did: kept in the artifact bucket, it is the memory of the next one."""

    swept_at: datetime | None = None
    listed_at: datetime | None = None  # when metrics and alarms were listed last
    findings: tuple[Finding, ...] = ()
    started: tuple[Start, ...] = ()
    unread: tuple[Unread, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    deferred: int = 0
    foreign: bool = True
    daily: Daily | None = None
    hours: Due | None = None  # of endpoints, that are still to be booked

    @property
    def memory(self) -> dict[str, Finding]:
        """Return the findings by what names their resource."""
        return {each.key: each for each in self.findings}


class Looks(_Frozen):
    """What has to be read one by one before the sweep can judge."""

    endpoints: tuple[Listed, ...]
    resources: tuple[Resource, ...]
    deferred: int


Memory = Mapping[str, Finding]


def execution(moment: datetime) -> str:
    """Return the name of the execution that sweeps at a moment: one a minute."""
    return f"sweep-{moment.astimezone(UTC):%Y%m%d%H%M}"


def is_daily(before: Report, now: datetime) -> bool:
    """Return whether a new day (UTC) has begun since the kinds of models were last looked at."""
    return before.daily is None or before.daily.at.astimezone(UTC).date() < now.astimezone(UTC).date()


def lists(before: Report, now: datetime, *, asked: bool) -> bool:
    """Return whether metrics and alarms are listed in this sweep: once an hour, and when a person asks.

    Once in two hours where all endpoints are Ebb's own; who comes to that account with another one is seen by the next
    sweep, since the list of endpoints is read by each of them.
    These lists are what a sweep is billed for, and their window is three hours long. What the ledger knows (who waits,
    what hangs) is judged in every sweep. Candidates that are left over are taken up in the next one.
    """
    every = LISTED_EVERY if before.foreign else LISTED_EVERY_OWN
    return asked or before.listed_at is None or before.deferred > 0 or now - before.listed_at >= every


def looks(seen: Seen, memory: Memory, policy: Policy, *, now: datetime, most: int = MOST_LOOKS) -> Looks:
    """Return which foreign endpoints and resources need a closer look: the idle ones, and none of them too often.

    While foreign endpoints are not to be managed none of them needs one: whatever their tags say, they stay.
    """
    account = _Account(seen, memory, policy, now)
    endpoints = [
        each for each in account.foreign if account.is_candidate(each) and account.is_due("endpoint", each.name)
    ]
    endpoints = sorted(endpoints, key=lambda each: each.modified_at) if policy.foreign else []
    resources = [each for each in seen.resources if reaping.needs_tags(each, policy, now=now)]
    room = max(most - len(resources), 0)
    deferred = max(len(endpoints) - room, 0) + max(len(resources) - most, 0)
    return Looks(endpoints=tuple(endpoints[:room]), resources=tuple(resources[:most]), deferred=deferred)


def judge(seen: Seen, memory: Memory, policy: Policy, *, now: datetime, deferred: int = 0) -> Sweep:
    """Return what is to be started, and what was found about everything that is not simply in use."""
    account = _Account(seen, memory, policy, now)
    found = [account.address(each) for each in seen.known or ()]
    found += [account.foreigner(each) for each in account.foreign]
    found += [account.resource(each) for each in seen.resources]
    kept = [each for each in found if each]
    starting = sorted((each for each in kept if each.start), key=lambda each: -each.worth)
    taken, left = starting[:MOST_STARTS], starting[MOST_STARTS:]
    counts = {
        "endpoints": len(seen.endpoints or ()),
        "addresses": len(seen.known or ()),
        "resources": len(seen.resources),
    }
    for each in kept:
        counts[each.finding.action] = counts.get(each.finding.action, 0) + 1
    if account.blind:
        counts["not judged"] = account.blind
    return Sweep(
        swept_at=now,
        starts=tuple(each.start for each in taken if each.start),
        findings=tuple(each.finding for each in kept),
        unread=seen.unread,
        put=tuple(each.put for each in taken if each.put),
        counts=counts,
        deferred=deferred + len(left),
        foreign=bool(account.foreign) or seen.endpoints is None or seen.known is None,
    )


def moves(
    models: Iterable[Address], calls: Mapping[str, float], before: Daily | None, *, now: datetime
) -> tuple[list[Start], Daily]:
    """Return the deployments that look again at the kind of models whose traffic has changed, and what is remembered.

    `models` are the addresses of kind `auto`, `calls` how often each was called a day. Who decides is
    `plan_deployment`, with hysteresis of its own. An address whose calls could not be read is left for tomorrow.
    """
    known = dict(before.calls) if before else {}
    starts = []
    for at in models:
        if at.address not in calls or at.project is None or at.state not in (addresses.AWAKE, addresses.ASLEEP):
            continue
        had, has = known.get(at.address), calls[at.address]
        known[at.address] = has if had is None else had
        if had is None or _ratio(has, had) < MOVED_BY:
            continue  # its kind was chosen for what is known now
        known[at.address] = has
        reason = f"{has:,.0f} calls a day; {had:,.0f} when its kind was last looked at"
        given = {"project": at.project, "kind": "auto", "reason": reason}
        starts.append(Start(machine="deploy_model", name=f"auto-{at.project}-{now:%y%m%d}", input=given))
    return starts, Daily(at=now, calls=known)


def _ratio(one: float, other: float) -> float:
    """Return by what factor two counts differ; a few calls more or less a day are chance."""
    low, high = sorted((max(one, 0.0) + 10, max(other, 0.0) + 10))
    return high / low


@dataclass(frozen=True)
class _Judged:
    """A finding, what it starts, and what the ledger has to know before."""

    finding: Finding
    start: Start | None = None
    put: Address | None = None

    @property
    def worth(self) -> float:
        """In which order executions are started: who waits comes first, then what saves most."""
        waits = self.finding.action in ("wake", "repair")
        return float("inf") if waits else self.finding.usd_per_hour or 0.0


class _Account:
    """What was seen, found by name; each method judges one thing."""

    def __init__(self, seen: Seen, memory: Memory, policy: Policy, now: datetime):
        self.seen, self.memory, self.policy, self.now = seen, memory, policy, now
        self.listed = {each.name: each for each in seen.endpoints or ()}
        self.described = {each.name: each for each in seen.described}
        ours = {at.endpoint_name for at in seen.known or ()}
        # while the ledger could not be read, any endpoint may be ours
        self.foreign = [] if seen.known is None else [each for each in seen.endpoints or () if each.name not in ours]

    @property
    def blind(self) -> int:
        """How many endpoints nobody could judge: may be ours while the ledger is unread, may be called or not."""
        if self.seen.known is None:
            return len(self.seen.endpoints or ())
        unknown = self.seen.listed and (self.seen.called is None or self.seen.beating is None)
        return len(self.foreign) if unknown else 0

    def address(self, at: Address) -> _Judged | None:
        """Judge an address of the ledger: is it idle, and does its state agree with what is there?"""
        if at.kind not in addresses.SLEEPABLE:
            return None  # nothing of it runs while nobody calls
        listed = self.listed.get(at.endpoint_name or "")
        before = self.memory.get(f"endpoint/{at.address}")
        if not self.seen.listed and at.state == addresses.AWAKE:
            return _Judged(before) if before else None
        match at.state:
            case addresses.AWAKE:
                verdict = self._awake(at, listed)
            case addresses.ASLEEP | addresses.FAILED:
                verdict = self._asleep(at, listed)
            case _:
                verdict = self._changing(at)
        if verdict is None:
            return None
        action, reason = verdict
        if at.origin == "foreign" and action == "sleep" and not self.policy.foreign:
            action, reason = "protected", f"{reason}; {NOT_MANAGED}"
        since = at.last_request_at or at.in_service_since or (listed.modified_at if listed else None)
        found = Finding(
            kind="endpoint",
            name=at.address,
            action=action,
            reason=reason,
            usd_per_hour=at.awake_usd_per_hour,
            idle_since=since,
            owner=at.origin,
        )
        return self._asked(found, lambda: self._start(at, action, reason))

    def foreigner(self, listed: Listed) -> _Judged | None:
        """Judge an endpoint that Ebb did not make: protected, unless parameter and tag allow it to sleep."""
        close = self.described.get(listed.name)
        before = self.memory.get(f"endpoint/{listed.name}")
        if not self.seen.listed:
            return _Judged(before) if before else None
        if not self.is_candidate(listed) or (close and close.kind in ("serverless", "batch")):
            return None
        if self.policy.foreign and close is None and before:
            return _Judged(before)  # looked at a short while ago
        why = "no call in the last 3 hours"
        action, remark = self._allowed(close)
        found = Finding(
            kind="endpoint",
            name=listed.name,
            action=action,
            reason=f"{why}; {remark}" if remark else why,
            usd_per_hour=reaping.instances_usd_per_hour(close.instance_type, close.instances) if close else None,
            idle_since=listed.modified_at,
        )
        if action != "sleep" or close is None:
            return _Judged(self._paused(found) if close else found)
        known = _foreign_address(listed, close, found.usd_per_hour)
        judged = self._asked(found, lambda: self._start(known, "sleep", why))
        return _Judged(judged.finding, judged.start, known if judged.start else None)

    def resource(self, seen: Resource) -> _Judged | None:
        """Judge a notebook, app, space, warm pool or training job."""
        if reaping.idle(seen, self.policy, now=self.now) is None:
            return None
        verdict = reaping.decide(seen, self.policy, now=self.now)
        found = Finding(
            kind=seen.kind,
            name=seen.name,
            action=verdict.action if seen.tags is not None else "unread",
            reason=verdict.reason,
            usd_per_hour=verdict.usd_per_hour,
            idle_since=verdict.idle_since,
            owner="ebb" if reaping.is_ours(seen, self.policy) else "foreign",
        )
        given = {"kind": seen.kind, "name": seen.name, "keys": seen.keys, "reason": verdict.reason}
        name = reaping.execution(seen.kind, seen.name, self.now)
        return self._asked(found, lambda: Start(machine="reap_resources", name=name, input=given))

    def is_candidate(self, listed: Listed) -> bool:
        """Return whether an endpoint has been in service for long, has a heartbeat and was not called."""
        if listed.status != "InService" or self.now - listed.modified_at < RECENT:
            return False
        return self._is_quiet(listed.name) and listed.name in (self.seen.beating or ())

    def is_due(self, kind: str, name: str, action: str | None = None) -> bool:
        """Return whether it is time to ask about something again."""
        before = self.memory.get(f"{kind}/{name}")
        if before is None or before.next_look is None or (action is not None and before.action != action):
            return True
        return self.now >= before.next_look

    def _awake(self, at: Address, listed: Listed | None) -> tuple[Action, str] | None:
        if not at.policy.sleeps:
            return None
        called, beating, name = self.seen.called, self.seen.beating, at.component or at.endpoint_name
        if called is None or beating is None or self.seen.endpoints is None:
            return "unread", "its metrics or the list of endpoints could not be read: not judged"
        if listed is None:
            return "keep", f"the ledger calls it awake, and there is no endpoint {at.endpoint_name}: deleted by hand?"
        if listed.status != "InService":
            return None
        rang = self._rang(at, alarms.IDLE)
        if rang and self.now - rang >= EVENT_LOST_AFTER:
            return "sleep", f"its idle alarm has stood in ALARM for {told(self.now - rang)}, and it is still awake"
        moments = (at.in_service_since, at.last_request_at, at.changed_at, listed.modified_at)
        if name in called or any(each is not None and self.now - each < RECENT for each in moments):
            # used within three hours; its own window may be shorter, of which only its alarm tells
            return ("unread", ALARMS_UNREAD) if self._alarms_unread(at) else None
        if not {name, at.endpoint_name} & beating:
            return "keep", "no metric of any kind in the last 3 hours: not judged"
        return "sleep", "no call in the last 3 hours"

    def _asleep(self, at: Address, listed: Listed | None) -> tuple[Action, str] | None:
        quiet_for = self.now - at.changed_at if at.changed_at else timedelta.max
        may_wake = at.state == addresses.ASLEEP or quiet_for >= WORK_LOST_AFTER
        if at.wanted_at and may_wake and self.now - at.wanted_at >= ASKED_LONG_AGO:
            return "wake", f"a request has waited for it for {told(self.now - at.wanted_at)}"
        rang = self._rang(at, alarms.WAKE)
        if rang and may_wake and self.now - rang >= ASKED_LONG_AGO:
            return "wake", f"its wake alarm has stood in ALARM for {told(self.now - rang)}"
        if self._is_due_ahead(at):
            return "wake", f"it is to be woken at {at.prewake_at:%H:%M} UTC, {PREWAKE}"
        # one that could not be woken may have come up after all
        if quiet_for >= SURELY_RECENT and listed and listed.status == "InService":
            if at.kind == "classic":
                return "repair", f"the ledger calls it {at.state}, and its endpoint is in service"
            if self.seen.beating is not None and (at.component or at.endpoint_name) in self.seen.beating:
                return "repair", f"the ledger calls it {at.state}, and it publishes metrics of running instances"
        if quiet_for >= SURELY_RECENT and (self.seen.endpoints is None or self.seen.beating is None):
            return "unread", "its metrics or the list of endpoints could not be read: it may run, and be billed"
        return ("unread", ALARMS_UNREAD) if self._alarms_unread(at) else None

    def _rang(self, at: Address, what: str) -> datetime | None:
        """Return since when an alarm of Ebb's own is in ALARM; None: it is not, or nobody knows (`_alarms_unread`)."""
        return (self.seen.ringing or {}).get(alarms.alarm_name(at.address, what))

    def _alarms_unread(self, at: Address) -> bool:
        """Return whether it is not known if an alarm of this address stands in ALARM: unknown is not "none"."""
        return self.seen.ringing is None and at.origin == "ebb"

    def _is_due_ahead(self, at: Address) -> bool:
        due = at.prewake_at is not None and at.prewake_at - self.now <= SEEN_TO_AHEAD
        return due and at.state == addresses.ASLEEP and at.wanted_at is None

    def _changing(self, at: Address) -> tuple[Action, str] | None:
        """A change of state that nobody works on any more: its execution was stopped, timed out or lost."""
        if at.changed_at is None or self.now - at.changed_at < WORK_LOST_AFTER:
            return None
        if self.seen.running is None:
            return "unread", "the running executions could not be read: not judged"
        if at.worked_by in self.seen.running:  # another one that runs for it does not work on it
            return None
        return "repair", f"{at.state} for {told(self.now - at.changed_at)}, and no execution works on it"

    def _start(self, at: Address, action: Action, reason: str) -> Start:
        given: dict[str, Any] = {"address": at.address, "generation": at.generation}
        if action == "sleep" or at.state == addresses.FALLING_ASLEEP:
            name = addresses.sleep_execution(at.address, at.generation, self.now)
            return Start(machine="scale_to_zero", name=name, input={**given, "reason": reason, "now": iso(self.now)})
        name = addresses.wake_execution(at.address, at.generation)
        if action == "wake" and self._is_due_ahead(at):
            name, given = addresses.prewake_execution(at.address, at.generation), given | {"reason": PREWAKE}
        return Start(machine="wake_endpoint", name=name, input=given)

    def _allowed(self, close: Described | None) -> tuple[Action, str]:
        """Return what may become of an idle foreign endpoint, and why."""
        if not self.policy.foreign:
            return "protected", NOT_MANAGED
        if close is None:
            return "keep", "it is looked at with one of the next sweeps"
        if close.tags is None:
            return "unread", "its tags or its configuration could not be read: not judged"
        if close.tags.get(STACK_TAG) == self.policy.stack:
            return "keep", "it has this stack's tag, and the ledger knows no address for it: not judged"
        facts = idle.Facts(
            name=close.name,
            kind=close.kind,
            status=idle.AT_REST,
            origin="foreign",
            tags=close.tags,
            instance_types=(close.instance_type,) if close.instance_type else (),
        )
        if refused := idle.protected(facts, IdlePolicy(), foreign_allowed=True):
            kept = close.tags.get(KEEP_TAG, "no").lower() not in idle.NO
            return "keep" if kept else "protected", refused.reason
        if close.components > 1:
            return "protected", f"it holds {close.components} inference components with callers of their own"
        return "sleep", ""

    def _is_quiet(self, name: str) -> bool:
        return self.seen.called is not None and name not in self.seen.called

    def _asked(self, found: Finding, start: Callable[[], Start]) -> _Judged:
        """Return a finding with its execution, unless the same was asked a short while ago and refused."""
        if found.action not in ("sleep", "stop", "wake", "repair"):
            return _Judged(found)
        if not self.is_due(found.kind, found.name, found.action):
            before = self.memory[found.key]
            return _Judged(found.model_copy(update={"tries": before.tries, "next_look": before.next_look}))
        return _Judged(self._paused(found), start())

    def _paused(self, found: Finding) -> Finding:
        """Return a finding that is looked at again after twice as long as the time before."""
        before = self.memory.get(found.key)
        tries = before.tries + 1 if before and before.action == found.action else 1
        first = FIRST_RETRY if found.action in ("wake", "repair") else FIRST_PAUSE
        pause = min(first * 2 ** min(tries - 1, 10), LONGEST_PAUSE)
        return found.model_copy(update={"tries": tries, "next_look": self.now + pause})


def _foreign_address(listed: Listed, close: Described, usd_per_hour: float | None) -> Address:
    """Return what the ledger holds of a foreign endpoint: its address is its own name."""
    return Address(
        address=listed.name,
        origin="foreign",
        kind=close.kind,
        endpoint_name=listed.name,
        variant=close.variant,
        component=close.component,
        model_name=close.model_name,
        instance_type=close.instance_type,
        copies=close.instances,
        in_service_since=listed.modified_at,
        awake_usd_per_hour=usd_per_hour,
    )
