"""How figures are told to people: significant digits, units and low-high bands. Pure."""

from collections.abc import Mapping
from typing import Any


def number(value: Any, digits: int = 3) -> str:
    """Return a number with the given count of significant digits, without an exponent where that is readable."""
    if value is None:
        return "-"
    value = float(value)
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.{digits - 1}e}" if "e" in text and abs(value) < 1e-6 else f"{value:.{_decimals(value, digits)}f}"


def _decimals(value: float, digits: int) -> int:
    places = digits
    while abs(value) < 1 and places < 12:
        value *= 10
        places += 1
    while abs(value) >= 1:
        value /= 10
        places -= 1
    return max(places, 0)


def band(quantity: Any, unit: str, scale: float = 1.0) -> str:
    """Return a figure with its low-high band: `0.41 (0.22 to 0.73) gCO2e`."""
    if quantity is None:
        return "-"
    if not isinstance(quantity, Mapping):
        return f"{number(float(quantity) * scale)} {unit}"
    low, value, high = (float(quantity[key]) * scale for key in ("low", "value", "high"))
    return f"{number(value)} ({number(low)} to {number(high)}) {unit}"


def size(size_bytes: Any) -> str:
    """Return a size in the unit that leaves one to three digits before the point."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return "-"


def duration(duration_s: Any) -> str:
    """Return a duration: `8.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if duration_s is None:
        return "-"
    seconds = float(duration_s)
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
