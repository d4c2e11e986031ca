"""What a run took is booked when it ends, once; and what was booked stands in its record and in its report."""

import json

import pytest

import on_run_ended
import record_run
from ebb import accounting, ledger, names
from ebb.aws import publishing
from ebb.aws.accounts import Accounts
from ebb.carbon import Band
from ebb.events import RunRequested
from ebb.footprint import made_of
from integration.test_run import REPORT, book, finish
from worked_run import DROP, EXECUTION_ARN, LEDGER, NOW, REGION, RUN_ID, load, moment

__all__ = ["book"]


def test_the_record_holds_what_was_booked_for_the_run_and_the_report_shows_it(account, book, context):
    """Of the project's month only what is of this run."""
    used = made_of(Band.exact(2.0), Band.exact(1.0), Band.exact(0.1), region=REGION)
    for run_id in (RUN_ID, "cancer-20261123093001-3f9a1c07bf"):
        entry = accounting.avoided_entry(
            "window", project="cancer", id=run_id, at=moment(NOW), instead_of="running at once", would_have=used,
            run_id=run_id,
        )  # fmt: skip
        put, _ = accounting.writes(entry)
        account.table.put_item(**put)
    on_run_ended.handler(load("execution_aborted"), context)
    run = book.run(RUN_ID)
    assert [each["run_id"] for each in account.json(run["record_uri"])["entries"]] == [RUN_ID]
    bucket, _, key = run["report_uri"].removeprefix("s3://").partition("/")
    assert b"running at once" in account.s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def month() -> dict:
    return Accounts(LEDGER).month("cancer", "2026-11")


def metrics(capsys) -> list[dict]:
    """Return what CloudWatch makes of the log: lines of the embedded metric format."""
    lines = [line for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    return [json.loads(line) for line in lines]


def test_a_run_that_ends_books_its_jobs_once_however_often_its_end_is_told(account, book, context, capsys):
    finish(account, context, "train", REPORT)
    on_run_ended.handler(load("execution_failed"), context)
    (entry,) = month()["entries"]
    assert entry["sk"].startswith(f"stage#{RUN_ID}#1#train#")
    assert entry["footprint"] == book.run(RUN_ID)["footprint"] | {
        "carbon_operational_g": entry["footprint"]["carbon_operational_g"]
    }
    before = month()["total"]
    (told,) = metrics(capsys)
    on_run_ended.handler(load("execution_failed"), context)
    assert month()["total"] == before
    assert before["entries"] == 1
    assert metrics(capsys) == [], "what stands already is not published again"
    assert told["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Ebb"
    assert told["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["Project"]]
    assert told["Project"] == "cancer"
    assert told["CarbonG"] == [pytest.approx(entry["footprint"]["carbon_g"]["value"])]
    assert publishing.SAVED not in told, "nothing was saved, and a metric is billed by the hour in which it is sent"


def test_the_record_and_the_report_hold_what_the_run_itself_booked(account, book, context):
    finish(account, context, "train", REPORT)
    on_run_ended.handler(load("execution_failed"), context)
    entries = account.json(book.run(RUN_ID)["record_uri"])["entries"]
    assert [each["stage"] for each in entries] == ["train"]


def test_jobs_of_a_rejected_run_are_booked_too(account, book, context):
    finish(account, context, "train", REPORT)
    record_run.handler(load("record_run_rejected"), context)
    assert {each["kind"] for each in month()["entries"]} == {"stage"}
    assert book.run(RUN_ID)["status"] == "rejected"


def test_a_drop_that_was_done_before_books_what_doing_it_again_would_have_taken(account, book, context):
    finish(account, context, "train", REPORT)
    on_run_ended.handler(load("execution_failed"), context)
    spent = month()["total"]["spent_carbon_g"]
    again = "cancer-20261123103000-3f9a1c07be"
    asked = RunRequested.model_validate({"run_id": again, "attempt": 1, "project": "cancer", "drop": DROP})
    assert book.apply(ledger.open_run(asked, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    told = load("record_run_reused") | {"run_id": again, "reuses": RUN_ID}
    record_run.handler(told, context)
    total = month()["total"]
    assert total["spent_carbon_g"] == pytest.approx(spent)
    assert total["saved_carbon_g"] == pytest.approx(spent)
    entries = account.json(book.run(again)["record_uri"])["entries"]
    assert [f"{each['kind']}#{each['id']}" for each in entries] == [f"avoided#reused#{again}"]
    assert names.created_at(again) == moment(entries[0]["at"])
