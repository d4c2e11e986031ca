"""What `make bench-quality` tells: how far behind, what is kept of sets measured before, and the committed figures."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import quality


def test_a_score_is_behind_in_points_and_an_error_in_shares():
    assert quality.behind("accuracy", 0.95, 0.96) == pytest.approx(0.01)
    assert quality.behind("rmse", 105.0, 100.0) == pytest.approx(0.05)
    assert quality.behind("rmse", 95.0, 100.0) < 0


def test_sets_measured_one_by_one_are_kept_but_not_those_of_another_size(tmp_path):
    file = tmp_path / "quality.json"
    assert quality.kept(file, None) == {}
    file.write_text(json.dumps({"thinned_to": None, "results": {"letters": {"behind": 0.0}}}))
    assert quality.kept(file, None) == {"letters": {"behind": 0.0}}
    assert quality.kept(file, 4000) == {}


def test_the_committed_figures_are_of_whole_sets_and_within_what_is_allowed():
    told = json.loads(quality.RESULT.read_text())
    assert told["thinned_to"] is None
    assert set(told["results"]) <= set(quality.SETS)
    assert len(told["results"]) >= 5
    for one in told["results"].values():
        best = one["classical"][one["best"]]
        assert one["behind"] == quality.behind(one["ours"]["metric"], one["ours"]["quality"]["test"], best["test"])
        assert one["within"] == (one["behind"] <= quality.ALLOWED)
        assert one["within"]


def test_the_row_of_pictures_is_what_the_inference_benchmark_measured():
    measured = json.loads(quality.INFERENCE.read_text())["runs"]
    seeds = {f"seed {run['seed']}" for run in measured if run["task"] == "image"}
    told = quality.pictures()
    assert set(told) == seeds
    for one in told.values():
        assert one["behind"] == pytest.approx(one["original"]["test"] - one["quality"]["test"])
        assert one["within"]
