"""Processing one large table: bare DuckDB, pandas and Ebb's own stage, alternated in one run.

    make bench-process [PROCESS_ARGS="--rows 1000000 --repeats 1"]
    make bench-process PROCESS_ARGS="--times 4"    # Ebb alone, once, with four times the rows: how much memory it takes

The table is made by GENERATE below: 20 columns (identifier, dates, categories, whole and broken numbers, gaps, a
class), one row in fifty a repetition of the one before. Bare DuckDB does nothing but the conversion of the CSV into
zstd Parquet, with its own guess of the types and a memory limit of 1000 MB; pandas does what Ebb does, as one would
write it: reads with its C parser, drops duplicates and the row number, makes categories, splits by the hash of the
features and writes three files of zstd Parquet. It checks nothing. Ebb's stage is the `process` that runs in the cloud:
checks, de-duplication, typing, the split. Peak memory is the largest sum of the resident sizes of a process and its
children, looked at ten times a second. CPU seconds stand beside the wall time, because the machine may have other work.
Writes benchmarks/results/process.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
JOBS = ROOT / ".venvs/jobs/bin/python"
RESULT = ROOT / "benchmarks/results/process.json"
MOST_MIB = 1.2 * 1024

GENERATE = """
import duckdb, sys
rows, out = int(sys.argv[1]), sys.argv[2]
connection = duckdb.connect(config={"memory_limit": "2GB"})
connection.execute("SET preserve_insertion_order = false")
connection.execute("SET enable_progress_bar = false")
connection.execute(f'''COPY (
 WITH r AS (SELECT CASE WHEN range % 50 = 49 THEN range - 1 ELSE range END AS i FROM range({rows})),
 k AS (SELECT i, (hash(i) % 1000003)::BIGINT AS a, (hash(i, 1) % 1000033)::BIGINT AS b,
              (hash(i, 2) % 999983)::BIGINT AS c, (hash(i, 3) % 999979)::BIGINT AS d FROM r)
 SELECT i AS order_id, TIMESTAMP '2020-01-01' + INTERVAL (a * 97) SECOND AS ordered_at,
  DATE '2020-01-01' + (b % 1500)::INT AS shipped_on, 'C' || (c % 200000) AS customer,
  ['north', 'south', 'east', 'west'][1 + a % 4] AS region, ['web', 'shop', 'phone'][1 + b % 3] AS channel,
  ['Amsterdam', 'Berlin', 'Lisbon', 'Madrid', 'Oslo', 'Paris', 'Rome', 'Vienna', 'Zurich', 'Prague'][1 + c % 10]
   AS city,
  d % 2 = 0 AS returning, a % 100 AS quantity, b / 100.0 AS price, c % 10000 / 10000.0 AS discount,
  CASE WHEN d % 20 > 0 THEN d % 100000 / 1000.0 END AS weight_kg, a % 86400 AS seconds,
  CASE WHEN b % 33 > 0 THEN 18 + b % 70 END AS age, c / 1000000.0 AS latitude, d / 1000000.0 AS longitude,
  (a + b) % 1000 AS visits, (b + c) % 5 AS rating, (c + d) % 100000 / 100.0 AS margin,
  CASE WHEN (a + d) % 10 < 3 THEN 'yes' ELSE 'no' END AS label FROM k) TO '{out}' (HEADER, DELIMITER ',')''')
"""
BARE = """
import duckdb, sys
connection = duckdb.connect(config={"memory_limit": "1000MB", "temp_directory": sys.argv[2] + "/spill"})
file, out = sys.argv[1:3]
connection.execute(f"COPY (FROM '{file}') TO '{out}/all.parquet' (FORMAT parquet, COMPRESSION zstd)")
"""
PANDAS = """
import pandas, sys
table = pandas.read_csv(sys.argv[1]).drop_duplicates().drop(columns="order_id")
for name in table.columns:
    if table[name].dtype in ("object", "str") and table[name].nunique() <= 100:
        table[name] = table[name].astype("category")
side = pandas.util.hash_pandas_object(table.drop(columns="label"), index=False) / 2**64
for name, low, high in (("test", 0, 0.15), ("validation", 0.15, 0.3), ("train", 0.3, 2)):
    part = table[(side >= low) & (side < high)]
    part.to_parquet(f"{sys.argv[2]}/{name}.parquet", compression="zstd", index=False)
"""
STAGE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from ebb_jobs import process_tables, report
file, out = Path(sys.argv[1]), Path(sys.argv[2])
work = out / "work"
work.mkdir()
process_tables.process(file.parent, [file], out, {}, report.Report("process"), work)
"""


