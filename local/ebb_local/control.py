"""The control endpoint, for the host only: what the cloud decided and how it is.

`POST /` with `X-Amz-Target: Ebb.GetCalls | Ebb.ClearCalls | Ebb.Status`, signed by the account's root.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict

from ministack import app
from ministack.core import iam_actions, lambda_runtime, router
from ministack.services import stepfunctions

from ebb_local import authorization
from ebb_local.settings import ACCOUNT_ID, REGION, Home


def install(home: Home, port: int) -> None:
    """Register the `Ebb.` targets with the gateway."""
    answers: dict[str, Callable[[], dict]] = {
        "GetCalls": lambda: {"Calls": [asdict(call) for call in authorization.calls()]},
        "ClearCalls": _clear,
        "Status": lambda: status(home, port),
    }

    async def handle(method, path, headers, body, query_params):
        action = headers.get("x-amz-target", "").removeprefix("Ebb.")
        answer = answers.get(action)
        if answer is None:
            return _reply(400, {"__type": "UnknownOperationException", "message": f"Unknown operation Ebb.{action}"})
        return _reply(200, answer())

    app.SERVICE_HANDLERS["ebb"] = handle
    router.SERVICE_PATTERNS["ebb"] = {"target_prefixes": ["Ebb."], "host_patterns": [], "credential_scope": "ebb"}
    # With a namespace the gateway authorizes it: a function's or a job's role holds no ebb: action and is refused.
    iam_actions.SERVICE_TO_IAM_NAMESPACE["ebb"] = "ebb"


def status(home: Home, port: int) -> dict:
    """Return the process's own figures and what runs in it."""
    running = [e["executionArn"] for e in stepfunctions._executions.values() if e["status"] == "RUNNING"]
    with lambda_runtime._lock:
        workers = {key: len(entries) for key, entries in lambda_runtime._workers.items()}
    return {
        "Pid": os.getpid(),
        "Port": port,
        "Home": str(home.root),
        "Region": REGION,
        "AccountId": ACCOUNT_ID,
        "MemoryMiB": resident_mib(os.getpid()),
        "LambdaWorkers": workers,
        "RunningExecutions": running,
    }


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process; 0 where the system keeps no /proc."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            kib = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return 0.0
    return round(int(kib) / 1024, 1)


def _clear() -> dict:
    authorization.clear_calls()
    return {}


def _reply(status_code: int, body: dict) -> tuple[int, dict, bytes]:
    return status_code, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(body).encode()
