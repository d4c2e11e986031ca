"""How a text spells a number, a date, true and false, or that a value is missing.

Standard library only: the control plane reads with it, the jobs do, and every bundle carries it, so that what training
took for a number is one for the served model too.
"""

from __future__ import annotations

import re

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "?", "-"})
MISSING_TARGET = MISSING - {"none", "-"}
"""A class may well be called `none` or `-`; a feature that says so tells nothing."""
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TIME = r"(?:[T ]([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]+)?)?(?: ?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?))?)?"
DATE_PATTERNS = {  # the zone offset is not used: clocks are local
    "year-month-day": r"([0-9]{4})[-/]([0-9]{1,2})[-/]([0-9]{1,2})" + _TIME,
    "month/day/year": r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})" + _TIME,
    "day/month/year": r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})" + _TIME,
    "day.month.year": r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})" + _TIME,
}
TRUE_TOKENS = frozenset({"true", "yes", "y", "t", "1"})
FALSE_TOKENS = frozenset({"false", "no", "n", "f", "0"})
SODIUM = "Na"
PLAIN_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
"""A number that is also a fair name of a column, as SODIUM is a missing value that is one."""


def is_number(text: str) -> bool:
    """Tell whether a trimmed text is a plain decimal number (no thousands separators, no hex, no inf)."""
    return NUMBER.fullmatch(text) is not None


def is_date(text: str) -> bool:
    """Tell whether a trimmed text is a date, with or without a time, in one of the known orders."""
    return any(re.fullmatch(pattern, text) for pattern in DATE_PATTERNS.values())


def value_in_header(cell: str) -> str | None:
    """Return what a trimmed, filled header cell holds that is a value and no name: a row stands where names should."""
    if is_number(cell) and not PLAIN_YEAR.fullmatch(cell):
        return "a number"
    if is_date(cell):
        return "a date"
    return "a missing value" if cell and cell.lower() in MISSING and cell != SODIUM else None
