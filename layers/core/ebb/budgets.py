"""Budgets: whether what a run may take still fits, said with the arithmetic; and who may wait for how long. Pure.

A month's budget is one account per project: `committed` is what its runs have taken and what those under way have set
aside, `serving` what its endpoints took. A run is admitted when

    wanted <= limit - committed - serving

for each quantity that is limited. `wanted` is the prediction's longest time at the middle of every coefficient
(`ebb.price.Predicted.at_most`): a run must not take more than it set aside only because it took long, while power and
grid are counted by the same coefficients before and afterwards, so that their band would be counted twice.

`ebb.aws.budgets` reads the account and sets aside by one conditional transaction, `ebb.admission` puts both together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from ebb import names, price, sizing
from ebb.figures import number
from ebb.spec import PipelineSpec
from ebb.spec_budget import BudgetSpec

QUANTITIES: Mapping[str, tuple[str, str]] = {
    "carbon_g": ("carbon", "g"),
    "energy_kwh": ("energy", "kWh"),
    "cost_usd": ("cost", "USD"),
}
ADMIT, SHRINK, WAIT, REFUSE = "admit", "shrink", "wait", "refuse"
MONTH, RUN = "month", "run"
LOOK_AGAIN = timedelta(minutes=30)  # while runs that are under way may give back what they set aside
LEAST_SEARCH_S = 60  # of CPU time that compress.budget can be cut to: the least that a spec may say
OPEN, SETTLED = "open", "settled"
DIGITS = 9  # of an amount, so that sums in DynamoDB's decimals and in floats are the same


def month_of(moment: datetime) -> str:
    """Return the month of a moment, in UTC: 2026-11."""
    return f"{moment.astimezone(UTC):%Y-%m}"


def next_month(month: str) -> datetime:
    """Return the moment at which the month after this one begins, in UTC."""
    first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    return (first + timedelta(days=31)).replace(day=1)


def limits(budget: BudgetSpec | None) -> dict[str, float]:
    """Return the limits of a budget by quantity; none without one."""
    if budget is None:
        return {}
    asked = {quantity: getattr(budget, part) for quantity, (part, _) in QUANTITIES.items()}
    return {quantity: float(limit) for quantity, limit in asked.items() if limit is not None}


def amounts(found: Mapping[str, Any] | None, *, prefix: str = "") -> dict[str, float]:
    """Return each quantity's amount in a mapping; what it does not hold is zero."""
    held = found or {}
    return {quantity: float(held.get(prefix + quantity) or 0.0) for quantity in QUANTITIES}


def taken(footprint: Mapping[str, Any] | None) -> dict[str, float]:
    """Return what a footprint counts as, at the middle of its bands."""
    held = footprint or {}
    return {quantity: float((held.get(quantity) or {}).get("value") or 0.0) for quantity in QUANTITIES}


