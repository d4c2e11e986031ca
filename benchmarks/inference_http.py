"""End to end over HTTP: cold start, memory, latency and CPU time of a served model. Linux: reads /proc."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REQUESTS, ROUNDS = 200, 4
TIMEOUT_S = 120.0
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A server's process, and what was measured of it."""

    command: list[str]
    base: Path
    body: bytes
    content_type: str
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    cold_s: list[float] = field(default_factory=list)
    cold_cpu_s: list[float] = field(default_factory=list)
    """Beside the wall time: what a start costs whatever else the machine does."""
    seconds: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    memory_mib: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it and time how long it takes from exec to the first answer."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | self.environment
        environment |= {
            "SAGEMAKER_BASE_DIR": str(self.base), "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
        }  # fmt: skip
        begun = time.perf_counter()
        self.process = subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL)
        try:
            while True:
                with contextlib.suppress(OSError):
                    self.ask(http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S))
                    break
                if self.process.poll() is not None or time.perf_counter() - begun > TIMEOUT_S:
                    raise RuntimeError(f"the server did not answer: {' '.join(self.command)}")
                time.sleep(0.002)
            self.cold_s.append(time.perf_counter() - begun)
            self.cold_cpu_s.append(self._cpu_s())
            yield
        finally:
            self.process.terminate()
            self.process.wait(30)

    def ask(self, connection: http.client.HTTPConnection) -> None:
        """Ask for one prediction; the connection stays open."""
        connection.request("POST", "/invocations", self.body, {"Content-Type": self.content_type})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the server answered {answer.status}")

    def round(self, requests: int) -> None:
        """Ask one after the other on one connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        for _ in range(10):
            self.ask(connection)
        cpu, seconds = self._cpu_s(), []
        for _ in range(requests):
            begun = time.perf_counter()
            self.ask(connection)
            seconds.append(time.perf_counter() - begun)
        self.cpu_s += self._cpu_s() - cpu
        self.seconds += seconds
        self.p50_ms.append(statistics.median(seconds) * 1000)
        self.memory_mib = self._memory_mib()
        connection.close()

    def figures(self) -> dict[str, object]:
        """Return what was measured."""
        ordered = sorted(self.seconds)
        return {
            "cold_start_s": statistics.median(self.cold_s),
            "cold_starts_s": [round(each, 4) for each in self.cold_s],
            "cold_start_cpu_s": statistics.median(self.cold_cpu_s),
            "end_to_end_latency_ms": {
                "p50": statistics.median(ordered) * 1000,
                "p99": ordered[int(len(ordered) * 0.99)] * 1000,
            },
            "rounds": {"p50_ms": [round(each, 4) for each in self.p50_ms]},
            "cpu_ms_per_prediction": self.cpu_s / len(ordered) * 1000,
            "memory_mib": self.memory_mib,
        }

    def _cpu_s(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def _memory_mib(self) -> float:
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def race(servers: list[Server], cold_starts: int = 5) -> None:
    """Measure servers in turns: their cold starts first, then requests in rounds while all of them run."""
    for _ in range(cold_starts - 1):
        for server in servers:
            with server.running():
                pass
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server.running())
        for _ in range(ROUNDS):
            for server in servers:
                server.round(REQUESTS)
