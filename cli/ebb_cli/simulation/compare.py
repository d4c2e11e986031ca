"""The comparison: each policy on each endpoint of a fleet, added up, beside always-on and the clairvoyant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np

from ebb import catalog, control_plane, footprint, keep_alive_costs
from ebb.carbon import Band
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.simulation import clairvoyant, informed
from ebb_cli.simulation.policies import LOOK_MIN, Fixed, HybridHistogram, Learned
from ebb_cli.simulation.replay import Machine, Outcome, Policy, replay
from ebb_cli.simulation.traffic import DAY, Endpoint, Fleet

REGION = "us-east-1"
LOAD = Band.exact(0.10)  # mean load of a processor of an endpoint that is awake; assumed
MINUTES_PER_HOUR = 60
RULE = Fixed().name
ALARMS = 2  # of each endpoint at any time

ALWAYS, EBB, NEVER_LATE, AS_LATE = "always on", "Ebb", "clairvoyant, never late", "clairvoyant, as late as Ebb"
# What is worked out beside the policies, so that they can be compared like with like.
RULE_AS_LATE, POOLED, INFORMED = "15-minute rule, as late as Ebb", "Ebb, SLAs left out", "informed online"
POLICIES: tuple[Callable[[], Policy], ...] = (Fixed, HybridHistogram, Learned)


@dataclass
class Totals:
    """One row of the result: what a fleet took under one policy."""

    policy: str
    instance_hours: float = 0.0
    gpu_hours: float = 0.0  # of these, on machines with a GPU
    usd: float = 0.0
    forbidding_usd: float = 0.0  # of these, on endpoints that forbid cold starts
    bound_usd: float = 0.0  # of the clairvoyant with as many cold starts on each endpoint
    kwh: float = 0.0
    carbon_g: float = 0.0
    control_usd: float = 0.0  # of Ebb itself, for its alarms, its looks, its sleeps and wakes
    forbidding_control_usd: float = 0.0  # of these, for endpoints that forbid cold starts
    wakes: int = 0
    prewakes: int = 0
    cold_starts: int = 0
    late_requests: int = 0
    forbidden_cold_starts: int = 0
    forbidden_late_requests: int = 0
    forbidden_worst_share: float = 0.0  # of one endpoint's requests
    wrong: int = 0
    lost: int = 0
    longest_wait_min: int = 0

    def add(
        self, endpoint: Endpoint, machine: Machine, outcome: Outcome, *, control: float = 0.0, bound_min: float = 0.0
    ) -> None:
        """Add what came of one endpoint, what Ebb cost for it, and what the clairvoyant would have been billed."""
        self.bound_usd += bound_min / MINUTES_PER_HOUR * machine.usd_per_hour
        self.control_usd += control
        self.forbidding_control_usd += control * (endpoint.cold_start == "avoid")
        hours = outcome.awake_min / MINUTES_PER_HOUR
        self.instance_hours += hours
        self.gpu_hours += hours * machine.gpu
        self.usd += hours * machine.usd_per_hour
        self.kwh += hours * machine.kwh_per_hour
        self.carbon_g += hours * machine.g_per_hour
        self.wakes += outcome.wakes
        self.prewakes += outcome.prewakes
        self.cold_starts += outcome.cold_starts
        self.late_requests += outcome.late_requests
        self.wrong += outcome.wrong
        self.lost += outcome.lost
        self.longest_wait_min = max(self.longest_wait_min, outcome.longest_wait_min)
        if endpoint.cold_start == "avoid":
            self.forbidding_usd += hours * machine.usd_per_hour
            self.forbidden_cold_starts += outcome.cold_starts
            self.forbidden_late_requests += outcome.late_requests
            share = outcome.late_requests / endpoint.requests if endpoint.requests else 0.0
            self.forbidden_worst_share = max(self.forbidden_worst_share, share)

    def join(self, other: Totals) -> None:
        """Add the totals of other endpoints."""
        for name, value in asdict(other).items():
            if name in {"forbidden_worst_share", "longest_wait_min"}:
                setattr(self, name, max(getattr(self, name), value))
            elif name != "policy":
                setattr(self, name, getattr(self, name) + value)


@dataclass
class Comparison:
    """The rows, in the order of the table, and what they were made from."""

    fleet: str
    days: float
    endpoints: int
    requests: int
    forbidden_endpoints: int
    forbidden_requests: int
    rows: dict[str, Totals]
    calls: dict[str, int] = field(default_factory=dict)  # of the real decision code
    habits: dict[str, int] = field(default_factory=dict)

    def saving(self, name: str) -> float:
        """Return the USD that a policy saves against always-on, its own control plane subtracted."""
        row = self.rows[name]
        return self.rows[ALWAYS].usd - row.usd - row.control_usd

    def saved_share(self, name: str) -> float:
        """Return that saving as a share of what always-on costs."""
        return self.saving(name) / self.rows[ALWAYS].usd if self.rows[ALWAYS].usd else 0.0

    def of_clairvoyant(self, name: str, clairvoyant_name: str = AS_LATE) -> float | None:
        """Return a policy's saving as a share of the clairvoyant's; None where there is nothing to save."""
        best = self.saving(clairvoyant_name)
        if name == POOLED and clairvoyant_name == AS_LATE:  # it is later than Ebb, and so may its clairvoyant be
            best = self.rows[ALWAYS].usd - self.rows[POOLED].bound_usd
        return self.saving(name) / best if best > 0 else None

    def of_clairvoyant_where(self, *, forbidden: bool, name: str = EBB) -> float | None:
        """Return the same for the endpoints alone that forbid cold starts, or that allow them."""

        def saved(row: Totals) -> float:
            always = self.rows[ALWAYS]
            there = always.forbidding_usd - row.forbidding_usd - row.forbidding_control_usd
            return there if forbidden else always.usd - row.usd - row.control_usd - there

        best = saved(self.rows[AS_LATE])
        return saved(self.rows[name]) / best if best > 0 else None

    def forbidden_share(self, name: str) -> float | None:
        """Return the share of the requests to endpoints that forbid cold starts which met one, of all of them pooled.

        None where there were none.
        """
        return self.rows[name].forbidden_late_requests / self.forbidden_requests if self.forbidden_requests else None

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as one JSON document."""
        return {
            "fleet": self.fleet,
            "days": self.days,
            "endpoints": self.endpoints,
            "requests": self.requests,
            "forbidden_endpoints": self.forbidden_endpoints,
            "forbidden_requests": self.forbidden_requests,
            "rows": [asdict(row) | {"saved_share": self.saved_share(name)} for name, row in self.rows.items()],
            "share_of_clairvoyant": {
                name: {"as_late": self.of_clairvoyant(name), "never_late": self.of_clairvoyant(name, NEVER_LATE)}
                for name in self.rows
                if name not in {ALWAYS, NEVER_LATE, AS_LATE}
            },
            "share_of_clairvoyant_where_cold_starts_are": {
                "allowed": self.of_clairvoyant_where(forbidden=False),
                "forbidden": self.of_clairvoyant_where(forbidden=True),
            },
            "share_of_clairvoyant_of_informed_where_cold_starts_are": {
                "allowed": self.of_clairvoyant_where(forbidden=False, name=INFORMED),
                "forbidden": self.of_clairvoyant_where(forbidden=True, name=INFORMED),
            }
            if INFORMED in self.rows
            else None,
            "forbidden_late_share": {name: self.forbidden_share(name) for name in self.rows},
            "decision_calls": self.calls,
            "habits": self.habits,
        }


