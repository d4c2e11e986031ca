"""SageMaker and SageMaker Runtime inside the embedded cloud: jobs as processes, endpoints as HTTP servers.

`install()` registers the service with MiniStack, with Step Functions, with the control endpoint (`Ebb.InterruptSpot`,
`Ebb.SetFaults`, `Ebb.ClearFaults`, `Ebb.UseApp`), with the clock and with the server's end.
"""

from typing import Any

from ebb_local import clock, shutdown
from ebb_local.sagemaker import (
    endpoints,
    faults,
    jobs,
    minutes,
    processes,
    registration,
    settings,
    step_functions,
    storage,
    studio,
    threads,
    training_jobs,
    transitions,
)

__all__ = ["install"]


def install() -> None:
    """Add SageMaker to this process's MiniStack, before the server starts and before its control endpoint."""
    settings.use(settings.Settings.from_env())
    processes.end_leftovers()
    storage.sign_in_real_time()
    registration.install()
    registration.install_control(
        {
            "InterruptSpot": _interrupt_spot,
            "SetFaults": faults.set_faults,
            "ClearFaults": faults.clear,
            "UseApp": studio.use_app,
        }
    )
    step_functions.install()
    shutdown.register(processes.shutdown)
    threads.start("sagemaker-idle", endpoints.watch_idle, counts=False)
    clock.busy("sagemaker", threads.busy)
    transitions.install()
    clock.every(60, "sagemaker-minute", minutes.tick)


def _interrupt_spot(request: dict[str, Any]) -> dict[str, Any]:
    """Reclaim the machine of a spot training job, `{"job": name}`, as AWS does when it needs it back."""
    jobs.interrupt(training_jobs.find(str(request.get("job", ""))))
    return {}
