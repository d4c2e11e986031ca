"""The footprint part of the report: bands, water, what would have been instead, what was saved."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ebb import accounting, explain, ledger, record
from ebb.carbon import Band
from ebb.footprint import Footprint, made_of
from ebb.report import page, spent, view
from unit import reported


def avoided(kwh: float = 3.0) -> dict[str, Any]:
    """An entry of a job that was not run, as the ledger holds it."""
    would = made_of(Band.within(kwh, 0.5), Band.exact(12.0), Band.exact(1.0), region="us-west-1")
    made = accounting.avoided_entry(
        "stopped", project="demo-digits", id="a", at=datetime(2026, 11, 23, tzinfo=UTC),
        instead_of="training on to its end", would_have=would, run_id="r",
    )  # fmt: skip
    return ledger.from_item(made.item())


def test_a_run_shows_its_bands_with_water_and_the_hardware_told_apart():
    used = made_of(Band(1, 2, 3), Band(5, 10, 20), Band.exact(1.0), region="us-west-1")
    rows = {row[0]: row[1:] for row in spent.rows({"footprint": used.as_dict()})}
    assert rows["Energy, kWh"] == ("1.00", "2.00", "3.00")
    assert rows["of it hardware, gCO2e"] == ("5.00", "10.0", "20.0")
    assert rows["of it electricity, gCO2e"][1] == "644", "2 kWh at 322.167 g"
    assert rows["Carbon, gCO2e"][1] == "654"
    assert float(rows["Water, l"][1]) > 0


def test_a_run_from_before_water_was_counted_has_it_reckoned_and_nothing_told_apart():
    rows = {row[0] for row in spent.rows(reported.digits())}
    assert "Water, l" in rows
    assert not [each for each in rows if each.startswith("of it")]


def test_a_run_that_took_nothing_has_no_table():
    assert spent.rows({}) == ()
    assert view.page(reported.failed()).footprint is None


def test_the_bars_are_the_bands_on_one_scale():
    run = reported.digits()
    energy = spent.compared(run)[0]
    shipped, original = (
        Footprint.of(run["comparison"][side]["per_million"]).energy_kwh for side in ("shipped", "original")
    )
    assert [bar.kind for bar in energy.bars] == ["shipped", "original"]
    widest = max(shipped.high, original.high)
    for bar, band in zip(energy.bars, (shipped, original), strict=True):
        assert bar.low == pytest.approx(100 * band.low / widest, abs=0.01)
        assert bar.value == pytest.approx(100 * band.value / widest, abs=0.01)
        assert bar.low <= bar.value <= bar.low + bar.width + 0.01
        assert bar.low + bar.width <= 100.01
    assert spent.compared(reported.failed()) == ()


def test_what_was_avoided_is_told_against_what_would_have_been():
    """3 kWh (1.5 to 4.5) at 322.167 g and 12 g of hardware: 978.5 g in the middle, with the grid's band of 15 %."""
    (row,) = spent.saved({"entries": [avoided(), {"kind": "stage", "footprint": {}}]})
    assert row[:2] == ("stopped", "training on to its end")
    assert row[2] == "3.00 (1.50 to 4.50)"
    assert row[3].startswith("979 (")


def test_the_page_shows_it_and_a_page_without_entries_has_no_empty_table():
    body = page.render(reported.digits() | {"entries": [avoided()]}).decode()
    assert 'id="avoided-table"' in body
    assert "training on to its end" in body
    assert 'id="reaches"' in body
    assert 'id="avoided-table"' not in page.render(reported.digits()).decode()


def test_why_ends_with_the_arithmetic_of_the_grams_and_what_was_saved():
    run = reported.digits()
    told = explain.lines(run, run["decisions"], [avoided()])
    grams = next(line for line in told if line.startswith("grams: "))
    grid, embodied = 0.0005095 * 379.069, 0.25778 - 0.0005095 * 379.069
    assert f"= {grid:.3f} g of the grid" in grams
    assert f"and {embodied:.4f} g embodied" in grams
    (saved,) = [line for line in told if line.startswith("saved by stopped: ")]
    assert "instead of: training on to its end" in saved
    assert len([line for line in told if line.startswith("    would have changed it: ")]) == len(run["decisions"])
    first, last = told[0], told.index(grams)
    assert first.startswith("dropped: s3://")
    assert last > told.index(next(line for line in told if line.startswith("deployment: ")))


def test_the_notification_says_what_was_saved_and_where_the_report_is():
    run = reported.digits() | {"report_uri": "s3://artifacts/projects/demo-digits/runs/r/report.html"}
    lines = record.notification("r", "demo-digits", "succeeded", run, region="eu-west-1")["message"].splitlines()
    assert view.saved(run) in lines
    assert lines[-1].startswith("https://eu-west-1.console.aws.amazon.com/s3/object/artifacts?")
    assert not [line for line in record.notification("r", "p", "failed", {})["message"].splitlines() if not line]
