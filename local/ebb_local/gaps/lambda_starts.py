"""Functions start quickly: packages are unpacked once, and workers are forked from a process that has imported theirs.

MiniStack unpacks the code and the layers for each worker, hundreds of files, compiles them anew and removes them with
the worker: a second or two of processor and disk for each cold start. Workers that are forked share the memory of what
they all import, so that more of them can be kept.

What stays as it was: each worker is a process of its own with the environment of its function, and sees its code, its
layers and the runtime's packages. A function that such a fork would serve otherwise (its own PYTHON variables, a module
of its own that is named like one imported before) gets a process that starts from nothing, and so does every one where
there is no Linux: on macOS a fork of a process that has loaded the system's frameworks crashes.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import IO, Any

from ministack.core import lambda_runtime
from ministack.core.responses import new_uuid
from ministack.services import lambda_svc

from ebb_local import lambda_fork, shutdown
from ebb_local.gaps.lambda_errors import StartError

CAN_FORK = sys.platform == "linux" and hasattr(os, "pidfd_open")
IMPORTED = (
    "boto3.session", "botocore.handlers", "botocore.client", "s3transfer.manager", "yaml", "pydantic.main",
    "pydantic.fields", "aws_lambda_powertools.logging", "aws_lambda_powertools.utilities.parser",
    "aws_lambda_powertools.utilities.typing",
)  # fmt: skip
"""What the functions of the stack import of their runtime and their layer; reads no environment while it does."""
KEPT_NURSERIES = 2  # a deployment that replaces a layer leaves one that nobody asks any more
_ANSWER_S = 30.0
_READY_S = 30.0  # Lambda gives the first try 10 s: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
_logger = logging.getLogger("ebb.lambda")
_lock = threading.Lock()
_nurseries: dict[tuple[str, str], "Nursery"] = {}


def install() -> None:
    """Replace how a Python worker starts."""
    spawn = lambda_runtime.Worker._spawn

    def spawn_quickly(worker: lambda_runtime.Worker) -> None:
        if str(worker.config.get("Runtime", "")).startswith("python"):
            start(worker)
        else:
            spawn(worker)

    lambda_runtime.Worker._spawn = spawn_quickly
    shutdown.register(end_nurseries)


def start(worker: lambda_runtime.Worker) -> None:
    """Give the worker its process, initialised. Raises StartError where the function's own code fails at that."""
    worker._discard_tmpdir()  # of a process that has ended
    worker._tmpdir = tempfile.mkdtemp(prefix=f"ministack-lambda-{worker.func_name}-")
    binary, text = lambda_runtime._detect_runtime_binary(worker.config["Runtime"])
    script = Path(worker._tmpdir, "_worker.py")
    script.write_text(text)
    code = unpacked(worker.code_zip)
    layers = [unpacked(content) for content in _layers(worker.config)]
    own = {
        name: value
        for name, value in (worker.config.get("Environment") or {}).get("Variables", {}).items()
        if name not in lambda_runtime._RESERVED_RUNTIME_ENV_VARS
    }
    environment = _environment(worker.config, own, code, layers)
    own_python = any(name.startswith("PYTHON") for name in own)
    forked = _forked(binary, layers, script, code, environment) if CAN_FORK and not own_python else None
    worker._proc = forked or subprocess.Popen(
        [binary, str(script)],
        cwd=code,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environment,
    )
    _initialise(worker, code, own)


def unpacked(package: bytes) -> Path:
    """Return the folder that holds a package's files; unpacked once, whoever asks for it."""
    parent = Path(tempfile.gettempdir()) / "ebb-lambda-packages"
    folder = parent / hashlib.sha256(package).hexdigest()[:32]
    with _lock:
        if not folder.exists():
            parent.mkdir(exist_ok=True)
            draft = tempfile.mkdtemp(dir=parent)
            try:
                with zipfile.ZipFile(io.BytesIO(package)) as archive:
                    archive.extractall(draft)  # takes absolute names and `..` for names below the folder
                os.replace(draft, folder)
            except (OSError, zipfile.BadZipFile) as error:
                shutil.rmtree(draft, ignore_errors=True)
                raise StartError(f"Failed to extract a package: {error}") from error
    return folder


