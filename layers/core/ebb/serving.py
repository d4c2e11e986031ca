"""Serving: which kind of endpoint a model gets for its traffic, with what each kind would take.

    choice = serving.choose(
        serve=spec.serve,                        # ServeSpec
        model=serving.Model.of(candidate),       # the chosen candidate of compile's report
        traffic=traffic.best(traffic.expected(spec.serve.requests_per_day), seen),  # seen: traffic.measured() or None
        region=stack.region,
        current=serving.Current(kind, since),    # what serves now, None at first
        now=now,                                 # needed with `current`
        asked="realtime",                        # a kind asked for by hand (`ebb deploy --kind`), None as a rule
        others_memory_mb=0,                      # what other projects hold on the shared endpoint
        idle_after_s=None,                       # the window of `ebb.keep_alive`, where it is known
    )
    choice.kind, choice.reason, choice.moves
    choice.row          memory_mb, max_concurrency (serverless); instance_type, instance_types, copies, max_copies,
                        component_mb, component_vcpu (realtime, shared); sleeps
    choice.rows         one per kind: usd, kWh, g per month with bands, cold start, why it is excluded
    choice.decision()   what the ledger keeps
    Raises: NoFeasibleInstanceError when the kind asked for, or no kind at all, can hold the model.

The rule: of the kinds that meet the service level asked for, the one that takes the least energy. Estimates closer than
`NOISE_SHARE` are no difference: among those the cheapest is taken. While nothing is known of the traffic it is
serverless, which takes nothing until somebody calls.
A model that is served moves only when its kind has served for `SETTLED_DAYS`, when another one wins on the last week
and on each of the last `SUSTAINED_DAYS` by more than the noise, and when what the move itself takes is back within
`PAYBACK_DAYS`. A kind that no longer meets the service level is left at once.
Instances are counted whole, so real-time serving steps up where traffic outgrows them; between two steps more traffic
never makes serverless relatively better.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ebb import carbon, catalog, footprint
from ebb.addresses import Kind
from ebb.carbon import Band
from ebb.catalog import Instance
from ebb.errors import NoFeasibleInstanceError
from ebb.footprint import Footprint
from ebb.spec_serve import ServeSpec
from ebb.spec_values import SERVERLESS_MEMORY_MB
from ebb.traffic import DAY_S, Traffic

DECISION = "kind of serving"  # what the ledger calls it
KINDS: tuple[Kind, ...] = ("serverless", "async", "realtime", "shared", "batch")
DAYS_PER_MONTH = 365 / 12
# The host behind a serverless endpoint is not published, its power is known within a factor of two; kinds whose energy
# is closer than this are not told apart. Assumed.
NOISE_SHARE = 0.25
# A saving of money counts from here on, per month: it must be worth a deployment.
LEAST_SAVING_USD = 1.0
SAVING_SHARE = 0.20
SUSTAINED_DAYS = 3
SETTLED_DAYS = 7  # that a kind has served before it is left for a better one: a whole week, seen with it
PAYBACK_DAYS = 7
# While one kind is brought up beside the other both run: AWS's minutes and the longest watch that is usual.
MOVE_S = 1800.0
IDLE_AFTER_S = 900.0  # of the estimate, where neither the spec nor the traffic says when an endpoint sleeps
COLD_SHARE_AVOIDED = 0.005  # of the requests may start cold where that is to be avoided
LEAST_CONCURRENCY = 5  # of a serverless endpoint
COPIES_WHEN_HIGH = 2
UNKNOWN_MEMORY_MIB = 4096.0 - footprint.HEADROOM_MIB
UNTIMED_MEMORY_FACTOR = 2.0  # what it takes to answer, over what it took to load; assumed
COMPONENT_LEAST_MB = 128  # InferenceComponentComputeResourceRequirements.MinMemoryRequiredInMb
MIB_PER_GIB = 1024
# Of two that take the same, the one before: what keeps nothing running first, what answers directly before a queue.
_PREFERENCE = ("serverless", "realtime", "shared", "async", "batch")


@dataclass(frozen=True)
class Model:
    """What is known of a model: measured by `compile`, or None where nobody has asked it anything."""

    memory_mib: float | None = None
    cpu_s: float | None = None  # of a prediction
    answer_s: float | None = None  # from row to answer, the median
    slow_answer_s: float | None = None  # 1 request in 20 takes longer; 1 in 100 where that is what is known
    start_s: float | None = None  # from the container's start to its first answer
    own_code: bool = False  # served on the image with PyTorch
    per_s_of: tuple[tuple[str, float], ...] = ()  # requests a second that an instance type was measured to answer
    serverless_mb: int | None = None  # the size of a serverless endpoint that was measured to be the best

    @classmethod
    def of(cls, candidate: Mapping[str, Any]) -> "Model":
        """Return what compile's report tells of a candidate, or the ledger of the model that is served."""
        memory = candidate.get("memory_mib")
        known = cls(
            memory_mib=float(memory) if memory else None,
            own_code=candidate.get("image") == "jobs",
            start_s=float(candidate["start_ms"]) / 1000 if candidate.get("start_ms") else None,
        )
        if not footprint.is_timed(candidate):
            return known
        answering = footprint.answering_ms(candidate)
        slow_ms = answering.get("p95") or answering.get("p99") or answering["p50"]
        cpu_ms = candidate.get("cpu_ms_per_prediction") or answering["p50"]
        return replace(
            known,
            cpu_s=float(cpu_ms) / 1000,
            answer_s=float(answering["p50"]) / 1000,
            slow_answer_s=float(slow_ms) / 1000,
        )

    @property
    def timed(self) -> bool:
        """Return whether it is known how long an answer takes."""
        return self.answer_s is not None

    @property
    def needed_mib(self) -> float:
        """Return the memory of its container: the model, and requests in flight."""
        known = UNKNOWN_MEMORY_MIB if self.memory_mib is None else self.memory_mib
        factor = 1.0 if self.timed or self.memory_mib is None else UNTIMED_MEMORY_FACTOR
        return known * factor + footprint.HEADROOM_MIB

    @property
    def wall_s(self) -> Band:
        """Return the time of one answer with a processor of its own, HTTP included."""
        facts = catalog.waking()
        known = facts.unknown_answer_s if self.answer_s is None else Band.exact(self.answer_s)
        return known + facts.request_s

    @property
    def busy_s(self) -> Band:
        """Return the processor time of one answer, HTTP included."""
        facts = catalog.waking()
        known = facts.unknown_answer_s if self.cpu_s is None else Band.exact(self.cpu_s)
        return known + facts.request_s

    @property
    def slow_s(self) -> float | None:
        """Return the answer that 1 in 20 exceeds, HTTP included; None where nobody has timed it."""
        return None if self.slow_answer_s is None else self.slow_answer_s + catalog.waking().request_s.value

    @property
    def loading_s(self) -> Band:
        """Return the time from the container's start to its first answer."""
        facts = catalog.waking()
        if self.start_s is not None:
            return Band.exact(self.start_s)
        return facts.large_start_s if self.own_code else facts.start_s


