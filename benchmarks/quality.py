"""`make bench-quality`: the shipped model's test quality against tuned classical models on the same rows.

Every data set goes through the four stages without a hint but its target; what select would ship is judged. Beside it
stand the models that a data scientist would bring (histogram gradient boosting, a random forest, logistic or ridge
regression; for texts TF-IDF with a linear SVM and with logistic regression), each tuned on the same validation rows.
The test rows are looked at once by each. All data comes inside packages, by hash. Of pictures it tells what
`make bench-inference` measured.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import inference_data

from ebb import selection
from ebb.spec_parts import CompressSpec
from ebb.spec_serve import ServeSpec
from ebb_cli import demo_data

ROOT = Path(__file__).resolve().parents[1]
JOBS_PYTHON = ROOT / ".venvs/jobs/bin/python"
CLASSICAL = ROOT / "benchmarks/quality_classical.py"
CACHE = ROOT / ".ebb/bench-inference"
RESULT = ROOT / "benchmarks/results/quality.json"
ALLOWED = 0.015
"""How far the shipped model may stay behind the best classical one: points of a score, a share of an error."""
ALLOWED_OF_PICTURES = 0.01
INFERENCE = ROOT / "benchmarks/results/inference.json"
LOWER_IS_BETTER = selection.LOWER_IS_BETTER
SETS = {
    "letters": ("LetterRecognition: 26 drawn capitals", "letter"),
    "diamonds": ("the grade of a diamond's cut", "cut"),
    "housing": ("median house prices in Texas", "median"),
    "mails": ("SpamAssassin: spam or ham", "label"),
    "shuttle": ("the state of a Space Shuttle: 7 classes, the rarest of 10 rows in 58,000", "state"),
    "flights": ("minutes in the air by aircraft, route and date: columns of 105 and 4,043 texts", "air_time"),
}
FETCHED = {
    "letters": inference_data.letters,
    "mails": inference_data.mails,
    "shuttle": inference_data.shuttle,
    "flights": inference_data.flights,
}


def drop(name: str, folder: Path, rows: int | None) -> Path:
    """Write a data set's table into `folder`; with `rows` its lines evenly thinned out."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}.csv"
    if name in demo_data.TABLES:
        shutil.copyfile(demo_data.fetch(name, CACHE / "demo").drop, made)
    else:
        FETCHED[name](CACHE, folder)
    if rows:
        csv.field_size_limit(2**31 - 1)
        with made.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        every = max(1.0, (len(lines) - 1) / rows)
        picked = [lines[1 + int(number * every)] for number in range(min(rows, len(lines) - 1))]
        with made.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([lines[0], *picked])
    return folder


def run_stage(stage: str, inputs: dict[str, Path], base: Path, target: str) -> dict[str, Any]:
    """Run one stage as SageMaker runs it; return its report. Raises RuntimeError with the job's own words."""
    shutil.rmtree(base, ignore_errors=True)
    processing = stage in ("process", "compile")
    channels = base / ("processing/input" if processing else "input/data")
    channels.mkdir(parents=True)
    for name, source in inputs.items():
        (channels / name).symlink_to(source)
    settings = json.dumps({"spec": {"data": {"target": target}}, "seed": 7, "run_id": "bench-quality"})
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(base)}
    if processing:
        environment["EBB_SETTINGS"] = settings
    else:
        (base / "input/config").mkdir(parents=True)
        (base / "input/config/hyperparameters.json").write_text(json.dumps({"settings": settings}))
    with (base / "log").open("w") as log:
        command = [str(JOBS_PYTHON), str(ROOT / "jobs/run.py"), stage]
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{stage} failed: {(base / 'log').read_text()[-600:]}")
    report = base / ("processing/output/report" if processing else "model") / "metrics.json"
    return json.loads(report.read_text())


def ours(name: str, data: Path, work: Path) -> dict[str, Any]:
    """Return the metric and the shipped model's qualities, and what training took."""
    target = SETS[name][1]
    run_stage("process", {"data": data}, work / "process", target)
    inputs = {"curated": work / "process/processing/output/curated"}
    begun = time.monotonic()
    trained = run_stage("train", inputs, work / "train", target)
    took = time.monotonic() - begun
    inputs["original"] = work / "train/model"
    run_stage("compress", inputs, work / "compress", target)
    compiled = run_stage("compile", {**inputs, "candidates": work / "compress/model"}, work / "compile", target)
    shipped = selection.select(compiled, CompressSpec(), ServeSpec()).shipped
    return {
        "metric": trained["metric"],
        "shipped": shipped["name"],
        "quality": shipped["quality"],
        "trained": trained["quality"],
        "rung": trained["rung"],
        "rungs": [
            {key: rung.get(key) for key in ("name", "quality", "cpu_seconds", "stop", "reason")}
            for rung in trained["rungs"]
        ],
        "train_cpu_seconds": trained["cpu_seconds"],
        "train_seconds": round(took, 1),
        "p50_ms": shipped["latency_ms"]["p50"],
        "size_bytes": shipped["size_bytes"],
        "means": [each for each in trained["decisions"] if each["what"].startswith("target means of")],
        "curated": str(inputs["curated"]),
    }


