"""The hash by which a row finds its side: the same on every engine, and equal for rows with equal features.

A difference between engines in how a number is spelt as text would send a row to another side, and spelling numbers
costs most of all. So numbers enter the hash through arithmetic on doubles, which IEEE 754 fixes to the last bit, and
only texts as texts. Different rows that happen to have one hash share a side, which does no harm: nothing that is
learned is tested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ebb_jobs.sql import quote

_SCALE = 2**40
_EXACT = "4503599627370496e0"
"""2^52: a number from here on has no fraction, and further up Spark's floor, a whole number of 64 bits, ends."""


def of(texts: Sequence[str], numbers: Sequence[str]) -> str:
    """Return the SQL of the text that is hashed, from the names of a table's columns of VARCHAR and of DOUBLE."""
    parts = [f"coalesce({quote(name)}, chr(30))" for name in texts]
    if numbers:
        terms = " + ".join(_term(name, quote(name), place) for place, name in enumerate(numbers))
        parts.append(f"CAST(CAST(floor(({terms}) * {_SCALE}e0) AS BIGINT) AS VARCHAR)")
    return f"concat_ws(chr(31), {', '.join(parts)})"


def _term(name: str, value: str, place: int) -> str:
    """Return the SQL of one number's share: the fraction of its product with a factor that belongs to its column.

    fract(x) = x - floor(x); the fractions of the products with an irrational factor spread evenly over [0, 1), so that
    no column drowns another one's. Numbers above 2^52 are brought down first; those above 2^101 and missing ones have
    a share beyond 1 that tells the column.
    """
    share = f"{value} * {_factor(name)}"
    scaled = f"{value} * {2.0**-49!r} * {_factor(name)}"
    return (
        f"CASE WHEN {value} IS NULL THEN {2.0 + place % 1000}e0 "
        f"WHEN abs({value}) < {_EXACT} THEN ({share}) - floor({share}) "
        f"WHEN abs({value}) < {2.0**101!r} THEN ({scaled}) - floor({scaled}) ELSE {2.5 + place % 1000}e0 END"
    )


def _factor(name: str) -> str:
    """Return a factor in [0.5, 1) as an SQL literal, the same wherever the column stands; one with 52 random bits."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 12
    return f"{0.5 + digest / 2**53!r}e0"
