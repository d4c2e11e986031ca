"""What makes training cheaper: that each lever does what it says, can be switched, and is told with what it gave."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ebb_jobs import fitting, growing, image, image_networks, ladder, levers, networks, train
from ebb_jobs.dataset import Split
from ebb_jobs.errors import JobError
from ebb_jobs.kinds.image import KIND
from ebb_jobs.report import Report

SHAPE = {"height": 28, "width": 28, "channels": 1}
RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 255, (48, 28, 28, 1), dtype=np.uint8)
LABELS = torch.from_numpy(RANDOM.integers(0, 2, 48))
GROWTH = ((0.0, 0.5), (0.5, 1.0))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def loss(outputs, rows):
    return functional.cross_entropy(outputs, LABELS[rows])


def small_net():
    torch.manual_seed(0)
    return image_networks.ConvNet(SHAPE, 8, 2, [[[8, 8]]], 2)


def fit(network, evaluate=lambda _: 0.5, **recipe):
    """Train two epochs of four steps."""
    planned = {"epochs": 2, "batch_size": 12, **recipe}
    return fitting.fit(network, PICTURES, loss, evaluate, fitting.Recipe("accuracy", **planned))


def sides_seen(network):
    """Return the sides of the pictures that a network is trained with, filled as it is."""
    seen: list[int] = []
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]) if module.training else None)
    return seen


# ---- Pictures that grow ----


def test_pictures_grow_with_the_plan_and_end_at_full_size():
    network = small_net()
    seen = sides_seen(network)
    fit(network, growth=GROWTH)
    assert seen[-8:] == [14] * 4 + [28] * 4


def test_without_growth_every_step_sees_the_full_size():
    network = small_net()
    seen = sides_seen(network)
    fit(network)
    assert set(seen) == {28}


def test_a_network_that_sees_smaller_pictures_is_not_given_up():
    late = ((0.0, 0.5), (0.9, 1.0))
    judged = {"rival": 0.99, "epochs": 12, "batch_size": 48}
    assert fit(small_net(), growth=late, **judged).epochs == 11
    assert fit(small_net(), **judged).epochs == 6


@pytest.mark.parametrize(("done", "side"), [(0.0, 0.5), (0.29, 0.5), (0.3, 0.75), (0.6, 1.0), (1.0, 1.0)])
def test_the_size_follows_what_is_done_of_the_plan(done, side):
    assert growing.share(((0.0, 0.5), (0.3, 0.75), (0.6, 1.0)), done) == side


def test_a_smaller_picture_is_the_mean_of_its_places():
    stripes = torch.zeros(1, 28, 28, 1, dtype=torch.uint8)
    stripes[:, :, 1::2] = 200
    found = growing.smaller(stripes, 0.5)
    assert found.shape == (1, 14, 14, 1)
    assert found[0, 7, 7, 0].item() == pytest.approx(100, abs=1)
    assert growing.smaller(stripes, 1.0) is stripes


def test_tiny_pictures_are_left_as_they_are():
    tiny = torch.zeros(1, 12, 12, 1, dtype=torch.uint8)
    assert growing.smaller(tiny, 0.5) is tiny


def test_what_growth_saves_is_the_area_that_is_not_seen():
    # half of the plan at a quarter of the area: 0.5 * (1 - 0.25)
    assert growing.saved(GROWTH) == pytest.approx(0.375)
    assert growing.saved(()) == 0


def test_only_networks_that_take_any_size_are_given_smaller_pictures():
    plain = image_networks.PlainNet(SHAPE, [8], [2], 2)
    assert small_net().any_size
    assert not plain.any_size
    assert not networks.Mlp(4, [4], 2).any_size


# ---- The rate, the layout, the averaged weights ----


def rates(monkeypatch, **recipe):
    found = []
    step = torch.optim.AdamW.step

    def noting(self, *given, **named):
        found.append(self.param_groups[0]["lr"])
        return step(self, *given, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    fit(small_net(), peak_rate=1e-3, **recipe)
    return found


def test_the_rate_rises_and_falls_or_stays(monkeypatch):
    cycle = rates(monkeypatch)
    assert max(cycle) > 3 * cycle[0]
    assert cycle[-1] < cycle[len(cycle) // 2] / 3
    assert set(rates(monkeypatch, one_cycle=False)) == {1e-3}


@pytest.mark.parametrize("channels_last", [True, False])
def test_maps_lie_as_the_recipe_says_and_nothing_is_left_of_it(channels_last):
    network = small_net()
    layouts = set()
    network.stem.register_forward_hook(
        lambda module, _, maps: layouts.add(maps.is_contiguous()) if module.training else None
    )
    fit(network, channels_last=channels_last)
    assert layouts == {not channels_last}
    assert not network.stem._forward_pre_hooks


def test_averaged_weights_are_judged_and_kept():
    judged = []

    def evaluate(network):
        judged.append(network.head.weight.detach().clone())
        return 0.5

    plain, averaged = small_net(), small_net()
    fit(plain, peak_rate=1e-2)
    fit(averaged, evaluate, peak_rate=1e-2, averaging=0.9)
    assert torch.equal(averaged.head.weight, judged[-1])
    assert not torch.equal(averaged.head.weight, plain.head.weight)
    before = small_net().head.weight
    assert (averaged.head.weight - before).norm() < (plain.head.weight - before).norm()  # a mean lags behind


def test_a_mean_of_weights_moves_by_the_share_that_does_not_stay():
    mean, now = networks.Mlp(2, [], 2), networks.Mlp(2, [], 2)
    with torch.no_grad():
        mean.layers[0].weight.fill_(1.0)
        now.layers[0].weight.fill_(3.0)
    fitting._average(mean, now, 0.75)
    assert mean.layers[0].weight.unique().tolist() == [1.5]


def test_a_run_with_averaged_weights_goes_on_from_its_checkpoint_as_if_never_stopped(tmp_path):
    def whole(network, checkpoint, stop_at=None):
        looks = 0

        def evaluate(_):
            nonlocal looks
            looks += 1
            if looks == stop_at:
                raise KeyboardInterrupt
            return 0.5

        recipe = fitting.Recipe("accuracy", 2, 12, averaging=0.9, peak_rate=1e-2)
        fitting.fit(network, PICTURES, loss, evaluate, recipe, checkpoint=checkpoint, checkpoint_every_s=0.0)
        return network.head.weight

    uninterrupted = whole(small_net(), tmp_path / "a.pt")
    with pytest.raises(KeyboardInterrupt):
        whole(small_net(), tmp_path / "b.pt", stop_at=2)
    assert torch.equal(whole(small_net(), tmp_path / "b.pt"), uninterrupted)


def test_smoothing_spreads_a_share_of_the_certainty_over_all_classes():
    rows = Split(np.zeros((1, 1), np.float32), np.array([0]), np.array(["a"]))
    shares, outputs = np.array([0.5, 0.5]), torch.tensor([[2.0, 0.0]])
    hard = train.hard_loss(rows, shares, "accuracy")(outputs, torch.tensor([0])).item()
    soft = train.hard_loss(rows, shares, "accuracy", smoothing=0.1)(outputs, torch.tensor([0])).item()
    # -log p is 0.126928 for the first class and 2.126928 for the second; each class gets 0.05 of the certainty
    assert hard == pytest.approx(0.126928, abs=1e-5)
    assert soft == pytest.approx(0.95 * 0.126928 + 0.05 * 2.126928, abs=1e-5)


# ---- Which are used, and what they gave ----


def facts(**given):
    plain = {
        "image": True, "mapped_bytes": 8_000_000, "small_batch": True, "bf16_gain": 2.0, "precision": "bfloat16",
        "growth": GROWTH, "planned": 10, "done": 8, "stop": "target", "cpu_s": 40.0, "warm_share": None,
    }  # fmt: skip
    return levers.Facts(**{**plain, **given})


def told(**given):
    return {each["name"]: each for each in levers.told(levers.Levers(), facts(**given))}


def test_what_a_run_can_measure_is_told_from_the_run():
    found = told()
    assert found["bf16"]["gave"] == "a step takes 50% of the time that fp32 takes"
    assert found["bf16"]["from"] == "timed in this run"
    assert found["8-bit pixels"]["gave"] == "8 MB are mapped from disk, as numbers they would fill 32 MB"
    assert found["growing pictures"]["gave"].startswith("38% fewer multiplications")
    assert found["early stop: target"]["gave"] == "2 of 10 epochs were not needed, some 10 CPU-seconds"


def test_what_a_run_cannot_measure_is_told_from_the_benchmark_with_its_source(monkeypatch):
    assert levers.SHARES.keys() <= told().keys()
    monkeypatch.setattr(levers, "SHARES", {"channels last": "a third less"})
    found = told()
    assert found["channels last"] == {"name": "channels last", "gave": "a third less", "from": levers.SOURCE}
    assert "one-cycle rate" not in found  # nothing is known of it here


def test_what_was_not_used_is_not_told():
    found = told(precision="float32", growth=(), done=10, image=False, mapped_bytes=None, small_batch=False)
    assert (
        not {
            "small batch, high rate",
            "8-bit pixels",
            "bf16",
            "growing pictures",
            "channels last",
            "early stop: target",
        }
        & found.keys()
    )


@pytest.mark.parametrize(("rows", "batch", "rate"), [(9_999, 64, 2e-3), (12_000, 64, 4e-3), (120_000, 128, 4e-3)])
def test_of_many_pictures_the_small_network_learns_in_small_batches_at_a_students_rate(monkeypatch, rows, batch, rate):
    recipes = []

    def noting(network, inputs, loss, evaluate, recipe, **_):
        recipes.append(recipe)
        return fitting.Outcome(0.9, 1, 1, 1, "completed", "", [[1.0, 0.9]], None, 1.0, [1.0])

    monkeypatch.setattr(fitting, "fit", noting)
    inputs = np.broadcast_to(np.zeros((1, 28, 28, 1), np.uint8), (rows, 28, 28, 1))
    training = Split(inputs, np.zeros(rows, np.int64), np.array(["a"]))
    codec = image.ImageCodec({"input": SHAPE, "target": {"classes": ["a", "b"]}})
    lesson = ladder.Lesson(
        training, training, codec, ["a", "b"], KIND.recipe, KIND.augment, "accuracy", loss, None, lambda *_: ((), ()),
        {}, 7, Path("none"), 20.0, "", Report("train"), precision="float32",
    )  # fmt: skip
    KIND.rungs(codec, training)[0].fit(lesson)
    assert (recipes[0].batch_size, recipes[0].peak_rate) == (batch, rate)


def test_levers_are_set_by_name_and_others_are_refused():
    set_otherwise = levers.chosen(levers.Levers(), {"bf16": False, "growing": [[0, 0.5]]})
    assert (set_otherwise.bf16, set_otherwise.growing, set_otherwise.channels_last) == (False, ((0.0, 0.5),), True)
    with pytest.raises(JobError, match="no 'fp16'"):
        levers.chosen(levers.Levers(), {"fp16": True})
