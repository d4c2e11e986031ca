"""The control endpoint, for the host only: what the cloud decided and how it is.

`POST /` with `X-Amz-Target: Ebb.GetCalls | Ebb.ClearCalls | Ebb.Status | Ebb.Advance`, signed by the account's root.

`Ebb.Advance {"Seconds": 7200, "BudgetSeconds": 2, "After": position}` puts the clock forward for as long as the budget
of real seconds lasts, and answers `{"Began", "Now", "WaitsFor", "Position", "Notes"}`: what time it was and is, what it
waits for if it could not go on, and what happened since the position (or this call). The caller goes on with the rest.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict

from ministack import app
from ministack.core import concurrency, iam_actions, lambda_runtime, router
from ministack.services import sqs, stepfunctions

from ebb_local import authorization, clock, persistence
from ebb_local.settings import ACCOUNT_ID, REGION, Home

MOST_ADVANCED_S = 366 * 86_400
_SHOWN_MESSAGES, _SHOWN_CHARS = 20, 160


def install(home: Home, port: int) -> None:
    """Register the `Ebb.` targets with the gateway."""
    answers: dict[str, Callable[[dict], dict]] = {
        "GetCalls": lambda _: {"Calls": [asdict(call) for call in authorization.calls()]},
        "ClearCalls": lambda _: _clear(),
        "Status": lambda _: status(home, port),
    }

    async def handle(method, path, headers, body, query_params):
        action = headers.get("x-amz-target", "").removeprefix("Ebb.")
        answer = answers.get(action)
        if action == "Advance":
            # in a thread: what it waits for is answered by this very loop
            return await concurrency.run_reentrant(_advance, body)
        if answer is None:
            return _reply(400, {"__type": "UnknownOperationException", "message": f"Unknown operation Ebb.{action}"})
        return _reply(200, answer(json.loads(body or b"{}")))

    app.SERVICE_HANDLERS["ebb"] = handle
    router.SERVICE_PATTERNS["ebb"] = {"target_prefixes": ["Ebb."], "host_patterns": [], "credential_scope": "ebb"}
    # With a namespace the gateway authorizes it: a function's or a job's role holds no ebb: action and is refused.
    iam_actions.SERVICE_TO_IAM_NAMESPACE["ebb"] = "ebb"


def _advance(body: bytes) -> tuple[int, dict, bytes]:
    request = json.loads(body or b"{}")
    seconds, budget_s = float(request.get("Seconds", 0)), float(request.get("BudgetSeconds", 600))
    if not 0 <= seconds <= MOST_ADVANCED_S:
        return _reply(400, {"__type": "ValidationException", "message": f"Seconds must be from 0 to {MOST_ADVANCED_S}"})
    after, began, waits_for = request.get("After", clock.notes()[0]), clock.now(), ""
    try:
        clock.advance(seconds, budget_s=budget_s, patience_s=budget_s)
    except clock.ClockError as problem:
        waits_for = str(problem)
    persistence.mark_changed()
    position, notes = clock.notes(int(after))
    reply = {"Began": began, "Now": clock.now(), "WaitsFor": waits_for, "Position": position, "Notes": notes}
    return _reply(200, reply)


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
        "Now": clock.now(),
        "AheadSeconds": clock.offset_s(),
        "AtWork": clock.working(),
        "MemoryMiB": resident_mib(os.getpid()),
        "OpenFiles": _open_files(),
        "LambdaWorkers": workers,
        "RunningExecutions": running,
        "Queues": {queue["name"]: held for queue in list(sqs._queues.values()) if (held := _messages(queue))},
    }


def _messages(queue: dict) -> list[dict]:
    """Return the first messages of a queue, and when each comes into sight: no receive, which would hide them."""
    return [
        {
            "VisibleInS": max(0.0, round(message["visible_at"] - clock.now(), 1)),
            "Received": message["receive_count"],
            "Body": message["body"][:_SHOWN_CHARS],
        }
        for message in queue["messages"][:_SHOWN_MESSAGES]
    ]


def _open_files() -> int | None:
    """Return how many files and connections the server holds; None where the system keeps no /proc."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


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
