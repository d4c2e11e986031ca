"""Sums over the footprint ledger, by hand; and what another signal would have decided."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ebb import accounting, carbon_sums, ledger
from ebb.accounting import Counterfactual
from ebb.carbon import Band
from ebb.catalog import marginal
from ebb.footprint import Footprint, made_of

AT = datetime(2026, 11, 23, 10, tzinfo=UTC)


def spent(kwh: float, embodied_g: float = 10.0, region: str = "us-west-1") -> Footprint:
    return made_of(Band.exact(kwh), Band.exact(embodied_g), Band.exact(1.0), region=region)


def entry(kwh: float, instead_kwh: float | None = None, *, region: str = "us-west-1", **more: Any) -> dict[str, Any]:
    fields = {"project": "cancer", "run_id": "cancer-20261123093000-3f9a1c07be", "attempt": 1, "stage": "train"} | more
    other = Counterfactual("the same, later", spent(instead_kwh, 12.0, region)) if instead_kwh is not None else None
    made = accounting.stage_entry(
        job="j", at=AT, spent=spent(kwh, region=region), usage={"region": region}, counterfactual=other, **fields
    )
    return ledger.from_item(made.item())


def test_worked_example_of_the_average_signal():
    """2 kWh at 322.167 g/kWh and 10 g embodied: 654.334 g; 3 kWh and 12 g instead: 978.501 g, 324.167 g saved."""
    found = carbon_sums.total([entry(2, 3)], "average", "us-east-1")
    assert found.spent.carbon_g.value == pytest.approx(654.334)
    assert found.saved["carbon_g"].value == pytest.approx(324.167)
    assert found.saved["energy_kwh"] == Band.exact(1.0)
    assert found.entries == 1


def test_worked_example_of_the_marginal_signal():
    """2 kWh of gas at 350 to 490 g/kWh, 370 in the middle, and 10 g embodied: 710 to 990 g, 750 in the middle."""
    found = carbon_sums.total([entry(2, 3)], "marginal", "us-east-1")
    band = found.spent.carbon_g
    assert (band.low, band.value, band.high) == pytest.approx((710, 750, 990))
    assert found.saved["carbon_g"].value == pytest.approx(3 * 370 + 12 - 750)
    average = carbon_sums.total([entry(2, 3)], "average", "us-east-1")
    for unit in ("energy_kwh", "water_l", "cost_usd"):
        assert getattr(found.spent, unit) == getattr(average.spent, unit), "only grams depend on the signal"


def test_the_average_is_what_was_booked_and_not_reckoned_anew():
    booked = entry(2)
    booked["footprint"]["carbon_g"] = {"low": 1.0, "value": 2.0, "high": 3.0}
    assert carbon_sums.total([booked], "average", "x").spent.carbon_g == Band(1.0, 2.0, 3.0)


def test_sums_by_project_are_the_whole_and_the_largest_comes_first():
    entries = [entry(1, project="small"), entry(5, 6, project="large"), entry(2, project="large")]
    found = carbon_sums.by(entries, "project", "average", "us-east-1")
    assert list(found) == ["large", "small"]
    whole = carbon_sums.total(entries, "average", "us-east-1")
    assert sum(each.spent.carbon_g.value for each in found.values()) == pytest.approx(whole.spent.carbon_g.value)
    assert (found["large"].entries, whole.entries) == (2, 3)


def test_entries_without_a_region_are_where_the_stack_is():
    here = entry(2)
    del here["usage"]["region"]
    assert carbon_sums.total([here], "marginal", "af-south-1").spent.carbon_g.value == pytest.approx(2 * 760 + 10)


def test_entries_are_chosen_by_their_moment():
    entries = [entry(1), entry(2) | {"at": "2026-11-24T00:00:00Z"}]
    assert len(carbon_sums.since(entries, datetime(2026, 11, 24, tzinfo=UTC))) == 1
    assert len(carbon_sums.since(entries, None)) == 2


def change(found: list[carbon_sums.Change], decision: str) -> carbon_sums.Change:
    return next(each for each in found if each.decision.startswith(decision))


def test_a_budget_that_turns_between_the_signals_is_told_with_its_arithmetic():
    """2 kWh in us-west-1 are 654 g by the average and 750 g by the margin: 700 g lie between."""
    found = carbon_sums.changes([entry(2)], "us-west-1", limits_g={"cancer": 700.0})
    budget = change(found, "budget of cancer in 2026-11")
    assert budget.turns
    assert (budget.average, budget.marginal) == ("within the budget", "above it")
    assert "654 g by the average signal and 750 g by the marginal signal, of 700 g" in budget.why
    roomy = carbon_sums.changes([entry(2)], "us-west-1", limits_g={"cancer": 800.0, "other": 1.0})
    assert not change(roomy, "budget of cancer").turns
    assert not [each for each in roomy if "other" in each.decision], "which has spent nothing"


def test_a_run_that_waited_would_not_have_by_a_signal_that_knows_no_hours():
    waited = {"what": "when train runs", "chosen": "waits for 2026-11-23 13:00 UTC", "reason": "it emits 30% less"}
    ran = waited | {"chosen": "runs now", "reason": "no later window emits less"}
    found = carbon_sums.changes([entry(2)], "us-east-1", waited=[waited, ran])
    first, second = [each for each in found if each.decision == "when train runs"]
    assert first.turns
    assert not second.turns


def test_the_cleanest_region_is_ranked_by_each_signal():
    found = change(carbon_sums.changes([entry(2)], "us-east-1"), "cleanest Region")
    assert found.average == "eu-north-1"
    assert found.turns, "a hydropower grid that is tied to coal is not the cleanest at its margin"
    assert marginal.g_per_kwh(found.marginal).value <= marginal.g_per_kwh("eu-north-1").value


def test_what_compares_energy_in_one_region_never_turns():
    assert not change(carbon_sums.changes([entry(2)], "us-east-1"), "machines").turns


def test_without_entries_nothing_is_said():
    assert carbon_sums.changes([], "us-east-1") == []


# The table


@pytest.mark.parametrize("region", marginal.regions())
def test_a_regions_band_reaches_over_its_fuels(region):
    band, fuels = marginal.g_per_kwh(region), marginal.fuels(region)
    facts = marginal._facts()["fuels"]
    assert band.low == min(facts[fuel]["low"] for fuel in fuels)
    assert band.high == max(facts[fuel]["high"] for fuel in fuels)
    assert band.low <= band.value <= band.high


def test_the_table_knows_the_regions_of_the_averages_and_says_where_it_is_from():
    from ebb import catalog

    assert set(marginal.regions()) == set(catalog.grid_regions())
    told = marginal.source()
    assert told["confidence"] == "low"
    assert told["licence"]
    assert "https://www.ipcc.ch/" in told["source"]
    assert int(told["year"]) == 2014


def test_of_an_unknown_region_gas_and_coal_are_assumed():
    assert marginal.g_per_kwh("xx-nowhere-1") == Band(350, 565, 870)
    assert marginal.g_per_kwh("us-east-1", "average").value == pytest.approx(379.069)
