"""Background work that keeps the account, the Region and the caller of the request that began it."""

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("ebb.sagemaker")


def start(name: str, work: Callable[..., Any], *arguments: Any) -> threading.Thread:
    """Run `work` in a daemon thread; what it raises is logged."""

    def run() -> None:
        try:
            work(*arguments)
        except Exception:
            logger.exception("%s failed", name)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name=name, daemon=True)
    thread.start()
    return thread
