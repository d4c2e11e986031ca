"""Requests that prove a bundle hold as many held-out examples as the server takes."""

import io

import numpy as np
import pytest
from PIL import Image

from ebb_jobs import bodies, image, kinds, serve, tensors, text
from ebb_jobs.kinds.text import fit_tokenizer

CLASSES = {"name": "label", "classes": ["no", "yes"]}


def photo(seed, *, side=190, kind="JPEG"):
    """Return a file of about 100 kB that cannot be packed any smaller."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind, quality=95)
    return file.getvalue()


def photos(count, **options):
    state = {"task": "", "input": {"height": 8, "width": 8, "channels": 3}, "target": CLASSES}
    return "image", image.ImageCodec(state), [[photo(seed, **options)] for seed in range(count)]


def letters(count, characters):
    state = {"input": {"length": 16, "characters": 128, "column": "letter"}, "target": CLASSES}
    codec = text.TextCodec(state, fit_tokenizer(["dear all"], 300).to_str())
    return "text", codec, [[f"letter {number} " + "ä" * characters] for number in range(count)]


def arrays(count, *shape):
    state = {"shape": [None, *shape], "dtype": "float32", "classes": ["no", "yes"], "functions": [], "code": []}
    random = np.random.default_rng(0)
    rows = [random.random((1, *shape), dtype=np.float32) for _ in range(count)]
    return "custom", tensors.TensorCodec(state, {}, {}), rows


@pytest.mark.parametrize(
    ("made", "types"),
    [
        pytest.param(photos(64), ["image/jpeg", "application/json"], id="photos"),
        pytest.param(
            letters(64, 60_000),
            ["text/plain; charset=utf-8", "application/json", "application/jsonlines", "text/csv"],
            id="long texts",
        ),
        pytest.param(arrays(64, 3, 48, 48), ["application/json", "application/x-npy"], id="pictures as numbers"),
        pytest.param(
            arrays(64, 6000), ["application/json", "application/x-npy", "text/csv"], id="rows of many numbers"
        ),
    ],
)
def test_large_examples_are_asked_in_every_way_within_what_the_server_takes(made, types):
    name, codec, singles = made
    kind = kinds.of({"kind": name})
    found = kind.bodies(codec, singles)
    assert [content_type for _, content_type, _ in found] == types
    for body, content_type, which in found:
        assert len(body) <= bodies.BODY_BYTES < serve.MAX_BODY_BYTES
        asked = kind.join([singles[number] for number in which])
        assert np.array_equal(codec.encode(codec.parse(body, content_type)), codec.encode(asked))
    assert max(len(body) for body, _, _ in found) > bodies.BODY_BYTES * 0.7, "room was left"


def test_small_examples_are_asked_all_at_once():
    name, codec, singles = arrays(64, 4)
    assert all(list(which) == list(range(64)) for _, _, which in kinds.of({"kind": name}).bodies(codec, singles))


def test_an_example_that_fits_nowhere_is_left_out(capsys):
    name, codec, ((small,), *_) = photos(1)
    huge = photo(1, side=1300, kind="PNG")
    assert len(huge) > bodies.BODY_BYTES
    found = kinds.of({"kind": name}).bodies(codec, [[huge], [small], [photo(2, side=1000, kind="PNG")]])
    assert [(content_type, list(which)) for _, content_type, which in found] == [
        ("image/png", [2]),
        ("image/jpeg", [1]),
        ("application/json", [1, 2]),
    ]
    assert not capsys.readouterr().out
    assert kinds.of({"kind": name}).bodies(codec, [[huge]]) == []
    assert "not asked as image/png: no held-out example fits into 4 MiB" in capsys.readouterr().out
