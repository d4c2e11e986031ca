"""Requests of tensors: every way to send them, and what is refused."""

import io
import json
import tracemalloc

import numpy as np
import pytest

from ebb_jobs import tensors, user_code
from ebb_jobs.bad_request import BadRequestError
from ebb_jobs.tensors import TensorCodec

ROWS = np.array([[1.5, -2.0, 3.0], [4.0, 5.0, 6.25]], dtype=np.float32)


def codec(shape=(None, 3), dtype="float32", classes=("no", "yes")):
    state = {"shape": list(shape), "dtype": dtype, "classes": classes and list(classes), "functions": [], "code": []}
    return TensorCodec(state, {}, {})


def npy(array, **more):
    stream = io.BytesIO()
    np.save(stream, array, **more)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(json.dumps({"instances": ROWS.tolist()}), "application/json", id="instances"),
        pytest.param(json.dumps(ROWS.tolist()), "application/json; charset=utf-8", id="a list"),
        pytest.param(json.dumps(ROWS.tolist()), "", id="JSON is what is meant by nothing"),
        pytest.param("1.5,-2,3\n4,5,6.25\n", "text/csv", id="csv"),
        pytest.param("a,b,c\r\n1.5,-2,3\r\n4,5,6.25", "text/csv", id="csv with a header"),
        pytest.param(npy(ROWS), "application/x-npy", id="npy"),
        pytest.param(npy(ROWS.astype(np.float64)), "application/x-npy", id="npy in double precision"),
        pytest.param(npy(np.asfortranarray(ROWS)), "application/x-npy", id="npy in columns"),
    ],
)
def test_every_way_to_send_rows_gives_the_same_input(body, kind):
    found = codec().parse(body.encode() if isinstance(body, str) else body, kind)
    encoded = codec().encode(found)
    assert encoded.dtype == np.float32
    assert encoded.flags.c_contiguous
    assert np.array_equal(encoded, ROWS)


def test_one_example_may_come_by_itself():
    assert codec().parse(b"[1, 2, 3]", "application/json").tolist() == [[1, 2, 3]]
    pictures = codec((None, 2, 2, 1))
    assert pictures.parse(npy(np.zeros((2, 2, 1), np.float32)), "application/x-npy").shape == (1, 2, 2, 1)


def test_an_axis_without_a_size_takes_any():
    words = codec((None, None), "int64")
    assert words.parse(b"[[5, 6, 7, 8]]", "application/json").shape == (1, 4)
    assert words.parse(b"[[5]]", "application/json").dtype == np.int64


def test_large_whole_numbers_keep_their_digits():
    number = 2**60 + 1
    for body, kind in ((f"[[{number}]]", "application/json"), (f"{number}\n", "text/csv")):
        assert codec((None, 1), "int64").parse(body.encode(), kind)[0, 0] == number


