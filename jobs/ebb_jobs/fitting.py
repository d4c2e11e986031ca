"""The training loop: one-cycle rate, early stopping, checkpoints from which it goes on as if never stopped.

It runs on what the machine has: a GPU, AWS's Trainium (through torch_xla) or the CPU. Inputs stay in memory or on disk
and go to the device batch by batch; weights end on the CPU.
"""

from __future__ import annotations

import copy
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ebb_jobs import device as devices
from ebb_jobs import distributed, growing, quality, stopping
from ebb_jobs.errors import DivergedError, StoppedError
from ebb_jobs.feeding import Feed
from ebb_jobs.networks import Network, tensor
from ebb_jobs.report import cpu_count, cpu_seconds
from ebb_jobs.step_threads import MUST_GAIN, StepThreads

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, row numbers) -> mean loss. The row numbers are on the CPU, the outputs where the network is."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""(a batch of inputs, the source of all chance) -> the batch, varied."""
BF16_MUST_GAIN = 1.15
TRIAL_S = 1.0
"""For comparing two precisions, which is part of what training costs; slow steps are timed twelve times at least."""
MAX_RESTARTS = 2
STOPS = ("completed", "target", "budget", "plateau", "predicted loser", "divergence")
"""Why a fit ended, in one word of the report; the sentence beside it has the numbers."""
LOSES_BY = 2.0
"""A run has lost when it would have to gain so many times what its last half brought, and is past half of its plan."""
MOST_CUT = 0.75
"""Share of its mistakes that a run may lose while the rate falls from its peak to nothing.

Runs on letters and pictures lost 25 to 34 % of them in the second half of their plan, where the rate begins at 64 %.
"""
LEAST_PACE = 3
"""Epochs by which two runs of one plan are compared at least: one epoch at a high rate says little."""
SMALL_STEP = 2e7
"""Multiplications of a forward step, below which one thread is as fast as two."""


@dataclass(frozen=True)
class Recipe:
    """What decides a training run. Equal recipes on equal data give equal weights, unless time has a say.

    `budget_s` bends the rate once a quarter of it is used, and whether bf16 pays is timed: both depend on the machine.
    """

    metric: str
    epochs: int
    batch_size: int
    peak_rate: float = 2e-3
    weight_decay: float = 0.02
    seed: int = 7
    target: float | None = None
    rival: float | None = None
    """A quality that is there already: a run that will not reach it ends early. It decides no weights before."""
    pace: tuple[float, ...] = ()
    """What another run of the same plan had found after each epoch: who is behind it past half of the plan has lost."""
    budget_s: float | None = None
    precision: str = "float32"
    one_cycle: bool = True
    """The rate rises and falls over the plan; else it stays."""
    channels_last: bool = True
    growth: growing.Growth = ()
    averaging: float = 0.0
    """Share of the averaged weights that stays at each step; 0: the last weights are judged and kept."""
    compiled: bool | None = False
    """By torch.compile; None: not even where the training is long enough to pay for it."""
    name: str = ""
    fingerprint: str = ""


