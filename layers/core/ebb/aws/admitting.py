"""Admission: a planned run sets aside what it may take, as it is, smaller, later, or not at all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ebb import budgets, ledger, record
from ebb.aws.budgets import MOST_TRIES, Budgets
from ebb.aws.ledger import Ledger
from ebb.budgets import ADMIT, REFUSE, SHRINK, WAIT, Account, Line
from ebb.errors import DropRejectedError, LedgerUnavailableError, Rejection
from ebb.plan_facts import RunFacts

DECISIONS_FROM = 50  # of the plan's hundred: its own come before, those about capacity after; a wait, then the outcome

Plan = dict[str, Any]
Make = Callable[[RunFacts], Plan]


@dataclass(frozen=True)
class _Try:
    """One way to do the run: as it was asked for, or a smaller recipe."""

    said: str
    changes: dict[str, Any]
    plan: Plan
    wanted: dict[str, float]


def admit(facts: RunFacts, make: Make, book: Ledger, accounts: Budgets, *, now: datetime) -> Plan:
    """Return the plan that may run, with `admission`; one that only waits has nothing else but its generation.

    Raises: DropRejectedError when the run fits no budget and may not wait; LedgerUnavailableError.
    """
    month, asked = budgets.month_of(now), facts.spec.carbon.budget
    ways = _Ways(facts, make)
    known = accounts.run(facts.project, month, facts.run_id)
    if known and known["state"] == budgets.OPEN and known["attempt"] == facts.attempt:  # the answer got lost
        return _admitted(facts, ways[int(known["shrunk"])], int(known["shrunk"]), [], book, month, ways)
    if known and known["state"] == budgets.OPEN:  # of an attempt whose end nobody could record
        accounts.settle(facts.run_id, int(known["attempt"]), facts.project, now=now)
        known = accounts.run(facts.project, month, facts.run_id)
    story = book.story(facts.run_id)
    before = budgets.taken(record.total_footprint(story.stages).as_dict() if story else None)
    reclaimed = asked is None
    for _ in range(MOST_TRIES):
        account = accounts.account(facts.project, month) if asked else Account(month)
        found = _first_fitting(facts, ways, account)
        if found is not None:
            number, lines = found
            if accounts.reserve(
                facts.project, month, facts.run_id, facts.attempt,
                wanted=ways[number].wanted, lines=lines, before=before, known=known, shrunk=number, now=now,
            ):  # fmt: skip
                return _admitted(facts, ways[number], number, lines, book, month, ways)
        elif not reclaimed:
            reclaimed = True
            accounts.reclaim(account, facts.project, now=now)
        else:
            return _not_now(facts, ways, account, book, now)
    raise LedgerUnavailableError(f"the budget of {facts.project} in {month} is written to by too many")


class _Ways:
    """The ways to do a run, from the one that was asked for to the smallest; planned when they are looked at."""

    def __init__(self, facts: RunFacts, make: Make):
        self._found: list[_Try] = []
        self._more = self._all(facts, make)

    def __getitem__(self, number: int) -> _Try:
        while len(self._found) <= number:
            self._found.append(next(self._more))
        return self._found[number]

    def __iter__(self) -> Iterator[_Try]:
        number = 0
        while True:
            try:
                yield self[number]
            except StopIteration:
                return
            number += 1

    def _all(self, facts: RunFacts, make: Make) -> Iterator[_Try]:
        whole = make(facts)
        yield _Try("", {}, whole, budgets.wanted(whole["predicted"]))
        budget = facts.spec.carbon.budget
        if budget is None or not budget.shrink:
            return
        for said, changes in budgets.smaller(facts.spec, facts.data):
            spec = budgets.changed(facts.spec, changes)
            if spec is None:
                continue
            pretrained = facts.pretrained if spec.train.pretrained else ()
            plan = make(replace(facts, spec=spec, pretrained=pretrained))
            yield _Try(said, changes, plan, budgets.wanted(plan["predicted"]))


def _first_fitting(facts: RunFacts, ways: _Ways, account: Account) -> tuple[int, list[Line]] | None:
    for number, way in enumerate(ways):
        lines = budgets.judge(facts.spec.carbon.budget, way.wanted, account)
        if budgets.fits(lines):
            return number, lines
    return None


def _admitted(
    facts: RunFacts, way: _Try, number: int, lines: list[Line], book: Ledger, month: str, ways: _Ways
) -> Plan:
    outcome = SHRINK if number else ADMIT
    admission = {"outcome": outcome, "month": month, "aside": way.wanted, "changes": way.changes, "said": way.said}
    if lines:
        whole = budgets.judge(facts.spec.carbon.budget, ways[0].wanted, _account_of(lines, month))
        reason = budgets.told(lines)
        if number:
            reason = f"as it was asked for it does not fit: {budgets.told(whole, only_short=True)}. Smaller: {reason}"
        decision = {
            "what": "budget",
            "chosen": f"a smaller run: {way.said}" if number else "it fits",
            "reason": reason,
            "numbers": _numbers(lines),
            "alternatives": ["the run as it was asked for", *_others(facts)] if number else [],
            "source": "ebb/budgets.py",
            "would_change": [f"a larger carbon.budget than {_limits(lines)}"] if number else [],
        }
        book.put_decisions(facts.run_id, "plan", [decision], first=DECISIONS_FROM + 1)
    _remember(facts, book, admission, budget_month=month)
    return {**way.plan, "admission": admission}


def _account_of(lines: list[Line], month: str) -> Account:
    """Return the account that lines of a month were judged by."""
    month_lines = [line for line in lines if line.per == budgets.MONTH]
    sums = {
        name: dict(budgets.NOTHING) | {line.quantity: getattr(line, name) for line in month_lines}
        for name in ("committed", "aside", "serving")
    }
    return Account(month, **sums, under_way=("run",) * max((line.runs for line in month_lines), default=0))


def _not_now(facts: RunFacts, ways: _Ways, account: Account, book: Ledger, now: datetime) -> Plan:
    """Return the plan that waits; raise where waiting helps nothing or is not allowed."""
    budget, smallest = facts.spec.carbon.budget, list(ways)[-1]
    assert budget is not None
    lines, deadline = budgets.judge(budget, smallest.wanted, account), budgets.deadline(facts.spec, facts.run_id)
    short = budgets.told(lines, only_short=True)
    if smallest.said:
        short = f"{short}; that is with {smallest.said}, no smaller recipe is known"
    latest = None if deadline is None else deadline - _longest(smallest.plan)
    later = budgets.wait_until(budget, smallest.wanted, account, now=now, latest=latest)
    decision = {
        "what": "budget",
        "chosen": REFUSE,
        "reason": short,
        "numbers": _numbers(lines),
        "alternatives": _others(facts),
        "source": "ebb/budgets.py",
        "would_change": [f"a larger carbon.budget than {_limits(lines)}"],
    }
    if later is None:
        book.put_decisions(facts.run_id, "plan", [decision], first=DECISIONS_FROM + 1)
        _remember(facts, book, {"outcome": REFUSE, "said": short})
        raise DropRejectedError(
            Rejection("over-budget", short, column="carbon.budget", remedy=_remedy(facts, account, deadline))
        )
    until, why = later
    waits = decision | {"chosen": f"waits until {until:%Y-%m-%d %H:%M} UTC, then it is judged again"}
    waits["reason"] = f"{short}; {why}"
    waits["numbers"] = _numbers(lines) | {"wait_s": round((until - now).total_seconds())}
    book.put_decisions(facts.run_id, "plan", [waits], first=DECISIONS_FROM)
    admission = {"outcome": WAIT, "until": ledger.iso(until), "said": waits["reason"]}
    _remember(facts, book, admission)
    return {"generation": ways[0].plan["generation"], "admission": admission}


def _longest(plan: Plan) -> timedelta:
    return timedelta(seconds=sum(each["duration_s"]["high"] for each in plan["predicted"].values()))


def _remember(facts: RunFacts, book: Ledger, admission: dict[str, Any], **fields: str) -> None:
    """Note at the run what became of it, and in which month it is settled."""
    book.apply(ledger.change_run(facts.run_id, facts.attempt, {"admission": admission, **fields}))


def _numbers(lines: list[Line]) -> dict[str, float]:
    return {name: value for line in lines for name, value in line.numbers().items()}


def _limits(lines: list[Line]) -> str:
    return ", ".join(f"{line.limit:g} {budgets.QUANTITIES[line.quantity][1]}" for line in lines if not line.fits) or (
        ", ".join(f"{line.limit:g} {budgets.QUANTITIES[line.quantity][1]}" for line in lines)
    )


def _others(facts: RunFacts) -> list[str]:
    others = []
    if facts.spec.carbon.budget is not None and not facts.spec.carbon.budget.shrink:
        others.append("a smaller recipe (shrink: false forbids it)")
    if budgets.deadline(facts.spec, facts.run_id) is None:
        others.append("waiting (carbon.deadline says for how long)")
    return others


def _remedy(facts: RunFacts, account: Account, deadline: datetime | None) -> str:
    budget = facts.spec.carbon.budget
    assert budget is not None
    ways = ["Raise carbon.budget"]
    if not budget.shrink:
        ways.append("remove shrink: false from it")
    if budget.per == budgets.MONTH:
        turns = f"{budgets.next_month(account.month):%Y-%m-%d}"
        if deadline is None:
            ways.append(f"write carbon.deadline, so that the run waits for a month with room (the next begins {turns})")
        ways.append(f"see what the month went into with: ebb budget {facts.project}")
    return ", or ".join([ways[0], "drop less data", *ways[1:]]) + "."
