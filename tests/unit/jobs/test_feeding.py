"""The training loop's batches: the same whatever makes them ready, and the time that is spent waiting for them."""

import threading
import time

import numpy as np
import pytest
import torch

from ebb_jobs import feeding
from ebb_jobs.feeding import Feed, Meter

INPUTS = np.arange(40, dtype=np.float32).reshape(20, 2)
ORDER = np.random.default_rng(1).permutation(20)


def noisy(batch, generator):
    return batch + torch.rand(batch.shape, generator=generator)


def batches(workers: int, augment=noisy, epochs: int = 2) -> list:
    with Feed(INPUTS, augment, 7, 6, meter=Meter(workers=workers)) as feed:
        return [feed.take(ORDER, epoch, step) for epoch in range(epochs) for step in range(4)]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_batch(workers):
    for (rows, batch), (expected_rows, expected) in zip(batches(workers), batches(0), strict=True):
        assert rows.tolist() == expected_rows.tolist()
        assert torch.equal(batch, expected)


def test_every_row_comes_once_in_an_epoch():
    rows = np.concatenate([rows for rows, _ in batches(2, epochs=1)])
    assert sorted(rows.tolist()) == list(range(20))


def test_a_run_that_starts_again_gets_its_first_batch():
    with Feed(INPUTS, noisy, 7, 6, meter=Meter(workers=2)) as feed:
        first = feed.take(ORDER, 0, 0)
        feed.take(ORDER, 0, 1)
        again = feed.take(ORDER, 0, 0)
    assert torch.equal(first[1], again[1])


def test_with_workers_batches_are_ready_before_they_are_asked_for():
    made = threading.Semaphore(0)

    def counted(batch, _):
        made.release()
        return batch

    with Feed(INPUTS, counted, 7, 6, meter=Meter(workers=1)) as feed:
        feed.take(ORDER, 0, 0)
        for _ in range(3):  # of four: the loop has asked for one
            assert made.acquire(timeout=30)


def test_the_error_of_a_worker_is_the_loops():
    def broken(batch, _):
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"), Feed(INPUTS, broken, 7, 6, meter=Meter(workers=1)) as feed:
        feed.take(ORDER, 0, 0)


def test_the_wait_is_what_the_loop_spends_in_asking():
    """Each batch takes 3 s to come and 1 s to compute with: three quarters of the loop are waiting."""
    moments = iter([0.0, 3.0, 4.0, 7.0, 8.0, 11.0])
    meter = Meter()
    with Feed(INPUTS, None, 7, 6, meter=meter, clock=lambda: next(moments)) as feed:
        for step in range(3):
            feed.take(ORDER, 0, step)
    assert meter.told() == {"loop_s": 11.0, "wait_s": 9.0, "wait_share": 0.8182, "workers": 0}


def test_a_job_says_how_many_workers_it_was_given():
    before = feeding.METER.workers
    try:
        feeding.use(3)
        assert feeding.METER.told()["workers"] == 3
        feeding.use(-1)
        assert feeding.METER.told()["workers"] == 0
    finally:
        feeding.use(before)


def test_a_loop_that_computes_little_and_reads_slowly_waits_most_of_its_time():
    """The seeded input-bound job: reading sleeps, computing does nothing."""
    meter = Meter()

    def slow(batch, _):
        time.sleep(0.02)
        return batch

    with Feed(INPUTS, slow, 7, 6, meter=meter) as feed:
        for step in range(4):
            feed.take(ORDER, 0, step)
    assert meter.told()["wait_share"] > 0.3
