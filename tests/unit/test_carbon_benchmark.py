"""The benchmark of windows: what each policy does on courses whose best hours can be seen."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import carbon
import carbon_grids

HOURS = [400.0, 300, 500, 100, 200, 200, 450, 400, 400, 400]


def rows(*courses: list[float]) -> np.ndarray:
    return np.array(courses)


@pytest.mark.parametrize(
    ("policy", "duration", "waited"),
    [
        ("run now", 1, 0),
        ("oracle", 1, 3),
        ("let's wait awhile", 2, 3),
        ("lowest slot", 3, 3),
        ("carbon-time", 1, 3),
        ("threshold", 1, 3),
    ],
)
def test_a_policy_begins_where_it_should(policy: str, duration: int, waited: int):
    assert carbon.POLICIES[policy](rows(HOURS), rows(HOURS), 0, 6, duration) == waited


def test_ebb_looks_again_each_hour_and_takes_what_the_forecast_has_become():
    first = [400.0, 380, 100, 300, 300]  # the third hour is promised
    second = [380.0, 390, 300, 310, 0]  # an hour later it has gone, and the fourth is the best
    third = [390.0, 300, 310, 0, 0]
    fourth = [300.0, 310, 0, 0, 0]
    assert carbon.ebb(rows(first, second, third, fourth), None, 0, 3, 1) == 3


def test_ebb_waits_for_no_gain_below_a_hundredth_and_never_past_the_last_hour():
    assert carbon.ebb(rows([400.0, 397, 397, 397]), None, 0, 3, 1) == 0
    falling = rows(*([400.0 - 50 * n - 50 * k for k in range(5)] for n in range(5)))
    assert carbon.ebb(falling, None, 0, 3, 1) == 3


def test_the_replay_decides_as_the_code_of_the_function_does():
    (grid,) = [carbon_grids.recorded("california", "a record")]
    jobs = carbon.jobs_of(grid, 2)
    assert carbon.check(grid, jobs) == len(jobs) == 18


def test_the_made_up_grid_has_the_published_error_and_its_forecasts_come_true():
    grid = carbon_grids.great_britain()
    error = grid.forecast - carbon_grids.ahead(grid.actual, len(grid.forecast))
    assert np.abs(error[:, :48]).mean() == pytest.approx(24.24, rel=0.03)
    assert np.abs(error[:, 0]).mean() < np.abs(error[:, 12]).mean() < np.abs(error[:, 40]).mean()
    assert abs(error.mean()) < 1


def test_a_forecast_without_error_saves_what_the_oracle_does():
    grid = carbon_grids.recorded("california", "a record")
    found = carbon.judged(grid, grid.scaled(0), carbon.jobs_of(grid, 5), ("run now", "oracle", "ebb"))
    assert found["ebb"]["share_of_oracle"] == pytest.approx(1, abs=0.01)
    assert found["run now"]["saved"] == 0
