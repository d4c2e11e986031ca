"""The ladder: which recipe is tried, which is taken, and what is told of each."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ebb_jobs import fitting, gradient, ladder, linear, networks, quality, tfidf, train, trees
from ebb_jobs.dataset import Split
from ebb_jobs.errors import DivergedError, JobError
from ebb_jobs.kinds.tabular import KIND
from ebb_jobs.ladder import Lesson, Rung
from ebb_jobs.report import Report
from ebb_jobs.text_networks import TfidfNet
from unit.jobs.stages import RUN, prepare, run_stage

RANDOM = np.random.default_rng(5)
ROWS = RANDOM.uniform(-1, 1, (3000, 6)).astype(np.float32)
LINES = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(np.int64)
CORNERS = (ROWS[:, 0] * ROWS[:, 1] > 0).astype(np.int64)
"""A line tells the first from the rest; nothing linear the second."""


def split(targets, rows=slice(None)):
    names = np.array(["no", "yes", "other"])
    return Split(ROWS[rows], targets[rows], names[targets[rows]] if targets.dtype.kind == "i" else targets[rows])


def lesson(tmp_path, targets=CORNERS, **more) -> Lesson:
    classified = targets.dtype.kind == "i"
    training, validation = split(targets, slice(0, 2000)), split(targets, slice(2000, None))
    classes = ["no", "yes", "other"][: targets.max() + 1] if classified else []
    shares = np.bincount(training.targets, minlength=len(classes)) / len(training) if classified else None
    metric = more.pop("metric", "accuracy" if classified else "rmse")
    settled = Lesson(
        training=training,
        validation=validation,
        codec=None,
        classes=classes,
        recipe=replace(KIND.recipe, steps=400, min_epochs=4),
        augment=KIND.augment,
        metric=metric,
        loss=train.hard_loss(training, shares, metric),
        factors=train.class_factors(shares, metric),
        compare=lambda outputs, rows: (rows.targets, outputs if classified else outputs[:, 0].astype(np.float64)),
        wanted={},
        seed=7,
        checkpoints=tmp_path,
        checkpoint_every_s=3600.0,
        fingerprint="these rows",
        report=Report("train"),
    )
    return replace(settled, **more)


EVERY = np.arange(ROWS.shape[1])


def mlp(outputs=2):
    return networks.Mlp(ROWS.shape[1], [32, 32], outputs)


RUNGS = [
    Rung("linear", ladder.LINEAR, linear.fit_table, linear.load),
    Rung("trees", ladder.TREES, lambda given: trees.fit(given, EVERY), trees.load),
    Rung("net", ladder.NETWORK, lambda given: gradient.fit(given, mlp, "net"), linear.load),
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def told(report, what):
    return next(decision for decision in report.decisions if decision["what"] == what)


# ---- Climbing ----


def test_what_a_line_separates_is_left_to_the_linear_model(tmp_path):
    given = lesson(tmp_path, LINES)
    climbed = ladder.climb(RUNGS, given)
    assert climbed.best.rung.name == "linear"
    assert [one.rung.name for one in climbed.climbed] in (["linear"], ["linear", "trees"])
    assert climbed.best.fields["quality"]["validation"] > 0.98


def test_what_no_line_separates_is_learned_one_rung_higher_and_no_dearer_than_pays(tmp_path):
    given = lesson(tmp_path)
    climbed = ladder.climb(RUNGS, given)
    assert climbed.best.rung.name == "trees"
    first, second = climbed.climbed[:2]
    assert first.fields["quality"]["validation"] < 0.65
    assert second.fields["gain"]["low"] > 0.2
    assert "gain beyond chance" in told(given.report, "rung trees")["reason"]
    assert "chance" in climbed.ended or "cannot show" in climbed.ended


def test_every_rung_is_told_with_its_cost_its_quality_and_why_the_ladder_went_on(tmp_path):
    given = lesson(tmp_path)
    climbed = ladder.climb(RUNGS[:2], given)
    for one in climbed.climbed:
        fields = one.fields
        assert fields["cpu_seconds"] >= 0
        assert (
            fields["quality_interval"]["low"] <= fields["quality"]["validation"] <= fields["quality_interval"]["high"]
        )
        assert fields["stop"] in fitting.STOPS
        assert fields["reason"]
        assert fields["parameters"] > 0


def test_with_a_target_the_ladder_ends_at_the_rung_that_reaches_it(tmp_path):
    easy = ladder.climb(RUNGS, lesson(tmp_path / "easy", LINES, target=0.9))
    assert [one.rung.name for one in easy.climbed] == ["linear"]
    assert easy.climbed[0].fitted.stop == "target"
    hard = ladder.climb(RUNGS, lesson(tmp_path / "hard", target=0.9))
    assert [one.rung.name for one in hard.climbed] == ["linear", "trees"]
    assert "target accuracy 0.9 is reached" in hard.ended


def test_a_target_that_nothing_reaches_lets_every_rung_be_tried_and_keeps_the_cheapest_of_the_best(tmp_path):
    noise = RANDOM.integers(0, 2, len(ROWS))
    climbed = ladder.climb(RUNGS, lesson(tmp_path, noise, target=0.99))
    assert [one.rung.name for one in climbed.climbed] == ["linear", "trees", "net"]
    assert climbed.best.rung.name == "linear"
    assert "there is no higher rung" in climbed.ended


def test_a_rung_that_fails_is_listed_and_the_next_one_is_tried(tmp_path):
    def breaks(_):
        raise DivergedError("the loss is not finite")

    broken = Rung("linear", ladder.LINEAR, breaks, linear.load)
    given = lesson(tmp_path)
    climbed = ladder.climb([broken, RUNGS[1]], given)
    assert climbed.best.rung.name == "trees"
    assert climbed.climbed[0].fields["status"] == "failed"
    assert climbed.climbed[0].fields["stop"] == "divergence"
    assert "not finite" in told(given.report, "rung linear")["reason"]


def test_where_no_rung_can_be_fitted_the_job_fails_with_their_reasons(tmp_path):
    def breaks(_):
        raise JobError("there is no libgomp")

    with pytest.raises(JobError, match="trees: there is no libgomp"):
        ladder.climb([Rung("trees", ladder.TREES, breaks, trees.load)], lesson(tmp_path))


def test_a_budget_that_is_used_up_ends_the_ladder(tmp_path):
    climbed = ladder.climb(RUNGS, lesson(tmp_path, budget_s=1e-3))
    assert [one.rung.name for one in climbed.climbed] == ["linear"]
    assert "time budget" in climbed.ended


def test_a_model_without_mistakes_leaves_nothing_to_climb_for():
    truth = np.array([0, 1] * 50)
    perfect = np.eye(2)[truth]
    assert quality.headroom("accuracy", truth, perfect, seed=1)["low"] <= 0
    assert quality.headroom("rmse", truth, truth, seed=1) is None


def test_a_gain_of_few_rows_is_chance_and_the_same_gain_of_many_is_not():
    few, many = (np.tile([0, 1], rows // 2) for rows in (100, 40_000))
    for truth, beyond in ((few, False), (many, True)):
        before = np.eye(2)[truth].astype(float)
        before[: len(truth) // 20] = before[: len(truth) // 20, ::-1]  # 5 % wrong
        after = np.eye(2)[truth].astype(float)
        after[-len(truth) // 25 :] = after[-len(truth) // 25 :, ::-1]  # 4 % wrong, other rows
        assert (quality.gain("accuracy", truth, before, after, seed=1)["low"] > 0) is beyond


def test_an_error_that_shrinks_is_a_gain():
    truth = np.linspace(0, 1, 200)
    gain = quality.gain("rmse", truth, truth + 0.2, truth + 0.1, seed=1)
    assert gain["value"] == pytest.approx(0.5)
    assert gain["low"] > 0


def test_only_the_rungs_that_the_spec_names_are_climbed():
    assert [rung.name for rung in ladder.choose(RUNGS, ["net", "linear"])] == ["linear", "net"]
    with pytest.raises(JobError, match=r"no 'encoder'.*linear, trees, net"):
        ladder.choose(RUNGS, ["encoder"])


# ---- Why a fit ends: one word each ----


def test_a_fit_that_no_longer_improves_ends_as_a_plateau(tmp_path):
    noisy = np.where(RANDOM.random(len(ROWS)) < 0.2, 1 - CORNERS, CORNERS)
    fitted = trees.fit(lesson(tmp_path, noisy), EVERY)
    assert (fitted.stop, "no smaller loss" in fitted.stopped_because) == ("plateau", True)


def test_trees_end_at_the_target_and_at_the_budget(tmp_path):
    assert trees.fit(lesson(tmp_path, target=0.8), EVERY).stop == "target"
    assert trees.fit(lesson(tmp_path, budget_s=1e-6), EVERY).stop == "budget"


@pytest.mark.parametrize(
    ("found", "loses"),
    [
        pytest.param([0.5, 0.6, 0.62, 0.63, 0.635, 0.636], True, id="far behind and hardly rising"),
        pytest.param([0.5, 0.6, 0.7, 0.78, 0.83, 0.87], False, id="still rising fast enough"),
        pytest.param([0.5, 0.6, 0.9, 0.91, 0.92, 0.96], False, id="ahead"),
        pytest.param([0.5], False, id="too early to tell"),
        pytest.param([0.86, 0.9, 0.92, 0.925, 0.926, 0.927], False, id="standing still while the rate is high"),
        pytest.param([0.86, 0.9, 0.92, 0.925, 0.926, *[0.927] * 5], True, id="standing still when it has fallen"),
    ],
)
def test_a_run_that_cannot_reach_its_rival_is_a_predicted_loser(found, loses):
    assert fitting.loses(fitting.Recipe("accuracy", 12, 32, rival=0.95), found) is loses


@pytest.mark.parametrize(
    ("found", "behind"),
    [
        pytest.param([0.5, 0.6, 0.7, 0.75], True, id="worse after every epoch"),
        pytest.param([0.6, 0.5, 0.7, 0.75], True, id="worse but once"),
        pytest.param([0.5, 0.6, 0.8, 0.9], False, id="caught up"),
        pytest.param([0.5, 0.6], False, id="too early to tell"),
    ],
)
def test_a_run_is_compared_with_another_of_the_same_plan_epoch_by_epoch(found, behind):
    recipe = fitting.Recipe("accuracy", 12, 32, pace=(0.55, 0.65, 0.75, 0.8, 0.85))
    assert fitting.is_behind(recipe, found) is behind
    errors = fitting.Recipe("rmse", 12, 32, pace=tuple(1 - each for each in recipe.pace))
    assert fitting.is_behind(errors, [1 - each for each in found]) is behind


def test_a_run_behind_its_pace_ends_at_half_of_its_plan():
    targets = torch.from_numpy(CORNERS)
    outcome = fitting.fit(
        mlp(),
        ROWS,
        lambda outputs, rows: torch.nn.functional.cross_entropy(outputs, targets[rows]),
        _rising(),
        fitting.Recipe("accuracy", 8, 256, pace=(0.9,) * 8),
    )
    assert (outcome.stop, outcome.epochs) == ("predicted loser", 4)


def test_a_predicted_loser_ends_before_its_plan_and_says_so():
    targets = torch.from_numpy(CORNERS)
    outcome = fitting.fit(
        mlp(),
        ROWS,
        lambda outputs, rows: torch.nn.functional.cross_entropy(outputs, targets[rows]),
        _rising(),
        fitting.Recipe("accuracy", 40, 256, rival=0.9),
    )
    assert outcome.stop == "predicted loser"
    assert outcome.epochs < 40
    assert "will not reach the 0.9000" in outcome.stopped_because


def _rising():
    values = iter(np.linspace(0.5, 0.52, 60))
    return lambda _: float(next(values))


# ---- Trees as ONNX ----


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(CORNERS, id="two classes"),
        pytest.param((ROWS[:, :2] > 0).sum(1), id="three classes"),
        pytest.param((ROWS[:, 0] * ROWS[:, 1]).astype(np.float32), id="a number"),
    ],
)
def test_trees_answer_in_onnx_as_they_do_in_lightgbm(tmp_path, targets):
    given = lesson(tmp_path, targets)
    model = trees.fit(given, EVERY).model
    file = model.save(tmp_path / "original")
    onnx.checker.check_model(onnx.load(file))
    session = onnxruntime.InferenceSession(str(file))
    (outputs,) = session.run(None, {"input": given.validation.inputs})
    assert outputs.shape == (1000, given.outputs)
    assert np.array_equal(outputs, trees.load(file).predict(given.validation.inputs))
    if given.classes:
        assert outputs.sum(1) == pytest.approx(1, abs=1e-5)
        assert given.score(outputs) > 0.95
    else:
        assert given.score(outputs) < 0.35 * targets.std()


def test_a_threshold_between_two_float32_numbers_keeps_its_side():
    below = np.float32(0.3)
    above = np.nextafter(below, np.float32(1))
    between = (float(below) + float(above)) / 2
    assert np.float32(trees._float32_below(between)) == below
    assert trees._float32_below(0.5) == 0.5


def test_trees_weigh_rare_classes_when_the_metric_counts_classes_alike(tmp_path):
    rare = ((ROWS[:, 0] > 0.8) & (RANDOM.random(len(ROWS)) < 0.5)).astype(np.int64)
    alike = lesson(tmp_path / "a", rare, metric="balanced_accuracy")
    plain = lesson(tmp_path / "b", rare)
    found = {
        name: quality.score("balanced_accuracy", rare[2000:], trees.fit(given, EVERY).model.predict(ROWS[2000:]))
        for name, given in (("alike", alike), ("plain", plain))
    }
    assert found["alike"] > found["plain"] + 0.03


# ---- Linear models over TF-IDF ----


def test_the_tfidf_network_answers_as_the_sparse_matrix_that_it_was_fitted_on():
    tokens = RANDOM.integers(1, 40, (20, 12)).astype(np.int32)
    tokens[:, 9:] = 0
    counts = tfidf._counts(tokens, np.arange(20), 41, 64)
    idf = RANDOM.uniform(1, 3, 41 + 64)
    weights = RANDOM.normal(size=(41 + 64, 3))
    network = TfidfNet(41, 64, 3)
    with torch.no_grad():
        network.idf.weight.copy_(torch.from_numpy(idf[:, None]).float())
        network.terms.weight.copy_(torch.from_numpy(weights).float())
    expected = tfidf._scaled(counts, idf) @ weights
    assert network(torch.from_numpy(tokens)).detach().numpy() == pytest.approx(expected, abs=1e-4)


# ---- Whole stages ----


@pytest.fixture(scope="module")
def climbed_penguins(penguins, tmp_path_factory):
    base = tmp_path_factory.mktemp("ladder")
    settings = {"spec": {}, "seed": 7, "run_id": "demo-20261123000000-abcdef"}
    ended = run_stage(base / "train", "train", {"curated": penguins.curated}, settings)
    assert ended.status == 0, ended.log
    return ended


def test_penguins_need_no_network(climbed_penguins):
    metrics = climbed_penguins.metrics()
    assert metrics["rung"] == "linear"
    assert metrics["quality"]["test"] >= 0.95
    assert metrics["rungs"][0]["name"] == "linear"


def test_a_linear_model_and_trees_are_compiled_measured_and_packed_as_they_are(penguins, tmp_path):
    settings = {"spec": {"train": {"rungs": ["linear"]}}, "seed": 7, "run_id": "demo-20261123000000-abcdef"}
    curated = {"curated": penguins.curated}
    trained = run_stage(tmp_path / "train", "train", curated, settings)
    assert trained.status == 0, trained.log
    higher = run_stage(tmp_path / "higher", "train", curated, {**settings, "spec": {"train": {"rungs": ["trees"]}}})
    assert higher.status == 0, higher.log
    original = tmp_path / "train/model"
    (original / "rungs").mkdir()
    shutil.copy(tmp_path / "higher/model/original.onnx", original / "rungs/trees.onnx")
    inputs = {**curated, "original": original}
    compressed = run_stage(tmp_path / "compress", "compress", inputs, settings)
    assert compressed.status == 0, compressed.log
    assert {one["name"] for one in compressed.metrics()["candidates"]} == {"original", "trees"}
    assert "no network answers with less" in json.dumps(compressed.metrics()["skipped"])
    compiled = run_stage(
        tmp_path / "compile", "compile", {**inputs, "candidates": tmp_path / "compress/model"}, settings
    )
    assert compiled.status == 0, compiled.log
    found = {one["name"]: one for one in compiled.metrics()["candidates"]}
    assert found["trees"]["status"] in ("measured", "dropped")  # the second: seen to be dominated by a short look
    assert found["original"]["bundle"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_trees_that_are_killed_go_on_from_their_checkpoint_with_the_same_quality(penguins, tmp_path, how):
    """The rows of the penguins, five times over: enough rounds to be killed among them."""
    settings = {"spec": {"train": {"rungs": ["trees"]}}, "seed": 3, "checkpoint_every_s": 0.0}
    whole = run_stage(tmp_path / "whole", "train", {"curated": penguins.curated}, settings)
    assert whole.status == 0, whole.log
    environment = prepare(tmp_path / "killed", "train", {"curated": penguins.curated}, settings)
    command = [sys.executable, str(RUN), "train"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "trees checkpoint at round 20" in line:
            process.send_signal(how)
            break
    process.communicate(timeout=60)
    assert process.returncode != 0
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "go on from the checkpoint at round" in again.stdout
    metrics = json.loads((tmp_path / "killed/model/metrics.json").read_text())
    assert metrics["resumed_at_epoch"] >= 20
    assert metrics["quality"]["test"] == pytest.approx(whole.metrics()["quality"]["test"], abs=0.03)


def test_rungs_that_were_finished_before_the_job_was_interrupted_are_not_fitted_again(penguins, tmp_path):
    settings = {"spec": {"train": {"target": 1.0, "rungs": ["linear", "net"], "epochs": 8}}, "seed": 3}
    environment = prepare(tmp_path / "job", "train", {"curated": penguins.curated}, settings)
    command = [sys.executable, str(RUN), "train"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "net epoch 2/" in line:
            process.kill()
            break
    process.communicate(timeout=60)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "rung linear was finished before the job was interrupted" in again.stdout


# ---- Incremental training ----


@pytest.mark.parametrize("rung", ["net", "trees"])
def test_data_that_grew_starts_from_the_model_before(penguins, tmp_path, rung):
    settings = {"spec": {"train": {"rungs": [rung]}}, "seed": 7}
    first = run_stage(tmp_path / "first", "train", {"curated": penguins.curated}, settings)
    assert first.status == 0, first.log
    inputs = {"curated": penguins.curated, "previous": tmp_path / "first/model"}
    second = run_stage(tmp_path / "second", "train", inputs, settings)
    assert second.status == 0, second.log
    metrics = second.metrics()
    assert metrics["started_from"]
    assert metrics["rungs"][0]["warm"] is True
    assert metrics["quality"]["test"] >= first.metrics()["quality"]["test"] - 0.05
    if rung == "net":
        assert metrics["epochs"] < first.metrics()["epochs"]


def test_a_model_of_other_columns_or_classes_is_not_taken_up_and_the_whole_ladder_is_climbed(
    penguins, housing, tmp_path
):
    settings = {"spec": {"train": {"rungs": ["linear"]}}, "seed": 7}
    inputs = {"curated": penguins.curated, "previous": housing.original}
    ended = run_stage(tmp_path, "train", inputs, settings)
    assert ended.status == 0, ended.log
    assert told_in(ended, "start") == "afresh"
    assert ended.metrics()["started_from"] is None


def told_in(ended, what):
    return next(decision["chosen"] for decision in ended.metrics()["decisions"] if decision["what"] == what)
