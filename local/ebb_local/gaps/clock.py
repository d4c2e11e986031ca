"""MiniStack lives in virtual time; what proves who somebody is, and what measures real work, stays on the real clock.

- Signatures and presigned URLs are dated by clients on the real clock, so that is what judges them.
- Sessions of roles live in real time: functions, jobs and containers that hold them run in real time, and renew them
  when their own clock says so. A jump of the clock expires no session.
- Lambda workers age in real time: a jump ends none of them.
- Waits and retries of executions pass in virtual time; an advance stops while an execution does anything but wait.
"""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from types import ModuleType
from typing import Any

import time_machine
from ministack.core import iam_evaluator, lambda_runtime, sigv4
from ministack.core.responses import request_scope
from ministack.services import lambda_svc, s3, sqs, stepfunctions, sts

from ebb_local import clock

_NAP_S = 0.01
_RETRY_PAUSE_S = 2.5  # real: as long as MiniStack waits before it calls a function again that failed
_meter: contextvars.ContextVar[clock.Meter | None] = contextvars.ContextVar("ebb_meter", default=None)
_running: dict[int, tuple[clock.Meter, str]] = {}
_awaited: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar("ebb_awaited", default=None)
_counting = threading.Lock()
_failed_until = 0.0


class _RealTime(ModuleType):
    """The module `time`, except that `time()` is this machine's."""

    def __init__(self) -> None:
        super().__init__("time")

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def time() -> float:
        return time_machine.escape_hatch.time.time()


class _Brisk(ModuleType):
    """The module `time`, except that naps are short."""

    def __init__(self) -> None:
        super().__init__("time")

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, _NAP_S))


