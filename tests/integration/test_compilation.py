"""SageMaker Neo in a run's record: selecting answers with the request, recording with what the registry gains."""

import json

import pytest

import record_run
import select_candidate
from ebb import ledger
from ebb.aws.ledger import Ledger
from ebb.events import RunRequested
from ebb.spec import PipelineSpec
from worked_run import DROP, EXECUTION_ARN, IDENTITY, LEDGER, NOW, RUN_ID, compile_report, load, moment

MADE = {
    "engine": "neo",
    "target": "ml_c5",
    "status": "made",
    "framework": "ONNX",
    "version": "1.7",
    "archive": "neo/model.tar.gz",
    "input": {"name": "input", "shape": [1, 30]},
}
ASKED = {"engine": "neo", "target": "ml_c5"}


@pytest.fixture
def book(account) -> Ledger:
    book = Ledger(LEDGER)
    asked = RunRequested.model_validate({"run_id": RUN_ID, "attempt": 1, "project": "cancer", "drop": DROP})
    assert book.apply(ledger.open_run(asked, execution_arn=EXECUTION_ARN, drop_id=None, now=moment(NOW)))
    found = {"identity": IDENTITY, "spec": PipelineSpec().resolved(), "task": "tabular-classification"}
    assert book.apply(ledger.change_run(RUN_ID, 1, found))
    return book


def selected(account, context, *, elsewhere: dict | None, made: dict) -> dict:
    asked = load("select_candidate")
    asked["plan"]["elsewhere"] = elsewhere
    account.put_report(asked["plan"]["artifacts"]["compile_report"], compile_report() | {"elsewhere": made})
    return select_candidate.handler(asked, context)


def recorded(context, job: dict, **more) -> dict:
    told = {"action": "compiled", "run_id": RUN_ID, "attempt": 1, "project": "cancer", "now": NOW}
    return record_run.handler(told | {"job": job, "error": None, "cause": None} | more, context)


def job(status: str, **more) -> dict:
    """A compilation job as Step Functions passes on its description."""
    return {
        "CompilationJobName": f"{RUN_ID}-a1-neo",
        "CompilationJobArn": "arn:aws:sagemaker:us-east-1:123456789012:compilation-job/x",
        "CompilationJobStatus": status,
        "CompilationStartTime": "2026-11-23T09:30:00Z",
        "CompilationEndTime": "2026-11-23T09:32:00Z",
        "InputConfig": {"Framework": "ONNX"},
        "OutputConfig": {"TargetDevice": "ml_c5"},
        "FailureReason": "",
        "ModelArtifacts": {"S3ModelArtifacts": ""},
    } | more


def test_selecting_answers_with_the_compilation_that_was_planned_and_packed(account, book, context):
    answer = selected(account, context, elsewhere=ASKED, made=MADE)
    assert answer["compilation"]["request"]["OutputConfig"]["TargetDevice"] == "ml_c5"
    assert "AdditionalInferenceSpecifications" not in answer["package"], "nobody knows yet whether there will be one"
    assert len(json.dumps(answer)) < 200_000


def test_unasked_there_is_none(account, book, context):
    assert selected(account, context, elsewhere=None, made={})["compilation"] is None


def test_a_model_of_neo_is_a_stage_of_the_run_and_goes_to_the_registry(account, book, context):
    done = job(
        "COMPLETED",
        InferenceImage="785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-neo:1",
        ModelArtifacts={"S3ModelArtifacts": "s3://b/neo/model-ml_c5.tar.gz"},
    )
    (also,) = recorded(context, done)["AdditionalInferenceSpecifications"]
    assert also["Containers"][0]["ModelDataUrl"] == "s3://b/neo/model-ml_c5.tar.gz"
    stage = book.stage(RUN_ID, "neo")
    assert (stage["status"], stage["duration_s"]) == ("finished", 120)
    assert stage["footprint"]["energy_kwh"]["value"] > 0


def test_a_job_that_failed_is_counted_and_its_words_are_kept(account, book, context):
    assert recorded(context, job("FAILED", FailureReason="ClientError: an operator is not known")) == {}
    assert book.stage(RUN_ID, "neo")["status"] == "failed"
    (decision,) = [each for each in book.story(RUN_ID).decisions if each["stage"] == "neo"]
    assert "ClientError: an operator is not known" in decision["reason"]


def test_a_job_that_was_never_made_took_nothing(account, book, context):
    assert recorded(context, {}, error="SageMaker.SageMakerException", cause="not authorized") == {}
    assert book.stage(RUN_ID, "neo") is None
    (decision,) = [each for each in book.story(RUN_ID).decisions if each["stage"] == "neo"]
    assert "not authorized" in decision["reason"]
