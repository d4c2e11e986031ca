"""Statuses that change by themselves after a while of the cloud's time: what has no process here, and only takes time.

    start(record, 60, Status="InService")   after a minute the record holds that; `None` as time: it stays as it is
    start(record, 60, gone=True)            after a minute the record is no more

What is to come is kept in the record, so that it comes after a restart too. How long AWS takes is assumed.
"""

import time
from collections.abc import Callable
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, request_scope

from ebb_local import clock
from ebb_local.sagemaker import state

_stores: list[tuple[AccountRegionScopedDict, Callable[[state.Record], None]]] = []


def register(store: AccountRegionScopedDict, reached: Callable[[state.Record], None]) -> None:
    """Watch a store; `reached` is called for each record that has come to its next status."""
    _stores.append((store, reached))


def install() -> None:
    """Let the clock carry out what is due."""
    clock.when("sagemaker-transitions", _next_due, carry_out)


def start(record: state.Record, seconds: float, *, gone: bool = False, **members: Any) -> None:
    """Say what a record becomes after `seconds` of the cloud's time, instead of what was said before."""
    state.update(record, _next={"at": state.now() + seconds, "gone": gone, "members": members})
    clock.notify()


def carry_out() -> None:
    """Carry out all that is due."""
    for store, reached in _stores:
        for account, region, name, record in state.everywhere(store):
            coming = record.get("_next")
            if coming is None or coming["at"] > time.time():
                continue
            with request_scope(account, region):
                state.update(record, _next=None, **coming["members"])
                if coming["gone"]:
                    store.pop(name, None)
                reached(record)


def _next_due() -> float:
    return min(
        (
            coming["at"]
            for store, _ in _stores
            for *_, record in state.everywhere(store)
            if (coming := record.get("_next"))
        ),
        default=float("inf"),
    )
