"""Carbon numbers against examples worked by hand; the arithmetic stands beside each."""

import pytest

from ebb import carbon, catalog, comparison, footprint
from ebb.carbon import Band
from worked_run import measure


def test_power_of_a_half_loaded_machine():
    # Cloud Carbon Footprint's own example form: 2 vCPU, Skylake 0.65 W idle, 4.26 W full, 50 % load:
    # 2 * (0.65 + 0.5 * (4.26 - 0.65)) = 2 * 2.455 = 4.91 W
    watts = carbon.processor_power_w(2, Band.exact(0.5), idle_w=Band.exact(0.65), max_w=Band.exact(4.26))
    assert watts.value == pytest.approx(4.91)


def test_energy_of_an_hour():
    # 4.91 W for an hour, 8 GiB at 0.000392 kWh per GiB-hour, PUE 1.14:
    # (0.00491 + 0.003136) * 1.14 = 0.00917244 kWh
    energy = carbon.energy_kwh(
        Band.exact(4.91), 3600, memory_gib=8, memory_kwh_per_gib_hour=Band.exact(0.000392), pue=Band.exact(1.14)
    )
    assert energy.value == pytest.approx(0.00917244)


def test_carbon_of_that_energy_in_virginia():
    # 0.00917244 kWh * 379.069 g/kWh = 3.476988 g; embodied 2 vCPU * 1 h * 0.48 g = 0.96 g
    used = carbon.operational_carbon_g(Band.exact(0.00917244), Band.exact(379.069))
    assert used.value == pytest.approx(3.476988, rel=1e-5)
    assert carbon.embodied_carbon_g(2, 3600, Band.exact(0.48)).value == pytest.approx(0.96)


def test_footprint_of_a_job_is_the_sum_of_those_parts():
    # ml.m5.large = 2 vCPU, 8 GiB, Skylake, 0.115 USD/h; one hour at half load, billed for half of it (spot):
    # the three examples above: 3.476988 + 0.96 = 4.436988 g; 0.115 * 0.5 = 0.0575 USD
    job = footprint.of_job("ml.m5.large", duration_s=3600, billable_s=1800, load=Band.exact(0.5), region="us-east-1")
    assert job.energy_kwh.value == pytest.approx(0.00917244)
    assert job.carbon_g.value == pytest.approx(4.436988, rel=1e-5)
    assert job.cost_usd.value == pytest.approx(0.0575)


def test_million_predictions_on_a_serverless_endpoint():
    # p50 0.2 ms, 0.21 CPU-ms, 240 MiB -> 1024 MB.
    # CPU: 210 s * 3.5 W = 735 J = 0.000204167 kWh; memory: 200 s * 1 GiB * 0.000392 kWh/h = 0.0000217778 kWh
    # energy (0.000204167 + 0.0000217778) * 1.14 = 0.000257577 kWh
    # carbon 0.000257577 * 379.069 = 0.097639 g; embodied: 1 GiB / 1.73 GiB per vCPU * 200/3600 h * 0.48 g = 0.015414 g
    # cost: each request is billed a whole millisecond: 1000 s * 1 GiB * 0.00002 USD = 0.02 USD
    million = footprint.per_million_predictions(measure(), region="us-east-1")
    assert million.energy_kwh.value == pytest.approx(0.000257577, rel=1e-5)
    assert million.carbon_g.value == pytest.approx(0.113053, rel=1e-4)
    assert million.cost_usd.value == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("cpu_seconds", "duration_s", "vcpu", "expected"),
    [
        pytest.param(30, 60, 2, Band.exact(0.25), id="thirty CPU-seconds in a minute on two CPUs are a quarter"),
        pytest.param(500, 60, 2, Band.exact(1.0), id="more than the machine has is full load"),
        pytest.param(None, 60, 2, Band(0.0, 0.5, 1.0), id="without CPU time anything is possible"),
        pytest.param(30, 0, 2, Band(0.0, 0.5, 1.0), id="without a duration anything is possible"),
    ],
)
def test_utilization(cpu_seconds, duration_s, vcpu, expected):
    assert footprint.utilization(cpu_seconds, duration_s, vcpu) == expected


def test_unknown_load_widens_the_band():
    known = footprint.of_job("ml.m5.large", duration_s=60, billable_s=60, load=Band.exact(0.5), region="us-east-1")
    unknown = footprint.of_job(
        "ml.m5.large", duration_s=60, billable_s=60, load=footprint.UNKNOWN_UTILIZATION, region="us-east-1"
    )
    assert unknown.energy_kwh.low < known.energy_kwh.low
    assert unknown.energy_kwh.high > known.energy_kwh.high
    assert unknown.energy_kwh.value == known.energy_kwh.value