def classical(curated: str, metric: str, budget_s: float) -> dict[str, Any]:
    """Return each tuned classical model's qualities, from a process that has scikit-learn."""
    command = [str(JOBS_PYTHON), str(CLASSICAL), curated, metric, str(budget_s)]
    path = os.pathsep.join([str(ROOT / ".venvs/quality"), str(ROOT / "jobs")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the classical models failed: {done.stderr[-800:]}")
    print(done.stderr, end="", flush=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def behind(metric: str, shipped: float, best: float) -> float:
    """Return how far `shipped` is behind `best`: points of a score, a share of an error; negative when it leads."""
    return shipped / best - 1 if metric in LOWER_IS_BETTER else best - shipped


def pictures() -> dict[str, Any]:
    """Return what `make bench-inference` measured of pictures: shipped against the converged residual net it comes of.

    Training those anew would take an hour; the other data sets take minutes.
    """
    measured = json.loads(INFERENCE.read_text()) if INFERENCE.exists() else {"runs": []}
    return {
        f"seed {run['seed']}": {
            "rows": run["rows"],
            "original": {"parameters": run["original"]["parameters"], **run["original"]["quality"]},
            "shipped": run["chosen"]["name"],
            **{key: run["compared"]["full chain"][key] for key in ("quality", "size_bytes")},
            "behind": run["compared"]["full chain"]["loses"],
            "within": run["compared"]["full chain"]["loses"] <= ALLOWED_OF_PICTURES,
        }
        for run in measured["runs"]
        if run["task"] == "image" and run["compared"]["full chain"]["candidate"] == run["chosen"]["name"]
    }


def kept(output: Path, rows: int | None) -> dict[str, Any]:
    """Return the results of the other data sets, measured before at the same size: sets may be measured one by one."""
    before = json.loads(output.read_text()) if output.exists() else {}
    return before.get("results", {}) if before.get("thinned_to") == rows else {}


def lines(results: dict[str, Any]) -> Iterator[str]:
    """Give the table of the results."""
    head = ("data set", "metric", "shipped", "test", "best classical", "test", "behind")
    yield "{:<10} {:<10} {:<18} {:>9}   {:<24} {:>9} {:>8}".format(*head)
    for name, one in results.items():
        if "error" in one:
            yield f"{name:<10} failed: {one['error'][:90]}"
            continue
        best = one["best"]
        yield (
            f"{name:<10} {one['ours']['metric']:<10} {one['ours']['shipped']:<18} "
            f"{one['ours']['quality']['test']:>9.4g}   {best:<24} {one['classical'][best]['test']:>9.4g} "
            f"{one['behind']:>+8.2%}" + ("" if one["within"] else "  missed")
        )


def main() -> int:
    """Run the comparison, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--rows", type=int, help="thin every data set out to so many rows")
    parser.add_argument("--budget-s", type=float, default=150.0, help="seconds of tuning per data set")
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    results = kept(asked.output, asked.rows) if asked.sets != list(SETS) else {}
    work = ROOT / ".ebb/bench-quality"
    for name in asked.sets:
        print(f"{name}: {SETS[name][0]}", flush=True)
        since = time.monotonic()
        try:
            mine = ours(name, drop(name, work / name / "data", asked.rows), work / name)
            told = classical(mine.pop("curated"), mine["metric"], asked.budget_s)
        except Exception as error:  # one data set that cannot be had stops no other
            results[name] = {"error": str(error)}
            continue
        sign = -1 if mine["metric"] in LOWER_IS_BETTER else 1
        best = max(told["models"], key=lambda each: sign * told["models"][each]["validation"])
        far = behind(mine["metric"], mine["quality"]["test"], told["models"][best]["test"])
        results[name] = {
            "title": SETS[name][0],
            "rows": told["rows"],
            "ours": mine,
            "classical": told["models"],
            "best": best,
            "behind": far,
            "within": far <= ALLOWED,
            "seconds": round(time.monotonic() - since, 1),
        }
    document = {
        "measured": datetime.now(UTC).date().isoformat(),
        "allowed": ALLOWED,
        "thinned_to": asked.rows,
        "seconds": round(sum(one.get("seconds", 0.0) for one in results.values()), 1),
        "processor": next(
            (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown"
        ),
        "results": {name: results[name] for name in SETS if name in results},
        "pictures": pictures(),
    }
    asked.output.write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join(lines(results)))
    for seed, one in document["pictures"].items():
        print(
            f"pictures, {seed} (make bench-inference): {one['shipped']} {one['quality']['test']:.4f}, its original, a "
            f"residual net, {one['original']['test']:.4f}: {one['behind']:+.2%} behind"
        )
    return 0 if all(one.get("within") for one in results.values()) else 1


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return list(itertools.islice(file.read_text().splitlines(), 40)) if file.exists() else []


if __name__ == "__main__":
    sys.exit(main())
