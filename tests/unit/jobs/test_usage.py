"""What a stage reports of its own use: real runs of `train`, one of them seeded to wait for its data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ebb_jobs import feeding, usage
from ebb_jobs.gpu import Watch
from ebb_jobs.kinds.tabular import TabularKind
from unit.jobs.stages import curated_penguins, run_stage_here


@pytest.fixture(scope="module")
def curated(tmp_path_factory) -> Path:
    return curated_penguins(tmp_path_factory.mktemp("processed"))


def trained(base: Path, curated: Path, **settings: Any) -> dict[str, Any]:
    """Train a network for some epochs, and return the stage's report."""
    before = (feeding.METER.loop_s, feeding.METER.wait_s, feeding.METER.workers)
    feeding.METER.loop_s = feeding.METER.wait_s = 0.0
    try:
        asked = {"spec": {"train": {"rungs": ["net"], "epochs": 4}}, "seed": 7, **settings}
        ended = run_stage_here(base, "train", {"curated": curated}, asked)
        assert ended.status == 0, ended.failure
        return ended.metrics()
    finally:
        feeding.METER.loop_s, feeding.METER.wait_s, feeding.METER.workers = before


def slow(self, batch, generator):
    time.sleep(0.05)
    return batch


def test_a_stage_reports_what_the_next_machine_is_chosen_by(tmp_path, curated):
    told = trained(tmp_path / "job", curated)
    assert told["cpu_seconds"] > 0
    assert told["vcpu"] >= 1
    assert told["peak_rss_mib"] > 50
    assert told["hardware"]["kind"] == "cpu"
    assert 0 <= told["feed"]["wait_s"] <= told["feed"]["loop_s"] <= told["duration_s"]


def test_a_seeded_input_bound_job_shows_it_and_workers_take_the_wait_away(tmp_path, curated, monkeypatch):
    monkeypatch.setattr(TabularKind, "augment", slow)
    bound = trained(tmp_path / "bound", curated)
    assert bound["feed"]["wait_share"] > 0.3
    assert bound["feed"]["workers"] == 0
    fed = trained(tmp_path / "fed", curated, workers=4)
    assert fed["feed"]["workers"] == 4
    assert fed["feed"]["wait_s"] < bound["feed"]["wait_s"] / 2
    assert fed["quality"] == bound["quality"], "the same batches, only sooner"


def test_what_a_gpu_did_goes_into_the_report():
    class Seen(Watch):
        def told(self):
            return {"name": "NVIDIA L4", "utilisation": 0.1, "joules": 12.0}

    assert usage.fields(Seen())["gpu"]["joules"] == 12.0
    assert "gpu" not in usage.fields(Watch())
