"""Sharing: the choice of a kind for a model, beside what others hold on the shared endpoint. Pure.

What lives on a shared endpoint makes a place there cheaper, and may fill it up. Which endpoint that would be follows
from the instance type that is chosen, so that the choice is made again with what is there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ebb import names, serving, serving_sizes
from ebb.addresses import Address


def others(known: Iterable[Address], mine: str) -> dict[str, float]:
    """Return what the components of other projects reserve on each shared endpoint, in MiB."""
    held: dict[str, float] = {}
    for at in known:
        if at.kind == "shared" and at.endpoint_name and at.address != mine:
            held[at.endpoint_name] = held.get(at.endpoint_name, 0.0) + (
                at.memory_mb or serving_sizes.COMPONENT_LEAST_MB
            )
    return held


def choose(stack: str, held: Mapping[str, float], **asked: Any) -> serving.Choice:
    """Return `serving.choose` with what others hold where the model would be put; alone where there is none."""
    alone = choice = serving.choose(**asked)
    counted = 0.0
    for _ in range(len(held) + 1):
        there = held.get(_place(stack, choice), 0.0)
        if there == counted:
            return choice
        counted = there
        choice = serving.choose(**asked, others_memory_mb=counted)
    return alone


def _place(stack: str, choice: serving.Choice) -> str:
    row = next(row for row in choice.rows if row.kind == "shared")
    return names.shared_endpoint(stack, row.instance_type) if row.instance_type else ""
