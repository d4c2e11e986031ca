"""The model server: raw rows in, predictions out. Standard library, numpy and ONNX Runtime; it travels in every bundle.

GET /ping, POST /invocations with text/csv, application/json or application/jsonlines. Bad input is answered with 400
and a sentence that names the field and what to send.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

if __package__:
    from ebb_jobs import tabular  # inside the jobs, to be measured
else:
    import tabular  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle

MAX_BODY_BYTES = 6 * 2**20
CHUNK_ROWS = 4096
Columns = dict[str, list[Any]]


class BadRequestError(Exception):
    """The request cannot be answered; the message says what to send instead."""

    def __init__(self, message: str, *, field: str | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.body = {"error": message, "field": field, "remedy": remedy}


class Model:
    """A bundle in memory: network, preprocessing and signature."""

    def __init__(self, root: Path) -> None:
        self.signature: dict[str, Any] = json.loads((root / "signature.json").read_text(encoding="utf-8"))
        self.preprocessor = tabular.Preprocessor(json.loads((root / "preprocess.json").read_text(encoding="utf-8")))
        self._session = self._open(root / "model.onnx")
        self.about = {key: self.signature[key] for key in ("candidate", "run_id") if self.signature.get(key)}

    def _open(self, file: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # requests already run in threads of their own
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not self.signature.get("optimise_when_loading", True):
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Return the network's outputs for encoded rows."""
        return np.concatenate(
            [
                self._session.run(None, {"features": encoded[start : start + CHUNK_ROWS]})[0]
                for start in range(0, len(encoded), CHUNK_ROWS)
            ]
        )

    def predict(self, columns: Columns) -> list[dict[str, Any]]:
        """Return one prediction per row of raw values."""
        try:
            return self.preprocessor.predictions(self.run(self.preprocessor.encode(columns)))
        except tabular.InvalidValueError as error:
            raise BadRequestError(
                str(error), field=error.field, remedy=f"Send {error.field} as {str(error).partition('expected ')[2]}."
            ) from error

    def answer(self, body: bytes, content_type: str) -> dict[str, Any]:
        """Return the response document for one request. Raises BadRequestError."""
        return {"predictions": self.predict(self.parse(body, content_type)), "model": self.about}

    def parse(self, body: bytes, content_type: str) -> Columns:
        """Return raw columns for a request's body."""
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRequestError("the body is not UTF-8", remedy="Encode the request as UTF-8.") from error
        if not text.strip():
            raise BadRequestError("the body is empty", remedy="Send at least one row.")
        kind = content_type.partition(";")[0].strip().lower()
        if kind in ("text/csv", "application/csv", ""):
            return self._parse_csv(text)
        if kind in ("application/jsonlines", "application/x-ndjson", "application/jsonl"):
            return self._parse_objects(
                [self._json(line, number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
            )
        if kind == "application/json":
            document = self._json(text, None)
            if isinstance(document, dict) and isinstance(document.get("instances"), list):
                document = document["instances"]
            return self._parse_objects(document if isinstance(document, list) else [document])
        raise BadRequestError(
            f"content type {kind} is not supported", remedy="Send text/csv, application/json or application/jsonlines."
        )

    def _json(self, text: str, line: int | None) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:  # the second: nested without end
            raise BadRequestError(
                "the body is not JSON" if line is None else f"line {line} is not JSON",
                remedy='Send an object like {"column": value} per row.',
            ) from error

    def _parse_objects(self, rows: list[Any]) -> Columns:
        needed = self.preprocessor.columns
        if not rows:
            raise BadRequestError("there are no rows", remedy="Send at least one row.")
        for number, row in enumerate(rows, start=1):
            if isinstance(row, list):
                rows[number - 1] = row = dict(zip(self._names_for(len(row), f"row {number}"), row, strict=True))
            if not isinstance(row, dict):
                raise BadRequestError(f"row {number} is not an object", remedy='Send an object like {"column": value}.')
            for name in needed:
                if name not in row:
                    raise BadRequestError(
                        f"row {number} lacks {name}", field=name, remedy=f"Send {name}, with null when it is not known."
                    )
        return {name: [row[name] for row in rows] for name in needed}

    def _parse_csv(self, text: str) -> Columns:
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        except csv.Error as error:
            raise BadRequestError(f"the body is not CSV: {error}", remedy="Close every quoted cell.") from error
        known = {*self.signature["columns"], self.signature["target"]}
        first = [cell.strip() for cell in rows[0]]
        if sum(cell in known for cell in first) * 2 > len(first):
            names, rows = first, rows[1:]
            missing = [name for name in self.preprocessor.columns if name not in names]
            if missing:
                raise BadRequestError(
                    f"the header lacks {missing[0]}",
                    field=missing[0],
                    remedy=f"Name these columns: {', '.join(self.preprocessor.columns)}.",
                )
        else:
            names = self._names_for(len(first), "row 1")
        if not rows:
            raise BadRequestError("there is a header and no row", remedy="Send at least one row.")
        for number, row in enumerate(rows, start=1):
            if len(row) != len(names):
                raise BadRequestError(
                    f"row {number} has {len(row)} cells, expected {len(names)}",
                    remedy=f"Send these columns in this order: {', '.join(names)}.",
                )
        return {name: [row[names.index(name)] for row in rows] for name in self.preprocessor.columns}

    def _names_for(self, cells: int, where: str) -> list[str]:
        """Return the columns of a row without names: as in the training file without its target, or only those used."""
        for names in (self.signature["columns"], self.preprocessor.columns):
            if len(names) == cells:
                return list(names)
        raise BadRequestError(
            f"{where} has {cells} cells, expected {len(self.signature['columns'])}",
            remedy=f"Send these columns in this order: {', '.join(self.signature['columns'])}.",
        )


class Handler(BaseHTTPRequestHandler):
    """Speaks SageMaker's hosting protocol."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16  # head and body leave in one packet
    timeout = 65
    model: Model

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
                    "remedy": "Send fewer rows at once.",
                },
            )
            return
        body = self.rfile.read(length)
        if self.path != "/invocations":
            self._send(HTTPStatus.NOT_FOUND, {"error": f"no such path: {self.path}", "remedy": "POST /invocations"})
            return
        try:
            self._send(HTTPStatus.OK, self.model.answer(body, self.headers.get("Content-Type") or ""))
        except BadRequestError as error:
            self._send(HTTPStatus.BAD_REQUEST, error.body)
        except Exception as error:
            print(f"{type(error).__name__} while answering", file=sys.stderr, flush=True)  # no values in logs
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"the model failed: {type(error).__name__}"})

    def _send(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        body = json.dumps(document, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
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
    Handler.model = Model(Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "model")
    address = os.environ.get("SAGEMAKER_BIND_TO_HOST", "0.0.0.0"), int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    with Server(address, Handler) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"serving {Handler.model.about} on port {server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
