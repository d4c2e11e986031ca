"""The year in a minute: 200 endpoints, a year, every policy, on traffic that nothing was tuned on. `make simulate`.

    python benchmarks/simulate.py [--seeds 300] [--keep]

Seeds 0 to 9 are for tuning the constants of `ebb.keep_alive_habits`, seeds from 300 on for reporting (100 to 104
and 200 to 204 have been looked at): what was looked at while a constant was chosen says nothing about it. `--keep`
writes the figures to benchmarks/results/simulate.json and the picture to docs/. With `--check` it exits 1 when a
promise is broken: less than 90 % of the clairvoyant's saving, or more than 0.5 % of all requests to endpoints that
forbid cold starts late. None can be lost: every wake succeeds here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ebb_cli import output
from ebb_cli.simulation import compare, report, traffic
from ebb_cli.simulation.compare import AS_LATE, EBB, INFORMED, POOLED, RULE, RULE_AS_LATE

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/simulate.json"
PICTURE = ROOT / "docs/simulation"
DOCS = ROOT / "docs/simulation.md"
BEGIN, END = "<!-- the stored results -->", "<!-- end of the stored results -->"
TUNING = range(10)


def main() -> int:
    """Run the seeds that were asked for, print each, and say whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", default="300", help="comma-separated, or a range such as 300-304")
    parser.add_argument("--forbids", choices=("by rate", "evenly"), default="by rate", help="whose cold starts")
    parser.add_argument("--keep", action="store_true", help="write the results file and the picture")
    parser.add_argument("--table", action="store_true", help="run nothing: write the stored results into the docs")
    parser.add_argument("--check", action="store_true", help="exit 1 when a promise is broken")
    asked = parser.parse_args()
    if asked.table:
        _write_table()
        return 0
    runs: list[dict[str, Any]] = []
    load = round(os.getloadavg()[0], 1)
    kept = True
    for seed in _seeds(asked.seeds):
        began = time.perf_counter()
        fleet = traffic.generate(seed, forbids=asked.forbids)
        found = compare.compare(fleet)
        took_s = time.perf_counter() - began
        report.print_comparison(found)
        output.out().print(f"  {took_s:.0f} s\n")
        kept = kept and _kept(found)
        runs.append({"seed": seed, "forbids": asked.forbids, "took_s": round(took_s, 1), **found.as_dict()})
        if asked.keep and len(runs) == 1:
            from ebb_cli.simulation.picture import draw

            draw(found, fleet, PICTURE)
    shares = [run["share_of_clairvoyant"][EBB] for run in runs]
    if len(runs) > 1:
        output.out().print(
            f"{len(runs)} seeds: of the clairvoyant's saving with as many cold starts "
            f"{min(each['as_late'] for each in shares):.1%} to {max(each['as_late'] for each in shares):.1%}, "
            f"with none {min(each['never_late'] for each in shares):.1%} to "
            f"{max(each['never_late'] for each in shares):.1%}"
        )
    if asked.keep:
        RESULTS.parent.mkdir(exist_ok=True)
        document = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processor": _processor(),
            "load": load,
            "tuned_on": [*TUNING],
        }
        RESULTS.write_text(json.dumps(document | {"runs": runs}, indent=1) + "\n", encoding="utf-8")
        _write_table()
    return 0 if kept or not asked.check else 1


def _kept(found: compare.Comparison) -> bool:
    return (found.of_clairvoyant(EBB, AS_LATE) or 0.0) >= report.CLAIRVOYANT_SHARE and (
        found.forbidden_share(EBB) or 0.0
    ) <= report.FORBIDDEN_SHARE


def table(stored: dict[str, Any]) -> str:
    """Return the stored results as the table of docs/simulation.md."""
    head = (
        "seed", "saved: Ebb", "rule", "rule, as late", "hybrid", "of as late", "informed", "of never late",
        "where allowed", "informed", "where forbidden", "informed", "cold starts: Ebb", "rule", "wrong: Ebb", "rule",
        "forbidden: Ebb", "rule", "late, pooled", "worst endpoint", "SLAs left out: saved", "of as late",
        "late, pooled",
    )  # fmt: skip
    lines = [head, ("---",) * len(head), *(_cells(run) for run in stored["runs"])]
    took = [run["took_s"] for run in stored["runs"]]
    told = f"{stored['date']}, {stored['processor']}: {min(took):.0f} to {max(took):.0f} s a seed"
    told += f", {stored['load']:.1f} processes ran when it began." if "load" in stored else "."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{told}\n"


def _cells(run: dict[str, Any]) -> tuple[str, ...]:
    rows = {row["policy"]: row for row in run["rows"]}
    ebb, rule, as_late, hybrid = (rows[name] for name in (EBB, RULE, RULE_AS_LATE, "hybrid histogram"))
    of, where = run["share_of_clairvoyant"], run["share_of_clairvoyant_where_cold_starts_are"]
    best = run["share_of_clairvoyant_of_informed_where_cold_starts_are"]
    shares = (of[EBB]["as_late"], of[INFORMED]["as_late"], of[EBB]["never_late"])
    shares += (where["allowed"], best["allowed"], where["forbidden"], best["forbidden"])
    return (
        str(run["seed"]),
        *(f"{row['saved_share']:.1%}" for row in (ebb, rule, as_late, hybrid)),
        *(f"{each:.1%}" for each in shares),
        *(f"{row[what]:,}" for what in ("cold_starts", "wrong", "forbidden_cold_starts") for row in (ebb, rule)),
        f"{run['forbidden_late_share'][EBB]:.3%}",
        f"{ebb['forbidden_worst_share']:.0%}",
        f"{rows[POOLED]['saved_share']:.1%}",
        f"{of[POOLED]['as_late']:.1%}",
        f"{run['forbidden_late_share'][POOLED]:.3%}",
    )


def _write_table() -> None:
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = DOCS.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCS.write_text(f"{before}{BEGIN}\n{table(stored)}{END}{after}", encoding="utf-8")


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names) or 1} threads"


if __name__ == "__main__":
    sys.exit(main())
