"""What each kind of endpoint would take for a model and its traffic, and which field of the spec it does not meet.

The rule by which one of them is chosen: `ebb.serving`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ebb import carbon, catalog, footprint
from ebb.addresses import Kind
from ebb.carbon import Band
from ebb.footprint import Footprint
from ebb.serving_model import MIB_PER_GIB, Model
from ebb.serving_sizes import COMPONENT_LEAST_MB, COPIES_WHEN_HIGH, LEAST_CONCURRENCY, component_vcpu, machines_for
from ebb.spec_serve import ServeSpec
from ebb.spec_values import SERVERLESS_MEMORY_MB
from ebb.traffic import DAY_S, Traffic

KINDS: tuple[Kind, ...] = ("serverless", "async", "realtime", "shared", "batch")
DAYS_PER_MONTH = 365 / 12
IDLE_AFTER_S = 900.0  # of the estimate, where neither the spec nor the traffic says when an endpoint sleeps
COLD_SHARE_AVOIDED = 0.005  # of the requests may start cold where that is to be avoided


@dataclass(frozen=True)
class Exclusion:
    """Why a kind is not taken: the field that it does not meet. `possible` tells whether it could serve at all."""

    field: str
    why: str
    possible: bool = True


@dataclass(frozen=True)
class Row:
    """What one kind takes for this traffic, each month of 365/12 days, and how it would be set up."""

    kind: Kind
    month: Footprint | None  # None where it cannot hold the model
    cold_start_s: Band
    cold_share: float  # of the requests
    awake_share: float  # of the time in which it is up; a serverless container is not billed for it
    sleeps: str
    excluded: tuple[Exclusion, ...] = ()
    memory_mb: int | None = None
    max_concurrency: int | None = None
    instance_type: str | None = None
    instance_types: tuple[str, ...] = ()  # the next ones, where the first has no capacity
    copies: int | None = None
    max_copies: int | None = None
    component_mb: int | None = None
    component_vcpu: float | None = None

    @property
    def meets(self) -> bool:
        """Return whether it meets everything that is asked for."""
        return not self.excluded

    @property
    def possible(self) -> bool:
        """Return whether it could serve the model at all."""
        return self.month is not None and all(each.possible for each in self.excluded)

    @property
    def kwh(self) -> float:
        """Return the energy of a month."""
        return math.inf if self.month is None else self.month.energy_kwh.value

    @property
    def usd(self) -> float:
        """Return the cost of a month."""
        return math.inf if self.month is None else self.month.cost_usd.value

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it stands in the ledger."""
        told = {
            "kind": self.kind,
            "month": self.month.as_dict() if self.month else None,
            "cold_start_s": self.cold_start_s.as_dict(),
            "cold_share": self.cold_share,
            "awake_share": self.awake_share,
            "sleeps": self.sleeps,
            "meets": self.meets,
            "excluded": [{"field": each.field, "why": each.why} for each in self.excluded],
        }
        names = ("memory_mb", "max_concurrency", "instance_type", "copies", "max_copies")
        return told | {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def table(
    *,
    serve: ServeSpec,
    model: Model,
    traffic: Traffic,
    region: str,
    others_memory_mb: float = 0.0,
    idle_after_s: float | None = None,
) -> tuple[Row, ...]:
    """Return what each kind takes for this traffic and which of them meet what the spec asks for."""
    window_s = serve.idle_after.total_seconds() if serve.idle_after else idle_after_s or IDLE_AFTER_S
    known = _Facts(serve, model, traffic, region, others_memory_mb, window_s)
    rows = (_serverless(known), _on_instances(known, "async"), _on_instances(known, "realtime"))
    return (*rows, _on_instances(known, "shared"), _batch(known))


@dataclass(frozen=True)
class _Facts:
    serve: ServeSpec
    model: Model
    traffic: Traffic
    region: str
    others_memory_mb: float
    window_s: float

    @property
    def sleeps(self) -> bool:
        return may_sleep(self.serve)


def may_sleep(serve: ServeSpec) -> bool:
    """Return whether the estimate counts sleep: where cold starts are to be avoided only a forecast could allow it."""
    return serve.availability == "normal" and serve.cold_start == "allowed"


# What each kind takes


def _serverless(known: _Facts) -> Row:
    """Return what a serverless endpoint takes.

        billed_s   = requests * (answer, rounded up to a millisecond) + cold starts * loading
        energy_kwh = (vCPU-seconds held * idle W + processor-seconds * (full W - idle W)) / 3.6e6 * PUE + memory
    A container with less than one vCPU answers so much slower. One that nobody calls is kept for some minutes, which is
    not billed but takes its memory and some of its processors. Whether the start of a container is billed AWS does not
    say: its loading counts, not so in the low bound.
    """
    serve, model, traffic = known.serve, known.model, known.traffic
    facts, price, limits = catalog.waking(), catalog.serverless(), catalog.serving_limits()
    pull = facts.large_image_pull_s if model.own_code else facts.image_pull_s
    most_mb = SERVERLESS_MEMORY_MB[-1]
    needed = min(model.needed_mib, most_mb) if not model.timed and _loads_in(model, most_mb) else model.needed_mib
    size_mb: int | None = serve.memory_mb or next((size for size in SERVERLESS_MEMORY_MB if size >= needed), None)
    if serve.memory_mb is None and model.serverless_mb and model.serverless_mb >= needed:
        size_mb = model.serverless_mb
    cold_share = traffic.cold_share(facts.warm_s.value)
    if size_mb is None or needed > size_mb:
        field = "model.memory_mib" if size_mb is None else "serve.memory_mb"
        why = f"the model needs {needed:,.0f} MiB, the endpoint has {size_mb or most_mb:,} MB"
        told = (Exclusion(field, why, possible=False), *_refusals("serverless", known, None, cold_share))
        return Row("serverless", None, pull + model.loading_s, cold_share, 0.0, "nothing to put to sleep", told)
    gib = size_mb / MIB_PER_GIB
    vcpu = Band(gib / price.gib_per_vcpu.high, gib / price.gib_per_vcpu.value, gib / price.gib_per_vcpu.low)
    wall = _slowed(model.wall_s, model.busy_s, vcpu)
    loading = _slowed(model.loading_s, model.loading_s, vcpu)
    calls, cold = traffic.per_day, traffic.cold_per_day(facts.warm_s.value)
    billed_s = Band(*(math.ceil(each * 1000) / 1000 for each in _bounds(wall))) * calls
    billed_s += Band(0.0, loading.value, loading.high) * cold
    # What is kept warm: as many containers as are in flight at a time, for as long as the last call is recent.
    kept_s = Band(*(DAY_S * traffic.awake_share(window) for window in _bounds(facts.warm_s))) * _containers(
        traffic, wall.value
    )
    serving_s = wall * calls + loading * cold
    power = catalog.processor("serverless")
    idle_vcpu_s = vcpu * (serving_s + kept_s * facts.warm_vcpu_share)
    above_idle = Band(*(full - idle for full, idle in zip(_bounds(power.max_w), _bounds(power.idle_w), strict=True)))
    energy = energy_of(above_idle, model.busy_s * calls + model.loading_s * cold, 0.0)
    energy += energy_of(power.idle_w, idle_vcpu_s, 0.0) + energy_of(carbon.ZERO, serving_s + kept_s, gib)
    embodied = catalog.embodied_g_per_vcpu_hour() * idle_vcpu_s * (1 / 3600)
    day = footprint.made_of(energy, embodied, price.usd_per_gib_second * gib * billed_s, region=known.region)
    slow_s = None if model.slow_s is None else model.slow_s + wall.value - model.wall_s.value
    room = traffic.concurrency(slow_s or wall.value)
    refused = list(_refusals("serverless", known, slow_s, cold_share))
    if room > limits.serverless_concurrency:
        why = f"{room} requests at once in the busiest hour, an endpoint takes {limits.serverless_concurrency}"
        refused.append(Exclusion("traffic.busiest_hour", why))
    return Row(
        "serverless",
        day * DAYS_PER_MONTH,
        pull + loading,
        cold_share,
        traffic.awake_share(facts.warm_s.value),
        "nothing to put to sleep",
        tuple(refused),
        memory_mb=size_mb,
        max_concurrency=min(max(room, LEAST_CONCURRENCY), limits.serverless_concurrency),
    )


def _on_instances(known: _Facts, kind: Kind) -> Row:
    """Return what an asynchronous, real-time or shared endpoint takes.

        billed_h = instances * 24 * share of time in which the last call is no longer ago than window + waking
    A shared one takes the part of an instance that its memory has of all that lives there.
    """
    serve, model, traffic, facts = known.serve, known.model, known.traffic, catalog.waking()
    high, shared = serve.availability == "high", kind == "shared"
    others_mib = known.others_memory_mb if shared else 0.0
    waking = facts.instance_s + model.loading_s + (facts.large_image_s if model.own_code else carbon.ZERO)
    slow_s = model.slow_s
    if kind == "async" and slow_s is not None:
        slow_s += facts.async_overhead_s.value
    cold_share = traffic.cold_share(known.window_s) if known.sleeps else 0.0
    refused = list(_refusals(kind, known, slow_s, cold_share))
    sleeps = f"after {in_minutes(known.window_s)} without a call" if known.sleeps else "never"
    machines = machines_for(model, traffic, serve, others_mib=others_mib)
    if not machines:
        field = "model.memory_mib" if serve.instance == "auto" else "serve.instance"
        what = "no catalogued instance" if serve.instance == "auto" else serve.instance
        why = f"the model needs {model.needed_mib:,.0f} MiB, which {what} does not leave"
        refused.append(Exclusion(field, why, possible=False))
        return Row(kind, None, waking, cold_share, 0.0, sleeps, tuple(refused))
    machine, wanted = machines[0]
    copies = max(wanted, COPIES_WHEN_HIGH if high else 1)
    if serve.max_copies is not None and copies > serve.max_copies:
        why = f"the busiest hour takes {copies} copies of {machine.name}, {serve.max_copies} are allowed"
        if serve.p95_latency is not None:
            refused.append(Exclusion("serve.max_copies", why))
        copies = serve.max_copies
    awake = traffic.awake_share(known.window_s + waking.value) if known.sleeps else 1.0
    awake_s = DAY_S * awake
    part = model.needed_mib / (model.needed_mib + others_mib) if shared else 1.0
    busy_s = model.busy_s * traffic.per_day
    load = Band(*(min(1.0, busy / (awake_s * copies * machine.vcpu)) if awake_s else 0.0 for busy in _bounds(busy_s)))
    allocation_s = awake_s * copies * part
    energy = carbon.energy_kwh(
        catalog.power_w(machine, processors=load, accelerators=carbon.ZERO),
        allocation_s,
        memory_gib=machine.memory_gib,
        memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(),
        pue=catalog.pue(),
    )
    embodied = carbon.embodied_carbon_g(machine.vcpu, allocation_s, catalog.embodied_g_per_vcpu_hour())
    cost = machine.price_usd_per_hour * (allocation_s / 3600)
    cost += facts.async_usd_per_request * traffic.per_day if kind == "async" else carbon.ZERO
    day = footprint.made_of(energy, embodied, cost, region=known.region)
    component = kind in ("realtime", "shared")
    return Row(
        kind,
        day * DAYS_PER_MONTH,
        waking,
        cold_share,
        awake,
        sleeps,
        tuple(refused),
        instance_type=machine.name,
        instance_types=tuple(other.name for other, _ in machines[1:4]),
        copies=copies,
        max_copies=serve.max_copies or copies,
        component_mb=max(COMPONENT_LEAST_MB, math.ceil(model.needed_mib)) if component else None,
        component_vcpu=component_vcpu(model, traffic, machine, copies, shared=shared) if component else None,
    )


def _batch(known: _Facts) -> Row:
    """Return what one batch job a day takes: its start, and the day's requests one after the other on each vCPU."""
    model, traffic, facts = known.model, known.traffic, catalog.waking()
    fitting = [
        (machine, copies)
        for machine, copies in machines_for(model, replace(traffic, per_day=0.0, hours=()), known.serve)
        if not machine.hosting_only
    ]
    refused = list(_refusals("batch", known, None, 0.0))
    start = facts.batch_start_s + (facts.large_image_s if model.own_code else carbon.ZERO)
    if not fitting:
        field = "model.memory_mib" if known.serve.instance == "auto" else "serve.instance"
        refused.append(Exclusion(field, "no instance type of batch transform holds the model", possible=False))
        return Row("batch", None, start, 0.0, 0.0, "has no endpoint", tuple(refused))
    machine, _ = fitting[0]
    busy_s = model.busy_s * traffic.per_day
    jobs = min(1.0, traffic.per_day)
    starting_s, busy_s = start * jobs, busy_s * (1 / machine.vcpu)
    took = starting_s + busy_s
    watts = [
        catalog.power_w(machine, processors=load, accelerators=carbon.ZERO)
        for load in (footprint.UNKNOWN_UTILIZATION, Band.exact(1.0))
    ]
    energy = energy_of(watts[0], starting_s, machine.memory_gib) + energy_of(watts[1], busy_s, machine.memory_gib)
    embodied = catalog.embodied_g_per_vcpu_hour() * took * (machine.vcpu / 3600)
    cost = machine.price_usd_per_hour * took * (1 / 3600)
    day = footprint.made_of(energy, embodied, cost, region=known.region)
    return Row(
        "batch",
        day * DAYS_PER_MONTH,
        start,
        0.0,
        min(1.0, took.value / DAY_S),
        "has no endpoint",
        tuple(refused),
        instance_type=machine.name,
        instance_types=tuple(other.name for other, _ in fitting[1:4]),
        copies=1,
    )


# What the spec asks for


def _refusals(kind: Kind, known: _Facts, slow_s: float | None, cold_share: float) -> Iterable[Exclusion]:
    """Give what a kind does not meet, each with the field that asks for it."""
    serve, limits = known.serve, catalog.serving_limits()
    if kind == "batch" and serve.kind != "batch":
        yield Exclusion("serve.kind", "answers files, not requests; serve.kind: batch asks for it")
    if serve.availability == "high" and kind not in ("realtime", "shared"):
        yield Exclusion("serve.availability", "keeps no two copies awake")
    if serve.instance != "auto" and kind == "serverless":
        yield Exclusion("serve.instance", f"has no instance, {serve.instance} is asked for")
    if serve.memory_mb is not None and kind != "serverless":
        yield Exclusion("serve.memory_mb", "is a size of serverless endpoints")
    if serve.max_payload_mb is not None and serve.max_payload_mb > limits.payload_mb[kind]:
        yield Exclusion("serve.max_payload_mb", f"takes {limits.payload_mb[kind]} MB at most")
    if slow_s is not None and slow_s > limits.answer_s[kind]:
        yield Exclusion("model.latency_ms", f"an answer takes {slow_s:.0f} s, {limits.answer_s[kind]} are allowed")
    limit_s = serve.p95_latency.total_seconds() if serve.p95_latency else None
    if limit_s is not None and slow_s is not None and slow_s > limit_s:
        yield Exclusion(
            "serve.p95_latency", f"1 in 20 takes {slow_s * 1000:,.3g} ms, {limit_s * 1000:,.3g} are asked for"
        )
    if serve.cold_start == "avoid" and kind in ("serverless", "batch"):
        if not known.traffic.known:
            yield Exclusion(
                "serve.cold_start", "starts cold when nobody has called for minutes, and traffic is unknown"
            )
        elif kind == "batch" or cold_share > COLD_SHARE_AVOIDED:
            told = f"{cold_share:.2%} of the requests" if kind == "serverless" else "every job"
            yield Exclusion("serve.cold_start", f"{told} would start cold, {COLD_SHARE_AVOIDED:.1%} may")


def whys(row: Row) -> str:
    """Return why a kind is not taken, in words."""
    return "; ".join(f"{each.field}: {each.why}" for each in row.excluded)


# Arithmetic


def of_kind(rows: Iterable[Row], kind: str) -> Row:
    """Return the row of one kind."""
    return next(row for row in rows if row.kind == kind)


def energy_of(power_w: Band, seconds: Band, memory_gib: float) -> Band:
    """Return the energy of an allocation whose time is itself an estimate."""
    hour = carbon.energy_kwh(
        power_w,
        3600.0,
        memory_gib=memory_gib,
        memory_kwh_per_gib_hour=catalog.memory_kwh_per_gib_hour(),
        pue=catalog.pue(),
    )
    return hour * seconds * (1 / 3600)


def _slowed(wall_s: Band, busy_s: Band, vcpu: Band) -> Band:
    """Return how long an answer takes on less than one vCPU: its processor time is stretched, the rest is not."""
    stretch = (max(0.0, 1 / each - 1) for each in (vcpu.high, vcpu.value, vcpu.low))
    return Band(*(w + b * s for w, b, s in zip(_bounds(wall_s), _bounds(busy_s), stretch, strict=True)))


def _containers(traffic: Traffic, wall_s: float) -> float:
    """Return how many containers are kept warm: those in flight at a mean moment of the hours with calls."""
    if not traffic.per_day:
        return 0.0
    mean = traffic.per_day / DAY_S / max(traffic.busy_hours_share, 1 / 24) * wall_s
    return max(1.0, mean + 2 * math.sqrt(mean))


def _loads_in(model: Model, most_mb: int) -> bool:
    return model.memory_mib is None or model.memory_mib + footprint.HEADROOM_MIB <= most_mb


def in_minutes(seconds: float) -> str:
    """Return a time as text: `15 min`."""
    return f"{seconds / 60:g} min"


def _bounds(band: Band) -> tuple[float, float, float]:
    return band.low, band.value, band.high
