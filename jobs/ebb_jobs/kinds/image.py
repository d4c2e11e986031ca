"""Images: one picture per example, one label each."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import Tensor

from ebb_jobs import dataset, gradient, image, image_networks, knobs
from ebb_jobs.bodies import Body, filled
from ebb_jobs.dataset import Split
from ebb_jobs.errors import InputMissingError
from ebb_jobs.image import ImageCodec
from ebb_jobs.image_networks import ConvNet
from ebb_jobs.kind import KindRecipe
from ebb_jobs.knobs import Turned
from ebb_jobs.ladder import Rung
from ebb_jobs.networks import Network
from ebb_jobs.report import Report

STUDENT_SHARES = (1.0, 1.5)
"""Widths to try, as shares of the original's: with half the depth and a quarter of the places, width is cheap."""
PLAIN_LAYERS = ((2, 2, 1), (2, 2, 2))
"""Layers per stage of students without shortcuts, which run fastest and want many pictures to learn from."""
MANY_ROWS = 10_000
SMALL_BATCH = 0.5
"""Share of the batch from which the small network learns of many pictures, at a student's rate.

In 8 epochs of 160 steps instead of 10 of 80 it took a fifth less time and told 0.8 points more pictures rightly (make
bench-train).
"""
FEW_ROWS = 1_000
"""Below, chance moves the held-out quality by more than may be lost: a wider student could prove nothing."""
SCALING_ROWS = 2048
SHIFT = 1 / 14
"""How far training moves a picture at most, as a share of its side: two of the 28 pixels of a digit."""
PRUNED_MULTIPLE = 8
"""Channels are left in multiples of this: vector units take as long for fewer."""


def batch_size(rows: int) -> int:
    """Return the batch size for that many rows: enough steps for few pictures, enough work per step for many."""
    return next((size for limit, size in ((1_000, 16), (3_000, 32), (10_000, 64), (100_000, 128)) if rows < limit), 256)


