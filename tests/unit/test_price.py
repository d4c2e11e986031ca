"""What a run is predicted to take: from the last run where it did the same, from the catalog where it did not."""

from dataclasses import replace

import pytest

from ebb import budgets, catalog, footprint, price, rightsizing
from ebb.carbon import Band
from ebb.sizing import MIB, Data
from ebb.spec import PipelineSpec
from worked_run import REGION, built_plan

TABLE = Data(10 * MIB, "csv", task="tabular-classification")


def spec_of(**parts: object) -> PipelineSpec:
    return PipelineSpec.model_validate(parts)


def last_run(spec: PipelineSpec, data: Data = TABLE, *, rungs: int = 1, **used: float) -> dict:
    """What a project remembers of a run in which every job took 100 s, 60 of them CPU time."""
    report = {"duration_s": 90.0, "vcpu": 2, "peak_rss_mib": 500} | used
    stages = [
        {
            "stage": stage,
            "status": "finished",
            "instance_type": "ml.m5.large",
            "cpu_seconds": 60.0,
            "billable_s": 100.0,
            "report": report | ({"rungs": [{}] * rungs, "rungs_untried": []} if stage == "train" else {}),
        }
        for stage in ("process", "train", "compress", "compile")
    ]
    return rightsizing.remembered("cancer-20261122080000-aa01bb4c2d", stages, rightsizing.kept_data(data), spec)


def predicted(spec: PipelineSpec, data: Data = TABLE, measured: dict | None = None) -> dict[str, price.Predicted]:
    return price.predict(spec, data, measured=measured or {}, region=REGION)


def test_before_the_first_run_the_catalogs_estimate_stands_with_a_wide_band():
    train = predicted(spec_of())["train"]
    assert train.basis.endswith("estimated from the data's size")
    assert train.duration_s.low == pytest.approx(train.duration_s.value * 0.2)
    assert train.duration_s.high == pytest.approx(train.duration_s.value * 4)
    assert train.footprint.carbon_g.high > 4 * train.footprint.carbon_g.value  # the coefficients' band comes on top


def test_the_same_again_is_predicted_as_it_was_measured():
    spec = spec_of()
    train = predicted(spec, measured=last_run(spec))["train"]
    assert "measured in cancer-20261122080000-aa01bb4c2d, 1 times its data" in train.basis
    assert train.duration_s.value == pytest.approx(100.0, rel=0.01)
    load = footprint.utilization(60.0, 90.0, 2)
    took = footprint.of_job("ml.m5.large", duration_s=100, billable_s=100, load=load, region=REGION)
    assert train.footprint.energy_kwh.value == pytest.approx(took.energy_kwh.value, rel=0.15)
    assert train.footprint.cost_usd.value == pytest.approx(took.cost_usd.value, rel=0.01)


def test_twice_the_data_takes_twice_the_work_and_is_known_less_well():
    spec = spec_of()
    kept = last_run(spec)
    once, twice = (
        predicted(spec, data, kept)["process"] for data in (TABLE, replace(TABLE, size_bytes=2 * TABLE.size_bytes))
    )
    assert twice.duration_s.value - 10 == pytest.approx(2 * (once.duration_s.value - 10), rel=0.01)  # 10 s of start
    spread = [(each.duration_s.high - 10) / (each.duration_s.low - 10) for each in (once, twice)]
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.01)


def test_a_ladder_that_ended_early_may_climb_higher_next_time():
    spec = spec_of()
    kept = last_run(spec)
    open_end = {stage: each | {"settled": False} for stage, each in kept.items()}
    settled, open_ended = (predicted(spec, measured=each)["train"] for each in (kept, open_end))
    assert open_ended.duration_s.value == settled.duration_s.value
    assert open_ended.duration_s.high - 10 == pytest.approx(2 * (settled.duration_s.high - 10), rel=0.01)


def test_a_smaller_recipe_is_predicted_from_the_larger_ones_measurement():
    whole, small = spec_of(), spec_of(train={"rungs": ["linear"]}, compress={"methods": ["quantize"]})
    kept = last_run(whole)
    before, after = predicted(whole, measured=kept), predicted(small, measured=kept)
    assert after["train"].duration_s.value < before["train"].duration_s.value / 2
    assert after["compress"].duration_s.value < before["compress"].duration_s.value / 2
    assert after["process"].duration_s == before["process"].duration_s
    assert "measured in" in after["train"].basis
    assert "times its recipe" in after["train"].basis


