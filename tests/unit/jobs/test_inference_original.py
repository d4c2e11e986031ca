"""What the originals of the inference benchmark learn from, and by which recipe."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import inference_train

from ebb_jobs.kinds.image import SHIFT


@pytest.fixture(scope="module")
def clothes():
    return inference_train._kind("image", Path())


def test_half_of_the_pictures_are_mirrored_and_keep_their_pixels(clothes):
    spot = torch.zeros((400, 28, 28, 1), dtype=torch.uint8)
    spot[:, 14, 22] = 255
    varied = clothes.augment(spot, torch.Generator().manual_seed(0))
    assert varied.dtype == torch.uint8
    assert (varied.flatten(1).sum(1) == 255).all()
    columns = varied.flatten(1).argmax(1) % 28
    reach = round(28 * SHIFT)
    as_they_were = (columns - 22).abs() <= reach
    mirrored = (columns - 5).abs() <= reach
    assert (as_they_were ^ mirrored).all()
    assert 160 < int(mirrored.sum()) < 240


def test_the_chance_of_a_mirror_is_all_in_the_generator(clothes):
    batch = torch.randint(0, 255, (16, 28, 28, 1), dtype=torch.uint8)
    one, same, other = (clothes.augment(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_last_part_of_the_plan_sees_whole_pictures(clothes):
    begins, side = clothes.recipe.levers.growing[-1]
    assert side == 1.0
    assert begins < 0.85  # of the plan: what is judged and raced are whole pictures
