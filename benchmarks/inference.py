"""How much faster the shipped model answers than the network that was trained: python benchmarks/inference.py.

    [--seeds 1] [--first-seed 7] [--tasks image,tabular,text] [--fresh STAGES] [--json FILE] [--picture PATH]

The product's own four stages make the models, from real data inside packages; the control plane's own rule chooses the
one to ship. What is compared runs in turns in one process on held-out rows: the converged original in eager PyTorch
fp32 with its best thread count; the same compiled; compiled in 8 bits; the full chain; and, because an oversized
baseline is no gain, the shipped network's own architecture in eager PyTorch. Then end to end over HTTP. What the stages
made is kept under .ebb/bench-inference by the hash of its recipe.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import inference_data
import inference_http
import inference_picture
import inference_stages
from inference_stages import JOBS, JOBS_PYTHON, ROOT, TASKS, Runs, StageError

from ebb import footprint, selection
from ebb.spec_parts import CompressSpec
from ebb.spec_serve import ServeSpec

SERVE_PYTHON = ROOT / ".venvs/serve/bin/python"
CACHE = ROOT / ".ebb/bench-inference"
REGION = "us-east-1"
TARGETS = {"image": 50.0, "tabular": 30.0, "text": 10.0}
MOST_LOSS = 0.01
COLD_START_S, MEMORY_MIB = 0.35, 100.0
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
ROLES = ("compile only", "compile + int8", "full chain")


def main() -> int:
    """Run the benchmark; the exit status says whether every target was met."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=1, help="how many seeds (default 1)")
    options.add_argument("--first-seed", type=int, default=7)
    options.add_argument("--fresh", default="", help="stages to run anew whatever is kept: process, train, compress")
    options.add_argument("--tasks", default=",".join(TASKS), help="of image, tabular, text")
    options.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/inference.json")
    options.add_argument("--picture", type=Path, default=ROOT / "docs/inference")
    given = options.parse_args()
    begun, runs = time.monotonic(), []
    asked = [
        (task, seed)
        for task in sorted(given.tasks.split(","), key=list(TASKS).index)
        for seed in range(given.first_seed, given.first_seed + given.seeds)
    ]
    made = prepared(asked, frozenset(filter(None, given.fresh.split(","))))
    for stages in made:
        try:
            runs.append(measured(stages))
        except StageError as error:
            print(error, file=sys.stderr, flush=True)
    found = {"machine": machine(), "took_s": round(time.monotonic() - begun, 1), "seeds": given.seeds, "runs": runs}
    show(found)
    if runs:
        found["runs"] = _with_others(runs, given.json)
        found["over_seeds"] = over_seeds(found["runs"])
        show_seeds(found["over_seeds"])
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n")
        print("written:", given.json, *inference_picture.draw(found, given.picture))
    return 0 if len(runs) == len(asked) and all(target["met"] for run in runs for target in run["targets"]) else 1


