import time

import numpy as np
import pytest

from ebb_jobs import measure


def contender(name, *, single_s, batch_s, cpu_s):
    return measure.Contender(
        name, None, single_s=[single_s], batch_s=[batch_s], end_to_end_s=[single_s], end_to_end_cpu_s=[cpu_s]
    )


def test_the_original_is_compared_by_its_best_form_for_each_figure():
    # Two threads answer a row 10 % sooner and burn twice the CPU for it; one thread does more rows in a second.
    one = contender("1 thread", single_s=0.0010, batch_s=0.002, cpu_s=0.001)
    two = contender("2 threads", single_s=0.0009, batch_s=0.004, cpu_s=0.002)
    figures, chosen = measure.best_figures([one, two])
    assert figures["latency_ms"]["p50"] == 0.9
    assert figures["cpu_ms_per_prediction"] == 1.0
    assert figures["throughput_rows_per_s"] == 16_000
    assert chosen == {"latency": "2 threads", "throughput": "1 thread", "energy": "1 thread"}


def test_slow_networks_answer_less_often_and_fast_ones_as_often_as_planned():
    assert measure.Turn.within(60, turn_s=5) == measure.Turn()
    slow = measure.Turn.within(60, turn_s=100)
    assert (slow.singles, slow.end_to_end) == (measure.SINGLE_ROWS // 10, measure.END_TO_END_ROWS // 10)
    least = measure.LEAST
    assert measure.Turn.within(60, turn_s=1e6) == measure.Turn(least, least, measure.LEAST_BATCHES, least)


@pytest.mark.parametrize(("most_s", "calls"), [(0.0, 1), (1e6, 4)])
def test_slow_answers_are_timed_less_often_but_once_at_least(most_s, calls):
    asked = []
    assert len(measure.times(asked.append, [1, 2], 4, most_s=most_s)) == len(asked) == calls


class Sleeper:
    """A network that is slow enough to be told from the fast ones."""

    def __init__(self, delay_s):
        self.delay_s, self.shapes = delay_s, set()

    def run(self, encoded):
        self.shapes.add(encoded.shape)
        time.sleep(self.delay_s)

    def predict(self, raws):
        assert raws == ["one example"]
        time.sleep(self.delay_s)


def test_a_race_of_pictures_stays_within_its_time(monkeypatch):
    monkeypatch.setattr(measure, "RACE_S", 0.5)
    slow, fast = (measure.Contender(name, Sleeper(delay)) for name, delay in (("slow", 0.005), ("fast", 0.0005)))
    begun = time.monotonic()
    measure.race([slow, fast], np.zeros((3, 4, 4, 1), np.uint8), [["one example"]])
    assert time.monotonic() - begun < 5
    assert slow.model.shapes == {(1, 4, 4, 1), (measure.BATCH_ROWS, 4, 4, 1)}
    assert slow.figures()["latency_ms"]["p50"] > fast.figures()["latency_ms"]["p50"]
