"""Which models came from an object, and which version of it a run read."""

from datetime import UTC, datetime

import pytest

from ebb import lineage
from ebb.lineage import Place


def source(key: str, etag: str = "e", bucket: str = "landing") -> dict:
    return {"bucket": bucket, "key": key, "size_bytes": 9, "etag": etag, "sha256": "5" * 64}


def run(number: int, *keys: str, status: str = "succeeded", **more) -> dict:
    run_id = f"churn-2026112304050{number}-abc123"
    created = f"2026-11-23T04:05:0{number}Z"
    sources = [source(key) for key in keys]
    return {
        "run_id": run_id, "project": "churn", "status": status, "created_at": created, "sources": sources, **more,
    }  # fmt: skip


FIRST, SECOND = run(1, "churn/data/a.csv"), run(2, "churn/data/b.csv")


@pytest.mark.parametrize(
    ("place", "key", "covered"),
    [
        pytest.param("churn/data/a.csv", "churn/data/a.csv", True, id="an object is at its own place"),
        pytest.param("churn/data/a", "churn/data/a.csv", False, id="the beginning of a name is no folder"),
        pytest.param("churn/data/a", "churn/data/a/b.csv", True, id="a folder needs no slash at its end"),
        pytest.param("churn/", "churn/data/a.csv", True, id="a project is a folder"),
        pytest.param("churn/", "churn-2/data/a.csv", False, id="another project is not"),
    ],
)
def test_a_place_covers_what_lies_at_it(place, key, covered):
    assert Place("landing", place).covers("landing", key) is covered
    assert not Place("other", place).covers("landing", key)


@pytest.mark.parametrize("text", ["s3://landing", "s3://landing/", "/", ""])
def test_a_whole_bucket_is_no_place(text):
    with pytest.raises(ValueError, match="names no object"):
        lineage.place(text, "landing")


def test_a_key_is_one_of_the_landing_bucket_and_a_uri_of_any():
    assert lineage.place("churn/data/a.csv", "landing") == Place("landing", "churn/data/a.csv")
    assert lineage.place("s3://lake/a.csv", "landing") == Place("lake", "a.csv")


def test_a_model_comes_from_what_its_run_read():
    found = lineage.descendants([FIRST, SECOND], Place("landing", "churn/data/a.csv"))
    assert [each.run["run_id"] for each in found] == [FIRST["run_id"]]
    assert found[0].sources == (source("churn/data/a.csv"),)


def test_a_warm_start_hands_the_data_on_from_model_to_model():
    second = {**SECOND, "started_from": FIRST["run_id"]}
    third = run(3, "churn/data/c.csv", started_from=SECOND["run_id"])
    found = lineage.descendants([third, second, FIRST], Place("landing", "churn/data/a.csv"))
    assert [each.through for each in found] == [(), (FIRST["run_id"],), (FIRST["run_id"], SECOND["run_id"])]
    chain = lineage.ancestors([FIRST, second, third], third["run_id"])
    assert [each["run_id"] for each in chain] == [each["run_id"] for each in (third, second, FIRST)]


def test_runs_that_started_from_each_other_end_the_chain():
    loop = [{**FIRST, "started_from": SECOND["run_id"]}, {**SECOND, "started_from": FIRST["run_id"]}]
    assert len(lineage.ancestors(loop, FIRST["run_id"])) == 2


def test_a_run_that_reused_another_one_read_nothing():
    assert lineage.read_there([{**FIRST, "status": "reused"}], Place("landing", "churn/")) == []


@pytest.mark.parametrize(
    ("drop", "place", "reads"),
    [
        pytest.param({"kind": "object", "key": "churn/score/n.csv"}, "churn/score/n.csv", True, id="the object itself"),
        pytest.param({"kind": "object", "key": "churn/score/n.csv"}, "churn/score/m.csv", False, id="another object"),
        pytest.param({"kind": "prefix", "key": "churn/score/d/_SUCCESS"}, "churn/score/d/n.csv", True, id="a part"),
        pytest.param({"kind": "prefix", "key": "churn/score/d/_SUCCESS"}, "churn/score/e/", False, id="another folder"),
        pytest.param({"kind": "spec", "key": "churn/pipeline.yaml"}, "churn/", False, id="a spec holds no rows"),
    ],
)
def test_what_a_scoring_read_is_known_by_its_drop(drop, place, reads):
    scored = run(1, purpose="score", drop={"bucket": "landing", "size_bytes": 9, "etag": "e", **drop})
    assert bool(lineage.read_there([scored], Place("landing", place))) is reads
    assert lineage.descendants([scored], Place("landing", place)) == []


def version(name: str, second: int, etag: str = "e", key: str = "churn/data/a.csv") -> dict:
    at = datetime(2026, 11, 23, 4, 5, second, tzinfo=UTC)
    return {"Key": key, "VersionId": name, "ETag": f'"{etag}"', "LastModified": at, "Size": 9}


@pytest.mark.parametrize(
    ("etag", "versions", "found"),
    [
        pytest.param("e", [version("1", 1), version("2", 2, "f")], "1", id="the ETag names it"),
        pytest.param("e", [version("1", 1), version("2", 9)], "1", id="written again alike later, it was the earlier"),
        pytest.param("e", [version("2", 2, "f")], None, id="overwritten and expired, it is gone"),
        pytest.param("e", [version("1", 1, key="churn/data/a.csv.gz")], None, id="another key is another object"),
        pytest.param(None, [version("1", 1), version("2", 3), version("3", 9)], "2", id="without an ETag by its time"),
        pytest.param(None, [version("3", 9)], None, id="what came after the run was not read by it"),
    ],
)
def test_the_version_that_a_run_read(etag, versions, found):
    read = {**source("churn/data/a.csv"), "etag": etag}
    assert lineage.version_of(read, versions, "2026-11-23T04:05:05Z") == found
