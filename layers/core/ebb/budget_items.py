"""The account of a project's month in the ledger: what its runs have taken, and what those under way have set aside.

    pk BUDGET#<project>#<YYYY-MM>   sk TOTAL         committed_energy_kwh, committed_carbon_g, committed_cost_usd
                                    sk RUN#<run_id>  state open | settled, aside, taken, kept, before

Each change is one transaction over both, so that the total is always the sum of the runs. What a run set aside stands
until it ends, however it ends: `settle` puts what it took in its place. `kept` is what earlier attempts of the run took
in this month, `before` what the run's stages had taken when it was admitted. Pure; `ebb.aws.budgets` sends.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ebb import budgets, ledger
from ebb.budgets import DIGITS, NOTHING, OPEN, QUANTITIES, SETTLED, Line, amounts, minus, plus

TOTAL, RUNS = "TOTAL", "RUN#"
LISTED = "BUDGETS"  # partition of the table's index under which the months of all projects are found
_COMMITTED = "committed_"

Amounts = Mapping[str, float]
Transaction = list[dict[str, Any]]


def partition(project: str, month: str) -> str:
    """Return the partition key of a project's month."""
    return f"BUDGET#{project}#{month}"


def total_key(project: str, month: str) -> dict[str, str]:
    """Return the key of a month's total."""
    return {"pk": partition(project, month), "sk": TOTAL}


def run_key(project: str, month: str, run_id: str) -> dict[str, str]:
    """Return the key of what one run has set aside or taken in a month."""
    return {"pk": partition(project, month), "sk": f"{RUNS}{run_id}"}


def rounded(each: Amounts) -> dict[str, float]:
    """Return amounts as they are counted."""
    return {quantity: round(each[quantity], DIGITS) for quantity in QUANTITIES}


def account(
    items: Sequence[Mapping[str, Any]], month: str, serving: Amounts = NOTHING, *, but: str | None = None
) -> budgets.Account:
    """Return the account that a month's items hold; `but` is a run that is not counted among those under way."""
    total = next((item for item in items if item["sk"] == TOTAL), {})
    runs = [item for item in items if item["sk"].startswith(RUNS) and item["state"] == OPEN and item["run_id"] != but]
    aside = dict(NOTHING)
    for each in runs:
        aside = plus(aside, amounts(each.get("aside")))
    return budgets.Account(
        month,
        committed=amounts(total, prefix=_COMMITTED),
        aside=rounded(aside),
        serving=rounded(serving),
        under_way=tuple(str(each["run_id"]) for each in runs),
    )


def reserve(
    project: str,
    month: str,
    run_id: str,
    attempt: int,
    *,
    wanted: Amounts,
    lines: Sequence[Line],
    before: Amounts,
    known: Mapping[str, Any] | None,
    shrunk: int,
    now: datetime,
) -> Transaction:
    """Return the writes that set an amount aside; refused when meanwhile there is no room, or the run has set aside.

    `lines` are the limits of the month, none without any: what such a run takes counts for the others all the same.
    `known` is the run's settled item of this month, of an earlier attempt.
    """
    aside = rounded(wanted)
    total = _add(project, month, aside)
    limited = [line for line in lines if line.per == budgets.MONTH]
    rooms = {
        line.quantity: round(line.limit - round(line.serving, DIGITS) - aside[line.quantity], DIGITS)
        for line in limited
    }
    if rooms:
        total["ConditionExpression"] = " AND ".join(
            f"(attribute_not_exists(#{quantity}) OR #{quantity} <= :room_{quantity})" for quantity in rooms
        )
        total["ExpressionAttributeValues"] |= {
            f":room_{quantity}": ledger.to_item(float(room)) for quantity, room in rooms.items()
        }
        total["UpdateExpression"] += ", #limits = :limits"
        total["ExpressionAttributeNames"]["#limits"] = "limits"
        total["ExpressionAttributeValues"][":limits"] = ledger.to_item({line.quantity: line.limit for line in limited})
    item = {
        **run_key(project, month, run_id),
        "run_id": run_id,
        "project": project,
        "state": OPEN,
        "attempt": attempt,
        "shrunk": shrunk,
        "aside": aside,
        "before": rounded(before),
        "kept": amounts((known or {}).get("taken")),
        "at": now,
    }
    put = {
        "Item": ledger.to_item(item),
        "ConditionExpression": "attribute_not_exists(pk) OR #state = :settled",
        "ExpressionAttributeNames": {"#state": "state"},
        "ExpressionAttributeValues": {":settled": SETTLED},
    }
    return [{"Update": total}, {"Put": put}]


def settle(
    project: str,
    month: str,
    run_id: str,
    attempt: int,
    *,
    known: Mapping[str, Any] | None,
    took: Amounts,
    now: datetime,
) -> Transaction:
    """Return the writes that put what a run took in the place of what it set aside; none where nothing changes.

    `took` is what all of its attempts have taken until now. A run that never set anything aside is counted too.
    """
    if known is None:
        taken = rounded(took)
        if not any(taken.values()):
            return []
        fields = {
            "run_id": run_id,
            "project": project,
            "state": SETTLED,
            "attempt": attempt,
            "taken": taken,
            "at": now,
        }
        entry = ledger.update(run_key(project, month, run_id), fields, condition="attribute_not_exists(pk)")
        return [{"Update": _add(project, month, taken)}, {"Update": entry}]
    if known["state"] != OPEN or known["attempt"] > attempt:
        return []
    used = {each: max(0.0, value) for each, value in minus(took, amounts(known.get("before"))).items()}
    update = ledger.update(
        run_key(project, month, run_id),
        {"state": SETTLED, "taken": rounded(plus(amounts(known.get("kept")), used)), "settled_at": now},
        remove=("aside",),
        values={":open": OPEN, ":mine": known["attempt"]},
        condition="#state = :open AND #attempt = :mine",
        names_used=("attempt",),
    )
    change = minus(rounded(used), amounts(known.get("aside")))
    return [{"Update": _add(project, month, rounded(change))}, {"Update": update}]


def _add(project: str, month: str, change: Amounts) -> dict[str, Any]:
    """Return the update that adds to a month's total; the same item lists the month among all projects'."""
    listed = {"project": project, "month": month, "gsi_pk": LISTED, "gsi_sk": f"{month}#{project}"}
    return {
        "Key": total_key(project, month),
        "UpdateExpression": "ADD "
        + ", ".join(f"#{quantity} :{quantity}" for quantity in QUANTITIES)
        + " SET "
        + ", ".join(f"#{name} = :{name}" for name in listed),
        "ExpressionAttributeNames": {f"#{quantity}": f"{_COMMITTED}{quantity}" for quantity in QUANTITIES}
        | {f"#{name}": name for name in listed},
        "ExpressionAttributeValues": {
            f":{quantity}": ledger.to_item(float(change[quantity])) for quantity in QUANTITIES
        }
        | {f":{name}": value for name, value in listed.items()},
    }
