"""Bundles: everything that a served model needs, in one archive without pickles, and the proof that it answers."""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from ebb_jobs import bad_request, capture, runtimes, scored, serve, sketch
from ebb_jobs.errors import BundleError
from ebb_jobs.kind import Codec, Kind

START_TIMEOUT_S = 30.0
AS_IS_START_TIMEOUT_S = 300.0
"""Of a user's own code: on a busy machine PyTorch alone takes a minute to import, and weights have to be read."""
ANSWER_TIMEOUT_S = 60.0
"""SageMaker waits as long for an answer."""
SERVED_TOLERANCE = 2e-6
"""Probabilities are rounded to six digits."""
CODE = (serve, bad_request, runtimes, scored, capture, sketch)
"""Modules that every bundle holds; the kind adds those of its codec."""


def code(modules: Iterable[ModuleType]) -> dict[str, bytes]:
    """Return the source of the server and of these modules, by their place in a bundle."""
    files = [Path(module.__file__ or "") for module in (*CODE, *modules)]
    return {f"code/{file.name}": file.read_bytes() for file in files}


def write(
    archive: Path,
    network: Iterable[Path],
    codec: Mapping[str, bytes],
    signature: dict[str, Any],
    modules: Iterable[ModuleType],
) -> str:
    """Write model.tar.gz and return its SHA-256. Equal content gives equal bytes: no times, no owners."""
    members: dict[str, bytes | Path] = {
        **{file.name: file for file in network},
        **codec,
        "signature.json": _json(signature),
        **code(modules),
    }
    return pack(archive, members)


def pack(archive: Path, members: Mapping[str, bytes | Path]) -> str:
    """Write contents and files as a reproducible archive and return its SHA-256; files are never in memory whole."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name in sorted(members):
            content, entry = members[name], tarfile.TarInfo(name)
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as stream:
                entry.size, entry.mode = stream.seek(0, io.SEEK_END), 0o644
                stream.seek(0)
                tar.addfile(entry, stream)
    with archive.open("rb") as finished:
        return hashlib.file_digest(finished, "sha256").hexdigest()


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
            serve.CAPTURE_SHARE: "",
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
            as_is = serve.read_signature(model).get("codec") == serve.AS_IS
            running.wait_until_ready(AS_IS_START_TIMEOUT_S if as_is else START_TIMEOUT_S)
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

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when /ping answers; raise BundleError when the server ends or takes too long."""
        deadline = time.monotonic() + timeout_s
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
        raise BundleError(f"the bundle's server did not answer /ping within {timeout_s:.0f} s")

    def invoke(self, body: bytes, content_type: str) -> dict[str, Any]:
        """Return the response document; raise BundleError for any status but 200."""
        status, document = self._request("POST", "/invocations", body, content_type)
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
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def prove(archive: Path, kind: Kind, codec: Codec, singles: list[Any], model: serve.Model) -> float:
    """Ask the finished bundle over HTTP in every way, compare with the measured model; return the resident MiB."""
    with served(archive) as running:
        for body, content_type, which in kind.bodies(codec, singles):
            expected = model.predict(kind.join([singles[number] for number in which]))
            _compare(running.invoke(body, content_type)["predictions"], expected)
        return running.resident_mib()


def _compare(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    if len(answers) != len(expected):
        raise BundleError(f"the bundle's server answered {len(answers)} of {len(expected)} rows")
    for number, (got, want) in enumerate(zip(answers, expected, strict=True), start=1):
        if not _equal(got, want):
            raise BundleError(f"the bundle's server answers held-out row {number} otherwise than the measured model")


def _equal(got: Any, want: Any) -> bool:
    """Compare answers; numbers may differ by their rounding, and a label where two are as likely."""
    if isinstance(want, dict):
        named = set(want) - {"label"} if "probabilities" in want else set(want)
        return isinstance(got, dict) and all(name in got and _equal(got[name], want[name]) for name in named)
    if isinstance(want, list):
        return (
            isinstance(got, list) and len(got) == len(want) and all(map(_equal, got, want))  # e.g. several values
        )
    if isinstance(want, float):
        return isinstance(got, int | float) and abs(got - want) <= SERVED_TOLERANCE * max(1.0, abs(want))
    return got == want


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n").encode()
