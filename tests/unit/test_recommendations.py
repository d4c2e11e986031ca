"""Inference Recommender: a request valid for AWS, never more than was meant to be paid for, a note of what it said."""

from dataclasses import replace
from datetime import timedelta

import pytest
from boto3.dynamodb.types import TypeDeserializer

from aws_shapes import assert_valid
from ebb import ledger, names, recommendation, serving, serving_kinds, serving_model, traffic
from ebb.recommendation import LoadTest
from ebb.requests import recommendations
from ebb.spec_serve import ServeSpec
from worked_run import NOW, RUN_ID, STACK, candidate, moment

ASKED = {
    "name": "cancer--lt-20261123093000-3f9a1c07be-a1-" + "x" * 40,
    "role_arn": "arn:aws:iam::123456789012:role/ebb/ebb-cancer-recommend",
    "package_arn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/ebb-cancer/3",
    "payload_uri": "s3://artifacts/projects/cancer/runs/r/a1/compile/bundles/sample-payload.tar.gz",
    "content_type": "text/csv",
    "kms_key": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "tags": [{"Key": "ebb:project", "Value": "cancer"}],
}


@pytest.mark.parametrize(
    "tested",
    [
        {"instance_types": ["ml.c5.large", "ml.m5.large"], "p95_ms": 50},
        {"serverless_memory_mb": [1024, 2048], "max_concurrency": 5},
    ],
)
def test_the_body_is_what_the_service_takes(tested):
    body = recommendations.create_inference_recommendations_job(**ASKED, **tested)
    assert_valid("sagemaker", "CreateInferenceRecommendationsJob", body)
    assert body["InputConfig"]["ResourceLimit"]["MaxNumberOfTests"] == 2
    assert body["StoppingConditions"]["FlatInvocations"] == "Stop"


@pytest.mark.parametrize(
    "tested",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"instance_types": ["ml.c5.large"], "serverless_memory_mb": [1024]}, id="both"),
        pytest.param({"instance_types": [f"ml.c5.{size}xlarge" for size in range(5)]}, id="more than is paid for"),
    ],
)
def test_what_nobody_meant_to_pay_for_is_refused(tested):
    with pytest.raises(ValueError, match=r"one of the two|at most"):
        recommendations.create_inference_recommendations_job(**ASKED, **tested)


# Whether it is asked, and what that may cost

PAYLOAD = {"uri": ASKED["payload_uri"], "content_type": ASKED["content_type"]}
MODEL = serving_model.Model.of(candidate("student", ("distill", "compile")))


def row(**serve) -> serving_kinds.Row:
    given = ServeSpec.model_validate({"recommender": True} | serve)
    return serving.choose(serve=given, model=MODEL, traffic=traffic.UNKNOWN, region="us-east-1").row


def ask(given: serving_kinds.Row, payload=PAYLOAD, **serve):
    spec = ServeSpec.model_validate({"recommender": True} | serve)
    named = {"project": "cancer", "run_id": RUN_ID, "attempt": 2, "package_arn": ASKED["package_arn"]}
    return recommendation.ask(STACK, **named, payload=payload, serve=spec, row=given)


def test_a_serverless_model_is_tested_in_its_size_and_in_larger_ones():
    plan = ask(row(kind="serverless"))
    request = plan["recommendation"]["request"]
    assert_valid("sagemaker", "CreateInferenceRecommendationsJob", request)
    sizes = [each["ServerlessConfig"]["MemorySizeInMB"] for each in request["InputConfig"]["EndpointConfigurations"]]
    assert sizes == [1024, 2048, 4096]
    assert request["InputConfig"]["JobDurationInSeconds"] == 7200, "as long as AWS says that it takes"
    # the two dearest at once, each with 5 callers, until Ebb would stop it: (2 + 4) GiB * 5 * 8400 s * 0.00002 USD
    assert plan["recommendation"]["told"]["at_most_usd"] == pytest.approx(5.04)
    assert "5.04 USD" in plan["reason"]


@pytest.mark.parametrize("kind", ["realtime", "async", "shared"])
def test_a_model_on_instances_is_tested_on_the_types_that_it_could_get(kind):
    given = row(kind=kind)
    plan = ask(given, kind=kind, p95_latency="50ms")
    request = plan["recommendation"]["request"]
    assert_valid("sagemaker", "CreateInferenceRecommendationsJob", request)
    types = [each["InstanceType"] for each in request["InputConfig"]["EndpointConfigurations"]]
    assert types == [given.instance_type, *given.instance_types]
    assert request["StoppingConditions"]["ModelLatencyThresholds"][0]["ValueInMilliseconds"] == 50
    assert request["JobName"] == RUN_ID.replace("cancer-", "cancer--lt-") + "-a2"
    assert 0 < plan["recommendation"]["told"]["at_most_usd"] < 2


