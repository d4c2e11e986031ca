import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

from ebb_jobs import device, durations, fitting, networks, step_threads
from ebb_jobs.errors import DivergedError, JobError
from unit.jobs.stages import RUN, prepare, run_stage

ROWS = np.random.default_rng(0).uniform(-1, 1, (600, 5)).astype(np.float32)
TARGETS = torch.from_numpy((ROWS[:, 0] * ROWS[:, 1] > 0).astype(np.int64))
SETTINGS = {"spec": {"train": {"epochs": 30, "rungs": ["net"]}}, "seed": 3, "checkpoint_every_s": 0.0}


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny networks: threads would only wait for each other."""
    torch.set_num_threads(1)


def loss(outputs, rows):
    return functional.cross_entropy(outputs, TARGETS[rows])


def accuracy(network):
    return float((networks.predict(network, ROWS).argmax(1) == TARGETS.numpy()).mean())


def fit(evaluate=accuracy, **recipe):
    torch.manual_seed(0)
    network = networks.Mlp(5, [32], 2)
    return fitting.fit(network, ROWS, loss, evaluate, fitting.Recipe("accuracy", 40, 32, **recipe))


def test_it_learns_what_no_line_can_separate():
    assert fit().quality > 0.95


def noisy(batch, generator):
    return batch + 0.1 * torch.randn(batch.shape, generator=generator)


def test_batches_are_varied_and_the_seed_decides_how():
    weights = []
    for seed, augment in ((1, noisy), (1, noisy), (2, noisy), (1, None)):
        torch.manual_seed(0)
        network = networks.Mlp(5, [32], 2)
        recipe = fitting.Recipe("accuracy", 2, 32, seed=seed)
        fitting.fit(network, ROWS, loss, accuracy, recipe, augment=augment)
        weights.append(network.layers[0].weight.detach().numpy())
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[0], weights[3])


def test_a_step_is_as_large_as_the_numbers_that_it_multiplies():
    network = networks.Mlp(5, [32], 2)
    assert fitting.multiplications(network, ROWS) == 5 * 32 + 32 * 2
    assert fitting.threads(network, ROWS, 64, "float32", available=2) == 1


@pytest.mark.parametrize(("slow_down", "threads"), [(2.0, 2), (1.1, 1), (0.25, 1)])
def test_a_second_thread_is_taken_where_it_was_seen_to_pay(monkeypatch, slow_down, threads):
    def step(*_):
        return 0.01 * slow_down if torch.get_num_threads() == 1 else 0.01

    monkeypatch.setattr(fitting, "_timed_step", step)
    monkeypatch.setattr(fitting, "SMALL_STEP", 0)
    assert fitting.threads(networks.Mlp(5, [32], 2), ROWS, 64, "float32", available=2) == threads


@pytest.mark.parametrize(("slow_down", "threads"), [(2.0, 2), (1.1, 1), (0.25, 1)])
def test_each_epoch_looks_again_whether_a_second_thread_pays(monkeypatch, slow_down, threads):
    clock = [0.0]
    monkeypatch.setattr(step_threads, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    hands = step_threads.StepThreads(3 - threads, available=2)  # what the beginning found was the other count
    hands.epoch(160)
    before = torch.get_num_threads()
    try:
        for _ in range(160):
            hands.begin()
            clock[0] += 0.01 * slow_down if torch.get_num_threads() == 1 else 0.01
            hands.end()
        assert hands.chosen == threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_a_short_epoch_keeps_the_threads_that_were_chosen():
    hands = step_threads.StepThreads(1, available=2)
    hands.epoch(20)
    before = torch.get_num_threads()
    try:
        for _ in range(20):
            hands.begin()
            assert torch.get_num_threads() == 1
            hands.end()
    finally:
        torch.set_num_threads(before)


def test_it_stops_at_the_target():
    outcome = fit(target=0.8)
    assert outcome.epochs < 40
    assert "target accuracy 0.8 is reached" in outcome.stopped_because


def test_it_stops_when_nothing_improves():
    outcome = fit(evaluate=lambda network: 0.5)
    assert outcome.epochs == 20  # 30 % of 40 epochs without progress, and half of the plan
    assert "no better accuracy" in outcome.stopped_because


def test_of_equal_epochs_the_last_is_kept_and_recorded():
    outcome = fit(evaluate=lambda network: 0.5)
    assert (outcome.best_epoch, outcome.kept_epoch) == (1, outcome.epochs)


def test_it_stops_when_the_budget_is_used_and_keeps_the_best():
    outcome = fit(budget_s=0.05)
    assert outcome.epochs < 40
    assert "time budget" in outcome.stopped_because


def test_a_loss_that_is_never_finite_fails_after_smaller_rates():
    network = networks.Mlp(5, [8], 2)
    with pytest.raises(DivergedError, match="not finite"):
        fitting.fit(
            network,
            ROWS,
            lambda outputs, rows: outputs.sum() * float("nan"),
            accuracy,
            fitting.Recipe("accuracy", 3, 64),
        )


@pytest.fixture(scope="module")
def uninterrupted(penguins, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    ended = run_stage(whole, "train", {"curated": penguins.curated}, SETTINGS)
    assert ended.status == 0, ended.log
    return load_file(whole / "model/original.safetensors")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_as_if_never_stopped(penguins, tmp_path, uninterrupted, how):
    base = tmp_path / "killed"
    environment = prepare(base, "train", {"curated": penguins.curated}, SETTINGS)
    process = subprocess.Popen(
        [sys.executable, str(RUN), "train"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "epoch 4/" in line:
            process.send_signal(how)
            break
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert (base / "checkpoints/net.pt").exists()
    assert not (base / "model/metrics.json").exists()

    again = subprocess.run(
        [sys.executable, str(RUN), "train"], env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "goes on from the checkpoint at epoch" in again.stdout
    weights = load_file(base / "model/original.safetensors")
    for name, whole in uninterrupted.items():
        assert np.array_equal(weights[name], whole), f"{name} differs from the run that was not killed"


def test_an_interrupted_run_saves_where_it_stands_and_says_so(penguins, tmp_path, uninterrupted):
    """No checkpoint is due in this run: the one that is there was written because of the signal."""
    base = tmp_path / "interrupted"
    settings = {**SETTINGS, "checkpoint_every_s": 3600.0}
    environment = prepare(base, "train", {"curated": penguins.curated}, settings)
    process = subprocess.Popen(
        [sys.executable, str(RUN), "train"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "epoch 4/" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped by SIGTERM at epoch" in (base / "output/failure").read_text()
    assert (base / "checkpoints/net.pt").exists()
    assert not (base / "model/metrics.json").exists()

    again = subprocess.run(
        [sys.executable, str(RUN), "train"], env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    resumed = int(again.stdout.partition("goes on from the checkpoint at epoch ")[2].partition(",")[0])
    assert resumed >= 5
    weights = load_file(base / "model/original.safetensors")
    for name, whole in uninterrupted.items():
        assert np.array_equal(weights[name], whole), f"{name} differs from the run that was not interrupted"


def test_a_stage_that_is_stopped_while_it_loads_ends_at_once(penguins, tmp_path):
    environment = prepare(tmp_path / "job", "train", {"curated": penguins.curated}, SETTINGS)
    script = (
        f"import os, runpy, signal, sys; sys.argv = ['run.py', 'train']; sys.path.insert(0, {str(RUN.parent)!r})\n"
        "from ebb_jobs import dataset\n"
        "dataset.read_schema = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"runpy.run_path({str(RUN)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_not_used(penguins, tmp_path):
    stored = {"network": {}, "fingerprint": "another run"}
    for number, write in enumerate((lambda file: torch.save(stored, file), lambda file: file.write_bytes(b"cut"))):
        base = tmp_path / str(number)
        (base / "checkpoints").mkdir(parents=True)
        write(base / "checkpoints/net.pt")
        ended = run_stage(
            base, "train", {"curated": penguins.curated}, {"spec": {"train": {"epochs": 2, "rungs": ["net"]}}}
        )
        assert ended.status == 0, ended.log
        assert "starts afresh" in ended.log
        assert ended.metrics()["resumed_at_epoch"] is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172800), ("PT1H30M", 5400), (3600.0, 3600), (None, None)],
)
def test_durations(text, seconds):
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "1 hour or so", "", "5"])
def test_what_is_no_duration_is_said(text):
    with pytest.raises(JobError, match="no duration"):
        durations.seconds(text)


def test_bf16_is_only_taken_where_it_exists_and_pays(monkeypatch):
    for unit in device.BF16_UNITS:
        monkeypatch.setattr(torch.cpu, unit, lambda: False, raising=False)
    network = networks.Mlp(5, [8], 2)
    began = time.monotonic()
    assert fitting.bf16_pays(network, ROWS, 32) == (False, "this CPU has no bf16 units", None)
    assert time.monotonic() - began < 1


def test_what_bf16_gains_is_timed_on_one_thread_where_no_other_work_can_hide_it(monkeypatch):
    seen = set()

    def step(trial, rows, precision):
        seen.add(torch.get_num_threads())
        return {"float32": 0.02, "bfloat16": 0.01}[precision]

    monkeypatch.setattr(fitting, "_timed_step", step)
    monkeypatch.setattr(fitting, "TRIAL_S", 0)
    monkeypatch.setattr(device, "found", lambda: device.Device(device.CPU, "a CPU", True, False, True, None, ""))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pays, why, gain = fitting.bf16_pays(networks.Mlp(5, [8], 2), ROWS, 32)
        assert (pays, gain, seen, torch.get_num_threads()) == (True, 2.0, {1}, 2)
        assert "2.00 times as long" in why
    finally:
        torch.set_num_threads(before)
