"""Draws what each policy saves of what an oracle would, and how Ebb's share falls with the forecast's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT, LINE = "#57606a", "#8c959f"
COLORS = {
    "ebb": "#1a7f37",
    "let's wait awhile": "#0969da",
    "lowest slot": "#8250df",
    "carbon-time": "#bf8700",
    "threshold": "#cf222e",
}
MARKS = ("o", "s", "^")


def draw(found: dict[str, Any], path: Path) -> list[Path]:
    """Write the picture as PATH.svg and PATH.png and return both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings: dict[Any, Any] = {
        "svg.hashsalt": "ebb", "svg.fonttype": "none", "font.size": 9, "text.color": TEXT, "axes.labelcolor": TEXT,
        "axes.edgecolor": LINE, "xtick.color": TEXT, "ytick.color": TEXT, "legend.labelcolor": TEXT,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure, (bars, lines) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained", facecolor="none")
        for axes in (bars, lines):
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
        grids, wide = found["grids"], 0.8 / len(COLORS)
        for place, (policy, color) in enumerate(COLORS.items()):
            shares = [100 * grid["policies"][policy]["share_of_oracle"] for grid in grids.values()]
            at = [number + (place - (len(COLORS) - 1) / 2) * wide for number in range(len(grids))]
            bars.bar(at, shares, width=wide * 0.9, color=color, label="Ebb" if policy == "ebb" else policy)
        bars.set_xticks(range(len(grids)), [
            f"{name}\n(oracle: {grid['policies']['oracle']['saved']:.0%} less)" for name, grid in grids.items()
        ])  # fmt: skip
        bars.set_ylabel("of the oracle's saving (%), real errors")
        bars.set_ylim(0, 100)
        for mark, (name, grid) in zip(MARKS, grids.items(), strict=False):
            points = [(100 * float(share), 100 * value) for share, value in grid["by_error"].items()]
            lines.plot(
                *zip(*points, strict=True), color=COLORS["ebb"], marker=mark, markersize=4, linewidth=1, label=name
            )
        lines.axhline(90, color=LINE, linewidth=1, linestyle="--")
        lines.set_xlabel("size of the forecast's error (100 %: as it was)")
        lines.set_ylabel("Ebb, of the oracle's saving (%)")
        lines.set_ylim(50, 101)
        bars.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.22))
        lines.legend(frameon=False, loc="lower left")
        written = []
        for suffix in (".svg", ".png"):
            target = path.with_suffix(suffix)
            figure.savefig(target, dpi=120, metadata={"Date": None} if suffix == ".svg" else None)
            written.append(target)
        pyplot.close(figure)
    return written