@pytest.mark.parametrize(
    ("given", "payload", "reason"),
    [
        pytest.param({"kind": "batch", "recommender": False}, PAYLOAD, "only one size", id="no endpoint"),
        pytest.param(
            {"kind": "serverless", "recommender": False, "memory_mb": 6144}, PAYLOAD, "one size", id="largest"
        ),
        pytest.param({"kind": "serverless"}, None, "no rows are known", id="code of the user's own"),
    ],
)
def test_where_there_is_nothing_to_test_it_is_not_asked_and_says_why(given, payload, reason):
    answer = ask(row(**given), payload)
    assert answer.status == recommendation.NOT_ASKED
    assert reason in answer.why_not


def test_a_plan_tells_what_would_be_tested_and_what_it_could_cost():
    assert recommendation.told_by_plan(ServeSpec(), row()) is None
    asked = ServeSpec(recommender=True)
    assert recommendation.told_by_plan(asked, row(kind="serverless")) == {
        "tested": ["1024 MB", "2048 MB", "4096 MB"],
        "at_most_usd": 5.04,
    }
    assert recommendation.told_by_plan(asked, replace(row(), memory_mb=6144))["tested"] == []


# What became of it

FOUND = (
    {
        "EndpointConfiguration": {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 5}},
        "Metrics": {"MaxInvocations": 600, "ModelLatency": 90_000, "CpuUtilization": "NaN"},
    },
    {
        "EndpointConfiguration": {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5}},
        "Metrics": {"MaxInvocations": 1500, "ModelLatency": 30_000, "MemoryUtilization": float("nan")},
    },
)


def load_test(**changes) -> LoadTest:
    began = moment(NOW)
    return LoadTest.model_validate(
        {
            "status": "COMPLETED",
            "job_name": names.load_test(RUN_ID, 1),
            "tested": ("1024 MB", "2048 MB"),
            "at_most_usd": 2.8,
            "began_at": began,
            "ended_at": began + timedelta(minutes=15),
            "found": FOUND,
        }
        | changes
    )


def noted(test: LoadTest, given: serving_kinds.Row | None) -> dict:
    request = recommendation.note(STACK, RUN_ID, test, given, now=moment(NOW))
    assert_valid("dynamodb", "PutItem", request)
    return {key: ledger.from_item(TypeDeserializer().deserialize(value)) for key, value in request["Item"].items()}


def test_what_was_found_is_noted_and_reads_back_as_the_same_choice():
    test = load_test()
    item = noted(test, replace(row(kind="serverless"), memory_mb=2048))
    assert (item["pk"], item["sk"]) == (f"RUN#{RUN_ID}", "RECOMMENDATION")
    assert item["chosen"] == "2048 MB, 5 at once"
    assert item["numbers"]["2048 MB, requests a minute"] == 1500
    assert item["numbers"]["USD at most"] == 0.3, "15 of the 140 minutes that were capped"
    assert item["alternatives"] == ["1024 MB: 600 requests a minute, 90 ms each"]
    again = recommendation.read(item)
    assert again is not None
    assert again.counts
    assert recommendation.applied(MODEL, again) == recommendation.applied(MODEL, test) != MODEL


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"status": "FAILED", "reason": "no quota", "found": ()}, "status FAILED: no quota", id="failed"),
        pytest.param({"status": "FAILED", "reason": "no quota"}, "no quota", id="failed, with half a result"),
        pytest.param({"status": "LATE", "found": ()}, "not end within 2 h and was stopped", id="late"),
        pytest.param(
            {"status": "REFUSED", "reason": "AccessDenied", "found": ()}, "refused: AccessDenied", id="refused"
        ),
        pytest.param({"found": ()}, "nothing that was tested answered", id="completed without a result"),
    ],
)
def test_what_did_not_come_to_its_end_changes_nothing_and_says_why(changes, why):
    test = load_test(**changes)
    item = noted(test, row(kind="serverless"))
    assert why in item["reason"]
    assert item["chosen"] == "1024 MB, 5 at once"
    again = recommendation.read(item)
    assert again is not None
    assert again.why_not == test.why_not
    assert recommendation.applied(MODEL, again) == MODEL


def test_a_job_that_does_not_say_when_it_ended_has_done_so_when_it_is_noted():
    began = moment(NOW) - timedelta(minutes=70)
    item = noted(load_test(status="STOPPED", began_at=began, ended_at=None), row(kind="serverless"))
    assert item["numbers"]["minutes"] == 70
    assert item["numbers"]["USD at most"] == 1.4


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("LATE", "the job did not end within 2 h"),
        ("STOPPED", "status STOPPED"),
        ("UNREADABLE", "could not be looked at"),
    ],
)
def test_what_was_measured_before_the_end_counts_and_the_note_says_that_it_is_not_all(status, why):
    test = load_test(status=status, found=FOUND[1:])
    item = noted(test, replace(row(kind="serverless"), memory_mb=2048))
    assert "of 1024 MB, 2048 MB found it the best of the 1 that it measured" in item["reason"]
    assert why in item["reason"]
    again = recommendation.read(item)
    assert again is not None
    assert recommendation.applied(MODEL, again).serverless_mb == 2048


def test_before_anything_is_noted_there_is_nothing_to_read():
    assert recommendation.read(None) is None
    assert recommendation.applied(MODEL, None) == MODEL
