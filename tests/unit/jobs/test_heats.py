"""The heat: only what is clearly beaten in every respect drops out before the race."""

import numpy as np
import pytest

from ebb_jobs import heats
from ebb_jobs.heats import Glance


def glance(quality=0.9, single=1.0, batch=10.0, size=100):
    return Glance(quality, single, batch, size)


LEAN = glance(0.9, single=0.5, batch=5.0, size=50)


@pytest.mark.parametrize(
    ("other", "drops"),
    [
        pytest.param(glance(), True, id="slower, larger and no better"),
        pytest.param(glance(0.901), False, id="a little better"),
        pytest.param(glance(size=49), False, id="a little smaller"),
        pytest.param(glance(single=0.7), False, id="nearly as fast alone"),
        pytest.param(glance(batch=7.0), False, id="nearly as fast in batches"),
    ],
)
def test_one_drops_out_when_nothing_speaks_for_it(other, drops):
    out = heats.dominated({"lean": LEAN, "other": other}, frozenset(), {}, "accuracy")
    assert set(out) == ({"other"} if drops else set())


def test_an_error_is_better_when_it_is_less():
    small, large = glance(quality=4.0, single=0.5, batch=5.0), glance(quality=5.0)
    assert set(heats.dominated({"small": small, "large": large}, frozenset(), {}, "rmse")) == {"large"}
    assert not heats.dominated({"small": small, "large": glance(quality=3.0)}, frozenset(), {}, "rmse")


def test_the_forms_of_the_original_stay_whatever_a_student_does():
    assert not heats.dominated({"lean": LEAN, "original": glance()}, frozenset({"original"}), {}, "accuracy")


def test_8_bits_that_are_slower_than_full_precision_drop_out_even_of_the_original():
    given = {"original": glance(), "original-int8-dynamic": glance(single=9.0, batch=90.0, size=30)}
    out = heats.dominated(given, frozenset(given), {"original-int8-dynamic": "original"}, "accuracy")
    assert set(out) == {"original-int8-dynamic"}
    assert "slower in 8 bits than original" in out["original-int8-dynamic"]


def test_two_equals_do_not_drop_each_other():
    assert not heats.dominated({"one": LEAN, "two": LEAN}, frozenset(), {}, "accuracy")


def test_all_take_turns_with_a_row_and_with_a_batch():
    asked = []

    class Noting:
        def __init__(self, name):
            self.name = name

        def run(self, encoded):
            asked.append((self.name, len(encoded)))

    found = heats.times({"one": Noting("one"), "two": Noting("two")}, np.zeros((5, 3)))
    assert {name for name, _ in asked} == {"one", "two"}
    assert {rows for _, rows in asked} == {1, 32}
    assert asked.index(("two", 32)) < len(asked) - 1 - asked[::-1].index(("one", 1))
    assert all(0 <= alone < 1 and 0 <= together < 1 for alone, together in found.values())
