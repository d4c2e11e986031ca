"""Image files become pixels in one way, for training and for serving; what is no image is told apart."""

import base64
import io
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ebb_jobs import bad_request, image
from ebb_jobs.bad_request import BadRequestError

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
STATE = {
    "version": 1,
    "task": "image-classification",
    "input": {"height": 4, "width": 6, "channels": 1},
    "target": {"name": "label", "classes": ["cat", "dog"]},
}


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(array: np.ndarray, **options: object) -> bytes:
    return encoded(Image.fromarray(array), **options)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_of_the_right_size_keeps_every_bit():
    assert (image.pixels(png(RAMP), height=4, width=6, channels=1)[:, :, 0] == RAMP).all()
    colours = noise(9, 7)
    assert (image.pixels(png(colours), height=9, width=7, channels=3) == colours).all()


def test_proportions_are_kept_and_the_edge_is_repeated():
    wide = np.zeros((10, 20), dtype=np.uint8)
    wide[:, 10:] = 200
    found = image.pixels(png(wide), height=20, width=20, channels=1)[:, :, 0]
    assert (found[5:15] == wide).all()
    assert (found == wide[0]).all()


def test_a_large_picture_is_averaged_rather_than_sampled():
    stripes = np.tile(np.array([[0, 200]], dtype=np.uint8), (80, 40))
    assert np.ptp(image.pixels(png(stripes), height=8, width=8, channels=1)[2:-2, 2:-2].astype(int)) <= 2


def test_a_line_of_pixels_stays_visible():
    found = image.pixels(png(np.full((1, 500), 9, dtype=np.uint8)), height=8, width=8, channels=1)
    assert found.shape == (8, 8, 1)
    assert (found == 9).all()


HALF_CLEAR = np.zeros((4, 6, 4), dtype=np.uint8)
HALF_CLEAR[:, :3] = (10, 20, 30, 255)


@pytest.mark.parametrize(
    ("data", "channels", "corner"),
    [
        pytest.param(png(RAMP), 3, [0, 0, 0], id="grey shown in colour"),
        pytest.param(png(np.full((4, 6, 3), (255, 0, 0), np.uint8)), 1, [76], id="red shown in grey: its luminance"),
        pytest.param(png(RAMP.astype(np.uint16) * 256 + 77), 1, [0], id="16 bits of grey: the upper 8"),
        pytest.param(png(HALF_CLEAR), 3, [10, 20, 30], id="an opaque pixel"),
        pytest.param(png(HALF_CLEAR[:, ::-1]), 3, [255, 255, 255], id="a transparent pixel is white"),
        pytest.param(
            encoded(Image.fromarray(np.full((4, 6, 3), (0, 128, 0), np.uint8)).quantize(2)),
            3,
            [0, 128, 0],
            id="palette",
        ),
        pytest.param(
            encoded(Image.fromarray(HALF_CLEAR[:, :, :3]).quantize(2), transparency=1),
            3,
            [10, 20, 30],
            id="palette with a transparent entry",
        ),
        pytest.param(encoded(Image.new("1", (6, 4), 1)), 1, [255], id="1 bit"),
        pytest.param(encoded(Image.new("LA", (6, 4), (7, 0))), 1, [255], id="transparent grey"),
        pytest.param(encoded(Image.new("CMYK", (6, 4), (0, 0, 0, 255)), "JPEG"), 3, [0, 0, 0], id="CMYK"),
    ],
)
def test_every_form_becomes_8_bits_of_grey_or_colour(data, channels, corner):
    found = image.pixels(data, height=4, width=6, channels=channels)
    assert found.dtype == np.uint8
    assert found.shape == (4, 6, channels)
    assert found[0, 0].tolist() == corner


def test_16_bits_of_grey_do_not_clip():
    deep = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    assert (image.pixels(png(deep), height=4, width=6, channels=1)[:, :, 0] == deep >> 8).all()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(png(RAMP), (6, 4, 1), id="grey"),
        pytest.param(png(noise(4, 6)), (6, 4, 3), id="colour"),
        pytest.param(encoded(Image.fromarray(RAMP).convert("P")), (6, 4, 1), id="a palette of greys is grey"),
        pytest.param(encoded(Image.fromarray(noise(4, 6)).quantize(4)), (6, 4, 3), id="a palette of colours"),
        pytest.param(encoded(Image.fromarray(RAMP), "JPEG"), (6, 4, 1), id="grey JPEG"),
    ],
)
def test_probe_tells_size_and_channels(data, found):
    assert image.probe(data) == found


