"""What a client is told when its request cannot be answered. Travels in every bundle."""

from __future__ import annotations


class BadRequestError(Exception):
    """The request cannot be answered; the message says why, `remedy` what to send instead."""

    def __init__(self, message: str, *, field: str | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.remedy = remedy

    @property
    def body(self) -> dict[str, str | None]:
        """Return the document of the answer, which has status 400."""
        return {"error": str(self), "field": self.field, "remedy": self.remedy}
