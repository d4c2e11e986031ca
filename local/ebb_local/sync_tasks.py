"""Jobs that a state machine waits for: the `.sync` integrations of Step Functions, and how they are stopped.

A service registers each `.sync` resource that it can run:

    sync_tasks.register(
        "arn:aws:states:::sagemaker:createTrainingJob.sync",
        start=start,    # (arguments: dict) -> handle: str   begins the job as current_principal(), returns at once
        wait=wait,      # (handle, timeout_s: float) -> dict | None   the Describe response once the job has ended
        stop=stop,      # (handle) -> None   asks the job to stop, returns at once
        permissions=permissions,  # (arguments) -> Permissions   what the state machine's role needs, see below
    )

`start` and `wait` raise `TaskError(error, cause)`; the state fails with exactly that name and cause. A job that
ended badly is such an error: AWS surfaces `States.TaskFailed` with the Describe response as JSON text.
`start` may also raise `authorization.AccessDenied`, which becomes the service's own exception name.

All three run in a thread of the execution with `current_principal()` being a session of the machine's role.
`stop` is called when the execution is stopped or timed out, or when the state's TimeoutSeconds ends; AWS stops the
job "best effort", under the machine's role, which needs the Stop action for it.
Source: https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html (Run a Job).

Checked here, with the machine's role, before `start`: each (action, resource ARN) of `Permissions.start`; before
`stop`: `Permissions.stop`. `start` itself checks what the service checks on any path (iam:PassRole).
"""

from collections.abc import Callable
from dataclasses import dataclass, field


class TaskError(Exception):
    """The task failed: `error` is the name that Retry and Catch match, `cause` its text."""

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(f"{error}: {cause}")
        self.error, self.cause = error, cause


@dataclass(frozen=True)
class Permissions:
    """What a machine's role needs, as (action, resource ARN): to run the job, and to stop it."""

    start: list[tuple[str, str]] = field(default_factory=list)
    stop: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class SyncTask:
    """One registered `.sync` resource."""

    start: Callable[[dict], str]
    wait: Callable[[str, float], dict | None]
    stop: Callable[[str], None]
    permissions: Callable[[dict], Permissions]


_tasks: dict[str, SyncTask] = {}


def register(
    resource: str,
    *,
    start: Callable[[dict], str],
    wait: Callable[[str, float], dict | None],
    stop: Callable[[str], None],
    permissions: Callable[[dict], Permissions] = lambda _: Permissions(),
) -> None:
    """Make the `.sync` resource ARN known to state machines."""
    _tasks[resource] = SyncTask(start, wait, stop, permissions)


def find(resource: str) -> SyncTask | None:
    """Return the task registered for a resource ARN, if any."""
    return _tasks.get(resource)
