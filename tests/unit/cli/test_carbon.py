"""`ebb carbon` and `ebb publish`: what a user reads, and what a program does."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ebb import accounting, ledger
from ebb.accounting import Counterfactual
from ebb.carbon import Band
from ebb.footprint import made_of
from ebb_cli import carbon
from ebb_cli.problems import CommandError
from unit.cli.conftest import RUN_ID

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def booked(target):
    """Two entries of two projects and months, with their totals, as the functions write them."""
    table = target.session.resource("dynamodb").Table("ledger")

    def book(project: str, at: datetime, kwh: float, instead_kwh: float) -> None:
        used, other = (
            made_of(Band.exact(each), Band.exact(10.0), Band.exact(0.5), region="us-east-1")
            for each in (kwh, instead_kwh)
        )
        made = accounting.stage_entry(
            project=project, run_id=f"{project}-20261123040506-abc123", attempt=1, stage="train", job="j", at=at,
            spent=used, usage={"region": "us-east-1"}, counterfactual=Counterfactual("at once", other),
        )  # fmt: skip
        put, total = accounting.writes(made)
        table.put_item(**put)
        table.update_item(**total)

    book("churn", NOW, 2.0, 3.0)
    book("loans", datetime(2026, 10, 2, tzinfo=UTC), 1.0, 1.0)
    return book


def of(ebb: Any, *arguments: str) -> dict[str, Any]:
    done = ebb("carbon", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_was_spent_and_saved_is_summed_over_projects_and_months(ebb, booked):
    """3 kWh at 379.069 g/kWh and 20 g embodied: 1,157.2 g; saved is 1 kWh, 379.1 g."""
    found = of(ebb)
    assert found["total"]["entries"] == 2
    assert found["total"]["spent"]["energy_kwh"]["value"] == pytest.approx(3)
    assert found["total"]["spent"]["carbon_g"]["value"] == pytest.approx(1157.207)
    assert found["total"]["saved"]["carbon_g"]["value"] == pytest.approx(379.069)
    assert set(found["projects"]) == {"churn", "loans"}
    assert found["kinds"]["stage"]["entries"] == 2


def test_one_project_and_a_time_alone(ebb, booked):
    assert set(of(ebb, "--project", "loans")["projects"]) == {"loans"}
    assert set(of(ebb, "--since", "2026-11")["projects"]) == {"churn"}
    assert of(ebb, "--since", "2026-11-24")["total"]["entries"] == 0


def test_the_other_signal_counts_the_same_energy_otherwise_and_says_from_what(ebb, booked):
    average, marginal = of(ebb), of(ebb, "--signal", "marginal")
    assert marginal["total"]["spent"]["energy_kwh"] == average["total"]["spent"]["energy_kwh"]
    assert marginal["total"]["spent"]["carbon_g"]["value"] == pytest.approx(3 * 565 + 20)
    assert marginal["by_signal"] == average["by_signal"]
    assert "ipcc.ch" in marginal["signal_source"]["source"]
    assert average["signal_source"] is None


def test_a_budget_of_the_newest_run_is_judged_by_both_signals(ebb, booked, put):
    """2 kWh in a month: 768 g by the average, 1,140 g by the margin."""
    put(spec={"carbon": {"budget": {"carbon": 1000.0, "per": "month"}}})
    found = next(each for each in of(ebb)["changes"] if each["decision"].startswith("budget of churn"))
    assert found["turns"] is True
    assert found["average"] == "within the budget"
    told = ebb("carbon").output
    assert "budget of churn in 2026-11: within the budget -> above it" in told


def test_people_read_the_sums_with_their_bands(ebb, booked):
    told = ebb("carbon", "--signal", "marginal").output
    assert "Spent: 3.00 (3.00 to 3.00) kWh" in told
    assert "Saved: 1.00 (1.00 to 1.00) kWh" in told
    assert "By the other signal" in told
    assert "confidence low" in told


def test_nothing_booked_yet_is_said(ebb, target):
    assert "Nothing has been booked yet" in ebb("carbon").output


def test_an_unknown_signal_or_time_is_refused(ebb, target):
    refused = ebb("carbon", "--signal", "best")
    assert refused.exit_code != 0
    with pytest.raises(CommandError, match="is no time"):
        carbon.moment("yesterday", NOW)
    assert carbon.moment("30d", NOW) == datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert carbon.moment("2026-11", NOW) == datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def seen(target):
    calls: list[dict[str, Any]] = []
    events = target.session.events
    hook = "provide-client-params.eventbridge.PutEvents"
    events.register(hook, lambda params, **_: calls.extend(params["Entries"]), unique_id="seen")
    yield calls
    events.unregister(hook, unique_id="seen")


def test_decisions_are_sent_once_more_with_their_ids(ebb, target, put, seen):
    put()
    table = target.session.resource("dynamodb").Table("ledger")
    for item in ledger.decision_items(RUN_ID, "plan", [{"what": "instance for train", "chosen": "x", "reason": "y"}]):
        table.put_item(Item=item)
    other = "loans-20261123040506-abc124"
    table.put_item(Item=ledger.decision_items(other, "plan", [{"what": "work", "chosen": "run", "reason": "z"}])[0])
    for _ in range(2):
        assert json.loads(ebb("publish", RUN_ID, "--json").stdout) == {"published": 1, "run_id": RUN_ID}
    assert len({json.loads(each["Detail"])["id"] for each in seen}) == 1
    assert "2 decisions sent" in ebb("publish").output