def test_footprint_of_a_build_by_hand():
    """150 s on 4 vCPU and 7 GiB, half loaded: three begun minutes at 0.01 USD."""
    built = footprint.of_build("BUILD_GENERAL1_MEDIUM", duration_s=150, region="us-east-1")
    assert built.cost_usd.value == pytest.approx(0.03)
    # 4 * (0.74 + 0.5 * (3.50 - 0.74)) W = 8.48 W; memory 7 * 0.392 W = 2.744 W; 11.224 W * 150 s / 3.6e6 * 1.14
    assert built.energy_kwh.value == pytest.approx(0.000533, rel=1e-3)
    assert built.energy_kwh.low < built.energy_kwh.value / 2, "the load is not known"
    assert footprint.of_build("BUILD_GENERAL1_2XLARGE", duration_s=1, region="us-east-1") is None


def test_an_instance_that_the_catalog_does_not_know_has_no_footprint():
    assert footprint.of_job("ml.p5.48xlarge", duration_s=1, billable_s=1, load=Band.exact(1), region="x") is None


@pytest.mark.parametrize(
    ("memory_mib", "asked", "expected"),
    [
        pytest.param(60, None, 1024, id="a small model takes the smallest size"),
        pytest.param(900, None, 2048, id="requests in flight need room beside the model"),
        pytest.param(60, 3072, 3072, id="an asked size is taken"),
    ],
)
def test_serverless_memory(memory_mib, asked, expected):
    assert footprint.serverless_memory_mb(memory_mib, asked) == expected


def test_a_model_that_no_serverless_size_holds_is_refused():
    with pytest.raises(ValueError, match="6144"):
        footprint.serverless_memory_mb(6000)


def test_comparison_tells_how_many_times_less():
    lean = measure(latency_ms={"p50": 0.02, "p99": 0.031}, cpu_ms_per_prediction=0.021, size_bytes=20_000)
    told = comparison.compare(measure(), lean, region="us-east-1")
    assert told["times_less"]["latency_p50"] == 10
    assert told["times_less"]["size"] == 6
    assert told["times_less"]["energy_kwh"] == pytest.approx(10, rel=0.01)
    # Serverless bills whole milliseconds, so below one millisecond a faster model costs the same.
    assert told["times_less"]["cost_usd"] == 1


def test_what_a_caller_waits_for_is_what_is_compared_and_billed():
    """Reading a row takes 1.2 ms before a network of 0.02 ms: it is not ten times faster, and bills 2 ms."""
    answering = {"end_to_end_latency_ms": {"p50": 1.2, "p99": 2.0}}
    lean = measure(latency_ms={"p50": 0.02, "p99": 0.031}, cpu_ms_per_prediction=0.021, **answering)
    told = comparison.compare(measure(**answering), lean, region="us-east-1")
    assert told["times_less"]["latency_p50"] == 1
    assert told["shipped"]["latency_ms"]["p50"] == 0.02, "both stay in the record"
    assert told["shipped"]["end_to_end_latency_ms"]["p50"] == 1.2
    quick = footprint.per_million_predictions(measure(), region="us-east-1")
    slow = footprint.per_million_predictions(measure(**answering), region="us-east-1")
    assert slow.cost_usd.value == pytest.approx(2 * quick.cost_usd.value)


def test_an_original_that_no_endpoint_holds_is_still_compared():
    told = comparison.compare(measure(memory_mib=9000.0), measure(), region="us-east-1")
    assert told["times_less"]["energy_kwh"] > 1
    assert told["original"]["memory_mib"] == 9000


@pytest.mark.parametrize("bounds", [(2, 1, 3), (1, 3, 2)])
def test_a_band_out_of_order_is_refused(bounds):
    with pytest.raises(ValueError, match="band"):
        Band(*bounds)


def test_a_pue_below_one_is_refused():
    with pytest.raises(ValueError, match="PUE"):
        carbon.energy_kwh(
            Band.exact(1), 1, memory_gib=1, memory_kwh_per_gib_hour=Band.exact(1), pue=Band(0.9, 1.1, 1.2)
        )


def test_every_coefficient_names_its_source_year_and_confidence():
    for entry in catalog.sources():
        assert entry["source"], entry
        assert 2019 <= int(entry["year"]) <= 2026, entry
        assert entry["confidence"] in {"low", "medium", "high"}, entry


def test_an_unknown_region_takes_the_average():
    assert catalog.grid_g_per_kwh("mars-north-1").value == pytest.approx(392.78)
    assert catalog.grid_g_per_kwh("eu-north-1").value == pytest.approx(8.8)
