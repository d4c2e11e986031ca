"""Small pictures in a terminal: two pixels per character, one above the other."""

from __future__ import annotations

import io

from PIL import Image

HALF_BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
INK_FROM = 90
"""Grey value, of 255, from which a pixel of a light drawing on black is drawn."""


def lines(file: bytes, *, width: int, margin: float = 0.0) -> list[str]:
    """Return a square picture in width / 2 lines of `width` characters, without its margin (a share of each side).

    `width` is even.
    """
    with Image.open(io.BytesIO(file)) as opened:
        edge = round(opened.width * margin)
        box = (edge, edge, opened.width - edge, opened.height - edge)
        seen = opened.convert("L").crop(box).resize((width, width), Image.Resampling.LANCZOS)
    ink = [[seen.getpixel((x, y)) >= INK_FROM for x in range(width)] for y in range(width)]
    pairs = zip(ink[::2], ink[1::2], strict=True)
    return ["".join(HALF_BLOCKS[pixels] for pixels in zip(above, below, strict=True)) for above, below in pairs]


def side_by_side(pictures: list[list[str]], captions: list[str], gap: str = "   ") -> str:
    """Return pictures of one size next to each other, each above its caption."""
    width = len(pictures[0][0])
    rows = [*map(gap.join, zip(*pictures, strict=True)), gap.join(caption.center(width) for caption in captions)]
    return "\n".join(row.rstrip() for row in rows)
