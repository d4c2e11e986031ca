"""From what a person has to the requests that an endpoint takes."""

import json

import pytest

from ebb_cli import payload


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"1,2,3\n", "text/csv", id="cells"),
        pytest.param(b"", "text/csv", id="nothing"),
        pytest.param(b' {"a": 1}\n', "application/json", id="one object"),
        pytest.param(b'[{"a": 1}]', "application/json", id="a list"),
        pytest.param(b'{"a": 1}\n{"a": 2}\n', "application/jsonlines", id="an object per line"),
        pytest.param(b'{\n "a": 1\n}\n', "application/json", id="one object over several lines"),
        pytest.param(b"\x89PNG\r\n\x1a\n...", "image/png", id="a PNG"),
        pytest.param(b"\xff\xd8\xff\xe0...", "image/jpeg", id="a JPEG"),
        pytest.param(b"\x93NUMPY\x01\x00...", "application/x-npy", id="an array"),
    ],
)
def test_what_has_no_telling_name_is_recognised_by_its_beginning(body, content_type):
    assert payload.sniff(body) == content_type


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("rows.csv", "text/csv"),
        ("rows.JSONL", "application/jsonlines"),
        ("texts.txt", "text/plain"),
        ("cat.jpeg", "image/jpeg"),
        ("batch.npy", "application/x-npy"),
        ("cat", "image/png"),
    ],
)
def test_a_files_name_tells_its_type_and_its_beginning_where_the_name_does_not(tmp_path, name, content_type):
    (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    assert payload.of_file(tmp_path / name).content_type == content_type


def test_texts_keep_their_letters_and_their_line_breaks():
    request = payload.of_texts(["Grüße\nan alle"])
    assert json.loads(request.body) == {"instances": [{"text": "Grüße\nan alle"}]}