def test_of_other_work_than_its_recipe_the_last_run_is_no_measure():
    kept = last_run(spec_of())
    train = predicted(spec_of(train={"epochs": 3}), measured=kept)["train"]
    assert "estimated" in train.basis


def test_a_smaller_recipe_is_estimated_smaller_before_the_first_run_too():
    whole = predicted(spec_of(train={"tune": True}))
    plain, small = predicted(spec_of()), predicted(spec_of(train={"rungs": ["linear", "trees"]}))
    times = [each["train"].duration_s.value for each in (whole, plain, small)]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 3


def test_a_budget_for_compression_bounds_what_compress_is_predicted_to_take():
    large = replace(TABLE, size_bytes=200 * MIB)
    free, bound = predicted(spec_of(), large), predicted(spec_of(compress={"budget": 60}), large)
    assert bound["compress"].duration_s.value < free["compress"].duration_s.value
    assert bound["compress"].duration_s.value <= 120  # its 120 CPU-s on one core


def test_a_job_is_stopped_at_its_limit_so_no_prediction_is_longer():
    spec = spec_of(train={"max_runtime": 300})
    for each in predicted(spec, replace(TABLE, size_bytes=300 * MIB)).values():
        assert each.duration_s.high <= 300


def test_a_script_that_nobody_has_measured_may_take_all_of_its_time():
    spec = spec_of(task="custom", train={"max_runtime": 7200})
    train = predicted(spec, Data(MIB, "script"))["train"]
    assert train.duration_s.high == 7200


def test_several_trials_at_once_are_counted_each():
    data = Data(MIB, "script")
    tune = {"jobs": 2, "trials": 6, "ranges": {"rate": {"min": 0.1, "max": 1}}}
    one, six = (predicted(spec_of(task="custom", train=train), data)["train"] for train in ({}, {"tune": tune}))
    assert six.duration_s.value == pytest.approx(3 * one.duration_s.value)
    assert six.footprint.energy_kwh.value == pytest.approx(6 * one.footprint.energy_kwh.value)


def test_what_a_budget_sets_aside_is_the_longest_time_at_the_middle_of_every_coefficient():
    process = predicted(spec_of())["process"]
    assert process.footprint.energy_kwh.value < process.at_most["energy_kwh"] < process.footprint.energy_kwh.high
    assert process.at_most["energy_kwh"] == pytest.approx(4 * process.footprint.energy_kwh.value)


def test_spot_capacity_may_cost_a_tenth_and_never_uses_less_energy():
    spot, plain = (predicted(spec_of(train={"spot": each}))["train"] for each in (True, False))
    assert spot.footprint.cost_usd.low == pytest.approx(plain.footprint.cost_usd.low / 10)
    assert spot.footprint.energy_kwh == plain.footprint.energy_kwh


def test_the_total_is_the_sum_of_the_stages_that_are_still_to_do():
    spec = spec_of()
    all_stages = predicted(spec)
    left = price.predict(spec, TABLE, measured={}, region=REGION, finished={"process", "train"})
    assert set(left) == {"compress", "compile"}
    summed = price.total(all_stages)
    assert isinstance(summed.energy_kwh, Band)
    assert summed.cost_usd.value == pytest.approx(sum(each.footprint.cost_usd.value for each in all_stages.values()))
    asides = [budgets.wanted({stage: each.as_dict() for stage, each in some.items()}) for some in (left, all_stages)]
    assert 0 < asides[0]["carbon_g"] < asides[1]["carbon_g"]


def test_the_plan_holds_what_each_of_its_stages_is_predicted_to_take():
    plan = built_plan()
    assert set(plan["predicted"]) == {"process", "train", "compress", "compile"}
    train = plan["predicted"]["train"]
    assert {"duration_s", "energy_kwh", "carbon_g", "cost_usd", "basis", "at_most"} <= set(train)
    assert train["basis"].startswith(plan["train"]["request"]["ResourceConfig"]["InstanceType"])
    assert catalog.instance(train["basis"].partition(":")[0]) is not None
