"""The model server: requests in, predictions out. Travels in every bundle, with the code of the bundle's own codec.

GET /ping, POST /invocations with what the codec parses: rows, images, lines of text. Bad input is answered with 400 and
a sentence that names the field and what to send.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import numpy as np

if __package__:
    from ebb_jobs import runtimes, scored  # inside the jobs, to be measured
    from ebb_jobs.bad_request import BadRequestError
else:
    import runtimes  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle
    import scored  # type: ignore[import-not-found,no-redef]
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]

MAX_BODY_BYTES = int(os.environ.get("EBB_MAX_BODY_MIB", "6")) * 2**20
"""More where whole files are scored: a batch transform sends up to 100 MiB at once."""
CHUNK_VALUES = 2**17
"""Numbers of the input that go through the network at once, so that a large request takes no more memory than that."""
LANE_ROWS = 8
"""Of a batch that several CPUs share, each has so many rows at least."""
CODECS = ("tabular", "image", "text", "tensors")
AS_IS = "as_is"
"""What a signature names as its codec when the user's own code answers: the module of that name opens the model."""
CAPTURE_SHARE = "EBB_CAPTURE_SHARE"
"""In the environment of a model whose spec asks for it, so that a share of what is asked is noted (`capture`)."""


class Answering(Protocol):
    """What the server needs of a model."""

    about: dict[str, Any]

    def respond(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """Return the body and the content type of the answer. Raises BadRequestError."""


class Model:
    """A bundle in memory: network, codec and signature."""

    capture: Any = None
    """What notes a share of requests and answers, where the spec asks for that."""

    def __init__(self, root: Path, codec: Any = None) -> None:
        self.signature = read_signature(root)
        self.codec = codec or open_codec(root, self.signature)
        runtime = self.signature.get("runtime", "onnxruntime")
        self._network = runtimes.load(
            root / runtimes.FILES[runtime][0],
            runtime,
            optimise=self.signature.get("optimise_when_loading", True),
            precision=self.signature.get("runtime_precision"),
        )
        self.about = about(self.signature)
        self.lanes = min(int(self.signature.get("lanes", 1)), runtimes.cpus())
        self._pool: Any = None

    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Return the network's outputs for encoded examples; a batch is shared among CPUs where that was measured."""
        if len(encoded) == 1:  # what is asked most: nothing to share, nothing to cut
            return self._network.run(encoded)
        rows = max(1, CHUNK_VALUES // max(1, encoded[0].size))
        if self.lanes > 1 and len(encoded) >= LANE_ROWS * self.lanes:
            rows = min(rows, -(-len(encoded) // self.lanes))
            parts = [encoded[start : start + rows] for start in range(0, len(encoded), rows)]
            return np.concatenate(list(self._lane_pool().map(self._network.run, parts)))
        outputs = [self._network.run(encoded[start : start + rows]) for start in range(0, len(encoded), rows)]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _lane_pool(self) -> Any:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # only for batches: a cold start need not wait for it

            self._pool = ThreadPoolExecutor(self.lanes)
        return self._pool

    def predict(self, raws: Any) -> list[dict[str, Any]]:
        """Return one prediction per example. Raises BadRequestError."""
        return self.codec.predictions(self._outputs(raws))

    def respond(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """Return the response as JSON, as a scored file, or as the codec itself writes it. Raises BadRequestError."""
        form = scored.form_of(content_type, accept)
        if form:
            return scored.answer(body, form, lambda part, kind: self.predict(self.codec.parse(part, kind))), form
        outputs = self._outputs(self.codec.parse(body, content_type))
        if hasattr(self.codec, "respond") and (written := self.codec.respond(outputs, accept)):
            return written
        return _json({"predictions": self.codec.predictions(outputs), "model": self.about}), "application/json"

    def _outputs(self, raws: Any) -> np.ndarray:
        encoded = self.codec.encode(raws)
        outputs = self.run(encoded)
        if self.capture is not None:
            self.capture.note(self.codec, raws, encoded, outputs)
        return outputs


def read_signature(root: Path) -> dict[str, Any]:
    """Return what the bundle says of itself."""
    return json.loads((root / "signature.json").read_text(encoding="utf-8"))


def about(signature: dict[str, Any]) -> dict[str, Any]:
    """Return what every answer says of its model."""
    return {key: signature[key] for key in ("candidate", "run_id") if signature.get(key)}


def open_codec(root: Path, signature: dict[str, Any]) -> Any:
    """Return the bundle's codec, of a fixed set; bundles from before there were kinds hold tables."""
    name = signature.get("codec", "tabular")
    if name not in CODECS:
        raise ValueError("the signature names no codec of this server")
    return _beside(name).open_codec(root)


def open_model(root: Path) -> Answering:
    """Return the bundle's model, or the user's own code as a model."""
    signature = read_signature(root)
    return _beside(AS_IS).open_model(root, signature) if signature.get("codec") == AS_IS else Model(root)


def _beside(name: str) -> Any:
    """Return a module that lies beside this one."""
    return importlib.import_module(f"ebb_jobs.{name}" if __package__ else name)


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


class Handler(BaseHTTPRequestHandler):
    """Speaks SageMaker's hosting protocol."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16  # head and body leave in one packet
    timeout = 65
    model: Answering

    def do_GET(self) -> None:
        """Answer /ping: the model is loaded before the port opens."""
        if self.path == "/ping":
            self._send(HTTPStatus.OK, {"status": "ok", "model": self.model.about})
        else:
            self._send(HTTPStatus.NOT_FOUND, {"error": f"no such path: {self.path}", "remedy": "GET /ping"})

    def do_POST(self) -> None:
        """Answer /invocations."""
        try:
            length = int(self.headers.get("Content-Length") or -1)
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY_BYTES:
            self.close_connection = True  # the body stays unread
            status = HTTPStatus.LENGTH_REQUIRED if length < 0 else HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            self._send(
                status,
                {
                    "error": f"Content-Length must be between 0 and {MAX_BODY_BYTES}",
                    "remedy": "Send less at once.",
                },
            )
            return
        body = self.rfile.read(length)
        if self.path != "/invocations":
            self._send(HTTPStatus.NOT_FOUND, {"error": f"no such path: {self.path}", "remedy": "POST /invocations"})
            return
        try:
            kind, accept = (self.headers.get(name) or "" for name in ("Content-Type", "Accept"))
            self._write(HTTPStatus.OK, *self.model.respond(body, kind, accept))
        except BadRequestError as error:
            self._send(HTTPStatus.BAD_REQUEST, error.body)
        except Exception as error:
            print(f"{type(error).__name__} while answering", file=sys.stderr, flush=True)  # no values in logs
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"the model failed: {type(error).__name__}"})

    def _send(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        self._write(status, _json(document), "application/json")

    def _write(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log failures only; a served row costs no line."""
        if int(code) >= 500:
            super().log_request(code, size)


class Server(ThreadingHTTPServer):
    """Threads that do not outlive the process, and room for bursts of connections."""

    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Load the model, then listen until SIGTERM."""
    root = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "model"
    Handler.model = open_model(root)
    if os.environ.get(CAPTURE_SHARE):
        _beside("capture").begin(Handler.model, root)
    address = os.environ.get("SAGEMAKER_BIND_TO_HOST", "0.0.0.0"), int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    with Server(address, Handler) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"serving {Handler.model.about} on port {server.server_address[1]}", flush=True)
        server.serve_forever(poll_interval=0.05)  # how long an end may take to be noticed: half a second without it


if __name__ == "__main__":
    main()
