"""Features: what a project publishes, who may learn from it, and what is refused."""

import json

import pytest

import identify_dataset
import plan_features
import plan_pipeline
import record_run
from aws_shapes import assert_valid
from ebb import forgetting, ledger, names
from ebb.aws.ledger import Ledger
from ebb.errors import InvalidSpecError, RejectionError
from integration.test_identify_dataset import KEY, OTHER_RUN, TABLE, ask, spec, succeed
from worked_run import ARTIFACTS, LANDING, LEDGER, NOW, RUN_ID, load, moment

BORROWER = "crows-20261124093000-cccccc"
SCHEMA = {
    "version": 1,
    "kind": "tabular",
    "task": "tabular-classification",
    "target": {"name": "label", "classes": ["no", "yes"]},
    "features": [{"name": "a", "kind": "numeric"}, {"name": "B (mm)", "kind": "categorical"}],
}
PROCESSED = {"attempt": 1, "status": "finished", "duration_s": 41.0, "instance_type": "ml.m5.large", "footprint": {
    "energy_kwh": {"value": 0.0004}, "carbon_g": {"value": 0.1}, "cost_usd": {"value": 0.0013}}}  # fmt: skip
TABLE_NAME = "sagemaker_featurestore.ebb_cancer__1_1"


@pytest.fixture
def schema(account) -> str:
    """The curated rows of the worked run, as far as anybody looks at them before training."""
    key = names.curated_prefix(RUN_ID) + "a1/schema.json"
    account.s3.put_object(Bucket=ARTIFACTS, Key=key, Body=json.dumps(SCHEMA).encode())
    return key


def planned(found: dict, context, **changes) -> dict:
    asked = load("plan_pipeline") | {"identified": found} | changes
    return plan_pipeline.handler(asked, context)


@pytest.fixture
def lender(account, context, schema) -> dict:
    """The project `cancer` has published what it learns from, and shares it with `crows`; returns its plan."""
    spec(account, "features: {share: [crows]}\n")
    found = identify_dataset.handler(ask(account.drop(KEY, TABLE)), context)
    plan, book = planned(found, context), Ledger(LEDGER)
    book.put_stage(RUN_ID, "process", PROCESSED | {"identity": found["identity"]})
    book.apply(ledger.change_run(RUN_ID, 1, {"task": "tabular-classification", "target": "label"}))
    made = plan_features.handler(
        {"run_id": RUN_ID, "attempt": 1, "project": "cancer", "plan": plan, "now": NOW}, context
    )
    report = {"status": "finished", "group": made["group"]["FeatureGroupName"], "table": TABLE_NAME, "rows": 200,
              "snapshot_id": "12345678901234567890"}  # fmt: skip
    asked = load("record_run_stage_finished") | {"stage": "features", "report_uri": plan["features"]["report_uri"]}
    account.put_report(asked["report_uri"], report)
    record_run.handler(asked, context)
    succeed(RUN_ID, found["identity"])
    return plan | {"made": made}


def borrow(account, context, text: str = "data: {features: cancer}\n", *, run_id: str = BORROWER, **drop) -> dict:
    """Drop the spec of the project `crows`, and identify it."""
    put = account.s3.put_object(Bucket=LANDING, Key="crows/pipeline.yaml", Body=text.encode())
    told = {"kind": "spec", "bucket": LANDING, "key": "crows/pipeline.yaml", "size_bytes": len(text)}
    told |= {"etag": put["ETag"].strip('"'), "sequencer": f"00{run_id[6:20]}", "uploaded_at": "2026-11-24T09:30:00Z"}
    return identify_dataset.handler(ask(told | drop, run_id=run_id, project="crows"), context)


def refused(account, context, **drop) -> str:
    with pytest.raises(InvalidSpecError) as error:
        borrow(account, context, **drop)
    return json.loads(str(error.value))["code"]


def test_the_requests_that_publish_are_valid_and_name_the_projects_own_places(lender):
    made = lender["made"]
    assert made["publish"]
    assert_valid("sagemaker", "CreateFeatureGroup", made["group"])
    assert_valid("sagemaker", "CreateProcessingJob", made["request"])
    assert made["group"]["OfflineStoreConfig"]["TableFormat"] == "Iceberg"
    assert "OnlineStoreConfig" not in made["group"], "it would cost while nobody asks"
    assert made["group"]["OfflineStoreConfig"]["S3StorageConfig"]["S3Uri"] == f"s3://{ARTIFACTS}/features/cancer"
    called = [each["FeatureName"] for each in made["group"]["FeatureDefinitions"]]
    assert called == ["ebb_row", "ebb_event_time", "ebb_run", "ebb_split", "ebb_position", "a", "b_mm", "label"]
    assert {made["group"][f"{name}FeatureName"] for name in ("RecordIdentifier", "EventTime")} <= set(called)
    assert made["request"]["NetworkConfig"] == {"EnableNetworkIsolation": False}
    told = next(each for each in lender["decisions"] if each["what"] == "features to register")
    assert "crows may learn from them" in told["reason"]
    assert "cancer-features" in {role["create"]["RoleName"].removeprefix("ebb-") for role in lender["roles"]}


