"""Minutes, counted from 1970 and UTC: from and to moments, the part of the week that one lies in, and in words."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

MINUTE = timedelta(minutes=1)
DAY_MIN = 24 * 60
WEEK_MIN = 7 * DAY_MIN
PARTS = 12  # of the week: weekdays and weekend, four hours each


def part_of_week(minute: int) -> int:
    """Return the part of the week of a minute: 0 to 5 on weekdays, 6 to 11 on the weekend, four hours each (UTC)."""
    return 6 * is_weekend(minute // DAY_MIN) + minute % DAY_MIN // 240


def is_weekend(day: int) -> bool:
    """Return whether a day, counted from 1970, is a Saturday or a Sunday."""
    return (day + 3) % 7 >= 5  # day 0 of 1970 was a Thursday


def told(minutes: int) -> str:
    """Return a number of minutes in words: `45 min`, `1 h 30 min`."""
    hours, rest = divmod(minutes, 60)
    return f"{rest} min" if not hours else f"{hours} h {rest:02d} min" if rest else f"{hours} h"


def moment(minute: int) -> datetime:
    """Return the moment at which a minute, counted from 1970, begins."""
    return datetime.fromtimestamp(minute * 60, UTC)


def minute_of(at: datetime) -> int:
    """Return the minute that a moment lies in."""
    return int(at.timestamp() // 60)


def whole_minutes(duration: timedelta) -> int:
    """Return a duration in minutes, rounded up."""
    return math.ceil(duration / MINUTE)
