"""Why a drop cannot be used, told so that its owner can repair it. Standard library only: Lambdas import this too."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Rejection:
    """One reason not to use a drop. It travels to notifications, so it never holds a value of the data."""

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    column: str | None = None
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in the order that people read them."""
        return asdict(self)

    def __str__(self) -> str:
        return json.dumps(self.as_dict())


class RejectedError(Exception):
    """The data cannot be used: the job ends well and reports a rejection, because a retry would say the same."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(str(rejection))
        self.rejection = rejection
