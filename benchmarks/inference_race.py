"""The headline's race, in the jobs environment: python inference_race.py RUN CHOSEN OUT, prints JSON.

RUN names the folders of one run's stages. The eager original and the same small network in eager PyTorch, each with
one thread and with two, run in turns with the shipped model and with the original's compiled forms, on held-out rows,
through the product's own `measure.race`.
"""

import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ.get("EBB_JOBS") or str(Path(__file__).resolve().parents[1] / "jobs"))

import torch

from ebb_jobs import bundle, dataset, eager, kinds, measure, networks, serve

RACE_S = float(os.environ.get("EBB_RACE_S", "25"))
ROWS = 512
WEIGHTS = "network.safetensors"


class Eager:
    """A network as it is, in PyTorch, behind the codec that all share."""

    def __init__(self, network: networks.Network, codec: Any) -> None:
        self.network, self.codec = network, codec

    @torch.inference_mode()
    def run(self, encoded: Any) -> Any:
        """Return the outputs for one small batch of encoded examples."""
        return networks.probabilities(self.network(torch.from_numpy(encoded))).numpy()

    def predict(self, raws: Any) -> list[dict[str, Any]]:
        """Return one prediction per example."""
        return self.codec.predictions(self.run(self.codec.encode(raws)))


def main() -> None:
    """Race and print."""
    run: dict[str, str] = json.loads(sys.argv[1])
    curated, original, candidates, bundles = (
        Path(run[name]) for name in ("curated", "original", "candidates", "bundles")
    )
    schema = dataset.read_schema(original)
    kind = kinds.of(schema)
    codec = kind.open_codec(original)
    test, singles = kind.read_split(curated, "test", codec), kind.singles(curated, "test", codec, ROWS)
    contenders: dict[str, measure.Contender] = {}
    full = eager.EagerOriginal(original, codec)
    for count in (1, 2):
        contenders[f"eager/{count}"] = measure.Contender(f"eager/{count}", full, partial(torch.set_num_threads, count))
    twin = candidates / run["network"] / WEIGHTS
    parameters = None
    if twin.exists():
        small = networks.load(twin)
        parameters = small.parameter_count()
        for count in (1, 2):
            name = f"small eager/{count}"
            contenders[name] = measure.Contender(name, Eager(small, codec), partial(torch.set_num_threads, count))
    with tempfile.TemporaryDirectory() as folder:
        for role, candidate in json.loads(sys.argv[2]).items():
            model = bundle.unpack(bundles / candidate / "model.tar.gz", Path(folder) / role)
            contenders[role] = measure.Contender(role, serve.Model(model, kind.open_codec(model)))
        measure.RACE_S = RACE_S
        measure.race(list(contenders.values()), test.inputs, singles)
    found = {name: one.figures() for name, one in contenders.items()}
    Path(sys.argv[3]).write_text(json.dumps({"figures": found, "small_parameters": parameters}))


if __name__ == "__main__":
    main()
