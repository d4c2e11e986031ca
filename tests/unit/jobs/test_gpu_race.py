"""The GPU benchmark's side in the jobs environment, here on the CPU: the same code, another device."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from unit.jobs.stages import DATA, run_stage_here

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import gpu_race


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("race")
    (base / "data").mkdir()
    (base / "data/penguins.csv").write_bytes((DATA / "penguins.csv").read_bytes())
    settings = {"spec": {"train": {"rungs": ["net"], "epochs": 3}}, "seed": 7}
    assert run_stage_here(base / "process", "process", {"data": base / "data"}, settings).status == 0
    curated = base / "process/processing/output/curated"
    trained = run_stage_here(base / "train", "train", {"curated": curated}, settings)
    assert trained.status == 0, trained.failure
    small = base / "candidates/student"
    small.mkdir(parents=True)
    (small / gpu_race.WEIGHTS).write_bytes((base / "train/model/original.safetensors").read_bytes())
    return {
        "curated": str(curated),
        "original": str(base / "train/model"),
        "candidates": str(base / "candidates"),
        "small": "student",
        "metric": trained.metrics()["metric"],
        "epochs": "3",
        "seed": "7",
    }


def test_a_plain_loop_trains_the_same_network_eagerly(run):
    told = gpu_race.plain(run)
    assert told["epochs"] == 3
    assert 0.3 < told["quality"] <= 1.0
    assert told["gpu"] is None


def test_every_form_of_the_networks_is_raced(run, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(gpu_race, "ROUNDS", 1)
    monkeypatch.setattr(gpu_race, "WARM_UP", 1)
    monkeypatch.setattr(gpu_race, "SINGLES", 5)
    monkeypatch.setattr(gpu_race, "BATCHES", 1)
    told = gpu_race.race(run)
    assert list(told["figures"]) == ["eager bf16", "compiled bf16", "small, eager bf16", "small, compiled bf16"]
    for one in told["figures"].values():
        assert one["latency_ms"]["p50"] > 0
        assert one["joules_per_million"] is None
        assert one["quality"] > 0.3


def test_what_cannot_be_compiled_is_told_and_the_eager_form_stands(run, monkeypatch):
    def broken(network, **_):
        raise RuntimeError("no Triton")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(gpu_race, "ROUNDS", 1)
    monkeypatch.setattr(gpu_race, "SINGLES", 2)
    monkeypatch.setattr(gpu_race, "BATCHES", 1)
    told = gpu_race.race(run | {"small": ""})
    assert (list(told["figures"]), told["failed"]) == (["eager bf16"], {"compiled bf16": "RuntimeError: no Triton"})


def test_where_there_is_no_gpu_the_probe_says_why(capsys, monkeypatch):
    monkeypatch.setattr(gpu_race.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_race.py", "probe"])
    gpu_race.main()
    told = json.loads(capsys.readouterr().out)
    assert told["available"] is False
    assert told["why"]
