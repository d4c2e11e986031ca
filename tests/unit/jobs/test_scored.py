"""Scored files: what was sent, with a prediction beside each row."""

import csv
import io
import json

import pytest

from ebb_jobs import scored
from ebb_jobs.bad_request import BadRequestError


def doubling(body: bytes, content_type: str) -> list[dict]:
    """A model of numbers: twice `x`."""
    if content_type == scored.CSV:
        rows = list(csv.DictReader(io.StringIO(body.decode())))
    else:
        rows = [json.loads(line) for line in body.decode().splitlines()]
    if any("x" not in row for row in rows):
        raise BadRequestError("the header lacks x")
    if any(row["x"] == "?" for row in rows):
        raise BadRequestError("x is not a number")
    return [{"value": 2 * float(row["x"])} for row in rows]


def test_each_row_of_a_csv_keeps_its_cells_and_gets_its_prediction():
    answer = scored.answer(b'x,name\n1,"a, b"\n2,c\n', scored.CSV, doubling)
    assert answer.decode() == 'x,name,prediction,probability\n1,"a, b",2.0,\n2,c,4.0,\n'


def test_each_line_of_json_keeps_its_fields_and_gets_its_prediction():
    answer = scored.answer(b'{"x": 1, "id": "a"}\n\n{"x": 2}\n', scored.LINES, doubling)
    assert [json.loads(line) for line in answer.decode().splitlines()] == [
        {"x": 1, "id": "a", "prediction": 2.0},
        {"x": 2, "prediction": 4.0},
    ]


def test_a_label_comes_with_its_probability():
    assert scored.columns({"label": "no", "probabilities": {"no": 0.75, "yes": 0.25}}) == ("no", 0.75)


def test_a_row_that_cannot_be_read_does_not_cost_the_others_their_prediction():
    rows = list(csv.DictReader(io.StringIO(scored.answer(b"x\n1\n?\n3\n", scored.CSV, doubling).decode())))
    assert [row["prediction"] for row in rows] == ["2.0", "", "6.0"]
    assert [row["error"] for row in rows] == ["", "x is not a number", ""]


def test_a_file_that_the_model_does_not_take_is_refused_whole():
    with pytest.raises(BadRequestError, match="the header lacks x"):
        scored.answer(b"y\n1\n2\n", scored.CSV, doubling)


def test_a_column_that_is_called_prediction_already_is_kept():
    answer = scored.answer(b"x,prediction\n1,old\n", scored.CSV, doubling)
    assert answer.decode().splitlines() == ["x,prediction,prediction_,probability", "1,old,2.0,"]


def test_a_long_file_is_scored_in_slices_and_stays_in_order():
    sizes = []

    def counting(body: bytes, content_type: str) -> list[dict]:
        found = doubling(body, content_type)
        sizes.append(len(found))
        return found

    count = 2 * scored.SLICE_ROWS + 1
    text = "".join(f'{{"x": {number}}}\n' for number in range(count))
    lines = scored.answer(text.encode(), scored.LINES, counting).decode().splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == [2.0 * number for number in range(count)]
    assert sizes == [scored.SLICE_ROWS, scored.SLICE_ROWS, 1]


@pytest.mark.parametrize(
    ("sent", "wanted", "form"),
    [
        ("text/csv", "text/csv", scored.CSV),
        ("application/jsonlines; charset=utf-8", "application/jsonlines", scored.LINES),
        ("text/csv", "application/json", None),
        ("application/json", "text/csv", None),
        ("text/csv", "", None),
    ],
)
def test_a_scored_file_is_written_only_where_it_is_asked_for(sent, wanted, form):
    assert scored.form_of(sent, wanted) == form
