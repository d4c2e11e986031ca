"""Regions for a run: which emits least, what the data's way takes, and what is not known."""

import json
from pathlib import Path

import pytest

from ebb import catalog, regions
from ebb.carbon import Band
from ebb.catalog import transfer
from ebb.regions import Work

RUN = json.loads((Path(__file__).with_name("data") / "digits_run.json").read_text())


def work(region: str = "us-east-1", *, kwh: float = 1.0, gb: float = 0.0, embodied: float = 10.0) -> Work:
    exact = Band.exact
    return Work(region, exact(kwh), exact(embodied), exact(1.0), gb * 1e9, ("ml.m5.large",))


def named(places, region):
    return next(each for each in places if each.region == region)


def test_a_recorded_run_is_split_into_what_the_grid_brings_and_what_the_hardware_does():
    done = regions.work(RUN, RUN["stages"], "us-east-1")
    assert done.energy_kwh.value == pytest.approx(RUN["footprint"]["energy_kwh"]["value"])
    assert done.data_bytes == 1_828_427
    assert done.machines == ("ml.m5.large",)
    here = named(regions.rank(done), "us-east-1")
    assert here.carbon_g.value == pytest.approx(RUN["footprint"]["carbon_g"]["value"]), "its own Region as recorded"
    assert here.carbon_g.low == pytest.approx(RUN["footprint"]["carbon_g"]["low"])
    assert here.carbon_g.high == pytest.approx(RUN["footprint"]["carbon_g"]["high"])


def test_a_run_without_a_footprint_cannot_be_compared():
    assert regions.work(RUN, [{"stage": "train", "footprint": None}], "us-east-1") is None


def test_the_cleanest_grid_is_first_and_hardware_counts_everywhere():
    places = regions.rank(work(gb=1))
    assert places[0].region == "eu-north-1"
    # 1 kWh * 8.8 g + 10 g embodied + 0.001 kWh * (379.069 + 8.8) / 2
    assert places[0].carbon_g.value == pytest.approx(8.8 + 10 + 0.001 * 193.9345)
    assert places[-1].region == "af-south-1"


def test_much_data_and_little_work_stay_where_they_are():
    assert regions.rank(work(kwh=0.001, gb=10_000))[0].region == "us-east-1"
    stays = named(regions.rank(work(kwh=0.001, gb=10_000)), "eu-north-1")
    assert stays.less_g < 0
    assert not stays.surely_less


def test_nothing_is_moved_to_where_the_data_is():
    here = named(regions.rank(work(gb=500)), "us-east-1")
    assert here.transfer_g.value == here.transfer_usd.value == here.less_g == 0


def test_less_is_sure_only_when_no_bad_luck_of_both_grids_undoes_it():
    places = regions.rank(work("us-east-2"))
    assert not named(places, "us-west-2").surely_less, "410.6 and 322.2 g/kWh, each within 15 %"
    assert named(places, "us-west-2").less_g > 0
    assert named(places, "eu-north-1").surely_less


def test_only_a_region_of_the_same_name_is_the_same_geography():
    places = regions.rank(work("eu-central-1"))
    assert named(places, "eu-north-1").geography
    assert not named(places, "us-east-1").geography


def test_who_sends_pays_and_a_price_that_is_not_known_is_none():
    assert transfer.usd_per_gb("sa-east-1", "us-east-1").value == 0.138
    assert transfer.usd_per_gb("us-east-1", "us-east-2").value == 0.01
    assert transfer.usd_per_gb("us-east-1", "sa-east-1").value == 0.02
    assert transfer.usd_per_gb("me-central-1", "us-east-1") is None
    assert named(regions.rank(work("me-central-1", gb=1)), "us-east-1").transfer_usd is None


def test_moving_the_data_pays_for_itself_after_so_many_runs():
    done = work(kwh=0.01, gb=100)
    there = named(regions.rank(done), "eu-north-1")
    # 100 GB * 0.001 kWh * 193.9345 g = 19.39 g, and 0.01 kWh * 370.269 g = 3.70 g a run
    assert regions.pays_after(done, there) == pytest.approx(19.39345 / 3.70269)
    assert regions.pays_after(done, named(regions.rank(done), "af-south-1")) is None


def test_another_signal_ranks_by_its_own_numbers():
    marginal = {"us-east-1": 500.0, "eu-north-1": 600.0}
    places = regions.rank(work(), intensity=lambda region: Band.exact(marginal[region]), among=tuple(marginal))
    assert [each.region for each in places] == ["us-east-1", "eu-north-1"]


def test_every_coefficient_says_where_it_comes_from():
    assert all(each["source"] and each["year"] and each["confidence"] for each in transfer.sources())
    unknown = [each for each in catalog.grid_regions() if transfer.usd_per_gb(each, "us-east-1") is None]
    assert unknown == ["me-central-1"], "whose price nobody has written down here"