class _Beginning:
    """What was set off and is not counted as running yet, by kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, kind: str) -> None:
        with _counting:
            self._counts[kind] = self._counts.get(kind, 0) + 1

    def remove(self, kind: str) -> None:
        with _counting:
            self._counts[kind] = max(0, self._counts.get(kind, 0) - 1)
        clock.stir()

    def kinds(self) -> list[str]:
        return [kind for kind, count in list(self._counts.items()) if count]


_beginning = _Beginning()


def install() -> None:
    """Choose for each part of MiniStack which clock it looks at, and tell the clock what works."""
    _keep_real()
    _meter_executions()
    _notice_calls()
    clock.busy("an", _beginning.kinds)
    clock.busy("execution", lambda: [name for meter, name in list(_running.values()) if meter.at_work > 0])
    clock.busy("function", _functions)
    clock.busy("queue", _batches)


def current_meter() -> clock.Meter | None:
    """Return the meter of the execution in hand, for waits that are its own."""
    return _meter.get()


def standing_by() -> contextlib.AbstractContextManager[None]:
    """Say that the execution in hand only waits for other work, which is counted on its own."""
    return clock.standing_by(_meter.get())


def _keep_real() -> None:
    time_failure, is_expired = sigv4.request_time_failure, sigv4.presigned_request_is_expired
    real_now = time_machine.escape_hatch.datetime.datetime.now

    def judge_in_real_time(signature: Any, *, now: Any = None) -> Any:
        return time_failure(signature, now=now or real_now(UTC))

    def expired_in_real_time(amz_date: str, expires: str | int, *, now: Any = None) -> bool:
        return is_expired(amz_date, expires, now=now or real_now(UTC))

    sigv4.request_time_failure = judge_in_real_time
    sigv4.presigned_request_is_expired = s3.presigned_request_is_expired = expired_in_real_time
    for module in (sts, iam_evaluator, lambda_runtime):
        module.time = _RealTime()
    # Each execution begins with a nap, so that its start is answered first: a short one does.
    stepfunctions.time = _Brisk()
    sts._future = lambda seconds: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.real_now() + seconds))


def _meter_executions() -> None:
    start, run, sub_machine = (
        stepfunctions._start_execution,
        stepfunctions._run_execution,
        stepfunctions._run_sub_machine,
    )

    def start_noticed(data: dict) -> Any:
        _beginning.add("execution")  # until its thread runs
        status, *reply = start(data)
        if status >= 400:
            _beginning.remove("execution")
        return (status, *reply)

    def run_metered(execution_arn: str) -> None:
        meter = clock.Meter()
        _running[id(meter)] = (meter, execution_arn.rsplit(":", 1)[-1])
        _beginning.remove("execution")
        token = _meter.set(meter)
        try:
            run(execution_arn)
        finally:
            _meter.reset(token)
            _running.pop(id(meter), None)
            _note_end(execution_arn)

    def sub_machine_metered(*arguments: Any, **keywords: Any) -> Any:
        parent = _meter.get()
        with _branch(parent) if parent else contextlib.nullcontext():
            return sub_machine(*arguments, **keywords)

    stepfunctions._start_execution = start_noticed
    stepfunctions._run_execution = run_metered
    stepfunctions._run_sub_machine = sub_machine_metered
    stepfunctions._scaled_sleep = lambda seconds: clock.wait(float(seconds), meter=_meter.get())


@contextlib.contextmanager
def _branch(parent: clock.Meter) -> Iterator[None]:
    """Give a branch a meter of its own; its parent, which waits for all of them, is not at work while one is there."""
    own = clock.Meter()
    _running[id(own)] = (own, _running.get(id(parent), (parent, "branch"))[1])
    _count_branch(parent, 1)
    token = _meter.set(own)
    try:
        yield
    finally:
        _meter.reset(token)
        _running.pop(id(own), None)
        _count_branch(parent, -1)
        clock.stir()  # its parent, or the next branch, goes on in a moment


def _count_branch(parent: clock.Meter, change: int) -> None:
    with _counting:
        before = parent.branches
        parent.branches += change
        parent.at_work += bool(before) - bool(parent.branches)


def _notice_calls() -> None:
    """Count calls of functions, those that are about to begin in a thread of their own included."""
    execute, execute_later = lambda_svc._execute_function, lambda_svc.invoke_async_with_retry

    def execute_noticed(*arguments: Any, **keywords: Any) -> Any:
        global _failed_until
        _beginning.add("call")
        if awaited := _awaited.get():
            awaited()
        try:
            result = execute(*arguments, **keywords)
        finally:
            _beginning.remove("call")
        if result.get("error"):
            _failed_until = time.monotonic() + _RETRY_PAUSE_S
        return result

    def execute_later_noticed(func: dict, event: dict) -> None:
        _beginning.add("asynchronous call")
        once = iter([lambda: _beginning.remove("asynchronous call")])
        token = _awaited.set(lambda: next(once, lambda: None)())
        try:
            execute_later(func, event)
        finally:
            _awaited.reset(token)

    lambda_svc._execute_function = execute_noticed
    lambda_svc.invoke_async_with_retry = execute_later_noticed


def _note_end(execution_arn: str) -> None:
    execution = stepfunctions._executions.get(execution_arn) or {}
    status = execution.get("status", "")
    machine, _, name = execution_arn.split(":execution:")[-1].partition(":")
    clock.note("execution", f"{machine} {name} {status.lower().replace('_', ' ')}")


def _functions() -> list[str]:
    """Return what functions do: workers in use, and failed calls that are made again in a moment."""
    used = lambda_runtime.workers_in_use()
    retried = ["call that failed"] if time.monotonic() < _failed_until else []
    return [f"calls: {used}"] * bool(used) + retried


def _batches() -> list[str]:
    """Return the event sources that have a batch in hand, or messages that they take in a moment."""
    found = [f"batch of event source {uuid}" for uuid in list(lambda_svc._esm_inflight)]
    moment = clock.now()
    for account, region, esm in list(lambda_svc._iter_all_esms()):
        source = esm.get("EventSourceArn", "")
        if not esm.get("Enabled", True) or ":sqs:" not in source:
            continue
        with request_scope(account, region):
            queue = sqs._queue_by_arn(source)
            paused = lambda_svc._esm_backoff_until.get(esm["UUID"], 0) > moment
        if queue and not paused and any(message["visible_at"] <= moment for message in list(queue["messages"])):
            found.append(f"messages in {queue['name']}")
    if found:
        lambda_svc._esm_wake.set()  # it looks from time to time; what became visible by a jump it does not hear of
    return found
