"""Training on several machines: two processes, each with its own files, as SageMaker lays them out for a cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ebb_jobs import distributed, fitting, ladder
from ebb_jobs.errors import JobError
from ebb_jobs.fitting import Recipe
from ebb_jobs.ladder import Rung
from ebb_jobs.report import Report
from unit.jobs.stages import RUN, Ended, curated_penguins, prepare, run_stage_here

HOSTS = ["127.0.0.1", "127.0.0.2"]
SETTINGS: dict[str, Any] = {"spec": {"train": {"rungs": ["linear", "net"], "epochs": 6}}, "seed": 7}


def free_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return str(held.getsockname()[1])


def start(base: Path, curated: Path, number: int, port: str, epochs: int = 6, **asked: Any) -> subprocess.Popen[str]:
    """Start the stage on one of the machines."""
    settings = {**SETTINGS, "spec": {"train": asked or {**SETTINGS["spec"]["train"], "epochs": epochs}}}
    environment = prepare(base, "train", {"curated": curated}, settings)
    told = {"current_host": HOSTS[number], "hosts": HOSTS, "network_interface_name": "lo"}
    (base / "input/config/resourceconfig.json").write_text(json.dumps(told))
    environment |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(RUN), "train"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def curated(tmp_path_factory) -> Path:
    return curated_penguins(tmp_path_factory.mktemp("processed"))


@pytest.fixture(scope="module")
def alone(curated, tmp_path_factory) -> Ended:
    settings = {**SETTINGS, "spec": {"train": SETTINGS["spec"]["train"] | {"rungs": ["net"]}}}
    return run_stage_here(tmp_path_factory.mktemp("alone") / "job", "train", {"curated": curated}, settings)


@pytest.fixture(scope="module")
def together(curated, tmp_path_factory) -> list[Ended]:
    folder, port = tmp_path_factory.mktemp("together"), free_port()
    bases = [folder / "first", folder / "second"]
    started = [start(base, curated, number, port) for number, base in enumerate(bases)]
    logs = [process.communicate(timeout=200)[0] for process in started]
    ended = [Ended(*each) for each in zip(bases, [process.returncode for process in started], logs, strict=True)]
    for each in ended:
        assert each.status == 0, each.log
    return ended


def test_two_processes_learn_what_one_learns(alone, together):
    one, two = alone.metrics(), together[0].metrics()
    for split in ("validation", "test"):
        assert two["quality"][split] == pytest.approx(one["quality"][split], abs=0.03)
    weights = [load_file(ended.base / "model/original.safetensors") for ended in (alone, together[0])]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():  # the same steps, but for the order in which 16 bits are added
        alike = np.corrcoef(weights[1][name].ravel(), expected.ravel())[0, 1]
        assert alike > 0.95, f"{name}: {alike:.3f}"


def test_only_the_leader_writes(together):
    leader, follower = (ended.base for ended in together)
    assert (leader / "model/metrics.json").exists()
    assert list((follower / "model").iterdir()) == []
    assert list((follower / "checkpoints").iterdir()) == []


def test_the_report_is_that_of_both_machines(alone, together):
    told = together[0].metrics()
    assert (told["instances"], told["processes"]) == (2, 2)
    assert told["vcpu"] == 2 * alone.metrics()["vcpu"]
    assert {"loop_s", "wait_s", "wait_share", "workers"} == set(told["feed"])
    (recipes,) = [each for each in told["decisions"] if each["what"] == "recipes"]
    assert (recipes["chosen"], recipes["alternatives"]) == ("net", ["linear"])


def test_both_decide_as_the_leader_does(together):
    ends = [[line for line in ended.log.splitlines() if line.startswith("stop: ")] for ended in together]
    assert len(ends[0]) == 1
    assert ends[0] == ends[1]


def test_where_one_machine_is_taken_away_all_stop_after_the_same_step_and_a_checkpoint_is_written(curated, tmp_path):
    port, bases = free_port(), [tmp_path / "first", tmp_path / "second"]
    leader, follower = (start(base, curated, number, port, 10_000) for number, base in enumerate(bases))
    assert leader.stdout is not None
    heard = next((line for line in leader.stdout if "net epoch 2/" in line), None)
    assert heard is not None, "the leader ended before its second epoch"
    follower.terminate()
    told, _ = leader.communicate(timeout=120)
    follower.communicate(timeout=120)
    assert (leader.returncode != 0, follower.returncode != 0) == (True, True)
    assert "a checkpoint is written" in told
    assert (bases[0] / "checkpoints/net.pt").exists()
    assert not (bases[1] / "checkpoints/net.pt").exists()


SHARES_ITS_WORK = """
import os, pathlib, torch, torch.distributed as group
group.init_process_group("gloo")
sum_of_ranks = torch.tensor([float(group.get_rank() + 1)])
group.all_reduce(sum_of_ranks)
print("heard", sum_of_ranks.item(), "of", os.environ["SM_HOSTS"], flush=True)
if group.get_rank() == 0:
    pathlib.Path(os.environ["SM_MODEL_DIR"], "weights.txt").write_text(str(sum_of_ranks.item()))
