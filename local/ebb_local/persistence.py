"""State that survives: MiniStack saves at a clean end only, so a killed process would lose everything since its start.

Saving goes through MiniStack's own functions; it is done when something changed, at most every few seconds.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ministack import app
from ministack.services import stepfunctions

from ebb_local import clock

INTERVAL_S = 10.0
_logger = logging.getLogger("ebb.persistence")
_changed = threading.Event()


def mark_changed() -> None:
    """Say that something may have changed, so that the next save is due; an advance waits for what follows from it."""
    _changed.set()
    clock.stir()


def save() -> None:
    """Write the state of every service that holds any."""
    app.save_all(app._build_persistence_save_dict())


def install() -> None:
    """Let every request and every step of an execution mark the state as changed."""
    logging.getLogger("persistence").setLevel(logging.WARNING)  # it reports every file of every save
    dispatch, add_event = app._dispatch_service_request, stepfunctions._add_event

    async def noting_dispatch(method, path, headers, *rest):
        if not headers.get("x-amz-target", "").startswith("Ebb."):
            mark_changed()
        return await dispatch(method, path, headers, *rest)

    def noting_event(*arguments, **keywords):
        mark_changed()
        return add_event(*arguments, **keywords)

    app._dispatch_service_request = noting_dispatch
    stepfunctions._add_event = noting_event


@contextmanager
def saving_periodically(interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Save in the background while the block runs; the end of the server saves once more by itself."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(interval_s):
            if _changed.is_set():
                _changed.clear()
                save()

    saver = threading.Thread(target=loop, name="ebb-saver", daemon=True)
    saver.start()
    try:
        yield
    finally:
        ended.set()
        saver.join(timeout=30)
