"""Entries of the footprint ledger against examples worked by hand."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from ebb import accounting, carbon, footprint
from ebb.accounting import Counterfactual
from ebb.carbon import Band
from ebb.footprint import Footprint

AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def spent(energy: float, grams: float = 0.0, usd: float = 0.0) -> Footprint:
    return Footprint(Band.within(energy, 0.5), Band.within(grams, 0.5), Band.exact(usd), Band.exact(energy * 3))


def entry(**changed):
    fields = {
        "project": "iris",
        "run_id": "iris-1",
        "attempt": 1,
        "stage": "train",
        "job": "ebb-iris-1-train",
        "at": AT,
        "spent": spent(2.0, 800.0, 0.4),
        "usage": {"duration_s": 60.0},
    }
    return accounting.stage_entry(**fields | changed)


def test_water_of_a_kilowatt_hour():
    # 1.14 kWh at a PUE of 1.14 is 1 kWh of machines: 1 * 0.15 l on site + 1.14 * 3.14 l of electricity = 3.7296 l
    water = carbon.water_l(
        Band.exact(1.14),
        pue=Band.exact(1.14),
        on_site_l_per_kwh=Band.exact(0.15),
        electricity_l_per_kwh=Band.exact(3.14),
    )
    assert water.value == pytest.approx(3.7296)


def test_a_jobs_footprint_tells_its_water_and_its_carbon_apart():
    # ml.m5.large for an hour at half load: 0.00917244 kWh (test_carbon): water 0.00917244 * (0.15 / 1.14 + 3.14) =
    # 0.0300084 l; operational 3.476988 g, embodied 0.96 g
    job = footprint.of_job("ml.m5.large", duration_s=3600, billable_s=3600, load=Band.exact(0.5), region="us-east-1")
    assert job.water_l.value == pytest.approx(0.0300084, rel=1e-5)
    assert job.carbon_operational_g.value == pytest.approx(3.476988, rel=1e-5)
    assert job.carbon_embodied_g.value == pytest.approx(0.96)


def test_footprint_recorded_before_water_was_counted_is_given_its_water():
    old = {name: Band.exact(1.0).as_dict() for name in ("energy_kwh", "carbon_g", "cost_usd")}
    assert Footprint.of(old).water_l == footprint.water_of(Band.exact(1.0))


def test_what_is_recorded_is_read_back_as_it_was():
    job = footprint.of_job("ml.m5.large", duration_s=3600, billable_s=60, load=Band.exact(0.5), region="eu-west-1")
    assert Footprint.of(job.as_dict()) == job


def test_an_entry_is_booked_on_the_month_in_utc():
    late = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert entry(at=late).key()["pk"] == "FOOTPRINT#iris#2026-11"


def test_attempts_and_jobs_of_a_stage_are_entries_of_their_own():
    keys = {entry().key()["sk"], entry(attempt=2).key()["sk"], entry(job="other").key()["sk"]}
    assert keys == {
        "stage#iris-1#1#train#ebb-iris-1-train",
        "stage#iris-1#2#train#ebb-iris-1-train",
        "stage#iris-1#1#train#other",
    }


def test_an_hour_is_named_by_its_beginning_in_utc():
    hour = accounting.serving_entry(project="iris", endpoint="ebb-iris", hour=AT, spent=spent(1), usage={})
    assert hour.key() == {"pk": "FOOTPRINT#iris#2026-11", "sk": "serving#ebb-iris#2026-11-23T09"}


def test_saved_is_what_the_counterfactual_takes_beyond_what_was_spent():
    # 5 kWh against 2: 3 kWh; both bounds are half and half more: 2.5 - 1 = 1.5 and 7.5 - 3 = 4.5
    saved = entry(counterfactual=Counterfactual("on demand", spent(5.0, 800.0, 1.0))).saved
    assert saved["energy_kwh"] == Band(1.5, 3.0, 4.5)
    assert saved["carbon_g"] == Band.exact(0.0)
    assert saved["cost_usd"].value == pytest.approx(0.6)


def test_more_spent_than_otherwise_is_a_saving_below_zero():
    # 1 kWh against 2: -1; 0.5 - 1 = -0.5 and 1.5 - 3 = -1.5, in order
    assert entry(counterfactual=Counterfactual("x", spent(1.0))).saved["energy_kwh"] == Band(-1.5, -1.0, -0.5)


def test_an_entry_without_counterfactual_saves_nothing_and_says_none():
    assert set(entry().saved.values()) == {carbon.ZERO}
    assert "counterfactual" not in entry().item()


def test_an_avoided_job_spends_nothing_and_saves_what_it_would_have_taken():
    avoided = accounting.avoided_entry(
        "reused", project="iris", id="iris-2", at=AT, instead_of="the same run again", would_have=spent(2.0, 800.0)
    )
    assert avoided.key()["sk"] == "avoided#reused#iris-2"
    assert accounting.sums(avoided)["spent_energy_kwh"] == 0
    assert accounting.sums(avoided)["saved_carbon_g"] == 800.0


def test_the_item_holds_every_quantity_with_its_band():
    held = entry().item()["footprint"]
    wanted = {"energy_kwh", "carbon_g", "carbon_operational_g", "carbon_embodied_g", "water_l", "cost_usd"}
    assert set(held) == wanted
    assert held["energy_kwh"] == {"low": Decimal("1.0"), "value": Decimal("2.0"), "high": Decimal("3.0")}


def test_a_total_counts_value_and_bounds():
    added = accounting.sums(entry())
    assert (added["spent_energy_kwh_low"], added["spent_energy_kwh"], added["spent_energy_kwh_high"]) == (1, 2, 3)
    assert added["entries"] == 1
