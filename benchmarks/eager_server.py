"""The original in eager PyTorch behind the product's own server: what the HTTP figures are compared with.

python eager_server.py ORIGINAL, in the jobs environment; the address comes as for every bundle.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ.get("EBB_JOBS") or str(Path(__file__).resolve().parents[1] / "jobs"))

import torch

from ebb_jobs import dataset, eager, kinds, serve


class Answering:
    """The original as the server wants a model."""

    def __init__(self, original: Path) -> None:
        codec = kinds.of(dataset.read_schema(original)).open_codec(original)
        self.about = {"candidate": "eager"}
        self._model = eager.EagerOriginal(original, codec)

    def respond(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """Return the answers as JSON."""
        codec = self._model.codec
        answers = codec.predictions(self._model.run(codec.encode(codec.parse(body, content_type))))
        return json.dumps({"predictions": answers, "model": self.about}).encode(), "application/json"


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("EBB_THREADS", "1")))
    model = Answering(Path(sys.argv[1]))
    serve.open_model = lambda root: model
    serve.main()
