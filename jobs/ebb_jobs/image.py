"""From an image file to the network's input, and from its outputs to an answer: numpy and Pillow only.

`process` reads the training images with this file and every bundle carries it, so that a served image becomes bit for
bit what training saw. That also needs the same Pillow on both sides (its wheel brings the JPEG decoder): both images
pin one version.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

if __package__:
    from ebb_jobs.bad_request import BadRequestError  # inside the jobs
else:
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle

FORMATS = ("PNG", "JPEG")
MEDIA_TYPES = ("image/png", "image/jpeg", "image/jpg", "application/x-image", "application/octet-stream")
MAX_PIXELS = 50_000_000
"""What a 48-megapixel camera makes. A file of some kilobytes can claim far more, and would fill the memory."""
MAX_PIXELS_AT_ONCE = 100_000_000
"""In all images of a request: dozens of files of one colour fit into one, and each would be decoded for a second."""
MAX_IMAGES = 1024
"""In a request: each becomes a network's input however small its file is."""
LARGE_PIXELS = 16_000_000
"""Images of more pixels than most cameras make are decoded one at a time: each takes up to 400 MB meanwhile."""
STRIP_PIXELS = 2**20
STATE = "preprocess.json"
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "LA", "I", "F")
_REMEDY = "Send a whole PNG or JPEG file."
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_DAMAGED = "the image file is damaged or not complete"
_one_at_a_time = threading.Lock()


class BrokenImageError(ValueError):
    """The bytes are no image that can be read; the message says why and holds nothing of the content."""


class TooManyPixelsError(BrokenImageError):
    """The image claims more pixels than are ever decoded."""


