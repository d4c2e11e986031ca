"""The lessons of smaller networks: who teaches, how long a network goes on learning, and when the next one is tried."""

from functools import partial

import numpy as np
import pytest
import torch

from ebb_jobs import candidates, compress, search
from ebb_jobs.compress import Learned, Workshop
from ebb_jobs.networks import Mlp
from ebb_jobs.report import Report

INPUTS = np.zeros((4, 10), dtype=np.float32)


def network(width: int) -> Mlp:
    return Mlp(10, [width, width], 3)


class Scripted(Workshop):
    """A workshop whose lessons bring what the test says: for each width the bounds after its lessons, in order."""

    def __init__(self, bounds: dict[int, list[float]], *, control: float = 0.8, budget_s: float = 1e6) -> None:
        self.metric, self.max_drop, self.seed = "accuracy", 0.01, 7
        self.trained = {"quality": {"validation": 0.95}}
        self.report = Report("compress")
        self.search = search.Search(search.Budget(budget_s), Mlp(10, [256] * 3, 3), INPUTS)
        self.lessons = {"distilled": None, "labels only": None}
        self.teacher = self.codec = None
        self.training = type("Split", (), {"inputs": INPUTS})
        self.kind = type("Kind", (), {"students": lambda *_: [partial(network, width) for width in bounds]})
        self.bounds, self.control, self.learned = bounds, control, []

    def _learn(self, lesson, make, name, option, *, steps=None, pace=(), number=1):
        made = make()
        self.learned.append((name, pace))
        found = self.control if lesson == "labels only" else 0.9
        return Learned(made, made, found, (0.5, found), 1.0, "learned to its end")

    def _may_lose(self, made):
        return self.bounds[made.sizes[1]].pop(0)

    def _best(self, what, tried):
        return min(tried, key=lambda one: one[0])[2]

    @property
    def names(self):
        return [name for name, _ in self.learned]


def test_the_control_keeps_the_pace_of_the_taught_one():
    shop = Scripted({16: [0.005]})
    _, chain = shop.student()
    assert shop.learned == [("student-1-distilled", ()), ("student-1-labels", (0.5, 0.9))]
    assert chain == ["distill"]


def test_labels_alone_teach_where_they_teach_better():
    shop = Scripted({16: [0.03], 32: [0.005]}, control=0.93)
    _, chain = shop.student()
    assert chain == ["shrink"]
    assert shop.names[-1] == "student-2-labels"


def test_a_network_that_nearly_holds_the_floor_learns_on_before_a_larger_one_is_tried():
    shop = Scripted({16: [0.013, 0.011, 0.009], 32: []})
    best, _ = shop.student()
    assert best.sizes[1] == 16
    assert shop.names[2:] == ["student-1-distilled-2", "student-1-distilled-3"]
    assert shop.search.options[1].status == "dropped"


def test_a_lesson_that_brings_nothing_is_the_last_and_its_outcome_is_dropped():
    shop = Scripted({16: [0.013, 0.014], 32: [0.002]})
    best, _ = shop.student()
    assert best.sizes[1] == 32
    assert shop.search.options[0].reason.startswith("may lose 0.0130")


def test_a_network_far_from_the_floor_gets_no_further_lesson():
    shop = Scripted({16: [0.05], 32: [0.002]})
    shop.student()
    assert shop.names == ["student-1-distilled", "student-1-labels", "student-2-distilled"]


def test_lessons_end_with_their_number_and_with_the_budget():
    bounds = [0.019 - each / 1000 for each in range(8)]
    shop = Scripted({16: list(bounds)})
    shop.student()
    assert len(shop.names) == 2 + compress.MOST_LESSONS - 1
    short = Scripted({16: list(bounds)}, budget_s=1e6)
    short.search.budget.cpu_s = short.search.budget.cpu_s - short.search.budget.left_s + 0.5
    short.student()
    assert short.names == ["student-1-distilled", "student-1-labels"]


@pytest.mark.parametrize(("left", "holds"), [(5.0, True), (0.5, False)])
def test_a_step_is_taken_when_the_budget_holds_it(monkeypatch, left, holds):
    looking = search.Search(search.Budget(10.0, begun=0.0), network(64), INPUTS)
    monkeypatch.setattr(search, "cpu_seconds", lambda: 10.0 - left)
    assert looking.holds(1.0) is holds


def test_a_lesson_weighs_the_originals_answers_and_the_labels():
    taught, rows = torch.tensor([[2.0, 0.0, -2.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1])

    def hard(outputs, rows):
        return torch.tensor(5.0)

    def loss(outputs, temperature=2.0, soft_share=0.7):
        return float(compress.distillation_loss(taught, hard, temperature, soft_share)(outputs, rows))

    assert loss(taught) == pytest.approx(0.3 * 5)
    assert loss(taught, soft_share=1.0) == pytest.approx(0, abs=1e-6)
    assert loss(torch.zeros(2, 3), soft_share=0.0) == pytest.approx(5)
    # The same right answer with the others in another order: the softer, the more that is a fault.
    swapped = torch.tensor([[2.0, -2.0, 0.0], [0.0, 1.0, 0.0]])
    assert loss(swapped, 4.0, 1.0) > loss(swapped, 1.0, 1.0)


def test_fewer_rows_prove_and_calibrate_where_each_is_much_work(monkeypatch, tmp_path):
    rows = np.arange(4000, dtype=np.float32).reshape(400, 10)
    assert len(candidates.affordable(network(16), rows, 300)) == 300
    monkeypatch.setattr(candidates, "MOST_WORK", 200 * search.Work.of(network(16), rows).multiplications)
    picked = candidates.affordable(network(16), rows, 300)
    assert (len(picked), picked[0, 0], picked[-1, 0]) == (200, rows[0, 0], rows[-1, 0])
    monkeypatch.setattr(candidates, "MOST_WORK", 1.0)
    assert len(candidates.affordable(network(16), rows, 300)) == candidates.LEAST_ROWS
    assert len(candidates.affordable(tmp_path, rows, 300)) == 300
    assert len(candidates.affordable(network(16), rows[:0], 300)) == 0