@dataclass
class Progress:
    """Where a run stands; together with weights, optimizer and random state this is what a checkpoint holds."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    kept_epoch: int = 0
    rate_factor: float = 1.0
    restarts: int = 0
    precision: str = "float32"
    history: list[list[float]] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    """CPU seconds until the end of each epoch."""


@dataclass(frozen=True)
class Outcome:
    """A finished run. The network holds the weights of `kept_epoch`: the last that was as good as the best.

    `best_epoch` is the first of these, from which the patience counts.
    """

    quality: float
    epochs: int
    best_epoch: int
    kept_epoch: int
    stop: str
    """One of STOPS."""
    stopped_because: str
    history: list[list[float]]
    resumed_at_epoch: int | None
    elapsed_s: float
    spent: list[float]
    """CPU seconds until the end of each epoch."""


def epochs(rows: int, size: int, steps: int, *, at_least: int = 8, at_most: int = 100) -> int:
    """Return the epochs that take about `steps` steps, within bounds."""
    return min(at_most, max(at_least, math.ceil(steps * size / max(rows, 1))))


def device() -> torch.device:
    """Return where networks train: a GPU, a Neuron core, or the CPU."""
    return devices.place()


def threads(network: Network, inputs: np.ndarray, size: int, precision: str, available: int) -> int:
    """Return how many threads a step is worth: all, or one where handing over work costs more than it saves.

    That is so for small steps; and for large ones while something else uses the machine, because each thread then
    waits for the one that was put aside: such steps were seen to take four times as long as on a single thread.
    """
    if available == 1 or not is_large(network, inputs, size):
        return 1
    trial = _laid_out(copy.deepcopy(network), inputs).train()
    rows = tensor(inputs[:size])
    seconds: dict[int, list[float]] = {1: [], available: []}
    begun = time.perf_counter()
    while len(seconds[1]) < 3 or (len(seconds[1]) < 8 and time.perf_counter() - begun < 2):
        for count, taken in seconds.items():
            torch.set_num_threads(count)
            _timed_step(trial, rows, precision)  # warms up
            taken.append(_timed_step(trial, rows, precision))
    gain = float(np.median(seconds[1]) / np.median(seconds[available]))
    print(f"a step takes {gain:.2f} times as long on one thread as on {available}", flush=True)
    return available if gain >= MUST_GAIN else 1


def is_large(network: Network, inputs: np.ndarray, size: int) -> bool:
    """Tell whether a step of so many rows may be worth more than one thread."""
    return multiplications(network, inputs) * size >= SMALL_STEP


@torch.inference_mode()
def multiplications(network: Network, inputs: np.ndarray) -> int:
    """Return how many numbers are multiplied to answer one row."""
    network.eval()  # a batch norm cannot learn from one row
    with FlopCounterMode(display=False) as counted:
        network(tensor(inputs[:1]))
    return counted.get_total_flops() // 2  # a multiplication and an addition each


def bf16_pays(network: Network, inputs: np.ndarray, size: int) -> tuple[bool, str, float | None]:
    """Time a few steps in both precisions, when the CPU has bf16 units at all; a GPU or Neuron core always gains.

    On one thread: where something else uses the machine, threads wait for each other, and what that takes hides what
    the units gain. On such a machine bf16 was once found to be slower, and a training took twice as long as it need.

    Return whether it pays, why, and how many times as long fp32 steps take, None where that was not timed.
    """
    machine = devices.found()
    if machine.kind != devices.CPU:
        return machine.bfloat16, f"{machine.name} {'has' if machine.bfloat16 else 'has no'} bf16 units", None
    if not machine.bfloat16:
        return False, "this CPU has no bf16 units", None
    trial = _laid_out(copy.deepcopy(network), inputs).train()
    rows = tensor(inputs[:size])
    seconds = {"float32": math.inf, "bfloat16": math.inf}
    begun, rounds, count = time.perf_counter(), 0, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while rounds < 2 or (rounds < 8 and time.perf_counter() - begun < TRIAL_S):
            for precision in seconds:  # the best of all steps: the first warms up, and other work disturbs many
                for _ in range(3):
                    seconds[precision] = min(seconds[precision], _timed_step(trial, rows, precision))
            rounds += 1
    finally:
        torch.set_num_threads(count)
    gain = seconds["float32"] / seconds["bfloat16"]
    return (
        gain >= BF16_MUST_GAIN,
        f"fp32 steps take {gain:.2f} times as long as bf16 steps; bf16 from {BF16_MUST_GAIN} on",
        gain,
    )


def _timed_step(trial: torch.nn.Module, rows: Tensor, precision: str) -> float:
    begun = time.perf_counter()
    with _autocast(precision, "cpu"):
        outputs = trial(rows)
    outputs.float().square().mean().backward()
    return time.perf_counter() - begun


def fit(
    network: Network,
    inputs: np.ndarray,
    loss: Loss,
    evaluate: Callable[[Network], float],
    recipe: Recipe,
    *,
    augment: Augment | None = None,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 20.0,
) -> Outcome:
    """Train until the plan is done, the target reached, nothing improves, or the budget is used.

    On SIGTERM (spot capacity taken back, StopTrainingJob) the running step is finished, a checkpoint written and
    StoppedError raised. Where several processes train together, the first looks, writes and decides for all.
    """
    layout = nullcontext() if recipe.channels_last else _channels_first(network)
    with stopping.told_to_stop() as told, Feed(inputs, augment, recipe.seed, recipe.batch_size) as feed, layout:
        return _fit(network, inputs, loss, evaluate, recipe, feed, checkpoint, checkpoint_every_s, told)


def _chance_again(stored: dict[str, Any], recipe: Recipe, place: torch.device) -> None:
    """Go on with the chance of a checkpoint, which is the leader's; the others draw their own, apart from it as before.

    With the same one all would drop the same units for their rows.
    """
    if seat := distributed.seat():
        taken = (stored["progress"]["epoch"], stored["progress"]["step"])
        torch.manual_seed(int(np.random.SeedSequence((recipe.seed, *taken, *seat)).generate_state(1)[0]))
        return
    torch.set_rng_state(stored["random"])
    if place.type == "cuda" and stored.get("device_random") is not None:
        torch.cuda.set_rng_state(stored["device_random"])


def _fit(
    network: Network,
    inputs: np.ndarray,
    loss: Loss,
    evaluate: Callable[[Network], float],
    recipe: Recipe,
    feed: Feed,
    checkpoint: Path | None,
    checkpoint_every_s: float,
    told: threading.Event,
) -> Outcome:
    torch.manual_seed(recipe.seed + sum(distributed.seat()))
    place = device()
    hands = None
    if place.type == "cpu":
        hands = StepThreads(
            threads(network, inputs, recipe.batch_size, recipe.precision, cpu_count()),
            cpu_count() if is_large(network, inputs, recipe.batch_size) else 1,
        )
        torch.set_num_threads(hands.chosen)
    _laid_out(network, inputs, channels_last=recipe.channels_last).to(place)
    rows = len(inputs)
    steps = math.ceil(rows / recipe.batch_size)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay, fused=place.type != "xla"
    )
    progress = Progress(precision=distributed.from_leader(lambda: recipe.precision))
    averaged = copy.deepcopy(network) if recipe.averaging else None
    first_weights = copy.deepcopy(network.state_dict())
    best_weights = first_weights
    judged = network if averaged is None else averaged
    resumed: int | None = None
    stored = _load(checkpoint, recipe) if checkpoint is not None else None
    if distributed.everywhere(stored is not None) and stored is not None:
        network.load_state_dict(stored["network"])
        if averaged is not None:
            averaged.load_state_dict(stored["averaged"])
        optimizer.load_state_dict(stored["optimizer"])
        _chance_again(stored, recipe, place)
        progress, best_weights, resumed = Progress(**stored["progress"]), stored["best"], stored["progress"]["epoch"]
        print(f"{recipe.name} goes on from the checkpoint at epoch {resumed + 1}, step {progress.step}", flush=True)
    patience = max(6, round(recipe.epochs * 0.3))
    forward = distributed.wrapped(network)
    scaler = devices.scaler(progress.precision, place.type)
    considered = recipe.compiled is None or recipe.compiled
    if recipe.compiled:
        forward = devices.compiled(forward)
    begun, saved = time.monotonic() - progress.elapsed_s, time.monotonic()
    cpu_begun = cpu_seconds() - progress.cpu_s
    stop, stopped = "completed", f"all {recipe.epochs} epochs are done"
    while progress.epoch < recipe.epochs:
        if not considered and progress.epoch > (resumed or 0):  # how long an epoch takes is known now
            considered, left = True, progress.elapsed_s / progress.epoch * (recipe.epochs - progress.epoch)
            pays, why = devices.compiles(devices.found(), min(left, recipe.budget_s or left))
            print(f"{recipe.name} steps are {'' if pays else 'not '}compiled: {why}", flush=True)
            forward = devices.compiled(forward) if pays else forward
        order = np.random.default_rng((recipe.seed, progress.epoch)).permutation(rows)
        network.train()
        if hands and not progress.step:
            hands.epoch(steps)
        while progress.step < steps:
            done = (progress.epoch * steps + progress.step) / (recipe.epochs * steps)
            # The rate falls with the time that is left, so that a short budget still ends well; but not before a
            # quarter of it is used: a slow first second must not change what an ample budget gives.
            if recipe.budget_s and progress.elapsed_s > recipe.budget_s / 4:
                done = max(done, min(1.0, progress.elapsed_s / recipe.budget_s))
            for group in optimizer.param_groups:
                group["lr"] = recipe.peak_rate * progress.rate_factor * (_one_cycle(done) if recipe.one_cycle else 1.0)
            picked, batch = feed.take(order, progress.epoch, progress.step)
            if recipe.growth:
                batch = growing.smaller(batch, growing.share(recipe.growth, done))
            size = min(recipe.batch_size, rows - progress.step * recipe.batch_size)
            if hands:
                hands.begin()
            with _autocast(progress.precision, place.type):
                outputs = forward(batch.to(place))
            value = loss(outputs.float(), torch.from_numpy(picked)) * distributed.weight(size)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(value).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            scaler.step(optimizer)
            scaler.update()
            if hands:
                hands.end()
            if averaged is not None:
                taken = progress.epoch * steps + progress.step
                _average(averaged, network, min(recipe.averaging, (1 + taken) / (10 + taken)))
            if place.type == "xla":
                _run_what_is_queued()
            progress.loss_sum += value.item() * size / distributed.world()
            progress.step += 1
            progress.elapsed_s, stopping = distributed.in_step(time.monotonic() - begun, told.is_set())
            due = stopping or time.monotonic() - saved > checkpoint_every_s
            if checkpoint is not None and due and distributed.leads():
                progress.cpu_s = cpu_seconds() - cpu_begun
                _save(checkpoint, recipe, network, optimizer, progress, best_weights, averaged)
                saved = time.monotonic()
            if stopping:
                where = f"stopped by SIGTERM at epoch {progress.epoch + 1}, step {progress.step}"
                raise StoppedError(where + ("; a checkpoint is written" if checkpoint else ""))
            if recipe.budget_s and progress.elapsed_s > recipe.budget_s:
                break
        mean_loss = distributed.summed(progress.loss_sum) / rows
        found = distributed.from_leader(lambda: evaluate(judged))
        if not (math.isfinite(mean_loss) and math.isfinite(found)):
            _restart(network, optimizer, first_weights, progress, recipe)
            best_weights = first_weights
            judged.load_state_dict(first_weights)
            continue
        progress.cpu_s = cpu_seconds() - cpu_begun
        progress.history.append([round(mean_loss, 6), round(found, 6)])
        progress.spent.append(round(progress.cpu_s, 2))
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        print(
            f"{recipe.name} epoch {progress.epoch}/{recipe.epochs} loss {mean_loss:.4f} validation {recipe.metric} "
            f"{found:.4f} after {progress.elapsed_s:.1f} s",
            flush=True,
        )
        if progress.best is None or quality.is_better(recipe.metric, found, progress.best):
            progress.best, progress.best_epoch = found, progress.epoch
        if found == progress.best:  # equal is no progress; but on few rows many epochs are, and later ones are calmer
            progress.kept_epoch = progress.epoch
            best_weights = copy.deepcopy(judged.state_dict())
        if reason := distributed.from_leader(lambda: _stop_reason(recipe, progress, patience)):
            stop, stopped = reason
            break
    if progress.best is None:
        raise DivergedError("no epoch was finished")
    network.load_state_dict(best_weights)
    distributed.follow(network)
    network.to("cpu").eval()
    return Outcome(
        progress.best,
        progress.epoch,
        progress.best_epoch,
        progress.kept_epoch,
        stop,
        stopped,
        progress.history,
        resumed,
        progress.elapsed_s,
        progress.spent,
    )


@torch.no_grad()
def _average(averaged: Network, network: Network, kept: float) -> None:
    """Move the averaged weights, and what the norms have counted, towards those of the step."""
    for mean, now in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - kept)
        else:
            mean.copy_(now)


def _one_cycle(done: float) -> float:
    """Return the rate's factor: up over the first 15 %, then down along a cosine."""
    if done < 0.15:
        return 0.05 + 0.95 * done / 0.15
    return 0.5 * (1 + math.cos(math.pi * (done - 0.15) / 0.85)) + 1e-4


