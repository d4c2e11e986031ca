"""After `ebb forget`: what the functions make of drops whose data, or part of it, was forgotten."""

import boto3
import pytest

import identify_dataset
import plan_pipeline
from ebb import ledger, lineage, names
from ebb.aws.ledger import Ledger
from ebb.errors import DropRejectedError
from ebb_cli import forget
from ebb_cli.lineage import Known
from ebb_cli.target import Target
from integration.test_identify_dataset import OTHER_RUN, TABLE, ask, spec, succeed
from worked_run import ACCOUNT, ARTIFACTS, LANDING, LEDGER, NOW, REGION, RUN_ID, moment

MONDAY, TUESDAY = "cancer/data/monday.csv", "cancer/data/tuesday.csv"
THIRD_RUN = "cancer-20261125093000-bbbbbb"


@pytest.fixture
def forgotten(account):
    """Forget a place as the command does once it was told yes."""
    account.s3.put_bucket_versioning(Bucket=LANDING, VersioningConfiguration={"Status": "Enabled"})
    target = Target(boto3.Session(region_name=REGION), None, True, ACCOUNT, REGION, "ebb")
    outputs = {"LandingBucketName": LANDING, "ArtifactBucketName": ARTIFACTS, "LedgerTableName": LEDGER}
    target.__dict__["outputs"] = outputs

    def carry_out(key: str) -> None:
        known = Known(target)
        found = forget.look(known, lineage.place(key, LANDING), models=False)
        forget.carry_out(known, found, None, models=False)

    return carry_out


def run(account, context, key: str, body: bytes, run_id: str = RUN_ID) -> dict:
    """Identify a drop and record its success, unless it reuses another."""
    found = identify_dataset.handler(ask(account.drop(key, body), run_id=run_id), context)
    if found["outcome"] == "run":
        succeed(run_id, found["identity"])
    return found


def test_the_same_bytes_under_another_name_do_not_reuse_a_run_whose_drop_is_forgotten(account, context, forgotten):
    run(account, context, MONDAY, TABLE)
    assert run(account, context, TUESDAY, TABLE, OTHER_RUN)["outcome"] == "reuse"
    forgotten(MONDAY)
    assert run(account, context, "cancer/data/again.csv", TABLE, THIRD_RUN)["outcome"] == "run"


def test_what_is_appended_after_a_part_was_forgotten_is_added_to_the_rest(account, context, forgotten):
    spec(account, "data: {mode: append}")
    run(account, context, MONDAY, TABLE)
    run(account, context, TUESDAY, TABLE + b"500,1,no\n", OTHER_RUN)
    forgotten(MONDAY)
    found = run(account, context, "cancer/data/wednesday.csv", TABLE + b"600,1,no\n", THIRD_RUN)
    assert [each["key"] for each in found["sources"]] == [TUESDAY, "cancer/data/wednesday.csv"]


def test_a_forgotten_drop_that_is_tried_again_is_rejected(account, context, forgotten):
    drop = account.drop(MONDAY, TABLE)
    identify_dataset.handler(ask(drop), context)
    Ledger(LEDGER).apply(ledger.end_run(RUN_ID, 1, "cancer", "failed", now=moment(NOW), fields={}))
    forgotten(MONDAY)
    with pytest.raises(DropRejectedError, match="was deleted"):
        identify_dataset.handler(ask(drop, attempt=2), context)


def test_no_stage_of_a_forgotten_run_counts_as_finished_when_its_bytes_come_back(account, context, forgotten):
    """The curated data is gone: a retry that skipped `process` would train on nothing."""
    drop = account.drop(MONDAY, TABLE)
    work = identify_dataset.handler(ask(drop), context)["identity"]
    book = Ledger(LEDGER)
    book.put_stage(RUN_ID, "process", {"attempt": 1, "status": "finished", "identity": work})
    book.apply(ledger.end_run(RUN_ID, 1, "cancer", "failed", now=moment(NOW), fields={}))
    assert plan_pipeline._finished(book, RUN_ID, work) == {"process": 1}
    forgotten(MONDAY)
    assert plan_pipeline._finished(book, RUN_ID, work) == {}


def test_training_begins_anew_after_its_data_was_forgotten(account, context, forgotten):
    run(account, context, MONDAY, TABLE)
    served = {"run_id": RUN_ID, "original_uri": f"s3://{ARTIFACTS}/{names.run_prefix(RUN_ID)}a1/train/"}
    book = Ledger(LEDGER)
    book.apply(ledger.remember_served("cancer", 1, served))
    forgotten(MONDAY)
    assert book.project("cancer")["served"] == {"run_id": RUN_ID}
