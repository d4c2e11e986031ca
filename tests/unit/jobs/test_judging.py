import threading

import numpy as np
import pytest

from ebb_jobs import judging
from ebb_jobs.dataset import Split

COUNT = 2 * judging.PART_ROWS + 7
TRUTH = np.arange(COUNT) % 2
INPUTS = np.arange(COUNT, dtype=np.float32).reshape(-1, 1)


class Model:
    """Tells odd rows from even ones; of a request of several rows it gets the first wrong."""

    def __init__(self):
        self.threads = set()

    def run(self, encoded):
        self.threads.add(threading.get_ident())
        answers = np.eye(2, dtype=np.float32)[encoded[:, 0].astype(int) % 2]
        return answers if len(encoded) == 1 else np.concatenate([1 - answers[:1], answers[1:]])

    def predict(self, raws):
        raise AssertionError("rows are judged encoded")


@pytest.fixture
def rows():
    split = Split(INPUTS, TRUTH, TRUTH)
    return judging.Rows(split, split, [], None, "accuracy", 7)


def test_several_threads_judge_as_one_does(rows):
    alone, shared = (rows.judge(Model(), at_once=count) for count in (1, 2))
    assert np.array_equal(alone.predicted, shared.predicted)
    assert alone.fields == shared.fields
    parts = -(-COUNT // judging.PART_ROWS)
    assert alone.validation == pytest.approx(1 - parts / COUNT)  # each part's first row: no row moved


def test_one_that_answers_by_itself_is_asked_by_this_thread(rows):
    model = Model()
    rows.judge(model)
    assert model.threads == {threading.get_ident()}


def test_rows_may_be_judged_each_as_a_request_of_its_own(rows):
    assert rows.judge(Model(), alone=True, at_once=2).validation == 1.0