def test_rows_that_are_no_table_are_not_published_and_the_record_says_why(account, context, lender, schema):
    account.s3.put_object(Bucket=ARTIFACTS, Key=schema, Body=json.dumps(SCHEMA | {"kind": "text"}).encode())
    plan = {name: value for name, value in lender.items() if name != "made"}
    asked = {"run_id": RUN_ID, "attempt": 1, "project": "cancer", "plan": plan, "now": NOW}
    assert plan_features.handler(asked, context)["publish"] is False
    told = [each for each in Ledger(LEDGER).story(RUN_ID).decisions if each["what"] == "features registered"]
    assert "those of tables" in told[-1]["reason"]


def test_another_project_learns_from_them_and_processes_nothing(account, context, lender):
    found = borrow(account, context)
    assert found["outcome"] == "run"
    assert [each["key"] for each in found["sources"]] == [KEY], "the objects behind the features"
    plan = planned(found, context, run_id=BORROWER, project="crows")
    assert (plan["process"]["needed"], plan["process"]["request"]) == (False, {})
    assert plan["features"]["borrowed"]
    curated = f"s3://{ARTIFACTS}/{names.curated_prefix(RUN_ID)}a1/"
    channels = {each["ChannelName"]: each["DataSource"]["S3DataSource"]["S3Uri"]
                for each in plan["train"]["request"]["InputDataConfig"]}  # fmt: skip
    assert channels["curated"] == curated == plan["artifacts"]["curated"]
    told = next(each for each in plan["decisions"] if each["what"] == "features")
    assert told["numbers"] == {"rows": 200, "seconds saved": 41.0, "kWh saved": 0.0004, "USD saved": 0.0013}
    assert TABLE_NAME in told["alternatives"][0]
    assert account.run(BORROWER)["task"] == "tabular-classification", "what process would have found"


def test_the_borrowers_roles_read_that_run_and_nothing_else_of_the_other_project(account, context, lender):
    plan = planned(borrow(account, context), context, run_id=BORROWER, project="crows")
    for role in plan["roles"]:
        kind = role["create"]["RoleName"].removeprefix("ebb-crows-")
        theirs = [place for statement in json.loads(role["policy"]["PolicyDocument"])["Statement"]
                  for place in statement["Resource"] if "cancer" in place]  # fmt: skip
        wanted = [f"arn:aws:s3:::{ARTIFACTS}/{names.curated_prefix(RUN_ID)}a1/*"]
        assert theirs == (wanted if kind in ("train", "compress", "compile") else []), kind


def test_the_same_features_again_start_nothing(account, context, lender):
    found, book = borrow(account, context), Ledger(LEDGER)
    book.apply(ledger.end_run(BORROWER, 1, "crows", "succeeded", now=moment(NOW), fields={}))
    book.apply(ledger.remember_identity(found["identity"], BORROWER, moment(NOW)))
    book.apply(ledger.remember_served("crows", 1, {"run_id": BORROWER}))
    again = borrow(account, context, run_id="crows-20261125093000-dddddd")
    assert (again["outcome"], again["reuses"]) == ("reuse", BORROWER)


def test_who_shares_no_more_is_believed_at_once_and_trains_nothing_again_for_it(account, context, lender):
    assert borrow(account, context)["outcome"] == "run"
    spec(account, "features: {publish: true}\n")
    again = identify_dataset.handler(ask(account.drop("cancer/data/b.csv", TABLE), run_id=OTHER_RUN), context)
    assert again["outcome"] == "reuse"
    assert refused(account, context, run_id="crows-20261125093000-dddddd") == "features-not-shared"


def test_who_begins_to_publish_runs_again(account, context, schema):
    found = identify_dataset.handler(ask(account.drop(KEY, TABLE)), context)
    succeed(RUN_ID, found["identity"])
    spec(account, "features: {share: [crows]}\n")
    again = identify_dataset.handler(ask(account.drop("cancer/data/b.csv", TABLE), run_id=OTHER_RUN), context)
    assert again["outcome"] == "run"


def test_with_whom_features_are_shared_is_no_other_work(account, context, lender):
    spec(account, "features: {share: [crows, bees]}\n")
    again = identify_dataset.handler(ask(account.drop("cancer/data/b.csv", TABLE), run_id=OTHER_RUN), context)
    assert again["outcome"] == "reuse"
    assert account.item("PROJECT#cancer", "PROJECT")["features_share"] == ["crows", "bees"]


def test_what_is_refused_says_what_to_do(account, context, lender, schema):
    account.s3.delete_object(Bucket=ARTIFACTS, Key=schema)
    assert refused(account, context) == "features-gone"
    Ledger(LEDGER).apply(forgetting.unpublish("cancer", "cancer-20260101000000-000000"))
    assert refused(account, context) == "features-gone", "of another run's features nothing was forgotten"
    Ledger(LEDGER).apply(forgetting.unpublish("cancer", RUN_ID))
    assert refused(account, context) == "features-missing"
    account.s3.put_object(Bucket=LANDING, Key="crows/data/rows.csv", Body=TABLE)
    etag = account.s3.head_object(Bucket=LANDING, Key="crows/data/rows.csv")["ETag"].strip('"')
    data = {"kind": "object", "key": "crows/data/rows.csv", "etag": etag}
    assert refused(account, context, **data) == "features-and-data"


def test_features_of_a_run_that_is_on_no_record_any_more_are_gone(account, context, lender):
    account.table.delete_item(Key=ledger.run_key(RUN_ID))
    assert refused(account, context) == "features-gone"


def test_a_project_does_not_borrow_from_itself(account, context, lender):
    with pytest.raises(RejectionError, match="names this project itself"):
        borrow(account, context, "data: {features: crows}\n")
