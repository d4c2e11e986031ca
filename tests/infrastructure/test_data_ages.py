"""How long each class of data is kept, and what moves to cheaper storage: the lifecycle rules of both buckets."""

import pytest

from ebb import forgetting, names
from infrastructure import project

SMALLEST_TIERED_BYTES = 128 * 1024
"""Smaller ones are not monitored: https://docs.aws.amazon.com/AmazonS3/latest/userguide/intelligent-tiering-overview.html"""
BUCKETS = project.resources("AWS::S3::Bucket")
PARAMETERS = project.template()["Parameters"]
OPTIONAL = {"DropRetentionDays": "HasDropRetention", "CuratedRetentionDays": "HasCuratedRetention"}
RUN_ID = "churn-20261123040506-abc123"


def rules(bucket: str) -> list[dict]:
    """Return the rules of a bucket; of one that a condition leaves out, the rule with its condition."""
    found = []
    for rule in BUCKETS[bucket]["Properties"]["LifecycleConfiguration"]["Rules"]:
        if "Fn::If" in rule:
            condition, kept, left_out = rule["Fn::If"]
            assert left_out == {"Ref": "AWS::NoValue"}
            found.append({**kept, "condition": condition})
        else:
            found.append(rule)
    return found


def matching(bucket: str, key: str) -> list[dict]:
    return [rule for rule in rules(bucket) if key.startswith(rule.get("Prefix", ""))]


def ages(bucket: str, key: str) -> set[str]:
    """Return the parameters that say when an object ends."""
    return {rule["ExpirationInDays"]["Ref"] for rule in matching(bucket, key) if "ExpirationInDays" in rule}


CURATED = f"{names.curated_prefix(RUN_ID)}a1/train.parquet"
MODEL = f"{names.run_prefix(RUN_ID)}a1/compile/bundles/int8/model.tar.gz"
TABLE = f"{names.features_prefix('churn')}000000000000/sagemaker/us-east-1/offline-store/x-1/data/00000.parquet"
REQUEST, ANSWER = (f"{prefix}t1" for _, prefix in forgetting.boxes("ebb", ["churn"]))


@pytest.mark.parametrize(
    ("bucket", "key", "parameters"),
    [
        pytest.param("LandingBucket", "churn/data/a.csv", {"DropRetentionDays"}, id="drops"),
        pytest.param("ArtifactBucket", CURATED, {"CuratedRetentionDays"}, id="curated rows"),
        pytest.param("ArtifactBucket", REQUEST, {"RequestRetentionDays"}, id="requests"),
        pytest.param("ArtifactBucket", ANSWER, {"RequestRetentionDays"}, id="answers"),
        pytest.param("ArtifactBucket", MODEL, set(), id="a model has no age: it may serve for years"),
        pytest.param("ArtifactBucket", "jobs/5c1d/train.py", set(), id="nor has the code that jobs run"),
        pytest.param("ArtifactBucket", TABLE, set(), id="nor the files below a table: its rows end by a job"),
    ],
)
def test_each_class_of_data_ends_when_its_parameter_says(bucket, key, parameters):
    assert ages(bucket, key) == parameters


@pytest.mark.parametrize("parameter", OPTIONAL)
def test_an_age_of_zero_keeps_the_data(parameter):
    """S3 refuses an age of zero days, so the rule is left out."""
    found = [rule for bucket in BUCKETS for rule in rules(bucket) if rule.get("ExpirationInDays") == {"Ref": parameter}]
    assert [rule["condition"] for rule in found] == [OPTIONAL[parameter]]
    assert PARAMETERS[parameter]["MinValue"] == 0
    condition = project.template()["Conditions"][OPTIONAL[parameter]]
    assert condition == {"Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, 0]}]}


def test_an_age_that_always_holds_is_at_least_a_day():
    used = {
        each["Ref"]
        for bucket in BUCKETS
        for rule in rules(bucket)
        for each in (
            rule.get("ExpirationInDays"),
            (rule.get("NoncurrentVersionExpiration") or {}).get("NoncurrentDays"),
        )
        if each and "condition" not in rule
    }
    assert used == {"OverwrittenDropRetentionDays", "RequestRetentionDays"}
    assert {PARAMETERS[name]["MinValue"] for name in used} == {1}


def test_dropped_data_is_kept_until_somebody_says_otherwise():
    assert PARAMETERS["DropRetentionDays"]["Default"] == 0


@pytest.mark.parametrize("bucket", BUCKETS)
def test_what_is_small_is_not_tiered_and_nothing_is_put_where_reading_takes_hours(bucket):
    tiered = [rule for rule in rules(bucket) if "Transitions" in rule]
    assert tiered
    for rule in tiered:
        assert int(rule["ObjectSizeGreaterThan"]) == SMALLEST_TIERED_BYTES
        assert [each["StorageClass"] for each in rule["Transitions"]] == ["INTELLIGENT_TIERING"]
    # its archive tiers answer after hours, and a job or a waking endpoint would fail
    assert "IntelligentTieringConfigurations" not in BUCKETS[bucket]["Properties"]


def test_what_lives_for_days_is_not_tiered():
    for key in (REQUEST, ANSWER):
        assert not any("Transitions" in rule for rule in matching("ArtifactBucket", key))


@pytest.mark.parametrize("bucket", BUCKETS)
def test_parts_of_an_upload_that_was_never_finished_go_after_days_wherever_they_lie(bucket):
    everywhere = [rule for rule in rules(bucket) if "Prefix" not in rule and "AbortIncompleteMultipartUpload" in rule]
    assert [rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in everywhere] == [3]


def test_a_versioned_bucket_forgets_what_was_overwritten_and_the_markers_that_hide_nothing():
    versioned = [name for name, each in BUCKETS.items() if "VersioningConfiguration" in each["Properties"]]
    assert versioned == ["LandingBucket"]
    assert any("NoncurrentVersionExpiration" in rule for rule in rules("LandingBucket"))
    assert any(rule.get("ExpiredObjectDeleteMarker") for rule in rules("LandingBucket"))


@pytest.mark.parametrize("bucket", BUCKETS)
def test_rules_are_told_apart_and_each_is_in_force(bucket):
    found = rules(bucket)
    assert len({rule["Id"] for rule in found}) == len(found)
    assert {rule["Status"] for rule in found} == {"Enabled"}
    # S3 refuses both in one rule: https://docs.aws.amazon.com/AmazonS3/latest/API/API_LifecycleExpiration.html
    assert not [rule for rule in found if rule.get("ExpiredObjectDeleteMarker") and "ExpirationInDays" in rule]
