"""SageMaker and SageMaker Runtime inside the embedded cloud: jobs as processes, endpoints as HTTP servers.

`install()` registers the service with MiniStack, with Step Functions, with the control endpoint (`Ebb.InterruptSpot`)
and with the server's end. `is_busy()` tells whoever advances the clock whether a job runs.
"""

from typing import Any

from ebb_local import shutdown
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

__all__ = ["install", "is_busy"]


def install() -> None:
    """Add SageMaker to this process's MiniStack, before the server starts and before its control endpoint."""
    settings.use(settings.Settings.from_env())
    processes.end_leftovers()
    registration.install()
    registration.install_control({"InterruptSpot": _interrupt_spot})
    step_functions.install()
    shutdown.register(processes.shutdown)
    threads.start("sagemaker-idle", endpoints.watch_idle)


def _interrupt_spot(request: dict[str, Any]) -> dict[str, Any]:
    """Reclaim the machine of a spot training job, `{"job": name}`, as AWS does when it needs it back."""
    jobs.interrupt(training_jobs.find(str(request.get("job", ""))))
    return {}