@dataclass(frozen=True)
class Current:
    """What serves the model now, and since when."""

    kind: Kind
    since: datetime


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


@dataclass(frozen=True)
class Choice:
    """The kind that was chosen, why, and what every kind would take."""

    kind: Kind
    reason: str
    rows: tuple[Row, ...]
    traffic: Traffic
    moves: bool  # whether another kind serves now
    assumed: tuple[str, ...] = ()

    @property
    def row(self) -> Row:
        """Return the row of the chosen kind."""
        return _of_kind(self.rows, self.kind)

    def decision(self) -> dict[str, Any]:
        """Return the choice as the ledger keeps it, with the table of kinds."""
        row = self.row
        month = row.month
        numbers: dict[str, Any] = dict(self.traffic.as_dict())
        if month:
            numbers |= {
                "usd_per_month": month.cost_usd.value,
                "kwh_per_month": month.energy_kwh.value,
                "g_per_month": month.carbon_g.value,
            }
        return {
            "what": DECISION,
            "chosen": self.kind,
            "reason": self.reason,
            "numbers": numbers,
            "alternatives": [_alternative(each) for each in self.rows if each.kind != self.kind],
            "source": "ebb/catalog/hosting.yaml, instances.yaml, serverless.yaml, power.yaml",
            "table": [each.as_dict() for each in self.rows],
            "assumed": list(self.assumed),
        }


