"""What a kind of data (tables, images, texts, tensors of a script) must know so that the stages need not.

The stages train, compress and compile know examples only as *raws* (what a request holds), as the network's input (what
`Codec.encode` makes of them) and as targets. Training reads its inputs with `Kind.read_split`, serving encodes requests
with `Codec.encode`; both must give the same bits, so whatever can differ from library to library (scaling to floats,
normalising) belongs into the network, where it is exported and measured with it. Images thus enter their network as
uint8 [rows, height, width, channels], texts as int32 [rows, tokens]: small on disk, and never rounded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ebb_jobs.bodies import Body
from ebb_jobs.dataset import Split
from ebb_jobs.levers import Levers
from ebb_jobs.networks import Network
from ebb_jobs.report import Report

if TYPE_CHECKING:
    from ebb_jobs.ladder import Rung

Raws = Any
"""A batch of examples as parsed from a request: {column: [values]}, list[bytes], list[str] or an array."""


@dataclass(frozen=True)
class KindRecipe:
    """How long and how fast networks of a kind train; a spec's `train` section goes before it."""

    steps: int
    """Optimizer steps of the original, within `min_epochs` and `max_epochs`."""
    student_steps: int
    peak_rate: float
    student_peak_rate: float
    batch_size: Callable[[int], int]
    """Training rows -> rows of a step."""
    min_epochs: int = 8
    max_epochs: int = 100
    weight_decay: float = 0.02
    students_follow_precision: bool = True
    """Students train in bf16 where it pays for the original; not where their steps are too small to gain."""
    temperature: float = 2.0
    """By which the original's outputs are softened for whom it teaches: how much counts what it holds for possible."""
    soft_share: float = 0.7
    """Of the original's answers in a lesson; the rest is that of the labels."""
    pruned_steps: int = 0
    """Steps of fine-tuning after pruning; 0: as many as a student's."""
    levers: Levers = field(default_factory=Levers)
    calibration_rows: int = 1024
    """Training rows from which static quantization learns its scales."""


class Codec(Protocol):
    """From requests to the network's input and from its outputs to answers.

    Its module travels in the bundle beside the server, so it needs no more than numpy and its decoder, and it has a
    function `open_codec(folder: Path) -> Codec`, which reads what `files` wrote.
    """

    def encode(self, raws: Raws) -> np.ndarray:
        """Return the network's input, examples along the first axis. Raises BadRequestError."""

    def parse(self, body: bytes, content_type: str) -> Raws:
        """Return the examples that a request holds, at least one. Raises BadRequestError."""

    def predictions(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Return one answer per example: {"label", "probabilities"} or {"value"}, in the target's own unit."""

    def files(self) -> dict[str, bytes]:
        """Return what `open_codec` needs, by file name."""


class Kind(Protocol):
    """One kind of data. `kinds/<name>.py` holds it as `KIND`."""

    name: str
    codec_module: str
    """The module of `ebb_jobs` that opens the codec: one of `serve.CODECS`."""
    code: tuple[ModuleType, ...]
    """Modules that a bundle carries besides serve, bad_request and runtimes: the codec's and what it imports."""
    recipe: KindRecipe
    runtimes: tuple[str, ...]
    """Of `runtimes.RUNTIMES`, the first being the one that the others fall back to."""
    quantized_operators: tuple[str, ...]
    """ONNX operators that static quantization turns to 8 bits."""
    skipped: Mapping[str, str]
    """What is not tried for this kind and why; the keys are `candidates.METHODS`, "dynamic" and "openvino"."""
    trains_itself: bool
    """A script of the user's trains: there is no PyTorch network, and the held-out rows come with what it exported."""

    def fit_codec(self, curated: Path, schema: dict[str, Any], report: Report) -> Codec:
        """Learn the codec from the training rows only."""

    def open_codec(self, folder: Path) -> Codec:
        """Return the codec that was written to `folder`."""

    def read_split(self, curated: Path, split: str, codec: Codec) -> Split:
        """Return one split as the network takes it; `inputs` may be a memory map."""

    def singles(self, curated: Path, split: str, codec: Codec, count: int) -> list[Raws]:
        """Return up to `count` batches of one example each, as a client sends them (an image: its file's bytes)."""

    def join(self, singles: list[Raws]) -> Raws:
        """Return batches of one as one batch."""

    def bodies(self, codec: Codec, singles: list[Raws]) -> list[Body]:
        """Return bodies that together are every way to ask; each holds as many of `singles` as the server takes."""

    def rungs(self, codec: Codec, training: Split) -> Sequence[Rung]:
        """Return the recipes for these rows, from the cheapest to the dearest; see `ladder`."""

    def original(self, codec: Codec, training: Split) -> Network:
        """Return the untrained network of the dearest rung for these rows."""

    def students(self, teacher: Network, codec: Codec, training: Split) -> Sequence[Callable[[], Network]]:
        """Return makers of untrained smaller networks, from narrow to wide."""

    def prune(self, network: Network, share: float, example: Tensor) -> Network | None:
        """Return a copy without that share of its channels; None where it cannot be done.

        `example` is a batch of inputs to trace with. Must be deterministic: a resumed job prunes again.
        """

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return a training batch, varied; all chance comes from `generator`, which is on the CPU."""

    def misfit(self, signature: dict[str, Any], schema: dict[str, Any]) -> str | None:
        """Return why a served model with this signature cannot be measured on data with this schema."""
