"""Device, precision and compiler by what is present; the machines are fakes at PyTorch's boundary."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ebb_jobs import device


def with_gpu(monkeypatch, *, capability=(8, 0), bfloat16=True, triton=True) -> None:
    """Pretend that PyTorch drives a GPU."""
    for name, value in {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_capability": lambda: capability,
        "get_device_name": lambda: "NVIDIA T4" if capability < (8, 0) else "NVIDIA L4",
        "is_bf16_supported": lambda including_emulation=True: bfloat16 or including_emulation,
    }.items():
        monkeypatch.setattr(device.torch.cuda, name, value)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object() if triton else None)


def with_processor(monkeypatch, *, bfloat16=False) -> None:
    """Pretend a CPU."""
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    for unit in device.BF16_UNITS:
        monkeypatch.setattr(device.torch.cpu, unit, lambda: bfloat16)


def with_trainium(monkeypatch, tmp_path, *, driver=True) -> None:
    """Pretend a Neuron core, and torch_xla beside it."""
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    (tmp_path / "neuron0").touch()
    monkeypatch.setattr(device, "Path", lambda _: tmp_path)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object() if driver else None)
    monkeypatch.setitem(__import__("sys").modules, "torch_xla", SimpleNamespace(device=lambda: torch.device("meta")))


def test_a_gpu_with_bf16_units_trains_in_bf16_with_its_channels_last(monkeypatch):
    with_gpu(monkeypatch)
    found = device.found()
    assert (found.kind, found.bfloat16, found.channels_last, found.compiler) == ("cuda", True, True, "inductor")
    assert found.without_bfloat16 == "float32"
    assert device.place() == torch.device("cuda", 0)


def test_an_older_gpu_trains_in_fp16_even_where_pytorch_would_emulate_bf16(monkeypatch):
    with_gpu(monkeypatch, capability=(7, 5), bfloat16=False)
    found = device.found()
    assert (found.bfloat16, found.float16, found.without_bfloat16) == (False, True, "float16")


def test_a_gpu_without_tensor_cores_trains_in_fp32(monkeypatch):
    with_gpu(monkeypatch, capability=(6, 1), bfloat16=False)
    assert device.found().without_bfloat16 == "float32"


@pytest.mark.parametrize(
    ("triton", "left_s", "compiles"),
    [
        pytest.param(True, 3600.0, True, id="a long job"),
        pytest.param(True, 60.0, False, id="a short one"),
        pytest.param(False, 3600.0, False, id="nothing to compile with"),
    ],
)
def test_a_gpus_steps_are_compiled_where_the_job_is_long_enough(monkeypatch, triton, left_s, compiles):
    with_gpu(monkeypatch, triton=triton)
    assert device.compiles(device.found(), left_s)[0] is compiles


def test_a_cpus_steps_are_not_compiled_because_they_were_no_faster(monkeypatch):
    with_processor(monkeypatch)
    assert device.compiles(device.found(), 1e6) == (False, "on CPUs compiled steps were measured to be no faster")


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_cpu_has_bf16_where_it_has_units_for_it(monkeypatch, bfloat16):
    with_processor(monkeypatch, bfloat16=bfloat16)
    found = device.found()
    assert (found.kind, found.bfloat16, found.without_bfloat16) == ("cpu", bfloat16, "float32")
    assert device.place() == torch.device("cpu")


def test_trainium_is_driven_by_xla_and_marked_as_assumed(monkeypatch, tmp_path):
    with_trainium(monkeypatch, tmp_path)
    found = device.found()
    assert (found.kind, found.bfloat16, found.assumed) == ("neuron", True, True)
    assert not device.compiles(found, 1e6)[0], "XLA compiles by itself"
    assert device.place() == torch.device("meta")


def test_trainium_without_its_driver_leaves_the_cpu(monkeypatch, tmp_path):
    with_trainium(monkeypatch, tmp_path, driver=False)
    assert device.found().kind == "cpu"
    assert device.place() == torch.device("cpu")


def test_only_float16_needs_its_loss_scaled():
    assert device.scaler("float16", "cpu").is_enabled()
    assert not device.scaler("bfloat16", "cpu").is_enabled()
    assert not device.scaler("float32", "xla").is_enabled()


def test_a_step_without_scaling_is_the_step_itself():
    weights = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1)
    scaler = device.scaler("float32", "cpu")
    scaler.scale(weights(torch.ones(1, 2)).sum()).backward()
    scaler.unscale_(optimizer)
    before = weights.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert torch.allclose(before - weights.weight, torch.full((1, 2), 0.1))


def test_the_report_says_what_was_found(monkeypatch):
    with_processor(monkeypatch)
    assert {"kind", "name", "bfloat16", "compiler", "why", "assumed"} <= device.found().told().keys()
