"""The networks for images: residual convolutions, as large as the picture and the number of examples ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebb_jobs.networks import Network

STAGES = 3
"""Each after the first halves the picture and doubles the channels; then places are averaged away."""
BIG_SIDE = 48
"""Larger pictures are halved by the first convolution already: most of the work would be done at full resolution."""
FEW_ROWS = 10_000
"""Below, 16 channels suffice: of 3,500 digits they learned as much in a minute of CPU as twice as many in two."""


class Block(nn.Module):
    """Two convolutions around which the input passes (He et al., Deep Residual Learning, 2015)."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, middle, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(middle)
        self.second = nn.Conv2d(middle, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Sequential(
                # Averaging before the 1 x 1 convolution sees all places (He et al., Bag of Tricks, 2018), and a 1 x 1
                # convolution with a stride must not be had: in training oneDNN's overwrites memory where it has fewer
                # than 16 input channels (oneDNN issue 6035), which is what pruning leaves. The pool's padding takes
                # uneven sides; with `ceil_mode` instead ONNX Runtime 1.32 averages wrongly in 8 bits.
                nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
            if stride > 1
            else nn.Identity()
        )
        nn.init.zeros_(self.second_norm.weight)  # every block begins as its shortcut, which trains faster

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [images, outputs, height / stride, width / stride]."""
        inner = torch.relu(self.first_norm(self.first(maps)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(maps))


class ConvNet(Network):
    """Pixels (uint8 [images, height, width, channels]) in, logits out; scaling the pixels is the first layer.

    `stages` lists, per stage, the channels (middle, outputs) of its blocks; every stage but the first halves the
    picture. Pruning leaves uneven numbers, which is why each block says its own.
    """

    any_size = True

    def __init__(
        self,
        shape: Mapping[str, int],
        stem: int,
        stem_stride: int,
        stages: Sequence[Sequence[Sequence[int]]],
        classes: int,
    ) -> None:
        super().__init__()
        self.shape = {name: int(shape[name]) for name in ("height", "width", "channels")}
        self.register_buffer("center", torch.full((self.shape["channels"], 1, 1), 127.5))
        self.register_buffer("scale", torch.full((self.shape["channels"], 1, 1), 1 / 64))
        side = max(3, 2 * stem_stride - 1)  # wide enough to see every pixel
        self.stem = nn.Conv2d(self.shape["channels"], stem, side, stem_stride, padding=side // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.stages = nn.ModuleList()
        width = stem
        for number, blocks in enumerate(stages):
            stage = nn.Sequential()
            for position, (middle, outputs) in enumerate(blocks):
                stage.append(Block(width, middle, outputs, 2 if number and not position else 1))
                width = outputs
            self.stages.append(stage)
        self.head = nn.Linear(width, classes)
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs, and how the pixels lie already

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits [images, classes]."""
        maps = (batch.permute(0, 3, 1, 2).float() - self.center) * self.scale
        maps = torch.relu(self.stem_norm(self.stem(maps)))
        for stage in self.stages:
            maps = stage(maps)
        return self.head(maps.mean((2, 3)))

    def calibrate(self, pixels: Tensor) -> None:
        """Scale the input so that these pixels, shaped as a batch, have mean 0 and deviation 1 per channel."""
        deviation, mean = torch.std_mean(pixels.float(), dim=(0, 1, 2))
        self.center.copy_(mean.reshape(-1, 1, 1))
        self.scale.copy_(1 / deviation.clamp_min(1.0).reshape(-1, 1, 1))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` builds an equal network from; read off the layers, because pruning narrows them."""
        return {
            "architecture": "convnet",
            "shape": self.shape,
            "stem": self.stem.out_channels,
            "stem_stride": self.stem.stride[0],
            "stages": [
                [[block.first.out_channels, block.second.out_channels] for block in stage] for stage in self.stages
            ],
            "classes": self.head.out_features,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConvNet:
        """Return an untrained network of that shape."""
        return cls(**{name: value for name, value in config.items() if name != "architecture"})

    def describe(self) -> str:
        """Return the stages in words."""
        told = ", ".join(f"{len(blocks)} of {blocks[-1].second.out_channels}" for blocks in self.stages)
        halved = ", the picture halved at once" if self.stem.stride[0] > 1 else ""
        return f"residual blocks per stage: {told} channels{halved}"


class Branched(nn.Module):
    """A 3 x 3 convolution that learns as a sum: of itself, a 1 x 1 convolution and the input, each with its own norm.

    The sum is linear, so that it becomes one convolution when training is over (Ding et al., RepVGG, 2021): it learns
    like a residual block and runs like a plain layer.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.wide = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(outputs)
        self.point = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.point_norm = nn.BatchNorm2d(outputs)
        self.same_norm = nn.BatchNorm2d(outputs) if inputs == outputs and stride == 1 else None

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [images, outputs, height / stride, width / stride]."""
        # places are picked before the 1 x 1 convolution: with a stride it must not be had, see `Block`
        picked = maps[:, :, :: self.stride, :: self.stride]
        found = self.wide_norm(self.wide(maps)) + self.point_norm(self.point(picked))
        return found if self.same_norm is None else found + self.same_norm(maps)

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """Return the one convolution that answers alike in evaluation."""
        inputs, outputs = self.wide.in_channels, self.wide.out_channels
        weight, bias = _with_norm(self.wide.weight, self.wide_norm)
        parts = [(self.point.weight, self.point_norm)]
        if self.same_norm is not None:
            parts.append((torch.eye(inputs)[:, :, None, None], self.same_norm))
        for kernel, norm in parts:
            more, shift = _with_norm(kernel, norm)
            weight = weight + functional.pad(more, (1, 1, 1, 1))
            bias = bias + shift
        one = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1)
        one.weight.copy_(weight)
        one.bias.copy_(bias)
        return one


def _with_norm(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution and the norm behind it, as one."""
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor


class PlainNet(Network):
    """Pixels in, logits out, like ConvNet: convolutions one after the other, which every runtime merges and runs best.

    `merged` tells the form to run from the form that learns; `deployed` makes the first from the second. All channels
    share one whole number for black's place and one scale, so that 8-bit pixels are 8-bit inputs as they are.
    """

    def __init__(
        self,
        shape: Mapping[str, int],
        widths: Sequence[int],
        strides: Sequence[int],
        classes: int,
        *,
        merged: bool = False,
    ) -> None:
        super().__init__()
        self.shape = {name: int(shape[name]) for name in ("height", "width", "channels")}
        self.strides, self.merged = list(strides), merged
        self.register_buffer("center", torch.tensor(128.0))
        self.register_buffer("scale", torch.tensor(1 / 64))
        sizes = [self.shape["channels"], *widths]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, padding=1) if merged else Branched(before, after, stride)
            for before, after, stride in zip(sizes, sizes[1:], strides, strict=False)
        )
        self.head = nn.Linear(sizes[-1], classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits [images, classes]."""
        maps = (batch.permute(0, 3, 1, 2).float() - self.center) * self.scale
        for layer in self.layers:
            maps = torch.relu(layer(maps))
        # a pool of a known size, not a mean: runtimes run it in 8 bits and in the order in which channels lie
        return self.head(functional.avg_pool2d(maps, self._last_places()).flatten(1))

    def _last_places(self) -> tuple[int, int]:
        sides = [self.shape["height"], self.shape["width"]]
        for stride in self.strides:
            sides = [(side - 1) // stride + 1 for side in sides]
        return sides[0], sides[1]

    def config(self) -> dict[str, Any]:
        """Return what `from_config` builds an equal network from."""
        layers = [layer if self.merged else layer.wide for layer in self.layers]
        return {
            "architecture": "plainnet",
            "shape": self.shape,
            "widths": [layer.out_channels for layer in layers],
            "strides": self.strides,
            "classes": self.head.out_features,
            "merged": self.merged,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PlainNet:
        """Return an untrained network of that shape."""
        return cls(**{name: value for name, value in config.items() if name != "architecture"})

    def deployed(self) -> PlainNet:
        """Return the network with each layer's branches merged into one convolution."""
        if self.merged:
            return self
        one = PlainNet.from_config({**self.config(), "merged": True})
        for layer, branched in zip(one.layers, self.layers, strict=True):
            layer.load_state_dict(branched.merged().state_dict())
        one.head.load_state_dict(self.head.state_dict())
        one.center.copy_(self.center)
        one.scale.copy_(self.scale)
        return one.eval()

    def describe(self) -> str:
        """Return the layers in words."""
        return f"plain convolutions of {', '.join(str(width) for width in self.config()['widths'])} channels"


def original(shape: Mapping[str, int], rows: int, classes: int) -> ConvNet:
    """Return the network to start from: two blocks per stage, wider where there is more to learn from."""
    big = max(shape["height"], shape["width"]) > BIG_SIDE
    return _even(shape, 16 if rows < FEW_ROWS else 32, 2, classes, stem_stride=2 if big else 1)


def student(teacher: ConvNet, share: float) -> ConvNet:
    """Return a network with one block per stage, a share of the teacher's width, and half its resolution.

    Halving the picture at once costs far less accuracy than narrow layers, which 8-bit arithmetic runs slowly too.
    """
    width = max(16, round(teacher.stem.out_channels * share / 8) * 8)
    made = _even(teacher.shape, width, 1, teacher.head.out_features, stem_stride=2 * teacher.stem.stride[0])
    made.center.copy_(teacher.center)
    made.scale.copy_(teacher.scale)
    return made


def plain(teacher: ConvNet, deep: Sequence[int]) -> PlainNet:
    """Return a network without shortcuts: `deep` layers per stage, as wide as the teacher's, half its resolution."""
    width = teacher.stem.out_channels
    widths = [width * 2**stage for stage, layers in enumerate(deep) for _ in range(layers)]
    strides = [
        (2 * teacher.stem.stride[0] if stage == 0 else 2) if number == 0 else 1
        for stage, layers in enumerate(deep)
        for number in range(layers)
    ]
    made = PlainNet(teacher.shape, widths, strides, teacher.head.out_features)
    made.center.copy_(teacher.center.mean().round())
    made.scale.copy_(teacher.scale.mean())
    return made


def _even(shape: Mapping[str, int], width: int, blocks: int, classes: int, *, stem_stride: int) -> ConvNet:
    """Return a network with equal blocks in each stage."""
    stages = [[[width * 2**stage] * 2] * blocks for stage in range(STAGES)]
    return ConvNet(shape, width, stem_stride, stages, classes)