@pytest.mark.parametrize(
    ("body", "kind", "shape", "dtype", "words"),
    [
        pytest.param("", "application/json", 3, "float32", "the body is empty", id="nothing"),
        pytest.param("{", "application/json", 3, "float32", "not JSON", id="broken JSON"),
        pytest.param("[" * 100_000, "application/json", 3, "float32", "not JSON", id="JSON nested without end"),
        pytest.param('{"rows": []}', "application/json", 3, "float32", "no instances", id="another field"),
        pytest.param("5", "application/json", 3, "float32", "not a list", id="a number"),
        pytest.param("[]", "application/json", 3, "float32", "there are no rows", id="no rows"),
        pytest.param("[[1, 2]]", "application/json", 3, "float32", "shape [1, 2], expected [rows, 3]", id="too few"),
        pytest.param("[[[1, 2, 3]]]", "application/json", 3, "float32", "expected [rows, 3]", id="one axis too many"),
        pytest.param("[[1, 2, 3], [1]]", "application/json", 3, "float32", "not a tensor", id="ragged rows"),
        pytest.param('[[1, 2, "Smith"]]', "application/json", 3, "float32", "text, expected numbers", id="text"),
        pytest.param("[[1, 2, null]]", "application/json", 3, "float32", "not a tensor", id="a missing value"),
        pytest.param("[[1, 2, NaN]]", "application/json", 3, "float32", "not finite", id="NaN"),
        pytest.param("[[1, 2, 1e300]]", "application/json", 3, "float32", "float32 cannot", id="too large a number"),
        pytest.param("[[1, 2, true]]", "application/json", 3, "int8", "", id="mixed with a boolean is a number"),
        pytest.param("[[true, false, true]]", "application/json", 3, "float32", "true or false", id="booleans"),
        pytest.param("[[1, 2, 2.5]]", "application/json", 3, "int64", "fractions", id="a fraction"),
        pytest.param("[[1, 2, 300]]", "application/json", 3, "uint8", "uint8 cannot", id="beyond a byte"),
        pytest.param("1,2\n3\n", "text/csv", 3, "float32", "row 2 has 1 cells", id="a ragged table"),
        pytest.param("1,2,3\n1,x,3\n", "text/csv", 3, "float32", "row 2, cell 2: expected a number", id="a word"),
        pytest.param('"1,2', "text/csv", 3, "float32", "not CSV", id="an open quote"),
        pytest.param("a,b,c\n", "text/csv", 3, "float32", "there are no rows", id="a header only"),
        pytest.param(b"\x93NUMPY", "application/x-npy", 3, "float32", "no .npy file", id="npy cut short"),
        pytest.param(npy(ROWS)[:-4], "application/x-npy", 3, "float32", "no .npy file", id="npy without its end"),
        pytest.param(
            npy(np.array([["Smith"]], dtype=object), allow_pickle=True),
            "application/x-npy",
            3,
            "float32",
            "no .npy file",
            id="npy with a pickle",
        ),
        pytest.param(
            npy(ROWS).replace(b"(2, 3)", b"(99999999999, 3)"[:6]),
            "application/x-npy",
            3,
            "float32",
            "no .npy",
            id="lies",
        ),
        pytest.param("<x/>", "application/xml", 3, "float32", "not supported", id="another content type"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(body, kind, shape, dtype, words):
    body = body.encode() if isinstance(body, str) else body
    if not words:
        assert codec((None, shape), dtype).parse(body, kind).dtype == dtype
        return
    with pytest.raises(BadRequestError) as refused:
        codec((None, shape), dtype).parse(body, kind)
    assert words in refused.value.body["error"]
    assert "Smith" not in json.dumps(refused.value.body)
    assert refused.value.body["remedy"]


def test_an_npy_head_that_claims_more_than_was_sent_takes_no_memory():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000000, 3), }"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12)
    with pytest.raises(BadRequestError, match=r"no .npy file"):
        codec().parse(body, "application/x-npy")


def test_csv_is_for_tables_only():
    with pytest.raises(BadRequestError, match="takes 4 axes"):
        codec((None, 2, 2, 1)).parse(b"1,2", "text/csv")


def test_classes_are_answered_by_name_and_values_as_they_are():
    outputs = np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32)
    assert codec().predictions(outputs)[0] == {"label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}}
    assert codec().predictions(outputs)[1]["label"] == "no"
    assert codec(classes=None).predictions(np.array([[150000.5]], dtype=np.float32)) == [{"value": 150000.5}]


def test_an_answer_that_is_no_number_is_an_error_and_no_answer():
    with pytest.raises(ArithmeticError):
        codec().predictions(np.array([[np.nan, 0.5]]))


def test_a_codec_is_opened_from_its_own_files(tmp_path):
    for name, content in codec((None, 4, None), "int32", None).files().items():
        (tmp_path / name).write_bytes(content)
    opened = tensors.open_codec(tmp_path)
    assert opened.shape == (None, 4, None)
    assert opened.dtype == np.int32
    assert opened.classes is None


WRAPPER = """
import json
import helper

def input_fn(body, content_type):
    assert isinstance(body, str) == (content_type == "application/json")
    return [[float(n) for n in body.split()]] if content_type == "text/plain" and not isinstance(body, bytes) \\
        else helper.rows(body)

def output_fn(prediction, accept):
    return ";".join(f"{p:.2f}" for p in prediction[:, 1]), "text/plain"
"""
HELPER = """
import json
def rows(body):
    return [json.loads(body)["wanted"]]
"""


@pytest.fixture
def wrapped(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text(WRAPPER)
    (tmp_path / "code/helper.py").write_text(HELPER)
    code = user_code.read(tmp_path / "code", ["inference.py", "helper.py"])
    state = {**codec().state, "functions": ["input_fn", "output_fn"], "code": list(code)}
    for name, content in TensorCodec(state, code, {}).files().items():
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_bytes(content)
    return tensors.open_codec(tmp_path / "bundle")


def test_the_users_functions_speak_around_the_network(wrapped):
    found = wrapped.parse(b'{"wanted": [1, 2, 3]}', "application/json")
    assert found.tolist() == [[1, 2, 3]]
    assert found.dtype == np.float32
    outputs = np.array([[0.25, 0.75]], dtype=np.float32)
    assert wrapped.respond(outputs, "*/*") == (b"0.75", "text/plain")


def test_what_the_users_function_does_not_take_is_refused_without_its_words(wrapped, capsys):
    with pytest.raises(
        BadRequestError, match=r"input_fn of code/inference.py refused the request .KeyError."
    ) as refused:
        wrapped.parse(b'{"name": "Smith"}', "application/json")
    with pytest.raises(BadRequestError, match=r"expected .rows, 3.") as wrong:
        wrapped.parse(b'{"wanted": [1, 2]}', "application/json")
    assert "Smith" not in json.dumps([refused.value.body, wrong.value.body]) + capsys.readouterr().err


def test_nobody_but_the_user_knows_how_to_ask_a_wrapped_network(wrapped):
    assert tensors.writers(wrapped) == {}
    assert wrapped.respond(np.array([[0.5, 0.5]]), "") is not None
    assert codec().respond(np.array([[0.5, 0.5]]), "") is None


def test_what_is_written_is_read():
    ways = tensors.writers(codec())
    assert list(ways) == ["application/json", "application/x-npy", "text/csv"]
    for kind, write in ways.items():
        assert np.array_equal(codec().parse(write([ROWS[:1], ROWS[1:]]), kind), ROWS)
    assert "text/csv" not in tensors.writers(codec((None, 2, 2)))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param([["x" * 10_000, *[""] * 10_000]], id="one long text among many places"),
        pytest.param([[[["x" * 10_000]]], *[[[[""]]]] * 10_000], id="deep down"),
        pytest.param([[1] * 10_000, "x" * 10_000], id="beside a list"),
    ],
)
def test_text_takes_no_memory_before_it_is_refused(body):
    """NumPy would take 400 MB for the longest text in every place."""
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError, match="text, expected numbers"):
            codec().parse(json.dumps(body).encode(), "application/json")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [17, 60, 200])
def test_lists_in_lists_without_end_are_no_tensor(depth):
    with pytest.raises(BadRequestError, match="not a tensor"):
        codec().parse(b"[" * depth + b"1" + b"]" * depth, "application/json")


def test_a_request_of_more_rows_than_can_be_told_of_is_refused():
    rows = np.zeros((500_001, 3), dtype=np.uint8)
    with pytest.raises(BadRequestError, match="holds 500,001 rows") as refused:
        codec().parse(npy(rows), "application/x-npy")
    assert refused.value.remedy == "Send at most 500,000 at once."
    assert len(codec().parse(npy(rows[1:]), "application/x-npy")) == 500_000
