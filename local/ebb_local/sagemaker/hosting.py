"""One serving container: a real HTTP server on a free loopback port, `/ping` and `/invocations`.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
A serverless variant has a process only while it is used: the first request after a rest starts it, and waits.
"""

import contextlib
import http.client
import os
import shutil
import socket
import tarfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb_local import process_table
from ebb_local.sagemaker import containers, images, models, roles, settings
from ebb_local.sagemaker.errors import HostingFailure, JobFailure
from ebb_local.sagemaker.logs import LogStream
from ebb_local.sagemaker.storage import Bucket, Location, download_all

_PING_TIMEOUT_S = 2.0  # AWS: /ping answers within 2 s
_PING_EVERY_S = 0.1
_PORT_TRIES = 3  # somebody else takes a port in the moment before the container does: rare, and rarer twice
INVOKE_TIMEOUT_S = 60.0
_CREDENTIALS_VALID_S = 30 * 24 * 3600  # AWS refreshes them; a process here keeps what it started with
_FORWARDED = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-inference-id",
              "x-amzn-sagemaker-target-model", "x-amzn-sagemaker-session-id")  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What the container answered, and where the time went."""

    status: int
    headers: dict[str, str]
    body: bytes
    model_s: float
    setup_s: float | None
    """How long starting the process took, when this request had to wait for that."""


@dataclass(frozen=True)
class Place:
    """Where a container belongs: what it is called in texts, its folder, and where its log goes."""

    unit: str
    """The name of the variant, component or job."""
    kind: str
    """`production variant`, `inference component`, `transform job`."""
    base: Path
    log_group: str
    stream_prefix: str


class Server:
    """The container that serves one model."""

    def __init__(
        self,
        place: Place,
        model: dict[str, Any],
        *,
        serverless: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.place, self.unit = place, place.unit
        self.serverless = serverless
        self._model, self._extra = model, environment or {}
        self._container_spec = models.container_of(model)
        self._environment = images.environment(self._container_spec["Image"])
        self.credentials = roles.credentials(model["ExecutionRoleArn"], valid_s=_CREDENTIALS_VALID_S)
        stream = f"{place.stream_prefix}/{uuid.uuid4().hex[:17]}"
        self.log = LogStream(place.log_group, stream, self.credentials.principal)
        self._base = place.base / uuid.uuid4().hex[:8]
        self._container: containers.Container | None = None
        self._port = 0
        self._starting = threading.Lock()
        self._counting = threading.Lock()
        self._in_flight = 0
        self._closed = False
        self._last_used = time.time()
        self._usage = (time.monotonic(), 0.0)

    def prepare(self) -> None:
        """Download the model with the model's own role and unpack it. Raises HostingFailure."""
        uri, packed = models.data_source(self._container_spec)
        target = self._base / "model"
        target.mkdir(parents=True, exist_ok=True)
        if not uri:
            return
        bucket = Bucket(self.credentials)
        try:
            if packed:
                archive = self._base / "model.tar.gz"
                bucket.download(Location.parse(uri), archive)
                extract(archive, target)
                archive.unlink()
            else:
                download_all(bucket, bucket.sources("S3Prefix", uri), target, lambda: False)
        except JobFailure as failure:
            raise HostingFailure(
                f'Failed to download model data for container "primary" from URL: {uri}. Please ensure that there is '
                "an object located at the URL and that the role passed to CreateModel has permissions to download "
                f"the model. ({failure})"
            ) from failure
        except (tarfile.TarError, OSError, EOFError) as error:
            raise HostingFailure(
                f'Failed to extract model data archive from URL {uri} for container "primary": {error}. '
                "Please ensure that the object located at the URL is a valid tar.gz archive."
            ) from error

    def start(self) -> float:
        """Start the process and wait until /ping answers 200; return the seconds that it took."""
        with self._starting:
            if self._running():
                return 0.0
            began = time.monotonic()
            for tried in range(1, _PORT_TRIES + 1):
                _give_back(self._port)
                self._port = _take_port()
                self._container = self._launch()
                try:
                    self._wait_for_ping(self._container, began + settings.current().start_timeout_s)
                    break
                except HostingFailure:
                    if tried == _PORT_TRIES or not _is_taken(self._port):
                        raise
            self._last_used = time.time()
            return time.monotonic() - began

    def begin(self) -> bool:
        """Reserve the container for one request; False when it is being closed and another one has to answer."""
        with self._counting:
            if self._closed:
                return False
            self._in_flight += 1
            return True

    def invoke(self, body: bytes, headers: dict[str, str], timeout_s: float = INVOKE_TIMEOUT_S) -> Answer:
        """Send one request after `begin`; start the process first when there is none."""
        try:
            setup_s = None if self._running() else self.start()
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
            with contextlib.closing(connection):
                wanted = {name: headers[name] for name in _FORWARDED if name in headers}
                connection.request("POST", "/invocations", body=body, headers=wanted)
                response = connection.getresponse()
                found = {name.lower(): value for name, value in response.getheaders()}
                payload = response.read()
            return Answer(response.status, found, payload, time.monotonic() - began, setup_s)
        finally:
            self.release()

    def release(self) -> None:
        """Give back what `begin` reserved; `invoke` does so itself."""
        with self._counting:
            self._in_flight -= 1
            self._last_used = time.time()

    @property
    def in_flight(self) -> int:
        """How many requests it works on."""
        return self._in_flight

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closed

    def usage(self) -> tuple[float, float]:
        """Return CPU in percent of one core since the last question, and memory in MB, as the process has them."""
        container = self._container
        cpu_s, memory_mb = process_usage(container.pid) if container is not None else (0.0, 0.0)
        (then, before_s), now = self._usage, time.monotonic()
        self._usage = (now, cpu_s)
        return max(0.0, cpu_s - before_s) / max(0.1, now - then) * 100, memory_mb

    def rest_if_idle(self) -> bool:
        """End the process of a serverless variant that nobody has called for long; return whether it did."""
        with self._starting:
            with self._counting:
                awake = self._running() and not self._in_flight
                idle_s = time.time() - self._last_used
                if not self.serverless or not awake or idle_s < settings.current().idle_after_s:
                    return False
                container, self._container = self._container, None  # a request from now on starts another one
            if container is not None:
                container.end()
        return True

    def close(self, drain_s: float | None = None) -> None:
        """Take no more requests, answer those in hand, then end the process and remove the files."""
        with self._counting:
            self._closed = True
        until = time.monotonic() + (settings.current().stop_grace_s if drain_s is None else drain_s)
        while self._in_flight and time.monotonic() < until:
            time.sleep(0.02)
        with self._starting:
            self._end_process()
            _give_back(self._port)
            self._port = 0  # it may be somebody else's from now on
        shutil.rmtree(self._base, ignore_errors=True)

    def _running(self) -> bool:
        return self._container is not None and self._container.poll() is None

    def _end_process(self) -> None:
        if self._container is not None:
            self._container.end()
            self._container = None

    def _launch(self) -> containers.Container:
        requested = {
            **(self._container_spec.get("Environment") or {}),
            **self._extra,
            "SAGEMAKER_BIND_TO_PORT": str(self._port),
            "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
        }
        credentials = None if self._model.get("EnableNetworkIsolation") else self.credentials
        return containers.Container(
            [*self._environment.serve_entrypoint, "serve"],
            environment=self._environment,
            base=self._base,
            env=containers.container_env(self._environment, self._base, requested, credentials),
            log=self.log,
        )

    def _wait_for_ping(self, container: containers.Container, deadline: float) -> None:
        # whoever answers: while the container still starts, it may be somebody who took its port
        while not (_answers_ping(self._port) and process_table.listens(container.pid, self._port)):
            code = container.poll()
            if code is not None or time.monotonic() > deadline:
                self._end_process()
                raise HostingFailure(
                    f"The primary container for {self.place.kind} {self.unit} did not pass the ping "
                    "health check. Please check CloudWatch logs for this endpoint."
                )
            time.sleep(_PING_EVERY_S)