def test_a_photograph_is_turned_as_the_camera_says():
    upright = np.zeros((16, 8), dtype=np.uint8)
    upright[:8] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned right by a quarter
    lying = encoded(Image.fromarray(np.rot90(upright)), "JPEG", exif=turned, quality=100)
    assert image.probe(lying) == (8, 16, 1)
    found = image.pixels(lying, height=16, width=8, channels=1)[:, :, 0].astype(int)
    assert abs(found - upright).max() < 8


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"", "neither a PNG nor a JPEG", id="nothing"),
        pytest.param(b"<svg/>", "neither a PNG nor a JPEG", id="another format"),
        pytest.param(encoded(Image.fromarray(RAMP), "GIF"), "neither a PNG nor a JPEG", id="a format that is not read"),
        pytest.param(png(RAMP)[:8] + b"?" * 99, "damaged or not complete", id="a PNG whose head is damaged"),
        pytest.param(png(RAMP)[:12], "damaged or not complete", id="the head of a PNG alone"),
        pytest.param(b"\xff\xd8\xff\xe0", "damaged or not complete", id="the head of a JPEG alone"),
        pytest.param(png(noise(40, 40))[:900], "damaged or not complete", id="half a PNG"),
        pytest.param(
            encoded(Image.fromarray(noise(40, 40)), "JPEG")[:900], "damaged or not complete", id="half a JPEG"
        ),
    ],
)
def test_what_is_no_image_is_told(data, told):
    with pytest.raises(image.BrokenImageError, match=told):
        image.pixels(data, height=4, width=4, channels=1)


def test_a_small_file_that_claims_many_pixels_is_not_decoded():
    bomb = encoded(Image.new("1", (9000, 9000)))
    assert len(bomb) < 20_000
    for read in (image.probe, lambda data: image.pixels(data, height=4, width=4, channels=1)):
        with pytest.raises(image.TooManyPixelsError, match="81,000,000 pixels"):
            read(bomb)


@pytest.mark.parametrize("read", [image.probe, lambda data: image.pixels(data, height=4, width=4, channels=1)])
def test_a_lack_of_memory_is_no_fault_of_the_file(monkeypatch, read):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(image, "_is_grey", full)
    monkeypatch.setattr(image.ImageOps, "exif_transpose", full)
    with pytest.raises(MemoryError):
        read(png(RAMP))


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(image, "LARGE_PIXELS", 23)
    working, most = [], []
    decode = image._fitted

    def slow(*arguments):
        working.append(1)
        most.append(len(working))
        time.sleep(0.05)
        try:
            return decode(*arguments)
        finally:
            working.pop()

    monkeypatch.setattr(image, "_fitted", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: image.pixels(data, height=4, width=6, channels=1), [png(RAMP)] * 4))
    assert max(most) == 1


def test_a_large_transparent_image_is_shown_on_white_in_strips(monkeypatch):
    clear = np.random.default_rng(0).integers(0, 256, (37, 20, 4), dtype=np.uint8)
    whole = image.pixels(png(clear), height=37, width=20, channels=3)
    monkeypatch.setattr(image, "STRIP_PIXELS", 100)
    assert (image.pixels(png(clear), height=37, width=20, channels=3) == whole).all()
    on_white = Image.alpha_composite(Image.new("RGBA", (20, 37), "white"), Image.fromarray(clear))
    assert (whole == np.asarray(on_white)[:, :, :3]).all()


def asked(files):
    instances = [base64.b64encode(file).decode() for file in files]
    return image.ImageCodec(STATE).parse(json.dumps(instances).encode(), "application/json")


