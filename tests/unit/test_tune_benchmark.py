"""The tuning benchmark: what a grid cost, and what nobody could better for so much of it."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import tune


def point(rate, width, validation, cpu_seconds):
    knobs = {"rate": rate, "width": width, "depth": 1}
    return {"knobs": knobs, "validation": validation, "test": validation, "cpu_seconds": cpu_seconds}


GRID = [
    point(1.0, 1.0, 0.90, 10.0),
    point(4.0, 1.0, 0.95, 10.0),
    point(1.0, 0.5, 0.80, 4.0),
    point(4.0, 0.5, 0.93, 4.0),
]
SEED = {"grid": GRID, "usual": 0.90, "usual_cpu_seconds": 10.0}


def test_a_disturbed_fit_makes_no_grid_dearer():
    disturbed = [*GRID[:3], point(4.0, 0.5, 0.93, 140.0)]
    assert tune.grid_seconds(disturbed) == tune.grid_seconds(GRID) == 28.0


@pytest.mark.parametrize(
    ("share", "behind", "used"),
    [
        pytest.param(0.4, 0.05, 10 / 28, id="nothing but the recipe, which is paid"),
        pytest.param(0.6, 0.02, 14 / 28, id="the best of what can be afforded"),
        pytest.param(0.8, 0.0, 20 / 28, id="the grid's best"),
        pytest.param(0.1, 0.05, 10 / 28, id="the recipe is paid whatever is allowed"),
    ],
)
def test_who_knows_every_outcome_still_pays_the_recipe_and_one_whole_fit(share, behind, used):
    assert tune.best_for(SEED, share) == pytest.approx((behind, used))


def test_a_recipe_that_is_the_best_needs_nothing_more():
    assert tune.best_for({**SEED, "usual": 0.96}, 1.0) == pytest.approx((-0.01, 10 / 28))


def test_the_frontier_is_the_mean_of_the_seeds():
    found = {each["allowed"]: each for each in tune.clairvoyant({"1": SEED, "2": {**SEED, "usual": 0.95}})}
    assert found[0.20]["behind"] == pytest.approx(0.025)
    assert [each["behind"] for each in found.values()] == sorted((e["behind"] for e in found.values()), reverse=True)


def test_a_search_is_counted_as_the_grid_is_by_the_way_of_each_fit():
    knobs = {"rate": 4.0, "width": 0.5, "depth": 1}
    ended = {"knobs": knobs, "status": "pruned", "looks": 3, "cpu_seconds": 90.0}
    whole = {"knobs": {**knobs, "width": 1.0}, "status": "finished", "looks": 12, "cpu_seconds": 11.0}
    assert tune.undisturbed_seconds([whole, ended], GRID) == pytest.approx(10.0 + 4.0 * 3 / 12)
