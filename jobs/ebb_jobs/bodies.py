"""Request bodies that the server takes, made of held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
Body = tuple[bytes, str, Sequence[int]]
"""A request's body, its content type, and which examples it holds."""
BODY_BYTES = 4 * 2**20
"""Of a request: the server takes `serve.MAX_BODY_BYTES`, SageMaker's own limit for an endpoint."""


def filled(
    content_type: str,
    write: Callable[[list[T]], bytes],
    examples: Sequence[T],
    *,
    of: Iterable[int] | None = None,
    at_most: int | None = None,
) -> list[Body]:
    """Return one body that holds the examples numbered `of` (default: all) as far as BODY_BYTES reach.

    An example that takes more than what is left is left out. When not one fits, there is no body, and the log says so.
    """
    picked: list[int] = []
    left = BODY_BYTES
    for number in range(len(examples)) if of is None else of:
        if len(picked) == at_most:
            break
        size = len(write([examples[number]]))  # with what surrounds all: together they take less
        if size <= left:
            picked.append(number)
            left -= size
    if not picked:
        print(f"not asked as {content_type}: no held-out example fits into {BODY_BYTES // 2**20} MiB", flush=True)
        return []
    return [(write([examples[number] for number in picked]), content_type, picked)]
