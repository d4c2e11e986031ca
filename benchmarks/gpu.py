"""Training, compressing and serving on a GPU, against eager bf16 there: python benchmarks/gpu.py [--tasks image text].

Where the jobs environment's PyTorch drives an NVIDIA GPU, the product's own stages train and compress the networks of
the inference benchmark on it; beside them stands the same network trained eagerly in bf16 at a constant rate, and both
networks are then served there, eager and compiled, in turns. Joules are NVML's, of the whole GPU, without the host.
Without a GPU it says what it skipped and why, and ends with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import inference_data
from inference_stages import JOBS, JOBS_PYTHON, ROOT, TASKS, Runs, StageError, report

RACE = Path(__file__).with_name("gpu_race.py")
CACHE = ROOT / ".ebb/bench-gpu"
BASELINE = "eager bf16"
SKIPPED = (
    "training on the GPU against an eager bf16 loop of the same network",
    "compressing on the GPU: students and pruned networks, with their joules",
    "serving on the GPU: original and small network, eager bf16 and compiled, at batch 1 and 32, with joules",
)
REMEDY = (
    "On a machine with an NVIDIA GPU, make the jobs environment with a CUDA build of PyTorch and nvidia-ml-py:\n"
    "  rm -rf .venvs/jobs && TORCH_INDEX_URL=https://download.pytorch.org/whl/cu128 make setup\n"
    "  .venvs/jobs/bin/python -m pip install nvidia-ml-py"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what can be measured, print it, write it; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=["image", "tabular"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    asked = parser.parse_args(arguments)
    found = probe()
    if not found["available"]:
        print(skipped(found["why"], asked.tasks))
        return 0
    measured = {}
    for name in asked.tasks:
        try:
            measured[name] = measure(name, asked.seed)
        except (StageError, inference_data.MissingDataError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    document = {"date": datetime.now(UTC).date().isoformat(), "machine": found, "seed": asked.seed, "tasks": measured}
    for name, one in measured.items():
        print("\n".join(table(name, one)))
    if measured:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written: {asked.json}")
    return 0 if len(measured) == len(asked.tasks) else 1


def probe() -> dict[str, Any]:
    """Return what the jobs environment sees of a GPU."""
    if not JOBS_PYTHON.exists():
        return {"available": False, "why": "there is no jobs environment (make setup)"}
    done = subprocess.run(
        [str(JOBS_PYTHON), str(RACE), "probe"], capture_output=True, text=True, check=False, env=_environment()
    )
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"available": False, "why": f"the jobs environment cannot be asked: {told}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def skipped(why: str, tasks: Sequence[str]) -> str:
    """Return what was not measured, why, and what would make it measurable."""
    lines = [f"bench-gpu: nothing was measured, because {why}.", f"Skipped, for {', '.join(tasks)}:"]
    return "\n".join([*lines, *(f"  - {each}" for each in SKIPPED), REMEDY])


def measure(name: str, seed: int) -> dict[str, Any]:
    """Return what training, compressing and serving took on the GPU. Raises: StageError, MissingDataError."""
    encoder = inference_data.minilm(CACHE) if name == "text" else Path()
    runs = Runs(TASKS[name], inference_data.drop(name, CACHE), encoder, seed, CACHE)
    curated, original, candidates = runs.process(), runs.train(), runs.compress()
    trained, compressed = report(original), report(candidates)
    if trained.get("device") != "cuda":
        raise StageError(f"{name}: the stage trained on {trained.get('device')}, not on the GPU")
    run = {
        "curated": str(curated),
        "original": str(original),
        "candidates": str(candidates),
        "small": small_network(compressed, candidates),
        "metric": trained["metric"],
        "epochs": str(trained["epochs"]),
        "seed": str(seed),
    }
    plain = {} if name == "text" else _run("plain", run)  # a pretrained encoder is not trained from nothing
    return {
        "train": {
            "ebb": {
                "seconds": trained["fit_seconds"],
                "quality": trained["quality"]["test"],
                "epochs": trained["epochs"],
                "gpu": trained.get("gpu"),
            },
            BASELINE: plain,
        },
        "compress": {"seconds": compressed["duration_s"], "gpu": compressed.get("gpu")},
        "serve": _run("race", run),
        "small": run["small"],
    }


def small_network(compressed: Mapping[str, Any], candidates: Path) -> str:
    """Return the smallest network that compression left, "" when it left none."""
    named = [str(each["name"]) for each in compressed.get("candidates") or ()]
    found = [each for each in named if (candidates / each / "network.safetensors").exists()]
    return min(found, key=lambda each: (candidates / each / "network.safetensors").stat().st_size, default="")


def table(name: str, one: Mapping[str, Any]) -> list[str]:
    """Return the figures of one task as text, ratios against eager bf16."""
    lines = ["", f"{name}: training", f"{'':24}{'s':>10}{'J':>12}{'test':>9}"]
    for who, told in one["train"].items():
        if told:
            joules = (told.get("gpu") or {}).get("joules")
            lines.append(f"{who:24}{told['seconds']:>10.1f}{_number(joules):>12}{told['quality']:>9.4f}")
    joules = (one["compress"].get("gpu") or {}).get("joules")
    lines.append(f"{'compressing':24}{one['compress']['seconds']:>10.1f}{_number(joules):>12}")
    lines += [f"{name}: serving", f"{'':24}{'p50 ms':>10}{'rows/s':>12}{'J/million':>12}{'test':>9}{'times':>8}"]
    figures = one["serve"]["figures"]
    base = figures[BASELINE]["latency_ms"]["p50"]
    for who, told in figures.items():
        p50 = told["latency_ms"]["p50"]
        lines.append(
            f"{who:24}{p50:>10.4f}{told['throughput_rows_per_s']:>12,.0f}{_number(told['joules_per_million']):>12}"
            f"{told['quality']:>9.4f}{base / p50:>8.2f}"
        )
    lines += [f"{who}: {why}" for who, why in (one["serve"].get("failed") or {}).items()]
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _run(what: str, run: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [str(JOBS_PYTHON), str(RACE), what, json.dumps(run), str(out)]
        subprocess.run(command, check=True, env=_environment())
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def _environment() -> dict[str, str]:
    return {**os.environ, "EBB_JOBS": str(JOBS)}


if __name__ == "__main__":
    sys.exit(main())