def _stop_reason(recipe: Recipe, progress: Progress, patience: int) -> tuple[str, str] | None:
    """Return the word and the sentence for an end before the plan's; None to go on."""
    assert progress.best is not None
    if recipe.target is not None and not quality.is_better(recipe.metric, recipe.target, progress.best):
        return "target", f"the target {recipe.metric} {recipe.target} is reached"
    if recipe.budget_s and progress.elapsed_s > recipe.budget_s:
        return "budget", f"the time budget of {recipe.budget_s:.0f} s is used"
    # The rate falls until the end, and hard data is learned late: before half of the plan nothing is given up. Nor
    # where a network that learns from smaller pictures was judged by whole ones.
    if progress.epoch < recipe.epochs / 2 or growing.share(recipe.growth, progress.epoch / recipe.epochs) < 1:
        return None
    if progress.epoch - progress.best_epoch >= patience:
        return "plateau", f"no better {recipe.metric} for {patience} epochs"
    if loses(recipe, [found for _, found in progress.history]):
        told = f"{recipe.metric} {progress.best:.4f} after {progress.epoch} of {recipe.epochs} epochs"
        return "predicted loser", f"{told} will not reach the {recipe.rival:.4f} of a cheaper recipe"
    if is_behind(recipe, [found for _, found in progress.history]):
        return "predicted loser", f"behind a run of the same plan after {progress.epoch} of {recipe.epochs} epochs"
    return None


