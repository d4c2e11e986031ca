"""How a comparison is told: one table, what it rests on, and whether the promises hold."""

from __future__ import annotations

from rich.markup import escape

from ebb_cli import output
from ebb_cli.simulation.compare import (
    ALWAYS,
    AS_LATE,
    EBB,
    INFORMED,
    LOAD,
    NEVER_LATE,
    POOLED,
    REGION,
    RULE,
    RULE_AS_LATE,
    Comparison,
)
from ebb_cli.simulation.replay import LAG_MIN, QUEUE_MIN

CLAIRVOYANT_SHARE, FORBIDDEN_SHARE = 0.90, 0.005
NO_COUNT = {ALWAYS, NEVER_LATE, INFORMED}

COLUMNS = (
    "policy",
    "instance-h",
    "GPU-h",
    "USD",
    "kWh",
    "kg CO2e",
    "saved",
    "cold starts",
    "forbidden",
    "wrong",
    "lost",
)


def print_comparison(found: Comparison) -> None:
    """Print what each policy took, and below it what was promised and what was assumed."""
    title = (
        f"{found.endpoints} endpoints, {found.days:,.0f} days, {found.requests:,} requests "
        f"({found.forbidden_endpoints} endpoints forbid cold starts) · {escape(found.fleet)}"
    )
    rows = [
        (
            escape(name),
            output.number(row.instance_hours),
            output.number(row.gpu_hours),
            output.number(row.usd + row.control_usd),
            output.number(row.kwh),
            output.number(row.carbon_g / 1000),
            _share(found.saved_share(name)),
            "-" if name in NO_COUNT else f"{row.cold_starts:,}",
            "-" if name in NO_COUNT else f"{row.forbidden_cold_starts:,}",
            "-" if name in NO_COUNT | {AS_LATE} else f"{row.wrong:,}",
            "-" if name in NO_COUNT | {AS_LATE} else f"{row.lost:,}",
        )
        for name, row in found.rows.items()
    ]
    output.table(title, COLUMNS, rows, right=COLUMNS[1:])
    ebb, rule = found.rows[EBB], next((row for name, row in found.rows.items() if name == RULE), None)
    share, late = found.of_clairvoyant(EBB), found.forbidden_share(EBB)
    say = output.out().print
    say(
        f"\n{_kept(share, at_least=CLAIRVOYANT_SHARE)} Ebb saves {_share(share)} of what the clairvoyant saves with as "
        f"many cold starts, {_share(found.of_clairvoyant(EBB, NEVER_LATE))} of what it saves with none "
        f"(promised: {CLAIRVOYANT_SHARE:.0%})"
    )
    say(
        f"  {_share(found.of_clairvoyant_where(forbidden=False))} where cold starts are allowed, "
        f"{_share(found.of_clairvoyant_where(forbidden=True))} where they are forbidden: "
        "what calls at random cannot sleep there, and only a clairvoyant knows when nobody will call"
    )
    informed = _share(found.of_clairvoyant_where(forbidden=True, name=INFORMED)) if INFORMED in found.rows else None
    if informed:
        say(
            f"  {_share(found.of_clairvoyant(INFORMED))} of it is what can be expected at the same price of a late "
            f"request by who knows each endpoint's rates and not its calls ({informed} where they are forbidden)"
        )
    say(
        f"{_kept(late, at_most=FORBIDDEN_SHARE)} of all requests to endpoints that forbid cold starts together "
        f"{_share(late, 4)} met one (promised: at most {FORBIDDEN_SHARE:.1%}); of those to the worst endpoint "
        f"{_share(ebb.forbidden_worst_share if found.forbidden_requests else None)}"
    )
    if rule is not None:
        more = "more" if found.saving(EBB) >= found.saving(RULE) else "less"
        say(
            f"  {more} saved than by the {RULE}: {found.saved_share(EBB):.1%} to {found.saved_share(RULE):.1%}, "
            f"with {ebb.cold_starts:,} to {rule.cold_starts:,} cold starts in all, "
            f"{ebb.wrong:,} to {rule.wrong:,} sleeps shorter than their wake; the rule in force for so much of the "
            f"year only that it is no later than Ebb where that is forbidden: {_share(found.saved_share(RULE_AS_LATE))}"
        )
    if found.forbidden_requests:
        say(
            f"  were a late request worth nothing, the same code with the SLAs left out: "
            f"{_share(found.forbidden_share(POOLED), 4)} late, {_share(found.saved_share(POOLED))} saved, "
            f"{_share(found.of_clairvoyant(POOLED))} of its clairvoyant; of the worst endpoint's requests "
            f"{_share(found.rows[POOLED].forbidden_worst_share)} would be late"
        )
    say(
        f"  {ebb.lost} requests lost: every wake succeeds here, within {ebb.longest_wait_min} min, and a queued "
        f"request may wait {QUEUE_MIN} min"
    )
    calls = ", ".join(f"{number:,} {name}" for name, number in found.calls.items() if number)
    say(f"  decided by the code that runs on AWS: {calls or 'never asked'}")
    say(
        f"[dim]  {REGION} list prices and grid, processors at {LOAD.value:.0%} load (assumed); a wake takes 5 to 6 min "
        f"(assumed, billed); {LAG_MIN} min pass before a sleep (late metrics and a grace); USD of Ebb include "
        f"{output.number(ebb.control_usd)} for its alarms, looks, sleeps and wakes; forbidden: cold starts of those "
        "endpoints that forbid them; "
        f"the clairvoyant is a bound, not a policy (docs/simulation.md)[/]"
    )


def _kept(share: float | None, *, at_least: float = 0.0, at_most: float = 1.0) -> str:
    if share is None:
        return "-"
    return "[green]✓[/]" if at_least <= share <= at_most else "[red]✗[/]"


def _share(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{share:.{digits}%}"
