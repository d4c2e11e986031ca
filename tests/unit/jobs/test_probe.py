"""The probe: what can be learned is found, what is chance is not."""

import numpy as np
import pytest

from ebb_jobs import probe, quality


def world(rows, *, seed, rule=1.0, noise=0.0, prior=0.5):
    """Return rows of two columns, their class by the sum of both, and a served model that knows the first rule."""
    random = np.random.default_rng(seed)
    columns = random.normal(size=(rows, 2)).astype(np.float32)
    score = columns[:, 0] + rule * columns[:, 1] + np.log(prior / (1 - prior))
    truth = (random.random(rows) < 1 / (1 + np.exp(-6 * score))).astype(np.int64)
    flipped = random.random(rows) < noise
    truth = np.where(flipped, 1 - truth, truth)
    yes = 1 / (1 + np.exp(-6 * (columns[:, 0] + columns[:, 1])))
    return columns, truth, np.stack([1 - yes, yes], axis=1)


def test_a_rule_that_changed_is_learned():
    columns, truth, predicted = world(800, seed=1, rule=-1.0)
    found = probe.gains("accuracy", truth, predicted, columns, seed=7)
    assert found["learned"]["low"] > 0.2


@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["the same world", "labels that are wrong more often"])
def test_where_nothing_is_to_learn_no_gain_is_beyond_chance(noise):
    columns, truth, predicted = world(800, seed=2, noise=noise)
    found = probe.gains("accuracy", truth, predicted, columns, seed=7)
    assert found["learned"]["low"] <= 0
    assert found["recalibrated"]["low"] <= 0


def test_classes_that_became_rarer_need_a_calibration_only():
    columns, truth, predicted = world(1500, seed=3, prior=0.12)
    found = probe.gains("accuracy", truth, predicted, columns, seed=7)
    assert found["recalibrated"]["low"] > 0
    assert found["recalibrated"]["value"] >= 0.8 * found["learned"]["value"]


def test_numbers_that_all_rose_need_a_calibration_only():
    random = np.random.default_rng(4)
    columns = random.normal(size=(600, 3)).astype(np.float32)
    served = columns @ np.array([1.0, 2.0, -1.0])
    truth = served * 1.2 + 3 + random.normal(0, 0.3, 600)
    found = probe.gains("rmse", truth, served, columns, seed=7)
    assert found["recalibrated"]["value"] > 0.8
    calibrated = probe.calibrate(served, probe.calibration(truth, served))
    assert quality.score("rmse", truth, calibrated) == pytest.approx(0.3, abs=0.05)


def test_fewer_rows_than_sixty_say_nothing():
    columns, truth, predicted = world(59, seed=5)
    assert probe.gains("accuracy", truth, predicted, columns, seed=7) == dict.fromkeys(
        ("recalibrated", "learned", "beyond_calibration")
    )


def test_values_that_the_encoding_cannot_tell_apart_are_learned_as_they_came():
    columns, truth, predicted = world(800, seed=6)
    flat = np.full_like(predicted, 0.5)
    seen = [{"a": float(a), "b": float(b)} for a, b in columns * 25.4]
    found = probe.gains("accuracy", truth, flat, np.ones_like(columns), seen, seed=7)
    assert found["learned"]["low"] > 0.3
    assert found["beyond_calibration"]["low"] > 0.3
