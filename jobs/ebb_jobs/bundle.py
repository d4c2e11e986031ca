"""Bundles: everything that a served model needs, in one archive without pickles, and the proof that it answers."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ebb_jobs import serve, spelling, tabular
from ebb_jobs.errors import BundleError

START_TIMEOUT_S = 30.0
SERVED_TOLERANCE = 2e-6
"""Probabilities are rounded to six digits."""
CODE = tuple(Path(module.__file__ or "") for module in (serve, tabular, spelling))


def write(archive: Path, network: Path, preprocess: dict[str, Any], signature: dict[str, Any]) -> str:
    """Write model.tar.gz and return its SHA-256. Equal content gives equal bytes: no times, no owners."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    members = {
        "model.onnx": network.read_bytes(),
        "preprocess.json": _json(preprocess),
        "signature.json": _json(signature),
        **{f"code/{file.name}": file.read_bytes() for file in CODE},
    }
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(members[name]), 0o644
            tar.addfile(entry, io.BytesIO(members[name]))
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack into `folder`/model, as a hosting container finds it, and return that directory.

    Only plain files and folders inside it: `write` makes nothing else. Checked here, because tarfile's own filter came
    with Python 3.11.4.
    """
    model = folder / "model"
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar.getmembers():
            place = PurePosixPath(member.name)
            if place.is_absolute() or ".." in place.parts or not (member.isfile() or member.isdir()):
                raise BundleError(f"{archive.name} is no bundle: it holds a link or a path that leads out of it")
        if hasattr(tarfile, "data_filter"):
            tar.extractall(model, filter="data")
        else:
            tar.extractall(model)
    return model


@contextlib.contextmanager
def served(archive: Path) -> Iterator[Served]:
    """Run the bundle's own server as a process of its own on a free loopback port."""
    with tempfile.TemporaryDirectory() as folder:
        model = unpack(archive, Path(folder))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "SAGEMAKER_BASE_DIR": folder,
            "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment.pop("PYTHONPATH", None)  # the bundle must stand on its own
        process = subprocess.Popen(
            [sys.executable, str(model / "code/serve.py")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            running = Served(process, port)
            running.wait_until_ready()
            yield running
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


class Served:
    """A bundle's server while it runs."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def wait_until_ready(self) -> None:
        """Return when /ping answers; raise BundleError when the server ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                log = (self.process.stderr.read() if self.process.stderr else "").strip()
                print(log, file=sys.stderr, flush=True)
                kind = log.rpartition("\n")[2].partition(":")[0]  # the error's text may quote a value
                raise BundleError(f"the bundle's server ended with status {self.process.returncode}: {kind[:100]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._request("GET", "/ping")[0] == 200:
                    return
            time.sleep(0.02)
        raise BundleError(f"the bundle's server did not answer /ping within {START_TIMEOUT_S:.0f} s")

    def invoke(self, body: str, content_type: str) -> dict[str, Any]:
        """Return the response document; raise BundleError for any status but 200."""
        status, document = self._request("POST", "/invocations", body.encode(), content_type)
        if status != 200:
            raise BundleError(f"the bundle's server answered {status} to a held-out row: {document.get('field')}")
        return document

    def resident_mib(self) -> float:
        """Return the largest resident size so far, or the present one where only that is told."""
        status = Path(f"/proc/{self.process.pid}/status")
        if status.exists():
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            return int(fields["VmHWM"].split()[0]) / 1024
        told = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return int(told.stdout) / 1024

    def _request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "text/plain"
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def prove(archive: Path, rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> float:
    """Ask the finished bundle over HTTP, as JSON and as CSV, and compare; return the server's resident MiB."""
    names = list(rows[0])
    with served(archive) as running:
        answers = running.invoke(json.dumps({"instances": rows}), "application/json")["predictions"]
        _compare(answers, expected)
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(names)
        writer.writerows([[tabular.text_of(row[name]) for name in names] for row in rows])
        _compare(running.invoke(table.getvalue(), "text/csv")["predictions"], expected)
        return running.resident_mib()


def _compare(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    if len(answers) != len(expected):
        raise BundleError(f"the bundle's server answered {len(answers)} of {len(expected)} rows")
    for number, (got, want) in enumerate(zip(answers, expected, strict=True), start=1):
        pairs = (
            [(got.get("value"), want["value"])]
            if "value" in want
            else [(got.get("probabilities", {}).get(label), p) for label, p in want["probabilities"].items()]
        )
        for had, wanted in pairs:
            if had is None or abs(had - wanted) > SERVED_TOLERANCE * max(1.0, abs(wanted)):
                raise BundleError(
                    f"the bundle's server answers held-out row {number} otherwise than the measured model"
                )


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n").encode()