def main() -> int:
    """Run the benchmark; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_850_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pandas-python", type=Path, default=ROOT / ".venvs/bench/bin/python")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--times", type=int, help="process a table of so many times the rows, by Ebb alone")
    told = parser.parse_args()
    if told.times:
        return _larger(told.rows * told.times, told.json)
    ways = {"bare DuckDB": (JOBS, BARE), "Ebb": (JOBS, STAGE)}
    if told.pandas_python.exists():
        ways["pandas"] = (told.pandas_python, PANDAS)
    with tempfile.TemporaryDirectory(prefix="ebb-bench-") as folder:
        table = Path(folder, "data", "table.csv")
        table.parent.mkdir()
        subprocess.run([JOBS, "-c", GENERATE, str(told.rows), str(table)], check=True)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(told.repeats):
            for name, (python, code) in ways.items():
                runs[name].append(_measured(python, code, table, Path(folder, "out")))
                print(f"{name:12} {json.dumps(runs[name][-1])}", flush=True)
        found = _told(runs, table.stat().st_size, told.rows)
    if told.json.exists():
        found |= {name: each for name, each in json.loads(told.json.read_text()).items() if name == "larger"}
    told.json.parent.mkdir(exist_ok=True)
    told.json.write_text(json.dumps(found, indent=1) + "\n")
    _print(found)
    return 0 if all(found["targets"].values()) else 1


def _larger(rows: int, result: Path) -> int:
    """Run Ebb once on a table of so many rows; its figures stand in the result beside those of the comparison."""
    with tempfile.TemporaryDirectory(prefix="ebb-bench-") as folder:
        table = Path(folder, "data", "table.csv")
        table.parent.mkdir()
        subprocess.run([JOBS, "-c", GENERATE, str(rows), str(table)], check=True)
        run = _measured(JOBS, STAGE, table, Path(folder, "out"))
        larger = {"rows": rows, "csv_bytes": table.stat().st_size, **run}
    found = json.loads(result.read_text()) if result.exists() else {}
    result.write_text(json.dumps(found | {"larger": larger}, indent=1) + "\n")
    met = larger["peak_mib"] < MOST_MIB
    print(f"{'met   ' if met else 'MISSED'} below 1.2 GiB: {json.dumps(larger)}")
    return 0 if met else 1


def _measured(python: Path, code: str, table: Path, out: Path) -> dict[str, float]:
    """Run a program in a process of its own and return what it took."""
    out.mkdir()
    before = os.times()
    started = time.monotonic()
    process = subprocess.Popen(
        [python, "-c", code, str(table), str(out), str(ROOT / "jobs")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _tree_mib(process.pid))
        time.sleep(0.1)
    wall = time.monotonic() - started
    after = os.times()
    if process.returncode:
        raise SystemExit((process.stderr.read() if process.stderr else b"").decode())
    size = sum(file.stat().st_size for file in out.rglob("*.parquet"))
    shutil.rmtree(out)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mib": round(peak), "output_mb": round(size / 1e6, 1)
    }  # fmt: skip


def _tree_mib(root: int) -> float:
    """Return the resident size of a process and all that it started, in MiB."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, left = 0.0, [root]
    while left:
        process = left.pop()
        left += children.get(process, [])
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        total += pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return total


def _told(runs: dict[str, list[dict[str, float]]], size: int, rows: int) -> dict[str, Any]:
    def ratios(other: str, unit: str) -> dict[str, float]:
        each = [mine[unit] / theirs[unit] for mine, theirs in zip(runs["Ebb"], runs[other], strict=True)]
        return {"median": round(statistics.median(each), 3), "least": round(min(each), 3), "most": round(max(each), 3)}

    compared = {other: {unit: ratios(other, unit) for unit in ("wall_s", "cpu_s")} for other in runs if other != "Ebb"}
    peak = max(each["peak_mib"] for each in runs["Ebb"])
    targets = {
        "at most 1.3 times bare DuckDB": compared["bare DuckDB"]["wall_s"]["median"] <= 1.3,
        "below 1.2 GiB": peak < MOST_MIB,
    }
    if "pandas" in compared:
        targets["faster than pandas"] = compared["pandas"]["wall_s"]["median"] < 1
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()), "processor": _processor(), "rows": rows, "csv_bytes": size,
        "runs": runs, "ebb_to": compared, "peak_mib": peak, "targets": targets,
    }  # fmt: skip


def _processor() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    wanted = ("sse4_2", "avx2", "avx512f", "avx512_bf16", "amx_tile", "sha_ni")
    return {
        "model": facts.get("model name", platform.processor()), "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in wanted if name in facts.get("flags", "").split()],
    }  # fmt: skip


def _print(found: dict[str, Any]) -> None:
    print(f"\n{found['csv_bytes'] / 1e6:.0f} MB, {found['rows']:,} rows, on {found['processor']}")
    for other, units in found["ebb_to"].items():
        for unit, ratio in units.items():
            print(f"Ebb to {other}, {unit}: {ratio['median']} ({ratio['least']} to {ratio['most']})")
    print(f"Ebb's peak memory: {found['peak_mib']} MiB")
    for target, met in found["targets"].items():
        print(f"{'met   ' if met else 'MISSED'} {target}")


if __name__ == "__main__":
    sys.exit(main())