def _with_others(runs: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Return the runs, and those that were not asked for as the file holds them, in the order of tasks and seeds."""
    before = json.loads(file.read_text())["runs"] if file.exists() else []
    asked = {(run["task"], run["seed"]) for run in runs}
    every = [*runs, *(run for run in before if (run["task"], run["seed"]) not in asked)]
    return sorted(every, key=lambda run: (list(TASKS).index(run["task"]), run["seed"]))


def prepared(asked: list[tuple[str, int]], fresh: frozenset[str]) -> list[Runs]:
    """Return the runs whose models are there, made now or kept; what cannot be made is told.

    As many at once as there are CPUs: small networks learn on one thread each, and two of them side by side end sooner
    than one after the other on both. Nothing is timed here.
    """

    def make(one: tuple[str, int]) -> Runs | None:
        name, seed = one
        try:
            stages = Runs(
                TASKS[name], inference_data.drop(name, CACHE), inference_data.minilm(CACHE), seed, CACHE, fresh
            )
            stages.compress()
        except (StageError, inference_data.MissingDataError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            return None
        return stages

    for name, _ in asked:  # before two threads want the same files
        with contextlib.suppress(inference_data.MissingDataError):
            inference_data.drop(name, CACHE)
            inference_data.minilm(CACHE)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) as pool:
        return [stages for stages in pool.map(make, asked) if stages]


def measured(stages: Runs) -> dict[str, Any]:
    """Return everything that is reported of one task and seed."""
    task, name, seed = stages.task, stages.task.name, stages.seed
    folders = {"curated": stages.process(), "original": stages.train(), "candidates": stages.compress()}
    base = stages.compile(CACHE / "runs" / f"{name}-compile-{seed}")
    folders["bundles"] = base / "processing/output/bundles"
    report = inference_stages.report(base / "processing/output/report")
    chosen = selection.select(report, CompressSpec(max_metric_drop=MOST_LOSS), ServeSpec())
    roles = _roles(report, chosen.name)
    race = _race(folders, roles, chosen.name)
    served = _served(folders, report, chosen.name)
    original = report["original"]
    compared = {role: _compared(race, report, roles[role], role) for role in roles}
    result = {
        "task": name,
        "title": task.title,
        "seed": seed,
        "measured_on": machine(),
        "metric": report["metric"],
        "rows": _rows(stages),
        "original": {
            "quality": original["quality"],
            "parameters": original["parameters"],
            "size_bytes": original["size_bytes"],
            "memory_mib": original["memory_mib"],
            "cpu_ms_per_prediction": original["cpu_ms_per_prediction"],
            **_best_eager(race, "eager"),
        },
        "chosen": {"name": chosen.name, "reason": chosen.reasons[0]},
        "compared": compared,
        "small_eager": _against_small(race, compared["full chain"], report, chosen.name),
        "http": served,
        "per_million": {side: _per_million(figures) for side, figures in served.items()},
        "candidates": [_candidate(one, chosen.verdicts.get(one["name"])) for one in report["candidates"]],
        "search": inference_stages.report(folders["candidates"]).get("search"),
        "made_by": stages.made_by,
        "stages": {
            stage: {key: inference_stages.report(folder)[key] for key in ("duration_s", "cpu_seconds")}
            for stage, folder in (
                ("train", folders["original"]),
                ("compress", folders["candidates"]),
                ("compile", base / "processing/output/report"),
            )
        },
    }
    result["targets"] = _targets(name, result)
    return result


def _roles(report: dict[str, Any], chosen: str) -> dict[str, str]:
    """Return which candidate stands for which part of the chain; the fastest of a part's packed forms."""
    packed = [one for one in report["candidates"] if one.get("bundle")]

    def fastest(chain: list[str]) -> str | None:
        forms = [one for one in packed if one["chain"] == chain]
        return min(forms, key=lambda one: one["latency_ms"]["p50"])["name"] if forms else None

    found = {
        "compile only": fastest(["compile"]), "compile + int8": fastest(["quantize", "compile"]), "full chain": chosen,
    }  # fmt: skip
    return {role: name for role, name in found.items() if name}


def _race(folders: dict[str, Path], roles: dict[str, str], chosen: str) -> dict[str, Any]:
    names = sorted((each.name for each in folders["candidates"].iterdir() if each.is_dir()), key=len, reverse=True)
    network = next((each for each in ("student", "pruned") if chosen.startswith(each)), names[0] if names else "")
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        told = json.dumps({name: str(folder) for name, folder in folders.items()} | {"network": network})
        command = [str(JOBS_PYTHON), str(ROOT / "benchmarks/inference_race.py"), told, json.dumps(roles), out.name]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "EBB_JOBS": str(JOBS)}
        subprocess.run(command, check=True, env=environment)
        found: dict[str, Any] = json.loads(Path(out.name).read_text())
    return found


