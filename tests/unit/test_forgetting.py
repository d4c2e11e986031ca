"""What holds rows, what does not, and how a model is trained without the data."""

from datetime import UTC, datetime

import pytest

from ebb import forgetting, ledger, names
from ebb.lineage import Place

RUN_ID = "churn-20261123040506-abc123"
PREFIX = f"projects/churn/runs/{RUN_ID}/"
NOW = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
A = Place("landing", "churn/data/a.csv")


def source(key: str, bucket: str = "landing") -> dict:
    return {"bucket": bucket, "key": key, "size_bytes": 9, "etag": "e", "sha256": "5" * 64}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a1/process/rows/part-0.parquet", "curated"),
        ("a1/process/report/metrics.json", None),
        ("a1/compile/bundles/sample-payload.tar.gz", "samples"),
        ("a1/compile/bundles/float32/model.tar.gz", "models"),
        ("a1/train/churn-train/output/model/weights.npz", "models"),
        ("a1/compile/report/metrics.json", None),
        ("checkpoints/train/small.pt", "checkpoints"),
        ("scored/rows.csv.out", "scored"),
        ("run.json", None),
        ("manifest.json", None),
        ("sources.json", None),
    ],
)
def test_rows_are_told_from_models_and_records(key, kind):
    assert forgetting.class_of(RUN_ID, PREFIX + key) == kind


def test_curated_rows_lie_where_the_plan_puts_them():
    key = f"{names.curated_prefix(RUN_ID)}a1/train.parquet"
    assert forgetting.class_of(RUN_ID, key) == "curated"
    assert any(key.startswith(prefix) for prefix in forgetting.prefixes(RUN_ID))


@pytest.mark.parametrize(
    ("run", "busy"),
    [
        pytest.param({"status": "running", "sources": [source("churn/data/a.csv")]}, True, id="it reads the data"),
        pytest.param({"status": "running", "sources": []}, True, id="it has not said what it reads"),
        pytest.param({"status": "running", "sources": [], "project": "wine"}, False, id="it is of another project"),
        pytest.param({"status": "succeeded", "sources": []}, False, id="it has ended"),
    ],
)
def test_a_run_that_works_on_the_data_is_in_progress(run, busy):
    known = {"run_id": RUN_ID, "project": "churn", **run}
    reading = [RUN_ID] if run["sources"] else []
    assert forgetting.in_progress([known], A, reading) == ([RUN_ID] if busy else [])


def test_requests_and_answers_are_those_of_the_projects_addresses():
    assert forgetting.boxes("ebb", ["churn", "churn"]) == [
        ("requests", "requests/ebb-churn/"),
        ("answers", "answers/ebb-churn/"),
    ]


def test_what_a_failed_job_said_goes_and_what_ebb_said_stays():
    run = {"run_id": RUN_ID, "error": {"type": "JobFailed", "stage": "train", "message": "could not read 'Smith'"}}
    write = forgetting.mark_run(run, A, by="me", now=NOW)
    assert write["ExpressionAttributeValues"][":error"] == {
        "type": "JobFailed", "stage": "train", "message": forgetting.SCRUBBED,
    }  # fmt: skip
    rejected = {"run_id": RUN_ID, "error": {"type": "DropRejectedError", "message": "line 4 is too long"}}
    assert ":error" not in forgetting.mark_run(rejected, A, by="me", now=NOW)["ExpressionAttributeValues"]


def test_an_item_of_many_objects_keeps_those_that_are_not_forgotten():
    item = {
        "pk": "PROJECT#churn", "sk": f"SOURCE#{RUN_ID}#0000", "run_id": RUN_ID,
        "sources": [source("churn/data/a.csv"), source("churn/data/b.csv")],
    }  # fmt: skip
    [(operation, write)] = forgetting.unaccepted([item], A)
    assert operation == "update_item"
    assert write["ExpressionAttributeValues"][":sources"] == [source("churn/data/b.csv")]
    [(operation, write)] = forgetting.unaccepted([item], Place("landing", "churn/"))
    assert (operation, write["Key"]["sk"]) == ("delete_item", item["sk"])
    assert forgetting.unaccepted([item, {"pk": "p", "sk": "PROJECT"}], Place("landing", "wine/")) == []


def test_a_record_of_thousands_of_runs_fits_into_an_item():
    runs = [f"{RUN_ID}{number}" for number in range(5_000)]
    record = forgetting.begun(A, by="me", now=NOW, runs=runs, models=runs, serving=[], objects={})
    assert (len(record["runs"]), record["run_count"]) == (forgetting.MOST_LISTED, 5_000)
    assert len(str(ledger.to_item(record))) < 100_000


@pytest.mark.parametrize(
    ("run", "command"),
    [
        pytest.param(
            {"drop": {"kind": "object", "bucket": "landing", "key": "churn/data/a.csv"}, "sources": ["a.csv"]},
            "ebb drop PATH --project churn",
            id="nothing is left: other data",
        ),
        pytest.param(
            {"drop": {"kind": "prefix", "bucket": "landing", "key": "churn/data/d/_SUCCESS"},
             "sources": ["d/b.csv", "a.csv"]},
            "aws s3api put-object --bucket landing --key 'churn/data/d/_SUCCESS' --metadata ebb-force=1",
            id="the rest of a folder: its marker again",
        ),
        pytest.param(
            {"drop": {"kind": "object", "bucket": "landing", "key": "churn/data/c.csv"},
             "sources": ["a.csv", "b.csv", "c.csv"], "spec": {"data": {"mode": "append"}}},
            "aws s3 cp 's3://landing/churn/data/c.csv' 's3://landing/churn/data/c.csv' "
            "--metadata-directive REPLACE --metadata ebb-force=1",
            id="what was added to it: the last addition again",
        ),
        pytest.param(
            {"drop": {"kind": "spec", "bucket": "landing", "key": "churn/pipeline.yaml"},
             "sources": ["a.csv", "b.csv"]},
            "ebb drop pipeline.yaml --project churn --force",
            id="data left where it is: the spec again",
        ),
    ],
)  # fmt: skip
def test_the_command_that_trains_without_the_data(run, command):
    sources = [source(f"churn/data/{name}") for name in run["sources"]]
    assert forgetting.retraining({"project": "churn", **run, "sources": sources}, A, "landing") == command