def loses(recipe: Recipe, found: list[float]) -> bool:
    """Tell whether a run is so far behind its rival that it will not reach it.

    It would have to gain, in what is left of the plan, more than LOSES_BY times what the last half of its epochs
    brought, and to lose a larger share of its mistakes than the falling rate still takes away: at a high rate a network
    errs more than it will, so that a run seems to stand still until the rate falls.
    """
    if recipe.rival is None or len(found) < 4 or len(found) >= recipe.epochs:
        return False
    sign = 1 if quality.greater_is_better(recipe.metric) else -1
    scores = [sign * each for each in found]
    half, best = len(scores) // 2, max(scores)
    behind, brought = sign * recipe.rival - best, best - max(scores[:half])
    mistakes = 1 - best if sign > 0 else -best
    rate = _one_cycle(len(found) / recipe.epochs) if recipe.one_cycle else 0.0
    return behind > LOSES_BY * max(brought, 0.0) and behind > MOST_CUT * rate * mistakes


def is_behind(recipe: Recipe, found: list[float]) -> bool:
    """Tell whether a run was mostly worse than the one that sets its pace, of the last epochs as of all.

    Equal plans have equal rates at equal epochs, so that what they found is compared before either has ended.
    """
    pairs = list(zip(found, recipe.pace, strict=False))
    if len(pairs) < LEAST_PACE or len(pairs) >= recipe.epochs:
        return False
    sign = 1 if quality.greater_is_better(recipe.metric) else -1
    ahead = [sign * (mine - its) for mine, its in pairs]
    return bool(np.median(ahead) < 0 and np.median(ahead[-LEAST_PACE:]) < 0)


