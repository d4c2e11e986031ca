"""What a model gets wrong: counts that add up, few enough to travel."""

import json

import numpy as np
import pytest

from ebb_jobs import mistakes


def one_hot(answers: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[answers]


def test_a_row_is_a_true_class_and_a_column_an_answer():
    found = mistakes.of(np.array([0, 0, 0, 1]), one_hot([0, 0, 1, 1], 2), ["no", "yes"])
    assert found["labels"] == ["no", "yes"]
    assert found["matrix"] == [[2, 1], [0, 1]]
    assert found["rows"] == 4


def test_beyond_twenty_classes_the_rare_ones_are_counted_together_and_no_row_is_lost():
    random = np.random.default_rng(7)
    truth = np.concatenate([np.repeat(np.arange(20), 10), np.arange(20, 50)])
    answers = random.permutation(truth)
    found = mistakes.of(truth, one_hot(list(answers), 50), [f"class {n}" for n in range(50)])
    assert found["labels"] == [*(f"class {n}" for n in range(20)), "(others)"]
    assert np.array(found["matrix"]).sum() == len(truth) == found["rows"]
    assert sum(found["matrix"][-1]) == 30, "thirty rows are of a rare class"
    assert len(json.dumps(found)) < 4_000


def test_a_long_label_is_cut_and_missing_ones_are_numbers():
    assert mistakes.of(np.array([0]), one_hot([0], 2), ["x" * 90, "y"])["labels"] == ["x" * 40, "y"]
    assert mistakes.of(np.array([0]), one_hot([0], 2), None)["labels"] == ["0", "1"]


def test_residuals_are_the_answer_less_the_truth():
    found = mistakes.of(np.zeros(101), np.arange(-50.0, 51.0), None)
    assert found["kind"] == "residuals"
    assert found["quantiles"]["p50"] == 0
    assert (found["quantiles"]["p5"], found["quantiles"]["p95"]) == pytest.approx((-45, 45))
    assert found["largest_absolute"] == 50
    assert found["mean_absolute"] == pytest.approx(25.25, abs=0.01)
