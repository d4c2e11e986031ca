"""The search: the leanest network first, the dominated ones never trained, and a budget that ends it."""

from functools import partial

import numpy as np
import pytest

from ebb_jobs import search
from ebb_jobs.networks import Mlp
from ebb_jobs.search import Budget, DroppedError, Search, Work

INPUTS = np.zeros((4, 10), dtype=np.float32)


def widths(*hidden: int) -> list[partial]:
    return [partial(Mlp, 10, [width, width], 3) for width in hidden]


@pytest.fixture
def looking() -> Search:
    return Search(Budget(1e6), Mlp(10, [256] * 3, 3), INPUTS)


def test_work_is_counted_by_hand():
    assert Work.of(Mlp(10, [20, 20], 3), INPUTS) == Work(10 * 20 + 20 * 20 + 20 * 3, 3)


def test_the_leanest_network_comes_first(looking):
    options = looking.add("distill", ["wide", "narrow"], widths(64, 16), INPUTS)
    assert [option.name for option in options] == ["narrow", "wide"]


def test_what_works_more_than_one_that_holds_the_floor_is_dropped_untrained(looking):
    narrow, wide = looking.add("distill", ["narrow", "wide"], widths(16, 64), INPUTS)
    assert looking.trained(narrow, may_lose=0.004, most=0.01, numbers={})
    with pytest.raises(DroppedError, match="holds the floor"):
        looking.admit(wide)
    assert wide.as_dict()["status"] == "dropped"


def test_what_works_more_than_the_original_is_not_trained():
    looking = Search(Budget(1e6), Mlp(10, [], 3), INPUTS)
    (option,) = looking.add("distill", ["student"], widths(16), INPUTS)
    with pytest.raises(DroppedError, match="the original"):
        looking.admit(option)


def test_what_works_more_is_tried_while_nothing_holds_the_floor(looking):
    narrow, wide = looking.add("distill", ["narrow", "wide"], widths(16, 64), INPUTS)
    assert not looking.trained(narrow, may_lose=0.02, most=0.01, numbers={})
    looking.admit(wide)
    assert wide.status == "waiting"


def test_fewer_layers_may_be_faster_with_more_multiplications(looking):
    deep = Work(1000, 9)
    assert not Work(1500, 3).loses_to(deep)
    assert Work(1500, 9).loses_to(deep)
    assert not Work(1100, 9).loses_to(deep)


def test_a_used_budget_is_told_with_its_size(monkeypatch):
    looking = Search(Budget(30.0, begun=0.0), Mlp(10, [256] * 3, 3), INPUTS)
    monkeypatch.setattr(search, "cpu_seconds", lambda: 31.0)
    (option,) = looking.add("distill", ["narrow"], widths(16), INPUTS)
    with pytest.raises(DroppedError, match="budget of 30 CPU seconds"):
        looking.admit(option)


@pytest.mark.parametrize(
    ("asked", "fit", "allowed"),
    [
        pytest.param(90.0, 1000.0, 90.0, id="what the spec allows"),
        pytest.param(None, 100.0, 400.0, id="four trainings of the original"),
        pytest.param(None, 2.0, 60.0, id="a minute at least"),
    ],
)
def test_the_budget(asked, fit, allowed):
    assert Budget.of(asked, fit).cpu_s == allowed
