"""Serving: which kind of endpoint a model gets for its traffic, with what each kind would take.

    choice = serving.choose(
        serve=spec.serve,                        # ServeSpec
        model=serving_model.Model.of(candidate), # the chosen candidate of compile's report
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
What each kind takes is estimated in `serving_kinds`, on the sizes of `serving_sizes`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ebb import carbon, catalog, footprint
from ebb.addresses import Kind
from ebb.carbon import Band
from ebb.errors import NoFeasibleInstanceError
from ebb.serving_kinds import DAYS_PER_MONTH, IDLE_AFTER_S, Row, energy_of, in_minutes, may_sleep, of_kind, table, whys
from ebb.serving_model import UNKNOWN_MEMORY_MIB, Model
from ebb.spec_serve import ServeSpec
from ebb.traffic import Traffic

DECISION = "kind of serving"  # what the ledger calls it
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
# Of two that take the same, the one before: what keeps nothing running first, what answers directly before a queue.
_PREFERENCE = ("serverless", "realtime", "shared", "async", "batch")


@dataclass(frozen=True)
class Current:
    """What serves the model now, and since when."""

    kind: Kind
    since: datetime


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
        return of_kind(self.rows, self.kind)

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


# Which one


def _named(rows: Sequence[Row], named: str, *, by_hand: bool) -> tuple[Kind, str]:
    row = of_kind(rows, named)
    if not row.possible:
        raise NoFeasibleInstanceError(f"{named} cannot serve this model: {whys(row)}")
    reason = "asked for by hand" if by_hand else "serve.kind asks for it"
    told = [each for each in row.excluded if each.field != "serve.kind"]
    return row.kind, reason + (f", though {whys(replace(row, excluded=tuple(told)))}" if told else "")


def _first(rows: Sequence[Row], traffic: Traffic) -> tuple[Kind, str]:
    """Return the kind of a model that nothing serves yet."""
    serverless = of_kind(rows, "serverless")
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
        why = whys(serving) if serving else f"{current.kind} is no kind that Ebb makes"
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
            *(of_kind(each, k) for k in (best.kind, serving.kind))
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
        told = "; ".join(f"{row.kind}: {whys(row)}" for row in rows)
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
    return best, reason if meeting else f"{reason}; no kind meets everything asked for: {whys(best)}"


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
        kwh += energy_of(watts, took, machine.memory_gib).value
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


def _alternative(row: Row) -> str:
    told = f"{row.kind}: {row.kwh:.3g} kWh, {row.usd:.3g} USD a month" if row.month else row.kind
    return f"{told} ({whys(row)})" if row.excluded else told


def _assumed(
    model: Model, serve: ServeSpec, rows: Sequence[Row], idle_after_s: float | None, others_memory_mb: float
) -> Iterable[str]:
    least, wanted = catalog.serving_limits().serverless_concurrency_new_account, of_kind(rows, "serverless")
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
    if serve.idle_after is None and idle_after_s is None and may_sleep(serve):
        yield f"an endpoint sleeps after {in_minutes(IDLE_AFTER_S)} without a call; in truth that follows its traffic"
