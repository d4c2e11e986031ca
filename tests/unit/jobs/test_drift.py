"""Drift: what moved is named, and what chance moves is not."""

import math

import numpy as np
import pytest
from scipy import stats

from ebb_jobs import drift, reference

ROWS = 4_000


def population(random, rows, *, mean=0.0, cities=(0.5, 0.3, 0.2), missing=0.02):
    ages = random.normal(mean, 1, rows)
    absent = random.random(rows) < missing
    names = random.choice(["Ulm", "Bonn", "Kiel"], rows, p=cities)
    return [
        {"age": None if gone else float(age), "city": str(city)}
        for age, gone, city in zip(ages, absent, names, strict=True)
    ]


@pytest.fixture(scope="module")
def known():
    random = np.random.default_rng(3)
    rows = population(random, ROWS)
    features = {
        "age": reference.described([row["age"] for row in rows]),
        "city": reference.described([row["city"] for row in rows], category=True),
    }
    sure = random.beta(8, 2, ROWS)
    predicted = np.stack([1 - sure, sure], axis=1)
    return {"version": 1, "rows": ROWS, "features": features, **reference.answers(predicted, ["no", "yes"])}


def samples(rows, random, *, sure=(8, 2)):
    confident = random.beta(*sure, len(rows))
    return [
        {
            "features": row,
            "prediction": {"label": "yes" if p >= 0.5 else "no", "probability": float(max(p, 1 - p))},
        }
        for row, p in zip(rows, confident, strict=True)
    ]


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"mean": 0.8}, ["age"], id="a number has moved"),
        pytest.param({"cities": (0.1, 0.2, 0.7)}, ["city"], id="categories have moved"),
        pytest.param({"missing": 0.3}, ["age"], id="a third is missing"),
    ],
)
def test_what_has_moved_is_named(known, changed, moved):
    random = np.random.default_rng(5)
    found = drift.measure(known, samples(population(random, 800, **changed), random), psi=0.2)
    assert found["moved"] == moved
    assert not found["answers_moved"]


def test_a_category_that_training_never_saw_is_new(known):
    random = np.random.default_rng(6)
    rows = [
        {**row, "city": "Jena" if number % 5 == 0 else row["city"]}
        for number, row in enumerate(population(random, 800))
    ]
    found = drift.measure(known, samples(rows, random), psi=0.2)
    assert found["features"]["city"]["new"] == pytest.approx(0.2, abs=0.001)
    assert "20%" in found["features"]["city"]["why"]


def test_without_a_change_hardly_any_sample_is_called_moved(known):
    """Thirty windows of three looks each, of which one in a hundred windows may be called so by chance."""
    random = np.random.default_rng(7)
    alarms = [
        bool(drift.measure(known, samples(population(random, 200), random), psi=0.05)["moved"]) for _ in range(30)
    ]
    assert sum(alarms) <= 1


def test_fewer_samples_than_a_hundred_show_nothing(known):
    random = np.random.default_rng(8)
    assert not drift.measure(known, samples(population(random, 60, mean=3), random), psi=0.2)["moved"]


def test_the_distance_at_the_edges_is_not_beyond_that_of_scipy_and_close_to_it(known):
    random = np.random.default_rng(9)
    then = [row["age"] for row in population(np.random.default_rng(3), ROWS) if row["age"] is not None]
    rows = population(random, 800, mean=0.4)
    found = drift.measure(known, samples(rows, random), psi=0.2)["features"]["age"]
    true = stats.ks_2samp(then, [row["age"] for row in rows if row["age"] is not None]).statistic
    assert true * 0.85 <= found["statistic"] <= true + 1e-4


def test_lower_confidence_implies_lower_accuracy_and_the_same_the_same(known):
    random = np.random.default_rng(10)
    rows = population(random, 2_000)
    same = drift.implied_accuracy(known, 0.9, samples(rows, random))
    less = drift.implied_accuracy(known, 0.9, samples(rows, random, sure=(4, 3)))
    assert same["low"] <= 0.9 <= same["high"]
    assert less["high"] < 0.8


def test_without_confidences_nothing_is_implied(known):
    assert math.isnan(drift.implied_accuracy(known, 0.9, [{"features": {}, "prediction": {"value": 1.0}}])["value"])
