"""plan_scoring and the end of a scoring run, on a ledger and buckets of moto."""

from datetime import datetime
from typing import Any

import pytest

import on_upload
import plan_scoring
import record_run
from ebb import ledger
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError, DropRejectedError
from worked_run import ARTIFACTS, LANDING, LEDGER

NOW = "2026-11-24T09:30:05.120Z"
RUN = "pets-20261124093000-0a1b2c3d4e"
SERVED = {"run_id": "pets-20261123093000-3f9a1c07be", "candidate": "student", "bundle_uri": f"s3://{ARTIFACTS}/b"}


@pytest.fixture
def book(account) -> Ledger:
    found = Ledger(LEDGER)
    found.apply(ledger.remember_served("pets", 1, SERVED))
    return found


def asked(account, *, key: str = "pets/score/new.csv", kind: str = "object", put: bool = True, **more: Any) -> dict:
    if put:
        account.s3.put_object(Bucket=LANDING, Key=key, Body=b"x\n1\n", Metadata={"ebb-drop-id": "d1"})
    drop = {"kind": kind, "bucket": LANDING, "key": key, "size_bytes": 4, "etag": "e", "sequencer": "0A",
            "uploaded_at": NOW}  # fmt: skip
    given = {"run_id": RUN, "attempt": 1, "project": "pets", "drop": drop}
    return given | {"execution_arn": "arn:aws:states:x", "now": NOW} | more


def test_a_file_is_planned_and_its_run_says_what_it_is(account, book, context):
    plan = plan_scoring.handler(asked(account), context)
    manifest = account.json(plan["transform"]["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
    assert manifest == [{"prefix": f"s3://{LANDING}/"}, "pets/score/new.csv"]
    run = book.run(RUN)
    assert (run["status"], run["purpose"], run["scored_by"]) == ("running", "score", SERVED["run_id"])
    assert run["drop"]["drop_id"] == "d1"


def test_a_folder_is_scored_without_its_marker(account, book, context):
    for name in ("a.csv", "b.csv", "_SUCCESS"):
        account.s3.put_object(Bucket=LANDING, Key=f"pets/score/week/{name}", Body=b"x\n1\n")
    plan = plan_scoring.handler(asked(account, key="pets/score/week/_SUCCESS", kind="prefix"), context)
    manifest = account.json(plan["transform"]["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
    assert manifest[1:] == ["pets/score/week/a.csv", "pets/score/week/b.csv"]


def test_a_file_that_is_gone_is_rejected(account, book, context):
    with pytest.raises(DropRejectedError, match="object-missing"):
        plan_scoring.handler(asked(account, put=False), context)


def test_without_a_model_there_is_nothing_to_score_with(account, context):
    with pytest.raises(DropRejectedError, match="no-model"):
        plan_scoring.handler(asked(account), context)


def test_a_run_that_has_ended_is_not_planned_again(account, book, context):
    plan_scoring.handler(asked(account), context)
    moment = datetime.fromisoformat(NOW)
    book.apply(ledger.end_run(RUN, 1, "pets", "cancelled", now=moment, fields={}))
    with pytest.raises(AttemptOutdatedError):
        plan_scoring.handler(asked(account), context)


def test_a_scored_run_is_charged_for_its_transform_and_says_where_the_file_is(account, book, context):
    plan = plan_scoring.handler(asked(account), context)
    transform = {
        "TransformJobName": f"{RUN}-a1-score",
        "TransformJobArn": "arn:aws:sagemaker:us-east-1:123456789012:transform-job/x",
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        "TransformStartTime": "2026-11-24T09:30:10Z",
        "TransformEndTime": "2026-11-24T09:31:10Z",
    }
    told = {"action": "scored", "run_id": RUN, "attempt": 1, "project": "pets", "now": NOW}
    message = record_run.handler(told | {"plan": plan, "transform": transform}, context)
    run = book.run(RUN)
    assert (run["status"], run["scored_uri"]) == ("succeeded", plan["told"]["scored_uri"])
    assert book.stage(RUN, "score")["duration_s"] == 60
    assert run["footprint"]["cost_usd"]["value"] == pytest.approx(0.115 / 60, rel=0.01)
    assert plan["told"]["scored_uri"] in message["message"]


def test_what_is_dropped_below_score_starts_a_scoring_and_no_training(account, monkeypatch, context):
    started = []
    monkeypatch.setattr("ebb.aws.executions.start", lambda arn, request: started.append((arn, request)) or True)
    monkeypatch.setenv("SCORE_DATA_ARN", "arn:score")
    body = (
        '{"source": "aws.s3", "detail-type": "Object Created", "time": "2026-11-24T09:30:00Z", "detail": {"bucket": '
        '{"name": "%s"}, "object": {"key": "%s", "size": 4, "etag": "e", "sequencer": "0A"}}}'
    )
    keys = ("pets/score/new.csv", "pets/data/new.csv", "pets/score/week/part.csv", "pets/score/week/_SUCCESS")
    records = [{"messageId": key, "body": body % (LANDING, key)} for key in keys]
    assert on_upload.handler({"Records": records}, context) == {"batchItemFailures": []}
    assert [(arn, request.drop.key) for arn, request in started] == [
        ("arn:score", "pets/score/new.csv"),
        (account.machine_arn, "pets/data/new.csv"),
        ("arn:score", "pets/score/week/_SUCCESS"),
    ]
