"""Lambda runs on its own interpreter, and idle workers end.

MiniStack runs functions on the server's interpreter, where a dependency that is missing from the layer would be found
all the same, and it never ends the first worker of a function: 70 to 90 MB for each function ever called.
"""

import logging
import threading
import time

from ministack.core import lambda_runtime
from ministack.services import lambda_svc

from ebb_local import settings, shutdown

IDLE_S = 120.0
KEPT_IDLE_WORKERS = 8  # of all functions together, 40 MB each: with the server itself that stays well below 1 GiB
# Those beyond are kept as long as a burst goes on: ten callers who look every few seconds, and the deliveries that look
# for them, would else start a worker at nearly every look, which costs a second of processor each time.
KEPT_IN_BURST, BURST_S = 32, 10.0
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

    release = lambda_svc.release_worker

    def release_used_now(worker: lambda_runtime.Worker | None) -> None:
        if worker is not None:
            worker.last_used = lambda_runtime.time.time()  # MiniStack counts from when the call began
        release(worker)

    lambda_runtime._detect_runtime_binary = detect_lambda_runtime
    lambda_svc.release_worker = release_used_now
    threading.Thread(target=_reap_forever, name="ebb-lambda-reaper", daemon=True).start()
    shutdown.register(lambda_runtime.reset)


def reap(*, idle_s: float = IDLE_S, kept: int = KEPT_IDLE_WORKERS) -> int:
    """End workers that were idle for `idle_s`, and those beyond `kept` that no burst needs; return how many."""
    now = lambda_runtime.time.time()  # the clock by which it says when a worker was last used
    with lambda_runtime._lock:
        idle = sorted(
            (worker for workers in lambda_runtime._workers.values() for worker in workers if not worker.in_use),
            key=lambda worker: (_has_process(worker), worker.last_used),
            reverse=True,
        )
        ended = [
            worker
            for rank, worker in enumerate(idle)
            if now - worker.last_used > (idle_s if rank < kept else BURST_S) or rank >= max(kept, KEPT_IN_BURST)
        ]
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
