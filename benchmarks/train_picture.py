"""Draws the accuracy of each recipe against the CPU time that it has taken, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT, LINE = "#57606a", "#8c959f"
COLORS = {
    "plain": "#cf222e",
    "fp32 one-cycle": "#bf8700",
    "ebb": "#1a7f37",
    "ebb to target": "#0969da",
    "ebb to one-cycle": "#8250df",
}
LABELS = {
    "plain": "plain: fp32, constant rate",
    "fp32 one-cycle": "fp32, one-cycle",
    "ebb": "Ebb",
    "ebb to target": "Ebb, stopped at what plain reaches",
    "ebb to one-cycle": "Ebb, stopped at what one-cycle reaches",
}


def draw(found: dict[str, Any], path: Path) -> list[Path]:
    """Write the picture as PATH.svg and PATH.png and return both: the curves, and where each recipe ended on test."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings: dict[Any, Any] = {
        "svg.hashsalt": "ebb", "svg.fonttype": "none", "font.size": 9, "text.color": TEXT, "axes.labelcolor": TEXT,
        "axes.edgecolor": LINE, "xtick.color": TEXT, "ytick.color": TEXT, "legend.labelcolor": TEXT,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure, (curves, ends) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained", facecolor="none")
        for axes, what in ((curves, "validation accuracy (%)"), (ends, "test accuracy (%), at its end")):
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel("CPU seconds")
            axes.set_ylabel(what)
        labelled: set[str] = set()
        for run in found["runs"]:
            name = run["recipe"]
            if name not in COLORS:
                continue
            label = None if name in labelled else LABELS[name]
            labelled.add(name)
            curves.plot(
                [cpu for cpu, _ in run["curve"]], [100 * quality for _, quality in run["curve"]],
                color=COLORS[name], linewidth=1, marker=".", markersize=3, label=label,
            )  # fmt: skip
            ends.scatter([run["cpu_s"]], [100 * run["test"]], color=COLORS[name], s=28, label=label)
        best = max(quality for run in found["runs"] for _, quality in run["curve"])
        curves.set_ylim(100 * best - 15, 100 * best + 1)
        ends.set_xlim(left=0)
        ends.margins(y=0.15)
        figure.legend(*curves.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
        about = found["machine"]
        figure.suptitle(f"{about['processor']}, {about['date']}", fontsize=10)
        written = [path.with_suffix(".svg"), path.with_suffix(".png")]
        figure.savefig(written[0], transparent=True, metadata={"Date": None})
        figure.savefig(written[1], transparent=True, dpi=110)
        pyplot.close(figure)
    return written
