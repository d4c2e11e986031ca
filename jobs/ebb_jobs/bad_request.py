"""The one error that a request's own content can cause. Codecs and the server share it; it travels in every bundle."""

from __future__ import annotations


class BadRequestError(Exception):
    """The request cannot be answered; the message says what to send instead."""

    def __init__(self, message: str, *, field: str | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.body = {"error": message, "field": field, "remedy": remedy}
