"""Draws accuracy against latency, size and energy of every measured candidate, and the front that nothing beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT, LINE, FAINT, GOOD, BASE = "#57606a", "#8c959f", "#8c959f", "#1a7f37", "#cf222e"
MEASURES = (
    ("latency, batch 1, p50 (ms)", lambda one: one["latency_ms"]["p50"]),
    ("size (kB)", lambda one: one["size_bytes"] / 1024),
    ("CPU per prediction, row to answer (ms)", lambda one: one["cpu_ms_per_prediction"]),
)


def draw(found: dict[str, Any], path: Path) -> list[Path]:
    """Write the picture as PATH.svg and PATH.png and return both; of several seeds the first is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = list({run["task"]: run for run in reversed(found["runs"])}.values())[::-1]
    settings: dict[Any, Any] = {
        "svg.hashsalt": "ebb", "svg.fonttype": "none", "font.size": 9, "text.color": TEXT, "axes.labelcolor": TEXT,
        "axes.edgecolor": LINE, "xtick.color": TEXT, "ytick.color": TEXT,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure, grid = pyplot.subplots(
            len(runs), len(MEASURES), figsize=(12, 3.2 * len(runs)), layout="constrained", squeeze=False,
            facecolor="none",
        )  # fmt: skip
        for row, run in zip(grid, runs, strict=True):
            for axes, (label, measure) in zip(row, MEASURES, strict=True):
                _panel(axes, run, label, measure)
            row[0].set_ylabel(f"{run['title']}\ntest {run['metric']} (%)")
        about = found["machine"]
        figure.suptitle(f"{about['processor']}, {about['cpus']} CPUs, {about['date']}", fontsize=10)
        written = [path.with_suffix(".svg"), path.with_suffix(".png")]
        figure.savefig(written[0], transparent=True, metadata={"Date": None})
        figure.savefig(written[1], transparent=True, dpi=110)
        pyplot.close(figure)
    return written


def _panel(axes: Any, run: dict[str, Any], label: str, measure: Any) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    measured = [one for one in run["candidates"] if one["status"] == "measured"]
    points = sorted((measure(one), 100 * one["quality"]["test"], one["name"]) for one in measured)
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], s=18, color=FAINT, label="candidates")
    front, best = [], float("-inf")
    for x, y, _ in points:
        if y > best:
            front.append((x, y))
            best = y
    axes.plot([x for x, _ in front], [y for _, y in front], color=GOOD, linewidth=1, label="front")
    original = run["original"]
    if "cpu_ms_per_prediction" in original or not label.startswith("CPU"):
        axes.scatter(
            [measure(original)], [100 * original["quality"]["test"]], marker="s", s=28, color=BASE, label="eager"
        )
    chosen = next((point for point in points if point[2] == run["chosen"]["name"]), None)
    if chosen:
        axes.scatter([chosen[0]], [chosen[1]], marker="*", s=110, color=GOOD, label="shipped")
    axes.axhline(100 * original["quality"]["test"] - 1, color=LINE, linewidth=0.6, linestyle=":")
    if label.startswith("latency"):
        axes.legend(frameon=False, fontsize=7, loc="lower right")
