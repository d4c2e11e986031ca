"""The pictures of a comparison, as SVG and PNG, legible on light and on dark: what is saved, and one endpoint's day."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ebb_cli.simulation.compare import (
    ALWAYS,
    AS_LATE,
    EBB,
    INFORMED,
    NEVER_LATE,
    POOLED,
    RULE_AS_LATE,
    Comparison,
    machine_of,
)
from ebb_cli.simulation.policies import Fixed, HybridHistogram, Learned
from ebb_cli.simulation.replay import Policy, replay
from ebb_cli.simulation.traffic import DAY, Endpoint, Fleet

# Readable on white and on #0d1117 alike: grey text, saturated marks, no background of its own.
TEXT, LINE = "#808890", "#8b949e"
COLOURS = {"awake": "#2da44e", "waiting": "#d1242f", "asleep": "#8b949e33", "call": "#218bff"}
MARKS = {ALWAYS: "s", AS_LATE: "*", NEVER_LATE: "*", EBB: "o"}


def draw(found: Comparison, fleet: Fleet, path: Path) -> list[Path]:
    """Write the picture as PATH.svg and PATH.png and return both."""
    import matplotlib

    matplotlib.use("Agg")
    # the same bytes for the same figures
    settings: dict[Any, Any] = {
        "svg.hashsalt": "ebb",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
    }
    settings |= {"text.color": TEXT, "axes.labelcolor": TEXT, "axes.edgecolor": LINE}
    settings |= {"xtick.color": TEXT, "ytick.color": TEXT}
    from matplotlib import pyplot

    with matplotlib.rc_context(settings):
        figure = pyplot.figure(figsize=(10, 7), layout="constrained", facecolor="none")
        grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))
        every = figure.add_subplot(grid[0, 0])
        forbidden = figure.add_subplot(grid[0, 1], sharey=every)
        below = figure.add_subplot(grid[1, :])
        for axes in (every, forbidden, below):
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
        _savings(every, found, "cold_starts", "cold starts, all (thousands)")
        _savings(forbidden, found, "forbidden_cold_starts", "cold starts that an SLA forbids (thousands)")
        every.set_ylabel("USD saved against always-on (%)")
        forbidden.tick_params(labelleft=False)
        figure.suptitle(f"{found.endpoints} endpoints, {found.days:,.0f} days ({found.fleet})", fontsize=11)
        _day(below, fleet)
        written = [path.with_suffix(".svg"), path.with_suffix(".png")]
        figure.savefig(written[0], transparent=True, metadata={"Date": None})
        figure.savefig(written[1], transparent=True, dpi=110)
        pyplot.close(figure)
    return written


def _savings(axes: Any, found: Comparison, field: str, label: str) -> None:
    """Draw what each policy saves against its cold starts."""
    shown = {name: row for name, row in found.rows.items() if name not in {ALWAYS, RULE_AS_LATE, POOLED, INFORMED}}
    across = {name: getattr(row, field) / 1000 for name, row in shown.items()}
    for name, x in across.items():
        y = 100 * found.saved_share(name)
        colour = COLOURS["awake"] if name == EBB else COLOURS["call"] if name in {AS_LATE, NEVER_LATE} else TEXT
        axes.scatter(x, y, marker=MARKS.get(name, "D"), s=130 if name == EBB else 80, color=colour, zorder=3)
        # to the left of what lies at the right, below where another one lies above it
        right = x > max(across.values()) / 2
        beside = (-9 if right else 9, -15 if name == NEVER_LATE else 7)
        axes.annotate(
            name, (x, y), xytext=beside, textcoords="offset points", color=colour,
            ha="right" if right else "left", fontweight="bold" if name == EBB else "normal",
        )  # fmt: skip
    axes.set_xlabel(label)
    axes.margins(x=0.08, y=0.16)
    axes.grid(color=LINE, alpha=0.25)


def _day(axes: Any, fleet: Fleet) -> None:
    """Draw one day of the endpoint whose day tells most: a dozen calls or more, some close together, some not."""
    chosen = _telling(fleet)
    if chosen is None:
        axes.set_axis_off()
        return
    endpoint, day = chosen
    policies: list[Policy] = [Fixed(), HybridHistogram(), Learned()]
    machine = machine_of(endpoint.machine)
    first, last = day * DAY, (day + 1) * DAY
    for place, policy in enumerate(policies):
        bands = replay(endpoint, policy, machine, start=fleet.start, end=fleet.end, keep_bands=True).bands
        for start, end, kind in sorted(bands, key=lambda band: band[2] == "waiting"):
            low, high = max(start, first), min(end, last)
            if low < high:
                axes.barh(place, (high - low) / 60, left=(low - first) / 60, height=0.55, color=COLOURS[kind])
    called = endpoint.minutes[(endpoint.minutes >= first) & (endpoint.minutes < last)]
    axes.plot((called - first) / 60, np.full(len(called), len(policies) - 0.35), "|", color=COLOURS["call"], ms=9)
    axes.set_yticks([*range(len(policies)), len(policies) - 0.35], [*(policy.name for policy in policies), "calls"])
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 3))
    date = datetime.fromtimestamp(first * 60, UTC)
    axes.set_xlabel(f"hour of {date:%A %Y-%m-%d} UTC · green: awake or waking, red: calls wait, grey: asleep")
    axes.set_title(f"One day of {endpoint.name}", loc="left", fontsize=11)


def _telling(fleet: Fleet) -> tuple[Endpoint, int] | None:
    wanted = ("office", "bursty", "recorded", "independent")
    for pattern in wanted:
        for endpoint in fleet.endpoints:
            if endpoint.pattern != pattern or endpoint.cold_start == "avoid":
                continue
            days, minutes = np.unique(endpoint.minutes // DAY, return_counts=True)
            fit = days[(minutes >= 12) & (minutes <= 120)]
            if len(fit) > 20 or (pattern == "recorded" and len(fit)):
                return endpoint, int(fit[len(fit) // 2])
    return None
