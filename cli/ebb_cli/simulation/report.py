"""How a comparison is told: one table, what it rests on, and whether the promises hold."""

from __future__ import annotations

from rich.markup import escape

from ebb_cli import output
from ebb_cli.simulation.compare import ALWAYS, AS_LATE, EBB, LOAD, NEVER_LATE, REGION, Comparison
from ebb_cli.simulation.replay import LAG_MIN

CLAIRVOYANT_SHARE, FORBIDDEN_SHARE = 0.90, 0.005
NO_COUNT = {ALWAYS, NEVER_LATE}

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
            f"{row.instance_hours:,.0f}",
            f"{row.gpu_hours:,.0f}",
            f"{row.usd + row.control_usd:,.0f}",
            f"{row.kwh:,.0f}",
            f"{row.carbon_g / 1000:,.0f}",
            f"{found.saved_share(name):.1%}",
            "-" if name in NO_COUNT else f"{row.cold_starts:,}",
            "-" if name in NO_COUNT else f"{row.forbidden_cold_starts:,}",
            "-" if name in NO_COUNT | {AS_LATE} else f"{row.wrong:,}",
            "-" if name in NO_COUNT | {AS_LATE} else f"{row.lost:,}",
        )
        for name, row in found.rows.items()
    ]
    output.table(title, COLUMNS, rows, right=COLUMNS[1:])
    ebb = found.rows[EBB]
    say = output.out().print
    say(
        f"\n{_kept(found.of_clairvoyant(EBB) >= CLAIRVOYANT_SHARE)} Ebb saves {found.of_clairvoyant(EBB):.1%} of what "
        f"the clairvoyant saves with as many cold starts, {found.of_clairvoyant(EBB, NEVER_LATE):.1%} of what it saves "
        f"with none (promised: {CLAIRVOYANT_SHARE:.0%})"
    )
    say(
        f"  {found.of_clairvoyant_where(forbidden=False):.1%} where cold starts are allowed, "
        f"{found.of_clairvoyant_where(forbidden=True):.1%} where they are forbidden: "
        "what calls at random cannot sleep there, and only a clairvoyant knows when nobody will call"
    )
    say(
        f"{_kept(found.forbidden_share(EBB) <= FORBIDDEN_SHARE)} of the requests to endpoints that forbid cold starts "
        f"{found.forbidden_share(EBB):.4%} met one (promised: at most {FORBIDDEN_SHARE:.1%}); "
        f"the worst endpoint: {ebb.forbidden_worst_share:.2%}"
    )
    say(f"{_kept(ebb.lost == 0)} {ebb.lost} requests lost; the longest wait for a wake was {ebb.longest_wait_min} min")
    wrong = ebb.wrong / ebb.wakes if ebb.wakes else 0.0
    say(
        f"  {ebb.wrong:,} of {ebb.wakes:,} sleeps ({wrong:.0%}) were shorter than their wake: staying awake was cheaper"
    )
    calls = ", ".join(f"{number:,} {name}" for name, number in found.calls.items() if number)
    say(f"  decided by the code that runs on AWS: {calls or 'never asked'}")
    say(
        f"[dim]  {REGION} list prices and grid, processors at {LOAD.value:.0%} load (assumed); a wake takes 5 to 6 min "
        f"(assumed, billed); {LAG_MIN} min pass before a sleep (late metrics and a grace); USD of Ebb include "
        f"{ebb.control_usd:,.0f} for its own control plane; forbidden: cold starts of endpoints that forbid them; "
        f"the clairvoyant is a bound, not a policy (docs/simulation.md)[/]"
    )


def _kept(kept: bool) -> str:
    return "[green]✓[/]" if kept else "[red]✗[/]"
