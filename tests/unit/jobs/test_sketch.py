"""The index of drift, and the bins that a serving process fills."""

import random

import pytest

from ebb_jobs import reference, sketch

AGE = {"kind": "number", "edges": [30.0, 50.0], "shares": [0.25, 0.5, 0.25], "missing": 0.2}
CITY = {"kind": "category", "categories": {"Ulm": 0.6, "Bonn": 0.3}, "other": 0.1, "missing": 0.0}


@pytest.mark.parametrize(
    ("feature", "value", "bin_"),
    [
        pytest.param(AGE, 29.9, 0, id="below the first edge"),
        pytest.param(AGE, 30.0, 1, id="an edge belongs to the bin above it"),
        pytest.param(AGE, 90, 2, id="beyond the last edge"),
        pytest.param(AGE, None, 3, id="no number is missing"),
        pytest.param(AGE, float("nan"), 3, id="not a number is missing"),
        pytest.param(AGE, "old", 3, id="a text in the place of a number is missing"),
        pytest.param(CITY, "Bonn", 1, id="a known category"),
        pytest.param(CITY, "Atlantis", 2, id="an unknown category is another one"),
        pytest.param(CITY, "", 3, id="an empty category is missing"),
    ],
)
def test_every_value_has_its_bin(feature, value, bin_):
    assert sketch.place(feature, value) == bin_
    counted = sketch.Counts(feature, 1000)
    counted.add(value)
    assert counted.counts[bin_] == 1
    assert sum(counted.counts) == 1


def test_the_shares_of_a_reference_add_up_with_what_is_missing():
    assert sketch.shares(AGE) == pytest.approx([0.2, 0.4, 0.2, 0.2])
    assert sum(sketch.shares(CITY)) == pytest.approx(1)


def test_a_known_shift_has_the_index_that_is_worked_out_by_hand():
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5) = 0.1410 + 0.2749 = 0.4159, of so many rows that chance
    # and smoothing play no part
    assert sketch.psi([800_000, 200_000], [0.5, 0.5], 1_000_000) == pytest.approx(0.4159, abs=1e-4)


def test_nothing_asked_is_no_drift():
    assert sketch.psi([0, 0], [0.5, 0.5], 1000) == 0


def test_chance_alone_stays_far_below_what_counts_as_drift():
    drawn = random.Random(7)
    highest = 0.0
    for _ in range(300):
        counts = [0.0] * 10
        for _ in range(200):
            counts[drawn.randrange(10)] += 1
        highest = max(highest, sketch.psi(counts, [0.1] * 10, 10_000))
    assert highest < 0.05


def test_the_quantile_of_chance_is_that_of_the_tables():
    # chi-square tables, 0.999: 10.83, 27.88 and 86.66 for 1, 9 and 50 degrees of freedom
    assert [sketch._chi_square(freedom) for freedom in (1, 9, 50)] == pytest.approx([10.83, 27.88, 86.66], rel=0.04)


def filled(samples, *, window=1000):
    drawn = random.Random(3)
    known = {
        "rows": 2000,
        "features": {
            "age": reference.described([drawn.gauss(40, 10) for _ in range(2000)]),
            "city": reference.described([drawn.choice(["Ulm", "Bonn"]) for _ in range(2000)], category=True),
        },
        "prediction": reference.described([drawn.choice(["no", "yes"]) for _ in range(2000)], category=True),
        "confidence": reference.described([drawn.uniform(0.5, 1) for _ in range(2000)]),
    }
    found = sketch.Sketch(known, window)
    for _ in range(samples):
        found.add(
            {"age": drawn.gauss(40, 10), "city": drawn.choice(["Ulm", "Bonn"])},
            {"label": drawn.choice(["no", "yes"]), "probability": drawn.uniform(0.5, 1)},
        )
    return found, drawn


def test_what_is_asked_as_before_shows_no_drift():
    told = filled(500)[0].told(50)
    assert told["psi"] < 0.1
    assert told["samples"] == 500
    assert not told["new"]
    assert not told["missing"]


def test_a_feature_that_moves_is_named_and_its_gaps_and_new_categories_are_told():
    found, drawn = filled(100)
    for _ in range(300):
        city = "Rome" if drawn.random() < 0.5 else "Ulm"
        found.add({"age": None, "city": city}, {"label": "no", "probability": 0.7})
    told = found.told(50)
    assert told["of"] == "age"
    assert told["psi"] == told["features"]["age"] > 0.25
    assert told["missing"] == {"age": 0.75}
    assert 0.3 < told["new"]["city"] < 0.45
    assert told["prediction"] > 0.05


def test_what_was_asked_long_ago_fades():
    found, _ = filled(400, window=400)
    for _ in range(1200):
        found.add({"age": 80.0, "city": "Ulm"}, {"label": "yes", "probability": 0.9})
    assert found.samples < 400
    counts = found.features["age"].counts
    assert counts[-2] / sum(counts) > 0.9


def test_only_the_features_that_moved_furthest_are_told():
    assert list(filled(300)[0].told(1)["features"]) in (["age"], ["city"])


@pytest.mark.parametrize(
    ("prediction", "sure"),
    [
        pytest.param({"label": "a", "probabilities": {"a": 0.7, "b": 0.3}}, 0.7, id="of the label"),
        pytest.param({"label": "a", "probability": 0.6, "probabilities": {"a": 0.7}}, 0.6, id="as it was noted"),
        pytest.param({"value": 3.2}, None, id="a value has none"),
        pytest.param({"text": "..."}, None, id="another answer has none"),
    ],
)
def test_the_confidence_of_an_answer(prediction, sure):
    assert sketch.confidence(prediction) == sure