def process_usage(pid: int) -> tuple[float, float]:
    """Return the CPU seconds that a process has used and its resident memory in MB; zero where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])  # proc(5): utime, stime, rss
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def extract(archive: Path, directory: Path) -> None:
    """Unpack a tar.gz; members that would lie outside, links that leave and devices are refused (PEP 706)."""
    with tarfile.open(archive, "r:gz") as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(directory, filter="data")
            return
        # Python 3.11.0 to 3.11.3: the filter came later. Links are refused as well then.
        root = directory.resolve()
        for member in tar.getmembers():
            if not (member.isfile() or member.isdir()) or not (root / member.name).resolve().is_relative_to(root):
                raise tarfile.TarError(f"{member.name!r} is no file or folder inside the archive")
        tar.extractall(directory)


def _answers_ping(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PING_TIMEOUT_S)
    try:
        with contextlib.closing(connection):
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


_given: set[int] = set()
_giving = threading.Lock()


def _take_port() -> int:
    """Return a free port that no other container here has been given.

    A container binds its port itself, after seconds of imports; until then the system gives it to others as well.
    """
    with _giving:
        while (port := _free_port()) in _given:
            pass
        _given.add(port)
    return port


def _give_back(port: int) -> None:
    with _giving:
        _given.discard(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_taken(port: int) -> bool:
    """Return whether somebody has a port; its connections of before may linger."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
