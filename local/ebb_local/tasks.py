"""The Task state in hand: whose execution it belongs to, and whether that was stopped meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ministack.services import stepfunctions

_execution: ContextVar[dict[str, Any] | None] = ContextVar("ebb_execution", default=None)
_timed_out: ContextVar[threading.Event | None] = ContextVar("ebb_task_timed_out", default=None)


class ExecutionEnded(Exception):
    """The execution of the task in hand ended from outside: no Retry or Catch may see this."""


@contextmanager
def running(execution: dict[str, Any]) -> Iterator[None]:
    """Say that the block runs a Task state of this execution."""
    token = _execution.set(execution)
    try:
        yield
    finally:
        _execution.reset(token)


@contextmanager
def with_timeout() -> Iterator[threading.Event]:
    """Give the block an event that, once set, tells the task in hand that its own time is over."""
    event = threading.Event()
    token = _timed_out.set(event)
    try:
        yield event
    finally:
        _timed_out.reset(token)


def stopping() -> bool:
    """Return whether the task in hand must stop: its execution ended, or its own time is over."""
    timed_out = _timed_out.get()
    return ended() or (timed_out is not None and timed_out.is_set())


def ended() -> bool:
    """Return whether the execution in hand is over, for example stopped by its user."""
    execution = _execution.get()
    return execution is not None and execution["status"] != "RUNNING"


def note(event_type: str, details: dict[str, Any]) -> None:
    """Add an event to the history of the execution in hand."""
    execution = _execution.get()
    if execution is not None:
        stepfunctions._add_event(execution, event_type, details)
