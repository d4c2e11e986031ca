"""`ebb budget`, and what `ebb plan`, `runs` and `show` say of a budget."""

import json
from datetime import UTC, datetime

import pytest

from ebb import budget_items, budgets, ledger

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
ROWS = "".join(f"{number},{number % 7},{'yes' if number % 3 else 'no'}\n" for number in range(200))


@pytest.fixture
def table(target):
    return target.session.resource("dynamodb").Table("ledger")


def send(table, writes: list) -> None:
    for each in writes:
        for kind, request in each.items():
            table.update_item(**request) if kind == "Update" else table.put_item(**request)


@pytest.fixture
def november(table):
    """One run has taken 40 g, another has set 25 g aside, and an endpoint took 10 g, of 100 g."""
    line = budgets.Line("carbon_g", 100.0, 30.0)
    for run_id, grams in (("churn-20261122040506-aaa111", 30.0), ("churn-20261123040506-abc123", 25.0)):
        wanted = budgets.amounts({"carbon_g": grams, "cost_usd": 0.5})
        send(table, budget_items.reserve(
            "churn", "2026-11", run_id, 1, wanted=wanted, lines=[line], before=budgets.NOTHING, known=None, shrunk=0,
            now=NOW,
        ))  # fmt: skip
    first = "churn-20261122040506-aaa111"
    known = table.get_item(Key=budget_items.run_key("churn", "2026-11", first))["Item"]
    took = budgets.amounts({"carbon_g": 40.0, "cost_usd": 0.25})
    send(
        table,
        budget_items.settle("churn", "2026-11", first, 1, known=ledger.from_item(known), took=took, now=NOW),
    )
    served = {"pk": "FOOTPRINT#churn#2026-11", "sk": "serving#ebb-churn#2026-11-23T08"}
    table.put_item(Item=ledger.to_item(served | {"footprint": {"carbon_g": {"low": 5, "value": 10, "high": 20}}}))


def test_a_months_budget_is_what_was_taken_set_aside_served_and_left(ebb, november):
    done = ebb("budget", "churn", "--month", "2026-11", "--json")
    assert done.exit_code == 0, done.output
    (churn,) = json.loads(done.stdout)["projects"]
    grams = {name: churn[name]["carbon_g"] for name in ("limits", "taken", "aside", "serving", "left")}
    assert grams == {"limits": 100, "taken": 40, "aside": 25, "serving": 10, "left": 25}
    assert churn["taken"]["cost_usd"] == pytest.approx(0.25)
    assert [run["run_id"] for run in churn["under_way"]] == ["churn-20261123040506-abc123"]


def test_people_read_a_row_for_each_quantity_and_who_has_set_aside(ebb, november):
    told = ebb("budget", "--month", "2026-11").stdout
    assert "churn" in told
    assert "100 " in told
    assert "churn-20261123040506-abc123 has set aside 25.0 g" in told


def test_a_month_in_which_nothing_ran_says_so(ebb, november):
    assert "No project took anything in 2026-10" in ebb("budget", "--month", "2026-10").stdout
    assert "The project other took nothing in 2026-11" in ebb("budget", "other", "--month", "2026-11").stdout


def test_what_is_no_month_is_wrong_usage(ebb, target):
    assert ebb("budget", "--month", "november").exit_code == 2


def spec_of(tmp_path, budget: str):
    (tmp_path / "table.csv").write_text("a,b,label\n" + ROWS)
    (tmp_path / "spec.yaml").write_text(f"carbon: {{budget: {budget}}}\n")
    return tmp_path / "table.csv", "--spec", tmp_path / "spec.yaml"


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        ("2kg", "it fits"),
        ("0.6g", "a smaller run would: compress by quantize only"),
        ("{carbon: 0.6g, per: run, shrink: false}", "it does not fit"),
        ("0.001g", "it does not fit"),
    ],
)
def test_a_plan_says_what_its_budget_would_make_of_it(ebb, tmp_path, budget, verdict):
    done = ebb("plan", *spec_of(tmp_path, budget), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["budget"]["verdict"].startswith(verdict)
    assert f"budget: {verdict}" in ebb("plan", *spec_of(tmp_path, budget)).stdout


def test_without_a_project_a_plan_is_judged_against_a_whole_month(ebb, tmp_path):
    told = ebb("plan", *spec_of(tmp_path, "{carbon: 2kg}")).stdout
    assert "of a whole month; --project NAME counts what is gone" in told


def test_a_run_that_waits_for_its_budget_says_until_when(ebb, table):
    run_id = "churn-20261123040506-abc123"
    item = {
        **ledger.run_key(run_id), "run_id": run_id, "project": "churn", "status": "running", "attempt": 1,
        "created_at": "2026-11-23T04:05:06Z", "gsi_pk": "RUNS", "gsi_sk": f"2026-11-23T04:05:06Z#{run_id}",
        "admission": {"outcome": "wait", "until": "2026-12-01T00:00:00Z", "said": "100 g a month; the month turns"},
    }  # fmt: skip
    table.put_item(Item=item)
    assert "for its budget" in " ".join(ebb("runs").stdout.split())
    assert "100 g a month; the month turns" in ebb("show", run_id).stdout