def probe(data: bytes) -> tuple[int, int, int]:
    """Return width and height as a viewer shows the image, and its channels: 1 (grey) or 3. Raises BrokenImageError."""
    try:
        image = _open(data)
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
            width, height = height, width
        return width, height, 1 if _is_grey(image) else 3
    except (BrokenImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise BrokenImageError(_DAMAGED) from error


def pixels(data: bytes, *, height: int, width: int, channels: int) -> np.ndarray:
    """Return the image as uint8 [height, width, channels]. Raises BrokenImageError.

    The whole image is kept, and its proportions: it is scaled until it fits, and its edge pixels are repeated where
    the frame is wider or higher. Cropping would lose what lies at the edge, stretching would make a 1 of a 7, and a
    border of one colour would be a shape of its own. An image of the right size stays as it is, to the bit.
    Transparency is shown on white. Colour profiles are ignored.
    """
    try:
        image = _open(data)
        with _one_at_a_time if image.width * image.height > LARGE_PIXELS else contextlib.nullcontext():
            found = _fitted(image, width, height, "L" if channels == 1 else "RGB")
    except (BrokenImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise BrokenImageError(_DAMAGED) from error
    fitted = found.shape[1], found.shape[0]
    found = found.reshape(fitted[1], fitted[0], channels)
    above, before = (height - fitted[1]) // 2, (width - fitted[0]) // 2
    frame = ((above, height - fitted[1] - above), (before, width - fitted[0] - before), (0, 0))
    return np.pad(found, frame, mode="edge")


def media_type(data: bytes) -> str:
    """Return the content type under which to send an image file."""
    return "image/jpeg" if data.startswith(b"\xff\xd8") else "image/png"


def _fitted(image: Image.Image, width: int, height: int, mode: str) -> np.ndarray:
    """Return the image, decoded and scaled until it fits. No copy is made that a large one would not need."""
    # A large JPEG is decoded at a half, quarter or eighth of its size, still at least twice of what is needed.
    image.draft(None, (2 * max(width, height),) * 2)
    ImageOps.exif_transpose(image, in_place=True)
    image = _flat(image)
    if image.mode != mode:
        image = image.convert(mode)
    scale = min(width / image.width, height / image.height)
    fitted = (
        min(width, max(1, round(image.width * scale))),
        min(height, max(1, round(image.height * scale))),
    )
    if image.size != fitted:
        image = image.resize(fitted, Image.Resampling.BILINEAR)  # averages over what falls into a pixel
    return np.asarray(image)


def _open(data: bytes) -> Image.Image:
    """Return the image with its head read and its pixels not yet decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        known = data.startswith(_SIGNATURES)
        raise BrokenImageError(_DAMAGED if known else "this is neither a PNG nor a JPEG file") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"the image has more than {MAX_PIXELS:,} pixels") from error
    if image.width * image.height > MAX_PIXELS:
        raise TooManyPixelsError(f"the image has {image.width * image.height:,} pixels, more than {MAX_PIXELS:,}")
    return image


def _flat(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits per channel and no transparency."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    flat = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):  # in strips, which take little memory beside the image
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        flat.paste(strip.convert("RGB"), (0, top))
    return flat


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode.partition(";")[0] in _GREY_MODES


class ImageCodec:
    """Reads image files for one network and words its answers; its whole state is the JSON document `state`.

    The network takes the pixels as they are (uint8 [images, height, width, channels]) and scales them itself, so that
    nothing can differ between training and serving, and a request carries a quarter of what float32 would.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)
        self.shape: dict[str, int] = {name: int(state["input"][name]) for name in ("height", "width", "channels")}
        self.classes: list[str] = list(state["target"]["classes"])

    def encode(self, raws: Sequence[bytes]) -> np.ndarray:
        """Return the network's input [images, height, width, channels] for image files. Raises BadRequestError."""
        encoded: np.ndarray = np.empty((len(raws), *self.shape.values()), dtype=np.uint8)
        for number, data in enumerate(raws):
            try:
                encoded[number] = pixels(data, **self.shape)
            except BrokenImageError as error:
                told = str(error) if len(raws) == 1 else f"image {number + 1}: {error}"
                raise BadRequestError(told, field="image", remedy=_REMEDY) from error
        return encoded

    def parse(self, body: bytes, content_type: str) -> list[bytes]:
        """Return the image files of a request: one as the body itself, or several as base64 in JSON."""
        if not body:
            raise BadRequestError("the body is empty", field="image", remedy=_REMEDY)
        kind = content_type.partition(";")[0].strip().lower()
        if kind in MEDIA_TYPES:
            return [body]
        if kind == "application/json":
            return _parse_json(body)
        raise BadRequestError(
            f"content type {kind or 'missing'} is not supported",
            remedy="Send image/png, image/jpeg or application/json.",
        )

    def predictions(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Return the answers that a client gets, one per image."""
        return [
            {
                "label": self.classes[int(row.argmax())],
                "probabilities": {label: round(float(p), 6) for label, p in zip(self.classes, row, strict=True)},
            }
            for row in outputs
        ]

    def files(self) -> dict[str, bytes]:
        """Return what `open_codec` needs, by file name."""
        return {STATE: (json.dumps(self.state, ensure_ascii=False, allow_nan=False) + "\n").encode()}


def open_codec(folder: Path) -> ImageCodec:
    """Return the codec whose files lie in `folder`."""
    return ImageCodec(json.loads((folder / STATE).read_text(encoding="utf-8")))


def _parse_json(body: bytes) -> list[bytes]:
    remedy = 'Send {"instances": [{"image": "<the file in base64>"}]}.'
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # the second: nested without end
        raise BadRequestError("the body is not JSON", remedy=remedy) from error
    if isinstance(document, dict) and isinstance(document.get("instances"), list):
        document = document["instances"]
    instances = document if isinstance(document, list) else [document]
    if not instances:
        raise BadRequestError("there are no images", field="image", remedy=remedy)
    if len(instances) > MAX_IMAGES:
        raise BadRequestError(
            f"the request holds {len(instances):,} images",
            field="image",
            remedy=f"Send at most {MAX_IMAGES:,} at once.",
        )
    files = [_decoded(instance, number, remedy) for number, instance in enumerate(instances, start=1)]
    if len(files) > 1:
        _require_few_pixels(files)
    return files


def _require_few_pixels(files: list[bytes]) -> None:
    """Raise BadRequestError when the images of a request claim too many pixels together."""
    claimed = 0
    for file in files:
        try:
            width, height, _ = probe(file)
        except BrokenImageError:
            continue  # `encode` tells which it is
        claimed += width * height
    if claimed > MAX_PIXELS_AT_ONCE:
        raise BadRequestError(
            f"the images have {claimed:,} pixels together",
            field="image",
            remedy=f"Send at most {MAX_PIXELS_AT_ONCE:,} pixels at once: fewer images, or smaller ones.",
        )


def _decoded(instance: Any, number: int, remedy: str) -> bytes:
    text = instance.get("image") if isinstance(instance, dict) else instance
    try:
        if isinstance(text, str) and text:
            return base64.b64decode(text, validate=True)
    except ValueError:  # letters that base64 has not, or an incomplete last group
        pass
    raise BadRequestError(f"image {number} is not base64", field="image", remedy=remedy)