group.destroy_process_group()
"""


def test_a_script_that_says_it_is_distributed_is_started_on_each_machine(tmp_path):
    data = tmp_path / "data"
    (data / "code").mkdir(parents=True)
    (data / "train.py").write_text(SHARES_ITS_WORK)
    (data / "code/inference.py").write_text("def model_fn(folder):\n    return folder\n")
    spec = {"task": "custom", "train": {"distributed": True}}
    processed = run_stage_here(tmp_path / "process", "process", {"data": data}, {"spec": spec, "seed": 7})
    assert processed.status == 0, processed.failure
    script, port = tmp_path / "process/processing/output/curated", free_port()
    bases = [tmp_path / "first", tmp_path / "second"]
    started = [start(base, script, number, port, distributed=True) for number, base in enumerate(bases)]
    logs = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], logs
    assert all("heard 3.0 of" in log and HOSTS[1] in log for log in logs)
    told = Ended(bases[0], 0, logs[0]).metrics()
    assert told["instances"] == 2
    assert any(path.name == "weights.txt" for path in (bases[0] / "model").rglob("*"))
    assert list((bases[1] / "model").iterdir()) == []


def test_recipes_that_are_no_networks_cannot_be_shared():
    rungs = [Rung(name, ladder.LINEAR, lambda _: None, lambda _: None) for name in ("linear",)]
    with pytest.raises(JobError, match=r"train\.instances: none of these recipes is a network"):
        ladder.shared(rungs, Report("train"))


def config(base: Path, told: dict[str, Any]) -> None:
    (base / "input/config").mkdir(parents=True)
    (base / "input/config/resourceconfig.json").write_text(json.dumps(told))


def test_each_machine_starts_torchrun_with_its_own_place(tmp_path, monkeypatch):
    config(tmp_path, {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"})
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("MASTER_PORT", raising=False)
    argv, environment = distributed.command("train")
    assert argv[1:3] == ["-m", "torch.distributed.run"]
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=1", "--master-addr=algo-1"} <= set(argv)
    assert argv[-1] == "train"
    assert environment["GLOO_SOCKET_IFNAME"] == "eth0"


def test_a_machine_with_gpus_has_a_process_for_each(tmp_path, monkeypatch):
    config(tmp_path, {"current_host": "algo-1", "hosts": ["algo-1"]})
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 4)
    argv, _ = distributed.command("train")
    assert "--nproc-per-node=4" in argv


@pytest.mark.parametrize("inside", [False, True])
def test_one_process_needs_no_torchrun_and_its_own_processes_start_no_other(tmp_path, monkeypatch, inside):
    config(tmp_path, {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"] if inside else ["algo-1"]})
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    if inside:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert distributed.command("train") is None


def test_shares_of_a_batch_are_weighed_so_that_their_mean_is_that_of_the_batch(monkeypatch):
    """Five rows for two: three and two, whose mean losses must count 3/5 and 2/5."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    losses = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    weighed = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed.group, "get_rank", lambda rank=rank: rank)
        weighed.append(losses[distributed.share(np.arange(5))].mean() * distributed.weight(5))
    assert np.mean(weighed) == pytest.approx(losses.mean())


def test_a_batch_of_one_row_leaves_the_second_process_a_row_that_does_not_count(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed.group, "get_rank", lambda: 1)
    assert distributed.share(np.array([7])).tolist() == [7]
    assert distributed.weight(1) == 0


def test_after_an_interruption_the_leader_goes_on_and_each_of_the_others_draws_apart(monkeypatch):
    torch.manual_seed(5)
    stored = {"random": torch.get_rng_state(), "progress": {"epoch": 2, "step": 7}}
    unbroken = torch.rand(4)
    drawn = []
    for seat in [(), (1,), (2,), (1,)]:
        monkeypatch.setattr(distributed, "seat", lambda seat=seat: seat)
        fitting._chance_again(stored, Recipe("accuracy", 10, 32), torch.device("cpu"))
        drawn.append(torch.rand(4))
    leader, second, third, again = drawn
    assert torch.equal(leader, unbroken)
    assert torch.equal(second, again), "another resume of the same step draws the same"
    assert not any(torch.equal(one, other) for one, other in [(leader, second), (leader, third), (second, third)])


def test_alone_everything_is_a_matter_of_course():
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    with distributed.joined():
        assert distributed.leads()
        assert distributed.world() == 1
        assert distributed.from_leader(lambda: "decided") == "decided"
        assert distributed.in_step(3.0, True) == (3.0, True)
        assert distributed.seat() == ()