class Nursery:
    """A process of the functions' interpreter with their layers on its path, from which workers are forked."""

    def __init__(self, binary: str, layers: list[Path]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = [str(path) for layer in reversed(layers) for path in (layer, layer / "python")]
        with theirs:
            self._process = subprocess.Popen(
                # The folder is the server's own: whoever looks for processes that outlived it looks for that.
                [binary, "-P", lambda_fork.__file__, str(theirs.fileno()), tempfile.gettempdir(),
                 os.pathsep.join(paths), *IMPORTED],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        ours.settimeout(_ANSWER_S)
        self._connection = ours
        self._turn = threading.Lock()

    @property
    def lives(self) -> bool:
        """Return whether it can fork."""
        return self._process.poll() is None

    def fork(self, script: Path, folder: Path, environment: dict[str, str]) -> "Forked | None":
        """Return a new worker, None when a fork would serve this function otherwise. Raises OSError."""
        told = json.dumps({"script": str(script), "folder": str(folder), "environment": environment}).encode()
        stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
        theirs = [stdin[0], stdout[1], stderr[1]]
        try:
            with self._turn:
                socket.send_fds(self._connection, [told], theirs)
                answer = self._connection.recv(64)
            if not answer:
                raise OSError("the process that forks workers has ended")
        except OSError:
            for number in (stdin[1], stdout[0], stderr[0]):
                os.close(number)
            raise
        finally:
            for number in theirs:
                os.close(number)
        if not int(answer):
            for number in (stdin[1], stdout[0], stderr[0]):
                os.close(number)
            return None
        return Forked(int(answer), stdin[1], stdout[0], stderr[0])

    def end(self) -> None:
        """End it; its workers live on."""
        with self._turn:
            self._connection.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Forked:
    """A worker that is no child of this process, with as much of `subprocess.Popen` as MiniStack uses."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid, self.returncode = pid, None
        self.stdin: IO[str] = os.fdopen(stdin, "w", buffering=1, encoding="utf-8")
        self.stdout: IO[str] = os.fdopen(stdout, encoding="utf-8", errors="replace")
        self.stderr: IO[str] = os.fdopen(stderr, encoding="utf-8", errors="replace")
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = None

    def poll(self) -> int | None:
        """Return None while it runs, else a status that says nothing: who forked it does not ask."""
        return None if self._lives(0) else 0

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self._lives(timeout):
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        return 0

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _lives(self, timeout: float | None) -> bool:
        if self._handle is None:
            return False
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return not poll.poll(None if timeout is None else timeout * 1000)

    def _signal(self, number: signal.Signals) -> None:
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def __del__(self) -> None:
        handle: int | None = getattr(self, "_handle", None)  # none when its making failed
        if handle is not None:
            os.close(handle)


def end_nurseries() -> None:
    """End every process that forks workers."""
    with _lock:
        ended = list(_nurseries.values())
        _nurseries.clear()
    for nursery in ended:
        nursery.end()


def _forked(binary: str, layers: list[Path], script: Path, code: Path, environment: dict[str, str]) -> "Forked | None":
    """Return a forked worker; None when there comes none, which costs a second and nothing else."""
    key = (binary, os.pathsep.join(map(str, layers)))
    with _lock:
        nursery = _nurseries.pop(key, None)
        if nursery is None or not nursery.lives:
            nursery = Nursery(binary, layers)
        _nurseries[key] = nursery  # the last one used is the last in the dictionary
        surplus = [_nurseries.pop(each) for each in list(_nurseries)[:-KEPT_NURSERIES]]
    for each in surplus:
        each.end()
    try:
        return nursery.fork(script, code, environment)
    except OSError:
        _logger.exception("no worker could be forked")
        with _lock:
            if _nurseries.get(key) is nursery:
                del _nurseries[key]
        nursery.end()
        return None


def _layers(config: dict[str, Any]) -> list[bytes]:
    """Return the content of each layer of a function."""
    found = []
    for reference in config.get("Layers") or []:
        content = lambda_svc._resolve_layer_zip(reference)
        if content:
            found.append(content)
    return found


def _environment(config: dict[str, Any], own: dict[str, str], code: Path, layers: list[Path]) -> dict[str, str]:
    """Return the whole environment of a worker, as MiniStack makes it.

    Source: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
    """
    _, region = lambda_runtime._account_region_from_function_config(config)
    endpoint = f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '4566')}"
    given = {
        lambda_runtime.HOST_PREFIX_ENV: "true",
        "AWS_ENDPOINT_URL": endpoint,
        "LAMBDA_TASK_ROOT": str(code),
        "AWS_LAMBDA_FUNCTION_NAME": config.get("FunctionName", ""),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.get("MemorySize", 128)),
        "AWS_LAMBDA_FUNCTION_VERSION": config.get("Version", "$LATEST"),
        "AWS_LAMBDA_LOG_STREAM_NAME": new_uuid(),
        "_LAMBDA_FUNCTION_ARN": config.get("FunctionArn", ""),
        "_LAMBDA_TIMEOUT": str(config.get("Timeout", 30)),
    }
    always = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region, **lambda_runtime.execution_credentials(config)}
    if layers:
        always["_LAMBDA_LAYERS_DIRS"] = os.pathsep.join(map(str, layers))
    return {**given, **os.environ, **own, **always}


def _initialise(worker: lambda_runtime.Worker, code: Path, own: dict[str, str]) -> None:
    """Let the process import the function, and read that it has. Raises StartError, TimeoutError."""
    process, config = worker._proc, worker.config
    worker._stderr_queue = queue.Queue()
    worker._stderr_thread = threading.Thread(target=worker._read_stderr, daemon=True, name=f"stderr-{worker.func_name}")
    worker._stderr_thread.start()
    module, handler = config.get("Handler", "index.handler").rsplit(".", 1)
    told = {
        "code_dir": str(code),
        "module": module.replace("/", "."),
        "handler": handler,
        "env": own,
        "function_name": config.get("FunctionName", ""),
        "memory": config.get("MemorySize", 128),
        "arn": config.get("FunctionArn", ""),
        "snapstart": (config.get("SnapStart") or {}).get("OptimizationStatus") == "On",
    }
    too_late = threading.Event()

    def end() -> None:
        too_late.set()
        process.kill()

    watch = threading.Timer(_READY_S, end)
    watch.daemon = True
    watch.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it says below why it ended
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
        answer = _first_answer(process.stdout)
    finally:
        watch.cancel()
    if answer is None:
        if too_late.is_set():
            raise TimeoutError(f"the worker was not ready within {_READY_S:g} s")
        time.sleep(0.05)  # what it said last is on its way
        raise StartError(f"Worker process exited immediately. stderr: {worker._drain_stderr()}")
    if answer.get("status") != "ready":
        raise StartError(f"Worker init failed: {answer.get('error')}")
    worker._start_time = lambda_runtime.time.time()
    _logger.info("worker of %s started (cold)", worker.func_name)


def _first_answer(lines: IO[str]) -> dict[str, Any] | None:
    """Return the first line that is an answer, None when the process ends without one."""
    for line in lines:
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(line)
    return None
