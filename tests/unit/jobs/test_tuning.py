"""The search over a recipe's knobs: what is proposed, what ends early, when it stops, and what is taken."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from ebb_jobs import fitting, gradient, knobs, ladder, networks, paths, trees, trials, tuning, tuning_search
from ebb_jobs.errors import JobError, StoppedError
from ebb_jobs.knobs import Knob
from ebb_jobs.tuning_search import FAILED, FINISHED, PRUNED, Limits, Trial
from unit.jobs.test_ladder import CORNERS, EVERY, ROWS, lesson

SPACE = (
    Knob("rate", (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)),
    Knob("depth", (1, 2, 3, 4), usual=2),
)


def hill(turned, seen):
    """A score that is best at rate 4 and depth 3, and looks so from the first step on."""
    off = abs(turned["rate"] / 4 - 1) if turned["rate"] < 4 else abs(4 / turned["rate"] - 1)
    score = 1 - 0.5 * off - 0.1 * abs(turned["depth"] - 3)
    for step in range(1, 13):
        seen(step, score * step / 12)
    return score


def trial(number, score, status=FINISHED, **more):
    return Trial(number, {"rate": 1.0, "depth": 2}, status, score, 1.0, 1.0, **more)


def scores(*values):
    return [trial(number, value) for number, value in enumerate(values)]


def cut(count):
    """So many fits that were ended early."""
    return [trial(number, 0.9, PRUNED) for number in range(count)]


def test_a_search_starts_with_the_recipe_as_it_is_and_never_answers_with_less():
    found = tuning_search.search(SPACE, hill, Limits(trials=25, patience=99), seed=3)
    assert found.trials[0].turned == {"rate": 1.0, "depth": 2}
    assert found.best.score > found.trials[0].score
    assert 2 < found.best.turned["rate"] < 8


def test_fits_that_are_behind_end_early_and_most_do():
    found = tuning_search.search(SPACE, hill, Limits(trials=25, patience=99), seed=3)
    pruned = [one for one in found.trials if one.status == PRUNED]
    assert len(pruned) > len(found.trials) / 2
    assert all(one.looks < 12 for one in pruned)
    assert sum(one.looks for one in found.trials) < 0.5 * 12 * len(found.trials)


def test_of_some_proposals_the_cheapest_is_fitted():
    limits = Limits(trials=16, patience=99)

    def depths(cost):
        space = (SPACE[0], replace(SPACE[1], cost=cost))
        found = tuning_search.search(space, lambda turned, seen: 0.5, limits, seed=4)
        return [one.turned["depth"] for one in found.trials[1:]]

    assert sum(depths(3.0)) < sum(depths(0.0)) < sum(depths(-3.0))


def test_the_same_seed_proposes_the_same():
    first, second = (tuning_search.search(SPACE, hill, Limits(trials=8), seed=5) for _ in range(2))
    assert [one.turned for one in first.trials] == [one.turned for one in second.trials]


@pytest.mark.parametrize(
    ("trials", "limits", "elapsed_s", "stop"),
    [
        pytest.param([], Limits(), 0, None, id="it has not begun"),
        pytest.param(scores(0.5, 0.4, 0.4), Limits(patience=9), 0, None, id="two finished ones are not enough"),
        pytest.param(scores(0.5, 0.4, 0.4, 0.4), Limits(patience=9), 0, "plateau", id="three that kept up and lost"),
        pytest.param(scores(0.5) + cut(8), Limits(patience=9), 0, None, id="what ends early counts a third of that"),
        pytest.param(scores(0.5) + cut(9), Limits(patience=9), 0, "plateau", id="so many ended early"),
        pytest.param(scores(0.5, 0.4, 0.6) + cut(6), Limits(patience=9), 0, None, id="one of the last was better"),
        pytest.param(
            scores(0.5, 0.501) + cut(6), Limits(patience=9, chance=0.01), 0, "plateau", id="no more than chance"
        ),
        pytest.param(
            scores(0.5, *(0.5 + 0.004 * n for n in range(1, 6))), Limits(patience=9, chance=0.01), 0, None,
            id="small gains that add up",
        ),
        pytest.param(scores(0.5, 0.5), Limits(trials=2), 0, "trials", id="as many as may be"),
        pytest.param(scores(0.5), Limits(budget_s=10), 11, "budget", id="the time is used"),
        pytest.param(scores(0.5, 0.9), Limits(target=0.9), 0, "target", id="the target is reached"),
        pytest.param(scores(0.5) + [trial(0, None, FAILED)] * 9, Limits(), 0, None, id="failures prove nothing"),
    ],
)  # fmt: skip
def test_a_search_ends_by_what_it_sees_of_itself(trials, limits, elapsed_s, stop):
    ended = tuning_search._ended(trials, limits, elapsed_s)
    assert (ended and ended[0]) == stop


def test_what_fails_is_told_and_the_search_goes_on():
    def fails_when_deep(turned, seen):
        if turned["depth"] > 2:
            raise JobError("too deep")
        return hill(turned, seen)

    found = tuning_search.search(SPACE, fails_when_deep, Limits(trials=12, patience=99), seed=1)
    failed = [one for one in found.trials if one.status == FAILED]
    assert failed
    assert {one.reason for one in failed} == {"too deep"}
    assert found.best.turned["depth"] <= 2


def test_known_trials_are_not_fitted_again_and_count_for_what_comes():
    asked = []

    def counted(turned, seen):
        asked.append(turned)
        return hill(turned, seen)

    whole = tuning_search.search(SPACE, hill, Limits(trials=10, patience=99), seed=2)
    found = tuning_search.search(SPACE, counted, Limits(trials=10, patience=99), seed=2, known=whole.trials[:6])
    assert len(asked) == 4
    assert found.trials[:6] == whole.trials[:6]
    assert [one.number for one in found.trials] == list(range(10))
    assert any(one.status == PRUNED for one in found.trials[6:]), "they are compared with the known ones"


def better(best, turned, seen):
    """Going on gains, and looks bad on the way."""
    seen(1, -9.0)
    return best.score + 0.25


def test_in_the_end_the_best_goes_on_at_the_highest_rate():
    found = tuning_search.search(SPACE, hill, Limits(trials=12, patience=99), seed=3, go_on=better)
    plain = tuning_search.search(SPACE, hill, Limits(trials=11, patience=99), seed=3)
    assert found.trials[:11] == [
        replace(one, cpu_seconds=two.cpu_seconds, seconds=two.seconds)
        for one, two in zip(plain.trials, found.trials, strict=False)
    ], "it changes nothing of the search"
    last = found.trials[-1]
    assert (len(found.trials), last.origin, last.status) == (12, plain.best.number, FINISHED)
    assert last.turned == {**plain.best.turned, "rate": 16.0}
    assert found.best is last


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(target=0.3), id="the target is reached"),
        pytest.param(Limits(budget_s=0.0), id="the time is used"),
    ],
)
def test_nothing_goes_on_where_a_search_has_no_reason_or_no_time_to(limits):
    found = tuning_search.search(SPACE, hill, limits, seed=3, known=scores(0.5), go_on=better)
    assert [one.origin for one in found.trials] == [None]


def test_what_has_gone_on_is_no_measure_for_fits_from_the_beginning_and_does_not_go_on_twice():
    known = [*scores(0.5), replace(trial(1, 0.9), origin=0, curve=[(step, 0.9) for step in range(1, 13)])]
    found = tuning_search.search(SPACE, hill, Limits(trials=9, patience=99), seed=3, known=known, go_on=better)
    assert [one.number for one in found.trials if one.origin is not None] == [1]
    assert any(one.status == FINISHED for one in found.trials[2:])


def test_a_stopped_job_ends_the_search():
    def stopped(turned, seen):
        raise StoppedError("stopped by SIGTERM")

    with pytest.raises(StoppedError):
        tuning_search.search(SPACE, stopped, Limits(), seed=1)


# ---- in a training job ----

SPACIOUS = (knobs.RATE, knobs.WIDTH, replace(knobs.DEPTH, usual=1))


def net():
    def make(turned):
        width = round(8 * knobs.of(turned, knobs.WIDTH))
        return networks.Mlp(ROWS.shape[1], [width] * round(turned.get("depth", 1)), 2)

    return gradient.rung("net", make, SPACIOUS)


def tuned(folder, rung, wanted=None, **more):
    given = lesson(folder, **more)
    climbed = ladder.climb([rung], given)
    return given, climbed, tuning.tune(climbed, given, wanted or {"trials": 6})


def test_a_tuned_network_takes_the_place_of_its_own_recipe(tmp_path, monkeypatch):
    # What steps of a tiny network take decides by chance otherwise, and with it what each fit reaches.
    monkeypatch.setattr(fitting, "bf16_pays", lambda *_: (False, "not asked here", None))
    given, before, after = tuned(tmp_path, net(), {"trials": 10})
    told = given.report.fields["tuning"]
    assert [one["number"] for one in told["trials"]] == list(range(10)) or told["stop"] == "plateau"
    assert told["usual"] == pytest.approx(before.best.fields["quality"]["validation"], abs=1e-6)
    assert told["taken"]
    assert after.best.fields["quality"]["validation"] == pytest.approx(told["best"]["validation"], abs=1e-6)
    assert after.best.fields["quality"]["validation"] > before.best.fields["quality"]["validation"]
    assert after.best.fields["tuned"] == told["best"]["knobs"]
    assert after.best.fitted.model.describe() == after.best.fields["described"]
    assert [one for one in after.climbed if one is after.best], "it stands in the ladder"
    assert sum(one["cpu_seconds"] for one in told["trials"][1:]) <= told["cpu_seconds"] + 0.1
    assert any(
        decision["what"] == "tuning" and "knobs" not in decision["chosen"] for decision in given.report.decisions
    )


def test_a_network_goes_on_from_the_weights_of_the_best_fit(tmp_path, monkeypatch):
    started, found = [], gradient._started_from
    monkeypatch.setattr(gradient, "_started_from", lambda *given: started.append(found(*given)) or started[-1])
    given, before, _ = tuned(tmp_path, net(), {"trials": 2})
    first, last = given.report.fields["tuning"]["trials"]
    assert last["goes_on_from"] == 0
    assert last["knobs"]["rate"] == max(knobs.RATE.levels)
    kept = networks.load(tmp_path / "tuning/before/original.safetensors").state_dict()
    for name, value in before.best.fitted.model.network.state_dict().items():
        assert torch.equal(kept[name], value), name
    assert "goes_on_from" not in first
    assert started == [False, True]


def test_trees_have_knobs_of_their_own(tmp_path):
    given, _, after = tuned(tmp_path, trees.rung(EVERY), {"trials": 4}, targets=CORNERS)
    told = given.report.fields["tuning"]
    assert set(told["best"]["knobs"]) == {knob.name for knob in knobs.TREES}
    assert after.best.rung.name == "trees"


def test_knobs_of_trees_move_what_they_name():
    plain = trees.settings(10_000, 3, "accuracy", 1, 1)
    turned = trees.turn(plain, {"rate": 2, "leaves": 0.5, "child": 4, "penalty": 10, "columns": 1.4})
    assert turned["learning_rate"] == 2 * plain["learning_rate"]
    assert turned["num_leaves"] == round(plain["num_leaves"] / 2)
    assert turned["min_data_in_leaf"] == 4 * plain["min_data_in_leaf"]
    assert turned["lambda_l2"] == 10 * plain["lambda_l2"]
    assert turned["feature_fraction"] == pytest.approx(0.98)
    assert trees.turn(plain, {}) == plain


def test_a_rung_without_knobs_is_left_as_it_is(tmp_path):
    rung = replace(net(), knobs=(), turned=None)
    given, before, after = tuned(tmp_path, rung)
    assert after is before
    assert "tuning" not in given.report.fields


def test_an_interrupted_search_goes_on_with_what_it_knows(tmp_path, capsys):
    given, _, first = tuned(tmp_path, net(), {"trials": 4})
    once = given.report.fields["tuning"]
    again, _, second = tuned(tmp_path, net(), {"trials": 6})
    twice = again.report.fields["tuning"]
    assert twice["trials"][1:4] == once["trials"][1:4], "those of before stand, their cost as well"
    assert "tuning goes on after 4 fits" in capsys.readouterr().out
    assert second.best.fields["quality"]["validation"] >= first.best.fields["quality"]["validation"]
    (tmp_path / "tuning" / tuning.STUDY).write_text("{")
    tuned(tmp_path, net(), {"trials": 3})
    assert "tuning starts afresh" in capsys.readouterr().out


def test_a_study_of_other_data_is_not_taken_up(tmp_path):
    tuned(tmp_path, net(), {"trials": 3})
    given, *_ = tuned(tmp_path, net(), {"trials": 3}, fingerprint="other rows")
    stored = json.loads((tmp_path / "tuning" / tuning.STUDY).read_text())
    assert len(stored["trials"]) == 2, "beside the recipe's own"
    assert len(given.report.fields["tuning"]["trials"]) == 3


def test_a_trial_survives_its_file():
    one = trial(3, 0.5, curve=[(1, 0.25), (2, 0.5)])
    stored = json.loads(json.dumps(asdict(one)))
    assert Trial(**{**stored, "curve": [tuple(point) for point in stored["curve"]]}) == one


def test_without_a_search_nothing_of_it_is_loaded():
    code = "import sys, ebb_jobs.train; print([name for name in ('optuna', 'ebb_jobs.tuning') if name in sys.modules])"
    jobs = str(Path(tuning.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": jobs}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- as a trial of a SageMaker tuning job ----

LADDER = [
    ladder.Rung("linear", ladder.LINEAR, None, None),
    trees.rung(EVERY),
    net(),
]


def test_a_trial_fits_the_linear_recipe_and_the_proposed_one_with_its_knobs():
    chosen = trials.choose(LADDER, {"rung": "net", "rate": "0.5", "leaves": "2"})
    assert [rung.name for rung in chosen] == ["linear", "net"]
    assert chosen[0] is LADDER[0]
    assert chosen[1].fit.keywords["turned"] == {"rate": 0.5}, "knobs of other recipes are not its own"
    with pytest.raises(JobError, match="'encoder'"):
        trials.choose(LADDER, {"rung": "encoder"})


def test_without_a_proposed_recipe_all_are_climbed_each_with_the_knobs_that_it_has():
    chosen = trials.choose(LADDER, {"rate": "0.5", "leaves": "2"})
    assert [rung.name for rung in chosen] == ["linear", "trees", "net"]
    assert chosen[1].fit.keywords["turned"] == {"rate": 0.5, "leaves": 2.0}


def test_a_trial_of_one_network_tells_each_look_and_no_other_does(capsys):
    trials.watching(LADDER[::2])(1, 0.25)
    trials.watching(LADDER[:2])(1, 0.5)
    trials.watching(LADDER)(1, 0.75)
    assert capsys.readouterr().out == "ebb objective 0.25\n"


def test_the_objective_is_more_where_the_model_is_better(capsys):
    trials.objective("accuracy", 0.9)
    trials.objective("rmse", 12.5)
    assert capsys.readouterr().out.split() == ["ebb", "objective", "0.9", "ebb", "objective", "-12.5"]


def test_a_script_gets_numbers_as_numbers():
    proposed = {"lr": "0.01", "layers": "3", "act": "relu", "bias": "true", "name": "[1]"}
    assert trials.typed(proposed) == {"lr": 0.01, "layers": 3, "act": "relu", "bias": True, "name": "[1]"}


def test_what_a_tuning_job_proposes_is_all_but_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    assert paths.proposed() == {}
    (tmp_path / "input/config").mkdir(parents=True)
    given = {"settings": "{}", "rate": "0.5", "_tuning_objective_metric": "objective"}
    (tmp_path / "input/config/hyperparameters.json").write_text(json.dumps(given))
    assert paths.proposed() == {"rate": "0.5"}
