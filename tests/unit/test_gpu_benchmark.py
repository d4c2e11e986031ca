"""The benchmark on GPUs: what it says where there is none, and how its table comes about."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu


def test_without_a_gpu_it_says_what_it_skipped_and_why_and_ends_well(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "probe", lambda: {"available": False, "why": "no NVIDIA GPU or driver is present"})
    out = tmp_path / "gpu.json"
    assert gpu.main(["--json", str(out)]) == 0
    told = capsys.readouterr().out
    assert "nothing was measured, because no NVIDIA GPU or driver is present." in told
    assert told.count("  - ") == 3
    assert "nvidia-ml-py" in told
    assert not out.exists(), "no result is written that nobody measured"


def test_an_environment_that_cannot_be_asked_is_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "JOBS_PYTHON", tmp_path / "python")
    assert gpu.probe() == {"available": False, "why": "there is no jobs environment (make setup)"}
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'No module named torch' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert gpu.probe()["why"] == "the jobs environment cannot be asked: No module named torch"


def test_the_smallest_network_that_was_left_is_served(tmp_path):
    for name, size in {"student": 10, "pruned": 30}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "network.safetensors").write_bytes(b"x" * size)
    listed = {"candidates": [{"name": "pruned"}, {"name": "student"}, {"name": "student-int8"}]}
    assert gpu.small_network(listed, tmp_path) == "student"
    assert gpu.small_network({"candidates": []}, tmp_path) == ""


MEASURED = {
    "train": {
        "ebb": {"seconds": 20.0, "quality": 0.93, "epochs": 10, "gpu": {"joules": 900.0}},
        "eager bf16": {"seconds": 40.0, "quality": 0.92, "epochs": 10, "gpu": {"joules": None}},
    },
    "compress": {"seconds": 60.0, "gpu": None},
    "serve": {
        "figures": {
            "eager bf16": {
                "latency_ms": {"p50": 1.0, "p99": 2.0},
                "throughput_rows_per_s": 10_000.0,
                "joules_per_million": 500.0,
                "quality": 0.93,
            },
            "small, compiled bf16": {
                "latency_ms": {"p50": 0.1, "p99": 0.2},
                "throughput_rows_per_s": 200_000.0,
                "joules_per_million": 20.0,
                "quality": 0.92,
            },
        },
        "failed": {"compiled bf16": "RuntimeError: no Triton"},
    },
}


def test_the_table_holds_ratios_joules_and_what_failed():
    lines = gpu.table("image", MEASURED)
    (small,) = [line for line in lines if line.startswith("small")]
    assert small.split() == ["small,", "compiled", "bf16", "0.1000", "200,000", "20.0", "0.9200", "10.00"]
    assert any(line.split() == ["eager", "bf16", "40.0", "-", "0.9200"] for line in lines)
    assert lines[-1] == "compiled bf16: RuntimeError: no Triton"


def test_a_stage_that_did_not_use_the_gpu_is_no_result(monkeypatch, tmp_path):
    class Stages:
        def __init__(self, *_):
            for name in ("process", "train", "compress"):
                folder = tmp_path / name
                folder.mkdir()
                (folder / "metrics.json").write_text(json.dumps({"device": "cpu"}))
                setattr(self, name, lambda folder=folder: folder)

    monkeypatch.setattr(gpu, "Runs", Stages)
    monkeypatch.setattr(gpu.inference_data, "drop", lambda *_: tmp_path)
    with pytest.raises(gpu.StageError, match="trained on cpu, not on the GPU"):
        gpu.measure("image", 1)
