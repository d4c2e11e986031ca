"""A model served as the user's script left it: by its own `code/inference.py`, on the image that has PyTorch.

`model_fn(model_dir)`, `input_fn(body, content_type)`, `predict_fn(data, model)` and `output_fn(prediction, accept)`, or
`transform_fn(model, body, content_type, accept)` for the last three; what is not defined does what SageMaker's toolkit
does by default. Source: sagemaker-pytorch-inference-toolkit, README and default_pytorch_inference_handler.py.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from ebb_jobs import tensors, user_code  # inside the jobs
    from ebb_jobs.bad_request import BadRequestError
else:
    import tensors  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle
    import user_code  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]

JSON, CSV, NPY = user_code.JSON, user_code.CSV, user_code.NPY
OPENED = "code/inference.py has loaded the model"
"""What the check in the jobs prints last: code that ends its process with status 0 has loaded nothing."""
_REMEDY = f"Send {JSON} (a list of rows), {CSV} or {NPY}."


class Model:
    """The user's functions as a model of the server."""

    def __init__(self, root: Path, about: dict[str, Any]) -> None:
        self.about = about
        functions = user_code.load(root, user_code.FUNCTIONS)
        self._transform_fn = functions.get("transform_fn")
        self._input_fn = functions.get("input_fn", default_input_fn)
        self._predict_fn = functions.get("predict_fn", default_predict_fn)
        self._output_fn = functions.get("output_fn", default_output_fn)
        self._model = user_code.called("model_fn", functions.get("model_fn", default_model_fn), str(root))
        # The toolkit runs one request at a time in each worker: the user's code need not be safe for threads.
        self._turn = threading.Lock()

    def respond(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """Return body and content type of the answer. Raises BadRequestError, UserCodeError."""
        content_type = content_type or JSON
        with self._turn:
            if self._transform_fn is not None:
                wanted = user_code.wanted(accept)
                given = user_code.decoded(body, content_type)
                told = user_code.called("transform_fn", self._transform_fn, self._model, given, content_type, wanted)
                return user_code.response(told, wanted)
            data = user_code.parsed(self._input_fn, body, content_type)
            prediction = user_code.called("predict_fn", self._predict_fn, data, self._model)
            return user_code.written(self._output_fn, prediction, accept)


def open_model(root: Path, signature: dict[str, Any]) -> Model:
    """Return the model of an unpacked bundle. Raises UserCodeError when it cannot be loaded."""
    return Model(root, {key: signature[key] for key in ("candidate", "run_id") if signature.get(key)})


def default_model_fn(model_dir: str) -> Any:
    """Load model.pt, or the only .pt or .pth file, as TorchScript."""
    import torch

    folder = Path(model_dir)
    found = [folder / "model.pt"]
    if not found[0].exists():
        found = sorted(file for file in folder.iterdir() if file.suffix in (".pt", ".pth"))
    if len(found) != 1:
        raise FileNotFoundError("there is not exactly one .pt or .pth file: define model_fn")
    return torch.jit.load(str(found[0]), map_location=_device())


def default_input_fn(body: bytes | str, content_type: str) -> Any:
    """Return a tensor: JSON and CSV as float32, .npy as it is."""
    import torch

    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == JSON:
            document = json.loads(body)
            if isinstance(document, dict) and "instances" in document:
                document = document["instances"]
            array = np.array(document, dtype=np.float32)
        elif kind == CSV:
            rows = csv.reader(io.StringIO(str(body), newline=""), strict=True)
            array = np.array([[float(cell) for cell in row] for row in rows if row], dtype=np.float32)
        elif kind == NPY:
            array = tensors.read_npy(body if isinstance(body, bytes) else body.encode(), _REMEDY)
        else:
            raise BadRequestError(f"content type {kind} is not supported", remedy=_REMEDY)
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        raise BadRequestError("the body is no array of numbers", remedy=_REMEDY) from error
    if not array.size:
        raise BadRequestError("there are no rows", remedy=_REMEDY)
    return torch.from_numpy(np.array(array)).to(_device())


def default_predict_fn(data: Any, model: Any) -> Any:
    """Call the model in evaluation mode, without gradients."""
    import torch

    with torch.no_grad():
        return model.to(_device()).eval()(data.to(_device()))


def default_output_fn(prediction: Any, accept: str) -> tuple[bytes, str]:
    """Return the prediction as JSON, CSV or .npy, whichever is asked for."""
    if hasattr(prediction, "detach"):
        prediction = prediction.detach().cpu().numpy()
    if accept == CSV:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(np.atleast_2d(np.asarray(prediction)).tolist())
        return table.getvalue().encode(), CSV
    if accept == NPY:
        return tensors.write_npy(np.asarray(prediction)), NPY
    if accept != JSON:
        raise BadRequestError(f"an answer as {accept} is not supported", remedy=f"Accept {JSON}, {CSV} or {NPY}.")
    return json.dumps(user_code.plain(prediction)).encode(), JSON


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":  # in the jobs: does the model load at all?
    try:
        open_model(Path(sys.argv[1]), {})
    except user_code.UserCodeError as error:
        sys.exit(str(error))
    print(OPENED, flush=True)
