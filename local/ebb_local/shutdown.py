"""What must end with the server: every part that starts processes or threads of its own registers how to end them."""

import logging
from collections.abc import Callable

_logger = logging.getLogger("ebb.shutdown")
_steps: list[Callable[[], None]] = []


def register(step: Callable[[], None]) -> None:
    """Run `step` when the server ends; later registrations run first."""
    _steps.append(step)


def run() -> None:
    """Run every step once, each even when another one fails."""
    while _steps:
        step = _steps.pop()
        try:
            step()
        except Exception:
            _logger.exception("%s failed while the server ended", step.__qualname__)
