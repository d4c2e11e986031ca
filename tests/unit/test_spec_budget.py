"""How a budget is written in a spec."""

from textwrap import dedent

import pytest

from ebb import spec
from ebb.errors import InvalidSpecError
from ebb.spec_budget import BudgetSpec


def parse(text: str) -> spec.PipelineSpec:
    return spec.parse(dedent(text).encode(), file="pipeline.yaml")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("500g", BudgetSpec(carbon=500, per="run")),
        ("2kg", BudgetSpec(carbon=2000, per="run")),
        ("0.5 kWh", BudgetSpec(energy=0.5, per="run")),
        ("5 USD", BudgetSpec(cost=5, per="run")),
        ("{carbon: 500g, energy: 800Wh, cost: 5USD}", BudgetSpec(carbon=500, energy=0.8, cost=5, per="month")),
        ("{energy: 2kWh, per: run, shrink: false}", BudgetSpec(energy=2, per="run", shrink=False)),
    ],
)
def test_a_plain_amount_is_each_runs_and_fields_are_a_months(written, meant):
    asked = parse(f"carbon: {{budget: {written}}}\n")
    assert asked.carbon.budget == meant
    assert spec.PipelineSpec.model_validate(asked.resolved()) == asked
    assert asked.not_acted_on() == []


@pytest.mark.parametrize(
    ("written", "field", "told"),
    [
        pytest.param("5", "carbon.budget", "500g", id="a number without a unit"),
        pytest.param("5 EUR", "carbon.budget", "5 USD", id="another currency"),
        pytest.param("0g", "carbon.budget.carbon", "greater than 0", id="nothing at all"),
        pytest.param("{carbon: 5USD}", "carbon.budget.carbon", "500g", id="money for carbon"),
        pytest.param("{cost: 5kWh}", "carbon.budget.cost", "5 USD", id="energy for cost"),
        pytest.param("{energy: 5}", "carbon.budget.energy", "2 kWh", id="energy without its unit"),
        pytest.param("{per: month}", "carbon.budget", "limits nothing", id="no limit"),
        pytest.param("{carbon: 5g, per: week}", "carbon.budget.per", "month", id="an unknown span"),
        pytest.param("{carbon: 5g, per: month, shrnk: true}", "carbon.budget.shrnk", "shrink", id="a typing error"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_to_write(written, field, told):
    with pytest.raises(InvalidSpecError) as refused:
        parse(f"carbon: {{budget: {written}}}\n")
    rejection = refused.value.rejection
    assert field in f"{rejection.column} {rejection.message}"
    assert told in f"{rejection.message} {rejection.remedy}"


def test_a_spec_that_an_earlier_version_resolved_still_reads():
    asked = spec.PipelineSpec.model_validate({"carbon": {"budget": 500.0, "signal": "average"}})
    assert asked.carbon.budget == BudgetSpec(carbon=500, per="run")
