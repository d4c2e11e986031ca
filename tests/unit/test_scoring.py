"""Scoring: what can be scored, how a transform sends it, and that nothing is left after it."""

import pytest

from aws_shapes import problems
from ebb import scoring
from ebb.errors import DropRejectedError
from ebb.scoring import ToScore
from worked_run import ARTIFACTS, LANDING, STACK

SERVED = {
    "run_id": "cancer-20261123093000-3f9a1c07be",
    "candidate": "student",
    "bundle_uri": f"s3://{ARTIFACTS}/projects/cancer/runs/r/a1/compile/bundles/student/model.tar.gz",
}
RUN = "cancer-20261124093000-0a1b2c3d4e"


def built(*files: ToScore, **candidate) -> dict:
    return scoring.build(
        STACK,
        run_id=RUN,
        attempt=1,
        project="cancer",
        served=SERVED,
        candidate={"name": "student", **candidate},
        form=scoring.form_of(files, folder="cancer/score/"),
        manifest_uri=f"s3://{ARTIFACTS}/projects/cancer/runs/{RUN}/manifest.json",
        source=f"s3://{LANDING}/cancer/score/new.csv",
    )


@pytest.mark.parametrize(
    ("name", "content_type", "split"),
    [
        ("new.csv", "text/csv", "None"),
        ("new.jsonl", "application/jsonlines", "Line"),
        ("NEW.CSV", "text/csv", "None"),
        ("cell.png", "image/png", "None"),
        ("cell.jpeg", "image/jpeg", "None"),
    ],
)
def test_the_requests_are_what_sagemaker_takes(name, content_type, split):
    plan = built(ToScore(f"cancer/score/{name}", 1000))
    assert problems("sagemaker", "CreateModel", plan["model"]) == []
    assert problems("sagemaker", "CreateTransformJob", plan["transform"]) == []
    assert problems("sagemaker", "DeleteModel", plan["delete_model"]) == []
    given = plan["transform"]["TransformInput"]
    assert (given["ContentType"], given["SplitType"]) == (content_type, split)


def test_the_model_is_the_runs_own_and_is_deleted_after_it():
    plan = built(ToScore("cancer/score/new.csv", 1000))
    name = f"{RUN}-a1"
    assert plan["model"]["ModelName"] == plan["transform"]["ModelName"] == plan["delete_model"]["ModelName"] == name
    assert plan["model"]["PrimaryContainer"]["ModelDataUrl"] == SERVED["bundle_uri"]


def test_the_scored_files_lie_next_to_their_run():
    plan = built(ToScore("cancer/score/new.csv", 1000))
    assert plan["told"]["scored_uri"] == f"s3://{ARTIFACTS}/projects/cancer/runs/{RUN}/scored/"
    assert plan["transform"]["TransformOutput"]["S3OutputPath"] + "/" == plan["told"]["scored_uri"]


def test_the_server_takes_a_csv_file_whole():
    plan = built(ToScore("cancer/score/new.csv", 30 * scoring.MIB))
    assert plan["transform"]["MaxPayloadInMB"] == 31
    assert int(plan["model"]["PrimaryContainer"]["Environment"]["EBB_MAX_BODY_MIB"]) > 31


def test_json_lines_may_be_of_any_size():
    plan = built(ToScore("cancer/score/new.jsonl", 40 * 1024 * scoring.MIB))
    assert plan["transform"]["MaxPayloadInMB"] == scoring.LINES_PAYLOAD_MIB


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([], "nothing-to-score"),
        ([ToScore("a.parquet", 1)], "score-format"),
        ([ToScore("a.csv", 1), ToScore("b.jsonl", 1)], "score-mixed"),
        ([ToScore("a.png", 1), ToScore("b.jpg", 1)], "score-mixed"),
        ([ToScore("a.csv", 100 * scoring.MIB)], "score-too-large"),
        ([ToScore("README", 1)], "score-format"),
    ],
)
def test_what_cannot_be_scored_is_rejected_with_what_to_do(files, code):
    with pytest.raises(DropRejectedError) as caught:
        scoring.form_of(files, folder="cancer/score/x/")
    assert caught.value.rejection.code == code
    assert caught.value.rejection.remedy


def test_a_project_without_a_model_is_told_what_comes_first():
    with pytest.raises(DropRejectedError) as caught:
        scoring.require_model(None, "cancer")
    assert "cancer/data/" in caught.value.rejection.remedy


def test_a_large_model_gets_a_machine_that_holds_it():
    assert scoring.instance({}) == "ml.m5.large"
    assert scoring.instance({"memory_mib": 6000}) == "ml.m5.xlarge"


def test_a_model_with_its_own_code_is_scored_on_the_image_that_has_pytorch():
    plan = built(ToScore("cancer/score/new.csv", 1000), image="jobs")
    assert plan["model"]["PrimaryContainer"]["Image"] == STACK.jobs_image_uri
