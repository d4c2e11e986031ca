"""Write ebb/catalog/images.json: AWS's deep learning containers for PyTorch training, per Region, for GPU and Trainium.

    python -m venv /tmp/catalog && /tmp/catalog/bin/python -m pip install -r requirements/catalog.txt
    /tmp/catalog/bin/python tools/image_catalog.py

The `sagemaker` SDK, of which sagemaker-core is the part that names images, knows which account holds the containers in
which Region. It is needed here only: 309 MB, the whole SDK 744. Run this again when the versions below move.
"""

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sagemaker.core import image_uris
from sagemaker.core.image_uris import config_for_framework

TARGET = Path(__file__).resolve().parent.parent / "layers" / "core" / "ebb" / "catalog" / "images.json"
PYTORCH = "2.10.0"
# The SDK knows AWS's own container for Trainium only up to PyTorch 1.11 on Python 3.8. Its registries are those of the
# Hugging Face containers; repository and tag are AWS's release of 2025-10, the newest of PyTorch/XLA for trn1 on a
# Python that the jobs run on. https://github.com/aws-neuron/deep-learning-containers
NEURON_REPOSITORY = "pytorch-training-neuronx"
NEURON_TAG = "2.8.0-neuronx-py311-sdk2.26.1-ubuntu22.04"
HUGGING_FACE = "4.55.4"


def gpu() -> dict[str, Any]:
    """Return PyTorch's training container for NVIDIA GPUs."""
    facts = config_for_framework("pytorch")["training"]["versions"][PYTORCH]
    (python,) = facts["py_versions"]
    uris = {
        region: image_uris.retrieve(
            "pytorch", region=region, version=PYTORCH, py_version=python, instance_type="ml.g5.xlarge",
            image_scope="training",
        )
        for region in sorted(facts["registries"])
    }  # fmt: skip
    return {"framework": "pytorch", "version": PYTORCH, "python": python, "uris": uris}


def neuron() -> dict[str, Any]:
    """Return PyTorch's training container for Trainium: the accounts are the SDK's, repository and tag are pinned."""
    facts = config_for_framework("huggingface-neuronx")["training"]["versions"][HUGGING_FACE]
    (registries,) = [each["registries"] for name, each in facts.items() if name != "version_aliases"]
    domain = {"cn": "amazonaws.com.cn"}
    uris = {
        region: f"{account}.dkr.ecr.{region}.{domain.get(region[:2], 'amazonaws.com')}/{NEURON_REPOSITORY}:{NEURON_TAG}"
        for region, account in sorted(registries.items())
    }
    return {"framework": "pytorch", "version": NEURON_TAG.split("-")[0], "python": "py311", "uris": uris}


def main() -> int:
    """Write the file."""
    containers = {"gpu": gpu(), "neuron": neuron()}
    document = {
        "source": f"sagemaker-core {version('sagemaker-core')}, image_uris; written by tools/image_catalog.py",
        "date": datetime.now(UTC).date().isoformat(),
        "licence": "addresses as sagemaker-core (Apache-2.0) lists them",
        "confidence": "medium; neuron low: its tag is pinned by hand, and no Region was asked whether it is there",
        "containers": containers,
    }
    TARGET.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for kind, container in containers.items():
        print(f"{kind}: {len(container['uris'])} Regions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
