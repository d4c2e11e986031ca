"""On a GPU, in the jobs environment: python gpu_race.py probe, or gpu_race.py race RUN OUT, or plain RUN OUT.

`probe` prints what this environment's PyTorch and NVML see. `plain` trains the original's own network as one would
without the product: eager, bf16, a constant rate, channels as they come. `race` serves the networks in turns: the
original eager in bf16, the same compiled, and the small network eager and compiled. RUN is JSON: where the stages'
results lie. Energy is NVML's own counter, of the whole GPU, host excluded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("EBB_JOBS") or str(Path(__file__).resolve().parents[1] / "jobs"))

import numpy as np
import torch

from ebb_jobs import dataset, device, fitting, gpu, kinds, networks, train

WEIGHTS = "network.safetensors"
ROUNDS, SINGLES, BATCHES = 7, 200, 40
BATCH_ROWS = 32
WARM_UP = 20


def probe() -> dict[str, Any]:
    """Return whether a GPU can be used here, and why not."""
    told: dict[str, Any] = {"torch": torch.__version__, "available": torch.cuda.is_available()}
    if not told["available"]:
        lacking = [] if any(Path("/dev").glob("nvidia[0-9]*")) else ["this machine has no NVIDIA GPU"]
        if torch.version.cuda is None:
            lacking.append(f"the jobs environment's PyTorch {torch.__version__} is built for CPUs only")
        told["why"] = ", and ".join(lacking) or "PyTorch cannot reach the GPU's driver"
        return told
    with gpu.Watch() as watched:
        return told | {"device": device.found().told(), "nvml": watched.told()}


def plain(run: dict[str, str]) -> dict[str, Any]:
    """Train the original's network eagerly in bf16 for as many epochs as the product did; return what it took."""
    curated, original = Path(run["curated"]), Path(run["original"])
    schema = dataset.read_schema(original)
    kind = kinds.of(schema)
    codec = kind.open_codec(original)
    training, validation, test = (kind.read_split(curated, split, codec) for split in ("train", "validation", "test"))
    shaped = networks.load(original / "original.safetensors")
    torch.manual_seed(int(run["seed"]))
    network = type(shaped).from_config(shaped.config())
    metric = run["metric"]
    recipe = fitting.Recipe(
        metric=metric,
        epochs=int(run["epochs"]),
        batch_size=kind.recipe.batch_size(len(training)),
        peak_rate=kind.recipe.peak_rate / 2,
        weight_decay=kind.recipe.weight_decay,
        seed=int(run["seed"]),
        precision="bfloat16",
        one_cycle=False,
        channels_last=False,
        name="plain",
    )
    shares = train.class_shares(schema, training)
    with gpu.Watch() as watched:
        outcome = fitting.fit(
            network,
            training.inputs,
            train.hard_loss(training, shares, metric),
            lambda current: train.evaluate(current, validation, codec, metric),
            recipe,
            augment=kind.augment,
        )
        told = watched.told()
    quality = train.evaluate(network, test, codec, metric)
    return {"seconds": outcome.elapsed_s, "quality": quality, "epochs": outcome.epochs, "gpu": told}


def race(run: dict[str, str]) -> dict[str, Any]:
    """Let every form of the networks answer single examples and batches in turns; return their figures."""
    curated, original = Path(run["curated"]), Path(run["original"])
    kind = kinds.of(dataset.read_schema(original))
    codec = kind.open_codec(original)
    test = kind.read_split(curated, "test", codec)
    files = {"eager bf16": original / "original.safetensors"}
    if run.get("small"):
        files["small, eager bf16"] = Path(run["candidates"]) / run["small"] / WEIGHTS
    forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    failed: dict[str, str] = {}
    for name, file in files.items():
        network = networks.load(file).to(device.place())
        if test.inputs.ndim == 4:
            network = network.to(memory_format=torch.channels_last)
        forms[name] = network
        compiled = name.replace("eager", "compiled")
        try:
            forms[compiled] = torch.compile(networks.load(file).to(device.place()), mode="reduce-overhead")
            _answer(forms[compiled], test.inputs[:1])
        except Exception as error:  # whatever the compiler raises: the eager form stands
            failed[compiled] = f"{type(error).__name__}: {error}"[:300]
            forms.pop(compiled, None)
    figures = {name: _Figures(form, test.inputs) for name, form in forms.items()}
    names = list(figures)
    for number in range(ROUNDS):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            figures[name].take_turn()
    metric = run["metric"]
    told = {}
    for name, one in figures.items():
        answers = np.concatenate([_answer(forms[name], rows) for rows in _batches(test.inputs, 512)])
        probabilities = networks.probabilities(torch.from_numpy(answers)).numpy()
        told[name] = one.told() | {"quality": train.judge(probabilities, test, codec, metric)}
    return {"figures": told, "failed": failed}


class _Figures:
    """What one form of a network takes."""

    def __init__(self, form: Callable[[torch.Tensor], torch.Tensor], inputs: np.ndarray) -> None:
        self.form = form
        self.singles = [np.array(inputs[i : i + 1]) for i in range(min(len(inputs), SINGLES))]
        self.batches = [batch for batch in _batches(inputs, BATCH_ROWS) if len(batch) == BATCH_ROWS][:BATCHES]
        self.single_s: list[float] = []
        self.batch_s: list[float] = []
        self.joules: list[float] = []

    def take_turn(self) -> None:
        """Answer as often as a turn says."""
        for index in range(WARM_UP):
            _answer(self.form, self.singles[index % len(self.singles)])
            _answer(self.form, self.batches[index % len(self.batches)])
        self.single_s += [_timed(self.form, rows) for rows in self.singles]
        with gpu.Watch() as watched:
            self.batch_s += [_timed(self.form, rows) for rows in self.batches * 5]
            spent = (watched.told() or {}).get("joules")
        if spent is not None:
            self.joules.append(spent / (len(self.batches) * 5 * BATCH_ROWS))

    def told(self) -> dict[str, Any]:
        """Return p50 and p99 of one example in ms, rows a second in batches, and J for a million rows."""
        p50, p99 = (float(each) * 1000 for each in np.quantile(self.single_s, [0.5, 0.99]))
        return {
            "latency_ms": {"p50": round(p50, 5), "p99": round(p99, 5)},
            "throughput_rows_per_s": round(BATCH_ROWS / float(np.median(self.batch_s)), 1),
            "joules_per_million": round(float(np.median(self.joules)) * 1e6, 3) if self.joules else None,
        }


@torch.inference_mode()
def _answer(form: Callable[[torch.Tensor], torch.Tensor], rows: np.ndarray) -> np.ndarray:
    batch = networks.tensor(rows).to(device.place())
    if batch.ndim == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.autocast(batch.device.type, torch.bfloat16):
        answers = form(batch)
    return answers.float().cpu().numpy()  # waits for the GPU


def _timed(form: Callable[[torch.Tensor], torch.Tensor], rows: np.ndarray) -> float:
    begun = time.perf_counter()
    _answer(form, rows)
    return time.perf_counter() - begun


def _batches(inputs: np.ndarray, rows: int) -> list[np.ndarray]:
    return [np.array(inputs[start : start + rows]) for start in range(0, len(inputs), rows)]


def main() -> None:
    """Do what is asked for."""
    if sys.argv[1] == "probe":
        print(json.dumps(probe()))
        return
    run: dict[str, str] = json.loads(sys.argv[2])
    found = {"plain": plain, "race": race}[sys.argv[1]](run)
    Path(sys.argv[3]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
