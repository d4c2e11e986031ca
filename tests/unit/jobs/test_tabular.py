import json
import random
import re

import numpy as np
import pytest

from ebb_jobs.spelling import DATE_PATTERNS
from ebb_jobs.tabular import InvalidValueError, Preprocessor, parse_date, text_of

SCHEMA = {
    "task": "tabular-classification",
    "target": {"name": "label", "classes": ["no", "yes"]},
    "features": [
        {"name": "size", "kind": "numeric"},
        {"name": "income", "kind": "numeric", "lenient": True},
        {"name": "city", "kind": "categorical"},
        {"name": "member", "kind": "boolean"},
        {"name": "seen", "kind": "datetime", "date_order": "year-month-day", "lenient": False},
    ],
}


def rows_of(count, seed=0):
    rng = random.Random(seed)
    return [
        {
            "size": rng.choice([None, rng.gauss(10, 3), rng.randint(0, 30)]),
            "income": rng.choice([None, "unknown", 10 ** rng.uniform(-3, 12)]),
            "city": rng.choice(["Rome", "Oslo", " Lima ", "Bonn", None, 7, 7.0]),
            "member": rng.choice([True, False, "yes", "N", None]),
            "seen": rng.choice(
                [None, f"20{rng.randint(10, 30)}-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}T23:59:01.5Z"]
            ),
        }
        for _ in range(count)
    ]


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def trained(rows):
    columns = columns_of(rows)
    columns["size"] = np.array(
        [np.nan if v is None else float(v) for v in columns["size"]]
    )  # as curated Parquet has it
    return Preprocessor.fit(SCHEMA, columns, ["no", "yes"] * (len(rows) // 2))


def as_sent_by_a_client(row):
    return {name: text_of(value) for name, value in row.items()}


def test_a_served_row_is_encoded_bit_for_bit_as_a_training_row():
    rows = rows_of(600)
    fitted = trained(rows)
    served = Preprocessor(json.loads(json.dumps(fitted.state)))  # as it travels in the bundle
    at_once = fitted.encode(columns_of(rows))
    one_by_one = np.concatenate([served.encode(columns_of([row])) for row in rows])
    as_text = np.concatenate([served.encode(columns_of([as_sent_by_a_client(row)])) for row in rows])
    assert at_once.tobytes() == one_by_one.tobytes() == as_text.tobytes()


def test_every_input_of_the_network_stays_within_one():
    fitted = trained(rows_of(400))
    wild = [
        *rows_of(400, seed=1),
        {"size": 1e300, "income": -1e300, "city": "never seen", "member": None, "seen": "0001-01-01"},
        {"size": -1e300, "income": None, "city": None, "member": "perhaps", "seen": "9999-12-31 23:59:59"},
    ]
    encoded = fitted.encode(columns_of(wild))
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 1


def test_missing_and_unseen_categories_have_codes_of_their_own():
    fitted = trained(rows_of(400))
    base = {"size": 1, "income": 1, "member": True, "seen": None}
    known, unseen, missing = (fitted.encode(columns_of([{**base, "city": city}])) for city in ("Rome", "Ulm", None))
    assert len({known.tobytes(), unseen.tobytes(), missing.tobytes()}) == 3


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("size", "big", "size: expected a number or nothing"),
        ("size", True, "size: expected a number or nothing"),
        ("size", [1], "size: expected a number or nothing"),
        ("size", "1_000", "size: expected a number or nothing"),
        ("seen", "13 May", "seen: expected a date written year-month-day or nothing"),
        ("seen", "2020-02-30", "seen: expected a date written year-month-day or nothing"),
        ("city", {"a": 1}, "city: expected a text, a number or null"),
    ],
)
def test_a_value_that_a_column_cannot_take_is_refused_by_its_field(field, value, expected):
    fitted = trained(rows_of(400))
    row = {"size": 1, "income": 1, "city": "Rome", "member": True, "seen": "2020-01-01", field: value}
    with pytest.raises(InvalidValueError) as raised:
        fitted.encode(columns_of([row]))
    assert str(raised.value) == expected


def test_a_column_that_held_words_in_training_takes_them_as_missing():
    fitted = trained(rows_of(400))
    row = {"size": 1, "city": "Rome", "member": True, "seen": "2020-01-01"}
    word, nothing = (fitted.encode(columns_of([{**row, "income": income}])) for income in ("unknown", None))
    assert word.tobytes() == nothing.tobytes()


@pytest.mark.parametrize(
    ("text", "order", "day_number"),
    [  # day numbers from Python's own calendar: date(2024, 2, 29).toordinal() == 738945
        ("2024-02-29", "year-month-day", 738945),
        ("2024/2/29 12:00", "year-month-day", 738945.5),
        ("02/29/2024", "month/day/year", 738945),
        ("29/02/2024 06:00:00", "day/month/year", 738945.25),
        ("29.2.2024", "day.month.year", 738945),
        ("2024-02-29T18:00:00+05:30", "year-month-day", 738945.75),
    ],
)
def test_dates(text, order, day_number):
    parts = parse_date(text, re.compile(DATE_PATTERNS[order]), order)
    assert parts is not None
    assert parts[0] == day_number


def regression(values):
    schema = {**SCHEMA, "task": "tabular-regression", "target": {"name": "price"}}
    return Preprocessor.fit(schema, columns_of(rows_of(len(values))), values)


def test_a_skewed_target_is_learned_as_a_logarithm_and_comes_back():
    values = np.exp(np.random.default_rng(0).normal(10, 1.5, 500))
    fitted = regression(values)
    assert fitted.state["target"]["log"]
    np.testing.assert_allclose(fitted.decode_values(fitted.encode_target(values)), values, rtol=1e-4)


def test_an_even_target_is_learned_as_it_is_and_never_far_outside_its_range():
    values = np.random.default_rng(0).uniform(-50, 50, 500)
    fitted = regression(values)
    assert not fitted.state["target"]["log"]
    np.testing.assert_allclose(fitted.decode_values(fitted.encode_target(values)), values, atol=1e-3)
    assert abs(fitted.decode_values(np.array([[1e9], [-1e9]]))).max() <= 60.001