class ImageKind:
    """The file's pixels, residual convolutions, both runtimes."""

    name = "image"
    codec_module = "image"
    code = (image,)
    recipe = KindRecipe(
        steps=750,
        student_steps=1000,
        peak_rate=2e-3,
        student_peak_rate=4e-3,
        batch_size=batch_size,
        max_epochs=40,
        pruned_steps=320,
        calibration_rows=512,
    )
    runtimes = ("onnxruntime", "openvino")
    quantized_operators = ("Conv", "Gemm", "MatMul", "Add", "Relu", "ReduceMean", "AveragePool")
    skipped: Mapping[str, str] = {}
    trains_itself = False

    def fit_codec(self, curated: Path, schema: dict[str, Any], report: Report) -> ImageCodec:
        """Return the codec of this geometry and these classes; there is nothing to learn from the pixels."""
        return ImageCodec(
            {"version": 1, "task": schema["task"], "input": dict(schema["input"]), "target": dict(schema["target"])}
        )

    def open_codec(self, folder: Path) -> ImageCodec:
        """Return the codec of a folder."""
        return image.open_codec(folder)

    def read_split(self, curated: Path, split: str, codec: ImageCodec) -> Split:
        """Return one split: inputs uint8 [rows, height, width, channels], mapped from the file."""
        file = curated / f"{split}.pixels.npy"
        if not file.exists():
            raise InputMissingError(f"the curated channel holds no {file.name}: did `process` finish?")
        labels = np.asarray(dataset.read_columns(curated, split, ["label"])["label"])
        index = {label: position for position, label in enumerate(codec.classes)}
        targets = np.array([index[label] for label in labels], dtype=np.int64)
        # Copy on write: PyTorch takes no read-only arrays, and nothing is ever written.
        return Split(np.asarray(np.load(file, mmap_mode="c")), targets, labels)

    def singles(self, curated: Path, split: str, codec: ImageCodec, count: int) -> list[list[bytes]]:
        """Return the first of the original files that `process` kept."""
        kept = json.loads((curated / "samples.json").read_text(encoding="utf-8"))[split]
        return [[(curated / one["file"]).read_bytes()] for one in kept[:count]]

    def join(self, singles: list[list[bytes]]) -> list[bytes]:
        """Return the files of all."""
        return [data for one in singles for data in one]

    def bodies(self, codec: ImageCodec, singles: list[list[bytes]]) -> list[Body]:
        """Return a file of each format as itself, and all in one JSON document."""
        files = self.join(singles)
        found: dict[str, list[int]] = {}
        for number, data in enumerate(files):
            found.setdefault(image.media_type(data), []).append(number)

        def document(some: list[bytes]) -> bytes:
            return json.dumps({"instances": [{"image": base64.b64encode(data).decode()} for data in some]}).encode()

        alone = [filled(name, lambda some: some[0], files, of=numbers, at_most=1) for name, numbers in found.items()]
        return [*(body for bodies in alone for body in bodies), *filled("application/json", document, files)]

    def rungs(self, codec: ImageCodec, training: Split) -> list[Rung]:
        """Return a network of half the depth and resolution, and the whole one."""

        def small(turned: Turned) -> ConvNet:
            return image_networks.student(self.original(codec, training), 1.0)

        def large(turned: Turned) -> ConvNet:
            return self.original(codec, training)

        many = len(training) >= MANY_ROWS
        rate, batch = (self.recipe.student_peak_rate, SMALL_BATCH) if many else (None, 1.0)
        return [
            gradient.rung("small-net", small, knobs.NETWORK, peak_rate=rate, batch=batch),
            gradient.rung("net", large, knobs.NETWORK),
        ]

    def original(self, codec: ImageCodec, training: Split) -> ConvNet:
        """Return two residual blocks per stage, wider where there are more pictures."""
        network = image_networks.original(codec.shape, len(training), len(codec.classes))
        picked = np.linspace(0, len(training) - 1, min(len(training), SCALING_ROWS)).astype(np.intp)
        network.calibrate(torch.from_numpy(training.inputs[picked]))
        return network

    def students(self, teacher: Network, codec: ImageCodec, training: Split) -> list[Callable[[], Network]]:
        """Return networks of half the depth and half the resolution, narrow and, of enough pictures, wider.

        Of many pictures networks without shortcuts come first: they are the fastest.
        """
        assert isinstance(teacher, ConvNet)
        shares = STUDENT_SHARES[:1] if len(training) < FEW_ROWS else STUDENT_SHARES
        plain = PLAIN_LAYERS if len(training) >= MANY_ROWS else ()
        return [
            *(partial(image_networks.plain, teacher, deep) for deep in plain),
            *(partial(image_networks.student, teacher, share) for share in shares),
        ]

    def prune(self, network: Network, share: float, example: Tensor) -> ConvNet | None:
        """Return a copy without the channels whose weights are least, in groups that depend on each other.

        Source: Fang et al., DepGraph: Towards Any Structural Pruning, 2023; `torch_pruning` is theirs.
        """
        assert isinstance(network, ConvNet)
        pruned = copy.deepcopy(network).cpu().eval()
        torch_pruning.pruner.MagnitudePruner(
            pruned,
            example.cpu(),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            round_to=PRUNED_MULTIPLE,
            ignored_layers=[pruned.head],
        ).step()
        if pruned.parameter_count() == network.parameter_count():
            return None
        fresh = ConvNet.from_config(pruned.config())
        fresh.load_state_dict(pruned.state_dict())
        return fresh

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the pictures moved by up to SHIFT of their side, edge pixels repeated.

        They are not mirrored: a mirrored digit, letter or road sign is another one or none.
        """
        rows, height, width, _ = inputs.shape
        moved = []
        for axis, size in ((1, height), (2, width)):
            reach = round(size * SHIFT)
            offset = torch.randint(-reach, reach + 1, (rows, 1), generator=generator)
            places = (torch.arange(size) + offset).clamp(0, size - 1)
            moved.append(places.unsqueeze(3 - axis).to(inputs.device))
        return inputs[torch.arange(rows, device=inputs.device)[:, None, None], moved[0], moved[1]]

    def misfit(self, signature: dict[str, Any], schema: dict[str, Any]) -> str | None:
        """Return whether the served model wants pictures of another size or colour than `process` made of these."""
        wanted = list(signature["input"]["shape"])
        made = [schema["input"][name] for name in ("height", "width", "channels")]
        if wanted != made:
            return f"the served model takes pictures as {_told(wanted)}, these were made {_told(made)}"
        return None


def _told(shape: list[int]) -> str:
    height, width, channels = shape
    return f"{width} x {height} pixels in {'grey' if channels == 1 else 'colour'}"


KIND = ImageKind()