def test_small_files_that_claim_many_pixels_together_are_refused():
    wall = encoded(Image.new("1", (6000, 6000)))
    assert len(asked([wall] * 2)) == 2
    with pytest.raises(BadRequestError, match="108,000,000 pixels together") as refused:
        asked([wall] * 3)
    assert "at most 100,000,000 pixels" in refused.value.remedy


def test_more_images_than_fit_into_memory_as_inputs_are_refused():
    assert len(asked([png(RAMP)] * 1024)) == 1024
    with pytest.raises(BadRequestError, match="holds 1,025 images") as refused:
        asked([png(RAMP)] * 1025)
    assert "at most 1,024" in refused.value.remedy


def test_a_request_holds_one_file_or_several_in_base64():
    codec = image.ImageCodec(STATE)
    one, other = png(RAMP), png(RAMP[::-1])
    texts = [base64.b64encode(file).decode() for file in (one, other)]
    for kind in ("image/png", "image/jpeg", "application/x-image", "application/octet-stream", "IMAGE/PNG; q=1"):
        assert codec.parse(one, kind) == [one]
    for document in ({"instances": [{"image": text} for text in texts]}, {"instances": texts}, texts):
        assert codec.parse(json.dumps(document).encode(), "application/json") == [one, other]
    assert codec.parse(json.dumps({"image": texts[0]}).encode(), "application/json") == [one]
    assert codec.encode([one, other]).tolist() == [RAMP[:, :, None].tolist(), RAMP[::-1, :, None].tolist()]


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        pytest.param(b"", "image/png", "the body is empty", id="nothing"),
        pytest.param(b"x", "text/csv", "content type text/csv is not supported", id="another content type"),
        pytest.param(b"x", "", "content type missing is not supported", id="no content type"),
        pytest.param(b"{", "application/json", "the body is not JSON", id="broken JSON"),
        pytest.param(b'{"instances": []}', "application/json", "there are no images", id="no instance"),
        pytest.param(b'["aGk=", "?"]', "application/json", "image 2 is not base64", id="not base64"),
        pytest.param(b'[{"picture": "aGk="}]', "application/json", "image 1 is not base64", id="another field"),
        pytest.param(b"[7]", "application/json", "image 1 is not base64", id="a number"),
    ],
)
def test_a_bad_request_is_told_what_to_send(body, kind, told):
    with pytest.raises(BadRequestError) as raised:
        image.ImageCodec(STATE).parse(body, kind)
    assert raised.value.body["error"] == told
    assert raised.value.body["remedy"].startswith("Send ")


def test_a_broken_image_among_several_is_named():
    with pytest.raises(BadRequestError, match="image 2: this is neither a PNG nor a JPEG file"):
        image.ImageCodec(STATE).encode([png(RAMP), b"no"])


def test_answers_name_the_label_and_all_probabilities():
    assert image.ImageCodec(STATE).predictions(np.array([[0.25, 0.75]], dtype=np.float32)) == [
        {"label": "dog", "probabilities": {"cat": 0.25, "dog": 0.75}}
    ]


def test_a_bundle_reads_files_to_the_bit_as_training_did(tmp_path):
    """The codec's files and module alone, in a Python of their own, without the package around them."""
    codec = image.ImageCodec({**STATE, "input": {"height": 12, "width": 16, "channels": 3}})
    files = {
        "a.png": png(noise(12, 16)),
        "b.png": png(noise(50, 31)),
        "c.jpg": encoded(Image.fromarray(noise(33, 90)), "JPEG"),
        "d.jpg": encoded(Image.fromarray(noise(300, 200)[:, :, 0]), "JPEG", quality=60),
    }
    for name, data in {**codec.files(), **files}.items():
        (tmp_path / name).write_bytes(data)
    for module in (image, bad_request):
        shutil.copy(str(module.__file__), tmp_path)
    program = (
        "import image, pathlib, sys; here = pathlib.Path.cwd(); codec = image.open_codec(here);"
        "sys.stdout.buffer.write(codec.encode([(here / name).read_bytes() for name in sys.argv[1:]]).tobytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *files], cwd=tmp_path, capture_output=True, check=True, timeout=60
    )
    trained_on = np.stack([image.pixels(data, height=12, width=16, channels=3) for data in files.values()])
    assert done.stdout == trained_on.tobytes()
