"""The served model on this run's rows: whose quality it is."""

import pytest

from ebb_jobs import champion

SERVED = {
    "run_id": "cancer-20261123093000-3f9a1c",
    "candidate": "student",
    "task": "tabular-regression",
    "classes": None,
    "features": [],
}
SCHEMA = {"task": "tabular-regression", "features": [], "target": {"name": "price"}}


@pytest.fixture
def channel(tmp_path, monkeypatch):
    (tmp_path / "model.tar.gz").write_bytes(b"")
    monkeypatch.setattr(champion.bundle, "unpack", lambda archive, folder: folder)
    monkeypatch.setattr(champion.serve, "read_signature", lambda folder: SERVED)
    monkeypatch.setattr(champion.serve, "Model", lambda folder: None)
    monkeypatch.setattr(champion, "_score", lambda *args: 0.5)
    return tmp_path


@pytest.mark.parametrize(
    ("schema", "quality"),
    [
        pytest.param(SCHEMA, {"validation": 0.5, "test": 0.5}, id="measured"),
        pytest.param(SCHEMA | {"task": "tabular-classification"}, None, id="not comparable"),
    ],
)
def test_the_run_whose_model_was_measured_is_named(channel, tmp_path, schema, quality):
    judged = champion.judge(channel, tmp_path, "rmse", schema, tmp_path)
    assert (judged["run_id"], judged["quality"]) == (SERVED["run_id"], quality)
