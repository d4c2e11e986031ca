"""What compression took, and when it has paid for itself."""

import pytest

from ebb import payback


def band(value):
    return {"low": value / 2, "value": value, "high": value * 2}


def stage(name, kwh, cpu_s=10.0, **more):
    footprint = {"energy_kwh": band(kwh), "carbon_g": band(1.0), "cost_usd": band(0.1)}
    return {"stage": name, "footprint": footprint, "cpu_seconds": cpu_s, **more}


def comparison(original, shipped):
    return {
        side: {"per_million": {"energy_kwh": band(kwh)}} for side, kwh in (("original", original), ("shipped", shipped))
    }


def test_two_watt_hours_are_even_after_a_million_predictions_that_save_two_watt_hours():
    stages = [stage("train", 9.0), stage("compress", 0.0015, 30.0), stage("compile", 0.0005, 12.0)]
    found = payback.payback(stages, comparison(0.003, 0.001))
    assert found["energy_kwh"]["value"] == pytest.approx(0.002)
    assert found["cpu_seconds"] == 42.0
    assert found["predictions"] == pytest.approx(1_000_000, rel=1e-6)
    assert "paid for itself after 1,000,0" in payback.told(found)


def test_attempts_that_failed_count():
    stages = [stage("compress", 0.001, earlier_attempts=[stage("compress", 0.003, 5.0)])]
    found = payback.payback(stages, comparison(0.003, 0.001))
    assert found["energy_kwh"]["value"] == pytest.approx(0.004)
    assert found["cpu_seconds"] == 15.0


def test_a_model_that_saves_nothing_never_pays():
    found = payback.payback([stage("compress", 0.001)], comparison(0.001, 0.002))
    assert found["predictions"] is None
    assert "nothing pays for it" in payback.told(found)


@pytest.mark.parametrize(
    ("stages", "compared"),
    [
        pytest.param([stage("compress", 1.0)], None, id="nothing was compared"),
        pytest.param([stage("train", 1.0)], comparison(2.0, 1.0), id="nothing was compressed"),
        pytest.param([{"stage": "compress", "footprint": None}], comparison(2.0, 1.0), id="no footprint is known"),
    ],
)
def test_nothing_is_said_where_nothing_is_known(stages, compared):
    assert payback.payback(stages, compared) is None
