import numpy as np
import pytest

from ebb_jobs import quality
from ebb_jobs.errors import JobError

# Worked by hand: four rows, three classes; the third row of class 1 is called 0.
TRUTH = np.array([0, 1, 1, 2])
CALLED = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 3 / 4),
        ("balanced_accuracy", (1 + 1 / 2 + 1) / 3),
        ("f1_macro", (2 / 3 + 2 / 3 + 1) / 3),
        ("log_loss", -(np.log(0.8) + np.log(0.7) + np.log(0.4) + np.log(0.8)) / 4),
        ("roc_auc", 1.0),
    ],
)
def test_classification(metric, expected):
    assert quality.score(metric, TRUTH, CALLED) == pytest.approx(expected)


def test_roc_auc_counts_a_tie_as_half():
    # Pairs (positive, negative): 0.9>0.5, 0.9>0.1, 0.5=0.5, 0.5>0.1 -> 3.5 of 4
    positive = np.array([0.9, 0.5, 0.5, 0.1])
    called = np.column_stack([1 - positive, positive])
    assert quality.score("roc_auc", np.array([1, 1, 0, 0]), called) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize(("metric", "expected"), [("rmse", 5**0.5), ("mae", 2.0), ("r2", 1 - 5 / 125)])
def test_regression(metric, expected):
    # Errors 1, 1, 3, 3: squares sum to 20; truth 10, 20, 30, 40 varies by 500 in sum around 25.
    truth = np.array([10.0, 20.0, 30.0, 40.0])
    predicted = np.array([11.0, 19.0, 33.0, 37.0])
    assert quality.score(metric, truth, predicted) == pytest.approx(expected)


@pytest.mark.parametrize(("shares", "expected"), [([0.5, 0.5], "accuracy"), ([0.95, 0.05], "f1_macro"), (None, "rmse")])
def test_the_metric_follows_the_classes(shares, expected):
    task = "tabular-regression" if shares is None else "tabular-classification"
    assert quality.choose(task, None if shares is None else np.array(shares), None).value == expected


def test_a_metric_of_the_other_task_is_refused():
    with pytest.raises(JobError, match="rmse"):
        quality.choose("tabular-classification", np.array([0.5, 0.5]), "rmse")


def test_the_floor_is_in_points_for_scores_and_a_share_for_errors():
    assert quality.floor("accuracy", 0.9, 0.01) == (pytest.approx(0.89), "absolute")
    assert quality.floor("rmse", 200.0, 0.01) == (pytest.approx(202.0), "relative")


def test_the_interval_narrows_with_more_rows():
    rng = np.random.default_rng(0)
    widths = []
    for rows in (100, 10_000):
        truth = rng.integers(0, 2, rows)
        right = rng.random(rows) < 0.8
        called = np.eye(2)[np.where(right, truth, 1 - truth)]
        band = quality.interval("accuracy", truth, called, seed=1)
        assert band["low"] < quality.score("accuracy", truth, called) < band["high"]
        widths.append(band["high"] - band["low"])
    assert widths[1] < widths[0] / 5


def agreement(rows: int, *, mistakes: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A perfect original, and a candidate that is less sure and wrong on the first `mistakes` rows."""
    truth = np.arange(rows) % 2
    original = np.eye(2)[truth]
    candidate = 0.3 + 0.4 * original
    candidate[:mistakes] = candidate[:mistakes, ::-1]
    return truth, original, candidate


@pytest.mark.parametrize(
    ("rows", "mistakes", "low", "high"),
    [
        # -ln(0.2) / 27 = 0.0596: no mistake seen on 27 rows leaves six points possible
        pytest.param(27, 0, 0.0595, 0.0597, id="few rows prove little"),
        pytest.param(4000, 0, 0.0003, 0.0005, id="many rows prove much"),
        # 2 % measured; the bound lies above it and below 2 % + 2 standard errors (0.0044) + 0.0004
        pytest.param(4000, 80, 0.0200, 0.0250, id="a measured loss counts with its spread"),
    ],
)
def test_the_drop_bound_says_what_may_be_lost(rows, mistakes, low, high):
    assert low <= quality.drop_bound("accuracy", *agreement(rows, mistakes=mistakes), seed=1) <= high


def test_the_same_outputs_but_for_rounding_lose_nothing():
    truth, original, _ = agreement(27)
    assert quality.drop_bound("accuracy", truth, original, original + 1e-6, seed=1) == 0


def test_the_same_but_for_rounding_is_measured_in_the_target_s_own_spread():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1e-5, 400)  # metres, say, of something tiny: a thousandth is far more than its spread
    original = truth + rng.normal(0, 1e-6, 400)
    assert quality.drop_bound("rmse", truth, original, np.zeros(400), seed=1) > 1
    assert quality.drop_bound("rmse", truth, original, original + 1e-10, seed=1) == 0
    far = 1e9 + truth * 1e5  # and with a large offset, a share of the value is too
    assert quality.drop_bound("rmse", far, far + 0.1, np.full(400, 1e9), seed=1) > 1


def test_decisions_that_differ_are_never_the_same():
    truth = np.zeros(40, dtype=int)
    original = np.tile([0.5002, 0.4998], (40, 1))
    assert quality.drop_bound("accuracy", truth, original, original[:, ::-1], seed=1) == pytest.approx(1, abs=0.05)


def test_a_sure_mistake_is_not_the_same_as_a_less_sure_one():
    truth = np.zeros(40, dtype=int)
    original, candidate = np.tile([1e-3, 1 - 1e-3], (40, 1)), np.tile([1e-6, 1 - 1e-6], (40, 1))
    # -ln(1e-6) / -ln(1e-3) = 2: twice the loss
    assert quality.drop_bound("log_loss", truth, original, candidate, seed=1) == pytest.approx(1)


def test_the_drop_bound_of_an_error_is_a_share():
    truth = np.zeros(5000)
    noise = np.random.default_rng(0).normal(size=5000)
    # twice the error everywhere: the ratio is 2 in every resample
    assert quality.drop_bound("rmse", truth, noise, 2 * noise, seed=1) == pytest.approx(1.0)
