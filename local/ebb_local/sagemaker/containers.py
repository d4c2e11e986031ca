"""One container: a process of this machine that sees `/opt/ml` in a directory of its own.

What a process cannot have here that a container has: a file system of its own. So `/opt/ml` in its command and its
environment values becomes the base directory, which SAGEMAKER_BASE_DIR names too: the one local addition to what
AWS sets (AWS_ENDPOINT_URL is another where the container has credentials, so that they reach this cloud and no other).
"""

import functools
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ministack.core.responses import get_region

from ebb_local.sagemaker import isolated, processes, settings
from ebb_local.sagemaker.images import Environment
from ebb_local.sagemaker.logs import LogStream
from ebb_local.sagemaker.roles import Credentials

_ROOT = re.compile(r"(?:(?<=^)|(?<=[=:,\s\"']))/opt/ml(?=$|[/:,\s\"'])")
_MAX_LINE_BYTES = 1 << 20
_WITHOUT_NETWORK = ["unshare", "--user", "--map-root-user", "--net", "--", sys.executable, "-I", isolated.__file__]


class Container:
    """A running container. Its output goes to a log stream, line by line."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Environment,
        base: Path,
        env: dict[str, str],
        log: LogStream,
        isolated: bool = False,
        beside: int | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Start it; without a network when `isolated`, or in that of the process `beside`, its peer in a cluster."""
        self._log, self._on_line = log, on_line
        command = [local_text(part, base) for part in argv]
        if command[0] in ("python", "python3"):
            command[0] = str(environment.python)
        self.isolated = isolated and can_isolate()
        if self.isolated:
            command = [*(_network_of(beside) if beside else _WITHOUT_NETWORK), *command]
        values = {name: local_text(value, base) for name, value in env.items()}
        self._process = processes.start(command, env=values, cwd=base)
        self._reader = threading.Thread(target=self._read, name=f"container-{self._process.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The id of its process and of its process group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code when it has ended: 128 + n for signal n, as Docker reports it."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end at most so long; return the exit code, or None while it runs."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return self.poll()

    def end(self, grace_s: float | None = None) -> int | None:
        """SIGTERM, a grace, SIGKILL; return the exit code. Everything that it started ends too."""
        processes.end(self._process, settings.current().stop_grace_s if grace_s is None else grace_s)
        self._drain()
        return self.poll()

    def finish(self) -> None:
        """Clear up after a container that ended by itself."""
        processes.forget(self._process)
        self._drain()

    def _drain(self) -> None:
        self._reader.join(timeout=5)
        self._log.flush()

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        with output:
            while raw := output.readline(_MAX_LINE_BYTES):
                line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
                self._log.write(line)
                if self._on_line is not None:
                    self._on_line(line)


def _network_of(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", "--user", "--preserve-credentials", "--net", "--"]


def local_text(text: str, base: Path) -> str:
    """Return a command part or an environment value with `/opt/ml` at the start of a path replaced by the base."""
    return _ROOT.sub(lambda _: str(base), text)


def container_env(
    environment: Environment, base: Path, requested: dict[str, str], credentials: Credentials | None
) -> dict[str, str]:
    """Return the whole environment of a container: nothing of the server's own gets in."""
    env = {
        "PATH": f"{environment.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(base / ".home"),
        "TMPDIR": str(base / ".tmp"),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",  # log lines appear while the job runs, as from an image that sets it
        "AWS_REGION": get_region(),
        "AWS_DEFAULT_REGION": get_region(),
    }
    for name in (".home", ".tmp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    if credentials is not None:
        env |= {
            "AWS_ACCESS_KEY_ID": credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
            "AWS_SESSION_TOKEN": credentials.session_token,
            "AWS_ENDPOINT_URL": settings.current().endpoint_url,
        }
    return env | requested | {"SAGEMAKER_BASE_DIR": str(base)}


@functools.cache
def can_isolate() -> bool:
    """Return whether this machine can run a process without a network: Linux with user namespaces."""
    try:
        return subprocess.run([*_WITHOUT_NETWORK, "true"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
