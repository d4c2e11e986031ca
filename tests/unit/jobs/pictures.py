"""Small pictures, as files, drawn from a seed."""

from __future__ import annotations

import io
import random

from PIL import Image


def picture(seed, *, size=(12, 10), mode="L", form="PNG"):
    """Return the bytes of a picture that no other seed gives."""
    drawn = random.Random(seed)
    width, height = size
    channels = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, size, drawn.randbytes(width * height * channels))
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def pets(count=20, *, folder="pets/", **kind):
    """Return a set of pictures of two classes, by name."""
    return {
        f"{folder}{label}/{n:02}.png": picture(f"{label}{n}", **kind) for label in ("cat", "dog") for n in range(count)
    }