def _restart(
    network: Network,
    optimizer: torch.optim.Optimizer,
    first_weights: dict[str, Tensor],
    progress: Progress,
    recipe: Recipe,
) -> None:
    if progress.restarts == MAX_RESTARTS:
        raise DivergedError(
            f"the loss is not finite, even with the learning rate {recipe.peak_rate * progress.rate_factor}"
        )
    progress.restarts += 1
    progress.rate_factor /= 5
    progress.epoch = progress.step = progress.best_epoch = progress.kept_epoch = 0
    progress.best, progress.loss_sum, progress.history, progress.spent = None, 0.0, [], []
    network.load_state_dict(first_weights)
    optimizer.state.clear()
    print(f"{recipe.name} diverged: starts again with a fifth of the learning rate", flush=True)


def _autocast(precision: str, kind: str) -> Any:
    dtype = devices.dtype(precision)
    return nullcontext() if dtype is None else torch.autocast(kind, dtype)


def _laid_out(network: Network, inputs: np.ndarray, *, channels_last: bool = True) -> Network:
    """Return the network, its weights in the order in which images lie in memory: their channels last."""
    if inputs.ndim != 4:
        return network
    return network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@contextmanager
def _channels_first(network: Network) -> Iterator[None]:
    """Give the first convolution each channel as one, as PyTorch has images unless it is told; the rest follows it."""
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    handles = [
        layer.register_forward_pre_hook(lambda _, given: (given[0].clone(memory_format=torch.contiguous_format),))
        for layer in convolutions[:1]
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run_what_is_queued() -> None:
    """End a step on XLA, which else makes one ever longer graph of all steps."""
    import torch_xla

    torch_xla.sync()


def _save(
    file: Path,
    recipe: Recipe,
    network: Network,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best_weights: dict[str, Tensor],
    averaged: Network | None,
) -> None:
    partial = file.with_suffix(".partial")
    torch.save(
        {
            "fingerprint": _fingerprint(recipe),
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "progress": vars(progress),
            "best": best_weights,
            "averaged": averaged.state_dict() if averaged is not None else None,
        },
        partial,
    )
    os.replace(partial, file)
    print(f"{recipe.name} checkpoint at epoch {progress.epoch + 1}, step {progress.step}", flush=True)


def _load(file: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the checkpoint of this very recipe; another one's, or a damaged one, starts the run afresh."""
    if not file.exists():
        return None
    try:
        stored = torch.load(
            file, weights_only=True, map_location="cpu"
        )  # tensors and plain values only: no code is read
    except Exception as error:  # torch raises many kinds for a damaged file
        print(f"{recipe.name} starts afresh: the checkpoint cannot be read ({type(error).__name__})", flush=True)
        return None
    if stored.get("fingerprint") != _fingerprint(recipe):
        print(f"{recipe.name} starts afresh: the checkpoint belongs to other data or settings", flush=True)
        return None
    return stored


def _fingerprint(recipe: Recipe) -> str:
    """Name what must be equal to go on. Precision, which is timed, is the checkpoint's."""
    return f"{recipe.metric} {recipe.epochs} {recipe.batch_size} {recipe.peak_rate} {recipe.seed} {recipe.fingerprint}"
