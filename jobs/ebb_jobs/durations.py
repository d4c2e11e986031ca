"""Reads durations as specs write them (`90s`, `15m`, `1h30m`), as ISO 8601 (`PT1H`), or as seconds."""

from __future__ import annotations

import re

from ebb_jobs.errors import JobError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(value: str | int | float | None) -> float | None:
    """Return the seconds of a duration, None for None."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = value.strip().lower().removeprefix("p").replace("t", "")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([dhms])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise JobError(f"{value!r} is no duration; write for example 90s, 15m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