def _nearest(name: str) -> str:
    known = [each.name for each in catalog.hosting()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"It holds {len(known)} types" + (f", among them {', '.join(near)}." if near else ", such as ml.m5.large.")


@cache
def machine_of(name: str) -> Machine:
    """Return what an instance type takes, from the catalog; raises CommandError for one that it does not hold."""
    hour = footprint.of_job(name, duration_s=3600, billable_s=3600, load=LOAD, region=REGION)
    instance = catalog.instance(name)
    if hour is None or instance is None:
        raise CommandError(f"instance type {name} is not in the catalog", _nearest(name), status=USAGE)
    waking = catalog.waking()
    gpu = instance.accelerator is not None
    # an image for GPUs holds PyTorch
    wake_s = waking.instance_s.value + (waking.large_image_s.value if gpu else 0.0)
    return Machine(
        wake_min=-int(-wake_s // 60),
        usd_per_hour=hour.cost_usd.value,
        kwh_per_hour=hour.energy_kwh.value,
        g_per_hour=hour.carbon_g.value,
        gpu=gpu,
    )


def control_usd(endpoint: Endpoint, machine: Machine, outcome: Outcome, *, months: float) -> float:
    """Return what Ebb itself cost for an endpoint: its alarms, a look at each silence as long as theirs, each sleep.

    A silence that it sleeps through is counted as both, which is a little more than it takes.
    """
    looks = int((np.diff(endpoint.minutes) - 1 >= LOOK_MIN).sum()) + outcome.prewakes
    alarms = ALARMS * months * control_plane.price("cloudwatch_alarm").usd
    return alarms + looks * _look_usd() + outcome.wakes * _cycle_usd(machine.wake_min)


@cache
def _look_usd() -> float:
    return control_plane.total_usd(control_plane.look())


@cache
def _cycle_usd(wake_min: int) -> float:
    return control_plane.total_usd(control_plane.cycle(wake_min * 60))


def compare(fleet: Fleet, *, processes: int | None = None) -> Comparison:
    """Replay a fleet under every policy and add it up."""
    for endpoint in fleet.endpoints:
        machine_of(endpoint.machine)  # a type that is not known is told before the work
    workers = min(processes or os.cpu_count() or 1, len(fleet.endpoints))
    # the heavy ones lie together: dealt out one by one
    shares = [fleet.endpoints[number :: workers * 4] for number in range(workers * 4)]
    tasks = [(share, fleet.start, fleet.end) for share in shares if share]
    if workers == 1:
        parts: Iterable[_Part] = map(_of_share, tasks)
        return _joined(fleet, parts)
    with ProcessPoolExecutor(workers) as pool:
        return _joined(fleet, pool.map(_of_share, tasks))


@dataclass
class _Part:
    rows: dict[str, Totals]
    calls: dict[str, int]
    habits: dict[str, int]


def _of_share(task: tuple[Sequence[Endpoint], int, int]) -> _Part:
    endpoints, start, end = task
    policies = [make() for make in POLICIES]
    without = Learned(POOLED, cold_start="allowed")
    known = all(endpoint.law for endpoint in endpoints)
    more = [RULE_AS_LATE, POOLED, *([INFORMED] if known else [])]
    names = [ALWAYS, *(policy.name for policy in policies), *more, AS_LATE, NEVER_LATE]
    rows = {name: Totals(name) for name in names}
    for endpoint in endpoints:
        machine = machine_of(endpoint.machine)
        rows[ALWAYS].add(endpoint, machine, Outcome(awake_min=end - start))
        never = clairvoyant.never_late_min(endpoint, machine, start=start, end=end)
        rows[NEVER_LATE].add(endpoint, machine, Outcome(awake_min=never))
        found = {policy.name: replay(endpoint, policy, machine, start=start, end=end) for policy in policies}
        ebb = found[EBB]
        found[POOLED] = ebb
        if endpoint.cold_start == "avoid":
            found[POOLED] = replay(endpoint, without, machine, start=start, end=end)
        months = (end - start) / MINUTES_PER_HOUR / control_plane.HOURS_PER_MONTH
        for name, outcome in found.items():
            if name not in {EBB, POOLED}:
                rows[name].add(endpoint, machine, outcome)
                continue
            own = control_usd(endpoint, machine, outcome, months=months)
            bound = clairvoyant.bound_min(endpoint, machine, start=start, end=end, cold_starts=outcome.cold_starts)
            rows[name].add(endpoint, machine, outcome, control=own, bound_min=bound)
            if name == EBB:
                as_late = Outcome(bound, cold_starts=outcome.cold_starts, late_requests=outcome.late_requests)
                rows[AS_LATE].add(endpoint, machine, as_late)
        if RULE in found:
            rows[RULE_AS_LATE].add(endpoint, machine, _no_later(endpoint, found[RULE], ebb, end - start))
        if known:
            rows[INFORMED].add(endpoint, machine, _informed(endpoint, machine, end - start))
    learned = next(policy for policy in policies if isinstance(policy, Learned))
    calls = {name: number + without.calls_of[name] for name, number in learned.calls_of.items()}
    return _Part(rows, calls, learned.habits)


def _no_later(endpoint: Endpoint, rule: Outcome, ebb: Outcome, minutes: int) -> Outcome:
    """Return what a rule takes that is in force for so much of the year that no more requests are late than Ebb's.

    Where cold starts are allowed it is always in force.
    """
    if endpoint.cold_start == "allowed" or rule.late_requests <= ebb.late_requests:
        return rule
    share = ebb.late_requests / rule.late_requests
    return Outcome(
        round(minutes - share * (minutes - rule.awake_min)),
        wakes=round(share * rule.wakes),
        cold_starts=round(share * rule.cold_starts),
        late_requests=ebb.late_requests,
        wrong=round(share * rule.wrong),
    )


def _informed(endpoint: Endpoint, machine: Machine, minutes: int) -> Outcome:
    """Return what is expected of who knows the endpoint's law, at the same price of a late request and within the same
    promise: Ebb's own cost included.
    """
    cycle_min = _cycle_usd(machine.wake_min) / machine.usd_per_hour * MINUTES_PER_HOUR
    offered = informed.offers(endpoint, machine, minutes=minutes, cycle_min=cycle_min)
    most_late = None
    if endpoint.cold_start == "avoid":
        saved, late = offered
        worth = late * (keep_alive_costs.LATE_USD / machine.usd_per_hour * MINUTES_PER_HOUR) <= saved
        offered = saved[worth], late[worth]
        periods = minutes / DAY / keep_alive_costs.LEARNED_DAYS
        if endpoint.requests >= keep_alive_costs.BUSY * periods:
            most_late = keep_alive_costs.LATE_SHARE * endpoint.requests + periods * informed.late_each(
                endpoint, machine
            )
    return Outcome(round(minutes - informed.saved_min(offered, most_late=most_late)))


def _joined(fleet: Fleet, parts: Iterable[_Part]) -> Comparison:
    forbidding = [endpoint for endpoint in fleet.endpoints if endpoint.cold_start == "avoid"]
    whole = Comparison(
        fleet=fleet.name,
        days=fleet.minutes / (24 * 60),
        endpoints=len(fleet.endpoints),
        requests=sum(endpoint.requests for endpoint in fleet.endpoints),
        forbidden_endpoints=len(forbidding),
        forbidden_requests=sum(endpoint.requests for endpoint in forbidding),
        rows={},
    )
    for part in parts:
        for name, row in part.rows.items():
            whole.rows.setdefault(name, Totals(name)).join(row)
        for counted, into in ((part.calls, whole.calls), (part.habits, whole.habits)):
            for name, number in counted.items():
                into[name] = into.get(name, 0) + number
    return whole