def minus(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    """Return the difference of two amounts, by quantity."""
    return {quantity: left[quantity] - right[quantity] for quantity in QUANTITIES}


def plus(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    """Return the sum of two amounts, by quantity."""
    return {quantity: left[quantity] + right[quantity] for quantity in QUANTITIES}


NOTHING: Mapping[str, float] = amounts({})


def wanted(predicted: Mapping[str, Any]) -> dict[str, float]:
    """Return what a run sets aside: of each stage of `plan["predicted"]` what it may take at most."""
    total = dict(NOTHING)
    for each in predicted.values():
        total = plus(total, amounts(each["at_most"]))
    return {quantity: round(each, DIGITS) for quantity, each in total.items()}


@dataclass(frozen=True)
class Account:
    """What stands against the budget of a project's month. Amounts by quantity, at the middle of every coefficient."""

    month: str
    committed: Mapping[str, float] = field(default_factory=lambda: dict(NOTHING))  # taken and set aside
    aside: Mapping[str, float] = field(default_factory=lambda: dict(NOTHING))  # of these, by runs under way
    serving: Mapping[str, float] = field(default_factory=lambda: dict(NOTHING))  # taken by endpoints
    under_way: Sequence[str] = ()  # the runs that have something set aside


@dataclass(frozen=True)
class Line:
    """The arithmetic of one quantity."""

    quantity: str
    limit: float
    wanted: float
    committed: float = 0.0
    aside: float = 0.0
    serving: float = 0.0
    runs: int = 0
    per: str = MONTH

    @property
    def left(self) -> float:
        """What of the limit is left for this run."""
        return self.limit - self.committed - self.serving

    @property
    def fits(self) -> bool:
        """Whether the run may take so much."""
        return self.wanted <= self.left

    def told(self) -> str:
        """Return the arithmetic in words."""
        unit = QUANTITIES[self.quantity][1]
        parts = [f"{number(self.limit)} {unit} a {self.per}"]
        if self.committed - self.aside > 0:
            parts.append(f"{number(self.committed - self.aside)} taken by runs")
        if self.aside > 0:
            parts.append(f"{number(self.aside)} set aside by {self.runs} run{'s' * (self.runs != 1)} under way")
        if self.serving > 0:
            parts.append(f"{number(self.serving)} taken by serving")
        have = " - ".join(parts) + (f" = {number(self.left)} {unit} left" if len(parts) > 1 else "")
        wants = f"this run may take {number(self.wanted)} {unit}"
        return f"{have}; {wants}" + ("" if self.fits else f", {number(self.wanted - self.left)} {unit} too much")

    def numbers(self) -> dict[str, float]:
        """Return the figures of the arithmetic, for the record."""
        figures = {"limit": self.limit, "left": self.left, "wanted": self.wanted}
        return {f"{name}_{self.quantity}": round(each, 9) for name, each in figures.items()}


def judge(budget: BudgetSpec | None, wanted: Mapping[str, float], account: Account) -> list[Line]:
    """Return the arithmetic of each limited quantity; a run's own budget looks at no other run."""
    found = []
    for quantity, limit in limits(budget).items():
        if budget is not None and budget.per == RUN:
            found.append(Line(quantity, limit, wanted[quantity], per=RUN))
            continue
        found.append(
            Line(
                quantity,
                limit,
                wanted[quantity],
                committed=account.committed[quantity],
                aside=account.aside[quantity],
                serving=account.serving[quantity],
                runs=len(account.under_way),
            )
        )
    return found


def fits(lines: Sequence[Line]) -> bool:
    """Whether every limited quantity has room."""
    return all(each.fits for each in lines)


def told(lines: Sequence[Line], *, only_short: bool = False) -> str:
    """Return the arithmetic in words, of what does not fit alone if so asked."""
    return ". ".join(each.told() for each in lines if not (only_short and each.fits))


def wait_until(
    budget: BudgetSpec, wanted: Mapping[str, float], account: Account, *, now: datetime, latest: datetime | None
) -> tuple[datetime, str] | None:
    """Return until when a run may wait that does not fit now, and for what; None where waiting helps no run in time.

    What runs under way set aside is more than most of them take: it is looked at again every half hour. With the
    month its budget is whole again. `latest` is the moment at which the run must begin to keep its deadline; without
    one nobody has said that it may wait.
    """
    if latest is None or budget.per != MONTH:
        return None
    turns = next_month(account.month)
    freed = Account(account.month, minus(account.committed, account.aside), dict(NOTHING), account.serving)
    fresh = Account(account.month)
    if account.under_way and fits(judge(budget, wanted, freed)):
        until = min(now + LOOK_AGAIN, turns)
        runs = len(account.under_way)
        why = f"{runs} run{'s' * (runs != 1)} under way may give back what {'they' if runs > 1 else 'it'} set aside"
    elif fits(judge(budget, wanted, fresh)):
        until, why = turns, f"the month turns at {turns:%Y-%m-%d %H:%M} UTC, and its budget is whole again"
    else:
        return None
    return (until, why) if until <= latest else None


def smaller(spec: PipelineSpec, data: sizing.Data) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield smaller recipes for a spec, from the largest on: what is left out, and the fields that change.

    First the search goes, then the search for smaller networks, then the ladder's dearest recipes one by one. Of a
    script nothing is known that could be left out; of data whose kind is not known no recipe can be named.
    """
    if sizing.trains_itself(spec, data):
        return
    said: list[str] = []
    train: dict[str, Any] = {}
    compress: dict[str, Any] = {}
    if spec.train.tune is not None:
        train["tune"] = None
        said.append("no search over the recipe")
        yield ", ".join(said), {"train": dict(train), "compress": {}}
    kept = [method for method in spec.compress.methods if method == "quantize"] or list(spec.compress.methods[-1:])
    if len(kept) < len(spec.compress.methods):
        compress |= {"methods": kept, "budget": LEAST_SEARCH_S}
        said.append(f"compress by {', '.join(kept)} only")
        yield ", ".join(said), {"train": dict(train), "compress": dict(compress)}
    if (spec.task or data.task) is None:
        return
    asked = spec.train.rungs
    rungs = [name for name in price.ladder(spec, data) if name in (asked or price.ladder(spec, data))]
    while len(rungs) > 1:
        rungs = rungs[:-1]
        train["rungs"] = list(rungs)
        if spec.train.pretrained and "encoder" not in rungs:
            train["pretrained"] = None
        changes = {"train": dict(train), "compress": dict(compress)}
        if changed(spec, changes) is None:  # several machines train networks alone
            return
        yield ", ".join([*said, f"recipes no dearer than {rungs[-1]}"]), changes


def changed(spec: PipelineSpec, changes: Mapping[str, Mapping[str, Any]]) -> PipelineSpec | None:
    """Return a spec with some of its fields changed; None where they do not fit together."""
    resolved = spec.resolved()
    for part, values in changes.items():
        resolved[part] = {**resolved[part], **values}
    try:
        return PipelineSpec.model_validate(resolved)
    except ValidationError:
        return None


def as_run(spec: Mapping[str, Any], plan: Mapping[str, Any]) -> PipelineSpec:
    """Return the spec by which a run's stages really ran: the one it was asked for, as far as it was not shrunk."""
    asked = PipelineSpec.model_validate(spec)
    return changed(asked, (plan.get("admission") or {}).get("changes") or {}) or asked


def deadline(spec: PipelineSpec, run_id: str) -> datetime | None:
    """Return until when a run may wait; None where its spec gives it no time. Counted from the drop."""
    allowed = spec.carbon.deadline
    return None if allowed is None else names.created_at(run_id) + allowed
