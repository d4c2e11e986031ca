"""The report of a run: what stands in the page, that it is a valid document, and that nobody's text becomes markup."""

import re

import html5lib
import pytest

from ebb import figures
from ebb.report import charts, greener, page, view
from unit import reported

NAMESPACE = {"h": "http://www.w3.org/1999/xhtml"}
TOP = ("footprint", "energy_kwh"), ("footprint", "carbon_g"), ("footprint", "cost_usd")


def text_of(run: dict) -> str:
    tree = html5lib.parse(page.render(run).decode())
    return " ".join(" ".join(tree.itertext()).split())


@pytest.fixture(scope="module")
def told() -> str:
    return text_of(reported.digits())


@pytest.mark.parametrize("made", [reported.digits, reported.residuals, reported.failed], ids=lambda each: each.__name__)
def test_the_page_is_valid_html(made):
    html5lib.HTMLParser(strict=True).parse(page.render(made()).decode())


def test_a_record_that_holds_almost_nothing_has_a_page():
    assert "rejected" in text_of({"run_id": "r", "project": "p", "status": "rejected"})


def test_rows_are_counted_in_whole_numbers():
    run = reported.digits() | {"rows": {"read": 4900, "train": 34240}}
    assert "read 4,900, train 34,240" in text_of(run)


def test_nothing_is_fetched_and_no_script_runs():
    body = page.render(reported.digits()).decode()
    assert not re.findall(r"""(?:src|href|action)\s*=\s*(?!"#|"data:,)""", body), "links lead into the page only"
    assert not re.findall(r"<(?:script|iframe|object|embed|base)\b|@import|url\(|\son\w+=", body)
    assert "default-src 'none'" in body


def test_text_of_users_and_jobs_stays_text():
    run = reported.digits()
    run["project"] = run["chosen"] = run["drop"]["key"] = reported.HOSTILE
    run["spec"]["train"]["entry_point"] = run["decisions"][0]["reason"] = reported.HOSTILE
    run["comparison"]["shipped"]["mistakes"]["labels"][0] = reported.HOSTILE
    run["candidates"][0]["name"] = run["stages"][0]["instance_type"] = reported.HOSTILE
    for made in (run, reported.failed()):
        body = page.render(made).decode()
        assert "<script" not in body
        assert "&lt;script&gt;" in body


@pytest.mark.parametrize("path", TOP, ids=lambda path: path[1])
def test_the_footprint_stands_there_with_its_band(told, path):
    band = reported.digits()[path[0]][path[1]]
    for end in ("low", "value", "high"):
        assert figures.number(band[end]) in told


def test_each_stage_stands_there_with_its_seconds_and_energy(told):
    for stage in reported.digits()["stages"]:
        assert f"{stage['stage']} {figures.duration(stage['duration_s'])}" in told
        assert figures.number(stage["footprint"]["energy_kwh"]["value"]) in told


def test_each_candidate_stands_there_with_its_figures_and_verdict(told):
    for each in reported.digits()["candidates"]:
        assert each["verdict"] in told
        if each["status"] == "measured":
            assert figures.number(each["quality"]["validation"], 4) in told
            assert figures.number(each["cpu_ms_per_prediction"]) in told


def test_each_decision_stands_there_with_reason_numbers_and_alternatives(told):
    for each in reported.digits()["decisions"]:
        assert each["reason"] in told
        for name in each.get("numbers") or {}:
            assert name in told
        for other in each.get("alternatives") or ():
            assert other in told


def test_both_models_stand_there_side_by_side(told):
    comparison = reported.digits()["comparison"]
    for side in ("original", "shipped"):
        assert figures.number(comparison[side]["quality"]["test"], 4) in told
        assert figures.size(comparison[side]["size_bytes"]) in told
        for band in comparison[side]["per_million"].values():
            assert f"{figures.number(band['value'])} ({figures.number(band['low'])} to" in told


def test_the_counterfactual_is_told_with_what_it_is_against():
    said = view.saved(reported.digits())
    assert "72 % less" in said
    assert "against the model as it was trained" in said
    assert view.saved({"status": "failed"}) == ""
    assert "older" in view.saved({"status": "reused", "reuses": "older"})