def _best_eager(race: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the best figure of each kind over thread counts, with the count."""
    forms = {int(key.partition("/")[2]): each for key, each in race["figures"].items() if key.startswith(f"{name}/")}
    fastest = min(forms, key=lambda count: forms[count]["latency_ms"]["p50"])
    most = max(forms, key=lambda count: forms[count]["throughput_rows_per_s"])
    return {
        "latency_ms": forms[fastest]["latency_ms"],
        "latency_threads": fastest,
        "throughput_rows_per_s": forms[most]["throughput_rows_per_s"],
        "throughput_threads": most,
        "rounds": {
            "p50_ms": forms[fastest]["rounds"]["p50_ms"],
            "rows_per_s": forms[most]["rounds"]["rows_per_s"],
        },
    }


def _ratios(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return how many times faster, by the medians, with the least and the most of any round."""
    single = [a / b for a, b in zip(before["rounds"]["p50_ms"], after["rounds"]["p50_ms"], strict=True)]
    batch = [b / a for a, b in zip(before["rounds"]["rows_per_s"], after["rounds"]["rows_per_s"], strict=True)]
    return {
        "batch_1": {"ratio": statistics.median(single), "low": min(single), "high": max(single)},
        "batch_32": {"ratio": statistics.median(batch), "low": min(batch), "high": max(batch)},
    }


def _compared(race: dict[str, Any], report: dict[str, Any], candidate: str, role: str) -> dict[str, Any]:
    figures = race["figures"][role]
    one = next(each for each in report["candidates"] if each["name"] == candidate)
    return {
        "candidate": candidate,
        "quality": one["quality"],
        "loses": report["original"]["quality"]["test"] - one["quality"]["test"],
        "size_bytes": one["size_bytes"],
        **{key: figures[key] for key in ("latency_ms", "throughput_rows_per_s", "cpu_ms_per_prediction", "rounds")},
        "times": _ratios(_best_eager(race, "eager"), figures),
    }


def _against_small(
    race: dict[str, Any], shipped: dict[str, Any], report: dict[str, Any], chosen: str
) -> dict[str, Any] | None:
    """Return the second headline: against the shipped network's own architecture in eager PyTorch."""
    if race["small_parameters"] is None:
        return None
    small = _best_eager(race, "small eager")
    full = chosen.replace("-int8", "").replace("-dynamic", "").partition("-openvino")[0]
    alike = next((one for one in report["candidates"] if one["name"] == full and one.get("quality")), None)
    return {
        "parameters": race["small_parameters"],
        "quality": alike["quality"] if alike else None,
        **small,
        "times": _ratios(small, shipped),
    }


def _served(folders: dict[str, Path], report: dict[str, Any], chosen: str) -> dict[str, Any]:
    """Measure the shipped bundle and the eager original over HTTP, each in the environment that would serve it."""
    body, content_type = _body(folders, report)
    with tempfile.TemporaryDirectory() as base:
        with tarfile.open(folders["bundles"] / chosen / "model.tar.gz") as archive:
            archive.extractall(Path(base) / "model", filter="data")
        shipped = inference_http.Server(
            [str(SERVE_PYTHON), str(Path(base) / "model/code/serve.py")], Path(base), body, content_type
        )
        eager = inference_http.Server(
            [str(JOBS_PYTHON), str(ROOT / "benchmarks/eager_server.py"), str(folders["original"])],
            Path(base), body, content_type, {"OMP_WAIT_POLICY": "PASSIVE", "EBB_JOBS": str(JOBS)},
        )  # fmt: skip
        inference_http.race([eager, shipped])
        return {"eager": eager.figures(), "shipped": shipped.figures()}


def _body(folders: dict[str, Path], report: dict[str, Any]) -> tuple[bytes, str]:
    """Return a request of one held-out row, from the sample that `compile` wrote."""
    sample = report["sample_payload"]
    with tarfile.open(folders["bundles"] / sample["file"]) as archive:
        stream = archive.extractfile(archive.getmembers()[0])
        assert stream is not None
        return stream.read(), sample["content_type"]


def _per_million(figures: dict[str, Any]) -> dict[str, float]:
    """Return joules and dollars of a million requests, by the product's own coefficients for serverless serving."""
    cost = footprint.per_million_predictions(figures, region=REGION)
    return {"joules": cost.energy_kwh.value * 3.6e6, "usd": cost.cost_usd.value}


def _candidate(one: dict[str, Any], verdict: str | None) -> dict[str, Any]:
    keys = (
        "name", "chain", "runtime", "status", "reason", "fallback", "quality", "drop_bound", "latency_ms",
        "throughput_rows_per_s", "cpu_ms_per_prediction", "size_bytes", "memory_mib", "rounds",
    )  # fmt: skip
    return {key: one[key] for key in keys if key in one} | {"verdict": verdict}


def _rows(stages: Runs) -> dict[str, int]:
    """Return how many rows learn, choose and judge."""
    report = inference_stages.report(stages.process().parent / "report")
    split = next(each for each in report["decisions"] if each["what"] == "split")
    return {name: split["numbers"][name] for name in ("train", "validation", "test")}


def _targets(name: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    full, shipped = result["compared"]["full chain"], result["http"]["shipped"]
    found = [
        ("latency, batch 1: times", full["times"]["batch_1"]["ratio"], TARGETS[name], True),
        ("throughput, batch 32: times", full["times"]["batch_32"]["ratio"], TARGETS[name], True),
        ("test accuracy lost", full["loses"], MOST_LOSS, False),
        ("cold start, s", shipped["cold_start_s"], COLD_START_S, False),
        ("memory, MiB", shipped["memory_mib"], MEMORY_MIB, False),
    ]
    if name == "image":
        found.append(("test accuracy of the original", result["original"]["quality"]["test"], 0.935, True))
    return [
        {"what": what, "found": value, "target": target, "met": value >= target if more else value <= target}
        for what, value, target, more in found
    ]


def over_seeds(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each task, the median, least and most of what the targets are about, over its seeds."""
    found = []
    for task in dict.fromkeys(run["task"] for run in runs):
        mine = [run for run in runs if run["task"] == task]
        figures: dict[str, list[float]] = {}
        for run in mine:
            for target in run["targets"]:
                figures.setdefault(target["what"], []).append(target["found"])
            small = run["small_eager"]["times"] if run["small_eager"] else {}
            for batch, times in small.items():
                figures.setdefault(f"against the small net in eager, {batch}: times", []).append(times["ratio"])
        spread = {
            what: {"median": statistics.median(values), "low": min(values), "high": max(values)}
            for what, values in figures.items()
        }
        missed = [{"seed": run["seed"], **target} for run in mine for target in run["targets"] if not target["met"]]
        found.append(
            {
                "task": task,
                "seeds": [run["seed"] for run in mine],
                "shipped": [run["chosen"]["name"] for run in mine],
                "figures": spread,
                "missed": missed,
            }
        )
    return found


def show_seeds(found: list[dict[str, Any]]) -> None:
    """Print what all seeds that were ever measured come to."""
    for one in found:
        print(f"\n{one['task']}, seeds {', '.join(map(str, one['seeds']))}: shipped {', '.join(one['shipped'])}")
        for what, spread in one["figures"].items():
            print(f"  {what:44}{spread['median']:10.4g} ({spread['low']:.4g} to {spread['high']:.4g})")
        for missed in one["missed"]:
            print(
                f"  MISSED with seed {missed['seed']}: {missed['what']} {missed['found']:.4g}, not {missed['target']:g}"
            )


def machine() -> dict[str, Any]:
    """Return when and on what this was measured."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpu = ""
    names = [line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": names[0] if names else platform.processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": [each for each in FEATURES if each in cpu],
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    about = found["machine"]
    print(f"\n{about['processor']}, {about['cpus']} CPUs ({', '.join(about['features'])}), {about['date']}")
    for run in found["runs"]:
        original = run["original"]
        print(
            f"\n{run['title']}, seed {run['seed']}: {run['rows']['train']:,} rows to learn, {run['rows']['test']:,} to "
            f"test\n{'':26}{'accuracy':>9}{'p50 ms':>10}{'times':>8}{'':>14}{'rows/s':>10}{'times':>8}{'':>14}{'kB':>8}"
        )
        print(
            f"{'eager fp32, best threads':26}{original['quality']['test']:9.4f}"
            f"{original['latency_ms']['p50']:10.4f}{'1':>8}{'':>14}{original['throughput_rows_per_s']:10.0f}{'1':>8}"
            f"{'':>14}{original['size_bytes'] / 1024:8.0f}"
        )
        for role, one in run["compared"].items():
            _line(role, one, one["quality"]["test"], one["size_bytes"])
        if small := run["small_eager"]:
            accuracy = small["quality"]["test"] if small["quality"] else float("nan")
            print(
                f"{'small net, eager fp32':26}{accuracy:9.4f}{small['latency_ms']['p50']:10.4f}{'':22}"
                f"{small['throughput_rows_per_s']:10.0f}"
            )
            times = small["times"]
            print(
                f"  shipped against it: {times['batch_1']['ratio']:.1f} times at batch 1, "
                f"{times['batch_32']['ratio']:.1f} times at batch 32"
            )
        for side, figures in run["http"].items():
            million = run["per_million"][side]
            print(
                f"  HTTP, {side}: p50 {figures['end_to_end_latency_ms']['p50']:.3f} ms, cold start "
                f"{figures['cold_start_s']:.3f} s ({figures['cold_start_cpu_s']:.2f} CPU-s), "
                f"{figures['memory_mib']:.0f} MiB; per million "
                f"{million['joules']:.0f} J, {million['usd']:.2f} USD"
            )
        print(f"  shipped: {run['chosen']['name']}")
        for stage, by in run["made_by"].items():
            if by["code"] != by["now"]:
                print(f"  {stage}: kept from other code ({by['code']}, now {by['now']}); --fresh {stage} repeats it")
        for target in run["targets"]:
            print(f"  {'met   ' if target['met'] else 'MISSED'} {target['what']}: {target['found']:.4g} "
                  f"(target {target['target']:g})")  # fmt: skip


def _line(role: str, one: dict[str, Any], accuracy: float, size: int) -> None:
    single, batch = one["times"]["batch_1"], one["times"]["batch_32"]
    print(
        f"{role:26}{accuracy:9.4f}{one['latency_ms']['p50']:10.4f}{single['ratio']:8.1f}"
        f"{_band(single):>14}"
        f"{one['throughput_rows_per_s']:10.0f}{batch['ratio']:8.1f}{_band(batch):>14}{size / 1024:8.0f}"
    )


def _band(times: dict[str, float]) -> str:
    return f"({times['low']:.1f}-{times['high']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
