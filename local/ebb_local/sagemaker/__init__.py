"""SageMaker and SageMaker Runtime inside the embedded cloud: jobs as processes, endpoints as HTTP servers.

install()     before the server starts: registers the service with MiniStack and with Step Functions
shutdown()    when it stops: ends every container
control       what the control endpoint offers, by name: `InterruptSpot`
is_busy()     whether a job runs, for whoever advances the clock
"""

from collections.abc import Callable
from typing import Any

from ebb_local.sagemaker import (
    endpoints,
    jobs,
    processes,
    registration,
    settings,
    step_functions,
    threads,
    training_jobs,
)
from ebb_local.sagemaker.jobs import is_busy

__all__ = ["control", "install", "is_busy", "shutdown"]


def install() -> None:
    """Add SageMaker to this process's MiniStack. Reads EBB_HOME, GATEWAY_PORT and EBB_VENVS."""
    settings.use(settings.Settings.from_env())
    processes.end_leftovers()
    registration.install()
    step_functions.install()
    threads.start("sagemaker-idle", endpoints.watch_idle)


def shutdown() -> None:
    """End every container: jobs, endpoints, and what they started."""
    processes.shutdown()


def interrupt_spot(request: dict[str, Any]) -> dict[str, Any]:
    """Reclaim the machine of a spot training job, `{"job": name}`, as AWS does when it needs it back."""
    jobs.interrupt(training_jobs.find(request["job"]))
    return {}


control: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"InterruptSpot": interrupt_spot}