def test_a_model_that_takes_more_is_not_said_to_save():
    run = reported.digits()
    run["comparison"]["shipped"], run["comparison"]["original"] = (
        run["comparison"]["original"],
        run["comparison"]["shipped"],
    )
    assert "% more" in view.saved(run)


def test_a_failure_is_told_with_its_remedy_and_what_to_call(told):
    failure = text_of(reported.failed())
    for part in ("What went wrong", "JobFailed", "stage train", "Drop it again.", "ebb retry"):
        assert part in failure
    assert "What went wrong" not in told


def test_the_confusion_matrix_holds_every_count():
    shown = view.page(reported.digits()).confusion
    assert sum(cell.count for _, row in shown.rows for cell in row) == reported.TEST_ROWS
    assert [row[i].right for i, (_, row) in enumerate(shown.rows)] == [True] * 10


def test_residuals_stand_in_their_order():
    shown = view.page(reported.residuals()).residuals
    assert 0 < shown.low < shown.quarter < shown.middle < shown.three_quarters < shown.high < 100
    assert shown.quarter < shown.zero < shown.middle


def test_a_record_too_long_for_a_page_loses_the_figures_of_its_decisions_and_says_so(monkeypatch):
    whole = page.render(reported.digits())
    monkeypatch.setattr(page, "MOST_BYTES", len(whole) - 1)
    short = page.render(reported.digits())
    assert len(short) < len(whole)
    assert b"left out here" in short
    assert b"left out here" not in whole


POINTS = [charts.Point("lean", "front", 1.0, 0.90, ""), charts.Point("good", "shipped", 4.0, 0.95, "")]


def test_the_better_stands_higher_and_the_leaner_further_left():
    lean, good = charts.pareto(POINTS, floor=0.8, better_up=True).marks
    assert lean.x < good.x
    assert good.y < lean.y, "pixels are counted from above"
    assert lean.y < charts.pareto(POINTS, floor=0.8, better_up=True).floor


def test_of_errors_the_smaller_stands_higher():
    lean, good = charts.pareto(POINTS, floor=None, better_up=False).marks
    assert lean.y < good.y


def test_energies_far_apart_are_drawn_on_a_logarithmic_scale():
    near = charts.pareto(POINTS, floor=None, better_up=True)
    far = charts.pareto([*POINTS, charts.Point("large", "beaten", 400.0, 0.95, "")], floor=None, better_up=True)
    assert (near.logarithmic, far.logarithmic) == (False, True)
    assert all(0 <= each.at <= 100 for each in far.across)


def test_one_candidate_alone_has_a_plot():
    (only,) = charts.pareto(POINTS[:1], floor=None, better_up=True).marks
    assert 0 < only.x < 100


def test_bars_stand_where_the_stages_ran_and_share_the_energy():
    bars, whole_s = charts.timeline([(100, 150), None, (150, 200)], [3.0, None, 1.0])
    assert whole_s == 100
    assert bars[1] is None
    assert (bars[0].at, bars[0].width, bars[0].share) == (0, 50, 75)
    assert (bars[2].at, bars[2].width, bars[2].share) == (50, 50, 25)


@pytest.mark.parametrize(
    ("part", "drawn_from"),
    [
        pytest.param("eu-north-1 (9 g/kWh)", "the Region of the run", id="a cleaner Region"),
        pytest.param("Recipes that were tried and not taken (net)", "the ladder", id="recipes in vain"),
        pytest.param("Building the images", "the stage images", id="images"),
        pytest.param("The stage train used 31 % of ml.m5.large", "its load", id="an idle machine"),
    ],
)
def test_advice_comes_with_the_figures_it_is_drawn_from(part, drawn_from):
    assert any(part in line for line in greener.advice(reported.digits())), drawn_from


def test_a_run_in_the_cleanest_region_is_not_sent_elsewhere():
    run = reported.digits()
    run["execution_arn"] = run["execution_arn"].replace("us-east-1", "eu-north-1")
    assert not any("Another Region" in line for line in greener.advice(run))
    assert list(greener.advice({})) == []
