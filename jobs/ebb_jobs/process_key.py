"""The hash by which a row finds its side: the same on every engine, and equal for rows with equal features.

A difference between engines in how a number is spelt as text would send a row to another side, and spelling numbers
costs most of all. So numbers enter the hash through arithmetic on doubles, which IEEE 754 fixes to the last bit, and
only texts as texts. Different rows that happen to have one hash share a side, which does no harm: nothing that is
learned is tested.

Where the numbers of a table tell its rows apart, the hash is of them alone: rows with equal features have equal
numbers, so they still share a side, and a digest of texts costs more than reading them. Whether they do is counted,
so the answer may change with the rows, and all sides with it. Hence never where data is appended to data (a model that
goes on from its weights would be tested on what it has learned), and only of LEAST_ROWS, where the digest costs.
schema.json says which hash it was, and `warm` starts afresh from where another one dealt the rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ebb_jobs.sql import quote

_SCALE = 2**40
_EXACT = "4503599627370496e0"
"""2^52: a number from here on has no fraction, and further up Spark's floor, a whole number of 64 bits, ends."""

_PRIME = 2**31 - 1
ENOUGH = 10_000
"""Of groups that count: with as many, sides of 15 % are off by 0.4 % of the rows (1 standard error)."""
LEAST_ROWS = 1_000_000
"""Of fewer the digest takes a second."""


class Key(NamedTuple):
    """The SQL of a hash in two steps, the second from a column that holds the first, so that it is computed once.

    `below` says in SQL that a column of such hashes lies below a share of them all.
    """

    first: str
    second: Callable[[str], str]
    below: Callable[[str, float], str]


def digest(text: str) -> Key:
    """Return the key that is the MD5 of a text; hashes are compared as texts, which every engine does alike."""
    return Key(
        f"md5({text})",
        lambda first: first,
        lambda key, share: f"substr({key}, 1, 8) < '{math.ceil(share * 2**32):08x}'",
    )


def of_numbers(names: Sequence[str]) -> Key:
    """Return the key of columns of DOUBLE alone: a whole number from 0 to 2^31 - 2.

    The 51 bits of their shares' sum are stirred by products modulo primes, none of which exceeds 63 bits.
    """
    return Key(_sum(names), _stirred, lambda key, share: f"{key} < {bound(share)}")


def _stirred(total: str) -> str:
    """Return the SQL of the key, from that of the sum of the columns' shares."""
    high = f"(CAST(floor({total} * 1048576e0) AS BIGINT) % {_PRIME})"  # gaps in many columns have large shares
    low = f"CAST(floor(({total} * 1048576e0 - floor({total} * 1048576e0)) * 2147483648e0) AS BIGINT)"
    first = f"(({high} * 1103515245 + {low}) % {_PRIME})"
    return f"((({first} * ({first} % 65521 + 40503)) % 2147483629) * 48271 + {first}) % {_PRIME}"


def bound(share: float) -> int:
    """Return the key of numbers below which a share of all keys lies."""
    return math.ceil(share * _PRIME)


def first_half(share: float) -> int:
    """Return the first 64 bits of a digest below which a share of all digests lies."""
    return math.ceil(share * 2**32) << 32


def suffices(rows: float, squares: float) -> bool:
    """Tell whether a hash tells rows apart well enough, from the sum of its groups' sizes and that of their squares.

    rows^2 / squares is how many groups of one size would do the same; at least ENOUGH, or half as many as rows.
    """
    return rows * rows >= squares * min(ENOUGH, rows / 2)


def of(texts: Sequence[str], numbers: Sequence[str]) -> str:
    """Return the SQL of the text that is hashed, from the names of a table's columns of VARCHAR and of DOUBLE."""
    parts = [f"coalesce({quote(name)}, chr(30))" for name in texts]
    if numbers:
        parts.append(f"CAST(CAST(floor(({_sum(numbers)}) * {_SCALE}e0) AS BIGINT) AS VARCHAR)")
    return f"concat_ws(chr(31), {', '.join(parts)})"


def _sum(numbers: Sequence[str]) -> str:
    """Return the SQL of the sum of the columns' shares, of two halves each: planning one long chain takes seconds."""
    terms = [_term(name, quote(name), place) for place, name in enumerate(numbers)]
    while len(terms) > 1:
        pairs = [f"({one} + {other})" for one, other in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(pairs) * 2 :]
    return terms[0]


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