def choose(
    *,
    serve: ServeSpec,
    model: Model,
    traffic: Traffic,
    region: str,
    current: Current | None = None,
    now: datetime | None = None,
    asked: str | None = None,
    others_memory_mb: float = 0.0,
    idle_after_s: float | None = None,
) -> Choice:
    """Return the kind of serving for a model and its traffic, as the module says.

    Raises: NoFeasibleInstanceError when the kind asked for, or no kind at all, can hold the model.
    """

    def rows_for(seen: Traffic) -> tuple[Row, ...]:
        return table(
            serve=serve,
            model=model,
            traffic=seen,
            region=region,
            others_memory_mb=others_memory_mb,
            idle_after_s=idle_after_s,
        )

    recent = traffic.recent
    rows = rows_for(recent)
    named = asked if asked not in (None, "auto") else serve.kind if serve.kind != "auto" else None
    if named is not None:
        kind, reason = _named(rows, named, by_hand=named != serve.kind)
    elif current is None:
        kind, reason = _first(rows, recent)
    else:
        days = [rows_for(day) for day in traffic.last_days(SUSTAINED_DAYS)]
        kind, reason = _next(rows, days, recent, current, now)
    moves = current is not None and current.kind != kind
    return Choice(
        kind, reason, rows, recent, moves, tuple(_assumed(model, serve, rows, idle_after_s, others_memory_mb))
    )


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
        return _may_sleep(self.serve)


