"""What networks train on: a GPU, AWS's Trainium or the CPU, the precisions that it has units for, and its compiler.

Chosen by what is present, never by what a plan hoped for. Nothing here was run on Trainium: that path is assumed from
the guides of PyTorch/XLA and Neuron, and marked so in the report.
Sources: https://docs.pytorch.org/docs/stable/notes/amp_examples.html, https://docs.pytorch.org/xla/,
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/frameworks/torch/.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

CUDA, NEURON, CPU = "cuda", "neuron", "cpu"
BF16_UNITS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
TENSOR_CORES = (7, 0)
"""From this compute capability on (Volta) a GPU multiplies faster in 16 bits."""
COMPILES_FROM_S = 300.0
"""Of training that is left on a GPU. Compiling takes 13 to 25 s on two cores (measured), beside a GPU about as long
(assumed), which less training would not gain back."""


@dataclass(frozen=True)
class Device:
    """What was found. `compiler` is None where steps run as they are written, and `why` says for what reason."""

    kind: str
    name: str
    bfloat16: bool
    float16: bool
    channels_last: bool
    compiler: str | None
    why: str
    assumed: bool = False

    def told(self) -> dict[str, Any]:
        """Return the fields of a report."""
        return asdict(self)

    @property
    def without_bfloat16(self) -> str:
        """Return the precision to train in where bfloat16 is not worth it; 16 bits need their loss scaled."""
        return "float16" if self.float16 and not self.bfloat16 else "float32"


def found() -> Device:
    """Return what this machine trains on."""
    if torch.cuda.is_available():
        return _gpu()
    return _neuron() if _has_neuron() else _processor()


def place() -> torch.device:
    """Return where networks train, as PyTorch calls it."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if _has_neuron():
        import torch_xla

        return torch_xla.device()
    return torch.device("cpu")


def dtype(precision: str) -> torch.dtype | None:
    """Return the type of 16 bits of a precision, None for the full one."""
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)


def scaler(precision: str, kind: str) -> torch.amp.GradScaler:
    """Return what scales a loss, so that small gradients do not vanish in float16; it does nothing for the others."""
    return torch.amp.GradScaler(kind if kind in (CUDA, CPU) else CPU, enabled=precision == "float16")


def compiles(machine: Device, left_s: float) -> tuple[bool, str]:
    """Return whether the steps of so much training are worth compiling, and why."""
    if machine.compiler != "inductor":
        return False, machine.why
    told = f"{left_s:.0f} s of training are left, {COMPILES_FROM_S:.0f} s are worth compiling for"
    return left_s >= COMPILES_FROM_S, told


def compiled(forward: nn.Module) -> nn.Module:
    """Return the network compiled; what cannot be compiled runs as it is written."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    return torch.compile(forward)


def _gpu() -> Device:
    capability = torch.cuda.get_device_capability()
    # PyTorch calls bfloat16 supported where it is emulated, on a T4: slower there than full precision.
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    triton = importlib.util.find_spec("triton") is not None
    why = "Triton generates the kernels" if triton else "there is no Triton to generate kernels"
    return Device(
        CUDA,
        torch.cuda.get_device_name(),
        bfloat16,
        capability >= TENSOR_CORES,
        True,
        "inductor" if triton else None,
        why,
    )


def _neuron() -> Device:
    return Device(NEURON, "Trainium", True, False, False, "neuronx-cc", "XLA compiles every step by itself", True)


def _processor() -> Device:
    bfloat16 = any(getattr(torch.cpu, name, lambda: False)() for name in BF16_UNITS)
    # Steps in bf16 and channels last: 2,988 pictures a second as they are, 2,608 compiled (measured on two cores).
    why = "on CPUs compiled steps were measured to be no faster"
    return Device(CPU, torch.backends.cpu.get_cpu_capability(), bfloat16, False, True, None, why)


def _has_neuron() -> bool:
    """Tell whether there is a Neuron core and what drives it: torch_xla alone would offer the CPU as its device."""
    return any(Path("/dev").glob("neuron*")) and importlib.util.find_spec("torch_xla") is not None
