"""The custom resource: code lands under its own hash, and CloudFormation always gets an answer."""

import io
import json
import zipfile
from contextlib import contextmanager

import pytest

import content_hash
import publish_code
from worked_run import ARTIFACTS, load


@pytest.fixture
def answers(monkeypatch) -> list[dict]:
    """What was sent to CloudFormation's presigned URL."""
    sent: list[dict] = []

    @contextmanager
    def urlopen(request, timeout):
        assert request.get_method() == "PUT"
        assert request.full_url == "http://pre-signed-S3-url-for-response"
        sent.append(json.loads(request.data))
        yield type("Response", (), {"status": 200})

    monkeypatch.setattr(publish_code.urllib.request, "urlopen", urlopen)
    return sent


def keys(account) -> list[str]:
    return [each["Key"] for each in account.s3.list_objects_v2(Bucket=ARTIFACTS).get("Contents", [])]


def test_creating_publishes_the_job_code_under_its_hash(account, context, answers):
    publish_code.handler(load("cloudformation_create"), context)
    (answer,) = answers
    assert answer["Status"] == "SUCCESS"
    assert answer["Data"]["JobsUri"].startswith(f"s3://{ARTIFACTS}/jobs/")
    prefix = f"jobs/{answer['Data']['JobsUri'].rpartition('/')[2]}/"
    assert {f"{prefix}run.py", f"{prefix}ebb_jobs/infer.py"} <= set(keys(account))
    assert not [key for key in keys(account) if "__pycache__" in key]


def test_the_job_code_lies_there_as_a_zip_too_the_same_for_the_same_code(account, context, answers):
    publish_code.handler(load("cloudformation_create"), context)
    key = answers[0]["Data"]["JobsUri"].removeprefix(f"s3://{ARTIFACTS}/") + ".zip"
    body = account.s3.get_object(Bucket=ARTIFACTS, Key=key)["Body"].read()
    with zipfile.ZipFile(io.BytesIO(body)) as packed:
        assert {"run.py", "ebb_jobs/process_spark.py"} <= set(packed.namelist())
        assert packed.read("run.py") == publish_code.job_files()["run.py"]
    assert publish_code.zipped(publish_code.job_files()) == body


def test_creating_publishes_what_each_image_is_built_from_under_its_tag(account, context, answers):
    publish_code.handler(load("cloudformation_create"), context)
    told = answers[0]["Data"]
    for name, image in (("jobs", "Jobs"), ("serve", "Serve")):
        tag = content_hash.content_hash(content_hash.HERE / name)
        assert told[f"{image}ImageTag"] == tag
        assert told[f"{image}ContextUri"] == f"s3://{ARTIFACTS}/images/{name}/{tag}"
        files = {f"images/{name}/{tag}/{file}" for file in ("Dockerfile", "install.sh", "requirements.txt")}
        assert files <= set(keys(account))


def test_the_same_code_has_the_same_place_and_other_code_another(account):
    files = publish_code.job_files()
    one, same = (publish_code.publish_jobs(files, ARTIFACTS) for _ in range(2))
    other = publish_code.publish_jobs(files | {"run.py": b"print('other')"}, ARTIFACTS)
    assert one == same
    assert one["JobsUri"] != other["JobsUri"]


def test_an_update_keeps_the_resource_so_that_nothing_is_deleted(account, context, answers):
    publish_code.handler(load("cloudformation_update"), context)
    assert answers[0]["PhysicalResourceId"] == load("cloudformation_update")["PhysicalResourceId"]


def test_deleting_answers_and_leaves_the_code(account, context, answers):
    publish_code.handler(load("cloudformation_create"), context)
    before = keys(account)
    publish_code.handler(load("cloudformation_delete"), context)
    assert answers[-1]["Status"] == "SUCCESS"
    assert keys(account) == before


def test_a_failure_is_answered_with_its_reason(account, context, answers, monkeypatch):
    monkeypatch.setenv("ARTIFACT_BUCKET", "no-such-bucket")
    publish_code.handler(load("cloudformation_create"), context)
    assert answers[0]["Status"] == "FAILED"
    assert "no-such-bucket" in answers[0]["Reason"]