def _may_sleep(serve: ServeSpec) -> bool:
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
    energy = _energy(above_idle, model.busy_s * calls + model.loading_s * cold, 0.0)
    energy += _energy(power.idle_w, idle_vcpu_s, 0.0) + _energy(carbon.ZERO, serving_s + kept_s, gib)
    embodied = catalog.embodied_g_per_vcpu_hour() * idle_vcpu_s * (1 / 3600)
    day = Footprint(
        energy,
        carbon.operational_carbon_g(energy, catalog.grid_g_per_kwh(known.region)) + embodied,
        price.usd_per_gib_second * gib * billed_s,
    )
    slow_s = None if model.slow_s is None else model.slow_s + wall.value - model.wall_s.value
    room = traffic.concurrency(slow_s or wall.value)
    refused = list(_refusals("serverless", known, slow_s, cold_share))
    if room > limits.serverless_concurrency:
        why = f"{room} requests at once in the busiest hour, an endpoint takes {limits.serverless_concurrency}"
        refused.append(Exclusion("traffic.busiest_hour", why))
    return Row(
        "serverless",
        _month(day),
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
    sleeps = f"after {_minutes(known.window_s)} without a call" if known.sleeps else "never"
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
    day = Footprint(energy, carbon.operational_carbon_g(energy, catalog.grid_g_per_kwh(known.region)) + embodied, cost)
    component = kind in ("realtime", "shared")
    return Row(
        kind,
        _month(day),
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
        component_vcpu=_component_vcpu(model, traffic, machine, copies, shared=shared) if component else None,
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
    energy = _energy(watts[0], starting_s, machine.memory_gib) + _energy(watts[1], busy_s, machine.memory_gib)
    embodied = catalog.embodied_g_per_vcpu_hour() * took * (machine.vcpu / 3600)
    day = Footprint(
        energy,
        carbon.operational_carbon_g(energy, catalog.grid_g_per_kwh(known.region)) + embodied,
        machine.price_usd_per_hour * took * (1 / 3600),
    )
    return Row(
        "batch",
        _month(day),
        start,
        0.0,
        min(1.0, took.value / DAY_S),
        "has no endpoint",
        tuple(refused),
        instance_type=machine.name,
        instance_types=tuple(other.name for other, _ in fitting[1:4]),
        copies=1,
    )


def machines_for(
    model: Model, traffic: Traffic, serve: ServeSpec, *, others_mib: float = 0.0
) -> list[tuple[Instance, int]]:
    """Return the instance types that hold the model and its busiest hour, with how many of each, the cheapest first.

        copies = rate of the busiest hour * processor time of an answer / (busy_share * vCPUs)
    Above `busy_share` a waiting line would show in the p95. Only memory limits a shared endpoint's choice: what the
    others ask for is not known. Where some types were measured (`recommended`), a measured rate takes the place of the
    estimate, types that answered nothing within the limit are left out, and those that were not measured come last.
    """
    facts, rates = catalog.waking(), dict(model.per_s_of)
    offered = [each for each in catalog.hosting() if each.serves_ebb and serve.instance in ("auto", each.name)]
    cores = traffic.busiest_per_s * model.busy_s.value
    found = []
    for machine in offered:
        usable_mib = machine.memory_gib * MIB_PER_GIB * facts.usable_memory_share
        rate = rates.get(machine.name)
        if rate != 0.0 and model.needed_mib + others_mib <= usable_mib:
            copies = cores / machine.vcpu if rate is None else traffic.busiest_per_s / rate
            found.append((machine, max(1, math.ceil(copies / facts.busy_share))))
    return sorted(
        found,
        key=lambda each: (
            bool(rates) and each[0].name not in rates,
            each[1] * each[0].price_usd_per_hour.value,
            each[1],
        ),
    )


def most_memory_mib(serve: ServeSpec, *, serverless: bool) -> float:
    """Return the memory of the largest container that the spec allows, on a serverless endpoint or on an instance."""
    if serverless:
        return float(serve.memory_mb or SERVERLESS_MEMORY_MB[-1])
    offered = (each for each in catalog.hosting() if each.serves_ebb and serve.instance in ("auto", each.name))
    return max(each.memory_gib for each in offered) * MIB_PER_GIB * catalog.waking().usable_memory_share


def recommended(model: Model, found: Iterable[Mapping[str, Any]]) -> Model:
    """Return a model with what Inference Recommender measured of it: `InferenceRecommendations` of its job.

    How many requests an instance answers takes the place of the estimate from processor time; 0 says that it answers
    none as fast as was asked for. Its latency is not taken: it is that of an instance under full load. Of serverless
    sizes, which are billed by memory and time, the one is taken that needs the least of `size * latency` (an answer's
    GB-seconds), the smaller one where two need the same. When nothing answered, the model is returned as it is. The
    service measures no energy, so that stays an estimate.
    """
    rates: dict[str, float] = {}
    sizes: list[tuple[float, int]] = []
    for each in found:
        name, per_minute, size_mb, latency = measured(each)
        if name:
            rates[name] = max(per_minute / 60, rates.get(name, 0.0))
        elif size_mb and per_minute and latency:
            sizes.append((size_mb * latency, size_mb))
    return replace(
        model,
        per_s_of=tuple(sorted(rates.items())) if any(rates.values()) else (),
        serverless_mb=min(sizes)[1] if sizes else None,
    )


def measured(found: Mapping[str, Any]) -> tuple[str | None, float, int | None, float | None]:
    """Return what one of `InferenceRecommendations` tells: instance type, requests a minute, memory, latency in us.

    A figure that is not available is NaN (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RecommendationMetrics.html),
    which JSON lacks: it may come as text.
    """
    setup, metrics = found["EndpointConfiguration"], found.get("Metrics") or {}
    # MemorySizeInMB, or MemorySizeInMb: how Step Functions spells capitals in a row differs
    serverless = {name.lower(): value for name, value in (setup.get("ServerlessConfig") or {}).items()}
    size = serverless.get("memorysizeinmb")
    latency = _figure(metrics.get("ModelLatency"))
    return (
        setup.get("InstanceType"),
        _figure(metrics.get("MaxInvocations")) or 0.0,
        int(size) if size else None,
        latency,
    )


def _figure(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None


def _component_vcpu(model: Model, traffic: Traffic, machine: Instance, copies: int, *, shared: bool) -> float:
    """Return the processors to reserve for a copy: alone all but what SageMaker keeps, shared what it is busy with."""
    if not shared:
        return float(max(1, machine.vcpu - 1))
    busy = traffic.busiest_per_s * model.busy_s.value / catalog.waking().busy_share / copies
    return min(float(machine.vcpu), max(0.25, math.ceil(busy * 4) / 4))


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


# Which one


def _named(rows: Sequence[Row], named: str, *, by_hand: bool) -> tuple[Kind, str]:
    row = _of_kind(rows, named)
    if not row.possible:
        raise NoFeasibleInstanceError(f"{named} cannot serve this model: {_whys(row)}")
    reason = "asked for by hand" if by_hand else "serve.kind asks for it"
    told = [each for each in row.excluded if each.field != "serve.kind"]
    return row.kind, reason + (f", though {_whys(replace(row, excluded=tuple(told)))}" if told else "")


def _first(rows: Sequence[Row], traffic: Traffic) -> tuple[Kind, str]:
    """Return the kind of a model that nothing serves yet."""
    serverless = _of_kind(rows, "serverless")
    if not traffic.known and serverless.meets:
        return serverless.kind, "nothing is known of its traffic, and serverless takes nothing until somebody calls"
    best, reason = _best(rows)
    return best.kind, reason if traffic.known else f"{reason}; {traffic.reason}"


def _next(
    rows: Sequence[Row], days: Sequence[Sequence[Row]], traffic: Traffic, current: Current, now: datetime | None
) -> tuple[Kind, str]:
    """Return whether a model that is served moves to another kind, with hysteresis."""
    best, reason = _best(rows)
    if current.kind == best.kind:
        return best.kind, f"stays: {reason}"
    serving = next((row for row in rows if row.kind == current.kind), None)
    # that nothing is known of the calls to a new deployment is no reason to leave what serves them
    broken = [each for each in serving.excluded if traffic.known or each.field != "serve.cold_start"] if serving else []
    if serving is None or not serving.possible or (broken and best.meets):
        why = _whys(serving) if serving else f"{current.kind} is no kind that Ebb makes"
        return best.kind, f"moves from {current.kind}, which no longer fits: {why}; {reason}"
    stays = f"stays, though {best.kind} would take less ({traffic.reason}): "
    if not days:
        return serving.kind, f"{stays}fewer than {SUSTAINED_DAYS} days of calls were measured"
    if now is None or now - current.since < timedelta(days=SETTLED_DAYS):
        return serving.kind, f"{stays}it has been served like this for less than {SETTLED_DAYS} days"
    if not _clearly_better(best, serving):
        return serving.kind, f"{stays}the gain is within the margin ({_gain(best, serving)})"
    for each in days:
        if _best(each)[0].kind != best.kind or not _clearly_better(
            *(_of_kind(each, k) for k in (best.kind, serving.kind))
        ):
            return serving.kind, f"{stays}not on each of the last {SUSTAINED_DAYS} days"
    move = _move(best, serving)
    if not _pays_back(best, serving, move):
        return serving.kind, f"{stays}the move itself takes more than {PAYBACK_DAYS} days save"
    return best.kind, f"moves from {serving.kind}: {_gain(best, serving)}, on each of the last {SUSTAINED_DAYS} days"


def _best(rows: Sequence[Row]) -> tuple[Row, str]:
    """Return the kind of the least energy, or the cheapest of those that take no more as far as estimates tell.

    When none meets everything asked for, the best of those that can serve at all: the reason says what is not met.
    Raises: NoFeasibleInstanceError when none can.
    """
    meeting = [row for row in rows if row.meets]
    offered = meeting or [row for row in rows if row.possible and row.kind != "batch"]
    if not offered:
        told = "; ".join(f"{row.kind}: {_whys(row)}" for row in rows)
        raise NoFeasibleInstanceError(f"no kind of serving can hold this model: {told}")
    ranked = sorted(offered, key=lambda row: (row.kwh, row.usd, _PREFERENCE.index(row.kind)))
    least = ranked[0]
    near = [row for row in ranked if row.kwh <= least.kwh * (1 + NOISE_SHARE)]
    best = min(near, key=lambda row: (row.usd, _PREFERENCE.index(row.kind)))
    if len(offered) == 1:
        reason = "the only kind that meets what is asked for"
    elif ranked[-1].kwh == 0:
        reason = "nobody calls, so no kind takes anything"
    elif best is least:
        # kinds that take the same, as realtime and a shared instance without neighbours, are no comparison
        others = [row for row in ranked if row.kwh > best.kwh * 1.001]
        next_best = f"{others[0].kind} takes {others[0].kwh:.3g}" if others else f"as {ranked[1].kind} does"
        reason = f"least energy: {best.kwh:.3g} kWh a month, {next_best}"
    else:
        reason = (
            f"cheapest of those within {NOISE_SHARE:.0%} of the least energy "
            f"({least.kind}, {least.kwh:.3g} kWh): {best.usd:.3g} against {least.usd:.3g} USD a month"
        )
    return best, reason if meeting else f"{reason}; no kind meets everything asked for: {_whys(best)}"


def _clearly_better(best: Row, other: Row) -> bool:
    """Return whether the gain is above the noise of the estimates: in energy, or in money at about the same energy."""
    if best.kwh * (1 + NOISE_SHARE) < other.kwh:
        return True
    return other.usd - best.usd >= max(LEAST_SAVING_USD, SAVING_SHARE * other.usd)


def _move(best: Row, serving: Row) -> tuple[float, float]:
    """Return the energy and the cost of bringing one kind up beside the other: both awake for half an hour."""
    kwh = usd = 0.0
    for row in (best, serving):
        machine = catalog.instance(row.instance_type) if row.instance_type else None
        if machine is None:
            continue
        took = Band.exact(MOVE_S * (row.copies or 1))
        watts = catalog.power_w(machine, processors=footprint.UNKNOWN_UTILIZATION, accelerators=carbon.ZERO)
        kwh += _energy(watts, took, machine.memory_gib).value
        usd += machine.price_usd_per_hour.value * took.value / 3600
    return kwh, usd


def _pays_back(best: Row, serving: Row, move: tuple[float, float]) -> bool:
    kwh, usd = move
    share = PAYBACK_DAYS / DAYS_PER_MONTH
    if best.kwh * (1 + NOISE_SHARE) < serving.kwh:
        return (serving.kwh - best.kwh) * share >= kwh
    return (serving.usd - best.usd) * share >= usd


def _gain(best: Row, other: Row) -> str:
    return (
        f"{best.kind} takes {best.kwh:.3g} kWh and {best.usd:.3g} USD a month, "
        f"{other.kind} {other.kwh:.3g} kWh and {other.usd:.3g} USD"
    )


def _whys(row: Row) -> str:
    return "; ".join(f"{each.field}: {each.why}" for each in row.excluded)


def _alternative(row: Row) -> str:
    told = f"{row.kind}: {row.kwh:.3g} kWh, {row.usd:.3g} USD a month" if row.month else row.kind
    return f"{told} ({_whys(row)})" if row.excluded else told


def _assumed(
    model: Model, serve: ServeSpec, rows: Sequence[Row], idle_after_s: float | None, others_memory_mb: float
) -> Iterable[str]:
    least, wanted = catalog.serving_limits().serverless_concurrency_new_account, _of_kind(rows, "serverless")
    if (wanted.max_concurrency or 0) > least:
        yield (
            f"the account lets serverless endpoints answer {wanted.max_concurrency} at once; new ones have been given "
            f"{least} for all endpoints together (Service Quotas)"
        )
    if not model.timed:
        band = catalog.waking().unknown_answer_s
        yield f"an answer takes {band.value:g} s ({band.low:g} to {band.high:g}): nobody has timed it"
    if model.memory_mib is None:
        yield f"the model takes {UNKNOWN_MEMORY_MIB:,.0f} MiB: nothing is known of it"
    if not others_memory_mb:
        yield "nobody else is on the shared endpoint, so that it takes what an instance of its own does"
    if serve.idle_after is None and idle_after_s is None and _may_sleep(serve):
        yield f"an endpoint sleeps after {_minutes(IDLE_AFTER_S)} without a call; in truth that follows its traffic"


# Arithmetic


def _of_kind(rows: Iterable[Row], kind: str) -> Row:
    return next(row for row in rows if row.kind == kind)


def _month(day: Footprint) -> Footprint:
    return Footprint(*(each * DAYS_PER_MONTH for each in (day.energy_kwh, day.carbon_g, day.cost_usd)))


def _energy(power_w: Band, seconds: Band, memory_gib: float) -> Band:
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


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min"


def _bounds(band: Band) -> tuple[float, float, float]:
    return band.low, band.value, band.high
