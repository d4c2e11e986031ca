"""Background work that keeps the account, the Region and the caller of the request that began it.

What is under way holds an advance of the clock back; what waits for the clock itself does not.
"""

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

from ebb_local import clock

logger = logging.getLogger("ebb.sagemaker")

_meter: contextvars.ContextVar[clock.Meter | None] = contextvars.ContextVar("ebb_sagemaker_meter", default=None)
_meters: dict[int, tuple[str, clock.Meter]] = {}


def start(name: str, work: Callable[..., Any], *arguments: Any, counts: bool = True) -> threading.Thread:
    """Run `work` in a daemon thread; what it raises is logged. `counts=False`: it has no end to wait for."""
    meter = clock.Meter()

    def run() -> None:
        _meter.set(meter)
        try:
            work(*arguments)
        except Exception:
            logger.exception("%s failed", name)
        finally:
            _meters.pop(id(meter), None)
            clock.stir()

    if counts:
        _meters[id(meter)] = (name, meter)
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name=name, daemon=True)
    thread.start()
    return thread


def sleep(seconds: float, until: Callable[[], bool] | None = None) -> bool:
    """Let virtual seconds pass inside background work, or stop early when `until` holds; return whether it did."""
    return clock.wait(seconds, until, meter=_meter.get())


def busy() -> list[str]:
    """Return the names of the background work that is under way and does not wait for the clock."""
    return [name for name, meter in list(_meters.values()) if meter.at_work > 0]
