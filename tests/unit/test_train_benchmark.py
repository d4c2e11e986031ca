"""The training benchmark: which figures it takes of a run, and how recipes and levers are compared."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import inference_data
import train
import train_picture
import train_runs
from inference_stages import StageError
from train_runs import Recipe, Trained

ROWS = 400


def trained(recipe: Recipe, seed: int, cpu_s: float, right: int) -> Trained:
    """Return a training of which the first `right` of ROWS test rows were told rightly."""
    curve = ((cpu_s / 2, 0.8), (cpu_s, 0.9))
    rows = np.arange(ROWS) < right
    return Trained(
        recipe, seed, cpu_s, 2, "completed", 0.9, float(rows.mean()), "bfloat16", curve, [], rows, False
    )  # fmt: skip


TO_TARGET = train.to_target(0.9)
TO_CYCLE = train.to_target(0.9, train.TO_CYCLE)


def runs(ebb=(10.0, 360), plain=(40.0, 356), cycle=(30.0, 360)):
    return [
        trained(recipe, seed, cpu_s + seed, right)
        for seed in (1, 2)
        for recipe, (cpu_s, right) in (
            (TO_TARGET, ebb),
            (TO_CYCLE, ebb),
            (train.PLAIN, plain),
            (train.ONE_CYCLE, cycle),
        )
    ]


def test_a_third_of_the_time_at_no_lower_accuracy_meets_the_target():
    found = train.compared(runs(), "plain", train.TO_TARGET, 1 / 3)
    assert found["share_of_cpu"] == pytest.approx((11 + 12) / (41 + 42))
    assert found["share_of_cpu_by_seed"] == pytest.approx([11 / 41, 12 / 42])
    assert found["gain"] == pytest.approx(4 / ROWS)
    assert found["gain_low"] <= found["gain"] <= found["gain_high"]
    assert found["met"]


def test_the_product_is_told_what_the_others_reached_and_they_themselves_are_not():
    assert TO_TARGET.train["target"] == 0.9
    assert all("target" not in recipe.train for recipe in (train.EBB, train.PLAIN, train.ONE_CYCLE))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        pytest.param({"plain": (20.0, 356)}, "more than a third", id="too slow"),
        pytest.param({"plain": (40.0, 376)}, "four points less", id="less accurate"),
    ],
)
def test_more_time_or_less_accuracy_misses_the_target(given, why):
    assert not train.compared(runs(**given), "plain", train.TO_TARGET, 1 / 3)["met"], why


def test_a_levers_share_is_what_it_takes_with_it_against_without_it():
    whole = trained(train.EBB, 7, 10.0, 360)
    without = trained(Recipe("without bf16", {}), 7, 20.0, 364)
    added = trained(Recipe("with label smoothing", {}), 7, 11.0, 352)
    off, on = train.shares(whole, [without, added])
    assert (off["lever"], off["used"], off["share_of_cpu"]) == ("bf16", True, 0.5)
    assert off["gain"] == pytest.approx(-4 / ROWS)  # with it four rows more are told wrongly
    assert (on["lever"], on["used"], on["share_of_cpu"]) == ("label smoothing", False, 1.1)
    assert on["gain"] == pytest.approx(-8 / ROWS)


def test_every_lever_is_switched_by_a_name_that_the_product_knows():
    source = (Path(__file__).parents[2] / "jobs/ebb_jobs/levers.py").read_text()
    for recipe in [*train.lever_recipes(), train.PLAIN, train.ONE_CYCLE]:
        assert recipe.levers
        for name in recipe.levers:
            assert f"    {name}: " in source


def test_the_plain_recipe_is_charged_until_its_best_epoch_the_others_until_their_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(train_runs, "WORK", tmp_path)
    monkeypatch.setattr(train_runs, "_hash", lambda settings, data: "h")
    history = [[1.0, 0.8, 5.0], [0.8, 0.9, 10.0], [0.7, 0.9, 15.0]]
    rung = {"name": "net", "history": history, "cpu_seconds": 16.0, "stop": "completed", "levers": []}
    report = {
        "rung": "net", "rungs": [rung], "quality": {"validation": 0.9, "test": 0.89}, "precision": "float32",
    }  # fmt: skip
    for name in ("plain-7-h", "ebb-7-h"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model/metrics.json").write_text(json.dumps(report))
        np.save(tmp_path / name / "model/right.npy", np.ones(3, dtype=bool))
        (tmp_path / name / "whole").touch()
    plain, ebb = (train_runs.trained(recipe, 7, tmp_path, 0) for recipe in (train.PLAIN, train.EBB))
    assert (plain.cpu_s, plain.epochs) == (10.0, 2)
    assert (ebb.cpu_s, ebb.epochs) == (16.0, 3)
    assert plain.curve == ((5.0, 0.8), (10.0, 0.9), (15.0, 0.9))


def test_a_lever_that_cannot_be_tried_is_told_and_left_out_any_other_failure_ends_the_benchmark(monkeypatch, tmp_path):
    def fail_to_compile(recipe, seed, data, cpu):
        if recipe.name == "with torch.compile":
            raise StageError("there is no compiler")
        return trained(recipe, seed, 10.0, 360)

    monkeypatch.setattr(train_runs, "trained", fail_to_compile)
    jobs, told = [(recipe, 7) for recipe in train.lever_recipes()], []
    found = train_runs.side_by_side(jobs, tmp_path, told.append, [0, 1], missing=told.append)
    assert len(found) == len(jobs) - 1
    assert "with torch.compile, seed 7: there is no compiler" in told
    with pytest.raises(StageError):
        train_runs.side_by_side(jobs, tmp_path, told.append, [0, 1])


def test_the_pictures_are_taken_evenly_and_all_of_test_is_kept(tmp_path, monkeypatch):
    def drop(task, cache):
        with zipfile.ZipFile(tmp_path / "fashion.zip", "w") as archive:
            for number in range(20):
                archive.writestr(f"train/class-{number % 2}/{number:05}.png", str(number))
            for number in range(3):
                archive.writestr(f"test/class-0/{number:05}.png", "test")
        return tmp_path

    monkeypatch.setattr(inference_data, "drop", drop)
    monkeypatch.setattr(train_runs, "CACHE", tmp_path / "cache")
    with zipfile.ZipFile(train_runs.pictures(5) / "fashion.zip") as archive:
        names = sorted(archive.namelist())
    assert [name[-6:-4] for name in names if name.startswith("train/")] == ["00", "04", "08", "12", "16"]
    assert sum(name.startswith("test/") for name in names) == 3


def test_everything_is_told_in_a_table(tmp_path):
    whole = [trained(train.EBB, seed, 12.0, 362) for seed in (1, 2)]
    found = train.summed_up([*runs(), *whole, trained(train.lever_recipes()[0], 1, 24.0, 362)], 500, 1.0)
    told = "\n".join(train.lines(found))
    assert "met    ebb to target against plain: 28% of its CPU-seconds (27%, 29%; at most 33%)" in told
    assert "met    ebb to one-cycle against fp32 one-cycle: 37% of its CPU-seconds (35%, 38%; at most 50%)" in told
    assert [one["share_of_cpu"] for one in found["levers"]] == [0.5]
    assert json.dumps(found, allow_nan=False)


def test_the_curves_are_drawn(tmp_path):
    machine = {"processor": "some", "date": "2026-11-23", "cpus": 2, "features": []}
    found = {"machine": machine, "runs": [train.fields(each) for each in runs()]}
    assert all(file.stat().st_size > 1000 for file in train_picture.draw(found, tmp_path / "training"))
    assert "plain: fp32, constant rate" in (tmp_path / "training.svg").read_text()
