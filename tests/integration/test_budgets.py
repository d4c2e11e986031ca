"""Budgets through the ledger: set aside once, settled once, and never more given out than there is."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import on_run_ended
import plan_pipeline
import record_run
from ebb import accounting, budget_items, budgets, ledger, names
from ebb.aws.accounts import Accounts
from ebb.aws.budgets import Budgets
from ebb.aws.ledger import Ledger
from ebb.carbon import Band
from ebb.errors import DropRejectedError
from ebb.events import RunRequested
from ebb.footprint import Footprint
from ebb.spec import PipelineSpec
from worked_run import DROP, EXECUTION_ARN, IDENTITY, LEDGER, NOW, RUN_ID, SOURCE, load, moment

MONTH = "2026-11"
OTHER, THIRD = "cancer-20261123093001-aa01bb4c2d", "cancer-20261123093002-bb01bb4c2d"


@pytest.fixture
def book(account) -> Ledger:
    return Ledger(LEDGER)


def identified(book: Ledger, run_id: str = RUN_ID, *, attempt: int = 1, **spec: object) -> dict:
    """A run that has been identified with a spec: what `plan_pipeline` is called with."""
    asked = RunRequested.model_validate({"run_id": run_id, "attempt": attempt, "project": "cancer", "drop": DROP})
    resolved = PipelineSpec.model_validate(spec).resolved()
    assert book.apply(ledger.open_run(asked, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    found = {"identity": IDENTITY, "spec": resolved, "sources": [SOURCE.model_dump(mode="json")], "format": "csv"}
    assert book.apply(ledger.change_run(run_id, attempt, found))
    event = load("plan_pipeline")
    return event | {
        "run_id": run_id,
        "attempt": attempt,
        "identified": event["identified"] | {"spec": resolved},
    }


def limited(carbon_g: float, **more: object) -> dict:
    return {"carbon": {"budget": {"carbon": carbon_g, "per": "month", **more}}}


def failed(run_id: str, context, *, attempt: int = 1) -> None:
    record_run.handler(load("record_run_failed") | {"run_id": run_id, "attempt": attempt}, context)


def took_of(book: Ledger, run_id: str) -> float:
    run = book.run(run_id)
    assert run is not None
    return float(run["footprint"]["carbon_g"]["value"])


@pytest.fixture
def whole_g(book, context) -> float:
    """What the worked run sets aside, in grams."""
    plan = plan_pipeline.handler(identified(book, "cancer-20261123092900-0a0b0c0d0e"), context)
    failed("cancer-20261123092900-0a0b0c0d0e", context)
    Ledger(LEDGER)._table.delete_item(Key=budget_items.total_key("cancer", MONTH))
    return float(plan["admission"]["aside"]["carbon_g"])


def test_a_run_that_fits_sets_aside_its_longest_time_and_says_so(account, book, context, whole_g):
    plan = plan_pipeline.handler(identified(book, **limited(10 * whole_g)), context)
    assert plan["admission"]["outcome"] == "admit"
    predicted = sum(each["at_most"]["carbon_g"] for each in plan["predicted"].values())
    seen = Budgets(LEDGER).account("cancer", MONTH)
    assert seen.committed["carbon_g"] == seen.aside["carbon_g"] == pytest.approx(predicted)
    assert seen.under_way == (RUN_ID,)
    decision = next(each for each in book.story(RUN_ID).decisions if each["what"] == "budget")
    assert decision["chosen"] == "it fits"
    assert "this run may take" in decision["reason"]
    assert decision["numbers"]["wanted_carbon_g"] == pytest.approx(predicted)


def test_a_lambda_that_is_called_twice_sets_aside_once(book, context, whole_g):
    asked = identified(book, **limited(1.5 * whole_g))
    first, second = plan_pipeline.handler(asked, context), plan_pipeline.handler(asked, context)
    assert first == second
    assert Budgets(LEDGER).account("cancer", MONTH).committed["carbon_g"] == pytest.approx(whole_g)


def test_what_a_run_took_takes_the_place_of_what_it_set_aside(book, context, whole_g):
    plan_pipeline.handler(identified(book, **limited(10 * whole_g)), context)
    failed(RUN_ID, context)
    seen = Budgets(LEDGER).account("cancer", MONTH)
    assert 0 < took_of(book, RUN_ID) < whole_g
    assert seen.committed["carbon_g"] == pytest.approx(took_of(book, RUN_ID))
    assert seen.under_way == ()


def test_a_run_that_is_cancelled_from_outside_gives_back_what_it_set_aside(book, context, whole_g):
    plan_pipeline.handler(identified(book, **limited(10 * whole_g)), context)
    aborted = load("execution_aborted")
    aborted["detail"]["name"] = f"{RUN_ID}-a1"
    on_run_ended.handler(aborted, context)
    assert Budgets(LEDGER).account("cancer", MONTH).committed["carbon_g"] == 0


def test_two_runs_at_once_cannot_both_spend_the_last_gram(book, context, whole_g):
    """Both have read the same account, in which there is room for one."""
    runs = [RUN_ID, OTHER]
    asked = [identified(book, each, **limited(1.5 * whole_g, shrink=False)) for each in runs]

    def outcome(event: dict) -> str:
        try:
            return str(plan_pipeline.handler(event, context)["admission"]["outcome"])
        except DropRejectedError as error:
            return error.rejection.code

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(outcome, asked)) == ["admit", "over-budget"]
    assert Budgets(LEDGER).account("cancer", MONTH).committed["carbon_g"] == pytest.approx(whole_g)


def test_whoever_read_the_account_before_another_set_aside_is_refused_by_the_table(book):
    limit = budgets.Line("carbon_g", 100.0, 60.0)
    answers = [
        Budgets(LEDGER).reserve(
            "cancer", MONTH, run_id, 1,
            wanted=budgets.amounts({"carbon_g": 60.0}), lines=[limit], before=budgets.NOTHING, known=None, shrunk=0,
            now=moment(NOW),
        )
        for run_id in (RUN_ID, OTHER)
    ]  # fmt: skip
    assert answers == [True, False]
    assert Budgets(LEDGER).account("cancer", MONTH).committed["carbon_g"] == 60
    assert Budgets(LEDGER).run("cancer", MONTH, OTHER) is None


def test_a_run_that_does_not_fit_is_made_smaller_and_runs_so(book, context, whole_g):
    plan = plan_pipeline.handler(identified(book, **limited(0.8 * whole_g)), context)
    admission = plan["admission"]
    assert admission["outcome"] == "shrink"
    assert admission["aside"]["carbon_g"] <= 0.8 * whole_g
    told = json.loads(plan["train"]["request"]["HyperParameters"]["settings"])["spec"]
    assert told["train"]["rungs"] == admission["changes"]["train"].get("rungs", told["train"]["rungs"])
    assert told["compress"]["methods"] == admission["changes"]["compress"]["methods"] == ["quantize"]
    decision = next(each for each in book.story(RUN_ID).decisions if each["what"] == "budget")
    assert decision["chosen"].startswith("a smaller run: compress by quantize only")
    assert "too much" in decision["reason"]


def test_shrink_false_is_heeded(book, context, whole_g):
    with pytest.raises(DropRejectedError) as refused:
        plan_pipeline.handler(identified(book, **limited(0.8 * whole_g, shrink=False)), context)
    assert "remove shrink: false" in refused.value.rejection.remedy


def test_a_run_that_no_recipe_makes_fit_is_refused_with_the_arithmetic(book, context, whole_g):
    with pytest.raises(DropRejectedError) as refused:
        plan_pipeline.handler(identified(book, **limited(0.01 * whole_g)), context)
    rejection = refused.value.rejection
    assert (rejection.code, rejection.column) == ("over-budget", "carbon.budget")
    assert "too much" in rejection.message
    assert "no smaller recipe is known" in rejection.message
    assert "carbon.deadline" in rejection.remedy
    assert "2026-12-01" in rejection.remedy
    decision = next(each for each in book.story(RUN_ID).decisions if each["what"] == "budget")
    assert decision["chosen"] == "refuse"
    assert Budgets(LEDGER).account("cancer", MONTH).committed["carbon_g"] == 0


def test_a_run_with_time_waits_for_what_others_may_give_back_and_then_runs(book, context, whole_g):
    plan_pipeline.handler(identified(book, OTHER, **limited(1.2 * whole_g)), context)
    asked = identified(book, **{"carbon": {**limited(1.05 * whole_g)["carbon"], "deadline": 36_000}})
    waits = plan_pipeline.handler(asked, context)
    assert waits["admission"]["outcome"] == "wait"
    assert moment(waits["admission"]["until"]) == moment(NOW) + budgets.LOOK_AGAIN
    assert "1 run under way" in waits["admission"]["said"]
    failed(OTHER, context)
    later = asked | {"now": waits["admission"]["until"]}
    assert plan_pipeline.handler(later, context)["admission"]["outcome"] in ("admit", "shrink")
    told = [each["chosen"] for each in book.story(RUN_ID).decisions if each["what"] == "budget"]
    assert len(told) == 2
    assert told[0].startswith("waits until 2026-11-23 10:00 UTC")


def test_a_run_that_waits_for_the_month_takes_from_the_next_one(book, context, whole_g):
    plan_pipeline.handler(identified(book, OTHER), context)  # without a budget of its own, it counts all the same
    Ledger(LEDGER)._table.update_item(  # and has ended, having taken all of it
        Key=budget_items.run_key("cancer", MONTH, OTHER),
        UpdateExpression="SET #state = :settled",
        ExpressionAttributeNames={"#state": "state"},
        ExpressionAttributeValues={":settled": "settled"},
    )
    asked = identified(book, **{"carbon": {**limited(1.001 * whole_g)["carbon"], "deadline": 14 * 86_400}})
    waits = plan_pipeline.handler(asked, context)
    assert waits["admission"]["until"] == "2026-12-01T00:00:00Z"
    plan = plan_pipeline.handler(asked | {"now": waits["admission"]["until"]}, context)
    assert plan["admission"]["month"] == "2026-12"
    assert Budgets(LEDGER).account("cancer", "2026-12").committed["carbon_g"] == pytest.approx(whole_g)
    failed(RUN_ID, context)
    assert Budgets(LEDGER).account("cancer", "2026-12").committed["carbon_g"] == pytest.approx(took_of(book, RUN_ID))


def test_what_nobody_could_settle_is_found_by_the_next_run_that_needs_it(book, context, whole_g):
    plan_pipeline.handler(identified(book, THIRD, **limited(2 * whole_g)), context)
    failed(THIRD, context)  # it took a little: moto cannot add to a decimal that is zero again
    plan_pipeline.handler(identified(book, OTHER, **limited(2 * whole_g)), context)
    ended = ledger.end_run(OTHER, 1, "cancer", "failed", now=moment(NOW), fields={})
    assert book.apply(ended)  # and whoever did it died before it could settle
    limit = took_of(book, THIRD) + 1.01 * whole_g
    plan = plan_pipeline.handler(identified(book, **limited(limit, shrink=False)), context)
    assert plan["admission"]["outcome"] == "admit"


def test_a_second_attempt_counts_what_the_first_one_took_once(book, context, whole_g):
    plan_pipeline.handler(identified(book, **limited(10 * whole_g)), context)
    failed(RUN_ID, context)
    first = took_of(book, RUN_ID)
    plan_pipeline.handler(identified(book, attempt=2, **limited(10 * whole_g)), context)
    during = Budgets(LEDGER).account("cancer", MONTH).committed["carbon_g"]
    assert during == pytest.approx(first + whole_g)
    on_run_ended.handler(_aborted(2), context)
    assert Budgets(LEDGER).account("cancer", MONTH).committed["carbon_g"] == pytest.approx(first)


def _aborted(attempt: int) -> dict:
    event = load("execution_aborted")
    event["detail"]["name"] = f"{RUN_ID}-a{attempt}"
    return event


def test_the_late_end_of_an_older_attempt_leaves_the_newer_ones_alone(book, context, whole_g):
    plan_pipeline.handler(identified(book, **limited(10 * whole_g)), context)
    failed(RUN_ID, context)
    plan_pipeline.handler(identified(book, attempt=2, **limited(10 * whole_g)), context)
    before = Budgets(LEDGER).account("cancer", MONTH)
    on_run_ended.handler(_aborted(1), context)
    assert Budgets(LEDGER).account("cancer", MONTH) == before


def test_what_endpoints_took_leaves_less_for_runs(book, context, whole_g):
    took = Footprint(**{name: Band.exact(0.9 * whole_g) for name in ("energy_kwh", "carbon_g", "cost_usd", "water_l")})
    hour = accounting.Entry(
        kind="serving", id="ebb-cancer#2026-11-22T09", project="cancer", at=moment(NOW) - timedelta(days=1),
        footprint=took, endpoint="ebb-cancer",
    )  # fmt: skip
    assert Accounts(LEDGER).write(hour)
    with pytest.raises(DropRejectedError, match="taken by serving"):
        plan_pipeline.handler(identified(book, **limited(1.2 * whole_g, shrink=False)), context)


def test_a_run_that_never_planned_has_nothing_to_settle(book, context):
    identified(book)
    record_run.handler(load("record_run_reused") | {"run_id": RUN_ID}, context)
    assert Budgets(LEDGER).run("cancer", MONTH, RUN_ID) is None
    assert names.project_of(RUN_ID) == "cancer"
