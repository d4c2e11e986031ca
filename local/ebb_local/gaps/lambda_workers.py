"""Lambda runs on its own interpreter, and idle workers end.

MiniStack runs functions on the server's interpreter, where a dependency that is missing from the layer would be found
all the same, and it never ends the first worker of a function: 70 to 90 MB for each function ever called.
"""

import logging
import threading
import time

from ministack.core import lambda_runtime

from ebb_local import settings, shutdown

IDLE_S = 120.0
KEPT_IDLE_WORKERS = 8  # of all functions together, 40 MB each: with the server itself that stays well below 1 GiB
_CHECK_EVERY_S = 2.0
_logger = logging.getLogger("ebb.lambda")


def install() -> None:
    """Choose the interpreter, start the reaper, and end every worker with the server."""
    detect = lambda_runtime._detect_runtime_binary
    python = settings.environment_python("lambda")
    if not python.exists():
        raise RuntimeError(f"{python} does not exist: `make setup` installs the environment of the Lambda runtime")

    def detect_lambda_runtime(runtime: str) -> tuple[str, str]:
        binary, script = detect(runtime)
        return (str(python) if runtime.startswith("python") else binary), script

    lambda_runtime._detect_runtime_binary = detect_lambda_runtime
    threading.Thread(target=_reap_forever, name="ebb-lambda-reaper", daemon=True).start()
    shutdown.register(lambda_runtime.reset)


def reap(*, idle_s: float = IDLE_S, kept: int = KEPT_IDLE_WORKERS) -> int:
    """End workers that were idle for `idle_s`, and the longest idle ones beyond `kept`; return how many."""
    now = lambda_runtime.time.time()  # the clock by which it says when a worker was last used
    with lambda_runtime._lock:
        idle = sorted(
            (worker for workers in lambda_runtime._workers.values() for worker in workers if not worker.in_use),
            key=lambda worker: (_has_process(worker), worker.last_used),
            reverse=True,
        )
        ended = [worker for rank, worker in enumerate(idle) if rank >= kept or now - worker.last_used > idle_s]
        for key, workers in list(lambda_runtime._workers.items()):
            workers[:] = [worker for worker in workers if worker not in ended]
            if not workers:
                del lambda_runtime._workers[key]
    lambda_runtime.kill_workers(ended)
    return len(ended)


def _has_process(worker: lambda_runtime.Worker) -> bool:
    return worker._proc is not None and worker._proc.poll() is None


def _reap_forever() -> None:
    while True:
        time.sleep(_CHECK_EVERY_S)
        try:
            reap()
        except Exception:
            _logger.exception("could not end idle Lambda workers")
